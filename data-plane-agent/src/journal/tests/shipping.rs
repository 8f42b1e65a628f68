//! Receipts reach the control plane once and in order, whatever is lost on the way.

use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use schema::{
    encoding::Digest,
    id::{AgentId, IncarnationId, SiteId, TenantId},
    wire::agent::{ReceiptAnswer, ReceiptBatch, ReceiptBatchHead},
};
use trust::{
    dsse::open_document,
    pair::{Pair, Signers},
};

use super::{
    crash::{fill, groups},
    *,
};
use crate::journal::{
    segment::GROUP_HEADER_BYTES,
    ship::{PostError, PostReceipts, Sender, ShipError, Shipper},
};

/// The incarnation, and each entry with the chain hash after it.
type Stored = (Option<IncarnationId>, Vec<(Vec<u8>, Digest)>);

/// Takes receipts as the control plane does, and loses every third answer.
struct Taker {
    pair: Arc<Pair>,
    stored: Mutex<Stored>,
    asked: AtomicUsize,
    loses_answers: bool,
}

impl Taker {
    fn new(pair: &Arc<Pair>, loses_answers: bool) -> Arc<Self> {
        Arc::new(Self { pair: pair.clone(), stored: Mutex::default(), asked: AtomicUsize::new(0), loses_answers })
    }

    fn count(&self) -> usize {
        self.stored.lock().unwrap().1.len()
    }
}

#[async_trait]
impl PostReceipts for Taker {
    async fn post(&self, batch: &ReceiptBatch) -> Result<ReceiptAnswer, PostError> {
        let head = open_document::<ReceiptBatchHead>(batch.head.as_slice(), &Signers::one(self.pair.public().clone()), 1).unwrap().payload;
        assert_eq!((head.first_seq, head.count, head.previous), (batch.first_seq, batch.entries.len() as u64, batch.previous));
        let mut stored = self.stored.lock().unwrap();
        assert_eq!(*stored.0.get_or_insert(batch.incarnation), batch.incarnation);
        let mut hash = batch.previous;
        for (seq, entry) in (batch.first_seq..).zip(&batch.entries) {
            hash = chain(&hash, entry.as_slice());
            let have = stored.1.len() as u64;
            assert!(seq <= have + 1, "a gap before {seq}");
            if seq == have + 1 {
                stored.1.push((entry.as_slice().to_vec(), hash));
            } else {
                assert_eq!(stored.1[seq as usize - 1].1, hash, "another history at {seq}");
            }
        }
        assert_eq!(hash, head.last);
        if self.loses_answers && self.asked.fetch_add(1, Ordering::SeqCst) % 3 != 2 {
            return Err(PostError::Unreachable("the answer was lost".into()));
        }
        let (acknowledged, last) = (stored.1.len() as u64, stored.1.last().unwrap().1);
        Ok(ReceiptAnswer { acknowledged, last })
    }
}

fn sender() -> Sender {
    Sender { tenant: TenantId::from_bits(1), site: SiteId::from_bits(2), agent: AgentId::from_bits(3) }
}

async fn write(journal: &DurableJournal, round: usize, count: usize) {
    let intents = (0..count).map(|number| journal.intent(intent(format!("{round}-{number}"))));
    for ticket in futures::future::join_all(intents).await {
        journal.outcome(ticket.unwrap(), OutcomeResult::Ok, None, None);
    }
}

#[tokio::test]
async fn everything_arrives_once_though_answers_are_lost_and_the_agent_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let pair = Arc::new(Pair::generate(&ManualIds::seeded(3)));
    let taker = Taker::new(&pair, true);
    for round in 0..6 {
        let journal = Arc::new(open(directory.path()).unwrap());
        let mut shipper = Shipper::new(journal.clone(), sender(), pair.clone(), taker.clone());
        for part in 0..3 {
            write(&journal, round * 10 + part, 150).await;
            let _ = shipper.ship_all().await;
        }
        drop(shipper);
        drop(journal);
    }
    let journal = Arc::new(open(directory.path()).unwrap());
    let mut shipper = Shipper::new(journal.clone(), sender(), pair, taker.clone());
    let total = 6 * 3 * 150 * 2;
    for _ in 0..20 {
        let _ = shipper.ship_all().await;
    }
    assert_eq!(taker.count(), total);
    assert_eq!(journal.status().acknowledged, total as u64);
    assert!(journal.status().oldest_unacknowledged.is_none());
    let first: Receipt = serde_json::from_slice(&taker.stored.lock().unwrap().1[0].0).unwrap();
    assert_eq!(first.seq, 1);
    wait_for("freed segments", || journal.shared.lock().closed.is_empty());
    assert_eq!(shipper.ship_all().await.unwrap(), 0);
}

#[tokio::test]
async fn taken_entries_free_a_full_journal_and_files_are_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let pair = Arc::new(Pair::generate(&ManualIds::seeded(3)));
    let taker = Taker::new(&pair, false);
    let small = JournalConfig { limit: Size(512 << 10), ..config() };
    let journal = Arc::new(DurableJournal::open(directory.path(), &small, clock(), &ManualIds::seeded(1)).unwrap());
    let mut shipper = Shipper::new(journal.clone(), sender(), pair.clone(), taker.clone());
    let mut refused = 0;
    for round in 0..40 {
        for number in 0..100 {
            match journal.intent(intent(format!("{round}-{number}"))).await {
                Ok(ticket) => journal.outcome(ticket, OutcomeResult::Ok, None, None),
                Err(error) => {
                    assert_eq!(error.code(), "journal_full");
                    refused += 1;
                    shipper.ship_all().await.unwrap();
                    wait_for("room", || journal.status().fault.is_none());
                }
            }
        }
    }
    assert!(refused > 0, "it was never full");
    let written = journal.status().durable;
    drop(shipper);
    drop(journal);
    // The next life of recycled files: nothing of the former is taken for entries.
    let journal = Arc::new(DurableJournal::open(directory.path(), &small, clock(), &ManualIds::seeded(1)).unwrap());
    assert!(journal.status().durable >= written);
    let mut shipper = Shipper::new(journal.clone(), sender(), pair, taker.clone());
    shipper.ship_all().await.unwrap();
    assert_eq!(taker.count() as u64, journal.status().acknowledged);
}

#[tokio::test]
async fn a_segment_with_an_open_intent_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let pair = Arc::new(Pair::generate(&ManualIds::seeded(3)));
    let journal = Arc::new(open(directory.path()).unwrap());
    let mut shipper = Shipper::new(journal.clone(), sender(), pair.clone(), Taker::new(&pair, false));
    let open_ticket = journal.intent(intent("long")).await.unwrap();
    for round in 0..10 {
        write(&journal, round, 100).await;
    }
    shipper.ship_all().await.unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!journal.shared.lock().closed.is_empty());
    journal.outcome(open_ticket, OutcomeResult::Ok, None, None);
    wait_for("freed segments", || journal.shared.lock().closed.is_empty());
}

struct Forked;

#[async_trait]
impl PostReceipts for Forked {
    async fn post(&self, batch: &ReceiptBatch) -> Result<ReceiptAnswer, PostError> {
        Ok(ReceiptAnswer { acknowledged: batch.first_seq + batch.entries.len() as u64 - 1, last: Digest([9; 32]) })
    }
}

#[tokio::test]
async fn another_history_at_the_control_plane_is_noticed_and_nothing_is_freed() {
    let directory = tempfile::tempdir().unwrap();
    let pair = Arc::new(Pair::generate(&ManualIds::seeded(3)));
    let journal = Arc::new(open(directory.path()).unwrap());
    write(&journal, 0, 3).await;
    let mut shipper = Shipper::new(journal.clone(), sender(), pair, Arc::new(Forked));
    assert!(matches!(shipper.ship_all().await, Err(ShipError::Forked { .. })));
    assert_eq!(journal.status().acknowledged, 0);
}

/// Whoever has shipped everything stands at the end of a segment when that is left, and freed at once.
#[tokio::test]
async fn shipping_goes_on_behind_a_segment_that_was_freed() {
    let directory = tempfile::tempdir().unwrap();
    let pair = Arc::new(Pair::generate(&ManualIds::seeded(3)));
    let taker = Taker::new(&pair, false);
    let journal = Arc::new(open(directory.path()).unwrap());
    let mut shipper = Shipper::new(journal.clone(), sender(), pair, taker.clone());
    let (mut written, mut met) = (0, false);
    while !met {
        let (number, room) = {
            let inner = journal.shared.lock();
            (inner.active.number, journal.shared.segment_bytes - inner.active.end)
        };
        assert!(number < 10, "no segment ended with what was shipped");
        // Towards the end of a segment one by one.
        let count = if room > 4000 { 5 } else { 1 };
        write(&journal, written, count).await;
        written += count;
        if room <= 4000 {
            wait_for("the outcomes", || journal.status().durable == written as u64 * 2);
            if journal.shared.lock().active.number > number {
                std::thread::sleep(Duration::from_millis(300));
                met = journal.shared.lock().closed.is_empty();
            }
            shipper.ship_all().await.unwrap();
        }
    }
    assert_eq!(taker.count(), written * 2);
}

#[tokio::test]
async fn damage_that_shipping_meets_is_named_and_what_is_before_it_arrives() {
    // A group's header, its entries, and the first group of the next segment.
    for (segment, group, byte) in [(1, 3, 20), (1, 3, GROUP_HEADER_BYTES + 30), (2, 0, 5)] {
        let directory = tempfile::tempdir().unwrap();
        let pair = Arc::new(Pair::generate(&ManualIds::seeded(3)));
        let taker = Taker::new(&pair, false);
        let journal = Arc::new(open(directory.path()).unwrap());
        fill(&journal, 2).await;
        wait_for("the last outcomes", || journal.shared.lock().count == 0 && journal.shared.lock().in_flight == 0);
        let (path, groups) = groups(directory.path(), segment);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[groups[group] + byte] ^= 1;
        std::fs::write(&path, &flipped).unwrap();

        let mut shipper = Shipper::new(journal.clone(), sender(), pair, taker.clone());
        let Err(ShipError::Read(source)) = shipper.ship_all().await else { panic!("it was shipped") };
        let place = format!("segment {segment:016x}, byte {}", groups[group]);
        assert!(source.to_string().starts_with(&place), "{source}");
        assert!(taker.count() > 0, "what is before it arrives");
        let alarm = journal.status().alarm.unwrap();
        assert!(alarm.contains(&place) && alarm.contains("stop the agent, keep a copy"), "{alarm}");
        drop(journal.intent(intent("goes on")).await.unwrap());

        std::fs::write(&path, &whole).unwrap();
        shipper.ship_all().await.unwrap();
        assert_eq!(journal.status().alarm, None);
        assert_eq!(journal.status().acknowledged, taker.count() as u64);
    }
}
