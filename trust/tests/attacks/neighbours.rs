//! Sites that share a key: what agents of another site, or whoever tells of them, may try.

use std::collections::BTreeMap;

use schema::{
    clock::ManualIds,
    id::{PrekeyId, VaultId},
};
use trust::{
    document::{AgentVouch, ContextKeyTransfer, Month, Prekey, Transfer, TransferHead},
    movement::{
        CONTEXT_KEY_BYTES, MovementRefusal, OwnPrekey, accept_context_key, accept_prekey, accept_transfer, lacking, may_send, movable,
        recipients, recipients_elsewhere, seal_transfer,
    },
    recovery::BackupReport,
    seal::{self, PrekeySecret},
    statement::{
        policy::VouchingRule,
        state::{MAX_NEIGHBOUR_AGENTS, MAX_NEIGHBOUR_VOUCHES, MAX_NEIGHBOURS, Neighbour, RosterSlot},
    },
    testing::{NEIGHBOUR, OTHER_SITE, TENANT},
};

use super::super::*;

const MATERIAL: &[u8] = b"the secret of version two, 32 b.";
const PREKEY: PrekeyId = PrekeyId::from_bits(1);
/// A second agent of the other site.
const FURTHER: AgentId = AgentId::from_bits(10);

/// A site whose key is at another site too, the agent of which an operator here has compared.
fn joined() -> World {
    let mut world = World::new();
    world.adjoin(vec![Vouch::Enrolment, world.bridged()]);
    world
}

/// What the neighbour says of a version it holds.
fn report_there(world: &World, number: u32) -> HolderReport {
    HolderReport { site: OTHER_SITE, holder: NEIGHBOUR, vault: VaultId::from_bits(2), ..world.report(number, fingerprint(number)) }
}

/// A version that the neighbour made, and that is not here yet.
fn made_there(world: &World, number: u32) -> VersionEntry {
    let record = VersionRecord { site: OTHER_SITE, generator: NEIGHBOUR, ..world.record(number, fingerprint(number)) };
    VersionEntry {
        state: VersionState::PreActivation,
        created: START,
        activated: None,
        generator: Some(NEIGHBOUR),
        record: Some(document::sign(&record, &world.neighbour)),
        ready: BTreeMap::from([(NEIGHBOUR, document::sign(&report_there(world, number), &world.neighbour))]),
        backup: None,
    }
}

/// The same, when it has come here and is in use.
fn active_here(world: &World, number: u32) -> VersionEntry {
    let mut entry = made_there(world, number);
    (entry.state, entry.activated) = (VersionState::Active, Some(START));
    entry.ready.insert(AGENT, document::sign(&world.report(number, fingerprint(number)), &world.agent));
    entry
}

/// Puts version 2 of the neighbour's making into the state, as the primary when it is in use.
fn with_version(mut world: World, entry: fn(&World, u32) -> VersionEntry) -> World {
    let entry = entry(&world, 2);
    let primary = if entry.state == VersionState::Active { 2 } else { 1 };
    let key = world.key();
    key.versions.insert(2, entry);
    key.primary = primary;
    world
}

#[track_caller]
fn not_moved<T>(result: Result<T, MovementRefusal>, code: &str) {
    match result {
        Ok(_) => panic!("it was allowed; expected {code}"),
        Err(refusal) => assert_eq!(refusal.code(), code, "{refusal:?}"),
    }
}

/// A prekey of an agent, with its private half.
fn prekey(agent: AgentId, site: SiteId) -> (Prekey, Vec<OwnPrekey>) {
    let secret = PrekeySecret::generate(&ManualIds::seeded(7)).unwrap();
    let not_after = START.plus(Duration::from_secs(3600));
    let public_key = secret.public_key().into();
    let prekey = Prekey { tenant: TENANT, site, agent, id: PREKEY, public_key, not_after, issued: START };
    (prekey, vec![OwnPrekey { id: PREKEY, not_after, secret }])
}

/// The head of what the neighbour sends here of version 2.
fn head() -> TransferHead {
    TransferHead {
        tenant: TENANT,
        site: OTHER_SITE,
        recipient_site: Some(SITE),
        version: version(2),
        algorithm: definition().algorithm,
        origin: definition().origin,
        fingerprint: fingerprint(2),
        sender: NEIGHBOUR,
        recipient: AGENT,
        prekey: PREKEY,
        issued: START,
    }
}

/// A transfer with this head, rightly sealed and signed by this pair.
fn sealed(head: TransferHead, pair: &Pair) -> Vec<u8> {
    let public_key = prekey(AGENT, SITE).0.public_key;
    let (encapsulated, ciphertext) = seal::seal(&head, public_key.as_slice(), MATERIAL, &ManualIds::seeded(8)).unwrap();
    document::sign(&Transfer { head, encapsulated: encapsulated.into(), ciphertext: ciphertext.into() }, pair).0
}

fn taken(set: &AcceptedSet, bytes: &[u8]) -> Result<(), MovementRefusal> {
    let (_, own) = prekey(AGENT, SITE);
    accept_transfer(set, bytes, &own, START).and_then(|received| received.check(fingerprint(2)))
}

#[test]
fn what_an_agent_of_another_site_made_is_believed_comes_here_and_is_used() {
    let mut world = with_version(joined(), made_there);
    let set = honest(&world);
    assert_eq!(set.neighbours().keys().collect::<Vec<_>>(), [&NEIGHBOUR]);
    assert_eq!((set.fingerprint(version(2)), set.primary(KEY)), (Some(fingerprint(2)), Some(version(1))));
    assert_eq!(lacking(&set, AGENT), [version(2)]);
    taken(&set, &sealed(head(), &world.neighbour)).unwrap();
    // And version 1 goes there.
    assert_eq!((recipients(&set), recipients_elsewhere(&set)), (vec![], vec![NEIGHBOUR]));
    assert_eq!(lacking(&set, NEIGHBOUR), [version(1)]);
    let (theirs, own) = prekey(NEIGHBOUR, OTHER_SITE);
    assert_eq!(accept_prekey(&set, document::sign(&theirs, &world.neighbour).as_slice(), START).unwrap(), theirs);
    let found = may_send(&set, version(1), &theirs, START).unwrap();
    let by = (&world.agent, &ManualIds::seeded(9) as &dyn schema::clock::Ids, START);
    let sent = seal_transfer(&set, (version(1), found), &theirs, MATERIAL, by).unwrap();
    let transfer: Transfer = dsse::peek_document(&sent).unwrap();
    assert_eq!((transfer.head.site, transfer.head.recipient_site), (SITE, Some(OTHER_SITE)));
    let opened = seal::open(&transfer.head, &own[0].secret, transfer.encapsulated.as_slice(), transfer.ciphertext.as_slice());
    assert_eq!(*opened.unwrap(), MATERIAL);

    world = with_version(world, active_here);
    world.tick();
    let used = offer(Some(&set), &world, &world.set()).unwrap();
    assert_eq!((used.version_state(version(2)), used.primary(KEY)), (Some(VersionState::Active), Some(version(2))));
    not_moved(may_send(&used, version(2), &theirs, START), "transfer_already_there");
    // What was believed is, also without the vouch, and after a restart.
    world.adjoin(vec![]);
    world.tick();
    let later = offer(Some(&used), &world, &world.set()).unwrap();
    for set in [restore(&later.to_bytes(), &world.identity()).unwrap(), later] {
        assert_eq!((set.version_state(version(2)), set.neighbours().len()), (Some(VersionState::Active), 1));
    }
}

#[test]
fn an_agent_of_another_site_that_nobody_here_vouched_for() {
    for entry in [made_there, active_here] {
        let mut world = with_version(joined(), entry);
        world.adjoin(vec![]);
        let set = honest(&world);
        assert_eq!((set.neighbours().len(), set.waiting_neighbours().get(&NEIGHBOUR)), (0, Some(&(OTHER_SITE, world.neighbour.keyid()))));
        // What it made is yet to be made here; what was here before stays as it was.
        assert_eq!((set.version_state(version(2)), set.fingerprint(version(2))), (Some(VersionState::PreActivation), None));
        assert_eq!((set.primary(KEY), set.version_state(version(1))), (Some(version(1)), Some(VersionState::Active)));
        assert!(recipients_elsewhere(&set).is_empty());
        let (theirs, _) = prekey(NEIGHBOUR, OTHER_SITE);
        not_moved(may_send(&set, version(1), &theirs, START), "transfer_agent_not_believed");
        not_moved(accept_prekey(&set, document::sign(&theirs, &world.neighbour).as_slice(), START), "transfer_agent_not_believed");
        not_moved(taken(&set, &sealed(head(), &world.neighbour)), "transfer_agent_not_believed");
        // Once somebody has, all of it counts.
        world.adjoin(vec![world.bridged()]);
        world.tick();
        let later = offer(Some(&set), &world, &world.set()).unwrap();
        assert_eq!(later.fingerprint(version(2)), Some(fingerprint(2)));
    }
}

#[test]
fn the_other_sites_enrolment_counts_for_nothing_here() {
    let mut world = World::new();
    world.adjoin(vec![Vouch::Enrolment]);
    let mut identity = world.identity();
    for founder in [None, Some(world.neighbour.keyid())] {
        identity.founder = founder;
        let set = accept(None, &world.set(), &identity, &Confirmed::default(), world.now()).unwrap();
        assert!(set.neighbours().is_empty());
    }
}

#[test]
fn vouches_for_a_neighbour_by_those_who_may_not() {
    let believed = |world: &World| !honest(world).neighbours().is_empty();
    let mut world = joined();
    assert!(believed(&world));
    let by = |pair: &Pair, agent, vouch: &AgentVouch| Vouch::Agent { agent, vouch: document::sign(vouch, pair) };
    let bridge = world.bridge();
    let wrong = [
        by(&world.neighbour, NEIGHBOUR, &bridge),     // for itself
        by(&world.state_pairs[0], AGENT, &bridge),    // the control plane in an agent's name
        by(&world.other_agent, OTHER_AGENT, &bridge), // an agent of neither site
        by(&world.agent, AGENT, &AgentVouch { keyid: Digest([1; 32]), ..bridge.clone() }),
        by(&world.agent, AGENT, &AgentVouch { site: SITE, ..bridge.clone() }), // as an agent of this site
        by(&world.agent, AGENT, &AgentVouch { site: SiteId::from_bits(99), ..bridge.clone() }),
        by(&world.agent, AGENT, &AgentVouch { tenant: TenantId::from_bits(99), ..bridge.clone() }),
    ];
    for vouch in wrong {
        world.adjoin(vec![vouch.clone()]);
        assert!(!believed(&world), "{vouch:?}");
    }
    world.adjoin(vec![world.bridged()]);
    world.state.suspensions.push(Subject::Agent(AGENT)); // held back itself
    assert!(!believed(&world));
    world.state.suspensions.clear();
    // As many as this site's policy asks for, and of whom.
    let rule = &mut world.policies.get_mut(&Scope::Tenant).unwrap().vouching;
    *rule = VouchingRule { agents_needed: 2, ..rule.clone() };
    assert!(!believed(&world));
    world.join(vec![Vouch::Agent { agent: AGENT, vouch: document::sign(&world.vouch(), &world.agent) }]);
    world.policies.get_mut(&Scope::Tenant).unwrap().vouching.agents_needed = 1;
    world.adjoin(vec![]);
    let set = honest(&world);
    world.policies.get_mut(&Scope::Tenant).unwrap().vouching.agents_needed = 2;
    world.tick_policy(Scope::Tenant);
    world.adjoin(vec![world.bridged(), by(&world.other_agent, OTHER_AGENT, &bridge)]);
    world.tick();
    assert!(!offer(Some(&set), &world, &world.set()).unwrap().neighbours().is_empty());
    world.policies.get_mut(&Scope::Tenant).unwrap().vouching = VouchingRule { agents: false, agents_needed: 1, signers: true };
    assert!(!believed(&world));
    // Policy signers vouch only where the tenant holds them.
    for (mut world, counts) in [(World::new(), false), (World::tenant_held(), true)] {
        let vouch = dsse::sign_document(&world.bridge(), &refs(&world.policy_pairs));
        world.adjoin(vec![Vouch::Signers { vouch: vouch.into() }]);
        assert_eq!(believed(&world), counts);
    }
}

#[test]
fn a_neighbour_vouches_for_agents_of_its_site_and_for_nobody_else() {
    let further = pair(103);
    let add = |world: &mut World, vouches| {
        let entry = document::sign_roster_entry(&further, TENANT, OTHER_SITE, FURTHER, world.pinned, START);
        world.state.neighbours.get_mut(&OTHER_SITE).unwrap().roster.insert(FURTHER, RosterSlot { entry, vouches });
    };
    let vouch = AgentVouch { agent: FURTHER, keyid: further.keyid(), ..World::new().bridge() };
    let by_neighbour = |world: &World| Vouch::Agent { agent: NEIGHBOUR, vouch: document::sign(&vouch, &world.neighbour) };
    let believed = |world: &World, agent| honest(world).neighbours().contains_key(&agent);
    let mut world = joined();
    let said = by_neighbour(&world);
    add(&mut world, vec![said.clone()]);
    assert!(believed(&world, FURTHER));
    // Of one that is not believed itself, or is held back, it counts for nothing.
    let mut unknown = World::new();
    unknown.adjoin(vec![Vouch::Enrolment]);
    add(&mut unknown, vec![said]);
    assert!(!believed(&unknown, FURTHER));
    for held in [Subject::Agent(NEIGHBOUR), Subject::Site(OTHER_SITE)] {
        world.state.suspensions = vec![held];
        assert!(believed(&world, NEIGHBOUR) && !believed(&world, FURTHER));
    }
    world.state.suspensions.clear();
    // For an agent of a third site.
    let third = SiteId::from_bits(77);
    let elsewhere = AgentVouch { site: third, ..vouch.clone() };
    let entry = document::sign_roster_entry(&further, TENANT, third, FURTHER, world.pinned, START);
    let vouches = vec![Vouch::Agent { agent: NEIGHBOUR, vouch: document::sign(&elsewhere, &world.neighbour) }];
    world.state.neighbours.get_mut(&OTHER_SITE).unwrap().roster.remove(&FURTHER);
    world.state.neighbours.insert(third, Neighbour { roster: [(FURTHER, RosterSlot { entry, vouches })].into() });
    assert!(!believed(&world, FURTHER));
    // For an agent of this site.
    let mut world = joined();
    world.join(vec![Vouch::Agent { agent: NEIGHBOUR, vouch: document::sign(&world.vouch(), &world.neighbour) }]);
    let set = honest(&world);
    assert!(!set.agents().contains_key(&OTHER_AGENT) && set.waiting_agents().contains_key(&OTHER_AGENT));
}

#[test]
fn an_agent_of_another_site_never_becomes_one_of_this() {
    // It signs that it is one, and the control plane says so too.
    let mut world = joined();
    let before = honest(&world);
    let entry = document::sign_roster_entry(&world.neighbour, TENANT, SITE, NEIGHBOUR, world.pinned, START);
    world.state.roster.insert(NEIGHBOUR, RosterSlot { entry, vouches: vec![world.bridged()] });
    world.state.slots_used = 2;
    refused_anew(&world, "neighbour_unsound");
    // Believed as a neighbour, it is no agent here when it is listed as one.
    world.state.neighbours.clear();
    world.tick();
    let later = offer(Some(&before), &world, &world.set()).unwrap();
    assert!(!later.agents().contains_key(&NEIGHBOUR), "neither by what is remembered, nor by the vouch that a neighbour got");
    // And the other way round: an agent of this site that is said to be of another.
    let mut world = joined();
    let entry = document::sign_roster_entry(&world.agent, TENANT, OTHER_SITE, AGENT, world.pinned, START);
    world.state.neighbours.get_mut(&OTHER_SITE).unwrap().roster.insert(AGENT, RosterSlot { entry, vouches: vec![] });
    refused_anew(&world, "neighbour_unsound");
    let mut world = joined();
    let here = world.state.neighbours.remove(&OTHER_SITE).unwrap();
    world.state.neighbours.insert(SITE, here);
    refused_anew(&world, "neighbour_unsound");
    // A person's word is for the one or for the other.
    let mut world = World::new();
    world.adjoin(vec![]);
    world.join(vec![]);
    let both: BTreeMap<_, _> = [(NEIGHBOUR, world.neighbour.keyid()), (OTHER_AGENT, world.other_agent.keyid())].into();
    let with = |confirmed| accept(None, &world.set(), &world.identity(), &confirmed, world.now()).unwrap();
    let set = with(Confirmed { agents: both.clone(), ..Confirmed::default() });
    assert!(set.agents().contains_key(&OTHER_AGENT) && set.neighbours().is_empty());
    let set = with(Confirmed { neighbours: both, ..Confirmed::default() });
    assert!(!set.agents().contains_key(&OTHER_AGENT) && set.neighbours().contains_key(&NEIGHBOUR));
}

#[test]
fn a_neighbour_makes_only_versions_of_keys_that_policy_places_at_both_sites() {
    let mut world = with_version(joined(), active_here);
    world.project_policy().keys.get_mut(&KEY).unwrap().placement = vec![SITE];
    refused_anew(&world, "ineligible_generator");
    let mut before = joined();
    before.project_policy().keys.get_mut(&KEY).unwrap().placement = vec![SITE];
    let before = honest(&before);
    world.tick();
    refused_after(&before, &world, "ineligible_generator");
    // A copy there of a key that is not placed there.
    let mut world = joined();
    let report = document::sign(&report_there(&world, 1), &world.neighbour);
    world.key().versions.get_mut(&1).unwrap().ready.insert(NEIGHBOUR, report);
    honest(&world);
    world.project_policy().keys.get_mut(&KEY).unwrap().placement = vec![SITE];
    refused_anew(&world, "document_refused");
    let set = {
        world.key().versions.get_mut(&1).unwrap().ready.remove(&NEIGHBOUR);
        honest(&world)
    };
    // Its material is not sent there, whoever asks.
    let (theirs, _) = prekey(NEIGHBOUR, OTHER_SITE);
    not_moved(may_send(&set, version(1), &theirs, START), "transfer_not_placed_there");
    assert!(lacking(&set, NEIGHBOUR).is_empty());
    // Nor taken from there.
    let of_version_1 = TransferHead { version: version(1), fingerprint: fingerprint(1), ..head() };
    not_moved(taken(&set, &sealed(of_version_1, &world.neighbour)), "transfer_not_placed_there");
    // A key that is placed there and not here.
    let mut world = with_version(joined(), active_here);
    world.project_policy().keys.get_mut(&KEY).unwrap().placement = vec![OTHER_SITE];
    refused_anew(&world, "not_placed_here");
    // One that is yet to be made is made by an agent of this site, or is said to have no maker.
    let mut world = with_version(joined(), made_there);
    let entry = world.key().versions.get_mut(&2).unwrap();
    entry.record = None;
    entry.ready.clear();
    refused_anew(&world, "ineligible_generator");
    // Eligible generators bind neighbours too.
    let mut world = with_version(joined(), active_here);
    world.project_policy().keys.get_mut(&KEY).unwrap().eligible_generators = vec![AGENT];
    let before = honest(&joined());
    world.tick();
    world.tick_policy(Scope::Project(PROJECT));
    refused_after(&before, &world, "ineligible_generator");
}

#[test]
fn a_second_fingerprint_from_another_site() {
    let current = honest(&with_version(joined(), active_here));
    // Another maker of the version that this site's agent made.
    let mut world = with_version(joined(), active_here);
    let record = VersionRecord { site: OTHER_SITE, generator: NEIGHBOUR, ..world.record(1, fingerprint(3)) };
    let record = document::sign(&record, &world.neighbour);
    let entry = world.key().versions.get_mut(&1).unwrap();
    (entry.generator, entry.record) = (Some(NEIGHBOUR), Some(record));
    world.tick();
    refused_after(&current, &world, "second_fingerprint");
    // Another record of its own, and a copy of something else.
    let mut world = with_version(joined(), active_here);
    let record = VersionRecord { site: OTHER_SITE, generator: NEIGHBOUR, ..world.record(2, fingerprint(3)) };
    world.key().versions.get_mut(&2).unwrap().record = Some(document::sign(&record, &pair(102)));
    world.tick();
    refused_after(&current, &world, "second_fingerprint");
    let mut world = joined();
    let other = HolderReport { fingerprint: fingerprint(3), ..report_there(&world, 1) };
    let report = document::sign(&other, &world.neighbour);
    world.key().versions.get_mut(&1).unwrap().ready.insert(NEIGHBOUR, report);
    refused_anew(&world, "second_fingerprint");
    // An agent that nobody vouches for, in the place of the one that made it: what is settled does not go back.
    let mut world = with_version(joined(), active_here);
    let stranger = pair(103);
    let entry = document::sign_roster_entry(&stranger, TENANT, OTHER_SITE, FURTHER, world.pinned, START);
    world.state.neighbours.get_mut(&OTHER_SITE).unwrap().roster.insert(FURTHER, RosterSlot { entry, vouches: vec![] });
    world.key().versions.get_mut(&2).unwrap().generator = Some(FURTHER);
    world.tick();
    refused_after(&current, &world, "primary_went_back");
}

#[test]
fn records_and_reports_that_name_another_site_than_their_signers() {
    let mut world = with_version(joined(), made_there);
    let record = VersionRecord { generator: NEIGHBOUR, ..world.record(2, fingerprint(2)) };
    world.key().versions.get_mut(&2).unwrap().record = Some(document::sign(&record, &pair(102)));
    refused_anew(&world, "document_refused");
    // As if its copy were one of this site.
    let mut world = joined();
    let report = document::sign(&HolderReport { site: SITE, ..report_there(&world, 1) }, &world.neighbour);
    world.key().versions.get_mut(&1).unwrap().ready.insert(NEIGHBOUR, report);
    refused_anew(&world, "document_refused");
    // And nothing is in use here that is only there.
    let mut world = with_version(joined(), active_here);
    world.key().versions.get_mut(&2).unwrap().ready.remove(&AGENT);
    refused_anew(&world, "not_ready");
    // A backup there is no backup here.
    let mut world = joined();
    world.project_policy().keys.get_mut(&KEY).unwrap().durability = Durability::SealedBackup;
    let (recovery_key, backup) = (Digest([1; 32]), Digest([2; 32]));
    for site in [SITE, OTHER_SITE] {
        let (version, fingerprint) = (version(1), fingerprint(1));
        let report = BackupReport { tenant: TENANT, site, version, fingerprint, holder: NEIGHBOUR, recovery_key, backup, issued: START };
        world.key().versions.get_mut(&1).unwrap().backup = Some(document::sign(&report, &pair(102)));
        refused_anew(&world, "not_rostered");
    }
}

#[test]
fn copies_at_another_site_are_homes() {
    let mut world = with_version(joined(), active_here);
    world.project_policy().keys.get_mut(&KEY).unwrap().durability = Durability::TwoHolders;
    let first = document::sign(&report_there(&world, 1), &world.neighbour);
    world.key().versions.get_mut(&1).unwrap().ready.insert(NEIGHBOUR, first);
    assert_eq!(honest(&world).version_state(version(2)), Some(VersionState::Active));
    // Of one that nobody believes it is none: what lacks a home waits, and the site goes on.
    world.adjoin(vec![]);
    let set = honest(&world);
    assert_eq!((set.version_state(version(1)), set.primary(KEY)), (Some(VersionState::PreActivation), None));
    assert_eq!(set.fingerprint(version(1)), Some(fingerprint(1)));
}

#[test]
fn transfers_with_other_sites_in_them() {
    let world = with_version(joined(), made_there);
    let set = honest(&world);
    taken(&set, &sealed(head(), &world.neighbour)).unwrap();
    let third = SiteId::from_bits(99);
    for wrong in [
        TransferHead { recipient_site: None, ..head() },
        TransferHead { site: SITE, recipient_site: None, ..head() },
        TransferHead { site: SITE, ..head() },
        TransferHead { site: third, ..head() },
        TransferHead { recipient_site: Some(third), ..head() },
        TransferHead { recipient_site: Some(OTHER_SITE), ..head() },
        TransferHead { tenant: TenantId::from_bits(99), ..head() },
    ] {
        not_moved(taken(&set, &sealed(wrong, &world.neighbour)), "transfer_of_another_site");
    }
    // What is sealed for one pair of sites opens for no other.
    let genuine: Transfer = dsse::peek_document(&sealed(TransferHead { recipient_site: None, ..head() }, &world.neighbour)).unwrap();
    let moved = Transfer { head: head(), ..genuine };
    not_moved(taken(&set, &document::sign(&moved, &world.neighbour).0), "transfer_does_not_open");
    not_moved(taken(&set, &sealed(head(), &world.agent)), "transfer_not_genuine");
    not_moved(taken(&set, &sealed(TransferHead { sender: AGENT, ..head() }, &world.agent)), "transfer_to_itself");
    not_moved(taken(&set, &sealed(TransferHead { fingerprint: fingerprint(1), ..head() }, &world.neighbour)), "transfer_of_other_material");
    // A prekey of the neighbour's that says it is of this site, or of a third.
    for site in [SITE, third] {
        let (theirs, _) = prekey(NEIGHBOUR, site);
        not_moved(accept_prekey(&set, document::sign(&theirs, &world.neighbour).as_slice(), START), "transfer_of_another_site");
        not_moved(may_send(&set, version(1), &theirs, START), "transfer_of_another_site");
    }
    // What hides the contexts of this site's receipts is this site's alone.
    let month = Month::of(START);
    let (theirs, own) = prekey(AGENT, SITE);
    let context = trust::document::ContextKeyHead {
        tenant: TENANT,
        site: SITE,
        id: trust::document::ContextKeyHead::identify(TENANT, SITE, &month, &[5; CONTEXT_KEY_BYTES]),
        month: month.clone(),
        made: START,
        sender: NEIGHBOUR,
        recipient: AGENT,
        prekey: PREKEY,
        issued: START,
    };
    let (encapsulated, ciphertext) =
        seal::seal(&context, theirs.public_key.as_slice(), &[5; CONTEXT_KEY_BYTES], &ManualIds::seeded(3)).unwrap();
    let sent = ContextKeyTransfer { head: context, encapsulated: encapsulated.into(), ciphertext: ciphertext.into() };
    let bytes = document::sign(&sent, &world.neighbour);
    not_moved(accept_context_key(&set, bytes.as_slice(), &[month], &own, START), "transfer_agent_not_believed");
}

#[test]
fn an_agent_of_another_site_that_is_revoked_or_suspended() {
    let revoke = |world: &mut World| {
        let reason = RevocationReason::KeyCompromise;
        world.state.revocations.push(Revocation { subject: Subject::Agent(NEIGHBOUR), reason, at: START });
    };
    let restrict: [fn(&mut World); 3] = [
        |world| {
            let reason = RevocationReason::KeyCompromise;
            world.state.revocations.push(Revocation { subject: Subject::Agent(NEIGHBOUR), reason, at: START });
        },
        |world| world.state.suspensions.push(Subject::Agent(NEIGHBOUR)),
        |world| world.state.suspensions.push(Subject::Site(OTHER_SITE)),
    ];
    let (theirs, _) = prekey(NEIGHBOUR, OTHER_SITE);
    for restrict in restrict {
        let mut world = with_version(joined(), made_there);
        let before = honest(&world);
        restrict(&mut world);
        world.tick();
        let set = offer(Some(&before), &world, &world.set()).unwrap();
        assert!(recipients_elsewhere(&set).is_empty());
        not_moved(may_send(&set, version(1), &theirs, START), "transfer_agent_held_back");
        not_moved(accept_prekey(&set, document::sign(&theirs, &world.neighbour).as_slice(), START), "transfer_agent_held_back");
        not_moved(taken(&set, &sealed(head(), &world.neighbour)), "transfer_agent_held_back");
        assert_eq!(set.fingerprint(version(2)), Some(fingerprint(2)), "what it made before stays");
        // Also when the next state forgets it.
        world.state.revocations.clear();
        world.state.suspensions.clear();
        world.tick();
        let later = offer(Some(&set), &world, &world.set()).unwrap();
        not_moved(taken(&later, &sealed(head(), &world.neighbour)), "transfer_agent_held_back");
    }
    // What it makes afterwards is not believed: unless another agent that is believed has it.
    let mut world = joined();
    revoke(&mut world);
    let before = honest(&world);
    let mut world = with_version(world, made_there);
    world.tick();
    let set = offer(Some(&before), &world, &world.set()).unwrap();
    assert_eq!((set.fingerprint(version(2)), movable(&set, version(2)).is_err()), (None, true));
    let mut world = with_version(world, active_here);
    world.tick();
    assert_eq!(offer(Some(&before), &world, &world.set()).unwrap().fingerprint(version(2)), Some(fingerprint(2)));
}

#[test]
fn a_site_of_another_tenant_is_no_neighbour() {
    let mut world = joined();
    let stranger = TenantId::from_bits(99);
    let entry = document::sign_roster_entry(&world.neighbour, stranger, OTHER_SITE, NEIGHBOUR, world.pinned, START);
    world.state.neighbours.get_mut(&OTHER_SITE).unwrap().roster.get_mut(&NEIGHBOUR).unwrap().entry = entry;
    refused_anew(&world, "roster_entry");
    // Of another site than the one it is listed under, and one that its pair did not sign.
    let mut world = joined();
    let here = world.state.neighbours.remove(&OTHER_SITE).unwrap();
    world.state.neighbours.insert(SiteId::from_bits(99), here);
    refused_anew(&world, "roster_entry");
    let mut world = joined();
    let mut claimed: trust::document::RosterEntry =
        dsse::peek_document(world.state.neighbours[&OTHER_SITE].roster[&NEIGHBOUR].entry.as_slice()).unwrap();
    claimed.issued = START.plus(DAY);
    let entry = document::sign(&claimed, &world.agent);
    world.state.neighbours.get_mut(&OTHER_SITE).unwrap().roster.get_mut(&NEIGHBOUR).unwrap().entry = entry;
    refused_anew(&world, "roster_entry");
    // One that was an agent of one neighbour does not turn up at another.
    let mut world = joined();
    let before = honest(&world);
    let third = SiteId::from_bits(77);
    let entry = document::sign_roster_entry(&world.neighbour, TENANT, third, NEIGHBOUR, world.pinned, START);
    world.state.neighbours = [(third, Neighbour { roster: [(NEIGHBOUR, RosterSlot { entry, vouches: vec![] })].into() })].into();
    world.tick();
    refused_after(&before, &world, "neighbour_unsound");
}

#[test]
fn too_much_of_other_sites() {
    let slot = joined().state.neighbours[&OTHER_SITE].roster[&NEIGHBOUR].clone();
    let agents = |count: usize| Neighbour { roster: (1000..).take(count).map(|id| (AgentId::from_bits(id), slot.clone())).collect() };
    let mut world = joined();
    world.state.neighbours = (1000..).take(MAX_NEIGHBOURS + 1).map(|id| (SiteId::from_bits(id), Neighbour::default())).collect();
    refused_anew(&world, "neighbours_oversized");
    let mut world = joined();
    world.state.neighbours = [(OTHER_SITE, agents(MAX_NEIGHBOUR_AGENTS + 1))].into();
    refused_anew(&world, "neighbours_oversized");
    let mut world = joined();
    world.adjoin(vec![Vouch::Enrolment; MAX_NEIGHBOUR_VOUCHES + 1]);
    refused_anew(&world, "neighbours_oversized");
    // Sites of which nothing is told do no harm.
    let mut world = joined();
    world.state.neighbours.insert(SiteId::from_bits(77), Neighbour::default());
    assert_eq!(honest(&world).neighbours().len(), 1);
}
