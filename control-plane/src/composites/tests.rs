use std::collections::BTreeMap;

use proptest::prelude::*;
use schema::{
    composite::{Member, VerificationRule},
    event::composite::{CompositeCreated, CompositeDescribed, CompositeRetired, CompositeRuleLoosened, CompositeRuleTightened},
    id::{CompositeId, KeyId, ProjectId, SiteId},
    key::Purpose,
};

use super::*;
use crate::eventing::{aggregate::Aggregate, scenario::Scenario};

const PROJECT: ProjectId = ProjectId::from_bits(1);
const SITES: [SiteId; 2] = [SiteId::from_bits(1), SiteId::from_bits(2)];

fn composite() -> Scenario<Composite> {
    Scenario::of(CompositeId::from_bits(1))
}

fn found(algorithm: &str, purpose: Purpose) -> Found {
    let (algorithm, placement) = (algorithm.parse().unwrap(), SITES.to_vec());
    Found { project: PROJECT, algorithm, purpose, placement, of_template: false, destroyed: false }
}

fn create(change: impl FnOnce(&mut CreateComposite)) -> CompositeCommand {
    let found = BTreeMap::from([
        (Member::Classical, found("Ed25519", Purpose::Sign)),
        (Member::PostQuantum, found("ML-DSA-65", Purpose::Sign)),
        (Member::Encryption, found("HPKE-9-KE", Purpose::Encrypt)),
    ]);
    let mut create = CreateComposite {
        project: PROJECT,
        name: "contracts".parse().unwrap(),
        description: None,
        members: found.keys().zip(1..).map(|(member, number)| (*member, KeyId::from_bits(number))).collect(),
        rule: VerificationRule::ClassicalRequired,
        found,
        name_is_taken: false,
    };
    change(&mut create);
    CompositeCommand::Create(Box::new(create))
}

fn created() -> CompositeCreated {
    CompositeCreated {
        project: PROJECT,
        name: "contracts".parse().unwrap(),
        description: None,
        classical: KeyId::from_bits(1),
        post_quantum: KeyId::from_bits(2),
        encryption: Some(KeyId::from_bits(3)),
        rule: VerificationRule::ClassicalRequired,
    }
}

fn tighten(rule: VerificationRule) -> CompositeCommand {
    CompositeCommand::Tighten { rule, reason: None }
}

fn loosen(rule: VerificationRule) -> CompositeCommand {
    CompositeCommand::Loosen { rule, reason: "agreed".parse().unwrap() }
}

#[test]
fn it_is_made_of_keys_that_fit_their_places() {
    let after = composite().when(&create(|_| ())).then([created().into()]);
    let terms = after.state().index().terms;
    assert!((1..=3).all(|key| terms.contains(&("key".to_owned(), KeyId::from_bits(key).to_string()))), "{terms:?}");
    after.when(&create(|_| ())).then_refused("composite_exists");
    let without = create(|create| assert!(create.members.remove(&Member::Encryption).is_some()));
    composite().when(&without).then([CompositeCreated { encryption: None, ..created() }.into()]);
}

#[test]
fn it_refuses_keys_that_do_not() {
    #[track_caller]
    fn refused(change: impl FnOnce(&mut CreateComposite), code: &str) {
        composite().when(&create(change)).then_refused(code);
    }
    fn of(create: &mut CreateComposite, member: Member) -> &mut Found {
        create.found.get_mut(&member).unwrap()
    }
    refused(|create| create.name_is_taken = true, "composite_name_is_taken");
    refused(|create| assert!(create.members.remove(&Member::Classical).is_some()), "composite_incomplete");
    refused(|create| assert!(create.members.remove(&Member::PostQuantum).is_some()), "composite_incomplete");
    refused(|create| *of(create, Member::Classical) = found("ML-DSA-44", Purpose::Sign), "composite_key_not_classical");
    refused(|create| *of(create, Member::Classical) = found("ECDSA-P256", Purpose::SignDigest), "composite_key_not_classical");
    refused(|create| *of(create, Member::PostQuantum) = found("RSA-PSS-4096", Purpose::Sign), "composite_key_not_post_quantum");
    refused(|create| *of(create, Member::Encryption) = found("HPKE-4-KE", Purpose::Encrypt), "composite_key_not_hybrid");
    refused(|create| *of(create, Member::Encryption) = found("A256KW+A256GCM", Purpose::Encrypt), "composite_key_not_hybrid");
    for member in Member::ALL {
        refused(|create| of(create, *member).project = ProjectId::from_bits(9), "composite_crosses_projects");
        refused(|create| of(create, *member).of_template = true, "composite_key_of_template");
        refused(|create| of(create, *member).destroyed = true, "composite_key_destroyed");
        refused(|create| of(create, *member).placement.truncate(1), "composite_keys_at_different_sites");
    }
    // The order of the sites says nothing.
    composite().when(&create(|create| of(create, Member::PostQuantum).placement.reverse())).then([created().into()]);
}

#[test]
fn a_rule_is_tightened_and_loosened_each_by_its_name() {
    let reason = || "agreed".parse().unwrap();
    composite().when(&tighten(VerificationRule::All)).then_refused("composite_not_found");
    composite()
        .given([created().into()])
        .when(&tighten(VerificationRule::ClassicalRequired))
        .then([])
        .when(&tighten(VerificationRule::Any))
        .then_refused("composite_rule_not_stricter")
        .when(&tighten(VerificationRule::PqRequired))
        .then_refused("composite_rule_not_stricter")
        .when(&loosen(VerificationRule::All))
        .then_refused("composite_rule_not_looser")
        .when(&tighten(VerificationRule::All))
        .then([CompositeRuleTightened { rule: VerificationRule::All, reason: None }.into()])
        .when(&loosen(VerificationRule::PqRequired))
        .then([CompositeRuleLoosened { rule: VerificationRule::PqRequired, reason: reason() }.into()])
        // Sideways accepts what was not accepted.
        .when(&loosen(VerificationRule::ClassicalRequired))
        .then([CompositeRuleLoosened { rule: VerificationRule::ClassicalRequired, reason: reason() }.into()]);
}

#[test]
fn it_is_described_and_retired_for_good() {
    let describe = CompositeCommand::Describe { description: Some("Contracts".parse().unwrap()) };
    let retire = CompositeCommand::Retire { reason: None };
    let after = composite()
        .given([created().into()])
        .when(&describe)
        .then([CompositeDescribed { description: Some("Contracts".parse().unwrap()) }.into()])
        .when(&describe)
        .then([])
        .when(&retire)
        .then([CompositeRetired { reason: None }.into()]);
    assert_eq!(after.state().state(), CompositeState::Retired);
    for command in [describe, retire, tighten(VerificationRule::All), loosen(VerificationRule::Any)] {
        after.clone().when(&command).then_refused("composite_retired");
    }
    after.when(&create(|_| ())).then_refused("composite_exists");
}

fn any_command() -> impl Strategy<Value = CompositeCommand> {
    let rule = || proptest::sample::select(VerificationRule::ALL);
    prop_oneof![
        1 => Just(create(|_| ())),
        4 => rule().prop_map(tighten),
        4 => rule().prop_map(loosen),
        1 => Just(CompositeCommand::Describe { description: None }),
        1 => Just(CompositeCommand::Retire { reason: None }),
    ]
}

proptest! {
    #[test]
    fn no_order_of_commands_breaks_a_composite(commands in proptest::collection::vec(any_command(), 1..40)) {
        let mut present = composite();
        for command in commands {
            let before = present.state().clone();
            let Ok(events) = present.clone().when(&command).outcome() else { continue };
            present = present.given(events);
            let after = present.state();
            prop_assert!(before.fixed.is_none() || before.fixed == after.fixed, "what never changes did");
            prop_assert!(before.retired.is_none(), "something happened after it was retired: {command:?}");
            if let (Some(before), Some(after)) = (before.rule, after.rule) {
                let accepts_more = before != after && !after.is_stricter_than(before);
                prop_assert!(!accepts_more || matches!(command, CompositeCommand::Loosen { .. }), "{command:?}");
            }
        }
        let state = present.state();
        prop_assert_eq!(&serde_json::from_str::<Composite>(&serde_json::to_string(state).unwrap()).unwrap(), state);
    }
}
