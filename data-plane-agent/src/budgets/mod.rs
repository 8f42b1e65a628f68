//! Budgets: how often, and for how many bytes, a key version may still protect data here.
//!
//! A limit of a key is shared out among agents by leases (`control::lease` asks for them). Here a lease is spent: in blocks
//! that are reserved on disk ([`ledger`]) before any of their numbers is used. Keys without such limits never come here.

pub mod ledger;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schema::{
    clock::{Clock, Timestamp},
    encoding::Base64,
    id::KeyVersion,
    key::Limits,
    ranges::{LimitKind, Ranges},
    wire::operation::Warning,
};
use service::files::{FileError, OWNER_ONLY, write_atomic};
use tokio::sync::{Notify, watch};
use trust::accept::{AcceptedLease, AcceptedSet, Rejection, accept_lease};

use self::ledger::{Ledger, Wish};
use crate::policy::in_force::InForce;

/// How long a request waits for a lease that is on its way.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(3) };
/// The most uses that are reserved at once: what a crash can lose.
const MAX_BLOCK_USES: u64 = 4096;
/// The most bytes that are reserved at once, beyond what one request needs.
const MAX_BLOCK_BYTES: u64 = 256 << 20;
/// The most uses that are asked for at once.
const MAX_WISH_USES: u64 = 1_000_000;
/// The most bytes that are asked for at once, beyond what one request needs.
const MAX_WISH_BYTES: u64 = 64 << 30;
/// A lease is renewed when less than this is left of its life.
const RENEW_BEFORE: Duration = Duration::from_secs(4 * 86_400);
/// How often something is asked for again that nobody had to give.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Why a version may not protect data now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BudgetRefusal {
    /// The limit is used up, or shared out.
    #[error(
        "version {version} has reached its hard limit of {limit} {kind}: rotate the key, or raise the limit; it does not free by itself"
    )]
    Exhausted {
        /// Which.
        version: KeyVersion,
        /// What is counted.
        kind: LimitKind,
        /// The hard limit.
        limit: u64,
    },
    /// The agent holds too little of the limit now.
    #[error(
        "this agent holds no more of the {kind} of version {version}, and the control plane has not given it more: see that the agent \
         reaches it, and try again"
    )]
    NoLease {
        /// Which.
        version: KeyVersion,
        /// What is counted.
        kind: LimitKind,
        /// The hard limit, where there is one.
        limit: Option<u64>,
    },
    /// The lease has ended.
    #[error("the lease for the {kind} of version {version} ended at {expired}: restore the connection to the control plane, and try again")]
    LeaseExpired {
        /// Which.
        version: KeyVersion,
        /// What is counted.
        kind: LimitKind,
        /// The hard limit, where there is one.
        limit: Option<u64>,
        /// When.
        expired: Timestamp,
    },
    /// Bytes are counted, and nobody said how many.
    #[error("the bytes protected by version {version} are limited: send Content-Length, so that they can be counted beforehand")]
    SizeUnknown {
        /// Which.
        version: KeyVersion,
    },
    /// What is used could not be written down.
    #[error("the use of version {version} could not be counted: {error}")]
    NotCounted {
        /// Which.
        version: KeyVersion,
        /// Why.
        #[source]
        error: Arc<FileError>,
    },
}

impl BudgetRefusal {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Exhausted { kind: LimitKind::Uses, .. } => "limit_uses_exhausted",
            Self::Exhausted { kind: LimitKind::Bytes, .. } => "limit_bytes_exhausted",
            Self::NoLease { .. } => "lease_missing",
            Self::LeaseExpired { .. } => "lease_expired",
            Self::SizeUnknown { .. } => "size_unknown",
            Self::NotCounted { .. } => "use_not_counted",
        }
    }

    /// The limit it is about: what is counted, the hard limit, and what frees it.
    pub fn limit(&self) -> Option<serde_json::Value> {
        let (kind, hard, frees) = match self {
            Self::Exhausted { kind, limit, .. } => (kind, Some(limit), "rotation, or a higher limit"),
            Self::NoLease { kind, limit, .. } => (kind, limit.as_ref(), "the next lease"),
            Self::LeaseExpired { kind, limit, .. } => (kind, limit.as_ref(), "the next lease"),
            Self::SizeUnknown { .. } | Self::NotCounted { .. } => return None,
        };
        Some(serde_json::json!({ "counts": kind.to_string(), "hard": hard.map(u64::to_string), "frees": frees }))
    }

    /// The HTTP status and the title of the problem.
    pub const fn status(&self) -> (u16, &'static str) {
        match self {
            Self::Exhausted { .. } => (409, "A hard limit was reached"),
            Self::NoLease { .. } | Self::LeaseExpired { .. } => (503, "There is no lease for this"),
            Self::SizeUnknown { .. } => (411, "The size is not known"),
            Self::NotCounted { .. } => (503, "The use cannot be counted"),
        }
    }
}

/// Why the ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error(
        "{path} is damaged: it holds what was spent of budgets. Restore it from a backup taken since; or remove it, and what this agent \
         holds counts as spent"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The budgets of this agent.
pub struct Budgets {
    file: PathBuf,
    time: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held by whoever changes the ledger.
    writing: tokio::sync::Mutex<()>,
    wanted: Notify,
    changed: watch::Sender<()>,
}

struct State {
    ledger: Ledger,
    /// The lease that may be spent from: none until it was verified.
    lease: Option<AcceptedLease>,
    /// The root under which it was verified.
    under: Option<u64>,
    /// Reserved, not used yet.
    blocks: HashMap<(KeyVersion, LimitKind), Ranges>,
    /// What somebody waits for.
    starving: HashMap<(KeyVersion, LimitKind), u64>,
    /// What more was asked of in the request on its way.
    wished: Vec<(KeyVersion, LimitKind)>,
    /// What was asked for, and not given, and when.
    barren: HashMap<(KeyVersion, LimitKind), Timestamp>,
    /// What was spent of since the lease came.
    busy: HashSet<KeyVersion>,
}

impl Budgets {
    /// Reads the ledger back; a file that is not there is a new one.
    pub fn open(file: PathBuf, time: Arc<dyn Clock>) -> Result<Self, LedgerError> {
        let ledger = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| LedgerError::Damaged { path: file.clone(), source })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ledger::default(),
            Err(source) => return Err(LedgerError::Read { path: file, source }),
        };
        let (lease, under, blocks, starving, wished, barren, busy) = Default::default();
        let state = Mutex::new(State { ledger, lease, under, blocks, starving, wished, barren, busy });
        Ok(Self { file, time, state, writing: tokio::sync::Mutex::default(), wanted: Notify::new(), changed: watch::Sender::new(()) })
    }

    /// Counts one use of a version that protects so many bytes; gives what should be looked at soon. What was counted is
    /// counted, whatever then becomes of the operation.
    pub async fn take(&self, version: KeyVersion, limits: &Limits, size: Option<u64>) -> Result<Vec<Warning>, BudgetRefusal> {
        let mut warnings = Vec::new();
        for kind in LimitKind::ALL {
            let (soft, hard) = limits.of(*kind);
            if (soft, hard) == (None, None) {
                continue;
            }
            let amount = match kind {
                LimitKind::Uses => 1,
                LimitKind::Bytes => size.ok_or(BudgetRefusal::SizeUnknown { version })?,
            };
            match self.take_some(version, *kind, amount, hard).await {
                Ok(highest) => warnings.extend(soft.filter(|soft| highest > *soft).map(|soft| near(version, *kind, soft, hard))),
                // Nothing hard is at stake: that it could not be counted is said.
                Err(refusal) if hard.is_none() => warnings.push(not_counted(&refusal)),
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(warnings)
    }

    /// What [`Self::take`] would say now, taking nothing: with what this agent holds, without asking for more. Without a size it
    /// is asked whether any bytes are left.
    pub fn look(&self, version: KeyVersion, limits: &Limits, size: Option<u64>) -> Result<Vec<Warning>, BudgetRefusal> {
        let mut warnings = Vec::new();
        for kind in LimitKind::ALL {
            let (soft, hard) = limits.of(*kind);
            if (soft, hard) == (None, None) {
                continue;
            }
            let amount = match kind {
                LimitKind::Uses => 1,
                LimitKind::Bytes => size.unwrap_or(1),
            };
            match self.look_at(version, *kind, amount, hard) {
                Ok(highest) => warnings.extend(soft.filter(|soft| highest > *soft).map(|soft| near(version, *kind, soft, hard))),
                Err(refusal) if hard.is_none() => warnings.push(not_counted(&refusal)),
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(warnings)
    }

    /// One more than the highest number that would be used.
    fn look_at(&self, version: KeyVersion, kind: LimitKind, amount: u64, hard: Option<u64>) -> Result<u64, BudgetRefusal> {
        if amount == 0 {
            return Ok(0);
        }
        let bound = hard.unwrap_or(u64::MAX);
        let state = self.locked();
        let reserved = state.check(version, kind, amount, hard, self.time.now())?;
        if reserved.count() >= amount {
            return Ok(reserved.lowest(amount).end());
        }
        Ok(reserved.union(&state.ledger.available(version, kind).below(bound)).lowest(amount).end())
    }

    /// Uses numbers up; gives one more than the highest.
    async fn take_some(&self, version: KeyVersion, kind: LimitKind, amount: u64, hard: Option<u64>) -> Result<u64, BudgetRefusal> {
        if amount == 0 {
            return Ok(0);
        }
        let bound = hard.unwrap_or(u64::MAX);
        if let Some(end) = self.spend_block(version, kind, amount, bound) {
            return Ok(end);
        }
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let Err(refusal) = self.reserve(version, kind, amount, hard).await else {
                if let Some(end) = self.spend_block(version, kind, amount, bound) {
                    return Ok(end);
                }
                continue;
            };
            {
                let mut state = self.locked();
                if matches!(refusal, BudgetRefusal::NotCounted { .. }) || state.is_barren(version, kind, self.time.now()) {
                    return Err(refusal);
                }
                state.starving.insert((version, kind), amount);
            }
            self.wanted.notify_one();
            if tokio::time::timeout_at(until, changed.changed()).await.is_err() {
                return Err(refusal);
            }
        }
    }

    /// From what is reserved already; none when that does not suffice, or the lease has ended.
    fn spend_block(&self, version: KeyVersion, kind: LimitKind, amount: u64, bound: u64) -> Option<u64> {
        let now = self.time.now();
        let mut state = self.locked();
        state.lease.as_ref().filter(|lease| now <= lease.lease().head.expires)?;
        let block = state.blocks.get_mut(&(version, kind))?;
        let taken = block.below(bound).lowest(amount);
        if taken.count() < amount {
            return None;
        }
        *block = block.without(&taken);
        state.busy.insert(version);
        Some(taken.end())
    }

    /// Makes sure that enough is reserved, on disk.
    async fn reserve(&self, version: KeyVersion, kind: LimitKind, amount: u64, hard: Option<u64>) -> Result<(), BudgetRefusal> {
        let _writing = self.writing.lock().await;
        let bound = hard.unwrap_or(u64::MAX);
        let now = self.time.now();
        let mut ledger = {
            let state = self.locked();
            if state.check(version, kind, amount, hard, now)?.count() >= amount {
                return Ok(());
            }
            state.ledger.clone()
        };
        let available = ledger.available(version, kind).below(bound).count();
        let most = if kind == LimitKind::Uses { MAX_BLOCK_USES } else { MAX_BLOCK_BYTES };
        let block = ledger.reserve(version, kind, amount.max((available / 16).min(most)), bound);
        self.write(&ledger).await.map_err(|error| BudgetRefusal::NotCounted { version, error: Arc::new(error) })?;
        let mut state = self.locked();
        state.ledger = ledger;
        let reserved = state.blocks.entry((version, kind)).or_default();
        *reserved = reserved.union(&block);
        Ok(())
    }

    /// Verifies the lease that was kept, once there are statements to verify it under, and again under each other root: whose pairs
    /// do not sign any more gave away nothing. Where it does not hold, another one is wished for.
    pub fn activate(&self, set: &AcceptedSet) -> Result<(), Rejection> {
        let root = Some(set.root().head.serial);
        let (bytes, memory) = {
            let state = self.locked();
            if state.lease.is_some() && state.under == root {
                return Ok(());
            }
            let Some(bytes) = state.ledger.lease() else { return Ok(()) };
            (bytes.clone(), state.ledger.memory().clone())
        };
        let judged = accept_lease(set, &bytes, &memory, None);
        {
            let mut state = self.locked();
            state.under = root;
            state.lease = judged.as_ref().ok().cloned();
        }
        self.changed.send_replace(());
        judged.map(drop)
    }

    /// What to ask the control plane for now, if anything: more of what runs out, another lease in time, or that something is
    /// taken back.
    pub fn wishes(&self, in_force: &InForce) -> Option<BTreeMap<KeyVersion, Wish>> {
        let now = self.time.now();
        let state = self.locked();
        let ends = state.lease.as_ref().map(|lease| lease.lease().head.expires);
        // One that was kept and does not hold any more is made anew.
        let ending = ends.map_or(state.ledger.lease().is_some(), |ends| now.plus(RENEW_BEFORE) > ends);
        let renew = ending && state.ledger.versions().next().is_some();
        let mut wishes = BTreeMap::<KeyVersion, Wish>::new();
        for key in in_force.keys().filter(|key| key.definition.limits.are_counted()) {
            // Whoever does not have the material has no use for its budget.
            for (number, _) in key.versions.iter().filter(|(_, version)| version.state.may_protect() && version.reported_ready) {
                let version = KeyVersion::new(key.id, *number);
                let is_asked_for = |kind: &LimitKind| *number == key.primary || state.starving.contains_key(&(version, *kind));
                for kind in LimitKind::ALL.iter().filter(|kind| is_asked_for(kind) && !state.is_barren(version, **kind, now)) {
                    if let Some(more) = state.more(version, *kind, key.definition.limits.of(*kind)) {
                        let wish = wishes.entry(version).or_default();
                        *(if *kind == LimitKind::Uses { &mut wish.uses } else { &mut wish.bytes }) = more;
                    }
                }
            }
        }
        for version in state.ledger.versions() {
            let key = in_force.key(&schema::key::KeyReference::Id(version.key));
            let protects = key.is_some_and(|key| {
                key.definition.limits.are_counted() && key.versions.get(&version.number).is_some_and(|version| version.state.may_protect())
            });
            let holds = LimitKind::ALL.iter().any(|kind| !state.ledger.available(version, *kind).is_empty());
            let idle = renew && ends.is_some() && !state.busy.contains(&version);
            if holds && (!protects || idle) && !wishes.contains_key(&version) {
                wishes.insert(version, Wish { give_back: true, ..Wish::default() });
            }
        }
        (renew || !wishes.is_empty() || state.ledger.pending().is_some()).then_some(wishes)
    }

    /// The request to send: the one that waits for its answer, or a new one. On disk before it is given.
    pub async fn request(&self, wishes: &BTreeMap<KeyVersion, Wish>, make: impl FnOnce(&mut Ledger)) -> Result<Option<Base64>, FileError> {
        let _writing = self.writing.lock().await;
        let mut ledger = self.locked().ledger.clone();
        let mut wished = Vec::new();
        if ledger.pending().is_none() {
            make(&mut ledger);
            self.write(&ledger).await?;
            let uses = wishes.iter().filter(|(_, wish)| wish.uses > 0).map(|(version, _)| (*version, LimitKind::Uses));
            let bytes = wishes.iter().filter(|(_, wish)| wish.bytes > 0).map(|(version, _)| (*version, LimitKind::Bytes));
            wished.extend(uses.chain(bytes));
        }
        let mut state = self.locked();
        state.wished.extend(wished);
        state.starving.clear();
        state.ledger = ledger;
        Ok(state.ledger.pending().cloned())
    }

    /// Takes the lease that came, when it is believed. On disk before anything of it is spent.
    pub async fn take_lease(&self, judge: impl FnOnce(&Ledger) -> Result<AcceptedLease, Rejection>) -> Result<(), TakeError> {
        let _writing = self.writing.lock().await;
        let mut ledger = self.locked().ledger.clone();
        let lease = judge(&ledger)?;
        let before = ledger.clone();
        ledger.accept(&lease);
        self.write(&ledger).await?;
        let now = self.time.now();
        let mut state = self.locked();
        for (version, kind) in std::mem::take(&mut state.wished) {
            if ledger.available(version, kind).without(&before.available(version, kind)).is_empty() {
                state.barren.insert((version, kind), now);
            } else {
                state.barren.remove(&(version, kind));
            }
        }
        (state.ledger, state.lease) = (ledger, Some(lease));
        state.busy.clear();
        drop(state);
        self.changed.send_replace(());
        Ok(())
    }

    /// When somebody waits for more.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    async fn write(&self, ledger: &Ledger) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(ledger).unwrap_or_default();
        let file = self.file.clone();
        match tokio::task::spawn_blocking(move || write_atomic(&file, &bytes, OWNER_ONLY)).await {
            Ok(written) => written,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a lease was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// It is not believed.
    #[error("the lease is not believed")]
    Rejected(#[from] Rejection),
    /// It could not be kept.
    #[error("the lease could not be kept, and so is not used")]
    Keep(#[from] FileError),
}

impl State {
    /// Whether so much may be used: gives what of it is reserved already.
    fn check(&self, version: KeyVersion, kind: LimitKind, amount: u64, hard: Option<u64>, now: Timestamp) -> Result<Ranges, BudgetRefusal> {
        let missing = BudgetRefusal::NoLease { version, kind, limit: hard };
        let Some(lease) = &self.lease else { return Err(missing) };
        let expired = lease.lease().head.expires;
        if now > expired {
            return Err(BudgetRefusal::LeaseExpired { version, kind, limit: hard, expired });
        }
        let bound = hard.unwrap_or(u64::MAX);
        let reserved = self.blocks.get(&(version, kind)).map_or_else(Ranges::new, |block| block.below(bound));
        let has = reserved.count() + self.ledger.available(version, kind).below(bound).count();
        if reserved.count() < amount && has < amount {
            let left = lease.lease().budgets.get(&version).and_then(|leased| leased.left(kind));
            return Err(match hard.filter(|_| left.is_some_and(|left| left.saturating_add(has) < amount)) {
                Some(limit) => BudgetRefusal::Exhausted { version, kind, limit },
                None => missing,
            });
        }
        Ok(reserved)
    }

    /// How much more of one limit to ask for.
    fn more(&self, version: KeyVersion, kind: LimitKind, (soft, hard): (Option<u64>, Option<u64>)) -> Option<u64> {
        if (soft, hard) == (None, None) {
            return None;
        }
        let bound = hard.unwrap_or(u64::MAX);
        let most = if kind == LimitKind::Uses { MAX_WISH_USES } else { MAX_WISH_BYTES };
        let usual = (bound / 8).clamp(1, most);
        let starving = self.starving.get(&(version, kind)).copied().unwrap_or(0);
        let reserved = self.blocks.get(&(version, kind)).map_or(0, |block| block.below(bound).count());
        let has = self.ledger.available(version, kind).below(bound).count().saturating_add(reserved);
        let enough = has > usual / 2 && has >= starving;
        if enough { None } else { Some(usual.max(starving).saturating_sub(has).max(1)) }
    }

    /// Whether it was asked for a moment ago, and nobody had anything to give.
    fn is_barren(&self, version: KeyVersion, kind: LimitKind, now: Timestamp) -> bool {
        self.barren.get(&(version, kind)).is_some_and(|since| now < since.plus(ASK_AGAIN_AFTER))
    }
}

fn not_counted(refusal: &BudgetRefusal) -> Warning {
    Warning { code: "limit_not_counted".to_owned(), detail: refusal.to_string() }
}

fn near(version: KeyVersion, kind: LimitKind, soft: u64, hard: Option<u64>) -> Warning {
    let then = hard.map_or_else(String::new, |hard| format!(", before it refuses at {hard}"));
    let code = if kind == LimitKind::Uses { "soft_limit_uses" } else { "soft_limit_bytes" };
    Warning { code: code.to_owned(), detail: format!("version {version} is past its soft limit of {soft} {kind}: rotate the key{then}") }
}
