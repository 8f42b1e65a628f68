//! Keys of partners: policy alone says what they are.

use schema::{
    clock::Timestamp,
    key::{Origin, fingerprint as fingerprint_of},
};
use trust::statement::policy::{EXTERNAL_KEYS, ExternalVersion, KeyDefinition};

use super::super::*;

const PARTNER: KeyId = KeyId::from_bits(90);

fn public_key(seed: u8) -> ExternalVersion {
    let algorithm = "Ed25519".parse().unwrap();
    ExternalVersion { public_key: Base64(vec![seed; 32]), fingerprint: fingerprint_of(algorithm, &[seed; 32]) }
}

fn entry(state: VersionState, created: Timestamp) -> VersionEntry {
    VersionEntry { state, created, activated: Some(created), generator: None, record: None, ready: BTreeMap::new(), backup: None }
}

/// A project with a partner's signing key in one version.
fn world() -> World {
    let mut world = World::new();
    let key = KeyDefinition {
        name: "partner".parse().unwrap(),
        algorithm: "Ed25519".parse().unwrap(),
        purpose: Purpose::Sign,
        durability: Durability::Elsewhere,
        protection: schema::key::Protection::Software,
        origin: Origin::External,
        external: vec![public_key(1)],
        ..definition()
    };
    world.project_policy().keys.insert(PARTNER, key);
    world.project_policy().head.requires.push(EXTERNAL_KEYS.to_owned());
    let versions = BTreeMap::from([(1, entry(VersionState::Active, START))]);
    world.state.keys.insert(PARTNER, KeyState { primary: 1, versions });
    world
}

fn partner(world: &mut World) -> &mut KeyDefinition {
    world.project_policy().keys.get_mut(&PARTNER).unwrap()
}

fn state(world: &mut World) -> &mut KeyState {
    world.state.keys.get_mut(&PARTNER).unwrap()
}

#[test]
fn a_partners_key_that_policy_names_is_believed_and_may_be_renewed_suspended_and_destroyed() {
    let mut world = world();
    let first = honest(&world);
    let version = |number| KeyVersion::new(PARTNER, number);
    assert_eq!(first.version_state(version(1)), Some(VersionState::Active));
    assert_eq!(first.fingerprint(version(1)), Some(public_key(1).fingerprint));

    world.tick();
    world.tick_policy(Scope::Project(PROJECT));
    partner(&mut world).external.push(public_key(2));
    let created = world.state.head.issued;
    state(&mut world).versions.insert(2, entry(VersionState::Active, created));
    state(&mut world).primary = 2;
    let second = offer(Some(&first), &world, &world.set()).unwrap();
    assert_eq!(second.primary(PARTNER), Some(version(2)));

    world.tick();
    state(&mut world).versions.get_mut(&2).unwrap().state = VersionState::Suspended;
    world.state.suspensions.push(Subject::Version(version(2)));
    let third = offer(Some(&second), &world, &world.set()).unwrap();
    assert_eq!(third.version_state(version(2)), Some(VersionState::Suspended));
    let restored = restore(&third.to_bytes(), &world.identity()).unwrap();
    assert_eq!(restored.version_state(version(2)), Some(VersionState::Suspended));

    world.tick();
    world.tick_policy(Scope::Project(PROJECT));
    state(&mut world).versions.get_mut(&1).unwrap().state = VersionState::Destroyed;
    world.project_policy().destructions.push(version(1));
    let fourth = offer(Some(&third), &world, &world.set()).unwrap();
    assert_eq!(fourth.version_state(version(1)), Some(VersionState::Destroyed));
}

#[test]
fn state_that_adds_a_public_key_to_a_partners_key() {
    let mut world = world();
    let first = honest(&world);
    world.tick();
    let created = world.state.head.issued;
    state(&mut world).versions.insert(2, entry(VersionState::Active, created));
    state(&mut world).primary = 2;
    refused_after(&first, &world, "external_version");
    refused_anew(&world, "external_version");
}

#[test]
fn state_that_says_what_a_partners_key_is() {
    let forged = |change: &dyn Fn(&World, &mut VersionEntry)| {
        let mut world = world();
        let mut forged = state(&mut world).versions[&1].clone();
        change(&world, &mut forged);
        if forged.state == VersionState::PreActivation {
            state(&mut world).primary = 0;
        }
        state(&mut world).versions.insert(1, forged);
        refused_anew(&world, "external_version");
    };
    forged(&|_, entry| entry.generator = Some(AGENT));
    forged(&|_, entry| (entry.generator, entry.state) = (Some(AGENT), VersionState::PreActivation));
    forged(&|world, entry| {
        let mut record = world.record(1, public_key(7).fingerprint);
        (record.version, record.algorithm) = (KeyVersion::new(PARTNER, 1), "Ed25519".parse().unwrap());
        (record.origin, record.public_key) = (Origin::External, Some(public_key(7).public_key));
        entry.record = Some(document::sign(&record, &world.agent));
        entry.generator = Some(AGENT);
    });
    forged(&|world, entry| {
        let report = world.report(1, public_key(1).fingerprint);
        entry.ready.insert(AGENT, document::sign(&report, &world.agent));
    });
}

#[test]
fn state_that_makes_a_partners_key_from_a_template() {
    let mut world = World::new();
    let algorithm = "Ed25519".parse().unwrap();
    let template = world.project_policy().templates.get_mut(&"cards".parse().unwrap()).unwrap();
    (template.algorithms, template.purposes) = (vec![algorithm], vec![Purpose::Sign]);
    template.durabilities.push(Durability::Elsewhere);
    let mut definition = KeyDefinition { algorithm, purpose: Purpose::Sign, ..world.templated() };
    definition.external.push(public_key(7));
    for origin in [Origin::Generated, Origin::External] {
        definition.origin = origin;
        let templated = TemplatedKey { template: "cards".parse().unwrap(), definition: definition.clone() };
        world.state.templated.insert(PARTNER, templated);
        refused_anew(&world, "outside_template");
    }
    definition.origin = Origin::Generated;
    definition.external.clear();
    world.state.templated.insert(PARTNER, TemplatedKey { template: "cards".parse().unwrap(), definition });
    honest(&world);
}

#[test]
fn state_that_redefines_a_partners_key_changes_nothing() {
    let mut world = world();
    let mut definition = partner(&mut world).clone();
    definition.external[0] = public_key(7);
    world.state.templated.insert(PARTNER, TemplatedKey { template: "cards".parse().unwrap(), definition });
    let set = honest(&world);
    assert_eq!(set.keys()[&PARTNER].external, [public_key(1)]);
}

#[test]
fn a_partners_version_with_another_public_key_than_before() {
    let mut world = world();
    let first = honest(&world);
    world.tick();
    world.tick_policy(Scope::Project(PROJECT));
    partner(&mut world).external[0] = public_key(2);
    refused_after(&first, &world, "second_fingerprint");
}

#[test]
fn a_key_of_ours_that_becomes_a_partners() {
    let mut world = world();
    let first = honest(&world);
    world.tick();
    world.tick_policy(Scope::Project(PROJECT));
    partner(&mut world).origin = Origin::Generated;
    partner(&mut world).external.clear();
    refused_after(&first, &world, "key_redefined");
}

#[test]
fn a_definition_of_a_partners_key_that_is_none() {
    let unsound = |change: &dyn Fn(&mut KeyDefinition)| {
        let mut world = world();
        change(partner(&mut world));
        refused_anew(&world, "external_key_unsound");
    };
    unsound(&|key| key.external.clear());
    unsound(&|key| key.external[0].fingerprint = public_key(2).fingerprint);
    unsound(&|key| key.eligible_generators.push(AGENT));
    unsound(&|key| key.exportable = true);
    unsound(&|key| key.origin = Origin::Generated);
    unsound(&|key| (key.algorithm, key.purpose) = (definition().algorithm, definition().purpose));
}
