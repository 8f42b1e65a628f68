//! Writes the read model: takes records in the order of the log, and moves its checkpoint in the transaction that writes
//! the rows. Any number of replicas may run one; the checkpoint's lock makes them take turns.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    marker::PhantomData,
    sync::Arc,
    time::Duration,
};

use schema::{
    clock::Timestamp,
    event::{Record, StreamId, UnknownEvent, lift},
    id::{DataKeyId, Id, TenantId},
};
use sea_orm::{ConnectionTrait, DbErr};
use service::telemetry::TARGET;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument as _;

use super::writing::{Ended, Rows, SERVED, Tables, Target, number};
use crate::{
    database::Database,
    eventing::{
        aggregate::{Aggregate, Index},
        handler::meta,
        reactor::behind,
        store::{Cursor, EventStore, ReadError, Stored},
    },
    sealing::{Keyring, Place, SealingError},
};

const BATCH: usize = 500;
const MAX_REMEMBERED: usize = 10_000;
const PAUSE_AFTER_FAULT: Duration = Duration::from_secs(1);

/// The kinds of aggregates that have a read model, by the prefix of their ids.
#[derive(Default, Clone)]
pub struct Kinds(BTreeMap<&'static str, Arc<dyn Kind>>);

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Kinds {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// This one too.
    #[must_use]
    pub fn register<A: Aggregate>(mut self) -> Self {
        self.0.insert(A::Id::PREFIX, Arc::new(KindOf::<A>(PhantomData)));
        self
    }

    /// The kind whose streams begin with this prefix.
    pub(super) fn of(&self, prefix: &str) -> Option<Arc<dyn Kind>> {
        self.0.get(prefix).cloned()
    }
}

/// An aggregate whose type is known at run time only. States travel as JSON.
pub(super) trait Kind: Send + Sync {
    fn name(&self) -> &'static str;
    fn evolve(&self, state: Option<&[u8]>, record: &Record) -> Result<(Vec<u8>, Index), ProjectError>;
    /// A stored state as this program writes it; none when it is not one of this kind.
    fn rewritten(&self, state: &[u8]) -> Option<Vec<u8>>;
}

struct KindOf<A>(PhantomData<fn() -> A>);

impl<A: Aggregate> Kind for KindOf<A> {
    fn name(&self) -> &'static str {
        A::KIND
    }

    fn evolve(&self, state: Option<&[u8]>, record: &Record) -> Result<(Vec<u8>, Index), ProjectError> {
        let unreadable = |source| ProjectError::State { kind: A::KIND, source };
        let mut state: A = state.map(serde_json::from_slice).transpose().map_err(unreadable)?.unwrap_or_default();
        let envelope = record.envelope();
        state.evolve(&lift(envelope)?, &meta(envelope));
        Ok((serde_json::to_vec(&state).map_err(unreadable)?, state.index()))
    }

    fn rewritten(&self, state: &[u8]) -> Option<Vec<u8>> {
        serde_json::to_vec(&serde_json::from_slice::<A>(state).ok()?).ok()
    }
}

/// Why the read model does not move on.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// The log could not be read.
    #[error("reading the log for the read model failed")]
    Read(#[from] ReadError),
    /// A record holds an event this program does not know.
    #[error("the read model met an event it cannot read")]
    Event(#[from] UnknownEvent),
    /// A state is not what it was written as; rebuild the read model.
    #[error("a {kind} of the read model is not readable as one; rebuild the read model")]
    State {
        /// The kind.
        kind: &'static str,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// A revision is missing.
    #[error("the read model has revision {has} of {stream} and met revision {met}; rebuild the read model")]
    Gap {
        /// The stream.
        stream: StreamId,
        /// What there is.
        has: u64,
        /// What came.
        met: u64,
    },
    /// A row does not open.
    #[error("sealing or opening a row of the read model failed")]
    Sealing(#[from] SealingError),
    /// The database could not be asked.
    #[error("writing the read model failed")]
    Database(#[from] DbErr),
}

/// The newest row of a stream.
#[derive(Clone)]
struct Latest {
    state: Vec<u8>,
    revision: u64,
    valid_from: Timestamp,
}

struct NewRow {
    tenant: TenantId,
    kind: &'static str,
    stream: StreamId,
    revision: u64,
    cursor: Cursor,
    valid_from: Timestamp,
    valid_to: Option<Timestamp>,
    index: Index,
    state: Vec<u8>,
}

/// A batch on its way to the database, and where the copy stands after it.
struct Writing {
    task: AbortOnDropHandle<Result<bool, ProjectError>>,
    upto: Cursor,
}

/// Writes the read model. One per process.
pub struct Projector {
    target: Target,
    keyring: Arc<Keyring>,
    store: Arc<dyn EventStore>,
    kinds: Kinds,
    reached: watch::Sender<Cursor>,
    /// The checkpoint after our last batch, and rows that are the newest while it stays there.
    position: Option<Cursor>,
    /// Which copy those rows are of.
    copy: Option<i64>,
    latest: HashMap<(TenantId, StreamId), Latest>,
    /// The batch on its way to the database.
    writing: Option<Writing>,
    /// The head of the log, as it was known when we last had to wait.
    head: Cursor,
}

impl Projector {
    pub(super) fn new(
        database: Database,
        keyring: Arc<Keyring>,
        store: Arc<dyn EventStore>,
        kinds: Kinds,
        reached: watch::Sender<Cursor>,
    ) -> Self {
        Self {
            target: Target { database, tables: SERVED },
            keyring,
            store,
            kinds,
            reached,
            position: None,
            copy: None,
            latest: HashMap::new(),
            writing: None,
            head: Cursor::START,
        }
    }

    /// One that writes another copy, of which nobody is told.
    pub(super) fn of_copy(&self, tables: Tables) -> Self {
        let Self { target: Target { database, .. }, keyring, store, kinds, .. } = self;
        let reached = watch::Sender::new(Cursor::START);
        let mut copy = Self::new(database.clone(), keyring.clone(), store.clone(), kinds.clone(), reached);
        copy.target.tables = tables;
        copy
    }

    pub(super) fn database(&self) -> &Database {
        &self.target.database
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The kind whose streams begin with this prefix.
    pub(super) fn kind(&self, prefix: &str) -> Option<Arc<dyn Kind>> {
        self.kinds.of(prefix)
    }

    pub(super) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Projects what comes, until told to stop. A fault is logged and tried again: the rest of the log waits.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut after = Cursor::START;
        loop {
            let step = async {
                self.head = self.store.follow(after).await?;
                self.catch_up().await
            };
            let outcome = tokio::select! {
                outcome = step => outcome,
                () = stop.cancelled() => return,
            };
            match outcome {
                Ok(cursor) => after = cursor,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the read model does not move on");
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE_AFTER_FAULT) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// Projects everything there is now.
    pub async fn catch_up(&mut self) -> Result<Cursor, ProjectError> {
        loop {
            if let Some(cursor) = self.step(None).await? {
                return Ok(cursor);
            }
        }
    }

    /// Projects up to a place in the log and not beyond it.
    pub(super) async fn catch_up_to(&mut self, end: Cursor) -> Result<Cursor, ProjectError> {
        loop {
            if let Some(cursor) = self.step(Some(end)).await? {
                return Ok(cursor);
            }
        }
    }

    /// Rows were replaced: what is remembered of them is of no use.
    pub(super) fn forget(&mut self) {
        (self.position, self.copy, self.writing) = (None, None, None);
        self.latest.clear();
    }

    /// One batch, which is written while the next one is computed; the checkpoint, when there is nothing beyond it, or nothing before the end.
    async fn step(&mut self, end: Option<Cursor>) -> Result<Option<Cursor>, ProjectError> {
        let position = match self.position {
            Some(position) => position,
            None => {
                self.copy = Some(self.target.copies(self.target.database.read()).await?);
                self.checkpoint().await?
            }
        };
        let mut batch = self.store.read_all(position, BATCH).await?;
        if let Some(end) = end.filter(|end| *end < batch.upto) {
            batch.records.retain(|stored| stored.cursor <= end);
            batch.upto = end.max(position);
        }
        if batch.upto == position {
            if !self.settle().await? {
                return Ok(None);
            }
            // Another replica may have come further.
            let reached = self.checkpoint().await?;
            self.announce(reached);
            if reached != position {
                self.forget();
                return Ok(None);
            }
            return Ok(Some(position));
        }
        if self.latest.len() > MAX_REMEMBERED {
            if !self.settle().await? {
                return Ok(None);
            }
            self.latest.clear();
        }
        let span = tracing::info_span!(
            target: TARGET, "project", otel.name = "project read_model", otel.kind = "consumer",
            messaging.batch.message_count = batch.records.len()
        );
        let rows = self.rows(&batch.records).instrument(span.clone()).await;
        if !self.settle().await? {
            return Ok(None);
        }
        let rows = rows.inspect_err(|_| self.forget())?;
        let write = self.target.clone().write((position, self.copy), rows, batch.upto).instrument(span);
        self.writing = Some(Writing { task: AbortOnDropHandle::new(tokio::spawn(write)), upto: batch.upto });
        self.position = Some(batch.upto);
        Ok(None)
    }

    /// Waits for the batch that is being written. False when another replica was first: what is remembered was forgotten.
    async fn settle(&mut self) -> Result<bool, ProjectError> {
        let Some(Writing { task, upto }) = self.writing.take() else { return Ok(true) };
        let written = match task.await {
            Ok(written) => written,
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            // The process ends.
            Err(_) => Ok(false),
        };
        if let Ok(true) = written {
            behind("read_model", self.head, upto);
            self.announce(upto);
        } else {
            self.forget();
        }
        written
    }

    /// Computes the rows of a batch. What is asked of the database is of streams that no batch on its way to it has changed: those are
    /// remembered.
    async fn rows(&mut self, records: &[Stored]) -> Result<Rows, ProjectError> {
        let mut new: Vec<NewRow> = Vec::with_capacity(records.len());
        let mut ended = Vec::new();
        let mut newest: HashMap<(TenantId, StreamId), usize> = HashMap::new();
        for stored in records {
            let envelope = stored.record.envelope();
            let Some(kind) = self.kinds.of(envelope.stream.prefix()) else { continue };
            let key = (envelope.tenant, envelope.stream.clone());
            let before = match self.latest.get(&key) {
                Some(latest) => Some(latest.clone()),
                // A stream begins: there is nothing to ask the database for.
                None if envelope.revision == 1 => None,
                None => self.load(envelope.tenant, kind.name(), &envelope.stream).await?,
            };
            let has = before.as_ref().map_or(0, |latest| latest.revision);
            if envelope.revision != has + 1 {
                return Err(ProjectError::Gap { stream: envelope.stream.clone(), has, met: envelope.revision });
            }
            let valid_from = before.as_ref().map_or(envelope.time, |latest| latest.valid_from.max(envelope.time));
            match newest.get(&key) {
                Some(row) => new[*row].valid_to = Some(valid_from),
                None if has > 0 => {
                    let (tenant, kind, stream) = (envelope.tenant, kind.name(), envelope.stream.clone());
                    ended.push(Ended { tenant, kind, stream, revision: has, at: valid_from });
                }
                None => {}
            }
            let (state, index) = kind.evolve(before.as_ref().map(|latest| latest.state.as_slice()), &stored.record)?;
            self.latest.insert(key.clone(), Latest { state: state.clone(), revision: envelope.revision, valid_from });
            newest.insert(key, new.len());
            new.push(NewRow {
                tenant: envelope.tenant,
                kind: kind.name(),
                stream: envelope.stream.clone(),
                revision: envelope.revision,
                cursor: stored.cursor,
                valid_from,
                valid_to: None,
                index,
                state,
            });
        }
        let mut rows = Rows { ended, ..Rows::default() };
        for row in new {
            self.columns(row, &mut rows).await?;
        }
        Ok(rows)
    }

    /// A row as columns.
    async fn columns(&self, row: NewRow, rows: &mut Rows) -> Result<(), ProjectError> {
        let keys = self.keyring.tenant(row.tenant).await?;
        let (tenant, id) = (row.tenant.to_string(), row.stream.as_str().to_owned());
        let state = super::personal::sealed(&self.keyring, row.tenant, row.kind, row.state).await?;
        let sealed = keys.seal(Place::View { kind: row.kind, id: &id, revision: row.revision }, &state)?;
        let parent = row.index.parent.as_deref().map(|parent| keys.blind("views.parent", &[row.kind, parent]));
        let name = row.index.name.as_deref().map(|name| keys.blind("views.name", &[row.kind, name]));
        rows.views.push(vec![
            tenant.clone().into(),
            row.kind.into(),
            id.clone().into(),
            number(row.revision).into(),
            number(row.cursor.position()).into(),
            row.valid_from.micros().into(),
            row.valid_to.map(Timestamp::micros).into(),
            parent.into(),
            name.into(),
            row.index.state.into(),
            sealed.data_key.to_string().into(),
            sealed.bytes.into(),
        ]);
        let blinded: BTreeSet<_> =
            row.index.terms.iter().map(|(term, value)| keys.blind("view_terms.term", &[row.kind, term, value])).collect();
        for term in blinded {
            rows.terms.push(vec![tenant.clone().into(), row.kind.into(), term.into(), id.clone().into(), number(row.revision).into()]);
        }
        for handle in row.index.handles {
            rows.handles.push(vec![handle.to_string().into(), tenant.clone().into(), row.kind.into(), id.clone().into()]);
        }
        Ok(())
    }

    async fn load(&self, tenant: TenantId, kind: &'static str, stream: &StreamId) -> Result<Option<Latest>, ProjectError> {
        let Target { database, tables } = &self.target;
        let views = tables.views;
        let sql = format!(
            "SELECT revision, valid_from, data_key, sealed FROM {views} WHERE tenant = $1 AND kind = $2 AND id = $3 AND valid_to IS NULL"
        );
        let values = vec![tenant.to_string().into(), kind.into(), stream.as_str().into()];
        let Some(row) = database.read().query_one_raw(database.sql(sql, values)).await? else { return Ok(None) };
        let (revision, valid_from): (i64, i64) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        let data_key: String = row.try_get_by_index(2)?;
        let data_key: DataKeyId = data_key.parse().map_err(|_| SealingError::DoesNotOpen)?;
        let sealed: Vec<u8> = row.try_get_by_index(3)?;
        let place = Place::View { kind, id: stream.as_str(), revision: revision.unsigned_abs() };
        let state = self.keyring.open_sealed(tenant, place, data_key, &sealed).await?;
        let unreadable = |source| ProjectError::State { kind, source };
        let state = super::personal::opened(&self.keyring, tenant, &state).await?.map_or(Ok(state), |opened| serde_json::to_vec(&opened));
        let state = state.map_err(unreadable)?;
        Ok(Some(Latest { state, revision: revision.unsigned_abs(), valid_from: Timestamp::from_micros(valid_from) }))
    }

    fn announce(&self, reached: Cursor) {
        self.reached.send_if_modified(|known| {
            let moved = *known != reached;
            *known = reached;
            moved
        });
    }

    pub(super) async fn checkpoint(&self) -> Result<Cursor, DbErr> {
        super::query::checkpoint(&self.target.database, self.target.tables.checkpoint).await
    }
}
