//! From request to activation, rotation, and every transition of SP 800-57.

use schema::{
    encoding::{Base64, Digest},
    id::{AgentId, KeyId, KeyVersion, SiteId, VaultId},
    key::{Durability, Origin, Protection, RevocationReason, RotationRule, VersionState},
};

use super::{super::*, *};

#[test]
fn a_version_is_active_when_its_generator_has_signed_and_reported() {
    let (requested, _) = key().when(&create(|_| ())).then_accepted();
    let (made, events) = requested.when(&ready(1, ALICE)).then_refused("version_not_made").when(&made(1, |_| ())).then_accepted();
    assert_eq!(names(&events), ["VersionMade"]);
    assert_eq!(made.state().primary, 0);
    let (active, events) = made.when(&ready(1, ALICE)).then_accepted();
    assert_eq!(names(&events), ["HolderReady", "VersionActivated", "PrimaryMoved"]);
    assert_eq!((active.state().primary, active.state().state()), (1, KeyState::Active));
    active.when(&ready(1, ALICE)).then([]);
}

#[test]
fn single_copy_needs_the_generator_and_two_holders_need_two() {
    let present = after(key(), [create(|_| ()), made(1, |_| ())]);
    let (present, events) = present.when(&ready(1, BOB)).then_accepted();
    assert_eq!(names(&events), ["HolderReady"], "somebody else's copy is not the generator's");
    assert_eq!(present.when(&ready(1, ALICE)).then_accepted().0.state().primary, 1);

    let present = after(key(), [create(|key| key.durability = Some(Durability::TwoHolders)), made(1, |_| ())]);
    let (present, events) = present.when(&ready(1, ALICE)).then_accepted();
    assert_eq!(names(&events), ["HolderReady"]);
    assert_eq!(present.state().state(), KeyState::Pending);
    // Who shares the first one's vault has the same copy, and is no second home.
    let (present, events) =
        present.when(&ready(1, ALICE)).then([]).when(&ready_in(1, CAROL, VaultId::from_bits(ALICE.bits()))).then_accepted();
    assert_eq!(names(&events), ["HolderReady"]);
    assert_eq!(present.state().state(), KeyState::Pending);
    let (_, events) = present.when(&ready(1, BOB)).then_accepted();
    assert_eq!(names(&events), ["HolderReady", "VersionActivated", "PrimaryMoved"]);
}

#[test]
fn a_sealed_backup_is_waited_for_whatever_comes_first() {
    let sealed = || create(|key| (key.durability, key.sites_have_recovery_keys) = (None, true));
    let present = after(key(), [sealed(), made(1, |_| ())]);
    let (ready_first, events) = present.clone().when(&ready(1, ALICE)).then_accepted();
    assert_eq!(names(&events), ["HolderReady"]);
    let (active, events) = ready_first.when(&backed_up(1, ALICE, 1)).then_accepted();
    assert_eq!(names(&events), ["VersionBackedUp", "VersionActivated", "PrimaryMoved"]);
    let (backed_up_first, events) = present.when(&backed_up(1, ALICE, 1)).then_accepted();
    assert_eq!(names(&events), ["VersionBackedUp"]);
    let (_, events) = backed_up_first.when(&ready(1, ALICE)).then_accepted();
    assert_eq!(names(&events), ["HolderReady", "VersionActivated", "PrimaryMoved"]);

    // Said again it says nothing new; sealed to another recovery key it does. It is another holder's only when that has it.
    let active = active.when(&backed_up(1, ALICE, 1)).then([]);
    let (active, events) = active.when(&backed_up(1, ALICE, 2)).then_accepted();
    assert_eq!(names(&events), ["VersionBackedUp"]);
    assert_eq!(active.state().versions[&1].backups[&ALICE].recovery_key, Digest([2; 32]));
    active.clone().when(&backed_up(1, BOB, 1)).then_refused("not_a_holder");
    active.clone().when(&backed_up(2, ALICE, 1)).then_refused("version_not_found");
    let (_, events) = active.when(&ready(1, BOB)).then_accepted().0.when(&backed_up(1, BOB, 1)).then_accepted();
    assert_eq!(names(&events), ["VersionBackedUp"]);

    // A version that waits, suspended, goes on waiting.
    let waiting = after(key(), [sealed(), made(1, |_| ()), KeyCommand::SuspendVersion { number: 1, reason: None }, ready(1, ALICE)]);
    let (waiting, events) = waiting.when(&backed_up(1, ALICE, 1)).then_accepted();
    assert_eq!(names(&events), ["VersionBackedUp"]);
    let (_, events) = waiting.when(&KeyCommand::ResumeVersion { number: 1, reason: None }).then_accepted();
    assert_eq!(names(&events), ["VersionResumed", "VersionActivated", "PrimaryMoved"]);
}

#[test]
fn a_version_record_must_fit_the_key() {
    let present = || key().when(&create(|_| ())).then_accepted().0;
    let refused = |change: fn(&mut RecordVersion), code| {
        present().when(&made(1, change)).then_refused(code);
    };
    refused(|record| record.version = KeyVersion::new(KeyId::from_bits(2), 1), "document_of_another_key");
    refused(|record| record.version = KeyVersion::new(ID, 2), "version_not_found");
    refused(|record| record.site = SiteId::from_bits(2), "key_not_placed_at_site");
    refused(|record| record.generator = BOB, "not_the_generator");
    refused(|record| record.algorithm = "ML-DSA-65".parse().unwrap(), "version_record_of_another_algorithm");
    refused(|record| record.origin = Origin::Imported, "version_record_of_another_algorithm");
    refused(|record| record.public_key = Some(Base64(vec![1])), "version_record_public_key");
}

#[test]
fn the_first_fingerprint_is_final() {
    let other = |record: &mut RecordVersion| record.fingerprint = Digest::of(b"other");
    active().when(&made(1, other)).then_refused("fingerprint_is_final").when(&made(1, |_| ())).then([]);
    let report = RecordReady {
        version: KeyVersion::new(ID, 1),
        site: SITE,
        holder: BOB,
        vault: VaultId::from_bits(2),
        fingerprint: Digest::of(b"other"),
        protection: None,
        report: Base64(vec![2]),
    };
    active().when(&KeyCommand::RecordReady(report)).then_refused("fingerprint_is_final");
}

#[test]
fn holders_are_agents_of_the_key_s_sites() {
    let report = |holder: AgentId, site| {
        let version = KeyVersion::new(ID, 1);
        KeyCommand::RecordReady(RecordReady {
            version,
            site,
            holder,
            vault: VaultId::from_bits(2),
            fingerprint: fingerprint(1),
            protection: None,
            report: Base64(vec![2]),
        })
    };
    active().when(&report(BOB, SiteId::from_bits(2))).then_refused("key_not_placed_at_site");
}

#[test]
fn material_is_sent_by_holders_of_what_was_made_and_recorded_once() {
    key().when(&create(|_| ())).then_accepted().0.when(&sent(1, ALICE, BOB)).then_refused("version_not_made");
    active().when(&sent(1, BOB, CAROL)).then_refused("not_a_holder").when(&sent(2, ALICE, BOB)).then_refused("version_not_found");
    let (present, events) = active().when(&sent(1, ALICE, BOB)).then_accepted();
    assert_eq!(names(&events), ["MaterialSent"]);
    assert!(present.state().versions[&1].holders[&BOB].ready.is_none());
    let present = present.when(&sent(1, ALICE, BOB)).then([]).when(&sent(1, ALICE, ALICE)).then([]);
    let (present, events) = present.when(&ready(1, BOB)).then_accepted();
    assert_eq!(names(&events), ["HolderReady"]);
    // Where it may be, policy says: of both who send and who receive.
    let elsewhere = SiteId::from_bits(2);
    for sites in [[SITE, elsewhere], [elsewhere, SITE]] {
        let KeyCommand::RecordSent(at_home) = sent(1, BOB, CAROL) else { unreachable!() };
        let present = after(active(), [ready(1, BOB)]);
        present.when(&KeyCommand::RecordSent(RecordSent { sites, ..at_home })).then_refused("key_not_placed_at_site");
    }
    // What was received may be sent on.
    present.when(&sent(1, BOB, CAROL)).then_accepted();
}

#[test]
fn rotation_waits_for_the_pending_version_and_the_least_interval() {
    let rule = RotationRule { every_seconds: Some(7200), min_interval_seconds: Some(3600), ..Default::default() };
    let present = after(key(), [create(|key| key.rotation = rule.clone()), made(1, |_| ())]);
    let present = present.when(&rotate()).then_refused("version_pending");
    let present = after(present, [ready(1, ALICE)]);
    let requested = present.state().versions[&1].requested;
    assert_eq!(present.state().rotation_due(), present.state().versions[&1].activated.map(|at| at.plus(Duration::from_secs(7200))));
    let early = requested.plus(Duration::from_secs(3599));
    let present = present.at(early).when(&rotate()).then_refused("rotation_too_soon");
    let (present, events) = present.at(requested.plus(Duration::from_secs(3600))).when(&rotate()).then_accepted();
    assert_eq!(names(&events), ["VersionRequested"]);
    assert_eq!((present.state().primary, present.state().rotation_due()), (1, None), "the old version serves until the new one is ready");
    let present = after(present, [made(2, |_| ()), ready(2, ALICE)]);
    assert_eq!(present.state().primary, 2);
    assert_eq!(present.state().versions[&1].state, VersionState::Active);
}

#[test]
fn a_suspended_version_goes_back_to_what_it_was() {
    let suspend = KeyCommand::SuspendVersion { number: 1, reason: None };
    let resume = KeyCommand::ResumeVersion { number: 1, reason: None };
    active().when(&resume).then_refused("version_not_suspended");
    for (before, state) in [
        (active(), VersionState::Active),
        (after(active(), [KeyCommand::DeactivateVersion { number: 1, reason: None }]), VersionState::Deactivated),
        (after(key(), [create(|_| ())]), VersionState::PreActivation),
    ] {
        let present = after(before, [suspend.clone()]);
        assert_eq!(present.state().versions[&1].state, VersionState::Suspended);
        let present = after(present.when(&suspend).then_refused("version_state_forbids"), [resume.clone()]);
        assert_eq!(present.state().versions[&1].state, state);
        assert!(present.state().versions[&1].resumed.is_some());
    }
}

#[test]
fn a_version_that_became_ready_while_suspended_is_activated_by_resumption() {
    let present = after(key(), [create(|_| ()), made(1, |_| ()), KeyCommand::SuspendVersion { number: 1, reason: None }, ready(1, ALICE)]);
    assert_eq!(present.state().primary, 0);
    let (present, events) = present.when(&KeyCommand::ResumeVersion { number: 1, reason: None }).then_accepted();
    assert_eq!(names(&events), ["VersionResumed", "VersionActivated", "PrimaryMoved"]);
    assert_eq!(present.state().versions[&1].state, VersionState::Active);
}

#[test]
fn the_reason_of_a_revocation_decides_the_state() {
    for reason in RevocationReason::ALL {
        let (present, _) = active().when(&KeyCommand::RevokeVersion { number: 1, reason: *reason, comment: None }).then_accepted();
        let version = &present.state().versions[&1];
        assert_eq!(version.state, reason.state());
        assert_eq!(version.revoked.as_ref().map(|revoked| revoked.reason), Some(*reason));
    }
}

#[test]
fn every_transition_of_the_standard_is_possible_and_no_other() {
    let to = |state| match state {
        VersionState::Suspended => Some(KeyCommand::SuspendVersion { number: 1, reason: None }),
        VersionState::Deactivated => Some(KeyCommand::DeactivateVersion { number: 1, reason: None }),
        VersionState::Compromised => Some(KeyCommand::CompromiseVersion { number: 1, reason: None }),
        _ => None,
    };
    let begun = |present| {
        let schedule = KeyCommand::ScheduleDestruction { number: 1, wait_seconds: None, due: None, reason: None, backups_expire: None };
        after(after(present, [schedule]).later(DEFAULT_WAIT), [KeyCommand::BeginDestruction { number: 1 }])
    };
    for from in VersionState::ALL {
        let present = || match from {
            VersionState::PreActivation => after(key(), [create(|_| ())]),
            VersionState::Active => active(),
            VersionState::Destroyed => begun(active()),
            state => after(active(), to(*state)),
        };
        assert_eq!(present().state().versions[&1].state, *from);
        for target in [VersionState::Suspended, VersionState::Deactivated, VersionState::Compromised] {
            let asked = present().when(&to(target).unwrap());
            if from.successors().contains(&target) {
                assert_eq!(asked.then_accepted().0.state().versions[&1].state, target);
            } else {
                asked.then_refused("version_state_forbids");
            }
        }
        if *from != VersionState::Destroyed {
            assert_eq!(begun(present()).state().versions[&1].state, VersionState::Destroyed);
        }
    }
}

#[test]
fn a_key_that_demands_protection_is_ready_only_where_it_gets_it() {
    let demanding = || after(key(), [create(|key| key.protection = Protection::SealedByHardware), made(1, |_| ())]);
    let reported = |protection| {
        let version = KeyVersion::new(ID, 1);
        KeyCommand::RecordReady(RecordReady {
            version,
            site: SITE,
            holder: ALICE,
            vault: VaultId::from_bits(1),
            fingerprint: fingerprint(1),
            protection,
            report: Base64(vec![2]),
        })
    };
    for less in [None, Some(Protection::Software)] {
        demanding().when(&reported(less)).then_refused("protection_not_met");
    }
    for enough in [Protection::SealedByHardware, Protection::Hardware] {
        let events = demanding().when(&reported(Some(enough))).outcome().unwrap();
        assert_eq!(names(&events), ["HolderReady", "VersionActivated", "PrimaryMoved"]);
    }
}
