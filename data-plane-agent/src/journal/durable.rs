//! The journal on disk: one writer, group commit, entries hash-chained in prewritten segments.
//!
//! Callers format their entry into one shared buffer and wait; the writer takes the buffer as it stands, hashes, writes and
//! syncs it, and wakes one waiter per worker thread. While it does so the next group gathers.

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use schema::{
    clock::{Clock, Ids, Timestamp, new_id},
    id::IncarnationId,
    wire::agent::{HostAct, Intent, OutcomeResult},
};
use service::{
    config::{Period, Size},
    files::{DirectoryLock, create_private_directory},
};

use super::{
    Journal, JournalError, Outcomes, Status, Ticket, caretaker,
    record::{self, MAX_ENTRY_BYTES},
    recover::{Acknowledged, Filled, OpenError, Place, io_error, is_full, reserve, scan},
    refusals::Refusals,
    segment::{Disk, FRAME_BYTES, GROUP_HEADER_BYTES, Link, SEGMENT_HEADER_BYTES, Segment, SystemDisk, prepare, segment_path},
    wait::{Gate, Gates},
    writer,
};

/// The `journal` section of the agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JournalConfig {
    /// Where it is kept; absent: `journal` in the data directory.
    pub directory: Option<PathBuf>,
    /// The most bytes that may wait for the control plane; at least three segments.
    pub limit: Size,
    /// Bytes of one file.
    pub segment: Size,
    /// How long repeated refusals of one caller are counted into one entry.
    pub refusal_interval: Period,
    /// A write that takes longer refuses operations until it is done.
    pub slow_after: Period,
    /// How long before it would be full, at the present rate, an alarm is raised: in log, metrics and health.
    pub alarm_before: Period,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            directory: None,
            limit: Size(1 << 30),
            segment: Size(8 << 20),
            refusal_interval: Period(Duration::from_secs(60)),
            slow_after: Period(Duration::from_secs(5)),
            alarm_before: Period(Duration::from_secs(6 * 3600)),
        }
    }
}

/// The least bytes of a segment: a few of the largest entries fit.
const MIN_SEGMENT_BYTES: u64 = 128 * 1024;
/// Room kept for the outcome of every open intent.
const OUTCOME_BYTES: u64 = 512;
/// Room kept beside.
const RESERVE_BYTES: u64 = 16 * 1024;

/// The journal of an agent.
pub struct DurableJournal {
    pub(super) shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    start: Place,
    _lock: DirectoryLock,
}

pub(super) struct Shared {
    pub(super) inner: Mutex<Inner>,
    /// The writer waits here for work.
    pub(super) work: Condvar,
    /// The writer waits here for a segment.
    pub(super) prepared: Condvar,
    /// The caretaker waits here between its rounds.
    pub(super) care: Condvar,
    /// The highest durable number.
    pub(super) durable: AtomicU64,
    /// Up to here, those who wait are told that the disk is too slow.
    pub(super) slow_through: AtomicU64,
    pub(super) gates: Gates,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    pub(super) incarnation: IncarnationId,
    pub(super) segment_bytes: u64,
    pub(super) max_segments: usize,
    pub(super) slow_after: Duration,
    pub(super) alarm_before: Duration,
}

/// What the lock guards.
pub(super) struct Inner {
    /// Room for a group's header, then frames.
    pub(super) buffer: Vec<u8>,
    /// Entries in the buffer.
    pub(super) count: u64,
    pub(super) next_seq: u64,
    /// Somebody waits for the buffer to be durable.
    pub(super) urgent: bool,
    /// Threads (by gate, a bit each) on which a herald will say so, once what is ready there has added its entries.
    pub(super) heralds: u16,
    /// Since when the buffer holds entries that nobody waits for.
    pub(super) lazy_since: Option<Instant>,
    /// Intents without an outcome.
    pub(super) open: BTreeSet<u64>,
    /// Segments to go on with.
    pub(super) ready: VecDeque<Segment>,
    /// Segments that were written before, oldest first.
    pub(super) closed: VecDeque<Filled>,
    /// The segment that is written.
    pub(super) active: Filled,
    /// Bytes on their way to the disk.
    pub(super) in_flight: u64,
    pub(super) writing_since: Option<Instant>,
    pub(super) acknowledged: Link,
    pub(super) refusals: Refusals,
    /// Why no segment could be made ready.
    pub(super) prepare_fault: Option<JournalError>,
    /// What of it cannot be read any more.
    pub(super) damage: Option<String>,
    /// Why nothing is written any more.
    pub(super) failed: Option<JournalError>,
    pub(super) closing: bool,
    pub(super) growth: caretaker::Growth,
}

impl DurableJournal {
    /// Opens the journal in this directory, or begins one. Intents that were left without an outcome are closed as
    /// `unknown`.
    pub fn open(directory: &Path, config: &JournalConfig, clock: Arc<dyn Clock>, ids: &dyn Ids) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(SystemDisk), directory, config, clock, ids)
    }

    /// As [`Self::open`], on another disk.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        directory: &Path,
        config: &JournalConfig,
        clock: Arc<dyn Clock>,
        ids: &dyn Ids,
    ) -> Result<Self, OpenError> {
        let segment_bytes = config.segment.0;
        let max_segments = usize::try_from(config.limit.0 / segment_bytes.max(1)).unwrap_or(usize::MAX);
        if segment_bytes < MIN_SEGMENT_BYTES || segment_bytes > u64::from(u32::MAX) || max_segments < 3 {
            return Err(OpenError::Setting(format!(
                "journal.segment is at least {}, and journal.limit at least three times that; they are {} and {}",
                Size(MIN_SEGMENT_BYTES),
                config.segment,
                config.limit
            )));
        }
        create_private_directory(directory)?;
        let lock = DirectoryLock::take(directory)?;
        let found = scan(directory, segment_bytes)?;
        if let Some((path, offset)) = &found.torn {
            tracing::warn!(segment = %path.display(), offset, "the journal ended in a group that was not finished; it was cut off");
        }
        let now = clock.now();
        let incarnation = found.incarnation.unwrap_or_else(|| new_id(ids, now));
        let acknowledged =
            Acknowledged::read(directory)?.map_or_else(|| Link::start(incarnation), |taken| Link { seq: taken.seq, hash: taken.hash });
        let last = if found.last.seq == 0 { Link::start(incarnation) } else { found.last };

        let mut ready = VecDeque::new();
        for number in &found.ready {
            ready.push_back(reopen(directory, *number)?);
        }
        remove_leftovers(directory, &found.filled, &found.ready)?;
        reserve(directory);
        let mut closed: VecDeque<Filled> = found.filled.into();
        let (segment, active) = match closed.pop_back() {
            Some(active) => (reopen(directory, active.number)?, active),
            None => {
                let segment = match ready.pop_front() {
                    Some(segment) => segment,
                    None => prepare(&*disk, directory, 1, incarnation, segment_bytes, None)
                        .map_err(io_error("write the first segment of", directory))?,
                };
                let active = Filled { number: segment.number, path: segment.path.clone(), last_seq: 0, end: SEGMENT_HEADER_BYTES as u64 };
                (segment, active)
            }
        };

        let mut inner = Inner {
            buffer: vec![0; GROUP_HEADER_BYTES],
            count: 0,
            next_seq: last.seq + 1,
            urgent: false,
            heralds: 0,
            lazy_since: None,
            open: BTreeSet::new(),
            ready,
            closed,
            active,
            in_flight: 0,
            writing_since: None,
            acknowledged,
            refusals: Refusals::new(config.refusal_interval.0),
            prepare_fault: None,
            damage: None,
            failed: None,
            closing: false,
            growth: caretaker::Growth::since(found.oldest_unacknowledged, last.seq, (Instant::now(), now)),
        };
        let mut tail = Vec::new();
        for intent in &found.open {
            tail.clear();
            record::outcome(&mut tail, now, *intent, OutcomeResult::Unknown, None, None);
            inner.push(&tail);
        }
        inner.urgent = inner.count > 0;

        // Nothing waits: what comes next goes where the last group ends.
        let end = Place { segment: inner.active.number, offset: inner.active.end, before: last };
        let start = found.unacknowledged.unwrap_or(end);
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            work: Condvar::new(),
            prepared: Condvar::new(),
            care: Condvar::new(),
            durable: AtomicU64::new(last.seq),
            slow_through: AtomicU64::new(0),
            gates: Gates::new(),
            clock,
            disk,
            directory: directory.to_path_buf(),
            incarnation,
            segment_bytes,
            max_segments,
            slow_after: config.slow_after.0,
            alarm_before: config.alarm_before.0,
        });
        let threads = Mutex::new(vec![
            spawn("journal-writer", writer::Writer::new(shared.clone(), segment, last), writer::Writer::run, directory)?,
            spawn("journal-care", shared.clone(), |shared| caretaker::run(&shared), directory)?,
        ]);
        Ok(Self { shared, threads, start, _lock: lock })
    }

    /// The journal's life.
    pub fn incarnation(&self) -> IncarnationId {
        self.shared.incarnation
    }

    /// Where reading begins: before the first group that the control plane has not wholly taken.
    pub(super) fn start(&self) -> Place {
        self.start
    }

    /// Writes what is in memory and stops. Intents fail from now on; outcomes that come later are lost.
    pub fn close(&self) {
        {
            let mut inner = self.shared.lock();
            let now = (Instant::now(), self.shared.clock.now());
            inner.write_due_refusals(now, true);
            inner.closing = true;
        }
        self.shared.work.notify_all();
        self.shared.prepared.notify_all();
        self.shared.care.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for DurableJournal {
    fn drop(&mut self) {
        self.close();
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    what: T,
    run: impl FnOnce(T) + Send + 'static,
    directory: &Path,
) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 * 1024)
        .spawn(move || run(what))
        .map_err(io_error("start a thread for", directory))
}

fn reopen(directory: &Path, number: u64) -> Result<Segment, OpenError> {
    let path = segment_path(directory, number);
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io_error("open", &path))?;
    Ok(Segment { number, path, file })
}

/// Files that a stop left half made, and segments that hold nothing.
fn remove_leftovers(directory: &Path, filled: &[Filled], ready: &[u64]) -> Result<(), OpenError> {
    for entry in std::fs::read_dir(directory).map_err(io_error("list", directory))? {
        let path = entry.map_err(io_error("list", directory))?.path();
        let used = super::segment::segment_number(&path)
            .is_some_and(|number| ready.contains(&number) || filled.iter().any(|segment| segment.number == number));
        let ours = path.extension().is_some_and(|extension| extension == "segment" || extension == "preparing");
        if ours && !used {
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of frames that a whole segment takes in one group.
    pub(super) fn usable_bytes(&self) -> u64 {
        self.segment_bytes - SEGMENT_HEADER_BYTES as u64
    }

    /// The most bytes that may wait.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.max_segments as u64 * self.segment_bytes
    }

    fn append_intent(self: &Arc<Self>, intent: &Intent) -> Result<Durability<Ticket>, JournalError> {
        let time = self.clock.now();
        SCRATCH.with_borrow_mut(|tail| {
            tail.clear();
            record::intent(tail, time, intent);
            if tail.len() + 64 > MAX_ENTRY_BYTES {
                return Err(JournalError::TooLarge { size: tail.len() + 64, limit: MAX_ENTRY_BYTES });
            }
            let mut inner = self.lock();
            inner.admit(self, tail.len() as u64)?;
            let seq = inner.push(tail);
            inner.open.insert(seq);
            let gate = Gate::here();
            let heralds = inner.chosen_as_herald(gate);
            drop(inner);
            let outcomes: Arc<dyn Outcomes> = self.clone();
            Ok(Durability { shared: self.clone(), seq, gate, heralds, entered: false, tickets: Some(Ticket::new(seq, outcomes)) })
        })
    }

    /// Appends several next to each other, under one lock. The last one's being durable is that of all.
    fn append_intents(self: &Arc<Self>, intents: &[Intent]) -> Result<Durability<Vec<Ticket>>, JournalError> {
        let time = self.clock.now();
        let mut tails = Vec::with_capacity(intents.len() * 384);
        let mut ends = Vec::with_capacity(intents.len());
        for intent in intents {
            let start = tails.len();
            record::intent(&mut tails, time, intent);
            let size = tails.len() - start + 64;
            if size > MAX_ENTRY_BYTES {
                return Err(JournalError::TooLarge { size, limit: MAX_ENTRY_BYTES });
            }
            ends.push(tails.len());
        }
        let outcomes: Arc<dyn Outcomes> = self.clone();
        let mut tickets = Vec::with_capacity(intents.len());
        let mut inner = self.lock();
        inner.admit(self, tails.len() as u64 + intents.len() as u64 * OUTCOME_BYTES)?;
        let mut start = 0;
        for end in ends {
            let seq = inner.push(&tails[start..end]);
            inner.open.insert(seq);
            tickets.push(Ticket::new(seq, outcomes.clone()));
            start = end;
        }
        let seq = inner.next_seq - 1;
        let gate = Gate::here();
        let heralds = inner.chosen_as_herald(gate);
        drop(inner);
        Ok(Durability { shared: self.clone(), seq, gate, heralds, entered: false, tickets: Some(tickets) })
    }

    fn append_host(self: &Arc<Self>, act: &HostAct) -> Result<Durability<()>, JournalError> {
        let mut tail = Vec::new();
        record::host(&mut tail, self.clock.now(), act);
        if tail.len() + 64 > MAX_ENTRY_BYTES {
            return Err(JournalError::TooLarge { size: tail.len() + 64, limit: MAX_ENTRY_BYTES });
        }
        let mut inner = self.lock();
        inner.admit(self, tail.len() as u64)?;
        let seq = inner.push(&tail);
        let gate = Gate::here();
        let heralds = inner.chosen_as_herald(gate);
        drop(inner);
        Ok(Durability { shared: self.clone(), seq, gate, heralds, entered: false, tickets: Some(()) })
    }

    /// Tells the writer that somebody waits for this number.
    fn hurry(&self, seq: u64) {
        let mut inner = self.lock();
        // Its group may be on its way already.
        if inner.next_seq - inner.count <= seq && !std::mem::replace(&mut inner.urgent, true) {
            drop(inner);
            self.work.notify_one();
        }
    }

    /// What those who wait for this number are told, when there is something to tell.
    fn verdict(&self, seq: u64) -> Option<Result<(), JournalError>> {
        if self.durable.load(Ordering::Acquire) >= seq {
            return Some(Ok(()));
        }
        if self.slow_through.load(Ordering::Acquire) < seq {
            return None;
        }
        // Also the mark of a failure: then every number is at or below it.
        let inner = self.lock();
        let slow = || JournalError::Slow { millis: millis(inner.writing_since) };
        Some(Err(inner.failed.clone().unwrap_or_else(slow)))
    }

    /// Gives up: everybody who waits is told, and nothing is written any more.
    pub(super) fn fail(&self, error: JournalError) {
        tracing::error!(error = &error as &dyn std::error::Error, "the journal has failed: operations are refused until a restart");
        self.lock().failed.get_or_insert(error);
        self.slow_through.store(u64::MAX, Ordering::Release);
        self.gates.release_all(u64::MAX);
        self.care.notify_all();
    }
}

pub(super) fn millis(since: Option<Instant>) -> u64 {
    since.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// The name of a fault of the operating system.
pub(super) fn fault(act: &'static str, error: io::Error) -> JournalError {
    let source = Arc::new(error);
    match source.kind() {
        _ if is_full(&source) => JournalError::DiskFull(source),
        io::ErrorKind::ReadOnlyFilesystem => JournalError::ReadOnly(source),
        _ => JournalError::Failed { act, source },
    }
}

impl Inner {
    /// Appends an entry to the buffer; gives its number.
    fn push(&mut self, tail: &[u8]) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.count += 1;
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&[0; FRAME_BYTES]);
        record::head(&mut self.buffer, seq);
        self.buffer.extend_from_slice(tail);
        let length = self.buffer.len() - at - FRAME_BYTES;
        self.buffer[at..at + FRAME_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
        seq
    }

    /// Whether the one that just added an entry on this thread is to tell the writer. It does so when the others that are
    /// ready on its thread have added theirs, so that one sync serves them all.
    fn chosen_as_herald(&mut self, gate: Gate) -> bool {
        let bit = gate.bit();
        let chosen = !self.urgent && self.heralds & bit == 0;
        self.heralds |= bit;
        // Should its thread be held up, the writer does not wait for it for long.
        self.lazy_since.get_or_insert_with(Instant::now);
        chosen
    }

    fn push_lazily(&mut self, tail: &[u8]) {
        self.push(tail);
        self.lazy_since.get_or_insert_with(Instant::now);
    }

    /// Bytes that can still be written without another segment.
    fn room(&self, shared: &Shared) -> u64 {
        let active = shared.segment_bytes.saturating_sub(self.active.end);
        let ready = self.ready.len() as u64 * shared.usable_bytes();
        (active + ready).saturating_sub(self.buffer.len() as u64 + self.in_flight)
    }

    /// Whether room for outcomes remains beside so many bytes more. While segments can be made, there is.
    fn has_room(&self, shared: &Shared, bytes: u64) -> bool {
        self.room(shared) >= bytes + RESERVE_BYTES + self.open.len() as u64 * OUTCOME_BYTES
    }

    pub(super) fn total_segments(&self) -> usize {
        self.closed.len() + 1 + self.ready.len()
    }

    pub(super) fn used_bytes(&self, shared: &Shared) -> u64 {
        self.closed.len() as u64 * shared.segment_bytes + self.active.end
    }

    /// At the present rate.
    fn seconds_to_full(&self, shared: &Shared) -> Option<f64> {
        self.growth.seconds_to(shared.limit_bytes().saturating_sub(self.used_bytes(shared)))
    }

    /// Why somebody should look at it before it is full.
    pub(super) fn alarm(&self, shared: &Shared) -> Option<String> {
        let bytes = (self.used_bytes(shared), shared.limit_bytes());
        self.damage.clone().or_else(|| self.growth.alarm(self.acknowledged.seq, bytes, shared.alarm_before, Instant::now()))
    }

    /// Whether an intent may be written.
    pub(super) fn admit(&self, shared: &Shared, bytes: u64) -> Result<(), JournalError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.closing {
            return Err(JournalError::Closed);
        }
        if self.writing_since.is_some_and(|since| since.elapsed() > shared.slow_after) {
            return Err(JournalError::Slow { millis: millis(self.writing_since) });
        }
        if self.has_room(shared, bytes) {
            return Ok(());
        }
        if let Some(error) = &self.prepare_fault {
            return Err(error.clone());
        }
        if self.total_segments() >= shared.max_segments {
            return Err(JournalError::Full { used_bytes: self.used_bytes(shared), limit_bytes: shared.limit_bytes() });
        }
        // A segment is being made; the writer waits for it.
        Ok(())
    }

    /// Writes the counted refusals of intervals that ended.
    pub(super) fn write_due_refusals(&mut self, (instant, time): (Instant, Timestamp), all: bool) {
        let mut tail = Vec::new();
        for (intent, code, count) in self.refusals.due(instant, all) {
            tail.clear();
            record::refusal(&mut tail, time, &intent, &code, count);
            if tail.len() + 64 <= MAX_ENTRY_BYTES {
                self.push_lazily(&tail);
            }
        }
    }
}

impl Outcomes for Shared {
    fn record(&self, intent: u64, result: OutcomeResult, code: Option<&str>, size: Option<u64>) {
        let time = self.clock.now();
        SCRATCH.with_borrow_mut(|tail| {
            tail.clear();
            record::outcome(tail, time, intent, result, code, size);
            let mut inner = self.lock();
            if inner.open.remove(&intent) && inner.failed.is_none() {
                inner.push_lazily(tail);
            }
        });
    }
}

#[async_trait]
impl Journal for DurableJournal {
    async fn intent(&self, intent: Intent) -> Result<Ticket, JournalError> {
        self.shared.append_intent(&intent)?.settled().await
    }

    async fn intents(&self, intents: Vec<Intent>) -> Result<Vec<Ticket>, JournalError> {
        if intents.is_empty() {
            return Ok(Vec::new());
        }
        self.shared.append_intents(&intents)?.settled().await
    }

    fn refusal(&self, intent: Intent, code: &str) {
        let (now, time) = (Instant::now(), self.shared.clock.now());
        let mut inner = self.shared.lock();
        if inner.failed.is_some() || inner.closing {
            return;
        }
        let Some(intent) = inner.refusals.note(intent, code, now) else { return };
        SCRATCH.with_borrow_mut(|tail| {
            tail.clear();
            record::refusal(tail, time, &intent, code, 1);
            let fits = tail.len() + 64 <= MAX_ENTRY_BYTES;
            if fits && inner.admit(&self.shared, tail.len() as u64).is_ok() {
                inner.push_lazily(tail);
            } else if fits {
                inner.refusals.put_back(&intent, code);
            }
        });
    }

    async fn host(&self, act: &HostAct) -> Result<(), JournalError> {
        self.shared.append_host(act)?.settled().await
    }

    fn status(&self) -> Status {
        let shared = &self.shared;
        let inner = shared.lock();
        let (used_bytes, limit_bytes) = (inner.used_bytes(shared), shared.limit_bytes());
        Status {
            incarnation: shared.incarnation,
            durable: shared.durable.load(Ordering::Acquire),
            acknowledged: inner.acknowledged.seq,
            used_bytes,
            limit_bytes,
            seconds_to_full: inner.seconds_to_full(shared),
            alarm: inner.alarm(shared),
            oldest_unacknowledged: inner.growth.oldest(inner.acknowledged.seq),
            fault: inner.admit(shared, MAX_ENTRY_BYTES as u64).err(),
        }
    }
}

/// Waits until entries are durable. Dropped before that, their operations count as aborted.
struct Durability<T> {
    shared: Arc<Shared>,
    /// The last entry.
    seq: u64,
    gate: Gate,
    /// Whether the writer is still to be told, for this entry and its neighbours.
    heralds: bool,
    /// Whether it waits at the gate.
    entered: bool,
    tickets: Option<T>,
}

impl<T: Unpin> Durability<T> {
    /// Waits. A herald lets the others that are ready on this thread go first.
    async fn settled(mut self) -> Result<T, JournalError> {
        if self.heralds {
            tokio::task::yield_now().await;
            self.herald();
        }
        self.await
    }
}

impl<T> Durability<T> {
    fn herald(&mut self) {
        if std::mem::take(&mut self.heralds) {
            self.shared.hurry(self.seq);
        }
    }

    fn leave(&mut self) {
        self.herald();
        if std::mem::take(&mut self.entered) {
            self.shared.gates.leave(self.gate, self.seq, self.shared.durable.load(Ordering::Acquire));
        }
    }
}

impl<T: Unpin> Future for Durability<T> {
    type Output = Result<T, JournalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut verdict = self.shared.verdict(self.seq);
        if verdict.is_none() {
            self.entered = true;
            self.shared.gates.enter(self.gate, self.seq, context.waker());
            // The group may have become durable in between, without seeing this waiter.
            verdict = self.shared.verdict(self.seq);
        }
        let Some(verdict) = verdict else { return Poll::Pending };
        self.leave();
        let tickets = self.tickets.take().ok_or(JournalError::Closed);
        Poll::Ready(verdict.and(tickets))
    }
}

impl<T> Drop for Durability<T> {
    fn drop(&mut self) {
        self.leave();
    }
}
