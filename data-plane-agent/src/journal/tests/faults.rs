//! Full, read-only and slow disks, and a control plane that does not take the entries.

use super::*;
use crate::journal::JournalError;

async fn fill_until_refused(journal: &DurableJournal) -> (JournalError, Vec<crate::journal::Ticket>) {
    let mut tickets = Vec::new();
    for number in 0..100_000 {
        match journal.intent(intent(format!("{number}"))).await {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => return (error, tickets),
        }
    }
    panic!("it never got full");
}

#[tokio::test]
async fn a_full_journal_refuses_intents_but_keeps_room_for_outcomes() {
    let directory = tempfile::tempdir().unwrap();
    let small = JournalConfig { limit: Size(384 << 10), ..config() };
    let journal = DurableJournal::open(directory.path(), &small, clock(), &ManualIds::seeded(1)).unwrap();
    let (error, tickets) = fill_until_refused(&journal).await;
    assert_eq!(error.code(), "journal_full");
    assert!(error.to_string().contains("journal.limit"), "{error}");
    assert_eq!(journal.status().fault.unwrap().code(), "journal_full");
    let count = tickets.len();
    assert!(count > 100, "{count}");
    for ticket in tickets {
        journal.outcome(ticket, OutcomeResult::Failed, Some("something_quite_long_for_a_code"), Some(u64::MAX));
    }
    journal.close();
    let all = receipts(&journal);
    assert_eq!(outcomes(&all).len(), count);
    let bytes: u64 = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= (384 << 10) + 8192, "{bytes}");
}

#[tokio::test]
async fn a_full_disk_refuses_by_name_and_is_left_behind_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let journal = open_on(&disk, directory.path(), &config()).unwrap();
    drop(journal.intent(intent("first")).await.unwrap());
    disk.full.store(true, Ordering::SeqCst);
    let (error, tickets) = fill_until_refused(&journal).await;
    assert_eq!(error.code(), "journal_disk_full", "{error}");
    let count = tickets.len();
    drop(tickets);
    disk.full.store(false, Ordering::SeqCst);
    wait_for("room", || journal.status().fault.is_none());
    drop(journal.intent(intent("last")).await.unwrap());
    journal.close();
    assert_eq!(outcomes(&receipts(&journal)).len(), count + 2);
}

#[tokio::test]
async fn a_read_only_disk_fails_everybody_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let journal = open_on(&disk, directory.path(), &config()).unwrap();
    drop(journal.intent(intent("kept")).await.unwrap());
    wait_for("the outcome", || journal.status().durable == 2);
    disk.read_only.store(true, Ordering::SeqCst);
    let asked = futures::future::join_all((0..5).map(|number| journal.intent(intent(format!("{number}"))))).await;
    assert!(asked.iter().all(|answer| answer.as_ref().is_err_and(|error| error.code() == "journal_read_only")), "{asked:?}");
    assert_eq!(journal.intent(intent("later")).await.unwrap_err().code(), "journal_read_only");
    assert_eq!(journal.status().fault.unwrap().code(), "journal_read_only");
    drop(journal);
    let journal = open(directory.path()).unwrap();
    check(&receipts(&journal), &["kept".to_owned()].into());
}

#[tokio::test]
async fn a_disk_that_stands_still_refuses_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let journal = open_on(&disk, directory.path(), &config()).unwrap();
    drop(journal.intent(intent("before")).await.unwrap());
    disk.hold(true);
    let error = tokio::time::timeout(Duration::from_secs(5), journal.intent(intent("waits"))).await.unwrap().unwrap_err();
    assert_eq!(error.code(), "journal_slow");
    let at_once = std::time::Instant::now();
    assert_eq!(journal.intent(intent("refused")).await.unwrap_err().code(), "journal_slow");
    assert!(at_once.elapsed() < Duration::from_millis(100));
    disk.hold(false);
    wait_for("the disk", || journal.status().fault.is_none());
    drop(journal.intent(intent("after")).await.unwrap());
    journal.close();
    let all = receipts(&journal);
    check(&all, &["before", "after"].map(str::to_owned).into());
    assert!(outcomes(&all).values().all(|result| *result == OutcomeResult::Aborted));
}

#[tokio::test]
async fn an_entry_that_is_too_large_is_refused_alone() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let large = Intent { statements: "x".repeat(40_000), ..intent("large") };
    assert_eq!(journal.intent(large).await.unwrap_err().code(), "journal_entry_too_large");
    drop(journal.intent(intent("small")).await.unwrap());
}

#[tokio::test]
async fn time_to_full_is_known_while_it_grows() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let growing = async {
        for number in 0.. {
            match journal.intent(intent(format!("{number}"))).await {
                Ok(ticket) if journal.status().seconds_to_full.is_none() => drop(ticket),
                _ => return,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), growing).await.expect("a rate");
    let status = journal.status();
    assert!(status.seconds_to_full.unwrap() > 0.0 && status.oldest_unacknowledged.is_some());
}
