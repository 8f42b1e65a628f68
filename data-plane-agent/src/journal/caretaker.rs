//! What is not urgent: segments made ready and freed, counted refusals, a disk that stands still, and figures.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use schema::clock::Timestamp;

use super::{
    durable::{Inner, Shared, fault, millis},
    record::MAX_ENTRY_BYTES,
    recover::Filled,
    segment::prepare,
};

/// How often it looks, when nobody calls.
const ROUND: Duration = Duration::from_millis(100);
/// Segments made ready ahead.
const READY: usize = 2;
/// How long after a failure another segment is tried.
const RETRY: Duration = Duration::from_secs(1);

pub(super) fn run(shared: &Shared) {
    let mut retry_at: Option<Instant> = None;
    loop {
        let freed = free(shared);
        if retry_at.is_none_or(|at| at <= Instant::now()) {
            retry_at = make_ready(shared, freed).then(|| Instant::now() + RETRY);
        } else {
            freed.into_iter().for_each(remove);
        }
        let mut inner = shared.lock();
        if inner.closing || inner.failed.is_some() {
            return;
        }
        look(shared, &mut inner);
        let urgent = inner.ready.is_empty() && retry_at.is_none() && inner.total_segments() < shared.max_segments;
        if !urgent {
            drop(shared.care.wait_timeout(inner, ROUND).unwrap_or_else(|poisoned| poisoned.into_inner()));
        }
    }
}

/// Takes out the segments that the control plane has wholly taken and in which no intent is open.
fn free(shared: &Shared) -> Vec<PathBuf> {
    let mut inner = shared.lock();
    let through = inner.open.first().map_or(u64::MAX, |first| first - 1).min(inner.acknowledged.seq);
    let free = inner.closed.iter().take_while(|segment| segment.last_seq <= through).count();
    inner.closed.drain(..free).map(|Filled { path, .. }| path).collect()
}

/// Makes segments ready, from freed ones first. True when that failed and should be tried again later.
fn make_ready(shared: &Shared, mut freed: Vec<PathBuf>) -> bool {
    let mut failed = false;
    loop {
        let number = {
            let inner = shared.lock();
            if inner.closing || inner.ready.len() >= READY || inner.total_segments() >= shared.max_segments {
                break;
            }
            inner.ready.back().map_or(inner.active.number, |segment| segment.number) + 1
        };
        let recycled = freed.pop();
        let made = prepare(&*shared.disk, &shared.directory, number, shared.incarnation, shared.segment_bytes, recycled);
        let mut inner = shared.lock();
        match made {
            Ok(segment) => {
                inner.ready.push_back(segment);
                inner.prepare_fault = None;
                shared.prepared.notify_all();
            }
            Err(error) => {
                let error = fault("make a segment ready", error);
                if inner.prepare_fault.is_none() {
                    tracing::error!(error = &error as &dyn std::error::Error, "the journal cannot grow");
                }
                inner.prepare_fault = Some(error);
                failed = true;
                break;
            }
        }
    }
    freed.into_iter().for_each(remove);
    failed
}

fn remove(path: PathBuf) {
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::warn!(segment = %path.display(), error = &error as &dyn std::error::Error, "a freed segment could not be removed");
    }
}

fn look(shared: &Shared, inner: &mut Inner) {
    let now = (Instant::now(), shared.clock.now());
    // Without room they stay counted.
    if inner.admit(shared, MAX_ENTRY_BYTES as u64).is_ok() {
        inner.write_due_refusals(now, false);
        if inner.count > 0 {
            shared.work.notify_one();
        }
    }
    if inner.writing_since.is_some_and(|since| since.elapsed() > shared.slow_after) {
        let through = inner.next_seq - 1;
        if shared.slow_through.swap(through, Ordering::AcqRel) < through {
            tracing::error!(millis = millis(inner.writing_since), "the disk under the journal stands still");
            shared.gates.release_all(through);
        }
    }
    let (used, durable) = (inner.used_bytes(shared), shared.durable.load(Ordering::Acquire));
    let acknowledged = inner.acknowledged.seq;
    inner.growth.sample(now, used, durable, acknowledged);
    metrics::gauge!("freehold_journal_unacknowledged_entries").set(durable.saturating_sub(acknowledged) as f64);
    metrics::counter!("freehold_journal_entries_total").absolute(durable);
    metrics::counter!("freehold_journal_groups_total").absolute(inner.growth.groups);
    let alarm = inner.alarm(shared);
    if let Some(alarm) = alarm.as_deref().filter(|_| !inner.growth.alarmed) {
        tracing::error!("{alarm}");
    }
    inner.growth.alarmed = alarm.is_some();
    metrics::gauge!("freehold_journal_alarm").set(f64::from(u8::from(inner.growth.alarmed)));
    metrics::gauge!("freehold_journal_group_seconds_max").set(inner.growth.take_longest().as_secs_f64());
}

/// How fast the journal grows, and since when entries wait.
pub(super) struct Growth {
    /// Groups written since the start.
    pub(super) groups: u64,
    /// Whether the alarm was raised.
    alarmed: bool,
    longest: Duration,
    sampled: Option<(Instant, u64)>,
    bytes_per_second: f64,
    /// When a number was the highest durable one.
    waiting: VecDeque<(u64, Timestamp)>,
}

/// The time after which an old rate counts for about a third.
const SMOOTHED_OVER_SECONDS: f64 = 30.0;
/// The most moments remembered; they grow coarser beyond.
const MOMENTS: usize = 1024;

impl Growth {
    /// At the last number found at start, and the time of the oldest entry that waits.
    pub(super) fn since(oldest: Option<Timestamp>, last: u64) -> Self {
        let waiting = oldest.map(|time| (last, time)).into_iter().collect();
        Self { groups: 0, alarmed: false, longest: Duration::ZERO, sampled: None, bytes_per_second: 0.0, waiting }
    }

    pub(super) fn written(&mut self, since: Option<Instant>) {
        self.groups += 1;
        self.longest = self.longest.max(since.map_or(Duration::ZERO, |since| since.elapsed()));
    }

    fn take_longest(&mut self) -> Duration {
        std::mem::take(&mut self.longest)
    }

    fn sample(&mut self, (now, time): (Instant, Timestamp), used: u64, durable: u64, acknowledged: u64) {
        while self.waiting.front().is_some_and(|first| first.0 <= acknowledged) {
            self.waiting.pop_front();
        }
        if durable > acknowledged && self.waiting.back().is_none_or(|last| last.0 < durable) {
            if self.waiting.len() >= MOMENTS {
                self.waiting.pop_back();
            }
            self.waiting.push_back((durable, time));
        }
        let Some((before, was)) = self.sampled else {
            self.sampled = Some((now, used));
            return;
        };
        let seconds = now.saturating_duration_since(before).as_secs_f64();
        if seconds < 0.05 {
            return;
        }
        self.sampled = Some((now, used));
        let rate = (used as f64 - was as f64) / seconds;
        let weight = 1.0 - (-seconds / SMOOTHED_OVER_SECONDS).exp();
        self.bytes_per_second += (rate - self.bytes_per_second) * weight;
    }

    /// When the first moment was that the control plane has not wholly taken.
    pub(super) fn oldest(&self, acknowledged: u64) -> Option<Timestamp> {
        self.waiting.iter().find(|(seq, _)| *seq > acknowledged).map(|(_, time)| *time)
    }

    pub(super) fn seconds_to(&self, bytes: u64) -> Option<f64> {
        (self.bytes_per_second >= 1.0).then(|| bytes as f64 / self.bytes_per_second)
    }
}
