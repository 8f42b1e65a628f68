//! SQLite on a disk that fails: at every write and sync once, with an error, a full disk, a half-written block, or the end of the
//! process; and the order in which a loss of power keeps what was not synced. `faulty.c` stands between it and the system.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use control_plane::{
    database::Location,
    eventing::store::{Append, AppendError},
};
use freehold_tests::database::Engine;
use schema::clock::{SystemIds, random};
use sea_orm::ConnectionTrait;

use super::{
    log::{assert_dense, everything},
    world::{TENANT, World, append, fresh_stream},
};

const CHILD: &str = "FREEHOLD_TEST_FAULTY_WRITER";
const BIG: &str = "FREEHOLD_TEST_FAULTY_WRITER_BIG";

fn soak() -> bool {
    std::env::var_os("FREEHOLD_SOAK").is_some()
}

/// The library that fails, made once.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &SHIM
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let library = folder.path().join("faulty.so");
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store/faulty.c");
            let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).args([source, "-ldl"]).status().unwrap();
            assert!(made.success(), "cc did not compile {source}");
            (folder, library)
        })
        .1
}

/// What is done at which operation.
#[derive(Debug, Clone, Copy)]
struct Fault {
    at: usize,
    how: &'static str,
    stays: bool,
}

/// Runs the writer on the database in this folder, named `faulty`.
fn write(folder: &Path, fault: Option<Fault>, log: Option<&Path>, big: bool) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "faulty_writer", "--nocapture", "--test-threads", "1"]).env("LD_PRELOAD", shim());
    command.env(CHILD, folder.join("freehold.db")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if big {
        command.env(BIG, "1");
    }
    if let Some(Fault { at, how, stays }) = fault {
        command.env("FREEHOLD_FAULTY_AT", at.to_string()).env("FREEHOLD_FAULTY_HOW", how);
        if stays {
            command.env("FREEHOLD_FAULTY_STAYS", "1");
        }
    }
    if let Some(log) = log {
        command.env("FREEHOLD_FAULTY_LOG", log);
    }
    command.status().unwrap()
}

/// Not a test of its own: what writes on a failing disk. It says what became of each event in a file of its own.
pub(crate) async fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let mut said = File::options().create(true).append(true).open(format!("{path}.acks")).unwrap();
    let world = World::at(&Location::Sqlite(path.into()), None).await;
    let (old, fresh) = (fresh_stream(), fresh_stream());
    let (mut at, mut also) = (0, 0);
    let rounds = if std::env::var_os(BIG).is_some() { 40 } else { 5 };
    for round in 0..rounds {
        let size = if rounds > 5 { 55_000 } else { 700 };
        let one = Append { blobs: vec![vec![round as u8; 50]], ..append(TENANT, &old, at, 2, &"x".repeat(size)) };
        let two = append(TENANT, &fresh, also, 1, "y");
        let (first, second) = tokio::join!(world.store.append(one.clone()), world.store.append(two.clone()));
        for (write, mut outcome) in [(&one, first), (&two, second)] {
            // The same again, as a client does who was told nothing, or no.
            for _ in 0..2 {
                let word = match &outcome {
                    Ok(_) => "kept",
                    Err(AppendError::Unavailable { unknown: true, .. }) => "unknown",
                    Err(_) => "refused",
                };
                let lines: String = write.records.iter().map(|record| format!("{word} {}\n", record.envelope().id)).collect();
                said.write_all(lines.as_bytes()).unwrap();
                if outcome.is_ok() {
                    break;
                }
                outcome = world.store.append(write.clone()).await;
            }
            if outcome.is_err() {
                // The disk is gone, and with it the reason to go on.
                return;
            }
            if let Ok(appended) = outcome {
                *(if std::ptr::eq(write, &one) { &mut at } else { &mut also }) = appended.revision;
            }
        }
    }
    world.close().await;
}

/// The last that was said of each event.
fn said(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(' ')).filter(|(_, event)| event.len() == 30);
    pairs.map(|(word, event)| (event.to_owned(), word.to_owned())).collect()
}

/// Opens what is left: whole, everything acknowledged there, nothing that was refused for certain, and it goes on.
async fn check(folder: &Path, said: &BTreeMap<String, String>, told: &str) -> usize {
    let world = World::at(&Location::Sqlite(folder.join("freehold.db")), None).await;
    let row = world.database.read().query_one_raw(world.database.sql("PRAGMA integrity_check", vec![])).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<String>(0).unwrap(), "ok", "{told}");
    let records = everything(&world).await;
    assert_dense(&records, records.len());
    let there: HashSet<_> = records.iter().map(|stored| stored.record.envelope().id.to_string()).collect();
    for (event, word) in said {
        match word.as_str() {
            "kept" => assert!(there.contains(event), "{told}: {event} was acknowledged and is gone"),
            "refused" => assert!(!there.contains(event), "{told}: {event} was refused for certain and is there"),
            _ => {}
        }
    }
    world.store.append(append(TENANT, &fresh_stream(), 0, 1, "after")).await.unwrap();
    assert_dense(&everything(&world).await, records.len() + 1);
    world.close().await;
    said.values().filter(|word| *word == "kept").count()
}

/// A database with something in it, closed.
async fn prepared() -> (tempfile::TempDir, PathBuf) {
    let (files, world) = World::new(Engine::Sqlite).await;
    for _ in 0..3 {
        world.store.append(append(TENANT, &fresh_stream(), 0, 2, "before")).await.unwrap();
    }
    world.close().await;
    let Location::Sqlite(path) = &files.location else { unreachable!() };
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("faulty");
    fs::create_dir(&kept).unwrap();
    fs::copy(path, kept.join("freehold.db")).unwrap();
    (folder, kept)
}

fn copied(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("faulty");
    fs::create_dir(&kept).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), kept.join(entry.file_name())).unwrap();
    }
    folder
}

pub(crate) async fn every_write_and_sync_of_sqlite_may_fail() {
    let (_folder, prepared) = prepared().await;
    let whole = copied(&prepared);
    let log = whole.path().join("log");
    assert!(write(&whole.path().join("faulty"), None, Some(&log), false).success(), "the writer fails by itself");
    let operations = operations(&fs::read(&log).unwrap());
    let count = operations.iter().filter(|operation| matches!(operation.what, b'W' | b'S' | b'T')).count();
    assert!(count > 40, "only {count} operations");

    let mut faults = Vec::new();
    for at in 1..=count {
        for (n, (how, stays)) in
            [("eio", false), ("torn", false), ("answer", false), ("kill", false), ("enospc", false), ("eio", true)].into_iter().enumerate()
        {
            // In the short form every operation fails in two ways of the six, and each way at every third.
            if soak() || (at + n) % 3 == 0 {
                faults.push(Fault { at, how, stays });
            }
        }
    }
    let next = AtomicUsize::new(0);
    let folders: Vec<(Fault, tempfile::TempDir, bool)> = std::thread::scope(|scope| {
        let run = || {
            let mut done = Vec::new();
            while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                let folder = copied(&prepared);
                let ended = write(&folder.path().join("faulty"), Some(*fault), None, false);
                done.push((*fault, folder, ended.success()));
            }
            done
        };
        let runs: Vec<_> = (0..6).map(|_| scope.spawn(run)).collect();
        runs.into_iter().flat_map(|run| run.join().unwrap()).collect()
    });
    let (mut acknowledged, mut survived) = (0, 0);
    for (fault, folder, ended_well) in &folders {
        let folder = folder.path().join("faulty");
        let told = said(&fs::read_to_string(folder.join("freehold.db.acks")).unwrap_or_default());
        acknowledged += check(&folder, &told, &format!("{fault:?}")).await;
        survived += usize::from(*ended_well);
    }
    assert!(acknowledged > folders.len() && survived > 10, "{acknowledged} {survived}");
    #[allow(clippy::print_stdout, reason = "a count to keep")]
    {
        println!(
            "{} faults at {count} operations: {acknowledged} events acknowledged, all there; {survived} writers outlived theirs",
            folders.len()
        );
    }
}

/// One thing that was done to a file.
struct Operation {
    what: u8,
    file: u8,
    offset: usize,
    bytes: Vec<u8>,
}

fn operations(log: &[u8]) -> Vec<Operation> {
    let (mut found, mut rest) = (Vec::new(), log);
    while let Some((head, after)) = rest.split_at_checked(18) {
        let number = |bytes: &[u8]| usize::try_from(u64::from_le_bytes(bytes.try_into().unwrap())).unwrap();
        let (offset, length) = (number(&head[2..10]), number(&head[10..18]));
        let Some((bytes, after)) = after.split_at_checked(length) else { break };
        found.push(Operation { what: head[0], file: head[1], offset, bytes: bytes.to_vec() });
        rest = after;
    }
    found
}

/// A file, as far as it is surely on the disk, and what was done to it since.
#[derive(Clone, Default)]
struct OnDisk {
    synced: Option<Vec<u8>>,
    since: Vec<(u8, usize, Vec<u8>)>,
}

/// How much of what was not synced a loss of power keeps.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Nothing,
    Everything,
    /// Each write with a chance, in any order; some of them only in part.
    Some,
}

impl OnDisk {
    fn after_power_loss(&self, kept: Kept) -> Option<Vec<u8>> {
        let mut chosen: Vec<_> = match kept {
            Kept::Nothing => Vec::new(),
            Kept::Everything => self.since.clone(),
            Kept::Some => self.since.iter().filter(|_| random::<1>(&SystemIds)[0].is_multiple_of(2)).cloned().collect(),
        };
        if matches!(kept, Kept::Some) {
            for (what, _, bytes) in &mut chosen {
                let [die, sectors] = random::<2>(&SystemIds);
                if *what == b'W' && die.is_multiple_of(4) {
                    bytes.truncate(usize::from(sectors) * 512 % bytes.len().max(1));
                }
            }
        }
        let mut content = self.synced.clone();
        for (what, offset, bytes) in chosen {
            apply(&mut content, what, offset, &bytes);
        }
        content
    }
}

fn apply(content: &mut Option<Vec<u8>>, what: u8, offset: usize, bytes: &[u8]) {
    match what {
        b'U' => *content = None,
        b'C' => drop(content.get_or_insert_default()),
        b'T' => content.get_or_insert_default().resize(offset, 0),
        _ => {
            let content = content.get_or_insert_default();
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[offset..end].copy_from_slice(bytes);
        }
    }
}

pub(crate) async fn a_loss_of_power_keeps_what_was_acknowledged() {
    let (_folder, prepared) = prepared().await;
    let before = fs::read(prepared.join("freehold.db")).unwrap();
    let run = copied(&prepared);
    let log = run.path().join("log");
    // Large bodies: the log of SQLite is written back and begun anew on the way.
    assert!(write(&run.path().join("faulty"), None, Some(&log), true).success());
    let operations = operations(&fs::read(&log).unwrap());
    let syncs = operations.iter().filter(|operation| operation.what == b'S').count();
    assert!(syncs > 30, "only {syncs} syncs");
    let every = if soak() { 1 } else { (operations.len() / 45).max(1) };

    let mut disk: BTreeMap<u8, OnDisk> = BTreeMap::new();
    disk.entry(b'd').or_default().synced = Some(before);
    let (mut acknowledged, mut states, mut checked, mut lost) = (String::new(), 0, 0, 0);
    for (n, operation) in operations.iter().enumerate() {
        match operation.what {
            b'A' => acknowledged.push_str(&String::from_utf8_lossy(&operation.bytes)),
            b'S' => {
                let file = disk.entry(operation.file).or_default();
                file.synced = file.after_power_loss(Kept::Everything);
                file.since.clear();
            }
            what => disk.entry(operation.file).or_default().since.push((what, operation.offset, operation.bytes.clone())),
        }
        // Before every sync is when most is at stake, and just after an answer.
        let next = operations.get(n + 1).map_or(b'-', |operation| operation.what);
        if n % every != 0 && !(operation.what == b'A' && n % 7 == 0) && !(next == b'S' && n % 5 == 0) {
            continue;
        }
        for kept in [Kept::Nothing, Kept::Some, Kept::Everything] {
            let folder = tempfile::tempdir().unwrap();
            for (file, name) in [(b'd', "freehold.db"), (b'w', "freehold.db-wal"), (b'j', "freehold.db-journal")] {
                let Some(file) = disk.get(&file) else { continue };
                lost += file.since.len();
                if let Some(content) = file.after_power_loss(kept) {
                    fs::write(folder.path().join(name), content).unwrap();
                }
            }
            let told = said(&acknowledged);
            checked += check(folder.path(), &told, &format!("power lost after operation {n} of {}, {kept:?} kept", operations.len())).await;
            states += 1;
        }
    }
    assert!(states > 100 && checked > states && lost > states, "{states} {checked} {lost}");
    #[allow(clippy::print_stdout, reason = "a count to keep")]
    {
        println!(
            "power lost in {states} ways over {} operations, {syncs} of them syncs: everything acknowledged was there",
            operations.len()
        );
    }
}
