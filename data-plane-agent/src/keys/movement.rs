//! Material on its way between the vaults of a site, and of sites that share a key. What this vault lacks is waited for under a prekey; what others lack and
//! this vault has is sealed to theirs. Whom to believe, the accepted set says; the relay only carries.
//!
//! Everything here may be done again: a crash at any point leaves something that is asked for, sent or taken the next time.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use schema::{
    clock::{Clock, Ids, Timestamp},
    encoding::{Base64, Digest},
    id::{AgentId, KeyVersion, PrekeyId, SiteId},
    wire::relay::{MAX_CONTEXT_KEYS, MAX_NEIGHBOURS, MAX_TRANSFERS, RelayAnswer, RelayAsk, Waiting},
};
use tokio::sync::watch;
use trust::{
    accept::AcceptedSet,
    document::{Prekey, TransferHead},
    movement::{
        MovementRefusal, Received, accept_prekey, accept_transfer, lacking, movable, recipients, recipients_elsewhere, seal_transfer,
    },
    pair::Pair,
};

use crate::{
    algorithm,
    control::{
        client::CallError,
        contexts::{self, ContextKeys},
        prekeys::{Means, PrekeyError, Prekeys},
        time::AgentClock,
    },
    findings::{Findings, Found},
    keys::reconcile::meets,
    policy::movement::{StaysHere, are_young_enough, hand_over},
    vault::{Exported, Vault, VaultError, secret::SecretBytes},
};

/// The most that is sealed in one round: the next follows at once.
const MAX_A_ROUND: usize = 500;
/// Under which names its findings stand.
const RECEIVING: &str = "receiving";
const SENDING: &str = "sending";
/// What was sent is sent again when nothing came of it for so long.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Context keys likewise: who has taken one does not say so.
const CONTEXT_KEYS_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Whoever has nothing to do looks so often whether somebody has lost a context key that it once had.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(3600);

/// Whoever carries documents between the agents of a site, and of sites that share a key.
#[async_trait]
pub trait Relay: Send + Sync {
    /// Gives it what is for others, and fetches what others have for this agent.
    async fn exchange(&self, ask: &RelayAsk) -> Result<RelayAnswer, CallError>;
}

/// The relay of an agent that is connected to nothing: requests are written down, and what was heard last is the answer to the first.
struct Written {
    heard: Mutex<Option<RelayAnswer>>,
    asks: Mutex<Vec<RelayAsk>>,
}

#[async_trait]
impl Relay for Written {
    async fn exchange(&self, ask: &RelayAsk) -> Result<RelayAnswer, CallError> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner).push(ask.clone());
        Ok(self.heard.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default())
    }
}

/// Why a round came to nothing. What concerns one version only is logged, and the round goes on.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The relay.
    #[error("the relay was not reached")]
    Relay(#[from] CallError),
    /// Prekeys.
    #[error(transparent)]
    Prekeys(#[from] PrekeyError),
}

impl MoveError {
    /// When it may be tried again, if the control plane said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Relay(error) => error.retry_after(),
            Self::Prekeys(_) => None,
        }
    }
}

/// Why one transfer was not taken. [`NotTaken::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It is not what it should be.
    #[error(transparent)]
    Refused(#[from] MovementRefusal),
    /// The vault does not take it.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl NotTaken {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Vault(error) => error.code(),
        }
    }

    /// Whether the same transfer may be taken another time: the vault failed, not the transfer.
    fn passes(&self) -> bool {
        matches!(self, Self::Vault(error) if !matches!(error, VaultError::Destroyed(_) | VaultError::OtherMaterial(_) | VaultError::OtherAlgorithm { .. } | VaultError::ProtectionNotMet { .. } | VaultError::Algorithm(_)))
    }
}

/// Why one version was not sealed for somebody.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error(transparent)]
    Stays(#[from] StaysHere),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("sealing failed")]
    Seal(#[from] trust::seal::SealError),
    #[error("the vault holds other material than the version's record says")]
    OtherMaterial,
}

/// What a round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Versions that were taken in.
    pub taken: usize,
    /// Transfers that were sent.
    pub sent: usize,
    /// Whether this agent, or another one that this one can help, still waits for something.
    pub waiting: bool,
}

/// A transfer that was found to be what it says, before the vault has it.
pub struct Judged {
    /// What it is, and from whom.
    pub head: TransferHead,
    secret: SecretBytes,
}

/// What moving needs.
pub struct MoverParts {
    /// The vault.
    pub vault: Arc<dyn Vault>,
    /// Signs transfers and prekeys.
    pub pair: Arc<Pair>,
    /// Agent time.
    pub clock: Arc<AgentClock>,
    /// Randomness.
    pub ids: Arc<dyn Ids>,
    /// The prekeys of this agent.
    pub prekeys: Prekeys,
    /// What hides encryption contexts, and moves with everything else.
    pub context_keys: Option<Arc<ContextKeys>>,
    /// What it finds.
    pub findings: Arc<Findings>,
    /// Counts arrivals: what the vault holds is reported after each, also when nobody could be told that it was taken.
    pub arrived: watch::Sender<u64>,
}

/// Sends and takes.
pub struct Mover {
    parts: MoverParts,
    /// When something was sent last.
    sent: BTreeMap<Waiting, Timestamp>,
    /// Context keys that were sent: to which prekey, and which.
    sent_contexts: BTreeMap<(PrekeyId, Digest), Timestamp>,
    /// When the last round began, and when the relay was last asked.
    began: Option<Timestamp>,
    asked: Option<Timestamp>,
    /// What does not leave this vault; said once.
    stay: BTreeSet<KeyVersion>,
}

impl Mover {
    /// Puts the parts together.
    pub fn new(parts: MoverParts) -> Self {
        Self { parts, sent: BTreeMap::new(), sent_contexts: BTreeMap::new(), began: None, asked: None, stay: BTreeSet::new() }
    }

    /// Randomness, for pauses.
    pub fn ids(&self) -> &Arc<dyn Ids> {
        &self.parts.ids
    }

    /// One round: shows what this agent waits for, takes what came, sends what others lack.
    pub async fn round(&mut self, set: &AcceptedSet, relay: &dyn Relay) -> Result<Outcome, MoveError> {
        self.began = Some(self.parts.clock.now());
        self.make_context_keys().await;
        let missing = self.missing(set).await;
        let had = !self.parts.prekeys.shown().is_empty();
        let listening = self.listens(set);
        // Who is alone has nobody to look after.
        if recipients(set).is_empty() {
            self.asked = Some(self.parts.clock.now());
        }
        self.tend(!missing.is_empty() || listening).await?;
        let wanted = self.wanted(set).await;
        if missing.is_empty() && wanted.is_empty() && !had && !listening && !self.is_overdue() {
            return Ok(Outcome::default());
        }
        let ask = RelayAsk { prekeys: self.parts.prekeys.shown(), neighbours: sites_elsewhere(set, &wanted), ..RelayAsk::default() };
        let answer = self.exchange(relay, ask).await?;
        self.asked = Some(self.parts.clock.now());
        let (taken, mut done) = self.take_all(set, &answer.transfers).await;
        done.extend(self.take_context_keys(set, &answer.context_keys).await);
        let missing = if taken > 0 { self.missing(set).await } else { missing };
        let listens = self.listens(set);
        if taken > 0 || listens != listening {
            // What is of no use any more is erased here before it is withdrawn there.
            self.tend(!missing.is_empty() || listens).await?;
        }
        let prekeys = self.prekeys_of_others(set, &answer.prekeys);
        let transfers = self.seal_all(set, &prekeys, &wanted, &answer.waiting).await;
        let context_keys = self.seal_context_keys(set, &prekeys);
        let sent = transfers.len() + context_keys.len();
        let (mut transfers, mut context_keys) = (transfers.into_iter().peekable(), context_keys.into_iter().peekable());
        while transfers.peek().is_some() || context_keys.peek().is_some() || !done.is_empty() {
            let (sending, transfers): (Vec<_>, Vec<_>) = transfers.by_ref().take(MAX_TRANSFERS).unzip();
            let (sending_contexts, context_keys): (Vec<_>, Vec<_>) = context_keys.by_ref().take(MAX_CONTEXT_KEYS).unzip();
            let done = std::mem::take(&mut done);
            let ask = RelayAsk { prekeys: self.parts.prekeys.shown(), transfers, context_keys, done, ..RelayAsk::default() };
            self.exchange(relay, ask).await?;
            // What was on its way when the relay went away is sent again at once.
            let now = self.parts.clock.now();
            self.sent.extend(sending.into_iter().map(|sending| (sending, now)));
            self.sent_contexts.extend(sending_contexts.into_iter().map(|sending| (sending, now)));
        }
        Ok(Outcome { taken, sent, waiting: !missing.is_empty() || !wanted.is_empty() || listens })
    }

    /// What this agent has for others, and asks, for somebody to carry: what it heard last stands for an answer. The last request fetches.
    pub async fn outbox(&mut self, set: &AcceptedSet, heard: RelayAnswer) -> Result<Vec<RelayAsk>, MoveError> {
        // What went with another outbox may never have arrived.
        self.sent.clear();
        self.sent_contexts.clear();
        let carried = Written { heard: Mutex::new(Some(heard)), asks: Mutex::default() };
        self.round(set, &carried).await?;
        let mut asks = carried.asks.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !asks.is_empty() {
            asks.rotate_left(1);
        }
        Ok(asks)
    }

    /// Takes what others had for this agent, as somebody brought it: how many versions came in, and what need not be kept for it.
    pub async fn inbox(&mut self, set: &AcceptedSet, answer: &RelayAnswer) -> Result<(usize, Vec<Digest>), MoveError> {
        let (taken, mut done) = self.take_all(set, &answer.transfers).await;
        done.extend(self.take_context_keys(set, &answer.context_keys).await);
        let waiting = !self.missing(set).await.is_empty() || self.listens(set);
        self.tend(waiting).await?;
        Ok((taken, done))
    }

    /// Keeps what belongs to the time only, for an agent that makes no rounds.
    pub async fn rest(&mut self) {
        self.make_context_keys().await;
    }

    /// Whether a round is due though no set has changed: a month has begun or is about to, or the relay was not asked for long.
    pub fn is_due(&self) -> bool {
        let now = self.parts.clock.now();
        let rests = self.began.is_some_and(|at| now < at.plus(AGAIN_AFTER));
        !rests && (self.is_overdue() || self.parts.context_keys.as_ref().is_some_and(|keys| keys.is_due(now)))
    }

    fn is_overdue(&self) -> bool {
        let now = self.parts.clock.now();
        self.parts.context_keys.is_some() && self.asked.is_none_or(|at| at.plus(LOOK_AGAIN_AFTER) <= now)
    }

    /// Makes the context keys that the time asks for.
    async fn make_context_keys(&self) {
        let Some(keys) = &self.parts.context_keys else { return };
        if let Err(error) = keys.tend(&*self.parts.ids, self.parts.clock.now()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the key that hides encryption contexts in receipts was not made");
        }
    }

    /// Whether those of other agents are waited for.
    fn listens(&self, set: &AcceptedSet) -> bool {
        self.parts.context_keys.as_ref().is_some_and(|keys| keys.is_waiting(set))
    }

    /// Takes context keys; gives what need not be kept for this agent any longer.
    async fn take_context_keys(&mut self, set: &AcceptedSet, documents: &[Base64]) -> Vec<Digest> {
        let MoverParts { context_keys, prekeys, ids, clock, .. } = &mut self.parts;
        let Some(keys) = context_keys else { return Vec::new() };
        let mut done = Vec::new();
        for bytes in documents {
            match keys.take(set, bytes.as_slice(), prekeys.own(), (&**ids, clock.now())).await {
                Ok(contexts::Taken { adopted, shown, prekey }) => {
                    prekeys.used(prekey);
                    if adopted {
                        tracing::info!(key = shown, "encryption contexts are hidden under the key of the site");
                    }
                }
                Err(contexts::NotTaken::Refused(refusal)) => {
                    metrics::counter!("freehold_transfers_refused_total", "code" => refusal.code()).increment(1);
                    tracing::warn!(code = refusal.code(), %refusal, "a context key that was sent to this agent was not taken");
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "a context key was not taken");
                    continue;
                }
            }
            done.push(Digest::of(bytes.as_slice()));
        }
        done
    }

    /// This agent's context keys for whoever shows a prekey.
    fn seal_context_keys(&mut self, set: &AcceptedSet, prekeys: &[Prekey]) -> Vec<((PrekeyId, Digest), Base64)> {
        let now = self.parts.clock.now();
        self.sent_contexts.retain(|_, at| now < at.plus(CONTEXT_KEYS_AGAIN_AFTER));
        let MoverParts { context_keys: Some(keys), pair, ids, .. } = &self.parts else { return Vec::new() };
        if !are_young_enough(set, self.parts.clock.moment()) {
            return Vec::new();
        }
        let mut sealed = Vec::new();
        for agent in recipients(set) {
            // Of several, the one that lasts.
            let Some(prekey) = prekeys.iter().filter(|prekey| prekey.agent == agent).max_by_key(|prekey| prekey.not_after) else {
                continue;
            };
            let sent = |id: &Digest| self.sent_contexts.contains_key(&(prekey.id, *id));
            match keys.seal(set, prekey, sent, (&**pair, &**ids, now)) {
                Ok(all) => sealed.extend(all.into_iter().map(|(id, document)| ((prekey.id, id), document))),
                Err(error) => {
                    tracing::warn!(recipient = %agent, error = &error as &dyn std::error::Error, "a context key was not sent")
                }
            }
        }
        sealed
    }

    /// Takes transfers, from wherever they came; gives how many versions came in, and which transfers are of no further use.
    pub async fn take_all(&mut self, set: &AcceptedSet, transfers: &[Base64]) -> (usize, Vec<Digest>) {
        let (mut taken, mut done) = (0, Vec::new());
        for bytes in transfers {
            match self.take(set, bytes.as_slice()).await {
                Ok(version) => {
                    tracing::info!(%version, "a key version was received");
                    taken += 1;
                }
                Err(error) => {
                    metrics::counter!("freehold_transfers_refused_total", "code" => error.code()).increment(1);
                    tracing::warn!(
                        code = error.code(),
                        error = &error as &dyn std::error::Error,
                        "material that was sent to this agent was not taken"
                    );
                    if error.passes() {
                        continue;
                    }
                }
            }
            done.push(Digest::of(bytes.as_slice()));
        }
        (taken, done)
    }

    /// Takes one transfer.
    pub async fn take(&mut self, set: &AcceptedSet, bytes: &[u8]) -> Result<KeyVersion, NotTaken> {
        let judged = self.judge(set, bytes)?;
        self.keep(judged).await
    }

    /// Judges one transfer: it is for this agent, from who may send it, and the material of the version's record.
    pub fn judge(&self, set: &AcceptedSet, bytes: &[u8]) -> Result<Judged, NotTaken> {
        let received = accept_transfer(set, bytes, self.parts.prekeys.own(), self.parts.clock.now())?;
        let Received { head, material } = &received;
        self.guards(set, head.version)?;
        let secret = SecretBytes::new(material.to_vec());
        let key = algorithm::serve(head.algorithm).load(head.algorithm, &secret).map_err(VaultError::from)?;
        // The material itself, not what is said of it.
        received.check(algorithm::fingerprint(head.algorithm, key.public_key(), &secret))?;
        Ok(Judged { head: received.head, secret })
    }

    /// Keeps what was judged.
    pub async fn keep(&mut self, judged: Judged) -> Result<KeyVersion, NotTaken> {
        let Judged { head, secret } = judged;
        self.parts.vault.import(head.version, head.algorithm, secret).await?;
        self.parts.prekeys.used(head.prekey);
        self.parts.arrived.send_modify(|count| *count += 1);
        Ok(head.version)
    }

    /// Every version that an agent lacks and this vault has. For a file.
    pub async fn given_to(&self, set: &AcceptedSet, agent: AgentId) -> Vec<KeyVersion> {
        let mut versions = Vec::new();
        for version in lacking(set, agent) {
            if self.has(set, version).await {
                versions.push(version);
            }
        }
        versions
    }

    /// A prekey that travels as a file.
    pub async fn prekey_for_file(&mut self) -> Result<Base64, PrekeyError> {
        let MoverParts { vault, pair, clock, ids, prekeys, .. } = &mut self.parts;
        prekeys.filed(&Means { vault: &**vault, pair, ids: &**ids, now: clock.now() }).await
    }

    /// Makes, renews and erases prekeys as needed.
    pub async fn tend(&mut self, waiting: bool) -> Result<(), PrekeyError> {
        let MoverParts { vault, pair, clock, ids, prekeys, .. } = &mut self.parts;
        prekeys.tend(waiting, &Means { vault: &**vault, pair, ids: &**ids, now: clock.now() }).await
    }

    /// The versions that should be in this vault and are not.
    pub async fn missing(&self, set: &AcceptedSet) -> Vec<KeyVersion> {
        let (mut missing, mut found) = (Vec::new(), Vec::new());
        for version in lacking(set, set.identity().agent) {
            match self.parts.vault.held(version).await {
                Err(VaultError::NotHeld(_)) => match self.guards(set, version) {
                    Ok(()) => missing.push(version),
                    // What would be guarded less here than its key demands is not asked for.
                    Err(error) => found.push(Found::of(version, error.code(), &error)),
                },
                // What is here and not yet reported, or was destroyed here, is not waited for.
                Ok(_) | Err(VaultError::Destroyed(_)) => {}
                Err(error) => {
                    found.push(Found::of(version, error.code(), &error));
                    tracing::error!(%version, error = &error as &dyn std::error::Error, "the vault does not say whether it has a version")
                }
            }
        }
        self.parts.findings.replace(RECEIVING, found);
        missing
    }

    /// Whether this vault guards what it takes in as well as the version's key demands.
    fn guards(&self, set: &AcceptedSet, version: KeyVersion) -> Result<(), VaultError> {
        let definition = set.keys().get(&version.key).ok_or(VaultError::NotHeld(version))?;
        meets(Some(self.parts.vault.description().brought), definition, version)
    }

    /// What the other agents lack and this vault has: those of the site, and those of sites at which policy places the key too.
    async fn wanted(&self, set: &AcceptedSet) -> Vec<(AgentId, KeyVersion)> {
        let mut wanted = Vec::new();
        let mut held = BTreeMap::new();
        for agent in recipients(set).into_iter().chain(recipients_elsewhere(set)) {
            for version in lacking(set, agent) {
                if self.stay.contains(&version) {
                    continue;
                }
                let here = match held.get(&version) {
                    Some(here) => *here,
                    None => self.has(set, version).await,
                };
                held.insert(version, here);
                if here {
                    wanted.push((agent, version));
                }
            }
        }
        wanted
    }

    /// Whether this vault has the material that the version's record names.
    async fn has(&self, set: &AcceptedSet, version: KeyVersion) -> bool {
        let held = self.parts.vault.held(version).await;
        matches!((held, movable(set, version)), (Ok(held), Ok(movable)) if held.fingerprint == movable.fingerprint)
    }

    fn prekeys_of_others(&self, set: &AcceptedSet, documents: &[Base64]) -> Vec<Prekey> {
        let now = self.parts.clock.now();
        let accepted = documents.iter().filter_map(|bytes| {
            let accepted = accept_prekey(set, bytes.as_slice(), now);
            accepted.inspect_err(|refusal| tracing::debug!(code = refusal.code(), %refusal, "a prekey is not sealed to")).ok()
        });
        accepted.collect()
    }

    async fn seal_all(
        &mut self,
        set: &AcceptedSet,
        prekeys: &[Prekey],
        wanted: &[(AgentId, KeyVersion)],
        waiting: &[Waiting],
    ) -> Vec<(Waiting, Base64)> {
        let now = self.parts.clock.now();
        self.sent.retain(|_, at| now < at.plus(AGAIN_AFTER));
        let waiting: BTreeSet<&Waiting> = waiting.iter().collect();
        let mut transfers = Vec::new();
        for (agent, version) in wanted {
            if transfers.len() == MAX_A_ROUND {
                break;
            }
            // Of several, the one that lasts.
            let Some(prekey) = prekeys.iter().filter(|prekey| prekey.agent == *agent).max_by_key(|prekey| prekey.not_after) else {
                continue;
            };
            let sending = Waiting { recipient: *agent, prekey: prekey.id, version: *version };
            if waiting.contains(&sending) || self.sent.contains_key(&sending) {
                continue;
            }
            if let Some(transfer) = self.seal_one(set, *version, prekey).await {
                transfers.push((sending, transfer));
            }
        }
        transfers
    }

    /// One version, sealed to a prekey; none when it does not leave, which is told.
    pub async fn seal_one(&mut self, set: &AcceptedSet, version: KeyVersion, prekey: &Prekey) -> Option<Base64> {
        match self.seal(set, version, prekey).await {
            Ok(transfer) => {
                tracing::info!(%version, recipient = %prekey.agent, "a key version was sealed for another agent");
                Some(transfer)
            }
            Err(NotSent::Vault(error @ VaultError::NotExtractable(_))) => {
                self.stay.insert(version);
                self.parts.findings.add(SENDING, Found::of(version, error.code(), &error));
                tracing::warn!(%version, "a key version does not leave this vault: the other agents of the site must share the vault, or do without");
                None
            }
            Err(error) => {
                tracing::warn!(%version, recipient = %prekey.agent, error = &error as &dyn std::error::Error, "a key version was not sent");
                None
            }
        }
    }

    async fn seal(&self, set: &AcceptedSet, version: KeyVersion, prekey: &Prekey) -> Result<Base64, NotSent> {
        let (permit, movable) = hand_over(set, version, prekey, self.parts.clock.moment())?;
        let Exported { held, material } = self.parts.vault.export(permit).await?;
        if held.fingerprint != movable.fingerprint {
            return Err(NotSent::OtherMaterial);
        }
        let by = (&*self.parts.pair, &*self.parts.ids, self.parts.clock.now());
        Ok(Base64(seal_transfer(set, (version, movable), prekey, material.expose(), by)?))
    }

    async fn exchange(&self, relay: &dyn Relay, ask: RelayAsk) -> Result<RelayAnswer, CallError> {
        let answer = relay.exchange(&ask).await?;
        for refused in &answer.refused {
            tracing::warn!(list = refused.list, code = refused.code, detail = refused.detail, "the relay refused a document");
        }
        Ok(answer)
    }
}

/// The other sites of those who lack something: their prekeys are asked for.
fn sites_elsewhere(set: &AcceptedSet, wanted: &[(AgentId, KeyVersion)]) -> Vec<SiteId> {
    let sites = wanted.iter().filter_map(|(agent, _)| Some(set.neighbours().get(agent)?.0));
    sites.collect::<BTreeSet<_>>().into_iter().take(MAX_NEIGHBOURS).collect()
}

/// The newest prekey of an agent among documents that came as a file.
pub fn prekey_of(documents: &[Base64], set: &AcceptedSet, agent: AgentId, now: Timestamp) -> Result<Base64, MovementRefusal> {
    let mut refusal = MovementRefusal::PrekeyUnknown(PrekeyId::from_bits(0));
    for document in documents {
        match accept_prekey(set, document.as_slice(), now) {
            Ok(prekey) if prekey.agent == agent => return Ok(document.clone()),
            Ok(prekey) => refusal = MovementRefusal::OtherRecipient(prekey.agent),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}
