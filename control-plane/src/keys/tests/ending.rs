//! How versions end by date and by rule, and which key takes a key's place.

use schema::{
    clock::Timestamp,
    key::{Purpose, VersionState},
};

use super::{super::*, *};

const HOUR: Duration = Duration::from_secs(3_600);

fn rule(change: impl FnOnce(&mut RotationRule)) -> KeyCommand {
    let mut rotation = RotationRule::default();
    change(&mut rotation);
    KeyCommand::SetRotationRule { rotation }
}

/// Two versions, the second primary.
fn rotated(rotation: KeyCommand) -> Scenario<Key> {
    after(active(), [rotation, rotate(), made(2, |_| ()), ready(2, ALICE)])
}

#[test]
fn a_rule_says_when_the_next_version_is_due_by_age_and_calendar() {
    let monthly = |rotation: &mut RotationRule| rotation.calendar = Some("0 3 1 * *".parse().unwrap());
    let present = after(active(), [rule(monthly)]);
    let activated = present.state().versions[&1].activated.unwrap();
    let due = present.state().rotation_due().unwrap();
    assert!(due > activated && due.to_string().ends_with("-01T03:00:00.000000Z"), "{due}");
    let both = after(
        active(),
        [rule(|rotation| {
            monthly(rotation);
            rotation.every_seconds = Some(60);
        })],
    );
    assert_eq!(both.state().rotation_due(), Some(activated.plus(Duration::from_secs(60))), "whatever comes first");
    // What is on its way is not asked for twice.
    assert_eq!(after(both, [rotate()]).state().rotation_due(), None);
}

#[test]
fn a_rule_by_uses_needs_somebody_who_counts() {
    let by_uses = rule(|rotation| rotation.after_uses = Some(100));
    let limit = |soft| KeyCommand::SetLimits { limits: Limits { soft_uses: soft, ..Limits::default() } };
    active().when(&by_uses).then_refused("rotation_by_uses_needs_limit");
    after(active(), [limit(Some(99))]).when(&by_uses).then_refused("rotation_by_uses_needs_limit");
    let present = after(active(), [limit(Some(100)), by_uses]);
    present.clone().when(&limit(None)).then_refused("rotation_by_uses_needs_limit");
    let state = present.state();
    assert_eq!((state.rotation_due_by_uses(99), state.rotation_due_by_uses(100).is_some(), state.rotation_due()), (None, true, None));
    // Of an algorithm that limits uses itself, they are counted anyway.
    let direct = create(|key| {
        key.algorithm = "A256GCM".parse().unwrap();
        key.rotation.after_uses = Some(1 << 31);
    });
    key().when(&direct).then_accepted();
}

#[test]
fn rules_out_of_order_are_refused() {
    let wrong: [fn(&mut RotationRule); 4] = [
        |rule| rule.after_uses = Some(0),
        |rule| rule.destroy_after_seconds = Some(7_200),
        |rule| (rule.deactivate_after_seconds, rule.destroy_after_seconds) = (Some(1), Some(3_599)),
        |rule| (rule.deactivate_after_seconds, rule.destroy_after_seconds) = (Some(1), Some(367 * 86_400)),
    ];
    for wrong in wrong {
        active().when(&rule(wrong)).then_refused("rotation_rule_out_of_order");
    }
}

#[test]
fn a_replaced_version_is_due_to_end_and_the_primary_never_is() {
    let present = rotated(rule(|rule| {
        (rule.deactivate_after_seconds, rule.destroy_after_seconds) = (Some(3_600), Some(7_200));
    }));
    let state = present.state();
    let replaced = state.versions[&2].activated.unwrap();
    assert_eq!((state.replaced(1), state.replaced(2)), (Some(replaced), None));
    assert_eq!((state.deactivation_due(1), state.deactivation_due(2)), (Some(replaced.plus(HOUR)), None));
    assert_eq!(state.destruction_by_rule(1), None, "it is not deactivated yet");

    let present = after(present.later(HOUR), [KeyCommand::DeactivateVersion { number: 1, reason: None }]);
    let deactivated = present.state().versions[&1].deactivated.unwrap();
    assert_eq!(present.state().deactivation_due(1), None);
    let due = present.state().destruction_by_rule(1).unwrap();
    assert_eq!(due, deactivated.plus(HOUR * 2));
    let schedule = KeyCommand::ScheduleDestruction { number: 1, wait_seconds: None, due: Some(due), reason: None, backups_expire: None };
    let present = after(present, [schedule.clone()]);
    assert_eq!(present.state().versions[&1].destruction.as_ref().unwrap().due, due);
    assert_eq!(present.state().destruction_by_rule(1), None);
    // What somebody cancelled, no rule schedules again; a person may.
    let kept = after(present, [KeyCommand::CancelDestruction { number: 1 }]);
    assert_eq!(kept.state().destruction_by_rule(1), None);
    after(kept, [schedule]);
    // Protection stops the rule too.
    let protected = after(
        rotated(rule(|rule| (rule.deactivate_after_seconds, rule.destroy_after_seconds) = (Some(1), Some(3_600)))),
        [KeyCommand::SetDeletionProtection { protected: true }, KeyCommand::DeactivateVersion { number: 1, reason: None }],
    );
    assert_eq!(protected.state().destruction_by_rule(1), None);
}

#[test]
fn a_version_is_deactivated_by_date_unless_somebody_cancels() {
    let now = active().state().versions[&1].activated.unwrap();
    let at = |due: Timestamp| KeyCommand::ScheduleDeactivation { number: 1, due, reason: None };
    const CANCEL: KeyCommand = KeyCommand::CancelDeactivation { number: 1 };
    active().when(&at(now)).then_refused("deactivation_date_is_past").when(&CANCEL).then_refused("deactivation_not_scheduled");
    let present = after(active(), [at(now.plus(HOUR))]);
    assert_eq!(present.state().deactivation_due(1), Some(now.plus(HOUR)));
    assert_eq!(present.state().versions[&1].state, VersionState::Active);
    let present = present.when(&at(now.plus(HOUR * 2))).then_refused("deactivation_already_scheduled");
    assert_eq!(after(present.clone(), [CANCEL]).state().deactivation_due(1), None);
    // Whatever ends it earlier, ends the plan too.
    let ended = after(present, [KeyCommand::CompromiseVersion { number: 1, reason: None }]);
    assert_eq!((ended.state().deactivation_due(1), &ended.state().versions[&1].deactivation), (None, &None));
    ended.when(&at(now.plus(HOUR * 3))).then_refused("version_state_forbids");
}

#[test]
fn a_destruction_by_date_waits_as_long_as_one_by_wait() {
    let now = active().state().versions[&1].activated.unwrap();
    let at = |due| KeyCommand::ScheduleDestruction { number: 1, wait_seconds: None, due: Some(due), reason: None, backups_expire: None };
    active().when(&at(now.plus(Duration::from_secs(60)))).then_refused("destruction_wait_out_of_range");
    active().when(&at(Timestamp::default())).then_refused("destruction_wait_out_of_range");
    let present = after(active(), [at(now.plus(HOUR * 48))]);
    assert_eq!(present.state().versions[&1].destruction.as_ref().unwrap().due, now.plus(HOUR * 48));
}

#[test]
fn a_key_takes_the_place_of_one_that_is_alike() {
    let other = KeyId::from_bits(2);
    let fits = Successor { project: ProjectId::from_bits(1), purpose: Purpose::Encrypt, leads_back: false };
    let set = |successor, found| KeyCommand::SetSuccessor { successor, found };
    active().when(&set(Some(other), None)).then_refused("successor_not_found");
    active().when(&set(Some(ID), Some(fits))).then_refused("key_succeeds_itself");
    active()
        .when(&set(Some(other), Some(Successor { project: ProjectId::from_bits(9), ..fits })))
        .then_refused("successor_of_another_project");
    active().when(&set(Some(other), Some(Successor { purpose: Purpose::Sign, ..fits }))).then_refused("successor_of_another_purpose");
    active().when(&set(Some(other), Some(Successor { leads_back: true, ..fits }))).then_refused("successor_leads_back");
    let present = after(active(), [set(Some(other), Some(fits))]);
    assert_eq!(present.state().successor, Some(other));
    let present = present.when(&set(Some(other), Some(fits))).then([]);
    assert_eq!(after(present, [set(None, None)]).state().successor, None);
}
