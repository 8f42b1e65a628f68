//! An agent that was away is told by a heartbeat whose certificates to believe, by somebody it cannot authenticate otherwise.

use std::{collections::BTreeSet, time::Duration};

use schema::{
    encoding::{Base64, Digest},
    id::{SiteId, TenantId},
};
use trust::{
    accept::{AcceptedSet, Rejection, authorities},
    dsse,
    statement::{Pin, heartbeat::Heartbeat},
    testing::{World, pair, refs},
    time::Moment,
};

use crate::{DAY, honest};

/// A world whose control plane shows two authorities.
fn world() -> World {
    let mut world = World::new();
    world.heartbeat.authorities = named();
    world
}

fn named() -> BTreeSet<Digest> {
    [Digest::of(b"former"), Digest::of(b"present")].into()
}

fn judge(current: Option<&AcceptedSet>, world: &World, change: impl FnOnce(&mut Heartbeat)) -> Result<BTreeSet<Digest>, Rejection> {
    let set = world.set_pinning(change);
    authorities(current, &set.roots, &set.heartbeat.unwrap(), &world.identity(), world.now())
}

#[track_caller]
fn refused(result: Result<BTreeSet<Digest>, Rejection>, code: &str) {
    assert_eq!(result.map_err(|rejection| rejection.code()), Err(code));
}

/// The next root, which names other pairs for heartbeats; each signed by the former.
fn other_root(world: &mut World, seed: u64) {
    world.heartbeat_pairs = vec![pair(seed)];
    world.name_signers(false);
    let signers: Vec<_> = world.root_pairs.iter().map(|pair| trust::pair::Pair::from_seeds(&pair.to_seeds())).collect();
    world.next_root(&refs(&signers));
}

#[test]
fn authorities_are_learnt_by_who_knows_the_pinned_root_alone_and_by_who_was_away() {
    let mut world = world();
    assert_eq!(judge(None, &world, |_| {}).unwrap(), named());
    let current = honest(&world);
    // Several roots were missed meanwhile: each is signed by the one before.
    for seed in [50, 51, 52] {
        other_root(&mut world, seed);
    }
    world.tick();
    assert_eq!(judge(Some(&current), &world, |_| {}).unwrap(), named());
    assert_eq!(judge(None, &world, |_| {}).unwrap(), named());
}

#[test]
fn a_stranger_names_no_authority() {
    let (mut stranger, honest_world) = (world(), world());
    let current = honest(&honest_world);
    // Somebody who stands between signs a heartbeat of his own, under the right root and under one of his own.
    stranger.heartbeat_pairs = vec![pair(666)];
    refused(judge(Some(&current), &stranger, |_| {}), "below_threshold");
    other_root(&mut stranger, 667);
    stranger.roots.pop();
    stranger.root_pairs = vec![pair(668)];
    stranger.name_signers(false);
    let own = [pair(668)];
    stranger.roots.push(dsse::sign_statement(&stranger.root, &refs(&own)).0.into());
    refused(judge(Some(&current), &stranger, |_| {}), "below_threshold");
    // Without what was accepted before, the pinned root decides.
    let alone = World { roots: stranger.roots[1..].to_vec(), ..stranger };
    let set = alone.set();
    let judged = authorities(None, &set.roots, &set.heartbeat.unwrap(), &honest_world.identity(), honest_world.now());
    refused(judged, "root_not_pinned");
}

#[test]
fn a_root_in_between_that_is_missing_is_noticed() {
    let mut world = world();
    let current = honest(&world);
    other_root(&mut world, 50);
    other_root(&mut world, 51);
    world.roots.remove(1);
    world.tick();
    refused(judge(Some(&current), &world, |_| {}), "root_gap");
}

#[test]
fn an_older_heartbeat_brings_no_authority_back() {
    let mut world = world();
    world.tick();
    let newer = honest(&world);
    refused(judge(Some(&newer), &world, |heartbeat| heartbeat.head.serial -= 1), "older");
    // Another one with the same number: somebody says two things at once.
    refused(
        judge(Some(&newer), &world, |heartbeat| {
            heartbeat.authorities.insert(Digest::of(b"evil"));
        }),
        "equivocation",
    );
    // And what is long over, whatever the agent saw.
    let set = world.set();
    let late = world.now().wall.plus(DAY);
    let late = Moment { signed: late, wall: late };
    refused(authorities(None, &set.roots, &set.heartbeat.unwrap(), &world.identity(), late), "expired");
}

#[test]
fn a_heartbeat_from_the_far_future_of_another_site_tenant_or_root_is_refused() {
    let world = world();
    let current = honest(&world);
    refused(judge(Some(&current), &world, |heartbeat| heartbeat.head.tenant = TenantId::from_bits(99)), "other_tenant");
    refused(judge(Some(&current), &world, |heartbeat| heartbeat.head.site = Some(SiteId::from_bits(99))), "other_site");
    let ahead = |heartbeat: &mut Heartbeat| {
        heartbeat.head.serial += 1;
        heartbeat.head.issued = heartbeat.head.issued.plus(Duration::from_secs(2 * 3600));
        heartbeat.head.expires = heartbeat.head.expires.plus(Duration::from_secs(2 * 3600));
    };
    refused(judge(Some(&current), &world, ahead), "far_ahead");
    let elsewhere = |heartbeat: &mut Heartbeat| heartbeat.root = Pin { serial: 1, sha256: Digest::of(b"another root") };
    refused(judge(None, &world, elsewhere), "pinned_other");
    refused(authorities(None, &world.roots, &Base64(b"nonsense".to_vec()), &world.identity(), world.now()), "unreadable");
    refused(authorities(None, &world.roots, &Base64(vec![0; 8 << 20]), &world.identity(), world.now()), "oversized");
}
