//! What is not urgent: segments made ready and freed, counted refusals, a disk that stands still, and figures.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use schema::clock::Timestamp;
use service::explain::spelt;

use super::{
    durable::{Inner, Shared, fault, millis},
    record::MAX_ENTRY_BYTES,
    recover::Filled,
    segment::prepare,
    writer::LAZY,
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
        // Files that are used again need no room: they do not wait for it.
        if !freed.is_empty() || retry_at.is_none_or(|at| at <= Instant::now()) {
            retry_at = make_ready(shared, freed).then(|| Instant::now() + RETRY);
        }
        let mut inner = shared.lock();
        if inner.closing || inner.failed.is_some() {
            return;
        }
        look(shared, &mut inner);
        if inner.lazy_since.is_some_and(|since| since.elapsed() >= LAZY) {
            // Entries came after the writer went to sleep, and nobody woke it.
            shared.work.notify_one();
        }
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
    waiting: VecDeque<Waiting>,
}

/// A moment at which entries waited for the control plane.
struct Waiting {
    /// The highest durable number then.
    seq: u64,
    /// What the clock said: for people.
    time: Timestamp,
    /// The same moment by a clock that nobody sets: what is counted from.
    since: Instant,
    /// How long they had waited already, by the clock: what was found at start.
    before: Duration,
}

/// The time after which an old rate counts for about a third.
const SMOOTHED_OVER_SECONDS: f64 = 30.0;
/// The most moments remembered; they grow coarser beyond.
const MOMENTS: usize = 1024;
/// Entries that have waited for so long show that the control plane takes none, and not only that there is much to do.
const WAITING_LONG: Duration = Duration::from_secs(60);

impl Growth {
    /// At the last number found at start, and the time of the oldest entry that waits.
    pub(super) fn since(oldest: Option<Timestamp>, last: u64, (now, time): (Instant, Timestamp)) -> Self {
        let found = |oldest| Waiting { seq: last, time: oldest, since: now, before: time.since(oldest) };
        let waiting = oldest.map(found).into_iter().collect();
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
        while self.waiting.front().is_some_and(|first| first.seq <= acknowledged) {
            self.waiting.pop_front();
        }
        if durable > acknowledged && self.waiting.back().is_none_or(|last| last.seq < durable) {
            if self.waiting.len() >= MOMENTS {
                self.waiting.pop_back();
            }
            self.waiting.push_back(Waiting { seq: durable, time, since: now, before: Duration::ZERO });
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
        self.first(acknowledged).map(|first| first.time)
    }

    fn first(&self, acknowledged: u64) -> Option<&Waiting> {
        self.waiting.iter().find(|moment| moment.seq > acknowledged)
    }

    pub(super) fn seconds_to(&self, bytes: u64) -> Option<f64> {
        (self.bytes_per_second >= 1.0).then(|| bytes as f64 / self.bytes_per_second)
    }

    /// Why somebody should look before it is full: at the present rate it will be within `before`, while the control plane
    /// takes nothing; or little room is left, whatever the rate. A clock that is set changes nothing of it.
    pub(super) fn alarm(&self, acknowledged: u64, (used, limit): (u64, u64), before: Duration, now: Instant) -> Option<String> {
        let first = self.first(acknowledged)?;
        let waiting = first.before + now.saturating_duration_since(first.since);
        let left = self.seconds_to(limit.saturating_sub(used)).and_then(|left| Duration::try_from_secs_f64(left).ok());
        let when = match left.filter(|left| *left <= before) {
            Some(left) if waiting >= WAITING_LONG => format!("will be full in {} at the present rate", spelt(left)),
            _ if used / 4 >= limit / 5 => "is nearly full".to_owned(),
            _ => return None,
        };
        let waiting = spelt(waiting);
        Some(format!(
            "the journal {when}: {used} of {limit} bytes are in use, and the oldest entry has waited for the control plane for \
             {waiting}; restore the connection to it, or raise journal.limit"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    /// 100 MB.
    const LIMIT: u64 = 100_000_000;

    /// After so many seconds of growing by so many bytes a second, while nothing is taken; the clock is set by `jump` seconds at each.
    fn grown(seconds: u64, rate: u64, jump: i64) -> (Growth, u64, Instant) {
        let (start, mut clock) = (Instant::now(), 1_800_000_000_000_000_i64);
        let mut growth = Growth::since(None, 0, (start, Timestamp::from_micros(clock)));
        let (mut now, mut used) = (start, 0);
        for second in 0..=seconds {
            now = start + Duration::from_secs(second);
            used = second * rate;
            clock += 1_000_000 + jump * 1_000_000;
            growth.sample((now, Timestamp::from_micros(clock)), used, second + 1, 0);
        }
        (growth, used, now)
    }

    #[test]
    fn it_alarms_when_it_will_soon_be_full_and_nothing_is_taken() {
        for jump in [0, 86_400, -86_400] {
            let alarm = |seconds, rate, acknowledged| {
                let (growth, used, now) = grown(seconds, rate, jump);
                growth.alarm(acknowledged, (used, LIMIT), HOUR, now)
            };
            // 100 kB a second: full within the hour.
            let said = alarm(120, 100_000, 0).unwrap();
            assert!(
                said.starts_with("the journal will be full in") && said.contains("has waited for the control plane for 2 minutes"),
                "{said}"
            );
            assert_eq!(alarm(59, 100_000, 0), None, "a burst is none, whatever the clock says");
            assert_eq!(alarm(120, 1_000, 0), None, "there is a day left");
            assert_eq!(alarm(120, 100_000, 121), None, "everything was taken");
            let said = alarm(81, 1_000_000, 0).unwrap();
            assert!(said.contains("will be full"), "{said}");
            let said = alarm(41, 2_000_000, 0).unwrap();
            assert!(said.starts_with("the journal is nearly full: 82000000 of 100000000 bytes"), "{said}");
            assert_eq!(alarm(39, 2_000_000, 0), None);
        }
    }

    #[test]
    fn the_time_to_full_follows_the_rate() {
        let (growth, used, _) = grown(300, 100_000, 0);
        let left = growth.seconds_to(LIMIT - used).unwrap();
        assert!((600.0..800.0).contains(&left), "{left}");
        let (mut growth, used, now) = grown(300, 100_000, 0);
        for second in 1..600 {
            growth.sample((now + Duration::from_secs(second), Timestamp::default()), used, 301, 301);
        }
        assert_eq!(growth.seconds_to(LIMIT - used), None, "it grows no more");
        assert_eq!(growth.oldest(301), None);
    }

    #[test]
    fn what_was_found_at_start_has_waited_since_it_was_written() {
        let (now, time) = (Instant::now(), Timestamp::from_micros(1_800_000_000_000_000));
        let alarm = |oldest: Timestamp| {
            let mut growth = Growth::since(Some(oldest), 50, (now, time));
            for second in 0..30 {
                growth.sample((now + Duration::from_secs(second), time), second * 100_000, 50 + second, 0);
            }
            growth.alarm(0, (3_000_000, LIMIT), HOUR, now + Duration::from_secs(30))
        };
        assert!(alarm(time.minus(HOUR)).unwrap().contains("for 60 minutes"));
        assert_eq!(alarm(time.plus(HOUR)), None, "a clock that was set back does not make it older");
    }
}
