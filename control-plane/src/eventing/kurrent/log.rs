//! Sealed records as events of KurrentDB.
//!
//! A stream is called `<namespace>-<tenant>-<stream>`; revision n of ours is n − 1 of theirs. An event has our event's id, the
//! sealed bytes as its data, and what finds and opens them as its metadata: ids only.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use eventstore::{
    BatchAppendClient, BatchAppendOptions, Client, EventData, Position, ReadAllOptions, ReadStream, ReadStreamOptions, RecordedEvent,
    StreamPosition, StreamState, SubscribeToAllOptions, SubscriptionFilter,
};
use schema::{
    event::StreamId,
    id::{DataKeyId, EventId, TenantId},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    super::{
        sealed::SealedRecord,
        store::{AppendError, Appended, Cause, Cursor, ReadError},
    },
    connection::{CallError, Connected, Connection, KurrentSettings, within},
};
use crate::sealing::SealingError;

/// So many appends are under way at once. Each has a lane of its own, a request that stays open, because the client closes a
/// whole lane when one append on it is refused; and a server allows a hundred requests a connection.
const LANES: usize = 48;
/// How often an append whose outcome is unknown is looked for and, when it is not there, made again.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

const EVENT_TYPE: &str = "freehold.record.v1";

/// What is read of an event besides its data. Everything here is also in the name of the stream, but the data key.
#[derive(Serialize, Deserialize)]
struct Metadata {
    tenant: TenantId,
    stream: StreamId,
    revision: u64,
    data_key: DataKeyId,
}

struct Lane {
    generation: u64,
    client: BatchAppendClient,
}

/// The log of a deployment in KurrentDB, sealed as it is. Positions, not indexes.
pub struct Log {
    pub(super) connection: Connection,
    permits: Semaphore,
    lanes: Mutex<Vec<Lane>>,
}

/// Where events of an append stand.
enum Standing {
    /// There, all of them.
    Kept(Appended),
    /// Not there; the stream has this revision.
    Not(u64),
}

impl Log {
    /// Where settings say. This connects nothing yet.
    pub fn new(settings: KurrentSettings) -> Self {
        Self { connection: Connection::new(settings), permits: Semaphore::new(LANES), lanes: Mutex::new(Vec::new()) }
    }

    /// Waits for appends that are under way; later ones are refused.
    pub(super) async fn close(&self) {
        let all = u32::try_from(LANES).unwrap_or(u32::MAX);
        if let Ok(all) = self.permits.acquire_many(all).await {
            self.permits.close();
            drop(all);
        }
    }

    fn namespace(&self) -> &str {
        self.connection.settings().namespace()
    }

    fn stream_name(&self, tenant: TenantId, stream: &StreamId) -> String {
        format!("{}-{tenant}-{stream}", self.namespace())
    }

    /// How the names of our streams begin; of one tenant or of all.
    fn prefix(&self, tenant: Option<TenantId>) -> String {
        match tenant {
            Some(tenant) => format!("{}-{tenant}-", self.namespace()),
            None => format!("{}-{}_", self.namespace(), TenantId::PREFIX),
        }
    }

    /// Appends consecutive records of one stream, all or none. Says no only when it is certain.
    pub async fn append(&self, expected: u64, records: &[SealedRecord]) -> Result<Appended, AppendError> {
        let Some(first) = records.first() else {
            return Err(AppendError::Unavailable { unknown: false, source: "there is nothing to append".into() });
        };
        let closed = |_| AppendError::Unavailable { unknown: false, source: "the event store is closed".into() };
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let name = self.stream_name(first.tenant, &first.stream);
        let mut under_way = false;
        let mut last: Option<Cause> = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(PAUSE * attempt).await;
            }
            let error = match self.try_append(&name, expected, records).await {
                Ok(Some(appended)) => return Ok(appended),
                // Kept before, by an append whose answer was lost: the server does not say where.
                Ok(None) => None,
                Err(error) => Some(error),
            };
            let refused = error.as_ref().is_some_and(CallError::is_refusal);
            under_way |= error.as_ref().is_none_or(|error| !error.is_refusal() && !error.is_before_sending());
            if let Some(error) = &error {
                tracing::debug!(error = %error, stream = %name, "an append was not answered; looking for it");
            }
            match self.standing(&name, expected, records).await {
                Ok(Standing::Kept(appended)) => return Ok(appended),
                Ok(Standing::Not(actual)) if actual != expected => {
                    return Err(AppendError::WrongRevision { stream: first.stream.clone(), expected, actual });
                }
                // Neither there nor impossible. Made again it has the same ids and the same expectation: of the two, one at
                // most is kept, and the other is answered with it.
                Ok(Standing::Not(_)) => {
                    if refused && !under_way {
                        let source = error.map_or_else(|| "the server refused it".into(), CallError::into_cause);
                        return Err(AppendError::Unavailable { unknown: false, source });
                    }
                    last = error.map(CallError::into_cause);
                }
                Err(error) => last = Some(error.into_cause()),
            }
        }
        let source = last.unwrap_or_else(|| "the server does not say what became of it".into());
        Err(AppendError::Unavailable { unknown: under_way, source })
    }

    /// One attempt; none when the server has the very events already and does not say where.
    async fn try_append(&self, name: &str, expected: u64, records: &[SealedRecord]) -> Result<Option<Appended>, CallError> {
        let mut events = Vec::with_capacity(records.len());
        for record in records {
            events.push(event(record)?);
        }
        let state = match expected {
            0 => StreamState::NoStream,
            revision => StreamState::StreamRevision(revision - 1),
        };
        let lane = self.lane().await?;
        match within(lane.client.append_to_stream(name, state, events)).await {
            Ok(written) => {
                self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
                let revision = expected + records.len() as u64;
                let cursor = written.current_position().map(|position| Cursor::at(position.commit));
                let whole = written.current_revision() == Some(revision - 1);
                Ok(cursor.filter(|_| whole).map(|cursor| Appended { revision, cursor }))
            }
            Err(error) => {
                self.connection.failed(lane.generation, &error);
                Err(error)
            }
        }
    }

    /// A lane that nobody uses.
    async fn lane(&self) -> Result<Lane, CallError> {
        let Connected { generation, client } = self.connection.connected()?;
        {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.retain(|lane| lane.generation == generation);
            if let Some(lane) = lanes.pop() {
                return Ok(lane);
            }
        }
        let mut options = BatchAppendOptions::default();
        if let Some(credentials) = self.connection.credentials() {
            options = options.authenticated(credentials);
        }
        match within(client.batch_append(&options)).await {
            Ok(client) => Ok(Lane { generation, client }),
            Err(error) => {
                self.connection.failed(generation, &error);
                Err(error)
            }
        }
    }

    async fn standing(&self, name: &str, expected: u64, records: &[SealedRecord]) -> Result<Standing, CallError> {
        let found = self.stream_events(name, StreamPosition::Position(expected), records.len()).await?;
        let same = found.len() == records.len()
            && found.iter().zip(records).all(|(event, record)| event.id.as_u128() == record.event.bits())
            && found.first().is_some_and(|event| event.revision == expected);
        if same && let Some(event) = found.last() {
            return Ok(Standing::Kept(Appended { revision: event.revision + 1, cursor: Cursor::at(event.position.commit) }));
        }
        let last = self.stream_events(name, StreamPosition::End, 1).await?;
        Ok(Standing::Not(last.first().map_or(0, |event| event.revision + 1)))
    }

    /// The records of a stream beyond a revision.
    pub(super) async fn stream(
        &self,
        tenant: TenantId,
        stream: &StreamId,
        after_revision: u64,
        limit: usize,
    ) -> Result<Vec<SealedRecord>, ReadError> {
        let name = self.stream_name(tenant, stream);
        let events = self.stream_events(&name, StreamPosition::Position(after_revision), limit).await;
        self.records(events.map_err(unavailable("reading a stream"))?)
    }

    /// The records of one tenant or of all from this position on, in order.
    pub(super) async fn all(&self, tenant: Option<TenantId>, from: Cursor, limit: usize) -> Result<Vec<SealedRecord>, ReadError> {
        let position = match from {
            Cursor::START => StreamPosition::Start,
            cursor => StreamPosition::Position(position(cursor)),
        };
        let events = self.all_events(tenant, position, limit).await;
        let mut records = self.records(events.map_err(unavailable("reading the log"))?)?;
        records.retain(|record| record.cursor >= from);
        Ok(records)
    }

    /// The records of all tenants beyond a cursor.
    pub async fn after(&self, after: Cursor, limit: usize) -> Result<Vec<SealedRecord>, ReadError> {
        // The server begins with the position that it is given.
        let mut records = self.all(None, after, limit.saturating_add(1)).await?;
        records.retain(|record| record.cursor > after);
        records.truncate(limit);
        Ok(records)
    }

    /// The place of the last record.
    pub async fn head(&self) -> Result<Cursor, ReadError> {
        let last = self.all_events(None, StreamPosition::End, 1).await.map_err(unavailable("reading the head of the log"))?;
        Ok(last.first().map_or(Cursor::START, |event| Cursor::at(event.position.commit)))
    }

    /// What a subscription to everything beyond a cursor asks for.
    pub(super) fn subscription(&self, after: Cursor) -> SubscribeToAllOptions {
        let from = match after {
            Cursor::START => StreamPosition::Start,
            cursor => StreamPosition::Position(position(cursor)),
        };
        let options = SubscribeToAllOptions::default().position(from).filter(self.filter(None));
        match self.connection.credentials() {
            Some(credentials) => options.authenticated(credentials),
            None => options,
        }
    }

    fn filter(&self, tenant: Option<TenantId>) -> SubscriptionFilter {
        SubscriptionFilter::on_stream_name().add_prefix(self.prefix(tenant))
    }

    async fn stream_events(&self, name: &str, from: StreamPosition<u64>, limit: usize) -> Result<Vec<RecordedEvent>, CallError> {
        let mut options = ReadStreamOptions::default().position(from).max_count(limit);
        if let Some(credentials) = self.connection.credentials() {
            options = options.authenticated(credentials);
        }
        let call = |client: Client| {
            let (options, name) = (options.clone(), name.to_owned());
            async move { collect(within(client.read_stream(name, &options)).await?).await }
        };
        match self.connection.read(call).await {
            Err(CallError::Client(eventstore::Error::ResourceNotFound)) => Ok(Vec::new()),
            other => other,
        }
    }

    async fn all_events(
        &self,
        tenant: Option<TenantId>,
        from: StreamPosition<Position>,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, CallError> {
        let mut options = ReadAllOptions::default().position(from).filter(self.filter(tenant)).max_count(limit);
        if let Some(credentials) = self.connection.credentials() {
            options = options.authenticated(credentials);
        }
        let call = |client: Client| {
            let options = options.clone();
            async move { collect(within(client.read_all(&options)).await?).await }
        };
        self.connection.read(call).await
    }

    fn records(&self, events: Vec<RecordedEvent>) -> Result<Vec<SealedRecord>, ReadError> {
        events.into_iter().map(|event| self.record(event)).collect()
    }

    /// An event as a record. Its place is where it stands, not what its metadata says: moved elsewhere it does not open.
    fn record(&self, event: RecordedEvent) -> Result<SealedRecord, ReadError> {
        let place = || format!("{} revision {}", event.stream_id(), event.revision + 1);
        let foreign = || ReadError::Sealing { place: place(), source: SealingError::DoesNotOpen };
        let rest = event.stream_id().strip_prefix(self.namespace()).and_then(|rest| rest.strip_prefix('-'));
        let (tenant, stream) = rest.and_then(|rest| rest.split_once('-')).ok_or_else(foreign)?;
        let metadata: Metadata = serde_json::from_slice(&event.custom_metadata).map_err(|_| foreign())?;
        Ok(SealedRecord {
            cursor: Cursor::at(event.position.commit),
            tenant: tenant.parse().map_err(|_| foreign())?,
            stream: stream.parse().map_err(|source| ReadError::Damaged { place: place(), source })?,
            revision: event.revision + 1,
            event: EventId::from_bits(event.id.as_u128()),
            data_key: metadata.data_key,
            sealed: event.data.to_vec(),
        })
    }
}

fn event(record: &SealedRecord) -> Result<EventData, CallError> {
    let metadata = Metadata { tenant: record.tenant, stream: record.stream.clone(), revision: record.revision, data_key: record.data_key };
    EventData::binary(EVENT_TYPE, record.sealed.clone().into())
        .id(Uuid::from_u128(record.event.bits()))
        .metadata_as_json(&metadata)
        .map_err(|error| CallError::Settings(error.to_string()))
}

fn position(cursor: Cursor) -> Position {
    Position { commit: cursor.position(), prepare: cursor.position() }
}

async fn collect(mut stream: ReadStream) -> Result<Vec<RecordedEvent>, CallError> {
    let mut events = Vec::new();
    while let Some(resolved) = within(stream.next()).await? {
        events.extend(resolved.event);
    }
    Ok(events)
}

fn unavailable(act: &'static str) -> impl FnOnce(CallError) -> ReadError {
    move |error| ReadError::Unavailable { act, source: error.into_cause() }
}
