//! The machine or the process stops at any moment.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    process::{Command, Stdio},
};

use proptest::prelude::*;

use super::*;
use crate::journal::segment::GROUP_HEADER_BYTES;

#[derive(Debug, Clone)]
enum Step {
    /// So many intents at once.
    Intents(usize),
    /// Outcomes of the oldest open tickets.
    Outcomes(usize),
    Refusal,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1usize..30).prop_map(Step::Intents),
        4 => (1usize..40).prop_map(Step::Outcomes),
        1 => Just(Step::Refusal),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..25)
}

fn soak() -> bool {
    std::env::var_os("FREEHOLD_SOAK").is_some()
}

/// Bytes until the power goes: mostly after the first segments were made ready, while groups are written.
fn power() -> impl Strategy<Value = i64> {
    prop_oneof![1 => 0i64..400_000, 4 => 390_000i64..520_000]
}

/// Does steps until the power goes; gives the requests whose intents were promised to be durable.
async fn work(disk: &Arc<FaultyDisk>, directory: &Path, steps: Vec<Step>) -> HashSet<String> {
    let mut promised = HashSet::new();
    let mut tickets = std::collections::VecDeque::new();
    let mut next = 0;
    let Ok(mut journal) = open_on(disk, directory, &config()) else { return promised };
    for step in steps {
        match step {
            Step::Intents(count) => {
                let requests: Vec<String> = (next..next + count).map(|number| format!("request-{number}")).collect();
                next += count;
                let answers = futures::future::join_all(requests.iter().map(|request| journal.intent(intent(request.clone())))).await;
                for (request, answer) in requests.into_iter().zip(answers) {
                    if let Ok(ticket) = answer {
                        promised.insert(request);
                        tickets.push_back(ticket);
                    }
                }
            }
            Step::Outcomes(count) => {
                for ticket in tickets.drain(..count.min(tickets.len())) {
                    journal.outcome(ticket, OutcomeResult::Ok, None, Some(1));
                }
            }
            Step::Refusal => journal.refusal(intent("refused"), "forbidden"),
            Step::Restart => {
                tickets.clear();
                drop(journal);
                match open_on(disk, directory, &config()) {
                    Ok(opened) => journal = opened,
                    Err(_) => return promised,
                }
            }
        }
    }
    promised
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if soak() { 5000 } else { 48 }, ..ProptestConfig::default() })]

    #[test]
    fn nothing_promised_is_lost_and_nothing_stands_twice(steps in steps(), power in power()) {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let promised = runtime.block_on(work(&Arc::new(FaultyDisk::dying_after(power)), directory.path(), steps));
        let journal = open(directory.path()).unwrap();
        // A last intent makes sure that what was closed at start is durable too.
        drop(runtime.block_on(journal.intent(intent("after"))).unwrap());
        journal.close();
        let all = receipts(&journal);
        check(&all, &promised);
        let intents = all.iter().filter(|receipt| matches!(receipt.body, ReceiptBody::Intent(_))).count();
        prop_assert_eq!(outcomes(&all).len(), intents, "every intent is closed");
    }
}

/// A segment's file and where its groups begin.
pub(super) fn groups(directory: &Path, segment: u64) -> (std::path::PathBuf, Vec<usize>) {
    let path = super::super::segment::segment_path(directory, segment);
    let bytes = std::fs::read(&path).unwrap();
    let (mut at, mut found) = (SEGMENT_HEADER_BYTES, Vec::new());
    while let Some(group) = super::super::segment::Group::read(&bytes[at..], segment) {
        found.push(at);
        at += group.bytes();
    }
    (path, found)
}

async fn written(directory: &Path) -> (std::path::PathBuf, Vec<usize>) {
    let journal = open(directory).unwrap();
    for turn in 0..4 {
        let ticket = journal.intent(intent(format!("{turn}"))).await.unwrap();
        journal.outcome(ticket, OutcomeResult::Ok, None, None);
    }
    drop(journal);
    groups(directory, 1)
}

#[tokio::test]
async fn a_torn_tail_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let (path, groups) = written(directory.path()).await;
    let last = *groups.last().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 20], (last + GROUP_HEADER_BYTES + 30) as u64).unwrap();
    let journal = open(directory.path()).unwrap();
    drop(journal.intent(intent("next")).await.unwrap());
    journal.close();
    check(&receipts(&journal), &["0", "1", "2", "next"].map(str::to_owned).into());
}

#[tokio::test]
async fn a_flipped_byte_in_the_middle_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let (path, groups) = written(directory.path()).await;
    let whole = std::fs::read(&path).unwrap();
    let last = *groups.last().unwrap();
    for at in (SEGMENT_HEADER_BYTES..last).step_by(37) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x20;
        std::fs::write(&path, &flipped).unwrap();
        let error = open(directory.path()).err().expect("a changed journal was opened").to_string();
        let group = groups.iter().rev().find(|start| **start <= at).unwrap();
        assert!(error.contains("0000000000000001.segment"), "{error}");
        assert!(error.contains(&format!("byte {group}")), "flipped {at}: {error}");
    }
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    assert!(open(directory.path()).err().unwrap().to_string().contains("byte 0"));
    std::fs::write(&path, &whole).unwrap();
    open(directory.path()).unwrap();
}

/// Fills more than one segment.
pub(super) async fn fill(journal: &DurableJournal, segments: usize) {
    let mut turn = 0;
    while journal.shared.lock().closed.len() < segments {
        let intents = (0..50).map(|number| journal.intent(intent(format!("{turn}-{number}"))));
        for ticket in futures::future::join_all(intents).await {
            journal.outcome(ticket.unwrap(), OutcomeResult::Ok, None, None);
        }
        turn += 1;
    }
}

#[tokio::test]
async fn lost_segments_and_old_copies_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    fill(&journal, 3).await;
    let (incarnation, durable) = (journal.incarnation(), journal.status().durable);
    drop(journal);
    let path = |number| super::super::segment::segment_path(directory.path(), number);
    let keep = std::fs::read(path(2)).unwrap();

    std::fs::remove_file(path(2)).unwrap();
    assert!(matches!(open(directory.path()), Err(OpenError::Corrupt { .. })));
    std::fs::write(path(2), keep).unwrap();

    let first = std::fs::read(path(1)).unwrap();
    std::fs::remove_file(path(1)).unwrap();
    assert!(matches!(open(directory.path()), Err(OpenError::Missing { from: 1, .. })));
    std::fs::write(path(1), first).unwrap();

    let hash = schema::encoding::Digest([0; 32]);
    super::super::recover::Acknowledged { incarnation, seq: durable + 100, hash }.write(directory.path()).unwrap();
    let Err(OpenError::Rewound { acknowledged, .. }) = open(directory.path()) else { panic!("an old copy was opened") };
    assert_eq!(acknowledged, durable + 100);
}

/// How many times the child is killed; more in long trials.
fn rounds() -> usize {
    if soak() { 200 } else { 4 }
}

#[test]
fn a_killed_process_loses_nothing_it_promised() {
    let directory = tempfile::tempdir().unwrap();
    let mut promised = HashSet::new();
    for round in 0..rounds() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::crash::child_that_is_killed", "--nocapture", "--test-threads", "1"])
            .env("FREEHOLD_JOURNAL_CHILD", directory.path())
            .env("FREEHOLD_JOURNAL_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = 300 + round % 7 * 170;
        let mut seen = 0;
        let mut killed = false;
        for line in lines.map_while(Result::ok) {
            if let Some(request) = line.strip_prefix("promised ") {
                promised.insert(request.to_owned());
                seen += 1;
            }
            if seen >= wanted && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the child ended by itself");
        let journal = open(directory.path()).unwrap();
        wait_for("what was left open", || journal.shared.lock().count == 0);
        check(&receipts(&journal), &promised);
    }
}

/// Writes until it is killed; does nothing unless the test above started it.
#[test]
fn child_that_is_killed() {
    let (Some(directory), Ok(round)) = (std::env::var_os("FREEHOLD_JOURNAL_CHILD"), std::env::var("FREEHOLD_JOURNAL_ROUND")) else {
        return;
    };
    let config = JournalConfig { limit: Size(256 << 20), ..config() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let journal = Arc::new(DurableJournal::open(Path::new(&directory), &config, clock(), &ManualIds::seeded(9)).unwrap());
    runtime.block_on(async {
        let callers = (0..16).map(|caller| {
            let (journal, round) = (journal.clone(), round.clone());
            tokio::spawn(async move {
                for turn in 0.. {
                    let request = format!("{round}-{caller}-{turn}");
                    let ticket = journal.intent(intent(request.clone())).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    let _ = writeln!(out, "promised {request}");
                    let _ = out.flush();
                    drop(out);
                    journal.outcome(ticket, OutcomeResult::Ok, None, None);
                }
            })
        });
        futures::future::join_all(callers).await;
    });
}
