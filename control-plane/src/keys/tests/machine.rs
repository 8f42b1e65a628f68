//! Whatever is asked in whatever order, a key keeps its promises.

use std::collections::BTreeMap;

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use schema::{
    clock::Timestamp,
    encoding::Digest,
    key::{MinimumVersions, RevocationReason, RotationRule, VersionState},
};

use super::{super::*, *};

fn agent() -> impl Strategy<Value = AgentId> {
    prop_oneof![4 => Just(ALICE), 2 => Just(BOB), 1 => Just(AgentId::from_bits(3))]
}

fn any_command() -> impl Strategy<Value = KeyCommand> {
    let number = prop_oneof![3 => Just(1u32), 3 => Just(2), 2 => Just(3), 1 => Just(4)];
    let site = prop_oneof![5 => Just(SITE), 1 => Just(SiteId::from_bits(2))];
    let print = prop_oneof![6 => Just(None), 1 => Just(Some(Digest::of(b"other")))];
    let reason = proptest::sample::select(RevocationReason::ALL);
    prop_oneof![
        2 => proptest::sample::select(&[Durability::SingleCopy, Durability::SingleCopy, Durability::TwoHolders, Durability::SealedBackup][..])
            .prop_map(|durability| create(|key| (key.durability, key.sites_have_recovery_keys) = (Some(durability), true))),
        1 => Just(super::external::partner()),
        2 => (1u8..4).prop_map(super::external::next),
        4 => (proptest::option::of(agent()), site.clone()).prop_map(|(agent, site)| KeyCommand::Rotate { generator: agent.map(|agent| (agent, site)) }),
        3 => (number.clone(), agent(), site.clone()).prop_map(|(number, generator, site)| KeyCommand::AssignGenerator { number, generator, site }),
        6 => (number.clone(), agent(), print).prop_map(|(number, generator, print)| made(number, |record| {
            record.generator = generator;
            record.fingerprint = print.unwrap_or(record.fingerprint);
        })),
        8 => (number.clone(), agent()).prop_map(|(number, holder)| ready(number, holder)),
        2 => (number.clone(), agent(), agent()).prop_map(|(number, sender, recipient)| sent(number, sender, recipient)),
        3 => (number.clone(), agent()).prop_map(|(number, holder)| backed_up(number, holder, 1)),
        2 => number.clone().prop_map(|number| KeyCommand::SuspendVersion { number, reason: None }),
        2 => number.clone().prop_map(|number| KeyCommand::ResumeVersion { number, reason: None }),
        1 => number.clone().prop_map(|number| KeyCommand::DeactivateVersion { number, reason: None }),
        1 => number.clone().prop_map(|number| KeyCommand::CompromiseVersion { number, reason: None }),
        1 => (number.clone(), reason).prop_map(|(number, reason)| KeyCommand::RevokeVersion { number, reason, comment: None }),
        2 => (number.clone(), 0u64..8000).prop_map(|(number, wait)| KeyCommand::ScheduleDestruction { number, wait_seconds: Some(wait), due: None, reason: None, backups_expire: None }),
        1 => number.clone().prop_map(|number| KeyCommand::CancelDestruction { number }),
        2 => number.clone().prop_map(|number| KeyCommand::BeginDestruction { number }),
        2 => (number.clone(), agent()).prop_map(|(number, holder)| destroyed(number, holder)),
        1 => (number.clone(), agent()).prop_map(|(number, holder)| KeyCommand::AttestLost { number, holder, attestation: "Lost.".parse().unwrap() }),
        1 => (number.clone(), 0u64..9000).prop_map(|(number, seconds)| KeyCommand::ScheduleDeactivation {
            number,
            due: Timestamp::default().plus(Duration::from_secs(seconds)),
            reason: None,
        }),
        1 => number.clone().prop_map(|number| KeyCommand::CancelDeactivation { number }),
        1 => proptest::option::of(1u128..4).prop_map(|successor| KeyCommand::SetSuccessor {
            successor: successor.map(KeyId::from_bits),
            found: Some(Successor { project: ProjectId::from_bits(1), purpose: schema::key::Purpose::Encrypt, leads_back: false }),
        }),
        1 => Just(KeyCommand::Suspend { reason: None }),
        1 => Just(KeyCommand::Resume { reason: None }),
        1 => (0u32..5, 0u32..5).prop_map(|(process, protect)| KeyCommand::SetMinimumVersions { minimum_versions: MinimumVersions { process, protect } }),
        1 => (0u64..5000).prop_map(|seconds| KeyCommand::SetRotationRule { rotation: RotationRule { every_seconds: None, min_interval_seconds: Some(seconds), ..Default::default() } }),
        1 => any::<bool>().prop_map(|protected| KeyCommand::SetDeletionProtection { protected }),
    ]
}

/// What must be true of a key after each command, given what was true before.
fn check(before: &Key, after: &Key, fingerprints: &mut BTreeMap<u32, Digest>) -> Result<(), TestCaseError> {
    prop_assert!(after.primary >= before.primary, "the primary moved back");
    prop_assert!(after.primary == before.primary || after.versions[&after.primary].activated.is_some());
    prop_assert!(after.versions.keys().copied().eq(1..=after.highest()), "a gap between versions");
    prop_assert!(after.versions.values().filter(|version| version.is_pending()).count() <= 1, "two versions in the making");
    prop_assert!(after.minimum_versions.process <= after.primary && after.minimum_versions.protect <= after.primary);
    let external = after.fixed.as_ref().is_some_and(|fixed| fixed.origin == Origin::External);
    for (number, version) in &after.versions {
        if after.fixed.as_ref().is_some_and(|fixed| fixed.durability == Durability::SealedBackup) && version.activated.is_some() {
            prop_assert!(!version.backups.is_empty(), "used before it was backed up");
        }
        if let Some(made) = &version.made {
            prop_assert_eq!(*fingerprints.entry(*number).or_insert(made.fingerprint), made.fingerprint, "another fingerprint");
            let here = version.generator.is_some_and(|generator| version.holders.contains_key(&generator));
            prop_assert_eq!(here, !external, "a partner's key is held here, or a key of ours is not");
            prop_assert_eq!(made.record.is_some(), !external);
        } else {
            prop_assert!(version.holders.is_empty());
        }
        let is_over = !matches!(version.state, VersionState::PreActivation | VersionState::Active | VersionState::Suspended);
        prop_assert!(!(is_over && version.deactivation.is_some()), "a deactivation of what is past it");
        prop_assert_eq!(version.suspended_in.is_some(), version.state == VersionState::Suspended);
        let begun = version.destruction.as_ref().is_some_and(|destruction| destruction.begun.is_some());
        prop_assert_eq!(begun, version.state == VersionState::Destroyed);
        let completed = version.destruction.as_ref().is_some_and(|destruction| destruction.completed.is_some());
        prop_assert_eq!(completed, begun && version.holders_left().next().is_none());
        let old = before.versions.get(number);
        let Some(old) = old else {
            prop_assert_eq!(version.state, if external { VersionState::Active } else { VersionState::PreActivation });
            continue;
        };
        let legal = version.state == old.state
            || old.state.successors().contains(&version.state)
            || old.state == VersionState::Suspended && old.suspended_in.is_some_and(|state| state == version.state);
        // A version that was resumed and activated in one breath went through pre-activation.
        let activated = old.suspended_in == Some(VersionState::PreActivation) && version.state == VersionState::Active;
        prop_assert!(legal || activated, "{} became {}", old.state, version.state);
        prop_assert!(old.made.is_none() || old.made == version.made, "what was made changed");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_order_of_commands_breaks_a_key(commands in proptest::collection::vec((any_command(), 0u64..3000), 1..80)) {
        let mut present = key();
        let mut fingerprints = BTreeMap::new();
        for (command, seconds) in commands {
            present = present.later(Duration::from_secs(seconds));
            let before = present.state().clone();
            let Ok(events) = present.clone().when(&command).outcome() else { continue };
            present = present.given(events);
            check(&before, present.state(), &mut fingerprints)?;
        }
        let state = present.state();
        prop_assert_eq!(&serde_json::from_str::<Key>(&serde_json::to_string(state).unwrap()).unwrap(), state);
    }
}

/// The commands above do reach the far ends of a key's life; else the property would say nothing.
#[test]
fn random_commands_reach_every_end() {
    let mut runner = TestRunner::deterministic();
    let strategy = proptest::collection::vec((any_command(), 0u64..3000), 80);
    let (mut rotated, mut destroyed, mut attested, mut states) = (false, false, false, std::collections::BTreeSet::new());
    for _ in 0..800 {
        let mut present = key();
        for (command, seconds) in strategy.new_tree(&mut runner).unwrap().current() {
            present = present.later(Duration::from_secs(seconds));
            let Ok(events) = present.clone().when(&command).outcome() else { continue };
            attested |= names(&events).contains(&"HolderAttestedLost");
            destroyed |= names(&events).contains(&"VersionDestroyed");
            present = present.given(events);
            rotated |= present.state().primary > 1;
            states.extend(present.state().versions.values().map(|version| version.state));
        }
    }
    assert!(rotated && destroyed && attested);
    assert_eq!(states.len(), VersionState::ALL.len(), "{states:?}");
}
