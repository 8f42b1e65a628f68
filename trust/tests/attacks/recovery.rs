//! Backups are sealed to a key that an agent of the site signed for, and to no other before a person has confirmed it.

use schema::id::AgentId;
use trust::recovery::{BackupReport, RECOVERY_PUBLIC_KEY_BYTES, RecoveryKey};

use super::super::*;

fn key(number: u32, agent: AgentId, seed: u8) -> RecoveryKey {
    let public_key = Base64(vec![seed; RECOVERY_PUBLIC_KEY_BYTES]);
    RecoveryKey { tenant: trust::testing::TENANT, site: SITE, number, public_key, shares: 5, threshold: 3, agent, issued: START }
}

/// The site's policy says so.
fn say(world: &mut World, document: impl FnOnce(&World) -> Base64) {
    let document = document(world);
    let site = Scope::Site(SITE);
    let mut said = world.policies.remove(&site).unwrap_or_else(|| policy(site));
    said.head.serial += u64::from(said.recovery.is_some());
    said.recovery = Some(document);
    world.policies.insert(site, said);
}

fn confirming(keyid: Digest) -> Confirmed {
    Confirmed { recovery: Some(keyid), ..Confirmed::default() }
}

fn believed(set: &AcceptedSet) -> Option<Digest> {
    set.recovery_key().map(|key| key.keyid())
}

fn waiting(set: &AcceptedSet) -> Option<Digest> {
    set.waiting_recovery_key().map(|key| key.keyid())
}

#[test]
fn a_recovery_key_that_an_agent_of_the_site_signed_is_believed_and_kept() {
    let mut world = World::new();
    let first = key(1, AGENT, 1);
    say(&mut world, |world| document::sign(&first, &world.agent));
    let set = honest(&world);
    assert_eq!((believed(&set), waiting(&set)), (Some(first.keyid()), None));
    assert_eq!(believed(&restore(&set.to_bytes(), &world.identity()).unwrap()), Some(first.keyid()));
    // It is not forgotten when nobody speaks of it any more.
    world.tick();
    world.tick_policy(Scope::Site(SITE));
    world.policies.get_mut(&Scope::Site(SITE)).unwrap().recovery = None;
    assert_eq!(believed(&offer(Some(&set), &world, &world.set()).unwrap()), Some(first.keyid()));
}

/// A control plane with every key of its own, and no agent's: whatever it publishes, nothing is sealed to it.
#[test]
fn a_control_plane_slips_in_a_recovery_key_of_its_own() {
    let evil = pair(666);
    for (agent, signed_by) in [(AGENT, &evil), (OTHER_AGENT, &evil), (AgentId::from_bits(77), &evil)] {
        let mut world = World::new();
        let forged = key(1, agent, 66);
        say(&mut world, |_| document::sign(&forged, signed_by));
        let set = honest(&world);
        assert_eq!((believed(&set), waiting(&set)), (None, Some(forged.keyid())), "{agent}");
    }
    // An agent that it enrolled itself, and nobody vouched for.
    let mut world = World::new();
    world.join(vec![]);
    let forged = key(1, OTHER_AGENT, 66);
    say(&mut world, |world| document::sign(&forged, &world.other_agent));
    let set = honest(&world);
    assert_eq!((believed(&set), waiting(&set)), (None, Some(forged.keyid())));
    // One that was revoked.
    let mut world = World::new();
    let vouch = document::sign(&world.vouch(), &world.agent);
    world.join(vec![Vouch::Agent { agent: AGENT, vouch }]);
    let subject = Subject::Agent(OTHER_AGENT);
    world.state.revocations.push(Revocation { subject, reason: RevocationReason::KeyCompromise, at: START });
    say(&mut world, |world| document::sign(&forged, &world.other_agent));
    assert_eq!(believed(&honest(&world)), None);
}

#[test]
fn another_recovery_key_takes_its_place_only_when_a_person_here_confirmed_it() {
    let mut world = World::new();
    let (first, second) = (key(1, AGENT, 1), key(2, AGENT, 2));
    say(&mut world, |world| document::sign(&first, &world.agent));
    let set = honest(&world);
    world.tick();
    say(&mut world, |world| document::sign(&second, &world.agent));
    let told = offer(Some(&set), &world, &world.set()).unwrap();
    assert_eq!((believed(&told), waiting(&told)), (Some(first.keyid()), Some(second.keyid())));
    // Somebody confirmed another one than the site tells of.
    let other = accept(Some(&told), &world.set(), &world.identity(), &confirming(first.keyid()), world.now()).unwrap();
    assert_eq!(believed(&other), Some(first.keyid()));
    let now = accept(Some(&told), &world.set(), &world.identity(), &confirming(second.keyid()), world.now()).unwrap();
    assert_eq!((believed(&now), waiting(&now)), (Some(second.keyid()), None));
    // The first, whose shares may have been lost to somebody, does not come back.
    world.tick();
    say(&mut world, |world| document::sign(&first, &world.agent));
    let after = accept(Some(&now), &world.set(), &world.identity(), &confirming(second.keyid()), world.now()).unwrap();
    assert_eq!((believed(&after), waiting(&after)), (Some(second.keyid()), None));
}

#[test]
fn a_recovery_key_of_another_site_or_of_no_use() {
    for wrong in [
        RecoveryKey { site: SiteId::from_bits(99), ..key(1, AGENT, 1) },
        RecoveryKey { tenant: TenantId::from_bits(99), ..key(1, AGENT, 1) },
        RecoveryKey { public_key: Base64(vec![1; 32]), ..key(1, AGENT, 1) },
    ] {
        let mut world = World::new();
        say(&mut world, |world| document::sign(&wrong, &world.agent));
        refused_anew(&world, "recovery_key_unsound");
    }
    let mut world = World::new();
    say(&mut world, |world| document::sign(&world.vouch(), &world.agent));
    refused_anew(&world, "recovery_key_unsound");
}

#[test]
fn a_version_that_must_be_backed_up_is_not_used_before_a_holder_signed_that_it_is() {
    let mut world = World::new();
    world.project_policy().keys.get_mut(&KEY).unwrap().durability = Durability::SealedBackup;
    refused_anew(&world, "not_backed_up");
    let report = |number: u32, seed: u32| BackupReport {
        tenant: trust::testing::TENANT,
        site: SITE,
        version: version(number),
        fingerprint: fingerprint(seed),
        holder: AGENT,
        recovery_key: Digest([1; 32]),
        backup: Digest([2; 32]),
        issued: START,
    };
    let evil = pair(666);
    for (document, code) in [
        (document::sign(&report(1, 1), &evil), "document_refused"),
        (document::sign(&report(2, 1), &world.agent), "document_refused"),
        (document::sign(&report(1, 2), &world.agent), "second_fingerprint"),
        (document::sign(&BackupReport { holder: OTHER_AGENT, ..report(1, 1) }, &world.agent), "not_rostered"),
        (document::sign(&BackupReport { site: SiteId::from_bits(9), ..report(1, 1) }, &world.agent), "document_refused"),
        (world.key().versions[&1].ready[&AGENT].clone(), "document_refused"),
    ] {
        world.key().versions.get_mut(&1).unwrap().backup = Some(document);
        refused_anew(&world, code);
    }
    let genuine = document::sign(&report(1, 1), &world.agent);
    world.key().versions.get_mut(&1).unwrap().backup = Some(genuine);
    assert_eq!(honest(&world).version_state(version(1)), Some(VersionState::Active));
    // One that is not in use yet waits for it.
    let entry = world.key().versions.get_mut(&1).unwrap();
    (entry.backup, entry.state) = (None, VersionState::PreActivation);
    world.key().primary = 0;
    honest(&world);
}

/// A host died, its agent was revoked, and another agent takes over from a backup: what the former one signed goes on counting.
#[test]
fn an_agent_that_had_left_before_is_believed_in_what_it_signed_and_in_nothing_else() {
    let mut world = World::new();
    let newcomer = pair(200);
    let me = AgentId::from_bits(50);
    let entry = document::sign_roster_entry(&newcomer, trust::testing::TENANT, SITE, me, world.pinned, START);
    world.state.roster.insert(me, trust::statement::state::RosterSlot { entry, vouches: vec![Vouch::Enrolment] });
    let vouch = document::sign(&world.vouch(), &world.agent);
    world.join(vec![Vouch::Agent { agent: AGENT, vouch }]);
    world.state.slots_used = 3;
    let subject = Subject::Agent(AGENT);
    world.state.revocations.push(Revocation { subject, reason: RevocationReason::CessationOfOperation, at: START });
    let made = key(1, AGENT, 1);
    say(&mut world, |world| document::sign(&made, &world.agent));
    let identity = trust::accept::Identity { agent: me, keyid: newcomer.keyid(), ..world.identity() };
    let offer = |current: Option<&AcceptedSet>, confirmed: &Confirmed| accept(current, &world.set(), &identity, confirmed, world.now());
    refused(offer(None, &Confirmed::default()), "not_rostered");
    let other = Confirmed { former: [(AGENT, Digest([1; 32]))].into(), ..Confirmed::default() };
    refused(offer(None, &other), "not_rostered");

    let former = Confirmed { former: [(AGENT, world.agent.keyid())].into(), ..Confirmed::default() };
    let set = offer(None, &former).unwrap();
    assert_eq!(set.version_state(version(1)), Some(VersionState::Active));
    assert_eq!(set.agents().keys().copied().collect::<Vec<_>>(), [me], "neither it nor whom it vouched for");
    assert_eq!((believed(&set), waiting(&set)), (None, Some(made.keyid())));
    // That stays so, also when the set is read back.
    let back = restore(&set.to_bytes(), &identity).unwrap();
    assert_eq!(back.agents().len(), 1);
    assert_eq!(offer(Some(&back), &Confirmed::default()).unwrap().agents().len(), 1);
    let with_shares = Confirmed { recovery: Some(made.keyid()), ..former };
    assert_eq!(believed(&offer(Some(&back), &with_shares).unwrap()), Some(made.keyid()));
}
