//! The disk under the journal of a running agent: full, read-only, slow, damaged. Each is tried on a disk that fails as it is told; what
//! can be had of a real file system is tried on one as well, where this is root.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    process::{Command, Stdio},
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use data_plane_agent::journal::{
    Journal as _,
    ship::{PostError, PostReceipts, Sender, Shipper},
};
use schema::{
    clock::{Clock as _, SystemClock},
    wire::agent::{OutcomeResult, ReceiptAnswer, ReceiptBatch, ReceiptBody, chain},
};
use service::explain::explain;

use super::{super::*, process::Process, receipts::Receipts};

const SERVER: &str = "[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 2";

/// A disk that fails as it is told.
#[derive(Default)]
struct Told {
    full: AtomicBool,
    read_only: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
}

impl Told {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.released.notify_all();
    }
}

impl Disk for Told {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.read_only.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if self.full.load(Ordering::SeqCst) && offset + bytes.len() as u64 > file.metadata()?.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        SystemDisk.write_at(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut held = self.held.lock().unwrap();
        while *held {
            held = self.released.wait(held).unwrap();
        }
        drop(held);
        SystemDisk.sync(file)
    }
}

/// A small file system of its own.
pub(super) struct Mounted(tempfile::TempDir);

impl Mounted {
    /// None, and it is said, where that is not allowed: only root may mount.
    #[allow(clippy::print_stdout, reason = "whoever reads the run should know what was not tried")]
    pub(super) fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = run(&["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "freehold-test"], directory.path());
        if !mounted {
            println!("not root: nothing can be mounted, so only a disk that fails as it is told was tried");
        }
        mounted.then(|| Self(directory))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left.
    pub(super) fn fill(&self) {
        let mut ballast = File::create(self.0.path().join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    pub(super) fn free(&self) {
        fs::remove_file(self.0.path().join("ballast")).unwrap();
    }

    fn read_only(&self, is: bool) {
        let how = if is { "remount,ro" } else { "remount,rw" };
        assert!(run(&["mount", "-o", how], self.0.path()), "{how}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(&["umount", "--lazy"], self.0.path());
    }
}

fn run(command: &[&str], path: &Path) -> bool {
    let mut command_line = Command::new(command[0]);
    command_line.args(&command[1..]).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    command_line.status().is_ok_and(|status| status.success())
}

/// What a journal stands on.
enum Ground {
    Told(Arc<Told>),
    Mounted(Mounted),
}

impl Ground {
    /// Those that can be had here.
    fn all() -> Vec<Self> {
        [Some(Self::Told(Arc::default())), Mounted::new().map(Self::Mounted)].into_iter().flatten().collect()
    }

    /// A site whose journal stands on it.
    async fn site(&self) -> Site {
        let (disk, directory): (Arc<dyn Disk>, _) = match self {
            Self::Told(disk) => (disk.clone(), String::new()),
            Self::Mounted(mounted) => (Arc::new(SystemDisk), format!("directory = \"{}/journal\"\n", mounted.0.path().display())),
        };
        let settings = format!("{SERVER}\n[journal]\nsegment = \"128KiB\"\nlimit = \"64MiB\"\n{directory}");
        let mut site = Site::start_on(disk, &settings, START).await;
        site.publish();
        site
    }

    fn fill(&self) {
        match self {
            Self::Told(disk) => disk.full.store(true, Ordering::SeqCst),
            Self::Mounted(mounted) => mounted.fill(),
        }
    }

    fn free(&self) {
        match self {
            Self::Told(disk) => disk.full.store(false, Ordering::SeqCst),
            Self::Mounted(mounted) => mounted.free(),
        }
    }
}

/// What was answered: requests, each of which is an operation.
#[derive(Default)]
struct Answered(Vec<String>);

impl Answered {
    /// Encrypts once; the problem, when it was refused.
    async fn encrypt(&mut self, site: &Site) -> Option<Value> {
        let request = site.post("/v1/encrypt", &site.billing).json(&json!({ "key": "payments/card-data", "plaintext": "AAAA" }));
        let answer = request.send().await.unwrap();
        if answer.status() != StatusCode::OK {
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            return Some(answer.json().await.unwrap());
        }
        self.0.push(answer.headers()["x-request-id"].to_str().unwrap().to_owned());
        None
    }

    /// Encrypts until it is refused; the problem.
    async fn until_refused(&mut self, site: &Site) -> Value {
        for _ in 0..5000 {
            if let Some(problem) = self.encrypt(site).await {
                return problem;
            }
        }
        panic!("nothing was refused");
    }

    /// Each of them is in the journal once, and was done; of no more than so many it is not known any more.
    fn check(&self, directory: &Path, unknown: usize) {
        let found = Receipts::read(directory);
        let (intents, outcomes) = (found.intents(), found.outcomes());
        let mut done = 0;
        for request in &self.0 {
            let of_it = &intents[request.as_str()];
            assert_eq!(of_it.len(), 1, "{request}");
            match outcomes[&of_it[0].seq] {
                OutcomeResult::Ok => done += 1,
                other => assert_eq!(other, OutcomeResult::Unknown, "{request}"),
            }
        }
        assert!(done + unknown >= self.0.len(), "{done} of {} were done", self.0.len());
        assert_eq!(outcomes.len(), intents.len(), "every intent is closed");
    }
}

/// Every operation is refused with this code, and health says why.
async fn refuses(site: &Site, code: &str, why: &str) {
    for (path, body) in [
        ("/v1/encrypt", json!({ "key": "payments/card-data", "plaintext": "" })),
        ("/v1/sign", json!({ "key": "payments/documents", "payload": "" })),
        ("/v1/batch/encrypt", json!({ "items": [{ "key": "payments/card-data", "plaintext": "" }] })),
    ] {
        let (status, problem) = site.call(path, &site.billing, body).await;
        assert_eq!((status.as_u16(), problem["code"].as_str()), (503, Some(code)), "{path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
    let (status, ready) = site.ready().await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready["checks"]["journal"]["why"].as_str().unwrap().contains(why), "{ready}");
    let url = format!("http://{}/v1/status", site.agent().address);
    let status: Value = site.http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(status["journal"]["fault"]["code"], code, "{status}");
}

/// It is ready again, by itself.
async fn recovers(site: &Site) {
    let started = Instant::now();
    while site.ready().await.0 != StatusCode::OK {
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", site.ready().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_by_name_until_there_is_room() {
    for ground in Ground::all() {
        let (mut site, mut answered) = (ground.site().await, Answered::default());
        assert!(answered.encrypt(&site).await.is_none());
        ground.fill();
        let problem = answered.until_refused(&site).await;
        assert_eq!(problem["code"], "journal_disk_full", "{problem}");
        refuses(&site, "journal_disk_full", "free space on it").await;
        ground.free();
        recovers(&site).await;
        for _ in 0..1000 {
            assert!(answered.encrypt(&site).await.is_none(), "there is room");
        }
        site.stop().await;
        answered.check(&site.config.journal_directory(), 0);
        site.start_again().await;
        assert!(answered.encrypt(&site).await.is_none());
    }
}

/// Takes everything, as a control plane does.
struct Taker;

#[async_trait]
impl PostReceipts for Taker {
    async fn post(&self, batch: &ReceiptBatch) -> Result<ReceiptAnswer, PostError> {
        let last = batch.entries.iter().fold(batch.previous, |hash, entry| chain(&hash, entry.as_slice()));
        Ok(ReceiptAnswer { acknowledged: batch.first_seq + batch.entries.len() as u64 - 1, last })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_control_plane_takes_frees_a_full_disk() {
    for ground in Ground::all() {
        let (mut site, mut answered) = (ground.site().await, Answered::default());
        for _ in 0..500 {
            answered.encrypt(&site).await;
        }
        ground.fill();
        answered.until_refused(&site).await;
        let sender = Sender { tenant: trust::testing::TENANT, site: SITE, agent: trust::testing::AGENT };
        let pair = Arc::new(trust::pair::Pair::generate(&ManualIds::seeded(3)));
        let mut shipper = Shipper::new(site.agent().journal().clone(), sender, pair, Arc::new(Taker));
        assert!(shipper.ship_all().await.unwrap() >= answered.0.len() as u64);
        // The disk is as full as before: files are used again.
        recovers(&site).await;
        for _ in 0..200 {
            assert!(answered.encrypt(&site).await.is_none());
        }
        shipper.ship_all().await.unwrap();
        drop(shipper);
        site.stop().await;
        site.start_again().await;
        assert!(site.agent().journal().status().acknowledged > 500);
        assert!(answered.encrypt(&site).await.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_turns_read_only_refuses_by_name() {
    let disk = Arc::new(Told::default());
    let mut site = Site::start_on(disk.clone(), SERVER, START).await;
    site.publish();
    let mut answered = Answered::default();
    for _ in 0..20 {
        assert!(answered.encrypt(&site).await.is_none());
    }
    // Outcomes ride with the next group: they are lost when there is none.
    tokio::time::sleep(Duration::from_millis(300)).await;
    disk.read_only.store(true, Ordering::SeqCst);
    assert!(answered.encrypt(&site).await.is_some());
    refuses(&site, "journal_read_only", "remount it writable and restart the agent").await;
    site.stop().await;
    site.start_again().await;
    assert!(answered.encrypt(&site).await.is_none());
    site.stop().await;
    answered.check(&site.config.journal_directory(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_does_not_start_where_it_cannot_write() {
    let directory = tempfile::tempdir().unwrap();
    let start = |config: Config, disk: Arc<dyn Disk>| async move {
        let clock = Arc::new(ManualClock::at(START));
        let error = App::start_on(disk, algorithm::serve, config, clock, Arc::new(SystemIds)).await.err().expect("it started");
        explain("freehold-agent", &error)
    };
    for (full, advice) in [(false, "choose a path on a file system that can be written to"), (true, "make room there")] {
        let disk = Told::default();
        (if full { &disk.full } else { &disk.read_only }).store(true, Ordering::SeqCst);
        let said = start(settings(directory.path(), SERVER), Arc::new(disk)).await;
        assert!(said.contains("cannot write the first segment of") && said.contains("/data/journal") && said.contains(advice), "{said}");
    }
    let Some(mounted) = Mounted::new() else { return };
    let place = mounted.0.path().join("journal");
    let on_it =
        || settings(directory.path(), &format!("{SERVER}\n[journal]\nsegment = \"128KiB\"\nlimit = \"1MiB\"\ndirectory = {place:?}"));
    mounted.fill();
    let said = start(on_it(), Arc::new(SystemDisk)).await;
    assert!(said.contains(place.to_str().unwrap()) && said.contains("make room there"), "{said}");
    mounted.free();
    mounted.read_only(true);
    let said = start(on_it(), Arc::new(SystemDisk)).await;
    assert!(said.contains(place.to_str().unwrap()) && said.contains("choose a path on a file system that can be written to"), "{said}");
    mounted.read_only(false);
    let agent = App::start(on_it(), Arc::new(ManualClock::at(START)), Arc::new(SystemIds)).await.unwrap();
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stands_still_refuses_until_it_goes_on() {
    let disk = Arc::new(Told::default());
    let mut site = Site::start_on(disk.clone(), &format!("{SERVER}\n[journal]\nslow_after = \"300ms\""), START).await;
    site.publish();
    let mut answered = Answered::default();
    assert!(answered.encrypt(&site).await.is_none());
    disk.hold(true);
    let waited = Instant::now();
    let problem = answered.encrypt(&site).await.unwrap();
    assert_eq!(problem["code"], "journal_slow", "{problem}");
    assert!(waited.elapsed() < Duration::from_secs(5));
    refuses(&site, "journal_slow", "look at the disk").await;
    disk.hold(false);
    recovers(&site).await;
    assert!(answered.encrypt(&site).await.is_none());
    site.stop().await;
    answered.check(&site.config.journal_directory(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_cut_and_a_flipped_byte_is_named() {
    let mut site = Site::start_with(SERVER, START).await;
    site.publish();
    let mut answered = Answered::default();
    for _ in 0..30 {
        assert!(answered.encrypt(&site).await.is_none());
    }
    site.stop().await;
    let directory = site.config.journal_directory();
    let groups = Receipts::read(&directory).groups;
    let (path, last) = groups.last().unwrap();
    let whole = fs::read(path).unwrap();

    // The machine stopped while the last group was written.
    File::options().write(true).open(path).unwrap().write_all_at(&[0; 20], (last + 112 + 40) as u64).unwrap();
    assert!(Receipts::read(&directory).torn);
    site.start_again().await;
    assert!(answered.encrypt(&site).await.is_none());
    site.stop().await;
    // Nobody was told what stood in it: here that was the outcome of the last one.
    answered.check(&directory, 1);

    // A byte changed that had been durable.
    let (path, middle) = &groups[groups.len() / 2];
    let mut flipped = whole;
    flipped[middle + 200] ^= 0x20;
    fs::write(path, &flipped).unwrap();
    let clock = Arc::new(site.clock.clone());
    let error = App::start(site.config.clone(), clock, Arc::new(SystemIds)).await.err().expect("it started on a damaged journal");
    let said = explain("freehold-agent", &error);
    for part in ["the journal is damaged", path.to_str().unwrap(), &format!("byte {middle}"), "restore the directory or move it away"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(fs::read(path).unwrap(), flipped, "nothing was changed");
    // What it says helps.
    fs::rename(&directory, directory.with_extension("damaged")).unwrap();
    site.start_again().await;
    let mut anew = Answered::default();
    assert!(anew.encrypt(&site).await.is_none());
    site.stop().await;
    anew.check(&directory, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_is_a_few_entries() {
    let mut site = Site::start_with(&format!("{SERVER}\n[journal]\nrefusal_interval = \"1s\""), START).await;
    site.publish();
    let started = Instant::now();
    let flood = futures::future::join_all((0..10).map(|_| async {
        for turn in 0..40 {
            let key = if turn % 2 == 0 { "payments/card-data" } else { "payments/none" };
            let (status, _) = site.call("/v1/encrypt", &site.auditor, json!({ "key": key, "plaintext": "" })).await;
            assert!(matches!(status.as_u16(), 403 | 404), "{status}");
        }
    }));
    flood.await;
    let intervals = started.elapsed().as_secs() + 2;
    let directory = site.config.journal_directory();
    site.stop().await;
    let (mut counts, mut entries) = (HashMap::new(), 0);
    for receipt in &Receipts::read(&directory).all {
        if let ReceiptBody::Refusal { code, count, intent } = &receipt.body {
            assert_eq!(intent.caller.as_deref(), Some(AUDITOR.to_string().as_str()));
            *counts.entry(code.clone()).or_insert(0) += count;
            entries += 1;
        }
    }
    assert_eq!(counts, HashMap::from([("not_allowed_by_policy".to_owned(), 200), ("key_not_found".to_owned(), 200)]));
    assert!(entries <= 2 * intervals, "{entries} entries in {intervals} intervals");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_and_the_alarm_are_metrics() {
    let settings = format!("{SERVER}\n[journal]\nsegment = \"128KiB\"\nlimit = \"512KiB\"");
    let mut site = Site::start_with(&settings, SystemClock.now()).await;
    site.publish();
    site.stop().await;
    // A process of its own: metrics are counted by process.
    let process = Process::start(&site, None);
    let metric = async |name: &str| {
        let text = site.http.get(format!("{}/metrics", process.url)).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse::<f64>().unwrap())
    };
    assert_ne!(metric("freehold_journal_alarm").await, Some(1.0));
    let body = json!({ "key": "payments/card-data", "plaintext": "AAAA" });
    let started = Instant::now();
    while metric("freehold_journal_alarm").await != Some(1.0) {
        for _ in 0..20 {
            let request = site.http.post(format!("{}/v1/encrypt", process.url)).bearer_auth(&site.billing).json(&body);
            assert!(matches!(request.send().await.unwrap().status().as_u16(), 200 | 503));
        }
        assert!(started.elapsed() < Duration::from_secs(30), "there was no alarm");
    }
    let ready: Value = site.http.get(format!("{}/readyz", process.url)).send().await.unwrap().json().await.unwrap();
    assert!(ready["notes"]["journal"].as_str().unwrap().contains("the journal is nearly full"), "{ready}");
    // It is measured now and then: what is told first may be of before there was load.
    loop {
        let seconds = metric("freehold_journal_seconds_to_full").await;
        if seconds.is_some_and(|seconds| (0.0..3600.0).contains(&seconds)) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "the time until it is full is not measured: {seconds:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let used = metric("freehold_journal_used_bytes").await.unwrap();
    assert!(used > 0.8 * 512.0 * 1024.0 - 1.0, "{used}");
}
