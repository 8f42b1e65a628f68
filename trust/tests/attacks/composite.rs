//! Composites: policy alone says what keys a name stands for, and which signatures must be genuine.

use schema::{composite::VerificationRule, id::CompositeId};
use trust::statement::policy::{COMPOSITE_KEYS, CompositeDefinition, KeyDefinition};

use super::super::*;

const COMPOSITE: CompositeId = CompositeId::from_bits(80);
const CLASSICAL: KeyId = KeyId::from_bits(81);
const POST_QUANTUM: KeyId = KeyId::from_bits(82);
const SEALED: KeyId = KeyId::from_bits(83);

fn key(name: &str, algorithm: &str, purpose: Purpose) -> KeyDefinition {
    KeyDefinition { name: name.parse().unwrap(), algorithm: algorithm.parse().unwrap(), purpose, ..definition() }
}

/// A project with `payments/contracts`: Ed25519 and ML-DSA-65, and HPKE-9-KE for what is sealed.
fn world() -> World {
    let mut world = World::new();
    let policy = world.project_policy();
    policy.keys.insert(CLASSICAL, key("contracts-ed25519", "Ed25519", Purpose::Sign));
    policy.keys.insert(POST_QUANTUM, key("contracts-ml-dsa", "ML-DSA-65", Purpose::Sign));
    policy.keys.insert(SEALED, key("contracts-hpke", "HPKE-9-KE", Purpose::Encrypt));
    let contracts = CompositeDefinition {
        name: "contracts".parse().unwrap(),
        project: PROJECT,
        classical: CLASSICAL,
        post_quantum: POST_QUANTUM,
        encryption: Some(SEALED),
        rule: VerificationRule::All,
    };
    policy.composites.insert(COMPOSITE, contracts);
    policy.head.requires.push(COMPOSITE_KEYS.to_owned());
    world
}

fn composite(world: &mut World) -> &mut CompositeDefinition {
    world.project_policy().composites.get_mut(&COMPOSITE).unwrap()
}

#[track_caller]
fn unsound(change: impl FnOnce(&mut World)) {
    let mut world = world();
    change(&mut world);
    refused_anew(&world, "composite_unsound");
}

#[test]
fn an_honest_composite_is_believed_and_its_rule_may_change() {
    let mut world = world();
    let mut held = honest(&world);
    for rule in [VerificationRule::Any, VerificationRule::PqRequired, VerificationRule::ClassicalRequired, VerificationRule::All] {
        world.tick();
        world.tick_policy(Scope::Project(PROJECT));
        composite(&mut world).rule = rule;
        held = offer(Some(&held), &world, &world.set()).unwrap();
    }
    let restored = restore(&held.to_bytes(), &world.identity()).unwrap();
    assert_eq!(restored.memory(), held.memory());
    assert_eq!(held.resolve(&COMPOSITE.to_string().parse().unwrap()), None, "it is no key");
    world.tick();
    world.tick_policy(Scope::Project(PROJECT));
    world.project_policy().composites.clear();
    offer(Some(&held), &world, &world.set()).unwrap();
}

#[test]
fn a_composite_for_readers_who_do_not_know_of_any() {
    unsound(|world| world.project_policy().head.requires.clear());
}

#[test]
fn a_composite_of_keys_that_its_policy_does_not_define() {
    for missing in [CLASSICAL, POST_QUANTUM, SEALED] {
        unsound(|world| drop(world.project_policy().keys.remove(&missing)));
    }
    // Nor is a key that state makes from a template one of them.
    unsound(|world| {
        let policy = world.project_policy();
        let definition = policy.keys.remove(&CLASSICAL).unwrap();
        let template = policy.templates.get_mut(&"cards".parse().unwrap()).unwrap();
        (template.algorithms, template.purposes) = (vec![definition.algorithm], vec![definition.purpose]);
        world.state.templated.insert(CLASSICAL, TemplatedKey { template: "cards".parse().unwrap(), definition });
    });
}

#[test]
fn a_composite_whose_keys_cannot_do_what_their_places_ask() {
    let become_key = |place: KeyId, algorithm: &'static str, purpose: Purpose| {
        move |world: &mut World| {
            let key = world.project_policy().keys.get_mut(&place).unwrap();
            (key.algorithm, key.purpose) = (algorithm.parse().unwrap(), purpose);
        }
    };
    unsound(become_key(CLASSICAL, "ML-DSA-44", Purpose::Sign));
    unsound(become_key(POST_QUANTUM, "ECDSA-P256", Purpose::Sign));
    unsound(become_key(CLASSICAL, "ECDSA-P256", Purpose::SignDigest));
    unsound(become_key(POST_QUANTUM, "ML-DSA-65", Purpose::SignDigest));
    unsound(become_key(CLASSICAL, "HMAC-SHA-256", Purpose::Mac));
    unsound(become_key(SEALED, "X25519", Purpose::Encrypt));
    unsound(become_key(SEALED, "A256KW+A256GCM", Purpose::Encrypt));
    unsound(become_key(SEALED, "ML-KEM-768", Purpose::Agree));
    unsound(|world| composite(world).post_quantum = CLASSICAL);
    unsound(|world| composite(world).encryption = Some(POST_QUANTUM));
    unsound(|world| {
        let definition = composite(world);
        (definition.classical, definition.post_quantum) = (definition.post_quantum, definition.classical);
    });
}

#[test]
fn a_composite_whose_keys_are_at_different_sites() {
    for moved in [CLASSICAL, POST_QUANTUM, SEALED] {
        unsound(|world| world.project_policy().keys.get_mut(&moved).unwrap().placement.push(SiteId::from_bits(99)));
    }
}

#[test]
fn a_composite_that_takes_a_name() {
    unsound(|world| composite(world).name = "contracts-ed25519".parse().unwrap());
    unsound(|world| world.project_policy().keys.get_mut(&KEY).unwrap().aliases.push("contracts".parse().unwrap()));
    unsound(|world| {
        let second = composite(world).clone();
        world.project_policy().composites.insert(CompositeId::from_bits(90), second);
    });
}

#[test]
fn state_that_makes_a_key_with_the_name_of_a_composite() {
    let mut world = world();
    let mut definition = world.templated();
    definition.name = "contracts".parse().unwrap();
    world.state.templated.insert(KeyId::from_bits(91), TemplatedKey { template: "cards".parse().unwrap(), definition });
    refused_anew(&world, "name_taken");
}

#[test]
fn a_composite_that_stands_for_other_keys_than_before() {
    let other = KeyId::from_bits(84);
    let changes: [&dyn Fn(&mut CompositeDefinition); 4] = [
        &|composite| composite.classical = other,
        &|composite| composite.post_quantum = KeyId::from_bits(85),
        &|composite| composite.encryption = Some(KeyId::from_bits(86)),
        &|composite| composite.encryption = None,
    ];
    for change in changes {
        let mut world = world();
        let policy = world.project_policy();
        policy.keys.insert(other, key("other-classical", "Ed25519", Purpose::Sign));
        policy.keys.insert(KeyId::from_bits(85), key("other-post-quantum", "ML-DSA-87", Purpose::Sign));
        policy.keys.insert(KeyId::from_bits(86), key("other-sealed", "HPKE-9", Purpose::Encrypt));
        let first = honest(&world);
        world.tick();
        world.tick_policy(Scope::Project(PROJECT));
        change(composite(&mut world));
        refused_after(&first, &world, "composite_redefined");
    }
}

#[test]
fn a_composite_outside_its_project() {
    let mut world = world();
    composite(&mut world).project = ProjectId::from_bits(99);
    refused_anew(&world, "policy_out_of_scope");
    let mut tenants = self::world();
    let composites = std::mem::take(&mut tenants.project_policy().composites);
    let tenant = tenants.policies.get_mut(&Scope::Tenant).unwrap();
    tenant.composites = composites;
    tenant.head.requires.push(COMPOSITE_KEYS.to_owned());
    refused_anew(&tenants, "policy_out_of_scope");
}

#[test]
fn a_rule_that_nobody_knows() {
    let world = world();
    let set = world.set();
    let mut envelope = Envelope::parse(set.policies[1].as_slice(), 1 << 24).unwrap();
    let text = String::from_utf8(envelope.payload.clone()).unwrap();
    assert!(text.contains("\"rule\":\"all\""));
    envelope.payload = text.replace("\"rule\":\"all\"", "\"rule\":\"none\"").into_bytes();
    let mut forged = set.clone();
    forged.policies[1] = envelope.to_bytes().into();
    refused(offer(None, &world, &forged), "unreadable");
}

#[test]
fn a_reader_that_does_not_know_composites_refuses_the_policy() {
    let mut world = world();
    world.project_policy().head.requires.push("composites-of-three".to_owned());
    refused_anew(&world, "unknown_requirement");
}
