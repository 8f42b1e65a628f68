//! One test for each attack on what an agent believes, named after it. Each first shows that the honest set is believed,
//! or changes one thing in a set that otherwise would be.

mod attacks {
    mod authorities;
    mod composite;
    mod context_key;
    mod evidence;
    mod external;
    mod inbox;
    mod lease;
    mod movement;
    mod neighbours;
    mod recovery;
    mod rotation;
    mod signers;
}

use std::{collections::BTreeMap, time::Duration};

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    id::{AgentId, KeyId, KeyVersion, ProjectId, SiteId, TenantId},
    key::{Durability, Purpose, RevocationReason, RotationRule, VersionState},
    wire::agent::StatementSet,
};
use trust::{
    accept::{AcceptedSet, Confirmed, Held, Rejection, accept, restore},
    document::{self, HolderReport, HolderStatus, VersionRecord},
    dsse::{self, Envelope},
    pair::Pair,
    statement::{
        Kind, Scope, Statement,
        policy::{Resumption, SerialText},
        root::LedgerRule,
        state::{KeyState, Revocation, Subject, TemplatedKey, VersionEntry, Vouch},
    },
    testing::{AGENT, CALLER, KEY, OTHER_AGENT, PROJECT, SITE, START, World, definition, fingerprint, pair, policy, refs},
    time::{AgentTime, Freshness, Moment, Reading},
};

const DAY: Duration = Duration::from_secs(86_400);

fn offer(current: Option<&AcceptedSet>, world: &World, set: &StatementSet) -> Result<AcceptedSet, Rejection> {
    accept(current, set, &world.identity(), &Confirmed::default(), world.now())
}

/// The honest set is believed.
fn honest(world: &World) -> AcceptedSet {
    offer(None, world, &world.set()).unwrap()
}

#[track_caller]
fn refused(result: Result<AcceptedSet, Rejection>, code: &str) {
    match result {
        Ok(_) => panic!("it was believed; expected {code}"),
        Err(rejection) => assert_eq!(rejection.code(), code, "{rejection:?}"),
    }
}

/// The world as it stands, offered to an agent that believes nothing yet, is refused.
#[track_caller]
fn refused_anew(world: &World, code: &str) {
    refused(offer(None, world, &world.set()), code);
}

/// The world as it stands, offered to an agent that believes `current`, is refused.
#[track_caller]
fn refused_after(current: &AcceptedSet, world: &World, code: &str) {
    refused(offer(Some(current), world, &world.set()), code);
}

fn version(number: u32) -> KeyVersion {
    KeyVersion::new(KEY, number)
}

#[test]
fn an_honest_set_is_believed_and_the_next_one_too() {
    let mut world = World::new();
    let first = honest(&world);
    assert_eq!(first.version_state(version(1)), Some(VersionState::Active));
    assert_eq!(first.primary(KEY), Some(version(1)));
    assert_eq!(first.fingerprint(version(1)), Some(fingerprint(1)));
    assert_eq!(first.resolve(&"payments/card-data".parse().unwrap()), Some((KEY, None)));
    assert!(first.caller(CALLER).is_some() && first.held(Subject::Caller(CALLER)).is_none());
    assert_eq!(first.agents().len(), 1);
    assert_eq!(first.serials(), "r1.h1.s1.t1.p1");
    world.tick();
    let second = offer(Some(&first), &world, &world.set()).unwrap();
    assert_ne!(first.digest(), second.digest());
    let again = offer(Some(&second), &world, &world.set()).unwrap();
    assert_eq!(again.digest(), second.digest());
}

#[test]
fn an_accepted_set_is_verified_again_at_start() {
    let mut world = World::new();
    world.state.suspensions.push(Subject::Caller(CALLER));
    let set = honest(&world);
    let bytes = set.to_bytes();
    let restored = restore(&bytes, &world.identity()).unwrap();
    assert_eq!(restored.digest(), set.digest());
    assert_eq!(restored.memory(), set.memory());
    assert_eq!(restored.statements(), set.statements());
    // Years later it is still what it was; how old it is, freshness says.
    world.tick();
    offer(Some(&restored), &world, &world.set()).unwrap();

    let text = String::from_utf8(bytes).unwrap();
    refused(restore(&text.as_bytes()[..text.len() / 2], &world.identity()), "cache_unreadable");
    let mut other = world.identity();
    other.root = Digest([9; 32]);
    refused(restore(text.as_bytes(), &other), "root_not_pinned");
    let mut statements = set.statements();
    statements.state = Some(flip(&statements.state.unwrap()));
    let original = set.statements().state.unwrap().to_string();
    let damaged = text.replace(&original, &statements.state.unwrap().to_string());
    assert_ne!(damaged, text);
    refused(restore(damaged.as_bytes(), &world.identity()), "signature_wrong");
}

/// One bit of the last signature is another.
fn flip(bytes: &Base64) -> Base64 {
    let mut envelope = Envelope::parse(bytes.as_slice(), 1 << 24).unwrap();
    envelope.signatures.last_mut().unwrap().bytes[7] ^= 1;
    envelope.to_bytes().into()
}

// Check 1: size before parsing.

#[test]
fn oversized_before_parsing() {
    let world = World::new();
    for (kind, place) in [(Kind::Heartbeat, 0), (Kind::Root, 1)] {
        let mut set = world.set();
        let junk = Base64(vec![b'{'; kind.max_bytes() + 1]);
        if place == 0 {
            set.heartbeat = Some(junk)
        } else {
            set.roots[0] = junk
        }
        refused(offer(None, &world, &set), "oversized");
    }
    let mut set = world.set();
    set.roots = vec![Base64(Vec::new()); 30_000];
    refused(offer(None, &world, &set), "oversized");
}

// Check 2: known format, and nothing in `requires` that is not understood.

#[test]
fn truncated() {
    let world = World::new();
    let mut set = world.set();
    let state = set.state.unwrap().0;
    set.state = Some(state[..state.len() - 1].into());
    refused(offer(None, &world, &set), "unreadable");
}

#[test]
fn unknown_requires() {
    let mut world = World::new();
    world.state.head.requires.push("blood-moon".to_owned());
    refused_anew(&world, "unknown_requirement");
}

#[test]
fn unknown_format() {
    let mut world = World::new();
    world.state.head.format = "application/vnd.freehold.state2+json".to_owned();
    refused_anew(&world, "unknown_format");
}

#[test]
fn another_kind_in_the_place_of_one() {
    let world = World::new();
    let mut set = world.set();
    set.state = set.heartbeat.clone();
    refused(offer(None, &world, &set), "other_kind");
}

#[test]
fn a_member_that_stands_twice() {
    let world = World::new();
    let mut set = world.set();
    let state = serde_json::to_string(&world.state).unwrap().replacen("\"slots_used\":1", "\"slots_used\":1,\"slots_used\":9", 1);
    let envelope = Envelope::sign(Kind::State.media_type(), Kind::State.context(), state.into_bytes(), &refs(&world.state_pairs));
    set.state = Some(envelope.to_bytes().into());
    refused(offer(None, &world, &set), "unreadable");
}

// Check 3: signatures and threshold against pinned signers.

#[test]
fn another_root_than_the_pinned() {
    let world = World::new();
    let mut identity = world.identity();
    identity.root = Digest([7; 32]);
    refused(accept(None, &world.set(), &identity, &Confirmed::default(), world.now()), "root_not_pinned");
}

#[test]
fn one_signature_of_a_pair_missing() {
    let world = World::new();
    for missing in 0..2 {
        let mut set = world.set();
        let mut envelope = Envelope::parse(set.state.unwrap().as_slice(), 1 << 24).unwrap();
        envelope.signatures.remove(missing);
        set.state = Some(envelope.to_bytes().into());
        refused(offer(None, &world, &set), "signature_missing");
    }
}

#[test]
fn one_signature_of_a_pair_wrong() {
    let world = World::new();
    for wrong in 0..2 {
        let mut set = world.set();
        let mut envelope = Envelope::parse(set.state.unwrap().as_slice(), 1 << 24).unwrap();
        envelope.signatures[wrong].bytes[5] ^= 1;
        set.state = Some(envelope.to_bytes().into());
        refused(offer(None, &world, &set), "signature_wrong");
    }
}

#[test]
fn signed_under_the_context_of_another_kind() {
    let world = World::new();
    let mut set = world.set();
    let payload = serde_json::to_vec(&world.state).unwrap();
    let envelope = Envelope::sign(Kind::State.media_type(), Kind::Policy.context(), payload, &refs(&world.state_pairs));
    set.state = Some(envelope.to_bytes().into());
    refused(offer(None, &world, &set), "signature_wrong");
}

#[test]
fn signed_by_the_role_of_another_kind() {
    let world = World::new();
    let mut set = world.set();
    set.state = Some(dsse::sign_statement(&world.state, &refs(&world.heartbeat_pairs)).0.into());
    refused(offer(None, &world, &set), "below_threshold");
}

#[test]
fn below_threshold() {
    let mut world = World::new();
    world.state_pairs.push(pair(33));
    let world = rebuilt(world);
    honest(&world);
    let mut set = world.set();
    set.state = Some(dsse::sign_statement(&world.state, &[&world.state_pairs[0]]).0.into());
    refused(offer(None, &world, &set), "below_threshold");
}

#[test]
fn one_pair_counted_twice() {
    let mut world = World::new();
    world.state_pairs.push(pair(33));
    let world = rebuilt(world);
    let mut set = world.set();
    set.state = Some(dsse::sign_statement(&world.state, &[&world.state_pairs[0], &world.state_pairs[0]]).0.into());
    refused(offer(None, &world, &set), "below_threshold");
}

#[test]
fn two_pairs_that_share_a_key() {
    let mut world = World::new();
    let mut seeds = world.state_pairs[0].to_seeds();
    seeds[40] ^= 1;
    world.state_pairs.push(Pair::from_seeds(&seeds));
    refused_anew(&rebuilt(world), "pairs_share_a_key");
}

#[test]
fn a_pair_under_the_key_id_of_another() {
    let mut world = World::new();
    let evil = pair(66).public().to_signer(false);
    let keyid = world.state_pairs[0].keyid();
    world.root.signers.insert(keyid, evil);
    refused_anew(&resigned(world), "root_unsound");
}

#[test]
fn a_threshold_of_nobody() {
    let mut world = World::new();
    world.root.roles.get_mut(&Kind::State).unwrap().threshold = 0;
    refused_anew(&resigned(world), "root_unsound");
}

#[test]
fn a_pair_of_the_control_plane_among_the_tenants_own() {
    let mut world = World::tenant_held();
    let evil = world.state_pairs[0].keyid();
    world.root.roles.get_mut(&Kind::Policy).unwrap().signers.push(evil);
    refused_anew(&resigned(world), "root_unsound");
}

/// The first root again, after its signers changed.
fn rebuilt(mut world: World) -> World {
    world.name_signers(false);
    resigned(world)
}

/// The first root again, as it stands.
fn resigned(mut world: World) -> World {
    let (bytes, pinned) = dsse::sign_statement(&world.root, &refs(&world.root_pairs));
    (world.roots, world.pinned) = (vec![bytes.into()], pinned);
    world
}

#[test]
fn a_root_that_the_old_signers_did_not_sign() {
    let mut world = World::new();
    let current = honest(&world);
    let evil = pair(66);
    world.root_pairs = vec![evil];
    world.name_signers(false);
    let evil = pair(66);
    world.next_root(&[&evil]);
    refused_after(&current, &world, "below_threshold");
}

#[test]
fn a_root_that_its_own_signers_did_not_sign() {
    let mut world = World::new();
    let current = honest(&world);
    let old = std::mem::replace(&mut world.root_pairs, vec![pair(44)]);
    world.name_signers(false);
    world.next_root(&refs(&old));
    refused_after(&current, &world, "below_threshold");
}

#[test]
fn signers_that_a_newer_root_has_removed() {
    let mut world = World::new();
    let current = honest(&world);
    let old = std::mem::replace(&mut world.state_pairs, vec![pair(44)]);
    world.name_signers(false);
    let root_pairs = [pair(1)];
    world.next_root(&refs(&root_pairs));
    world.tick();
    let believed = offer(Some(&current), &world, &world.set()).unwrap();
    assert_eq!(believed.root().head.serial, 2);
    world.tick();
    world.state_pairs = old;
    refused_after(&believed, &world, "below_threshold");
}

// Check 4: right tenant, site, agent.

#[test]
fn swapped_tenant() {
    let other = TenantId::from_bits(99);
    let mut world = World::new();
    world.state.head.tenant = other;
    refused_anew(&world, "other_tenant");
    let mut world = World::new();
    world.heartbeat.head.tenant = other;
    refused_anew(&world, "other_tenant");
    let mut world = World::new();
    world.project_policy().head.tenant = other;
    refused_anew(&world, "other_tenant");
    let mut world = World::new();
    world.root.head.tenant = other;
    refused_anew(&resigned(world), "other_tenant");
}

#[test]
fn swapped_site() {
    let other = SiteId::from_bits(99);
    let mut world = World::new();
    world.state.head.site = Some(other);
    refused_anew(&world, "other_site");
    let mut world = World::new();
    world.heartbeat.head.site = Some(other);
    refused_anew(&world, "other_site");
    let mut world = World::new();
    world.policies.insert(Scope::Site(other), policy(Scope::Site(other)));
    refused_anew(&world, "other_site");
}

#[test]
fn a_statement_for_another_agent() {
    let mut world = World::new();
    world.state.head.agent = Some(OTHER_AGENT);
    refused_anew(&world, "other_agent");
}

#[test]
fn a_statement_that_says_not_plainly_what_it_is_for() {
    let mut world = World::new();
    world.state.head.site = None;
    refused_anew(&world, "other_scope");
    let mut world = World::new();
    world.project_policy().head.site = Some(SITE);
    refused_anew(&world, "other_scope");
}

// Check 5: newer, or the same with the same hash.

#[test]
fn older_serial() {
    let mut world = World::new();
    let old = world.set();
    world.tick();
    world.tick_policy(Scope::Tenant);
    let current = honest(&world);
    refused(offer(Some(&current), &world, &old), "older");
    // The state alone is old, under a new heartbeat.
    world.tick();
    world.state.head.serial = 1;
    refused_after(&current, &world, "older");
    // Only the policy is.
    world.state.head.serial = 9;
    world.policies.get_mut(&Scope::Tenant).unwrap().head.serial = 1;
    refused_after(&current, &world, "older");
}

#[test]
fn older_epoch() {
    let mut world = World::new();
    let current = honest(&world);
    world.tick();
    world.state.head.epoch = 0;
    refused_after(&current, &world, "older");
    refused_anew(&world, "wrong_epoch");
}

#[test]
fn same_serial_with_other_bytes() {
    let mut world = World::new();
    let current = honest(&world);
    world.heartbeat.head.serial += 1;
    world.state.suspensions.push(Subject::Key(KEY));
    refused_after(&current, &world, "equivocation");
    let mut world = World::new();
    world.root.head.issued = START.plus(DAY);
    let root = dsse::sign_statement(&world.root, &refs(&world.root_pairs)).0;
    let mut set = world.set();
    set.roots.push(root.into());
    refused(offer(Some(&current), &world, &set), "equivocation");
}

#[test]
fn an_epoch_that_nobody_here_confirmed() {
    let mut world = World::new();
    let current = honest(&world);
    recover(&mut world);
    let set = world.set();
    refused(offer(Some(&current), &world, &set), "epoch_not_confirmed");
    let confirmed = Confirmed { epoch: Some(2), ..Confirmed::default() };
    let recovered = accept(Some(&current), &set, &world.identity(), &confirmed, world.now()).unwrap();
    assert_eq!(recovered.root().head.epoch, 2);
    assert_eq!(restore(&recovered.to_bytes(), &world.identity()).unwrap().digest(), recovered.digest());
    // What was before the recovery is now of an older epoch.
    let mut before = World::new();
    before.tick();
    refused(offer(Some(&recovered), &world, &before.set()), "older");
}

/// The next root begins the next epoch; state and heartbeat begin again.
fn recover(world: &mut World) {
    world.root.head.epoch += 1;
    let root_pairs = [pair(1)];
    world.next_root(&refs(&root_pairs));
    for head in [&mut world.state.head, &mut world.heartbeat.head] {
        (head.epoch, head.serial) = (2, 1);
    }
}

#[test]
fn a_recovery_that_forgets() {
    let mut world = World::new();
    world.state.suspensions.push(Subject::Caller(CALLER));
    world.state.revocations.push(Revocation { subject: Subject::Agent(OTHER_AGENT), reason: RevocationReason::Unspecified, at: START });
    let second = world.version(2, VersionState::Active, START.plus(DAY));
    world.state.head.issued = START.plus(DAY * 2);
    world.key().versions.insert(2, second);
    world.key().versions.get_mut(&1).unwrap().state = VersionState::Deactivated;
    world.key().primary = 2;
    world.tick_policy(Scope::Tenant);
    let current = honest(&world);
    let confirmed = Confirmed { epoch: Some(2), ..Confirmed::default() };

    let mut restored = World::new();
    recover(&mut restored);
    let offered = |world: &World| accept(Some(&current), &world.set(), &world.identity(), &confirmed, world.now());
    refused(offered(&restored), "older"); // the policy's serial fell
    restored.policies = world.policies.clone();
    refused(offered(&restored), "versions_missing");
    restored.state.keys = world.state.keys.clone();
    let recovered = offered(&restored).unwrap();
    assert_eq!(recovered.held(Subject::Caller(CALLER)), Some(Held::Suspended));
    assert_eq!(recovered.held(Subject::Agent(OTHER_AGENT)), Some(Held::Revoked(RevocationReason::Unspecified)));
}

#[test]
fn a_policy_of_the_site_left_out() {
    let mut world = World::new();
    let site = Scope::Site(SITE);
    world.policies.insert(site, policy(site));
    let current = honest(&world);
    world.tick();
    world.policies.remove(&site);
    refused_after(&current, &world, "policy_forgotten");
}

// Check 6: no gap in roots.

#[test]
fn gap_in_roots() {
    let mut world = World::new();
    let current = honest(&world);
    let root_pairs = [pair(1)];
    world.next_root(&refs(&root_pairs));
    world.next_root(&refs(&root_pairs));
    world.tick();
    offer(Some(&current), &world, &world.set()).unwrap();
    world.roots.remove(1);
    refused_after(&current, &world, "root_gap");
    refused_anew(&world, "root_gap");
}

// Check 7: not expired.

#[test]
fn expired() {
    let world = World::new();
    let at = |wall: Timestamp| accept(None, &world.set(), &world.identity(), &Confirmed::default(), Moment { signed: START, wall });
    at(START.plus(Duration::from_secs(3600))).unwrap();
    refused(at(START.plus(Duration::from_secs(3601))), "expired");
    let late = Moment { signed: START.plus(DAY), wall: START };
    refused(accept(None, &world.set(), &world.identity(), &Confirmed::default(), late), "expired");

    for kind in [Kind::Root, Kind::Policy, Kind::State] {
        let mut world = World::new();
        let gone = START.minus(Duration::from_secs(1));
        match kind {
            Kind::Root => world.root.head.expires = gone,
            Kind::Policy => world.project_policy().head.expires = gone,
            _ => world.state.head.expires = gone,
        }
        refused_anew(&resigned(world), "expired");
    }
}

#[test]
fn not_yet() {
    let mut world = World::new();
    world.state.head.not_before = START.plus(DAY);
    refused_anew(&world, "not_yet");
}

#[test]
fn a_heartbeat_far_ahead_of_both_clocks() {
    let world = World::new();
    let behind = START.minus(DAY);
    let at = |signed, wall| accept(None, &world.set(), &world.identity(), &Confirmed::default(), Moment { signed, wall });
    refused(at(behind, behind), "far_ahead");
    // One of the two clocks is enough to believe it.
    at(behind, START).unwrap();
    at(START, behind).unwrap();
}

#[test]
fn clock_moved_both_ways() {
    let world = World::new();
    let reading = |wall, seconds| Reading { wall, since_boot: Duration::from_secs(seconds), boot: "one" };
    let mut time = AgentTime::unknown(&reading(START, 0));
    let set = accept(None, &world.set(), &world.identity(), &Confirmed::default(), time.now(&reading(START, 0))).unwrap();
    time.heard(set.told(), &reading(START, 0));
    let rule = set.offline_rule();
    let after = |time: &mut AgentTime, wall, days: u64| Freshness::of(set.told(), time.now(&reading(wall, days * 86_400)), &rule);
    // Eight days later, with a clock set back to the start.
    assert_eq!(after(&mut time.clone(), START, 8), Freshness::Expired);
    // At once, with a clock set forward: older, and young again when it is set right.
    assert_eq!(after(&mut time, START.plus(DAY * 9), 0), Freshness::Expired);
    assert_eq!(after(&mut time, START, 0), Freshness::Fresh);
    // A clock set back does not bring an old heartbeat back.
    let moment = time.now(&reading(START, 2 * 3600));
    refused(accept(None, &world.set(), &world.identity(), &Confirmed::default(), moment), "expired");
}

#[test]
fn reboot_offline() {
    let world = World::new();
    let set = honest(&world);
    let reading = |boot: &'static str, seconds| Reading { wall: Timestamp::from_micros(0), since_boot: Duration::from_secs(seconds), boot };
    let mut time = AgentTime::unknown(&reading("one", 0));
    time.heard(set.told(), &reading("one", 0));
    time.now(&reading("one", 86_000));
    let stored = serde_json::to_vec(&time.stored()).unwrap();
    // The wall clock starts in 1970; what was counted before the reboot is not lost.
    let restored = restore(&set.to_bytes(), &world.identity()).unwrap();
    let mut time = AgentTime::restore(&serde_json::from_slice(&stored).unwrap(), &reading("two", 400));
    assert_eq!(Freshness::of(restored.told(), time.now(&reading("two", 400)), &restored.offline_rule()), Freshness::Grace);
}

// Check 8: the set is exactly what the heartbeat pins.

#[test]
fn incomplete_set() {
    let mut world = World::new();
    let current = honest(&world);
    world.tick();
    let missing: [fn(&mut StatementSet); 5] = [
        |set| set.policies.truncate(1),
        |set| set.policies.clear(),
        |set| set.state = None,
        |set| set.heartbeat = None,
        |set| (set.state, set.heartbeat) = (None, None),
    ];
    for missing in missing {
        let mut set = world.set();
        missing(&mut set);
        for current in [None, Some(&current)] {
            let result = offer(current, &world, &set);
            let code = result.map(|_| ()).unwrap_err().code();
            assert!(code == "incomplete" || code == "policy_forgotten", "{code}");
        }
    }
}

#[test]
fn heartbeat_that_pins_another_set() {
    let world = World::new();
    let other = Digest([5; 32]);
    for place in 0..5 {
        let set = world.set_pinning(|heartbeat| match place {
            0 => heartbeat.root.sha256 = other,
            1 => heartbeat.state.sha256 = other,
            2 => heartbeat.tenant_policy.sha256 = other,
            3 => heartbeat.project_policies.get_mut(&PROJECT).unwrap().serial = 7,
            _ => heartbeat.state.serial = 7,
        });
        refused(offer(None, &world, &set), "pinned_other");
    }
    let set = world.set_pinning(|heartbeat| heartbeat.project_policies.clear());
    refused(offer(None, &world, &set), "not_pinned");
}

#[test]
fn policy_alone_counts_only_when_the_tenant_signed_it() {
    let policy_only = |world: &World| {
        let mut set = world.set();
        (set.state, set.heartbeat) = (None, None);
        set
    };
    let mut world = World::new();
    let current = honest(&world);
    world.tick_policy(Scope::Tenant);
    refused(offer(Some(&current), &world, &policy_only(&world)), "incomplete");

    let mut world = World::tenant_held();
    let current = honest(&world);
    world.tick_policy(Scope::Tenant);
    let by_file = offer(Some(&current), &world, &policy_only(&world)).unwrap();
    assert_eq!((by_file.told(), by_file.serials().as_str()), (current.told(), "r1.h1.s1.t2.p1"));
    assert_eq!(restore(&by_file.to_bytes(), &world.identity()).unwrap().digest(), by_file.digest());
    refused(offer(Some(&by_file), &world, &policy_only(&world)), "incomplete"); // nothing in it is newer
    // The control plane does not have it yet: its set still counts, under the newer policy.
    let mut behind = World::tenant_held();
    behind.tick();
    let refreshed = offer(Some(&by_file), &behind, &behind.set()).unwrap();
    assert_eq!(refreshed.serials(), "r1.h2.s2.t2.p1");
    // And then it has.
    world.tick();
    world.tick();
    let caught_up = offer(Some(&refreshed), &world, &world.set()).unwrap();
    assert_eq!(caught_up.serials(), "r1.h3.s3.t2.p1");
    behind.tick();
    behind.tick();
    behind.tick();
    refused_after(&caught_up, &behind, "older");
}

// Check 9: state and policy within policy.

#[test]
fn a_policy_that_speaks_of_another_project() {
    let foreign = ProjectId::from_bits(77);
    let mut world = World::new();
    world.project_policy().keys.get_mut(&KEY).unwrap().project = foreign;
    refused_anew(&world, "policy_out_of_scope");
    let mut world = World::new();
    world.project_policy().callers.get_mut(&CALLER).unwrap().project = foreign;
    refused_anew(&world, "policy_out_of_scope");
    let mut world = World::new();
    world.project_policy().templates.values_mut().next().unwrap().project = foreign;
    refused_anew(&world, "policy_out_of_scope");
}

#[test]
fn a_key_that_changes_what_is_fixed_at_creation() {
    let mut world = World::new();
    let current = honest(&world);
    world.tick();
    world.tick_policy(Scope::Project(PROJECT));
    world.project_policy().keys.get_mut(&KEY).unwrap().exportable = true;
    refused_after(&current, &world, "key_redefined");
}

#[test]
fn state_that_invents_a_key() {
    let mut world = World::new();
    world.state.keys.insert(KeyId::from_bits(88), KeyState { primary: 0, versions: BTreeMap::new() });
    refused_anew(&world, "invented_key");
}

#[test]
fn state_that_invents_a_key_outside_its_template() {
    let made = KeyId::from_bits(88);
    let with = |change: &dyn Fn(&mut TemplatedKey)| {
        let mut world = World::new();
        let mut key = TemplatedKey { template: "cards".parse().unwrap(), definition: world.templated() };
        change(&mut key);
        world.state.templated.insert(made, key);
        world.state.keys.insert(made, KeyState { primary: 0, versions: BTreeMap::new() });
        world
    };
    assert!(honest(&with(&|_| {})).keys().contains_key(&made));
    let changes: [&dyn Fn(&mut TemplatedKey); 12] = [
        &|key| key.template = "other".parse().unwrap(),
        &|key| key.definition.algorithm = "ML-DSA-65".parse().unwrap(),
        &|key| key.definition.purpose = Purpose::Sign,
        &|key| key.definition.placement.push(SiteId::from_bits(9)),
        &|key| key.definition.labels = [("a".parse().unwrap(), "b".parse().unwrap())].into(),
        &|key| key.definition.durability = Durability::SealedBackup,
        &|key| key.definition.exportable = true,
        &|key| key.definition.rotation.every_seconds = Some(1),
        &|key| key.definition.rotation.calendar = Some("* * * * *".parse().unwrap()),
        &|key| key.definition.rotation.after_uses = Some(1),
        &|key| key.definition.rotation.destroy_after_seconds = Some(3600),
        &|key| key.definition.limits.hard_uses = Some(1),
    ];
    for change in changes {
        refused_anew(&with(change), "outside_template");
    }
    let mut world = with(&|_| {});
    let second = TemplatedKey {
        template: "cards".parse().unwrap(),
        definition: trust::statement::policy::KeyDefinition { name: "more".parse().unwrap(), ..definition() },
    };
    world.state.templated.insert(KeyId::from_bits(89), second);
    refused_anew(&world, "outside_template"); // the template allows one
    refused_anew(&with(&|key| key.definition.name = "card-data".parse().unwrap()), "name_taken");
    refused_anew(&with(&|key| key.definition.aliases.push("card-data".parse().unwrap())), "name_taken");
    refused_anew(&with(&|key| key.definition.project_name = "other".parse().unwrap()), "name_taken");
}

#[test]
fn templates_of_two_projects_that_share_a_name_count_their_own_keys() {
    let mut world = World::new();
    let other = ProjectId::from_bits(33);
    let mut policy = trust::testing::policy(Scope::Project(other));
    let mut template = world.project_policy().templates.clone();
    template.values_mut().for_each(|template| template.project = other);
    policy.templates = template;
    world.policies.insert(Scope::Project(other), policy);
    let mut theirs = world.templated();
    (theirs.project, theirs.project_name) = (other, "other".parse().unwrap());
    for (key, definition) in [(88, world.templated()), (89, theirs)] {
        world.state.templated.insert(KeyId::from_bits(key), TemplatedKey { template: "cards".parse().unwrap(), definition });
        world.state.keys.insert(KeyId::from_bits(key), KeyState { primary: 0, versions: BTreeMap::new() });
    }
    assert_eq!(honest(&world).keys().len(), 3);
}

#[test]
fn a_key_that_is_not_placed_here() {
    let mut world = World::new();
    world.project_policy().keys.get_mut(&KEY).unwrap().placement = vec![SiteId::from_bits(9)];
    refused_anew(&world, "not_placed_here");
}

/// A second version, a day after the first, that is now the primary; the first is deactivated.
fn rotated() -> World {
    let mut world = World::new();
    let created = START.plus(DAY);
    for head in [&mut world.state.head, &mut world.heartbeat.head] {
        head.serial += 1;
        (head.issued, head.not_before, head.expires) = (created, created, created.plus(Duration::from_secs(3600)));
    }
    let second = world.version(2, VersionState::Active, created);
    world.key().versions.insert(2, second);
    world.key().versions.get_mut(&1).unwrap().state = VersionState::Deactivated;
    world.key().primary = 2;
    world
}

#[test]
fn state_that_moves_the_primary_back() {
    let mut world = rotated();
    let current = offer(Some(&honest(&World::new())), &world, &world.set()).unwrap();
    assert_eq!(current.version_state(version(1)), Some(VersionState::Deactivated));
    world.tick();
    world.key().primary = 1;
    refused_after(&current, &world, "primary_went_back");
}

#[test]
fn state_that_drops_a_version() {
    let mut world = rotated();
    let current = honest(&world);
    world.tick();
    world.key().versions.remove(&2);
    world.key().primary = 1;
    refused_after(&current, &world, "versions_missing");
    world = rotated();
    world.key().versions.remove(&1);
    refused_anew(&world, "versions_missing");
}

#[test]
fn a_primary_that_nobody_made() {
    let mut world = World::new();
    world.key().primary = 2;
    refused_anew(&world, "primary_not_made");
    let mut world = World::new();
    let entry = world.key().versions.get_mut(&1).unwrap();
    (entry.state, entry.record, entry.ready) = (VersionState::PreActivation, None, BTreeMap::new());
    refused_anew(&world, "primary_not_made");
}

#[test]
fn state_that_takes_a_version_back() {
    let mut world = rotated();
    let current = honest(&world);
    world.tick();
    world.key().versions.get_mut(&1).unwrap().state = VersionState::Active;
    refused_after(&current, &world, "version_went_back");
    world.key().versions.get_mut(&1).unwrap().state = VersionState::Deactivated;
    world.key().versions.get_mut(&2).unwrap().state = VersionState::PreActivation;
    world.key().primary = 2;
    refused_after(&current, &world, "primary_not_made");
}

#[test]
fn a_new_version_sooner_than_the_rule_allows() {
    let slow = |mut world: World| {
        world.project_policy().keys.get_mut(&KEY).unwrap().rotation =
            RotationRule { every_seconds: None, min_interval_seconds: Some(2 * 86_400), ..Default::default() };
        world
    };
    let current = honest(&slow(World::new()));
    refused_after(&current, &slow(rotated()), "too_soon");
    // Dated later than the state itself, so that it seems far enough.
    let mut world = slow(rotated());
    world.key().versions.get_mut(&2).unwrap().created = START.plus(DAY * 3);
    refused_after(&current, &world, "too_soon");
}

#[test]
fn state_that_lifts_a_suspension() {
    for subject in [Subject::Caller(CALLER), Subject::Key(KEY), Subject::Project(PROJECT), Subject::Version(version(1))] {
        let mut world = World::new();
        world.state.suspensions.push(subject);
        let current = honest(&world);
        assert_eq!(current.held(subject), Some(Held::Suspended));
        if subject != Subject::Caller(CALLER) {
            assert_eq!(current.version_state(version(1)), Some(VersionState::Suspended));
        }
        // Forgotten by the next state, it holds all the same, and at the next start too.
        world.tick();
        world.state.suspensions.clear();
        let later = offer(Some(&current), &world, &world.set()).unwrap();
        assert_eq!(later.held(subject), Some(Held::Suspended));
        let restored = restore(&later.to_bytes(), &world.identity()).unwrap();
        assert_eq!(restored.held(subject), Some(Held::Suspended));
        // Only policy lifts it, up to the state that it names.
        world.tick();
        world.tick_policy(Scope::Project(PROJECT));
        let resumption = |serial| Resumption { subject, up_to_state_serial: [(SITE, SerialText(serial))].into() };
        world.project_policy().resumptions = vec![resumption(0)];
        let not_enough = offer(Some(&restored), &world, &world.set()).unwrap();
        assert_eq!(not_enough.held(subject), Some(Held::Suspended));
        world.tick();
        world.tick_policy(Scope::Project(PROJECT));
        world.project_policy().resumptions = vec![resumption(1)];
        let lifted = offer(Some(&not_enough), &world, &world.set()).unwrap();
        assert_eq!(lifted.held(subject), None);
        assert_eq!(lifted.version_state(version(1)), Some(VersionState::Active));
        // Suspended anew, the old resumption does not reach it.
        world.tick();
        world.state.suspensions.push(subject);
        let again = offer(Some(&lifted), &world, &world.set()).unwrap();
        assert_eq!(again.held(subject), Some(Held::Suspended));
    }
}

#[test]
fn state_or_a_project_that_lifts_the_suspension_of_a_site() {
    let subject = Subject::Site(SITE);
    let mut world = World::new();
    world.state.suspensions.push(subject);
    let current = honest(&world);
    assert_eq!((current.held(subject), current.version_state(version(1))), (Some(Held::Suspended), Some(VersionState::Suspended)));
    // Neither forgetting it nor a project's policy brings the site back.
    world.tick();
    world.state.suspensions.clear();
    world.tick_policy(Scope::Project(PROJECT));
    let resumption = Resumption { subject, up_to_state_serial: [(SITE, SerialText(99))].into() };
    world.project_policy().resumptions = vec![resumption.clone()];
    let later = offer(Some(&current), &world, &world.set()).unwrap();
    assert_eq!((later.held(subject), later.version_state(version(1))), (Some(Held::Suspended), Some(VersionState::Suspended)));
    // The tenant's does.
    world.tick();
    world.tick_policy(Scope::Tenant);
    world.policies.get_mut(&Scope::Tenant).unwrap().resumptions = vec![resumption];
    let lifted = offer(Some(&later), &world, &world.set()).unwrap();
    assert_eq!((lifted.held(subject), lifted.version_state(version(1))), (None, Some(VersionState::Active)));
    // The suspension of another site is nothing to this one.
    world.tick();
    world.state.suspensions.push(Subject::Site(schema::id::SiteId::from_bits(77)));
    let other = offer(Some(&lifted), &world, &world.set()).unwrap();
    assert_eq!(other.version_state(version(1)), Some(VersionState::Active));
}

#[test]
fn state_that_resumes_a_version() {
    let mut world = World::new();
    world.key().versions.get_mut(&1).unwrap().state = VersionState::Suspended;
    let current = honest(&world);
    world.tick();
    world.key().versions.get_mut(&1).unwrap().state = VersionState::Active;
    let later = offer(Some(&current), &world, &world.set()).unwrap();
    assert_eq!(later.version_state(version(1)), Some(VersionState::Suspended));
}

#[test]
fn state_that_forgets_a_revocation() {
    let mut world = World::new();
    let subject = Subject::Caller(CALLER);
    world.state.revocations.push(Revocation { subject, reason: RevocationReason::KeyCompromise, at: START });
    let current = honest(&world);
    world.tick();
    world.state.revocations.clear();
    let later = offer(Some(&current), &world, &world.set()).unwrap();
    assert_eq!(later.held(subject), Some(Held::Revoked(RevocationReason::KeyCompromise)));
}

#[test]
fn a_project_that_resumes_what_is_not_its_own() {
    let mut world = World::new();
    let subjects = [Subject::Agent(OTHER_AGENT), Subject::Project(ProjectId::from_bits(77)), Subject::Key(KeyId::from_bits(78))];
    world.state.suspensions = subjects.to_vec();
    let resumption = |subject: &Subject| Resumption { subject: *subject, up_to_state_serial: [(SITE, SerialText(99))].into() };
    world.project_policy().resumptions = subjects.iter().map(resumption).collect();
    let set = honest(&world);
    assert!(subjects.iter().all(|subject| set.held(*subject) == Some(Held::Suspended)));
}

#[test]
fn state_that_destroys_or_compromises_by_itself() {
    for state in [VersionState::Destroyed, VersionState::Compromised] {
        let mut world = World::new();
        let current = honest(&world);
        world.tick();
        world.key().versions.get_mut(&1).unwrap().state = state;
        let held = offer(Some(&current), &world, &world.set()).unwrap();
        assert_eq!(held.version_state(version(1)), Some(VersionState::Suspended), "it acts as a suspension");
        assert!(!held.destruction_confirmed(version(1)));
        world.tick();
        world.tick_policy(Scope::Project(PROJECT));
        match state {
            VersionState::Destroyed => world.project_policy().destructions.push(version(1)),
            _ => world.project_policy().compromises.push(version(1)),
        }
        let confirmed = offer(Some(&held), &world, &world.set()).unwrap();
        assert_eq!(confirmed.version_state(version(1)), Some(state));
        assert_eq!(confirmed.destruction_confirmed(version(1)), state == VersionState::Destroyed);
        // A tombstone is for ever, whatever becomes of the confirmation.
        world.tick();
        world.tick_policy(Scope::Project(PROJECT));
        (world.project_policy().destructions, world.project_policy().compromises) = (Vec::new(), Vec::new());
        let later = offer(Some(&confirmed), &world, &world.set()).unwrap();
        assert_eq!(later.version_state(version(1)), Some(state));
        world.tick();
        world.key().versions.get_mut(&1).unwrap().state = VersionState::Active;
        refused_after(&later, &world, "version_went_back");
    }
}

#[test]
fn a_deactivated_primary_still_opens_what_it_sealed() {
    let deactivated = || {
        let mut world = World::new();
        world.tick();
        world.key().versions.get_mut(&1).unwrap().state = VersionState::Deactivated;
        world
    };
    let revoked = || {
        let mut world = deactivated();
        let subject = Subject::Version(version(1));
        world.state.revocations.push(Revocation { subject, reason: RevocationReason::Superseded, at: START });
        world
    };
    for world in [&mut deactivated(), &mut revoked()] {
        let seen = offer(Some(&honest(&World::new())), world, &world.set()).unwrap();
        // An agent that comes now, or missed that it was ever active, has the same data to open.
        let never_active = honest(world);
        let restored = restore(&seen.to_bytes(), &world.identity()).unwrap();
        world.tick();
        let later = offer(Some(&never_active), world, &world.set()).unwrap();
        for set in [seen, never_active, restored, later] {
            assert_eq!(set.version_state(version(1)), Some(VersionState::Deactivated));
        }
    }
}

#[test]
fn a_version_that_was_suspended_and_is_then_deactivated_is_resumed_as_such() {
    for (reason, said) in [
        (None, VersionState::Deactivated),
        (Some(RevocationReason::Superseded), VersionState::Deactivated),
        (Some(RevocationReason::KeyCompromise), VersionState::Compromised),
    ] {
        let subject = Subject::Version(version(1));
        let mut world = World::new();
        let first = honest(&world);
        world.tick();
        world.key().versions.get_mut(&1).unwrap().state = VersionState::Suspended;
        world.state.suspensions.push(subject);
        let suspended = offer(Some(&first), &world, &world.set()).unwrap();
        let serial = world.state.head.serial;
        world.tick();
        world.key().versions.get_mut(&1).unwrap().state = said;
        world.state.suspensions.clear();
        world.state.revocations.extend(reason.map(|reason| Revocation { subject, reason, at: START }));
        // Without a resumption the suspension holds; with it, what came after the suspension stays.
        let unlifted = offer(Some(&suspended), &world, &world.set()).unwrap();
        assert_eq!(unlifted.version_state(version(1)), Some(VersionState::Suspended));
        world.tick();
        world.tick_policy(Scope::Project(PROJECT));
        let policy = world.project_policy();
        policy.resumptions = vec![Resumption { subject, up_to_state_serial: [(SITE, SerialText(serial))].into() }];
        policy.compromises.extend((said == VersionState::Compromised).then_some(version(1)));
        for current in [&suspended, &unlifted] {
            let lifted = offer(Some(current), &world, &world.set()).unwrap();
            assert_eq!(lifted.version_state(version(1)), Some(said), "{reason:?}");
        }
    }
}

#[test]
fn a_generator_that_was_revoked_leaves_what_it_made_before_and_makes_no_more() {
    let mut world = World::new();
    world.join(vec![Vouch::Agent { agent: AGENT, vouch: document::sign(&world.vouch(), &world.agent) }]);
    let slept = honest(&world);
    let made_by_other = |world: &mut World, number| {
        let record = VersionRecord { generator: OTHER_AGENT, ..world.record(number, fingerprint(number)) };
        let ready = HolderReport { holder: OTHER_AGENT, ..world.report(number, fingerprint(number)) };
        let entry = VersionEntry {
            generator: Some(OTHER_AGENT),
            record: Some(document::sign(&record, &world.other_agent)),
            ready: [(OTHER_AGENT, document::sign(&ready, &world.other_agent))].into(),
            backup: None,
            ..world.version(number, VersionState::Active, START)
        };
        world.key().versions.insert(number, entry);
        world.tick();
    };
    made_by_other(&mut world, 2);
    let told = offer(Some(&slept), &world, &world.set()).unwrap();
    let reason = RevocationReason::CessationOfOperation;
    world.state.revocations.push(Revocation { subject: Subject::Agent(OTHER_AGENT), reason, at: START });
    world.tick();
    // Who hears of both at once is not locked out: versions do not go away.
    let after = [&slept, &told].map(|before| offer(Some(before), &world, &world.set()).unwrap());
    made_by_other(&mut world, 3);
    for after in &after {
        assert_eq!(after.version_state(version(2)), Some(VersionState::Active));
        refused_after(after, &world, "ineligible_generator");
    }
}

#[test]
fn state_that_names_an_ineligible_generator() {
    let pending = |world: &mut World, generator| {
        let entry = VersionEntry {
            state: VersionState::PreActivation,
            created: START,
            activated: None,
            generator: Some(generator),
            record: None,
            ready: BTreeMap::new(),
            backup: None,
        };
        world.key().versions.insert(2, entry);
    };
    let mut world = World::new();
    pending(&mut world, AGENT);
    honest(&world);
    pending(&mut world, AgentId::from_bits(55)); // nobody of the roster
    refused_anew(&world, "ineligible_generator");
    pending(&mut world, AGENT);
    world.project_policy().keys.get_mut(&KEY).unwrap().eligible_generators = vec![OTHER_AGENT];
    refused_anew(&world, "ineligible_generator");
    // Made, and seen for the first time by an agent that was there all along.
    let mut world = World::new();
    let only_other = |world: &mut World| world.project_policy().keys.get_mut(&KEY).unwrap().eligible_generators = vec![OTHER_AGENT];
    only_other(&mut world);
    let current = honest(&world);
    let mut world = rotated();
    only_other(&mut world);
    refused_after(&current, &world, "ineligible_generator");
    let mut world = World::new();
    pending(&mut world, AGENT);
    world.state.revocations.push(Revocation { subject: Subject::Agent(AGENT), reason: RevocationReason::Superseded, at: START });
    refused_anew(&world, "ineligible_generator");
}

#[test]
fn a_version_in_use_without_its_proofs() {
    let mut world = World::new();
    world.key().primary = 0;
    world.key().versions.get_mut(&1).unwrap().record = None;
    refused_anew(&world, "record_missing");
    let mut world = World::new();
    world.key().versions.get_mut(&1).unwrap().ready.clear();
    refused_anew(&world, "not_ready");
    let mut world = World::new();
    world.project_policy().keys.get_mut(&KEY).unwrap().durability = Durability::TwoHolders;
    refused_anew(&world, "not_ready");
}

#[test]
fn a_version_record_that_does_not_hold() {
    let with = |change: &dyn Fn(&World) -> Base64| {
        let mut world = World::new();
        let record = change(&world);
        world.key().versions.get_mut(&1).unwrap().record = Some(record);
        world
    };
    let cases: [&dyn Fn(&World) -> Base64; 5] = [
        &|world| document::sign(&world.record(1, fingerprint(1)), &world.state_pairs[0]), // not by the generator
        &|world| document::sign(&world.record(2, fingerprint(1)), &world.agent),
        &|world| {
            let record = trust::document::VersionRecord { algorithm: "ML-DSA-65".parse().unwrap(), ..world.record(1, fingerprint(1)) };
            document::sign(&record, &world.agent)
        },
        &|world| {
            let record = trust::document::VersionRecord { site: SiteId::from_bits(9), ..world.record(1, fingerprint(1)) };
            document::sign(&record, &world.agent)
        },
        &|world| document::sign(&world.report(1, fingerprint(1)), &world.agent), // another document
    ];
    for case in cases {
        refused_anew(&with(case), "document_refused");
    }
}

#[test]
fn a_ready_report_that_does_not_hold() {
    let mut world = World::new();
    let gone = trust::document::HolderReport { status: HolderStatus::Destroyed, ..world.report(1, fingerprint(1)) };
    let report = document::sign(&gone, &world.agent);
    world.key().versions.get_mut(&1).unwrap().ready = [(AGENT, report)].into();
    refused_anew(&world, "document_refused");
    let mut world = World::new();
    let report = document::sign(&world.report(1, fingerprint(2)), &world.agent);
    world.key().versions.get_mut(&1).unwrap().ready = [(AGENT, report)].into();
    refused_anew(&world, "second_fingerprint");
    let mut world = World::new();
    let report = document::sign(&world.report(1, fingerprint(1)), &world.other_agent);
    world.key().versions.get_mut(&1).unwrap().ready = [(OTHER_AGENT, report)].into();
    refused_anew(&world, "not_rostered");
}

#[test]
fn second_fingerprint_for_a_version() {
    let mut world = World::new();
    let current = honest(&world);
    world.tick();
    let record = document::sign(&world.record(1, fingerprint(2)), &world.agent);
    let report = document::sign(&world.report(1, fingerprint(2)), &world.agent);
    let entry = world.key().versions.get_mut(&1).unwrap();
    (entry.record, entry.ready) = (Some(record), [(AGENT, report)].into());
    refused_after(&current, &world, "second_fingerprint");
}

#[test]
fn roster_entry_without_vouch() {
    let mut world = World::new();
    world.join(vec![]);
    let set = honest(&world);
    assert!(!set.agents().contains_key(&OTHER_AGENT));
    assert_eq!(set.waiting_agents().get(&OTHER_AGENT), Some(&world.other_agent.keyid()));
    world.join(vec![Vouch::Enrolment]); // says the control plane
    assert!(!honest(&world).agents().contains_key(&OTHER_AGENT));
    // It may not make versions either.
    let entry = VersionEntry {
        state: VersionState::PreActivation,
        created: START,
        activated: None,
        generator: Some(OTHER_AGENT),
        record: None,
        ready: BTreeMap::new(),
        backup: None,
    };
    world.key().versions.insert(2, entry);
    refused_anew(&world, "ineligible_generator");
}

#[test]
fn vouches_of_those_who_may_not() {
    let mut world = World::new();
    let vouch = document::sign(&world.vouch(), &world.agent);
    world.join(vec![Vouch::Agent { agent: AGENT, vouch: vouch.clone() }]);
    assert!(honest(&world).agents().contains_key(&OTHER_AGENT));
    let believed = |world: &World| honest(world).agents().contains_key(&OTHER_AGENT);

    let by = |pair: &Pair, agent| Vouch::Agent { agent, vouch: document::sign(&World::new().vouch(), pair) };
    world.join(vec![by(&world.other_agent, OTHER_AGENT)]); // for itself
    assert!(!believed(&world));
    world.join(vec![by(&world.state_pairs[0], AGENT)]); // the control plane in an agent's name
    assert!(!believed(&world));
    let other = trust::document::AgentVouch { keyid: Digest([1; 32]), ..world.vouch() };
    world.join(vec![Vouch::Agent { agent: AGENT, vouch: document::sign(&other, &world.agent) }]); // for another pair
    assert!(!believed(&world));
    world.join(vec![by(&world.agent, AGENT)]);
    world.state.suspensions.push(Subject::Agent(AGENT)); // held back itself
    assert!(!believed(&world));
    world.state.suspensions.clear();
    world.policies.get_mut(&Scope::Tenant).unwrap().vouching.agents_needed = 2;
    assert!(!believed(&world));
    world.policies.get_mut(&Scope::Tenant).unwrap().vouching =
        trust::statement::policy::VouchingRule { agents: false, agents_needed: 1, signers: true };
    assert!(!believed(&world));

    // Policy signers vouch only where the tenant holds them.
    for (mut world, counts) in [(World::new(), false), (World::tenant_held(), true)] {
        let vouch = dsse::sign_document(&world.vouch(), &refs(&world.policy_pairs));
        world.join(vec![Vouch::Signers { vouch: vouch.into() }]);
        assert_eq!(believed(&world), counts);
    }
}

#[test]
fn a_person_at_the_agent_may_vouch_and_only_for_the_pair_they_compared() {
    let mut world = World::new();
    world.join(vec![]);
    let confirm = |keyid| {
        let confirmed = Confirmed { agents: [(OTHER_AGENT, keyid)].into(), ..Confirmed::default() };
        accept(None, &world.set(), &world.identity(), &confirmed, world.now()).unwrap()
    };
    let set = confirm(world.other_agent.keyid());
    assert!(set.agents().contains_key(&OTHER_AGENT));
    // It stays believed, without being asked again.
    assert!(restore(&set.to_bytes(), &world.identity()).unwrap().agents().contains_key(&OTHER_AGENT));
    assert!(!confirm(world.agent.keyid()).agents().contains_key(&OTHER_AGENT));
}

#[test]
fn a_believed_agent_with_another_pair() {
    let mut world = World::new();
    let vouch = document::sign(&world.vouch(), &world.agent);
    world.join(vec![Vouch::Agent { agent: AGENT, vouch }]);
    let current = honest(&world);
    let old = std::mem::replace(&mut world.other_agent, pair(77));
    world.tick();
    world.join(vec![]);
    let later = offer(Some(&current), &world, &world.set()).unwrap();
    assert!(!later.agents().contains_key(&OTHER_AGENT));
    // Its own previous pair may vouch for it.
    world.tick();
    let vouch = document::sign(&world.vouch(), &old);
    world.join(vec![Vouch::Previous { keyid: old.keyid(), vouch }]);
    let renewed = offer(Some(&later), &world, &world.set()).unwrap();
    assert_eq!(renewed.agents().get(&OTHER_AGENT), Some(world.other_agent.public()));
}

#[test]
fn a_joiner_believes_the_founder_its_enrolment_named() {
    let mut world = World::new();
    let vouch = document::sign(&world.vouch(), &world.agent);
    world.join(vec![Vouch::Agent { agent: AGENT, vouch }]);
    let mut joiner = world.identity();
    (joiner.agent, joiner.keyid, joiner.founder) = (OTHER_AGENT, world.other_agent.keyid(), Some(world.agent.keyid()));
    let set = accept(None, &world.set(), &joiner, &Confirmed::default(), world.now()).unwrap();
    assert_eq!(set.agents().len(), 2);
    // Named another founder, it does not believe the roster, nor what the unbelieved agent made.
    joiner.founder = Some(Digest([1; 32]));
    refused(accept(None, &world.set(), &joiner, &Confirmed::default(), world.now()), "not_rostered");
}

#[test]
fn somebody_poses_as_this_agent() {
    let mut world = World::new();
    let identity = world.identity();
    world.agent = pair(77);
    let entry = document::sign_roster_entry(&world.agent, trust::testing::TENANT, SITE, AGENT, world.pinned, START);
    world.state.roster.get_mut(&AGENT).unwrap().entry = entry;
    refused(accept(None, &world.set(), &identity, &Confirmed::default(), world.now()), "impostor");
}

#[test]
fn a_roster_entry_of_another_site_or_not_by_its_pair() {
    let mut world = World::new();
    let entry = document::sign_roster_entry(&world.agent, trust::testing::TENANT, SiteId::from_bits(9), AGENT, world.pinned, START);
    world.state.roster.get_mut(&AGENT).unwrap().entry = entry;
    refused_anew(&world, "roster_entry");
    let mut world = World::new();
    let mut claimed: trust::document::RosterEntry = dsse::peek_document(world.state.roster[&AGENT].entry.as_slice()).unwrap();
    claimed.issued = START.plus(DAY);
    world.state.roster.get_mut(&AGENT).unwrap().entry = document::sign(&claimed, &world.other_agent);
    refused_anew(&world, "roster_entry");
}

#[test]
fn state_that_forgets_roster_slots() {
    let mut world = World::new();
    world.state.slots_used = 5;
    let current = honest(&world);
    world.tick();
    world.state.slots_used = 4;
    refused_after(&current, &world, "slots_forgotten");
}

// Check 10: the ledger.

#[test]
fn a_root_that_demands_ledger_proofs_is_not_passed_over() {
    let mut world = World::new();
    world.root.ledger = LedgerRule { required: true, ..LedgerRule::default() };
    refused_anew(&resigned(world), "ledger_required");
}

#[test]
fn every_kind_has_its_own_type_and_context() {
    for (index, kind) in Kind::ALL.iter().enumerate() {
        for other in &Kind::ALL[index + 1..] {
            assert_ne!(kind.media_type(), other.media_type());
            assert_ne!(kind.context(), other.context());
        }
    }
    assert_eq!(World::new().state.head().format, Kind::State.media_type());
}
