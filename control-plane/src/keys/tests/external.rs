//! Keys of partners.

use schema::{
    event::key::{ExternalVersionRegistered, PrimaryMoved, VersionActivated},
    key::VersionState,
};

use super::{super::*, *};

fn register(change: impl FnOnce(&mut RegisterExternal)) -> KeyCommand {
    let mut settings = RegisterExternal {
        project: ProjectId::from_bits(1),
        name: "partner".parse().unwrap(),
        description: None,
        algorithm: "ML-DSA-65".parse().unwrap(),
        purpose: None,
        placement: vec![SITE],
        labels: Default::default(),
        deletion_protection: false,
        public_key: Base64(vec![1; 1952]),
        name_is_an_alias: false,
        name_is_a_composite: false,
    };
    change(&mut settings);
    KeyCommand::RegisterExternal(Box::new(settings))
}

pub(super) fn next(seed: u8) -> KeyCommand {
    KeyCommand::RegisterExternalVersion { public_key: Base64(vec![seed; 1952]) }
}

pub(super) fn partner() -> KeyCommand {
    register(|_| ())
}

#[test]
fn a_partners_key_is_active_at_once_and_every_public_key_is_a_version() {
    let (present, events) = key().when(&partner()).then_accepted();
    assert_eq!(names(&events), ["KeyCreated", "ExternalVersionRegistered", "VersionActivated", "PrimaryMoved"]);
    let fixed = present.state().fixed.clone().unwrap();
    assert_eq!((fixed.purpose, fixed.origin, fixed.durability), (Purpose::Sign, Origin::External, Durability::Elsewhere));
    assert_eq!(present.state().state(), KeyState::Active);

    let fingerprint = schema::key::fingerprint(fixed.algorithm, &[2; 1952]);
    let registered = ExternalVersionRegistered { number: 2, fingerprint, public_key: Base64(vec![2; 1952]) };
    let present =
        present.when(&next(2)).then([registered.into(), VersionActivated { number: 2 }.into(), PrimaryMoved { number: 2 }.into()]);
    assert_eq!(present.state().primary, 2);
    let present = present.when(&next(2)).then([]);
    let refusal = present.clone().when(&next(1)).outcome().unwrap_err();
    assert_eq!(crate::eventing::aggregate::Refusal::code(&refusal), "public_key_already_registered");

    let present =
        after(present, [KeyCommand::SuspendVersion { number: 2, reason: None }, KeyCommand::ResumeVersion { number: 2, reason: None }]);
    assert_eq!(present.state().versions[&2].state, VersionState::Active);
    let wait_seconds = Some(MIN_WAIT.as_secs());
    let present =
        after(present, [KeyCommand::ScheduleDestruction { number: 1, wait_seconds, due: None, reason: None, backups_expire: None }]);
    let (_, events) = present.later(MIN_WAIT).when(&KeyCommand::BeginDestruction { number: 1 }).then_accepted();
    assert_eq!(names(&events), ["DestructionBegun", "VersionDestroyed"]);
}

#[track_caller]
fn refused(present: Scenario<Key>, command: &KeyCommand, code: &str) {
    let refusal = present.when(command).outcome().unwrap_err();
    assert_eq!(crate::eventing::aggregate::Refusal::code(&refusal), code);
}

#[test]
fn what_cannot_be_a_partners_key_is_refused() {
    refused(key(), &register(|key| key.name_is_an_alias = true), "key_name_is_an_alias");
    refused(key(), &register(|key| key.name_is_a_composite = true), "key_name_is_a_composite");
    refused(key(), &register(|key| key.algorithm = "A256KW+A256GCM".parse().unwrap()), "external_key_symmetric");
    refused(key(), &register(|key| key.purpose = Some(Purpose::Encrypt)), "algorithm_does_not_serve_purpose");
    refused(key(), &register(|key| key.placement.clear()), "key_without_site");
    refused(key(), &register(|key| key.placement.push(SITE)), "key_site_twice");
    refused(key(), &create(|key| key.origin = Origin::External), "external_key_needs_public_key");
    refused(key(), &create(|key| key.durability = Some(Durability::Elsewhere)), "external_key_needs_public_key");
    refused(after(key(), [partner()]), &partner(), "key_exists");
}

#[test]
fn nobody_here_makes_holds_or_rotates_a_partners_key() {
    let present = after(key(), [partner()]);
    let rule = RotationRule { every_seconds: Some(60), min_interval_seconds: None, ..Default::default() };
    let record = made(1, |record| (record.algorithm, record.origin) = ("ML-DSA-65".parse().unwrap(), Origin::External));
    for command in [
        rotate(),
        KeyCommand::SetRotationRule { rotation: rule },
        KeyCommand::AssignGenerator { number: 1, generator: ALICE, site: SITE },
        record,
        ready(1, ALICE),
    ] {
        refused(present.clone(), &command, "key_is_external");
    }
    refused(active(), &next(2), "key_is_not_external");
    refused(after(present, [KeyCommand::Suspend { reason: None }]), &next(2), "key_suspended");
}
