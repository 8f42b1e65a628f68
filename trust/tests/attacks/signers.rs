//! What a stolen control plane cannot do to a tenant that has signers, and what goes on without them. The attacker has every
//! pair the control plane ever had: state and heartbeat, and root and policy from before the hand-over.

use std::collections::BTreeMap;

use schema::{
    encoding::Digest,
    id::KeyId,
    key::{RevocationReason, VersionState},
    rule::KeyTemplate,
    wire::agent::StatementSet,
};
use trust::{
    accept::{AcceptedSet, Held},
    document, dsse,
    pair::Pair,
    signing::{Authority, Part, assemble},
    statement::{
        Kind, Scope,
        policy::{Policy, Resumption, SerialText},
        state::{KeyState, Revocation, Subject, TemplatedKey, VersionEntry, Vouch},
    },
    testing::{AGENT, CALLER, KEY, OTHER_AGENT, PROJECT, SITE, START, World, pair, refs},
};

use crate::{honest, offer, refused, version};

/// A tenant that handed root and policy over to two of its own, and what the control plane had before.
struct HandedOver {
    world: World,
    /// What the agent believes since.
    held: AcceptedSet,
    old_root: Pair,
    old_policy: Pair,
}

fn handed_over() -> HandedOver {
    let mut world = World::new();
    let before = honest(&world);
    let old_root = world.root_pairs.pop().unwrap();
    let old_policy = world.policy_pairs.pop().unwrap();
    world.root_pairs = vec![pair(501), pair(502)];
    world.policy_pairs = vec![pair(501), pair(502)];
    world.name_signers(true);
    next_root(&mut world, &[&old_root]);
    next(&mut world);
    let held = offer(Some(&before), &world, &world.set()).unwrap();
    HandedOver { world, held, old_root, old_policy }
}

/// The next root, signed by its own signers and these.
fn next_root(world: &mut World, others: &[&Pair]) {
    let own: Vec<Pair> = world.root_pairs.iter().map(|pair| Pair::from_seeds(&pair.to_seeds())).collect();
    let all: Vec<&Pair> = own.iter().chain(others.iter().copied()).collect();
    world.next_root(&all);
}

fn next(world: &mut World) {
    for scope in [Scope::Tenant, Scope::Project(PROJECT)] {
        world.tick_policy(scope);
    }
    world.tick();
}

/// The set as it stands, its policies signed by these.
fn with_policies_by(world: &World, pairs: &[&Pair]) -> StatementSet {
    let mut set = world.set();
    set.policies = world.policies.values().map(|policy| dsse::sign_statement(policy, pairs).0.into()).collect();
    set
}

#[test]
fn handing_over_takes_old_and_new_signers() {
    let mut world = World::new();
    let before = honest(&world);
    let old_root = world.root_pairs.pop().unwrap();
    world.root_pairs = vec![pair(501), pair(502)];
    world.policy_pairs = vec![pair(501), pair(502)];
    world.name_signers(true);
    let root = world.root.clone();
    let signed_by = |pairs: &[&Pair]| {
        let mut world = World { root: root.clone(), policies: world.policies.clone(), ..World::new() };
        world.policy_pairs = vec![pair(501), pair(502)];
        world.next_root(pairs);
        next(&mut world);
        offer(Some(&before), &world, &world.set())
    };
    refused(signed_by(&[&old_root]), "below_threshold");
    refused(signed_by(&[&old_root, &world.root_pairs[0]]), "below_threshold");
    refused(signed_by(&[&world.root_pairs[0], &world.root_pairs[1]]), "below_threshold");
    signed_by(&[&old_root, &world.root_pairs[0], &world.root_pairs[1]]).unwrap();
}

#[test]
fn after_the_hand_over_no_pair_of_the_control_plane_counts_for_policy() {
    let HandedOver { mut world, held, old_root, old_policy } = handed_over();
    world.project_policy().cedar.insert("pol_evil/0".to_owned(), "permit (principal, action, resource);".to_owned());
    next(&mut world);
    let (state, heartbeat) = (&world.state_pairs[0], &world.heartbeat_pairs[0]);
    for pairs in [&[&old_policy][..], &[&old_root, &old_policy], &[state, heartbeat], &[&old_policy, &world.policy_pairs[0]]] {
        refused(offer(Some(&held), &world, &with_policies_by(&world, pairs)), "below_threshold");
    }
    // An agent that was away during the hand-over is no better prey: the set must hold the newest root that the heartbeat pins.
    refused(offer(None, &world, &with_policies_by(&world, &[&old_policy])), "below_threshold");
    assert!(offer(Some(&held), &world, &world.set()).is_ok());
}

#[test]
fn policies_from_before_the_hand_over_do_not_come_back() {
    let HandedOver { mut world, held, old_policy, .. } = handed_over();
    // The very bytes that agents believed before.
    for policy in world.policies.values_mut() {
        policy.head.serial -= 1;
    }
    world.tick();
    refused(offer(Some(&held), &world, &with_policies_by(&world, &[&old_policy])), "below_threshold");
    refused(offer(Some(&held), &world, &world.set()), "older");
}

#[test]
fn the_control_plane_cannot_point_root_elsewhere() {
    let HandedOver { mut world, held, old_root, old_policy } = handed_over();
    // Back to itself.
    (world.root_pairs, world.policy_pairs) = (vec![pair(601)], vec![pair(602)]);
    world.name_signers(false);
    for others in [&[&old_root][..], &[&old_root, &old_policy]] {
        let mut world = World { root: world.root.clone(), roots: world.roots.clone(), policies: world.policies.clone(), ..World::new() };
        (world.root_pairs, world.policy_pairs) = (vec![pair(601)], vec![pair(602)]);
        next_root(&mut world, others);
        next(&mut world);
        refused(offer(Some(&held), &world, &world.set()), "below_threshold");
    }
}

#[test]
fn the_control_plane_cannot_fork_the_root_behind_the_hand_over() {
    let HandedOver { held, old_root, .. } = handed_over();
    // Another root number 2, as the control plane could have signed it when it still might.
    let mut fork = World::new();
    (fork.root_pairs, fork.policy_pairs) = (vec![pair(601)], vec![pair(602)]);
    fork.name_signers(false);
    next_root(&mut fork, &[&old_root]);
    for _ in 0..3 {
        next(&mut fork);
    }
    refused(offer(Some(&held), &fork, &fork.set()), "equivocation");
    // Nor leave it out: what was believed stays, and the heartbeat must pin it.
    fork.roots.truncate(1);
    fork.root.head.serial = 1;
    refused(offer(Some(&held), &fork, &fork.set()), "below_threshold");
}

#[test]
fn a_root_of_fewer_than_the_old_threshold() {
    let HandedOver { mut world, held, .. } = handed_over();
    let leaver = world.root_pairs.remove(1);
    world.policy_pairs.remove(1);
    world.name_signers(true);
    let serial = world.root.head.serial;
    next_root(&mut world, &[]);
    next(&mut world);
    refused(offer(Some(&held), &world, &world.set()), "below_threshold");
    world.roots.pop();
    world.root.head.serial = serial;
    next_root(&mut world, &[&leaver]);
    offer(Some(&held), &world, &world.set()).unwrap();
}

#[test]
fn signatures_of_signers_for_something_else() {
    let HandedOver { mut world, held, .. } = handed_over();
    next(&mut world);
    let policy = &world.policies[&Scope::Tenant];
    let payload = serde_json::to_vec(policy).unwrap();
    let parts = |kind, payload: &[u8]| world.policy_pairs.iter().map(|pair| Part::sign(kind, payload, pair)).collect::<Vec<_>>();
    let with = |parts: &[Part]| {
        let mut set = world.set();
        set.policies[0] = assemble(Kind::Policy, payload.clone(), parts).to_bytes().into();
        offer(Some(&held), &world, &set)
    };
    with(&parts(Kind::Policy, &payload)).unwrap();
    refused(with(&parts(Kind::Root, &payload)), "signature_wrong");
    refused(with(&parts(Kind::Policy, b"{}")), "signature_wrong");
    refused(with(&parts(Kind::Policy, &payload)[..1]), "below_threshold");
    let first = &parts(Kind::Policy, &payload)[0];
    refused(with(&[first.clone(), first.clone()]), "below_threshold");
    let short = Part { bytes: first.bytes[..100].to_vec(), ..first.clone() };
    refused(with(&[first.clone(), short]), "signature_missing");
    // A policy that its signers signed for another scope of the same tenant.
    let mut moved: Policy = policy.clone();
    moved.head.site = Some(SITE);
    let moved = serde_json::to_vec(&moved).unwrap();
    let mut set = world.set();
    set.policies[0] = assemble(Kind::Policy, moved, &parts(Kind::Policy, &payload)).to_bytes().into();
    refused(offer(Some(&held), &world, &set), "signature_wrong");
}

#[test]
fn the_control_plane_adds_its_own_agent_and_it_is_sent_nothing() {
    let HandedOver { mut world, held, old_root, old_policy } = handed_over();
    let by = |pairs: &[&Pair]| Vouch::Signers { vouch: dsse::sign_document(&World::new().vouch(), pairs).into() };
    let of_agent = |pair: &Pair| Vouch::Agent { agent: AGENT, vouch: document::sign(&World::new().vouch(), pair) };
    let attempts = [
        vec![],
        vec![Vouch::Enrolment],
        vec![by(&[&old_policy])],
        vec![by(&[&old_root, &old_policy, &world.state_pairs[0], &world.heartbeat_pairs[0]])],
        vec![by(&[&world.policy_pairs[0]])],
        vec![of_agent(&old_policy), of_agent(&world.state_pairs[0])],
        vec![Vouch::Previous { keyid: old_policy.keyid(), vouch: document::sign(&World::new().vouch(), &old_policy) }],
    ];
    for vouches in attempts {
        world.tick();
        world.join(vouches);
        let set = offer(Some(&held), &world, &world.set()).unwrap();
        assert!(!set.agents().contains_key(&OTHER_AGENT) && set.waiting_agents().contains_key(&OTHER_AGENT));
    }
    // Named as the one to make a version, it makes the whole set unbelieved.
    let entry = VersionEntry {
        state: VersionState::PreActivation,
        created: world.state.head.issued,
        activated: None,
        generator: Some(OTHER_AGENT),
        record: None,
        ready: BTreeMap::new(),
        backup: None,
    };
    world.tick();
    world.key().versions.insert(2, entry);
    refused(offer(Some(&held), &world, &world.set()), "ineligible_generator");
    // The tenant's signers, enough of them, may vouch.
    world.key().versions.remove(&2);
    world.tick();
    world.join(vec![by(&refs(&world.policy_pairs))]);
    assert!(offer(Some(&held), &world, &world.set()).unwrap().agents().contains_key(&OTHER_AGENT));
}

#[test]
fn the_control_plane_restricts_and_cannot_resume() {
    let HandedOver { mut world, held, old_policy, .. } = handed_over();
    let subject = Subject::Caller(CALLER);
    world.tick();
    world.state.suspensions.push(subject);
    let restricted = offer(Some(&held), &world, &world.set()).unwrap();
    assert_eq!(restricted.held(subject), Some(Held::Suspended), "restricting needs no signer, and shows");
    world.tick();
    world.state.suspensions.clear();
    let later = offer(Some(&restricted), &world, &world.set()).unwrap();
    assert_eq!(later.held(subject), Some(Held::Suspended));
    next(&mut world);
    world.project_policy().resumptions = vec![Resumption { subject, up_to_state_serial: [(SITE, SerialText(99))].into() }];
    refused(offer(Some(&later), &world, &with_policies_by(&world, &[&old_policy])), "below_threshold");
    assert_eq!(offer(Some(&later), &world, &world.set()).unwrap().held(subject), None, "its signers lift it");
}

#[test]
fn the_control_plane_cannot_destroy() {
    let HandedOver { mut world, held, old_policy, .. } = handed_over();
    world.tick();
    world.key().versions.get_mut(&1).unwrap().state = VersionState::Destroyed;
    let set = offer(Some(&held), &world, &world.set()).unwrap();
    // It acts as a suspension, which shows; nothing is destroyed.
    assert_eq!(set.version_state(version(1)), Some(VersionState::Suspended));
    next(&mut world);
    world.project_policy().destructions = vec![version(1)];
    refused(offer(Some(&set), &world, &with_policies_by(&world, &[&old_policy])), "below_threshold");
    let confirmed = offer(Some(&set), &world, &world.set()).unwrap();
    assert_eq!(confirmed.version_state(version(1)), Some(VersionState::Destroyed), "its signers confirm it");
}

#[test]
fn the_control_plane_cannot_widen_a_template_or_define_a_key() {
    let HandedOver { mut world, held, old_policy, .. } = handed_over();
    let made = KeyId::from_bits(88);
    let mut definition = world.templated();
    definition.exportable = true;
    world.tick();
    world.state.templated.insert(made, TemplatedKey { template: "cards".parse().unwrap(), definition });
    world.state.keys.insert(made, KeyState { primary: 0, versions: BTreeMap::new() });
    refused(offer(Some(&held), &world, &world.set()), "outside_template");
    let widen = |template: &mut KeyTemplate| template.exportable = true;
    world.project_policy().templates.values_mut().for_each(widen);
    next(&mut world);
    refused(offer(Some(&held), &world, &with_policies_by(&world, &[&old_policy])), "below_threshold");
    world.state.templated.clear();
    refused(offer(Some(&held), &world, &world.set()), "invented_key");
}

#[test]
fn everyday_work_needs_no_signer() {
    let HandedOver { mut world, held, .. } = handed_over();
    // A key of a template, a new version, a revocation, a vouch of an agent for its replacement; policies stay as they are.
    let made = KeyId::from_bits(88);
    world.tick();
    world.state.templated.insert(made, TemplatedKey { template: "cards".parse().unwrap(), definition: world.templated() });
    world.state.keys.insert(made, KeyState { primary: 0, versions: BTreeMap::new() });
    let entry = world.version(2, VersionState::Active, world.state.head.issued);
    world.key().versions.insert(2, entry);
    world.key().primary = 2;
    let subject = Subject::Caller(CALLER);
    world.state.revocations.push(Revocation { subject, reason: RevocationReason::Superseded, at: START });
    let vouch = document::sign(&world.vouch(), &world.agent);
    world.join(vec![Vouch::Agent { agent: AGENT, vouch }]);
    let set = offer(Some(&held), &world, &world.set()).unwrap();
    assert!(set.keys().contains_key(&made) && set.agents().contains_key(&OTHER_AGENT) && set.held(subject).is_some());
    assert_eq!(set.primary(KEY), Some(version(2)));
}

#[test]
fn roots_are_followed_from_one_that_is_known() {
    let HandedOver { world, old_root, .. } = handed_over();
    let newest = Authority::verified(&world.roots, world.pinned).unwrap();
    assert_eq!((newest.root().head.serial, newest.is_tenant_held(Kind::Policy)), (2, true));
    assert!(Authority::verified(&world.roots, newest.sha256()).is_ok());
    assert_eq!(Authority::verified(&world.roots, Digest([7; 32])).unwrap_err().code(), "root_not_pinned");
    assert_eq!(Authority::verified(&world.roots[1..], world.pinned).unwrap_err().code(), "root_not_pinned");
    let mut evil = World { roots: world.roots.clone(), root: world.root.clone(), ..World::new() };
    (evil.root_pairs, evil.policy_pairs) = (vec![pair(601)], vec![pair(602)]);
    evil.name_signers(false);
    next_root(&mut evil, &[&old_root]);
    assert_eq!(Authority::verified(&evil.roots, world.pinned).unwrap_err().code(), "below_threshold");
    // And what a policy says counts only with signatures of theirs.
    let policy = &world.policies[&Scope::Tenant];
    assert!(newest.policy(&dsse::sign_statement(policy, &refs(&world.policy_pairs)).0).is_ok());
    assert_eq!(newest.policy(&dsse::sign_statement(policy, &[&old_root]).0).unwrap_err().code(), "below_threshold");
}

/// Root and policy go back to the pairs of the control plane: signed by these of the old signers, and by the pair that takes over.
fn give_back(handed_over: &mut HandedOver, old: usize) {
    let world = &mut handed_over.world;
    let signers: Vec<Pair> = world.root_pairs.iter().take(old).map(|pair| Pair::from_seeds(&pair.to_seeds())).collect();
    world.root_pairs = vec![Pair::from_seeds(&handed_over.old_root.to_seeds())];
    world.policy_pairs = vec![Pair::from_seeds(&handed_over.old_policy.to_seeds())];
    world.name_signers(false);
    let others: Vec<&Pair> = signers.iter().collect();
    next_root(world, &others);
    next(world);
}

#[test]
fn only_enough_of_the_old_signers_give_root_and_policy_back() {
    let mut back = handed_over();
    give_back(&mut back, 2);
    let held = offer(Some(&back.held), &back.world, &back.world.set()).unwrap();
    let authority = Authority::verified(&back.world.roots, back.world.pinned).unwrap();
    assert!(!authority.is_tenant_held(Kind::Root) && !authority.is_tenant_held(Kind::Policy));
    // From then on the control plane changes policy alone, and the former signers do not.
    next(&mut back.world);
    offer(Some(&held), &back.world, &back.world.set()).unwrap();
    back.world.policy_pairs = vec![pair(501), pair(502)];
    next(&mut back.world);
    refused(offer(Some(&held), &back.world, &back.world.set()), "below_threshold");

    // One of two is not enough, and nobody at all even less: whoever stole the control plane takes nothing back.
    for too_few in [0, 1] {
        let mut stolen = handed_over();
        give_back(&mut stolen, too_few);
        refused(offer(Some(&stolen.held), &stolen.world, &stolen.world.set()), "below_threshold");
    }
}
