//! The one thread that writes: takes the buffer, hashes, writes in place, syncs, and tells who waits.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use schema::wire::agent::chain;

use super::{
    JournalError,
    durable::{Shared, fault},
    recover::Filled,
    segment::{FRAME_BYTES, GROUP_HEADER_BYTES, Group, Link, SEGMENT_HEADER_BYTES, Segment},
    wait::PATIENCE,
};

/// The longest that entries wait which nobody waits for: outcomes and refusals.
pub(super) const LAZY: Duration = Duration::from_millis(50);
/// The most bytes of frames in a group, so that readers need not hold much at once.
pub(super) const MAX_GROUP_BYTES: usize = 256 * 1024;

pub(super) struct Writer {
    shared: Arc<Shared>,
    segment: Segment,
    offset: u64,
    last: Link,
    /// Swapped with the shared buffer.
    buffer: Vec<u8>,
    /// Whether somebody was woken by the last group.
    woken: bool,
}

/// Tells everybody when the thread ends by a panic, so that nobody waits for ever.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let source = Arc::new(std::io::Error::other("the writer stopped"));
            self.0.fail(JournalError::Failed { act: "go on", source });
        }
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, segment: Segment, last: Link) -> Self {
        let offset = shared.lock().active.end;
        Self { shared, segment, offset, last, buffer: Vec::new(), woken: false }
    }

    pub(super) fn run(mut self) {
        let _alarm = Alarm(self.shared.clone());
        while self.take() {
            if let Err(error) = self.write() {
                self.shared.fail(error);
                return;
            }
        }
    }

    /// Waits for work and takes the buffer; false when the journal closes and nothing is left.
    fn take(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        loop {
            let waits = inner.lazy_since.map(|since| LAZY.saturating_sub(since.elapsed()));
            if inner.count > 0 && (inner.urgent || inner.closing || waits.is_some_and(|left| left.is_zero())) {
                break;
            }
            if inner.closing || inner.failed.is_some() {
                return false;
            }
            let timeout = if self.woken { Some(PATIENCE) } else { waits };
            inner = match timeout {
                Some(timeout) => shared.work.wait_timeout(inner, timeout).unwrap_or_else(|poisoned| poisoned.into_inner()).0,
                None => shared.work.wait(inner).unwrap_or_else(|poisoned| poisoned.into_inner()),
            };
            if std::mem::take(&mut self.woken) && !inner.urgent {
                drop(inner);
                shared.gates.release_all(self.last.seq);
                inner = shared.lock();
            }
        }
        self.buffer.clear();
        self.buffer.resize(GROUP_HEADER_BYTES, 0);
        std::mem::swap(&mut self.buffer, &mut inner.buffer);
        inner.count = 0;
        inner.urgent = false;
        inner.heralds = 0;
        inner.lazy_since = None;
        inner.in_flight = self.buffer.len() as u64;
        inner.writing_since = Some(Instant::now());
        true
    }

    fn write(&mut self) -> Result<(), JournalError> {
        let mut at = GROUP_HEADER_BYTES;
        while at < self.buffer.len() {
            let (group, end) = self.next_group(at);
            if group.count == 0 {
                self.next_segment()?;
                continue;
            }
            // The header goes where the bytes before were written already.
            self.buffer[at - GROUP_HEADER_BYTES..at].copy_from_slice(&group.header(self.segment.number));
            let bytes = &self.buffer[at - GROUP_HEADER_BYTES..end];
            let disk = &self.shared.disk;
            disk.write_at(&self.segment.file, bytes, self.offset).map_err(|error| fault("write", error))?;
            disk.sync(&self.segment.file).map_err(|error| fault("sync", error))?;
            self.offset += bytes.len() as u64;
            self.last = Link { seq: group.last_seq(), hash: group.last };
            at = end;
            self.publish(at == self.buffer.len());
        }
        Ok(())
    }

    /// As many frames as fit into this segment and one group.
    fn next_group(&self, start: usize) -> (Group, usize) {
        let left = usize::try_from(self.shared.segment_bytes - self.offset).unwrap_or(0);
        let room = left.saturating_sub(GROUP_HEADER_BYTES).min(MAX_GROUP_BYTES);
        let (mut end, mut count, mut hash) = (start, 0, self.last.hash);
        while let Some((length, rest)) = self.buffer[end..].split_first_chunk::<FRAME_BYTES>() {
            let length = u32::from_be_bytes(*length) as usize;
            if end + FRAME_BYTES + length - start > room {
                break;
            }
            hash = chain(&hash, &rest[..length]);
            end += FRAME_BYTES + length;
            count += 1;
        }
        let length = (end - start) as u32;
        (Group { first_seq: self.last.seq + 1, count, length, previous: self.last.hash, last: hash }, end)
    }

    fn publish(&mut self, all: bool) {
        {
            let mut inner = self.shared.lock();
            inner.active.end = self.offset;
            inner.active.last_seq = self.last.seq;
            if all {
                inner.in_flight = 0;
                let since = inner.writing_since.take();
                inner.growth.written(since);
            }
        }
        self.shared.durable.store(self.last.seq, Ordering::Release);
        self.woken |= self.shared.gates.release(self.last.seq);
    }

    /// Goes on in the next segment; waits until one is ready.
    fn next_segment(&mut self) -> Result<(), JournalError> {
        let shared = self.shared.clone();
        let mut inner = shared.lock();
        loop {
            if let Some(next) = inner.ready.pop_front() {
                let active =
                    Filled { number: next.number, path: next.path.clone(), last_seq: self.last.seq, end: SEGMENT_HEADER_BYTES as u64 };
                let closed = std::mem::replace(&mut inner.active, active);
                inner.closed.push_back(closed);
                drop(inner);
                self.segment = next;
                self.offset = SEGMENT_HEADER_BYTES as u64;
                shared.care.notify_all();
                return Ok(());
            }
            if inner.closing {
                return Err(inner.prepare_fault.clone().unwrap_or(JournalError::Closed));
            }
            shared.care.notify_all();
            inner = shared.prepared.wait_timeout(inner, Duration::from_millis(100)).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }
}
