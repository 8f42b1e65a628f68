//! The end of a version.

use schema::key::VersionState;

use super::{super::*, *};

fn schedule(wait_seconds: Option<u64>) -> KeyCommand {
    KeyCommand::ScheduleDestruction { number: 1, wait_seconds, due: None, reason: None, backups_expire: None }
}

const BEGIN: KeyCommand = KeyCommand::BeginDestruction { number: 1 };
const CANCEL: KeyCommand = KeyCommand::CancelDestruction { number: 1 };

fn lost(holder: AgentId) -> KeyCommand {
    KeyCommand::AttestLost { number: 1, holder, attestation: "Burnt.".parse().unwrap() }
}

/// Two holders, and the wait is over.
fn begun() -> Scenario<Key> {
    after(after(active(), [ready(1, BOB), schedule(None)]).later(DEFAULT_WAIT), [BEGIN])
}

#[test]
fn it_waits_and_can_be_cancelled() {
    active().when(&schedule(Some(MIN_WAIT.as_secs() - 1))).then_refused("destruction_wait_out_of_range");
    active().when(&schedule(Some(MAX_WAIT.as_secs() + 1))).then_refused("destruction_wait_out_of_range");
    active().when(&BEGIN).then_refused("destruction_not_scheduled").when(&CANCEL).then_refused("destruction_not_scheduled");
    let present = after(active(), [schedule(None)]);
    assert_eq!(present.state().versions[&1].state, VersionState::Active, "it serves while it can be cancelled");
    assert!(present.state().versions[&1].is_scheduled_for_destruction());
    let present = present.when(&schedule(None)).then_refused("destruction_already_scheduled");
    let present = present.later(DEFAULT_WAIT - Duration::from_secs(1)).when(&BEGIN).then_refused("destruction_not_due");
    let present = after(present, [CANCEL]);
    assert_eq!(present.state().versions[&1].destruction, None);
    after(present, [schedule(Some(MIN_WAIT.as_secs()))]);
}

#[test]
fn protection_stops_it_at_both_ends() {
    let protect = |protected| KeyCommand::SetDeletionProtection { protected };
    after(active(), [protect(true)]).when(&schedule(None)).then_refused("key_deletion_protected");
    let due = after(active(), [schedule(None), protect(true)]).later(DEFAULT_WAIT);
    let due = due.when(&BEGIN).then_refused("key_deletion_protected");
    after(due, [protect(false), BEGIN]);
}

#[test]
fn it_is_done_when_every_holder_has_reported() {
    let present = begun();
    assert_eq!(present.state().versions[&1].state, VersionState::Destroyed);
    let present = present.when(&CANCEL).then_refused("destruction_already_begun").when(&BEGIN).then_refused("destruction_already_begun");
    let (present, events) = present.when(&destroyed(1, ALICE)).then_accepted();
    assert_eq!(names(&events), ["HolderDestroyed"]);
    let (present, events) = present.when(&destroyed(1, ALICE)).then([]).when(&destroyed(1, BOB)).then_accepted();
    assert_eq!(names(&events), ["HolderDestroyed", "VersionDestroyed"]);
    assert!(present.state().versions[&1].destruction.as_ref().unwrap().completed.is_some());
    assert_eq!(present.state().state(), KeyState::Destroyed);
    present.when(&ready(1, ALICE)).then_refused("version_destroyed").when(&schedule(None)).then_refused("version_state_forbids");
}

#[test]
fn a_holder_that_is_gone_is_attested_lost() {
    active().when(&lost(ALICE)).then_refused("destruction_not_begun");
    let present = begun().when(&lost(AgentId::from_bits(9))).then_refused("not_a_holder");
    let (_, events) = after(present, [destroyed(1, ALICE)]).when(&lost(BOB)).then_accepted();
    assert_eq!(names(&events), ["HolderAttestedLost", "VersionDestroyed"]);
}

#[test]
fn whoever_was_sent_a_copy_is_waited_for_also_if_nothing_was_heard_of_it_since() {
    let present = after(active(), [sent(1, ALICE, CAROL), schedule(None)]).later(DEFAULT_WAIT);
    let present = after(present, [BEGIN, destroyed(1, ALICE)]);
    assert_eq!(present.state().versions[&1].holders_left().collect::<Vec<_>>(), [CAROL]);
    let (_, events) = present.when(&lost(CAROL)).then_accepted();
    assert_eq!(names(&events), ["HolderAttestedLost", "VersionDestroyed"]);
}

#[test]
fn who_never_had_it_reports_a_tombstone_and_holds_nothing_up() {
    let (present, events) = begun().when(&destroyed(1, CAROL)).then_accepted();
    assert_eq!(names(&events), ["HolderDestroyed"]);
    let (present, events) = after(present, [destroyed(1, ALICE)]).when(&destroyed(1, BOB)).then_accepted();
    assert_eq!(names(&events), ["HolderDestroyed", "VersionDestroyed"]);
    // A latecomer's tombstone does not end it twice.
    let (_, events) = present.when(&destroyed(1, AgentId::from_bits(9))).then_accepted();
    assert_eq!(names(&events), ["HolderDestroyed"]);
}

#[test]
fn a_generator_that_never_reported_ready_still_has_it() {
    let present = after(key(), [create(|_| ()), made(1, |_| ()), schedule(None)]).later(DEFAULT_WAIT);
    let (present, events) = present.when(&BEGIN).then_accepted();
    assert_eq!(names(&events), ["DestructionBegun"]);
    let (_, events) = present.when(&destroyed(1, ALICE)).then_accepted();
    assert_eq!(names(&events), ["HolderDestroyed", "VersionDestroyed"]);
}

#[test]
fn what_was_never_made_goes_at_once_and_lets_the_key_go_on() {
    let present = after(key(), [create(|_| ()), schedule(Some(0))]);
    let (present, events) = present.when(&BEGIN).then_accepted();
    assert_eq!(names(&events), ["DestructionBegun", "VersionDestroyed"]);
    let present = present.when(&made(1, |_| ())).then_refused("version_destroyed");
    let present = after(present, [rotate(), made(2, |_| ()), ready(2, ALICE)]);
    assert_eq!((present.state().primary, present.state().state()), (2, KeyState::Active));
}

#[test]
fn reports_before_the_wait_is_over_are_refused() {
    active().when(&destroyed(1, ALICE)).then_refused("destruction_not_begun");
    after(active(), [schedule(None)]).when(&destroyed(1, ALICE)).then_refused("destruction_not_begun");
}
