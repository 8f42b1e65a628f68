//! The journal as a whole: what must hold after any stop, and what is said when the disk fails.

mod crash;
mod faults;
mod shipping;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::File,
    io,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use schema::{
    clock::{Clock, ManualClock, ManualIds, SystemClock, Timestamp},
    key::Operation,
    wire::agent::{Intent, OutcomeResult, Receipt, ReceiptBody, chain, chain_start},
};
use service::config::{Period, Size};

use super::{
    DurableJournal, Journal, JournalConfig,
    recover::{OpenError, Place},
    segment::{Disk, Link, SEGMENT_HEADER_BYTES, SystemDisk},
};

/// A disk that fails as it is told.
#[derive(Default)]
pub(super) struct FaultyDisk {
    /// Bytes until the power goes; counts down when `limited`.
    left: AtomicI64,
    limited: AtomicBool,
    dead: AtomicBool,
    /// Files may not grow.
    pub(super) full: AtomicBool,
    pub(super) read_only: AtomicBool,
    /// Syncs wait while this is set.
    pub(super) held: Mutex<bool>,
    pub(super) released: Condvar,
}

impl FaultyDisk {
    /// The power goes after so many bytes.
    pub(super) fn dying_after(bytes: i64) -> Self {
        Self { left: AtomicI64::new(bytes), limited: AtomicBool::new(true), ..Self::default() }
    }

    pub(super) fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.released.notify_all();
    }
}

impl Disk for FaultyDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let dead = || io::Error::other("the power is gone");
        if self.dead.load(Ordering::SeqCst) {
            return Err(dead());
        }
        if self.read_only.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if self.full.load(Ordering::SeqCst) && offset + bytes.len() as u64 > file.metadata()?.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let left = self.left.fetch_sub(bytes.len() as i64, Ordering::SeqCst);
        if self.limited.load(Ordering::SeqCst) && left < bytes.len() as i64 {
            self.dead.store(true, Ordering::SeqCst);
            // What of an unfinished write reaches the disk is any set of its sectors, and one of them in part.
            let cut = usize::try_from(left).unwrap_or(0);
            for (index, sector) in bytes.chunks(512).enumerate() {
                let at = index * 512;
                let length = if at <= cut && cut < at + 512 { cut - at } else { sector.len() };
                if (cut / 7 + index * 5) % 3 != 0 {
                    SystemDisk.write_at(file, &sector[..length.min(sector.len())], offset + at as u64)?;
                }
            }
            return Err(dead());
        }
        SystemDisk.write_at(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut held = self.held.lock().unwrap();
        while *held {
            held = self.released.wait(held).unwrap();
        }
        if self.dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("the power is gone"));
        }
        SystemDisk.sync(file)
    }
}

pub(super) fn config() -> JournalConfig {
    JournalConfig {
        directory: None,
        limit: Size(4 << 20),
        segment: Size(128 << 10),
        refusal_interval: Period(Duration::from_millis(300)),
        slow_after: Period(Duration::from_millis(300)),
        alarm_before: Period(Duration::from_secs(3600)),
    }
}

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// Opens the journal. Other tests of this process start children, which hold copies of every lock between fork and exec:
/// a lock that is taken is asked for again for a moment.
pub(super) fn open(directory: &Path) -> Result<DurableJournal, OpenError> {
    for _ in 0..100 {
        match DurableJournal::open(directory, &config(), clock(), &ManualIds::seeded(1)) {
            Err(OpenError::File(service::files::FileError::Locked { .. })) => std::thread::sleep(std::time::Duration::from_millis(20)),
            opened => return opened,
        }
    }
    DurableJournal::open(directory, &config(), clock(), &ManualIds::seeded(1))
}

pub(super) fn open_on(disk: &Arc<FaultyDisk>, directory: &Path, config: &JournalConfig) -> Result<DurableJournal, OpenError> {
    DurableJournal::open_on(disk.clone(), directory, config, clock(), &ManualIds::seeded(1))
}

pub(super) fn intent(request: impl Into<String>) -> Intent {
    Intent {
        caller: Some("clr_01h2xcejqtf2nbrexx3vqjhp41".to_owned()),
        operation: Operation::Encrypt,
        key_version: None,
        algorithm: Some("A256KW+A256GCM".to_owned()),
        size: Some(1024),
        context: BTreeMap::new(),
        context_key: None,
        request: request.into(),
        trace: None,
        statements: "h1.s1.t1".to_owned(),
        policies: vec!["policy0".to_owned()],
    }
}

/// Every entry still on disk, with the chain and the numbers checked.
pub(super) fn receipts(journal: &DurableJournal) -> Vec<Receipt> {
    let (segment, hash) = {
        let inner = journal.shared.lock();
        (inner.closed.front().unwrap_or(&inner.active).number, chain_start(journal.incarnation()))
    };
    let mut place = Place { segment, offset: SEGMENT_HEADER_BYTES as u64, before: Link { seq: 0, hash } };
    let mut receipts = Vec::new();
    let mut last = hash;
    while let Some(run) = journal.read(place).unwrap() {
        for entry in &run.entries {
            let receipt: Receipt = serde_json::from_slice(entry.as_slice()).unwrap();
            assert_eq!(receipt.seq, receipts.len() as u64 + 1, "numbers have no gaps");
            last = chain(&last, entry.as_slice());
            receipts.push(receipt);
        }
        assert_eq!(last, run.last.hash);
        place = run.next;
    }
    receipts
}

pub(super) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..400 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited too long for: {what}");
}

/// What must hold of any journal: one outcome at most for each intent, none for others, none twice.
pub(super) fn check(receipts: &[Receipt], promised: &HashSet<String>) {
    let mut requests = HashSet::new();
    let mut intents = BTreeSet::new();
    let mut closed = BTreeSet::new();
    for receipt in receipts {
        match &receipt.body {
            ReceiptBody::Intent(intent) => {
                assert!(requests.insert(intent.request.clone()), "{} stands twice", intent.request);
                intents.insert(receipt.seq);
            }
            ReceiptBody::Outcome { intent, .. } => {
                assert!(intents.contains(intent), "an outcome of nothing");
                assert!(closed.insert(*intent), "two outcomes of {intent}");
            }
            ReceiptBody::Refusal { .. } | ReceiptBody::Host(_) => {}
        }
    }
    let lost: Vec<_> = promised.difference(&requests).collect();
    assert!(lost.is_empty(), "promised and lost: {lost:?}");
}

pub(super) fn outcomes(receipts: &[Receipt]) -> BTreeMap<u64, OutcomeResult> {
    receipts
        .iter()
        .filter_map(|receipt| match &receipt.body {
            ReceiptBody::Outcome { intent, result, .. } => Some((*intent, *result)),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn intents_and_outcomes_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let ok = journal.intent(intent("a")).await.unwrap();
    let failed = journal.intent(intent("b")).await.unwrap();
    journal.outcome(ok, OutcomeResult::Ok, None, Some(5));
    journal.outcome(failed, OutcomeResult::Failed, Some("wrong_context"), None);
    drop(journal.intent(intent("c")).await.unwrap());
    let lost = journal.intent(intent("d")).await.unwrap();
    journal.close();
    assert_eq!(journal.intent(intent("e")).await.unwrap_err().code(), "journal_closed");
    drop((journal, lost));

    let journal = open(directory.path()).unwrap();
    wait_for("the closing entry", || journal.status().durable == 8);
    let all = receipts(&journal);
    let expected = [(1, OutcomeResult::Ok), (2, OutcomeResult::Failed), (4, OutcomeResult::Aborted), (6, OutcomeResult::Unknown)];
    let found = outcomes(&all);
    assert_eq!(found.values().copied().collect::<Vec<_>>(), expected.map(|(_, result)| result));
    check(&all, &["a", "b", "c", "d"].map(str::to_owned).into());
}

#[tokio::test]
async fn a_caller_that_goes_away_before_its_intent_is_durable_counts_as_aborted() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let journal = open_on(&disk, directory.path(), &config()).unwrap();
    disk.hold(true);
    let gone = tokio::time::timeout(Duration::from_millis(30), journal.intent(intent("gone"))).await;
    assert!(gone.is_err());
    disk.hold(false);
    drop(journal.intent(intent("stays")).await.unwrap());
    journal.close();
    let all = receipts(&journal);
    assert_eq!(outcomes(&all)[&1], OutcomeResult::Aborted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_on_many_threads_are_all_woken() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Arc::new(open(directory.path()).unwrap());
    let callers = (0..64).map(|caller| {
        let journal = journal.clone();
        tokio::spawn(async move {
            for turn in 0..40 {
                let ticket = journal.intent(intent(format!("{caller}-{turn}"))).await.unwrap();
                journal.outcome(ticket, OutcomeResult::Ok, None, Some(1024));
                if turn % 8 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        })
    });
    let all = tokio::time::timeout(Duration::from_secs(60), futures::future::join_all(callers)).await.expect("nobody sleeps on");
    all.into_iter().for_each(|one| one.unwrap());
    journal.close();
    let all = receipts(&journal);
    assert_eq!(all.len(), 64 * 40 * 2);
    assert_eq!(outcomes(&all).len(), 64 * 40);
}

#[tokio::test]
async fn a_waiter_that_is_not_polled_does_not_hold_up_its_neighbours() {
    use std::task::{Context, Poll, Waker};
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let mut asleep = Box::pin(journal.intent(intent("asleep")));
    assert!(matches!(asleep.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    let awake = tokio::time::timeout(Duration::from_secs(5), journal.intent(intent("awake"))).await;
    drop(awake.expect("woken").unwrap());
    drop(asleep);
}

#[tokio::test]
async fn repeated_refusals_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    for turn in 0..500 {
        journal.refusal(intent(format!("r{turn}")), "forbidden");
    }
    let other = Intent { caller: None, ..intent("other") };
    journal.refusal(other, "unauthenticated");
    let counts = || -> Vec<u64> {
        let all = receipts(&journal);
        all.iter().filter_map(|receipt| if let ReceiptBody::Refusal { count, .. } = receipt.body { Some(count) } else { None }).collect()
    };
    wait_for("the first two", || journal.status().durable >= 2);
    assert_eq!(counts(), [1, 1]);
    wait_for("the interval's entry", || journal.status().durable >= 3);
    assert_eq!(counts(), [1, 1, 499]);
    journal.refusal(intent("again"), "forbidden");
    journal.close();
    assert_eq!(counts().iter().sum::<u64>(), 502);
}

#[tokio::test]
async fn a_second_opening_names_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    let Err(OpenError::File(error)) = open(directory.path()) else { panic!("opened twice") };
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    drop(first);
    open(directory.path()).unwrap();
}

#[test]
fn sizes_that_cannot_work_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let small = JournalConfig { limit: Size(200 << 10), ..config() };
    let error = DurableJournal::open(directory.path(), &small, clock(), &ManualIds::seeded(1)).err().unwrap().to_string();
    assert!(error.contains("journal.limit") && error.contains("128KiB"), "{error}");
}

#[tokio::test]
async fn a_clock_that_is_set_changes_the_times_and_nothing_else() {
    const YEAR: i64 = 365 * 86_400_000_000;
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000));
    let open = || DurableJournal::open(directory.path(), &config(), Arc::new(clock.clone()), &ManualIds::seeded(1)).unwrap();
    let (mut journal, mut told, mut number) = (open(), Vec::new(), 0);
    let began = clock.now();
    for (turn, jump) in [0, 10 * YEAR, -20 * YEAR, 1, -3_600_000_000, YEAR, -1, 30 * YEAR, -40 * YEAR].into_iter().enumerate() {
        clock.set(Timestamp::from_micros(clock.now().micros() + jump));
        for _ in 0..20 {
            let ticket = journal.intent(intent(format!("{number}"))).await.unwrap();
            journal.outcome(ticket, OutcomeResult::Ok, None, None);
            told.push(clock.now());
            number += 1;
        }
        assert_eq!(journal.status().fault.map(|fault| fault.code()), None);
        assert_eq!(journal.status().alarm, None);
        if turn % 3 == 2 {
            // One is left open by a stop, and closed by a start at another time.
            let lost = journal.intent(intent(format!("{number}"))).await.unwrap();
            told.push(clock.now());
            number += 1;
            journal.close();
            drop((journal, lost));
            clock.set(Timestamp::from_micros(clock.now().micros() - jump / 2));
            journal = open();
            wait_for("the oldest that waits", || journal.status().oldest_unacknowledged == Some(began));
        }
    }
    wait_for("the last outcomes", || journal.shared.lock().count == 0);
    journal.close();
    let all = receipts(&journal);
    check(&all, &(0..number).map(|number| number.to_string()).collect());
    assert_eq!(outcomes(&all).len(), number);
    let intents: Vec<_> = all
        .iter()
        .filter_map(|receipt| match &receipt.body {
            ReceiptBody::Intent(intent) => Some((intent.request.clone(), receipt.time)),
            _ => None,
        })
        .collect();
    let written: Vec<_> = (0..number).map(|number| number.to_string()).zip(told).collect();
    assert_eq!(intents, written, "the order is that of writing, and each time what the clock said");
}
