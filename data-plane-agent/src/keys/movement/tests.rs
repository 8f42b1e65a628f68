//! Two vaults of one site, and a relay between them that may be as bad as it likes.

mod context_keys;
mod neighbours;

use std::{collections::BTreeMap, sync::Mutex};

use schema::{
    clock::{ManualClock, ManualIds, SystemIds},
    key::{Protection, VersionState},
};
use trust::{
    accept::{Confirmed, Identity, accept},
    document::{ContextKeyTransfer, HolderReport, Transfer, sign},
    dsse::peek_document,
    statement::state::Vouch,
    testing::{AGENT, KEY, OTHER_AGENT, START, World},
};

use super::*;
use crate::{
    control::{directory::ControlDirectory, time::SystemBootClock},
    vault::file::{FileVault, Unlock},
};

const VERSION: KeyVersion = KeyVersion::new(KEY, 1);

/// One agent of the site.
struct Party {
    mover: Mover,
    vault: Arc<dyn Vault>,
    identity: Identity,
    pair_seed: u64,
    wall: ManualClock,
    folder: tempfile::TempDir,
    contexts: Option<Arc<ContextKeys>>,
}

fn pair(seed: u64) -> Arc<Pair> {
    Arc::new(trust::testing::pair(seed))
}

impl Party {
    async fn new(identity: Identity, pair_seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let unlock = Unlock::Passphrase(SecretBytes::new(b"correct horse".to_vec()));
        let vault: Arc<dyn Vault> =
            Arc::new(FileVault::open_or_create(&folder.path().join("vault"), &unlock, Arc::new(SystemIds)).unwrap());
        let wall = ManualClock::at(START);
        let mover = mover(&vault, &identity, pair_seed, (&wall, None), folder.path()).await;
        Self { mover, vault, identity, pair_seed, wall, folder, contexts: None }
    }

    /// As after a kill: what is on disk is all there is.
    async fn restart(&mut self) {
        if self.contexts.is_some() {
            self.open_contexts().await;
        }
        self.mover = mover(&self.vault, &self.identity, self.pair_seed, (&self.wall, self.contexts.clone()), self.folder.path()).await;
    }

    fn prekeys_file(&self) -> std::path::PathBuf {
        self.folder.path().join("control/prekeys.json")
    }

    async fn has_it(&self) -> bool {
        self.vault.held(VERSION).await.is_ok()
    }
}

async fn mover(
    vault: &Arc<dyn Vault>,
    identity: &Identity,
    seed: u64,
    (wall, context_keys): (&ManualClock, Option<Arc<ContextKeys>>),
    folder: &std::path::Path,
) -> Mover {
    let directory = ControlDirectory::open(folder).unwrap();
    let prekeys = Prekeys::open(directory, identity.clone(), &**vault).await.unwrap();
    let clock = AgentClock::new(Arc::new(wall.clone()), Box::new(SystemBootClock::new(&SystemIds)), None);
    let findings = Arc::new(Findings::new(Arc::new(wall.clone()), Arc::default()));
    let (ids, arrived) = (Arc::new(SystemIds), watch::Sender::new(0));
    Mover::new(MoverParts { vault: vault.clone(), pair: pair(seed), clock, ids, prekeys, context_keys, findings, arrived })
}

/// A site of two: one has version 1, the other lacks it.
struct Two {
    world: World,
    a: Party,
    b: Party,
    relay: Mailbox,
}

impl Two {
    async fn new() -> Self {
        let mut world = World::new();
        world.join(vec![Vouch::Agent { agent: AGENT, vouch: sign(&world.vouch(), &world.agent) }]);
        let a = Party::new(world.identity(), 100).await;
        let other =
            Identity { agent: OTHER_AGENT, keyid: world.other_agent.keyid(), founder: Some(world.agent.keyid()), ..world.identity() };
        let b = Party::new(other, 101).await;
        let held = a.vault.generate(VERSION, "A256KW+A256GCM".parse().unwrap()).await.unwrap();
        let (record, report) = (world.record(1, held.fingerprint), world.report(1, held.fingerprint));
        let entry = world.key().versions.get_mut(&1).unwrap();
        (entry.record, entry.state) = (None, VersionState::Active);
        let entry_record = sign(&record, &world.agent);
        let entry_report = sign(&report, &world.agent);
        let entry = world.key().versions.get_mut(&1).unwrap();
        entry.record = Some(entry_record);
        entry.ready = [(AGENT, entry_report)].into();
        Self { world, a, b, relay: Mailbox::default() }
    }

    fn seen_by(&self, party: &Party) -> AcceptedSet {
        accept(None, &self.world.set(), &party.identity, &Confirmed::default(), self.world.now()).unwrap()
    }

    async fn a(&mut self) -> Outcome {
        let set = self.seen_by(&self.a);
        self.a.mover.round(&set, &self.relay.of(AGENT)).await.unwrap()
    }

    async fn b(&mut self) -> Outcome {
        let set = self.seen_by(&self.b);
        self.b.mover.round(&set, &self.relay.of(OTHER_AGENT)).await.unwrap()
    }

    /// The other agent has reported it ready, and everybody has heard of it.
    fn reported(&mut self) {
        let fingerprint =
            peek_document::<trust::document::VersionRecord>(self.world.key().versions[&1].record.as_ref().unwrap().as_slice());
        let report = HolderReport { holder: OTHER_AGENT, ..self.world.report(1, fingerprint.unwrap().fingerprint) };
        let report = sign(&report, &self.world.other_agent);
        self.world.key().versions.get_mut(&1).unwrap().ready.insert(OTHER_AGENT, report);
    }
}

/// A relay in memory: what it does with what it carries can be changed.
#[derive(Default, Clone)]
struct Mailbox(Arc<Mutex<Carried>>);

#[derive(Default)]
struct Carried {
    prekeys: BTreeMap<AgentId, Vec<Base64>>,
    transfers: BTreeMap<AgentId, Vec<Base64>>,
    contexts: BTreeMap<AgentId, Vec<Base64>>,
    /// Other sites that were asked for.
    asked: Vec<SiteId>,
    /// Every transfer ever carried.
    seen: Vec<Base64>,
    /// Calls that still fail: after the request was taken, or before.
    failing: Vec<bool>,
    drops_transfers: bool,
    hides_waiting: bool,
}

struct At {
    mailbox: Mailbox,
    agent: AgentId,
}

impl Mailbox {
    fn of(&self, agent: AgentId) -> At {
        At { mailbox: self.clone(), agent }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Carried) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }
}

fn lost() -> CallError {
    CallError::Refused { status: 503, code: "lost".to_owned(), detail: String::new(), retry_after: None }
}

#[async_trait]
impl Relay for At {
    async fn exchange(&self, ask: &RelayAsk) -> Result<RelayAnswer, CallError> {
        self.mailbox.with(|carried| {
            let failing = carried.failing.pop();
            if failing == Some(false) {
                return Err(lost());
            }
            carried.asked.extend(&ask.neighbours);
            carried.prekeys.insert(self.agent, ask.prekeys.clone());
            let mine = carried.transfers.entry(self.agent).or_default();
            mine.retain(|transfer| !ask.done.contains(&Digest::of(transfer.as_slice())));
            carried.contexts.entry(self.agent).or_default().retain(|sent| !ask.done.contains(&Digest::of(sent.as_slice())));
            for sent in &ask.context_keys {
                let head = peek_document::<ContextKeyTransfer>(sent.as_slice()).unwrap().head;
                carried.contexts.entry(head.recipient).or_default().push(sent.clone());
            }
            for transfer in &ask.transfers {
                carried.seen.push(transfer.clone());
                let head = peek_document::<Transfer>(transfer.as_slice()).unwrap().head;
                if !carried.drops_transfers {
                    carried.transfers.entry(head.recipient).or_default().push(transfer.clone());
                }
            }
            if failing == Some(true) {
                return Err(lost());
            }
            let others = carried.prekeys.iter().filter(|(agent, _)| **agent != self.agent);
            let waiting =
                carried.transfers.iter().filter(|(agent, _)| **agent != self.agent && !carried.hides_waiting).flat_map(|(_, all)| all);
            let waiting = waiting.map(|transfer| peek_document::<Transfer>(transfer.as_slice()).unwrap().head);
            Ok(RelayAnswer {
                context_keys: carried.contexts.get(&self.agent).cloned().unwrap_or_default(),
                prekeys: others.flat_map(|(_, prekeys)| prekeys.clone()).collect(),
                transfers: carried.transfers.get(&self.agent).cloned().unwrap_or_default(),
                waiting: waiting.map(|head| Waiting { recipient: head.recipient, prekey: head.prekey, version: head.version }).collect(),
                refused: Vec::new(),
            })
        })
    }
}

#[tokio::test]
async fn what_one_lacks_the_other_sends_and_then_both_are_silent() {
    let mut two = Two::new().await;
    assert_eq!(two.a().await, Outcome { waiting: true, ..Outcome::default() }, "nobody has shown a prekey yet");
    assert_eq!(two.b().await, Outcome { waiting: true, ..Outcome::default() });
    assert!(two.b.prekeys_file().exists());
    assert_eq!(two.a().await, Outcome { sent: 1, waiting: true, ..Outcome::default() });
    assert_eq!(two.a().await.sent, 0, "it waits already");
    assert_eq!(two.b().await, Outcome { taken: 1, ..Outcome::default() });
    assert!(two.b.has_it().await);
    assert!(!two.b.prekeys_file().exists(), "the private half is erased as soon as nothing is waited for");
    two.reported();
    for outcome in [two.a().await, two.b().await] {
        assert_eq!(outcome, Outcome::default());
    }
    assert!(two.relay.with(|carried| carried.prekeys[&OTHER_AGENT].is_empty() && carried.transfers[&OTHER_AGENT].is_empty()));
    let material = two.relay.with(|carried| carried.seen.clone());
    let held = two
        .a
        .vault
        .export(crate::policy::permit::ExportPermit::for_test(VERSION, crate::policy::permit::Destination::Backup))
        .await
        .unwrap();
    assert!(material.iter().all(|transfer| !transfer.as_slice().windows(32).any(|bytes| bytes == held.material.expose())));
}

#[tokio::test]
async fn kills_and_lost_answers_at_every_step_only_delay_it() {
    // Which call fails, whether it was taken before, and who is killed after which round.
    for fails_at in 0..6 {
        for was_taken in [false, true] {
            let mut two = Two::new().await;
            let mut calls = 0;
            for _ in 0..20 {
                for b_turn in [true, false] {
                    let (party, agent) = if b_turn { (&mut two.b, OTHER_AGENT) } else { (&mut two.a, AGENT) };
                    if calls == fails_at {
                        two.relay.with(|carried| carried.failing.push(was_taken));
                    }
                    calls += 1;
                    let set = accept(None, &two.world.set(), &party.identity, &Confirmed::default(), two.world.now()).unwrap();
                    drop(party.mover.round(&set, &two.relay.of(agent)).await);
                    party.restart().await;
                }
            }
            assert!(two.b.has_it().await, "call {fails_at}, taken {was_taken}");
            assert!(!two.b.prekeys_file().exists());
        }
    }
}

/// A relay whose second call comes to nothing.
struct SecondFails(At, Mutex<u32>);
#[async_trait]
impl Relay for SecondFails {
    async fn exchange(&self, ask: &RelayAsk) -> Result<RelayAnswer, CallError> {
        let second = {
            let mut calls = self.1.lock().unwrap();
            *calls += 1;
            *calls == 2
        };
        if second { Err(lost()) } else { self.0.exchange(ask).await }
    }
}

#[tokio::test]
async fn what_was_on_its_way_when_the_relay_went_away_is_sent_again_at_once() {
    let mut two = Two::new().await;
    two.b().await;
    let set = two.seen_by(&two.a);
    // The first call of the round is answered, the second is not.
    assert!(two.a.mover.round(&set, &SecondFails(two.relay.of(AGENT), Mutex::new(0))).await.is_err());
    assert_eq!((two.a().await.sent, two.b().await.taken), (1, 1));
}

#[tokio::test]
async fn what_was_taken_is_reported_also_when_the_relay_goes_away_before_it_is_told() {
    let mut two = Two::new().await;
    two.b().await;
    two.a().await;
    let arrived = two.b.mover.parts.arrived.subscribe();
    let set = two.seen_by(&two.b);
    assert!(two.b.mover.round(&set, &SecondFails(two.relay.of(OTHER_AGENT), Mutex::new(0))).await.is_err());
    assert!(two.b.has_it().await);
    assert!(arrived.has_changed().unwrap(), "reporters look at the vault");
}

#[tokio::test]
async fn a_relay_that_drops_repeats_reorders_and_mixes_gets_nothing_in_but_what_was_sent() {
    let mut two = Two::new().await;
    two.b().await;
    two.relay.with(|carried| carried.drops_transfers = true);
    assert_eq!(two.a().await.sent, 1);
    assert_eq!(two.b().await.taken, 0);
    assert_eq!(two.a().await.sent, 0, "not at once again");
    two.a.wall.advance(AGAIN_AFTER + Duration::from_secs(1));
    two.relay.with(|carried| (carried.drops_transfers, carried.hides_waiting) = (false, true));
    assert_eq!(two.a().await.sent, 1, "again after a while");
    // Every transfer ever seen, twice, backwards, and also to the one who sent it.
    two.relay.with(|carried| {
        let all: Vec<_> = carried.seen.iter().rev().chain(&carried.seen).cloned().collect();
        carried.transfers.insert(OTHER_AGENT, all.clone());
        carried.transfers.insert(AGENT, all);
        // And prekeys in the place of others'.
        let stray = carried.prekeys[&OTHER_AGENT].clone();
        carried.prekeys.insert(AgentId::from_bits(9), stray);
    });
    assert_eq!(two.a().await.taken, 0);
    assert!(two.b().await.taken >= 1);
    assert!(two.b.has_it().await);
    // After the prekey is erased a replay is refused by name.
    let replay = two.relay.with(|carried| carried.seen[0].clone());
    let set = two.seen_by(&two.b);
    let refused = two.b.mover.take(&set, replay.as_slice()).await.unwrap_err();
    assert_eq!(refused.code(), "prekey_unknown");
    two.b.restart().await;
    assert_eq!(two.b.mover.take(&set, replay.as_slice()).await.unwrap_err().code(), "prekey_unknown");
}

#[tokio::test]
async fn other_material_under_the_right_name_never_reaches_the_vault() {
    let mut two = Two::new().await;
    two.b().await;
    let set = two.seen_by(&two.a);
    let prekey = two.relay.with(|carried| carried.prekeys[&OTHER_AGENT][0].clone());
    let prekey = accept_prekey(&set, prekey.as_slice(), START).unwrap();
    let movable = movable(&set, VERSION).unwrap();
    let by = (&two.world.agent, &ManualIds::seeded(5) as &dyn Ids, START);
    let evil = seal_transfer(&set, (VERSION, movable), &prekey, &[7; 32], by).unwrap();
    two.relay.with(|carried| carried.transfers.insert(OTHER_AGENT, vec![Base64(evil)]));
    assert_eq!(two.b().await.taken, 0);
    assert!(!two.b.has_it().await);
    // It is not fetched again, and the genuine one still comes.
    assert!(two.relay.with(|carried| carried.transfers[&OTHER_AGENT].is_empty()));
    assert_eq!((two.a().await.sent, two.b().await.taken), (1, 1));
}

#[tokio::test]
async fn what_was_destroyed_here_is_not_taken_again() {
    let mut two = Two::new().await;
    two.b().await;
    two.a().await;
    two.b.vault.destroy(VERSION).await.unwrap();
    let set = two.seen_by(&two.b);
    let transfer = two.relay.with(|carried| carried.seen[0].clone());
    assert_eq!(two.b.mover.take(&set, transfer.as_slice()).await.unwrap_err().code(), "key_version_destroyed");
    assert_eq!(two.b().await.taken, 0, "and it waits for nothing");
    assert!(!two.b.prekeys_file().exists());
}

#[tokio::test]
async fn a_vault_that_guards_less_than_the_key_demands_neither_asks_nor_takes() {
    let mut two = Two::new().await;
    two.b().await;
    two.a().await;
    let transfer = two.relay.with(|carried| carried.seen[0].clone());
    two.world.project_policy().keys.get_mut(&KEY).unwrap().protection = Protection::SealedByHardware;
    let set = two.seen_by(&two.b);
    assert_eq!(two.b.mover.take(&set, transfer.as_slice()).await.unwrap_err().code(), "protection_not_met");
    assert_eq!(two.b().await, Outcome::default(), "and it waits for nothing");
    assert!(!two.b.has_it().await && !two.b.prekeys_file().exists());
}

#[tokio::test]
async fn a_prekey_that_nears_its_end_is_followed_by_another_and_then_erased() {
    let mut two = Two::new().await;
    two.b().await;
    let shown = |two: &Two| two.relay.with(|carried| carried.prekeys[&OTHER_AGENT].clone());
    let first = shown(&two);
    two.b.wall.advance(Duration::from_secs(2000));
    two.b().await;
    let both = shown(&two);
    assert_eq!((both.len(), &both[..1]), (2, &first[..]));
    two.a.wall.advance(Duration::from_secs(2000));
    two.a().await;
    let sent = two.relay.with(|carried| peek_document::<Transfer>(carried.seen[0].as_slice()).unwrap().head.prekey);
    assert_eq!(sent, peek_document::<Prekey>(both[1].as_slice()).unwrap().id, "sealed to the one that lasts");
    two.b.wall.advance(Duration::from_secs(1700));
    two.relay.with(|carried| carried.transfers.clear());
    two.b().await;
    assert!(!shown(&two).contains(&first[0]), "the first has ended");
    let kept = std::fs::read_to_string(two.b.prekeys_file()).unwrap();
    assert!(!kept.contains(&peek_document::<Prekey>(first[0].as_slice()).unwrap().id.to_string()));
}
