use std::time::Duration;

use schema::{
    clock::{ManualClock, SystemIds},
    events,
    id::{MemberId, PrincipalId, ProjectId, RequestId},
};
use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    access::permit::testing::AllBut,
    database::{Database, Location},
    eventing::{aggregate::Index, sql::SqlStore},
    sealing::SealingKey,
};

events! {
    /// What happens to a counter.
    CounterEvent {
        /// It was begun.
        CounterBegun 1 { serial: ProjectId },
        /// It grew.
        CounterGrew 1 { by: u32 },
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Counter {
    serial: Option<ProjectId>,
    value: u32,
}

#[derive(Debug, Clone, Serialize)]
enum Count {
    Begin,
    Grow(u32),
    GrowTwice(u32),
    GrowThrice(u32),
    Nothing,
}

#[derive(Debug, thiserror::Error)]
#[error("a counter is begun once")]
struct BegunAlready;

impl Refusal for BegunAlready {
    fn code(&self) -> &'static str {
        "begun_already"
    }
}

impl Aggregate for Counter {
    type Id = ProjectId;
    type Command = Count;
    type Event = CounterEvent;
    type Refusal = BegunAlready;
    const KIND: &'static str = "counter";

    fn decide(&self, command: &Count, deciding: &Deciding<'_>) -> Result<Vec<CounterEvent>, BegunAlready> {
        let grew = |by: &u32| CounterEvent::from(CounterGrew { by: *by });
        Ok(match command {
            Count::Begin if self.serial.is_some() => return Err(BegunAlready),
            Count::Begin => vec![CounterBegun { serial: new_id(deciding.ids, deciding.now) }.into()],
            Count::Grow(by) => vec![grew(by)],
            Count::GrowTwice(by) => vec![grew(by), grew(by)],
            Count::Nothing => vec![],
            Count::GrowThrice(by) => vec![grew(by), grew(by), grew(by)],
        })
    }

    fn evolve(&mut self, event: &CounterEvent, _: &EventMeta) {
        match event {
            CounterEvent::CounterBegun(begun) => self.serial = Some(begun.serial),
            CounterEvent::CounterGrew(grew) => self.value += grew.by,
        }
    }

    fn index(&self) -> Index {
        Index::default()
    }
}

struct Fixture {
    handler: Handler,
    clock: ManualClock,
    database: Database,
    keyring: Arc<Keyring>,
    _folder: tempfile::TempDir,
}

const TENANT: TenantId = TenantId::from_bits(7);
const ID: ProjectId = ProjectId::from_bits(1);

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&Location::Sqlite(folder.path().join("test.db"))).await.unwrap();
        let clock = ManualClock::at(Timestamp::from_micros(1_767_225_600_000_000));
        let key = SealingKey::from_bytes([3; 32]);
        let keyring = Arc::new(Keyring::open(database.clone(), &key, Arc::new(clock.clone()), Arc::new(SystemIds)).await.unwrap());
        let store = Arc::new(SqlStore::open(database.clone(), Arc::clone(&keyring)).await.unwrap());
        let (authorizer, ids) = (Arc::new(AllBut("forbidden")), Arc::new(SystemIds));
        let handler = Handler::new(store, Arc::clone(&keyring), authorizer, Arc::new(clock.clone()), ids);
        Self { handler, clock, database, keyring, _folder: folder }
    }

    /// A replica: another handler on the same store.
    fn replica(&self) -> Handler {
        let (store, keyring) = (Arc::clone(self.handler.store()), Arc::clone(&self.keyring));
        Handler::new(store, keyring, Arc::new(AllBut("forbidden")), Arc::new(self.clock.clone()), Arc::new(SystemIds))
    }

    async fn ask(&self, key: &str, command: Count) -> Result<Handled<Counter>, CommandError<BegunAlready>> {
        self.ask_as(member(1), key, None, command).await
    }

    async fn ask_as(
        &self,
        ctx: OpContext,
        key: &str,
        expected_revision: Option<u64>,
        command: Count,
    ) -> Result<Handled<Counter>, CommandError<BegunAlready>> {
        let idempotency_key = (!key.is_empty()).then(|| key.parse().unwrap());
        let options = Options { idempotency_key, expected_revision, ..Options::default() };
        self.handler.handle(&ctx, Question::new("count", "Counter", ID), ID, options, command).await
    }
}

fn member(n: u128) -> OpContext {
    OpContext {
        tenant: TENANT,
        principal: PrincipalId::Member(MemberId::from_bits(n)),
        scopes: vec![],
        via: None,
        request: RequestId::from_bits(n),
    }
}

#[tokio::test]
async fn a_command_becomes_records_with_their_envelope() {
    let fixture = Fixture::new().await;
    let begun = fixture.ask("k", Count::Begin).await.unwrap();
    assert_eq!((begun.revision, begun.events.len(), begun.replayed), (1, 1, false));
    let stored = fixture.handler.store().read_stream(TENANT, &StreamId::of(ID), 0, 10).await.unwrap();
    let envelope = stored[0].record.envelope();
    assert_eq!((envelope.event_type.as_str(), envelope.actor.as_str()), ("CounterBegun", "mem_00000000000000000000000001"));
    assert_eq!((envelope.idempotency_key.as_deref(), envelope.correlation.as_str()), (Some("k"), "req_00000000000000000000000001"));
    assert_eq!(fixture.handler.keys(TENANT).await.unwrap().position(&begun.position), Some(stored[0].cursor));
    let refused = fixture.ask("", Count::Begin).await.unwrap_err();
    assert_eq!(refused.code(), Some("begun_already"));
}

#[tokio::test]
async fn a_retry_gets_the_same_answer_and_appends_nothing() {
    let fixture = Fixture::new().await;
    let begun = fixture.ask("begin", Count::Begin).await.unwrap();
    let grown = fixture.ask("grow", Count::GrowTwice(2)).await.unwrap();
    fixture.ask("", Count::Grow(100)).await.unwrap();
    fixture.clock.advance(Duration::from_secs(3600));
    for (key, command, first) in [("begin", Count::Begin, begun), ("grow", Count::GrowTwice(2), grown)] {
        let again = fixture.ask(key, command).await.unwrap();
        assert!(again.replayed && !first.replayed);
        assert_eq!((again.state, again.revision, again.events, again.cursor), (first.state, first.revision, first.events, first.cursor));
    }
    assert_eq!(fixture.handler.load::<Counter>(TENANT, ID).await.unwrap().revision, 4);
}

#[tokio::test]
async fn another_request_under_a_used_key_is_refused_and_another_principal_has_its_own_keys() {
    let fixture = Fixture::new().await;
    fixture.ask("k", Count::Grow(1)).await.unwrap();
    let error = fixture.ask("k", Count::Grow(2)).await.unwrap_err();
    assert_eq!((error.code(), error.field()), (Some("idempotency_key_reused"), Some("idempotencyKey")));
    let other = fixture.ask_as(member(2), "k", None, Count::Grow(2)).await.unwrap();
    assert_eq!((other.replayed, other.state.value), (false, 3));
}

#[tokio::test]
async fn keys_are_forgotten_beyond_the_window() {
    let fixture = Fixture::new().await;
    fixture.ask("old", Count::Grow(1)).await.unwrap();
    for _ in 0..IDEMPOTENCY_WINDOW_RECORDS - 1 {
        fixture.ask("", Count::Grow(0)).await.unwrap();
    }
    assert!(fixture.ask("old", Count::Grow(1)).await.unwrap().replayed);
    fixture.ask("", Count::Grow(0)).await.unwrap();
    assert!(!fixture.ask("old", Count::Grow(1)).await.unwrap().replayed);
}

#[tokio::test]
async fn of_a_long_stream_only_what_is_new_is_read() {
    use sea_orm::ConnectionTrait;

    let fixture = Fixture::new().await;
    for _ in 0..LONG {
        fixture.ask("", Count::Grow(1)).await.unwrap();
    }
    let grown = fixture.ask("grow", Count::GrowTwice(5)).await.unwrap();
    let replica = fixture.replica();
    let load = async |handler: &Handler| {
        let loaded = handler.load::<Counter>(TENANT, ID).await.unwrap();
        (loaded.state.value, loaded.revision)
    };
    assert_eq!((load(&fixture.handler).await, load(&replica).await), ((110, 102), (110, 102)));
    // Both see what the other one appends, and who retries at either gets the same answer.
    replica.handle::<Counter>(&member(1), Question::new("count", "Counter", ID), ID, Options::default(), Count::Grow(7)).await.unwrap();
    assert_eq!(load(&fixture.handler).await, (117, 103));
    fixture.ask("", Count::Grow(3)).await.unwrap();
    let options = Options { idempotency_key: Some("grow".parse().unwrap()), ..Options::default() };
    let again =
        replica.handle::<Counter>(&member(1), Question::new("count", "Counter", ID), ID, options, Count::GrowTwice(5)).await.unwrap();
    assert_eq!((again.replayed, again.state, again.revision, again.events), (true, grown.state, grown.revision, grown.events));

    // What is behind it is not read again.
    fixture.database.write().execute_unprepared("DELETE FROM records WHERE revision <= 102").await.unwrap();
    assert_eq!((load(&fixture.handler).await, load(&replica).await), ((120, 104), (120, 104)));
    // But what is erased is forgotten here too.
    fixture.keyring.erase(TENANT).await.unwrap();
    assert!(fixture.handler.load::<Counter>(TENANT, ID).await.is_err());
}

#[tokio::test]
async fn the_end_of_a_stream_is_looked_at_without_reading_what_is_before_it() {
    use sea_orm::ConnectionTrait;

    let fixture = Fixture::new().await;
    fixture.ask("", Count::GrowThrice(1)).await.unwrap();
    // Whoever read these would fail.
    fixture.database.write().execute_unprepared("UPDATE records SET sealed = x'00' WHERE revision <= 3").await.unwrap();
    assert!(fixture.handler.is_at::<Counter>(TENANT, ID, 3).await.unwrap());

    let other = Fixture::new().await;
    other.ask("", Count::Grow(1)).await.unwrap();
    other.ask("", Count::Grow(1)).await.unwrap();
    assert!(!other.handler.is_at::<Counter>(TENANT, ID, 1).await.unwrap());
    assert!(other.handler.is_at::<Counter>(TENANT, ID, 2).await.unwrap());
    other.keyring.erase(TENANT).await.unwrap();
    assert!(other.handler.is_at::<Counter>(TENANT, ID, 2).await.is_err());
}

#[tokio::test]
async fn ids_of_a_command_come_from_its_key() {
    let (one, two) = (Fixture::new().await, Fixture::new().await);
    let with_key = one.handler.ids(&member(1), Some(&"k".parse().unwrap()), "stream").await.unwrap();
    one.clock.advance(Duration::from_secs(5));
    let again = one.handler.ids(&member(1), Some(&"k".parse().unwrap()), "stream").await.unwrap();
    let id = |ids: &Arc<dyn Ids>, fixture: &Fixture| new_id::<ProjectId>(&**ids, fixture.clock.now());
    assert_eq!(id(&with_key, &one), id(&again, &one));
    let elsewhere = two.handler.ids(&member(1), Some(&"k".parse().unwrap()), "stream").await.unwrap();
    let first = one.handler.ids(&member(1), Some(&"k".parse().unwrap()), "stream").await.unwrap();
    assert_ne!(id(&first, &one), id(&elsewhere, &two), "ids are keyed by the tenant's own index key");
}

#[tokio::test]
async fn a_stale_expectation_is_refused_and_a_right_one_is_not() {
    let fixture = Fixture::new().await;
    fixture.ask("", Count::Grow(1)).await.unwrap();
    let error = fixture.ask_as(member(1), "", Some(0), Count::Grow(1)).await.unwrap_err();
    assert!(matches!(error, CommandError::WrongRevision { expected: 0, actual: 1 }));
    assert_eq!(fixture.ask_as(member(1), "", Some(1), Count::Grow(1)).await.unwrap().revision, 2);
}

#[tokio::test]
async fn who_may_not_learns_nothing_and_leaves_nothing() {
    let fixture = Fixture::new().await;
    fixture.ask("k", Count::Grow(1)).await.unwrap();
    let options = Options { idempotency_key: Some("k".parse().unwrap()), expected_revision: Some(99), ..Options::default() };
    let question = |_: &Counter| Question::new("forbidden", "Counter", ID);
    let error = fixture.handler.handle_with(&member(1), question, ID, options, Count::Grow(2)).await.unwrap_err();
    assert_eq!(error.code(), Some("forbidden"));
    assert_eq!(fixture.handler.load::<Counter>(TENANT, ID).await.unwrap().revision, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_that_meet_are_decided_again() {
    let fixture = Fixture::new().await;
    let asked = (0..6).map(|n| fixture.ask_as(member(n), "", None, Count::GrowThrice(1)));
    let outcomes = futures::future::join_all(asked).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let loaded = fixture.handler.load::<Counter>(TENANT, ID).await.unwrap();
    assert_eq!((loaded.state.value, loaded.revision), (18, 18));
    assert!(fixture.ask("", Count::Nothing).await.unwrap().events.is_empty());
}

#[tokio::test]
async fn time_does_not_go_back_in_a_stream() {
    let fixture = Fixture::new().await;
    fixture.ask("", Count::Grow(1)).await.unwrap();
    fixture.clock.set(fixture.clock.now().minus(Duration::from_secs(60)));
    fixture.ask("", Count::Grow(1)).await.unwrap();
    let stored = fixture.handler.store().read_stream(TENANT, &StreamId::of(ID), 0, 10).await.unwrap();
    assert!(stored[0].record.envelope().time <= stored[1].record.envelope().time);
}

#[test]
fn idempotency_keys_are_plain() {
    assert!("7b0c-α".parse::<IdempotencyKey>().is_err());
    for bad in ["", "a b", "a\n", &"x".repeat(129)] {
        assert!(bad.parse::<IdempotencyKey>().is_err(), "{bad:?}");
    }
    assert!("7b0c6f".parse::<IdempotencyKey>().is_ok());
}
