//! An open store, and an aggregate to put into it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use control_plane::{
    database::{Access, Database, Location, OpenError},
    eventing::{
        aggregate::{Aggregate, Deciding, EventMeta, Index, Refusal},
        kurrent::KurrentStore,
        sql::SqlStore,
        store::{Append, EventStore},
        view::{Kinds, Projector, Views},
    },
    sealing::{Keyring, SealingKey, source::Sources},
};
use freehold_tests::database::{Engine, KurrentPlace, TestDatabase};
use schema::{
    clock::{Clock, Ids, ManualClock, SystemIds, Timestamp, new_id},
    event::{Envelope, Event, RECORD_VERSION, Record, StreamId},
    events,
    id::{EventId, ProjectId, TenantId},
};
use serde::{Deserialize, Serialize};

events! {
    /// What happens to a thing.
    ThingEvent {
        /// It got a name and a place.
        ThingNamed 1 { name: String, place: String },
        /// It got another state.
        ThingMoved 1 { to: String, label: String },
    }
}

/// An aggregate of these tests. Its ids are those of projects.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Thing {
    pub(crate) name: String,
    pub(crate) place: String,
    pub(crate) state: String,
    pub(crate) label: String,
}

#[derive(Debug, thiserror::Error)]
#[error("no")]
pub(crate) struct Never;

impl Refusal for Never {
    fn code(&self) -> &'static str {
        "never"
    }
}

impl Aggregate for Thing {
    type Id = ProjectId;
    type Command = ();
    type Event = ThingEvent;
    type Refusal = Never;
    const KIND: &'static str = "thing";

    fn decide(&self, (): &(), _: &Deciding<'_>) -> Result<Vec<ThingEvent>, Never> {
        Err(Never)
    }

    fn evolve(&mut self, event: &ThingEvent, _: &EventMeta) {
        match event {
            ThingEvent::ThingNamed(event) => {
                (self.name, self.place) = (event.name.clone(), event.place.clone());
                self.state = "new".to_owned();
            }
            ThingEvent::ThingMoved(event) => (self.state, self.label) = (event.to.clone(), event.label.clone()),
        }
    }

    fn index(&self) -> Index {
        Index {
            parent: Some(self.place.clone()),
            name: Some(self.name.clone()),
            state: Some(self.state.clone()),
            terms: vec![
                ("label".to_owned(), self.label.clone()),
                ("twice".to_owned(), "1".to_owned()),
                ("twice".to_owned(), "1".to_owned()),
            ],
            ..Index::default()
        }
    }
}

pub(crate) fn named(name: &str, place: &str) -> ThingEvent {
    ThingNamed { name: name.to_owned(), place: place.to_owned() }.into()
}

pub(crate) fn moved(to: &str, label: &str) -> ThingEvent {
    ThingMoved { to: to.to_owned(), label: label.to_owned() }.into()
}

pub(crate) const TENANT: TenantId = TenantId::from_bits(0xA11CE);
pub(crate) const OTHER: TenantId = TenantId::from_bits(0xB0B);

pub(crate) fn sealing_key() -> SealingKey {
    SealingKey::from_bytes([0x5E; 32])
}

/// One control plane's storage.
pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) engine: Engine,
    pub(crate) clock: ManualClock,
}

impl World {
    /// On an empty database.
    pub(crate) async fn new(engine: Engine) -> (TestDatabase, Self) {
        let files = TestDatabase::new(engine).unwrap();
        let world = Self::open(&files).await;
        (files, world)
    }

    /// On what is there; another replica, where the engine has several.
    pub(crate) async fn open(files: &TestDatabase) -> Self {
        Self::with(&files.location, &files.access(), files.kurrent()).await
    }

    pub(crate) async fn at(location: &Location, kurrent: Option<&KurrentPlace>) -> Self {
        Self::with(location, &Access::default(), kurrent).await
    }

    pub(crate) async fn with(location: &Location, access: &Access, kurrent: Option<&KurrentPlace>) -> Self {
        Self::opened_with(location, access, kurrent, None).await
    }

    /// With the sealing key from these sources, or one of its own.
    pub(crate) async fn opened(location: &Location, kurrent: Option<&KurrentPlace>, sources: Option<Sources>) -> Self {
        Self::opened_with(location, &Access::default(), kurrent, sources).await
    }

    async fn opened_with(location: &Location, access: &Access, kurrent: Option<&KurrentPlace>, sources: Option<Sources>) -> Self {
        // A replica beside a process that has the lock of a SQLite file is another connection to it.
        let database = match Database::open_with(location, access).await {
            Err(OpenError::InUse { .. }) => Database::beside(location).await.unwrap(),
            opened => opened.unwrap(),
        };
        let clock = ManualClock::at(Timestamp::from_micros(1_767_225_600_000_000));
        let sources = sources.unwrap_or_else(|| Sources::held(sealing_key()));
        let keyring = Keyring::open_from(database.clone(), sources, Arc::new(clock.clone()), Arc::new(SystemIds)).await.unwrap();
        let keyring = Arc::new(keyring);
        let store: Arc<dyn EventStore> = match kurrent {
            Some(place) => Arc::new(KurrentStore::open(place.settings().unwrap(), database.clone(), Arc::clone(&keyring)).await.unwrap()),
            None => Arc::new(SqlStore::open(database.clone(), Arc::clone(&keyring)).await.unwrap()),
        };
        let engine = match (location, kurrent) {
            (_, Some(_)) => Engine::Kurrent,
            (Location::Sqlite(_), None) => Engine::Sqlite,
            (Location::Postgres(_), None) if access.roles.is_some() => Engine::PostgresRoles,
            (Location::Postgres(_), None) => Engine::Postgres,
        };
        Self { database, keyring, store, engine, clock }
    }

    pub(crate) fn views(&self) -> (Views, Projector) {
        let kinds = Kinds::new().register::<Thing>();
        Views::open(self.database.clone(), Arc::clone(&self.keyring), Arc::clone(&self.store), kinds)
    }

    /// Appends events of a thing, one second later each.
    pub(crate) async fn happen(&self, tenant: TenantId, id: ProjectId, expected: u64, events: &[ThingEvent]) {
        for (expected, event) in (expected..).zip(events) {
            self.clock.advance(std::time::Duration::from_secs(1));
            let records = vec![record(tenant, StreamId::of(id), expected + 1, event, self.clock.now())];
            self.store.append(Append { tenant, stream: StreamId::of(id), expected, records, blobs: vec![] }).await.unwrap();
        }
    }

    pub(crate) async fn close(self) {
        self.store.close().await;
        self.database.close().await.unwrap();
    }
}

pub(crate) fn record(tenant: TenantId, stream: StreamId, revision: u64, event: &ThingEvent, time: Timestamp) -> Record {
    let envelope = Envelope {
        v: RECORD_VERSION,
        id: new_id::<EventId>(&SystemIds, time),
        tenant,
        stream,
        revision,
        event_type: event.type_name().to_owned(),
        schema: 1,
        time,
        actor: "system:test".to_owned(),
        on_behalf_of: None,
        via: None,
        idempotency_key: None,
        request_mac: None,
        correlation: "req_00000000000000000000000001".to_owned(),
        causation: None,
        data: event.data().unwrap(),
    };
    Record::write(envelope).unwrap()
}

/// `count` records that follow `expected`.
pub(crate) fn append(tenant: TenantId, stream: &StreamId, expected: u64, count: usize, note: &str) -> Append {
    let time = Timestamp::from_micros(1_767_225_600_000_000);
    let records =
        (expected + 1..).take(count).map(|revision| record(tenant, stream.clone(), revision, &moved("there", note), time)).collect();
    Append { tenant, stream: stream.clone(), expected, records, blobs: vec![] }
}

/// A stream nobody has used.
pub(crate) fn fresh_stream() -> StreamId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bits = [0; 16];
    SystemIds.fill(&mut bits[..8]);
    bits[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    StreamId::of(ProjectId::from_bits(u128::from_be_bytes(bits)))
}
