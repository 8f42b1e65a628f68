//! What an agent believes of leases: one attack after the other on what it may spend.

use std::time::Duration;

use schema::{
    encoding::Base64,
    id::{KeyId, KeyVersion},
    key::Limits,
    ranges::Ranges,
};
use trust::{
    accept::{AcceptedSet, LeaseMemory, Rejection, accept_lease},
    dsse::{self, Envelope},
    statement::lease::{Lease, Leased, Share},
    testing::{KEY, OTHER_AGENT, SITE, World, refs},
};

use crate::{honest, version};

/// A key of which a version protects a hundred times, and an agent that believes so.
fn limited() -> (World, AcceptedSet) {
    let mut world = World::new();
    world.project_policy().keys.get_mut(&KEY).unwrap().limits =
        Limits { hard_uses: Some(100), hard_bytes: Some(1000), ..Limits::default() };
    let set = honest(&world);
    (world, set)
}

fn gives(uses: Ranges, bytes: Ranges) -> impl FnOnce(&mut Lease) {
    move |lease| drop(lease.budgets.insert(version(1), Leased { share: Share { uses, bytes }, ..Leased::default() }))
}

fn judge(world: &World, set: &AcceptedSet, bytes: &Base64, memory: &LeaseMemory) -> Result<trust::accept::AcceptedLease, Rejection> {
    accept_lease(set, bytes, memory, Some(world.now()))
}

#[track_caller]
fn refused<T>(result: Result<T, Rejection>, code: &str) {
    match result {
        Ok(_) => panic!("it was believed; expected {code}"),
        Err(rejection) => assert_eq!(rejection.code(), code, "{rejection:?}"),
    }
}

#[test]
fn an_honest_lease_is_believed_and_the_next_one_too() {
    let (world, set) = limited();
    let memory = LeaseMemory::default();
    let first = judge(&world, &set, &world.lease(1, gives(Ranges::of(0, 50), Ranges::of(0, 1000))), &memory).unwrap();
    let share = first.lease().budgets[&version(1)].share.clone();
    let mut memory =
        LeaseMemory { seen: Some(first.seen()), held: [(version(1), share.clone())].into(), spent: [(version(1), share)].into() };
    // What was held may have been spent in the meantime; what is new comes beside it.
    let next = world.lease(2, gives(Ranges::of(20, 80), Ranges::new()));
    let second = judge(&world, &set, &next, &memory).unwrap();
    memory.seen = Some(second.seen());
    judge(&world, &set, &next, &memory).unwrap();
    assert_eq!(second.bytes(), &next);
}

#[test]
fn a_lease_of_another_agent_site_or_tenant() {
    let (world, set) = limited();
    let memory = LeaseMemory::default();
    refused(judge(&world, &set, &world.lease(1, |lease| lease.head.agent = Some(OTHER_AGENT)), &memory), "other_agent");
    refused(judge(&world, &set, &world.lease(1, |lease| lease.head.agent = None), &memory), "other_scope");
    refused(judge(&world, &set, &world.lease(1, |lease| lease.head.site = None), &memory), "other_scope");
    let other = schema::id::SiteId::from_bits(u128::from(SITE.bits() as u64) + 1);
    refused(judge(&world, &set, &world.lease(1, |lease| lease.head.site = Some(other)), &memory), "other_site");
    let tenant = schema::id::TenantId::from_bits(99);
    refused(judge(&world, &set, &world.lease(1, |lease| lease.head.tenant = tenant), &memory), "other_tenant");
}

#[test]
fn a_lease_that_gives_what_was_spent() {
    let (world, set) = limited();
    let share = |from, to| Share { uses: Ranges::of(from, to), bytes: Ranges::of(from, to) };
    let memory = LeaseMemory { seen: None, held: [(version(1), share(0, 20))].into(), spent: [(version(1), share(0, 40))].into() };
    let give = |uses, bytes| judge(&world, &set, &world.lease(1, gives(uses, bytes)), &memory);
    give(Ranges::of(0, 20).union(&Ranges::of(40, 60)), Ranges::of(10, 20)).unwrap();
    refused(give(Ranges::of(0, 21), Ranges::new()), "spent_before");
    refused(give(Ranges::of(39, 60), Ranges::new()), "spent_before");
    refused(give(Ranges::new(), Ranges::of(25, 30)), "spent_before");
}

#[test]
fn a_lease_above_the_ceiling() {
    let (world, set) = limited();
    let give = |uses, bytes| judge(&world, &set, &world.lease(1, gives(uses, bytes)), &LeaseMemory::default());
    give(Ranges::of(99, 100), Ranges::of(999, 1000)).unwrap();
    refused(give(Ranges::of(50, 101), Ranges::new()), "above_ceiling");
    refused(give(Ranges::of(100, 101), Ranges::new()), "above_ceiling");
    refused(give(Ranges::new(), Ranges::of(0, u64::MAX)), "above_ceiling");
}

#[test]
fn a_lease_whose_ranges_overlap() {
    let (world, set) = limited();
    let bytes = world.lease(1, gives(Ranges::of(0, 5).union(&Ranges::of(7, 9)), Ranges::new()));
    let mut envelope = Envelope::parse(bytes.as_slice(), 1 << 20).unwrap();
    let text = String::from_utf8(envelope.payload).unwrap();
    let overlapping: serde_json::Value = serde_json::from_str(&text.replace(r#""from":"7""#, r#""from":"3""#)).unwrap();
    envelope.payload = serde_json::to_vec(&overlapping).unwrap();
    refused(judge(&world, &set, &envelope.to_bytes().into(), &LeaseMemory::default()), "unreadable");
}

#[test]
fn an_older_lease_again() {
    let (world, set) = limited();
    let newest = judge(&world, &set, &world.lease(7, gives(Ranges::of(0, 5), Ranges::new())), &LeaseMemory::default()).unwrap();
    let memory = LeaseMemory { seen: Some(newest.seen()), ..LeaseMemory::default() };
    refused(judge(&world, &set, &world.lease(6, gives(Ranges::of(5, 9), Ranges::new())), &memory), "older");
    refused(judge(&world, &set, &world.lease(7, gives(Ranges::of(5, 9), Ranges::new())), &memory), "equivocation");
    refused(judge(&world, &set, &world.lease(8, |lease| lease.head.epoch = 2), &memory), "wrong_epoch");
}

#[test]
fn an_expired_lease() {
    let (world, set) = limited();
    let bytes = world.lease(1, gives(Ranges::of(0, 5), Ranges::new()));
    let mut late = world.now();
    late.wall = late.wall.plus(Duration::from_secs(7 * 86_400 + 1));
    refused(accept_lease(&set, &bytes, &LeaseMemory::default(), Some(late)), "expired");
    // At a start it is still what it was; whether it may be spent from is asked each time.
    accept_lease(&set, &bytes, &LeaseMemory::default(), None).unwrap();
}

#[test]
fn a_lease_of_another_version_or_key() {
    let (world, set) = limited();
    for stranger in [version(2), KeyVersion::new(KeyId::from_bits(77), 1)] {
        let bytes = world.lease(1, |lease| drop(lease.budgets.insert(stranger, Leased::default())));
        refused(judge(&world, &set, &bytes, &LeaseMemory::default()), "lease_of_unknown");
    }
}

#[test]
fn a_lease_that_the_right_pair_did_not_sign() {
    let (world, set) = limited();
    let bytes = world.lease(1, gives(Ranges::of(0, 5), Ranges::new()));
    let lease: Lease = serde_json::from_slice(&Envelope::parse(bytes.as_slice(), 1 << 20).unwrap().payload).unwrap();
    let by_heartbeat = dsse::sign_statement(&lease, &refs(&world.heartbeat_pairs)).0.into();
    refused(judge(&world, &set, &by_heartbeat, &LeaseMemory::default()), "below_threshold");
    let mut envelope = Envelope::parse(bytes.as_slice(), 1 << 20).unwrap();
    envelope.signatures.truncate(1);
    refused(judge(&world, &set, &envelope.to_bytes().into(), &LeaseMemory::default()), "signature_missing");
    // A state is no lease, though the same pair signs both.
    refused(judge(&world, &set, &world.set().state.unwrap(), &LeaseMemory::default()), "other_kind");
}

#[test]
fn a_root_may_name_others_to_sign_leases() {
    let (mut world, _) = limited();
    let role = world.root.roles[&trust::statement::Kind::Heartbeat].clone();
    world.root.roles.insert(trust::statement::Kind::Lease, role);
    let (bytes, pinned) = dsse::sign_statement(&world.root, &refs(&world.root_pairs));
    (world.roots, world.pinned) = (vec![bytes.into()], pinned);
    let entry = trust::document::sign_roster_entry(
        &world.agent,
        world.root.head.tenant,
        SITE,
        trust::testing::AGENT,
        pinned,
        world.root.head.issued,
    );
    world.state.roster.get_mut(&trust::testing::AGENT).unwrap().entry = entry;
    let set = honest(&world);
    let bytes = world.lease(1, gives(Ranges::of(0, 5), Ranges::new()));
    refused(judge(&world, &set, &bytes, &LeaseMemory::default()), "below_threshold");
}
