//! Receipts travel to the control plane in signed batches; what it has durably taken frees room here.
//!
//! Sending is at least once and in order. A lost answer means that a batch is sent again; the control plane takes what it
//! does not have yet. Batches are whole groups, so the same entries always travel under the same boundaries.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use schema::{
    encoding::Base64,
    id::{AgentId, IncarnationId, SiteId, TenantId},
    wire::agent::{ReceiptAnswer, ReceiptBatch, ReceiptBatchHead},
};
use tokio_util::sync::CancellationToken;
use trust::{dsse::sign_document, pair::Pair};

use super::{
    durable::DurableJournal,
    recover::{Acknowledged, Place},
    segment::{GROUP_HEADER_BYTES, Group, Link, SEGMENT_HEADER_BYTES, segment_path},
};

/// A batch ends when it has this many bytes of entries; one group more may go over it.
const BATCH_BYTES: usize = 512 * 1024;
/// The most entries of a batch; the control plane takes no more.
const BATCH_ENTRIES: usize = 5000;
/// How often the shipper looks for new entries.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the last entries may take at shutdown.
const LAST_CALL: Duration = Duration::from_secs(5);

/// Sends a batch to the control plane: `POST /agent/v1/receipts`.
#[async_trait]
pub trait PostReceipts: Send + Sync + 'static {
    /// Sends it; the answer says how far the control plane has durably taken the receipts.
    async fn post(&self, batch: &ReceiptBatch) -> Result<ReceiptAnswer, PostError>;
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// No answer, or a fault at the other end: try again.
    #[error("the control plane could not be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It was turned down, and will be again.
    #[error("the control plane refused the receipts ({code}): {detail}")]
    Refused {
        /// The stable code.
        code: String,
        /// What was wrong.
        detail: String,
    },
}

/// Why nothing was shipped.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// It was not taken.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The control plane has other receipts under our numbers.
    #[error(
        "the control plane holds another history of this journal at entry {seq}: this host, or its disk, was copied or \
         restored; enrol the agent again"
    )]
    Forked {
        /// The number at which the histories differ.
        seq: u64,
    },
    /// The journal's own files.
    #[error("the journal's entries cannot be read: look at the disk")]
    Read(#[source] io::Error),
    /// How far they were taken could not be kept.
    #[error("it could not be kept how far the receipts were taken")]
    Keep(#[from] service::files::FileError),
}

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The agent.
    pub agent: AgentId,
}

/// Sends a journal's entries to the control plane. One for a journal.
pub struct Shipper {
    journal: Arc<DurableJournal>,
    sender: Sender,
    pair: Arc<Pair>,
    post: Arc<dyn PostReceipts>,
    place: Place,
}

impl Shipper {
    /// Begins before the first entry that the control plane has not taken, as far as the journal knows.
    pub fn new(journal: Arc<DurableJournal>, sender: Sender, pair: Arc<Pair>, post: Arc<dyn PostReceipts>) -> Self {
        let place = journal.start();
        Self { journal, sender, pair, post, place }
    }

    /// Ships until `stopping` is cancelled, then once more what is there.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        while !stopping.is_cancelled() {
            let wait = match self.ship_all().await {
                Ok(_) => {
                    pause = FIRST_PAUSE;
                    LOOK_EVERY
                }
                Err(error) => {
                    metrics::counter!("freehold_journal_ship_failures_total").increment(1);
                    tracing::warn!(error = &error as &dyn std::error::Error, pause_seconds = pause.as_secs(), "receipts wait");
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopping.cancelled() => {}
            }
        }
        if !matches!(tokio::time::timeout(LAST_CALL, self.ship_all()).await, Ok(Ok(_))) {
            tracing::info!("the last receipts wait on this host until the agent starts again");
        }
    }

    /// Ships everything that is durable now; gives the number of entries.
    pub async fn ship_all(&mut self) -> Result<u64, ShipError> {
        let mut shipped = 0;
        loop {
            let count = self.ship_batch().await?;
            if count == 0 {
                return Ok(shipped);
            }
            shipped += count;
        }
    }

    /// What was not taken yet, as it would be shipped, up to so many batches and about so many bytes; and whether there is more. For a
    /// file: nothing counts as sent.
    pub async fn waiting(&self, batches: usize, bytes: usize) -> Result<(Vec<ReceiptBatch>, bool), ShipError> {
        let (mut found, mut size, mut place) = (Vec::new(), 0, self.place);
        loop {
            let Some((batch, _, next)) = self.batch_at(place).await? else { return Ok((found, false)) };
            if found.len() == batches || size >= bytes {
                return Ok((found, true));
            }
            size += batch.entries.iter().map(|entry| entry.as_slice().len()).sum::<usize>();
            found.push(batch);
            place = next;
        }
    }

    /// The control plane has taken what a file brought, up to here. Of an earlier life of the journal, or heard before, it says nothing new.
    pub async fn taken(&mut self, incarnation: IncarnationId, answer: &ReceiptAnswer) -> Result<(), ShipError> {
        if incarnation != self.journal.incarnation() {
            return Ok(());
        }
        while self.place.before.seq < answer.acknowledged {
            let (journal, place, to) = (self.journal.clone(), self.place, answer.acknowledged);
            let run = blocking(move || journal.read_to(place, to).map_err(|error| journal.unreadable(error))).await?;
            // Further than this journal, or in the middle of what was written as one: it is not of this history.
            let Some(run) = run.filter(|run| run.last.seq <= to) else { return Err(ShipError::Forked { seq: to }) };
            if run.last.seq == to && run.last.hash != answer.last {
                return Err(ShipError::Forked { seq: to });
            }
            let (journal, last) = (self.journal.clone(), run.last);
            blocking(move || journal.acknowledge(last)).await?;
            self.place = run.next;
        }
        Ok(())
    }

    async fn ship_batch(&mut self) -> Result<u64, ShipError> {
        let Some((batch, last, next)) = self.next_batch().await? else { return Ok(0) };
        let answer = self.post.post(&batch).await?;
        if answer.acknowledged < last.seq {
            return Err(PostError::Refused {
                code: "receipts_partly_taken".to_owned(),
                detail: format!("entries to {} were sent, but only those to {} were taken", last.seq, answer.acknowledged),
            }
            .into());
        }
        if answer.acknowledged == last.seq && answer.last != last.hash {
            return Err(ShipError::Forked { seq: last.seq });
        }
        let (journal, count) = (self.journal.clone(), batch.entries.len() as u64);
        blocking(move || journal.acknowledge(last)).await?;
        self.place = next;
        Ok(count)
    }

    async fn next_batch(&self) -> Result<Option<(ReceiptBatch, Link, Place)>, ShipError> {
        self.batch_at(self.place).await
    }

    async fn batch_at(&self, place: Place) -> Result<Option<(ReceiptBatch, Link, Place)>, ShipError> {
        let (journal, pair, sender) = (self.journal.clone(), self.pair.clone(), self.sender);
        // Reading files and an ML-DSA signature are too long for a worker thread.
        blocking(move || {
            let Some(read) = journal.read(place).map_err(|error| journal.unreadable(error))? else { return Ok(None) };
            let head = ReceiptBatchHead {
                tenant: sender.tenant,
                site: sender.site,
                agent: sender.agent,
                incarnation: journal.incarnation(),
                first_seq: read.first.seq + 1,
                count: read.entries.len() as u64,
                previous: read.first.hash,
                last: read.last.hash,
            };
            let batch = ReceiptBatch {
                incarnation: head.incarnation,
                first_seq: head.first_seq,
                previous: head.previous,
                entries: read.entries,
                head: Base64(sign_document(&head, &[&pair])),
            };
            Ok(Some((batch, read.last, read.next)))
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ShipError> + Send + 'static) -> Result<T, ShipError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ShipError::Read(io::Error::other(error))),
    }
}

/// A run of whole groups.
pub(super) struct Run {
    /// Before the first entry.
    pub(super) first: Link,
    /// After the last entry.
    pub(super) last: Link,
    pub(super) entries: Vec<Base64>,
    pub(super) next: Place,
}

/// How far a run is read.
#[derive(Default)]
struct Reading {
    /// Bytes of frames.
    bytes: usize,
    open: Option<(u64, File)>,
    /// Where a segment was left for the next one.
    left: Option<Place>,
}

impl DurableJournal {
    /// Reads durable groups from this place on, up to the size of a batch. None: nothing is there yet. What cannot be read
    /// is an error only where nothing before it is left to read.
    pub(super) fn read(&self, place: Place) -> io::Result<Option<Run>> {
        self.read_to(place, u64::MAX)
    }

    /// The same, but no group that begins after this entry.
    fn read_to(&self, place: Place, to: u64) -> io::Result<Option<Run>> {
        let durable = self.shared.durable.load(Ordering::Acquire).min(to);
        let mut run = Run { first: place.before, last: place.before, entries: Vec::new(), next: place };
        let mut reading = Reading::default();
        while run.last.seq < durable && reading.bytes < BATCH_BYTES {
            match self.read_next(&mut run, &mut reading) {
                Ok(true) => {}
                Err(error) if run.entries.is_empty() => return Err(error),
                Ok(false) => break,
                Err(_) => {
                    // It is met again from where it was met now.
                    run.next = reading.left.unwrap_or(run.next);
                    break;
                }
            }
        }
        if run.entries.is_empty() {
            return Ok(None);
        }
        self.shared.lock().damage = None;
        Ok(Some(run))
    }

    /// Reads one group more, or goes on to the next segment; false when the group has no room in the batch.
    fn read_next(&self, run: &mut Run, reading: &mut Reading) -> io::Result<bool> {
        let file = match reading.open.take().filter(|(number, _)| *number == run.next.segment) {
            Some((_, file)) => file,
            None => match File::open(segment_path(&self.shared.directory, run.next.segment)) {
                // It was read to its end, taken, and freed.
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_taken(run.last) => {
                    reading.left = Some(run.next);
                    run.next.segment = self.segment_after(run.next.segment).ok_or(error)?;
                    run.next.offset = SEGMENT_HEADER_BYTES as u64;
                    return Ok(true);
                }
                file => file?,
            },
        };
        let Some((group, frames)) = read_group(&file, run.next)? else {
            // The rest of this segment was too small for the next group, which then begins the next segment.
            if let Some(end) = reading.left {
                let follows = read_header(&file, run.next)?.is_some();
                return Err(damaged(if follows { end } else { run.next }));
            }
            reading.left = Some(run.next);
            run.next.segment = self.segment_after(run.next.segment).ok_or_else(|| damaged(run.next))?;
            run.next.offset = SEGMENT_HEADER_BYTES as u64;
            return Ok(true);
        };
        reading.left = None;
        if run.entries.len() + group.count as usize > BATCH_ENTRIES && !run.entries.is_empty() {
            return Ok(false);
        }
        let entries = group.entries(&frames).ok_or_else(|| damaged(run.next))?;
        reading.bytes += frames.len();
        run.entries.extend(entries.into_iter().map(Base64::from));
        run.last = Link { seq: group.last_seq(), hash: group.last };
        run.next = Place { segment: run.next.segment, offset: run.next.offset + group.bytes() as u64, before: run.last };
        reading.open = Some((run.next.segment, file));
        Ok(true)
    }

    /// Says in health what can no longer be read.
    fn unreadable(&self, source: io::Error) -> ShipError {
        if source.kind() == io::ErrorKind::InvalidData {
            let directory = self.shared.directory.display();
            let damage = format!(
                "the journal in {directory} is damaged: {source}; nothing from there on reaches the control plane: look at the disk, \
                 stop the agent, keep a copy, and restore the directory or move it away"
            );
            self.shared.lock().damage = Some(damage);
        }
        ShipError::Read(source)
    }

    fn is_taken(&self, entry: Link) -> bool {
        self.shared.lock().acknowledged.seq >= entry.seq
    }

    fn segment_after(&self, number: u64) -> Option<u64> {
        let inner = self.shared.lock();
        let numbers = inner.closed.iter().map(|segment| segment.number).chain([inner.active.number]);
        numbers.filter(|one| *one > number).min()
    }

    /// Everything up to and with this entry is durably at the control plane.
    pub(super) fn acknowledge(&self, taken: Link) -> Result<(), ShipError> {
        if self.shared.lock().acknowledged.seq >= taken.seq {
            return Ok(());
        }
        // Before anything is freed: at start, what is missing must be known to be taken.
        Acknowledged { incarnation: self.shared.incarnation, seq: taken.seq, hash: taken.hash }.write(&self.shared.directory)?;
        self.shared.lock().acknowledged = taken;
        self.shared.care.notify_all();
        Ok(())
    }
}

fn read_group(file: &File, place: Place) -> io::Result<Option<(Group, Vec<u8>)>> {
    let group = read_header(file, place)?;
    let Some(group) = group.filter(|group| Link { seq: group.first_seq - 1, hash: group.previous } == place.before) else {
        return Ok(None);
    };
    let mut frames = vec![0; group.length as usize];
    file.read_exact_at(&mut frames, place.offset + GROUP_HEADER_BYTES as u64)?;
    Ok(Some((group, frames)))
}

fn read_header(file: &File, place: Place) -> io::Result<Option<Group>> {
    let mut header = [0; GROUP_HEADER_BYTES];
    match file.read_exact_at(&mut header, place.offset) {
        Ok(()) => Ok(Group::read(&header, place.segment)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn damaged(place: Place) -> io::Error {
    let at = format!("segment {:016x}, byte {}: the group after entry {} is damaged", place.segment, place.offset, place.before.seq);
    io::Error::new(io::ErrorKind::InvalidData, at)
}
