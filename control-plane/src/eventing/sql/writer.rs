//! Group commit: one task takes what has gathered in the queue and commits it in one transaction.
//!
//! The transaction locks the head row, checks every writer's revision under the lock, refuses losers one by one, inserts
//! the rest in multi-row inserts, moves the head and commits. Revisions are remembered from one batch to the next for as
//! long as nobody else has moved the head in between.
//!
//! Where every revision is remembered and nobody loses, the head is moved on the condition that it still stands where we left
//! it, and nothing has to be asked before: on PostgreSQL one statement then does it all.

use std::{
    collections::HashMap,
    fmt::Write,
    time::{Duration, Instant},
};

use schema::{event::StreamId, id::TenantId};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Value};
use service::telemetry::TARGET;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;

use super::{
    super::store::{AppendError, Appended, Cursor},
    number,
};
use crate::database::{Database, room::is_full};

/// At most this many appends share a commit.
const MAX_REQUESTS: usize = 512;
/// How long to wait for as many appends as shared the last commit.
const GATHERING: Duration = Duration::from_micros(300);
/// Rows of one insert. Every size up to this is a prepared statement of its own, and drivers keep a hundred.
const MAX_INSERT_ROWS: usize = 64;
/// Revisions remembered.
const MAX_REMEMBERED: usize = 100_000;
/// How long to ask what became of a commit, before giving up.
const READ_BACK_ATTEMPTS: u32 = 40;
const READ_BACK_PAUSE: Duration = Duration::from_millis(250);
/// A file does not come back as a server does.
const READ_BACK_ATTEMPTS_OF_A_FILE: u32 = 3;

type Answer = oneshot::Sender<Result<Appended, AppendError>>;
type Stream = (TenantId, StreamId);

pub(super) struct Row {
    pub(super) event: String,
    pub(super) data_key: String,
    pub(super) sealed: Vec<u8>,
}

pub(super) enum Request {
    Append { tenant: TenantId, stream: StreamId, expected: u64, rows: Vec<Row>, answer: Answer },
    Close(oneshot::Sender<()>),
}

struct Pending {
    stream: Stream,
    expected: u64,
    rows: Vec<Row>,
    answer: Answer,
}

/// Where the first event of an append went, so that it can be found again.
struct Kept {
    stream: Stream,
    expected: u64,
    events: Vec<String>,
    appended: Appended,
    answer: Answer,
}

/// What came of a commit on the condition that the head stands where we left it.
enum AtHead {
    Done,
    /// Another process has moved it: nothing was done.
    Elsewhere,
    /// It failed before anything could be committed.
    NotDone(DbErr),
    /// It failed, and may have been done.
    Unknown(DbErr),
}

pub(super) struct Writer {
    database: Database,
    head: watch::Sender<Cursor>,
    /// The head after our last commit, and revisions that hold while it stays there.
    position: u64,
    revisions: HashMap<Stream, u64>,
    inserts: HashMap<usize, String>,
    conditional_inserts: HashMap<usize, String>,
}

impl Writer {
    pub(super) fn new(database: Database, head: watch::Sender<Cursor>) -> Self {
        Self { database, head, position: 0, revisions: HashMap::new(), inserts: HashMap::new(), conditional_inserts: HashMap::new() }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut requests = Vec::new();
        let mut before = 0;
        while queue.recv_many(&mut requests, MAX_REQUESTS).await > 0 {
            // Those whose answers we have just sent are about to come back with more: a commit is dear, so for a moment
            // we wait until there are as many as last time. One lone writer is never waited for.
            let since = Instant::now();
            while requests.len() < before && since.elapsed() < GATHERING {
                tokio::task::yield_now().await;
                while requests.len() < MAX_REQUESTS {
                    match queue.try_recv() {
                        Ok(request) => requests.push(request),
                        Err(_) => break,
                    }
                }
            }
            before = requests.len();
            let mut batch = Vec::with_capacity(requests.len());
            let mut closing = Vec::new();
            for request in requests.drain(..) {
                match request {
                    Request::Append { tenant, stream, expected, rows, answer } => {
                        batch.push(Pending { stream: (tenant, stream), expected, rows, answer })
                    }
                    Request::Close(done) => closing.push(done),
                }
            }
            if !batch.is_empty() {
                self.commit(batch).await;
            }
            if !closing.is_empty() {
                // What was queued behind is dropped with the queue: its writers are told that the store is closed.
                for done in closing {
                    let _ = done.send(());
                }
                return;
            }
        }
    }

    async fn commit(&mut self, batch: Vec<Pending>) {
        let (started, records) = (Instant::now(), batch.iter().map(|pending| pending.rows.len()).sum::<usize>());
        let span = tracing::info_span!(
            target: TARGET, "commit", otel.name = "COMMIT records", otel.kind = "client", freehold.appends = batch.len(),
            db.operation.batch.size = records
        );
        metrics::histogram!("freehold_store_commit_appends").record(batch.len() as f64);
        metrics::histogram!("freehold_store_commit_records").record(records as f64);
        self.commit_together(batch).instrument(span).await;
        metrics::histogram!("freehold_store_commit_seconds").record(started.elapsed().as_secs_f64());
    }

    async fn commit_together(&mut self, batch: Vec<Pending>) {
        let Some(batch) = self.commit_at_known_head(batch).await else { return };
        let mut kept = Vec::with_capacity(batch.len());
        let mut lost = Vec::new();
        match self.write(batch, &mut kept, &mut lost).await {
            Ok(Some(transaction)) => match transaction.commit().await {
                Ok(()) => self.acknowledge(kept),
                Err(error) => {
                    self.forget();
                    self.read_back(kept, &error).await;
                }
            },
            Ok(None) => {}
            Err(error) => {
                self.forget();
                tracing::warn!(error = %error, "appending a batch failed");
                for kept in kept {
                    self.refuse(kept.answer, false, &error);
                }
            }
        }
        for (pending, actual) in lost {
            let outcome = self.already_kept(&pending).await.unwrap_or(Err(AppendError::WrongRevision {
                stream: pending.stream.1,
                expected: pending.expected,
                actual,
            }));
            let _ = pending.answer.send(outcome);
        }
    }

    /// The whole commit, when it needs nothing that is not remembered. Gives the batch back when it does, or when another
    /// process has moved the head.
    async fn commit_at_known_head(&mut self, batch: Vec<Pending>) -> Option<Vec<Pending>> {
        let Some(ends) = self.ends(&batch) else { return Some(batch) };
        let rows: usize = batch.iter().map(|pending| pending.rows.len()).sum();
        let mut values = Vec::with_capacity(2 + rows * COLUMNS);
        values.extend([number(self.position + rows as u64).into(), number(self.position).into()]);
        let mut position = self.position;
        for pending in &batch {
            for (revision, row) in (pending.expected + 1..).zip(&pending.rows) {
                position += 1;
                values.extend(columns(position, &pending.stream, revision, row.event.clone(), row.data_key.clone(), row.sealed.clone()));
            }
        }
        let came = match self.database.backend() {
            DbBackend::Postgres => self.move_with_insert(rows, values).await,
            _ => self.move_and_insert(rows, values).await,
        };
        if let AtHead::Done = came {
            self.position = position;
            self.revisions.extend(ends);
            self.acknowledge(kept_from(batch, position - rows as u64));
            return None;
        }
        self.forget();
        match came {
            AtHead::Done => {}
            AtHead::Elsewhere => return Some(batch),
            AtHead::NotDone(error) => {
                tracing::warn!(error = %error, "appending a batch failed");
                batch.into_iter().for_each(|pending| self.refuse(pending.answer, false, &error));
            }
            AtHead::Unknown(error) => self.read_back(kept_from(batch, position - rows as u64), &error).await,
        }
        None
    }

    /// The revision of every stream after the batch: none when something is not remembered, somebody loses, or it is too much
    /// for one statement.
    fn ends(&self, batch: &[Pending]) -> Option<HashMap<Stream, u64>> {
        if self.position == 0 || self.revisions.len() > MAX_REMEMBERED {
            return None;
        }
        let mut ends: HashMap<Stream, u64> = HashMap::with_capacity(batch.len());
        let mut rows = 0;
        for pending in batch {
            let revision = ends.get(&pending.stream).or_else(|| self.revisions.get(&pending.stream)).copied()?;
            rows += pending.rows.len();
            if revision != pending.expected || pending.rows.is_empty() || rows > MAX_INSERT_ROWS {
                return None;
            }
            ends.insert(pending.stream.clone(), revision + pending.rows.len() as u64);
        }
        Some(ends)
    }

    /// In one statement, which commits by itself.
    async fn move_with_insert(&mut self, rows: usize, values: Vec<Value>) -> AtHead {
        let sql = self.conditional_inserts.entry(rows).or_insert_with(|| conditional_insert(rows));
        match self.database.write().execute_raw(self.database.sql(sql.as_str(), values)).await {
            Ok(done) if done.rows_affected() > 0 => AtHead::Done,
            Ok(_) => AtHead::Elsewhere,
            // Without a connection nothing was sent.
            Err(error @ (DbErr::ConnectionAcquire(_) | DbErr::Conn(_))) => AtHead::NotDone(error),
            Err(error) => AtHead::Unknown(error),
        }
    }

    /// The same in a transaction: only the answer to its commit can be lost.
    async fn move_and_insert(&mut self, rows: usize, values: Vec<Value>) -> AtHead {
        let mut values = values.into_iter();
        let prepared = async {
            let transaction = self.database.begin().await?;
            let sql = "UPDATE log_head SET position = $1 WHERE id = 1 AND position = $2";
            let moved = transaction.execute_raw(self.database.sql(sql, values.by_ref().take(2).collect())).await?;
            if moved.rows_affected() == 0 {
                transaction.rollback().await?;
                return Ok(None);
            }
            let sql = self.inserts.entry(rows).or_insert_with(|| insert(rows));
            transaction.execute_raw(self.database.sql(sql.as_str(), values.collect())).await?;
            Ok(Some(transaction))
        };
        match prepared.await {
            Ok(None) => AtHead::Elsewhere,
            Ok(Some(transaction)) => transaction.commit().await.map_or_else(AtHead::Unknown, |()| AtHead::Done),
            Err(error) => AtHead::NotDone(error),
        }
    }

    /// Everything but the commit. Requests move to `kept` or `lost`; on an error `kept` is to be refused.
    async fn write(
        &mut self,
        batch: Vec<Pending>,
        kept: &mut Vec<Kept>,
        lost: &mut Vec<(Pending, u64)>,
    ) -> Result<Option<DatabaseTransaction>, DbErr> {
        let prepared = async {
            let transaction = self.database.begin().await?;
            let sql = format!("SELECT position FROM log_head WHERE id = 1{}", self.database.for_update());
            let row = transaction.query_one_raw(self.database.sql(sql, vec![])).await?;
            let row = row.ok_or_else(|| DbErr::RecordNotFound("the head row of the log".into()))?;
            let position: i64 = row.try_get_by_index(0)?;
            if position.unsigned_abs() != self.position || self.revisions.len() > MAX_REMEMBERED {
                self.revisions.clear();
                self.position = position.unsigned_abs();
            }
            self.look_up(&transaction, &batch).await?;
            Ok(transaction)
        };
        let transaction = match prepared.await {
            Ok(transaction) => transaction,
            Err(error) => {
                batch.into_iter().for_each(|pending| self.refuse(pending.answer, false, &error));
                return Err(error);
            }
        };

        let mut values = Vec::new();
        let mut rows = 0;
        for pending in batch {
            let revision = self.revisions.entry(pending.stream.clone()).or_default();
            if *revision != pending.expected {
                let actual = *revision;
                lost.push((pending, actual));
                continue;
            }
            let Pending { stream, expected, rows: new, answer } = pending;
            let mut events = Vec::with_capacity(new.len());
            for row in new {
                *revision += 1;
                self.position += 1;
                rows += 1;
                events.push(row.event.clone());
                values.extend(columns(self.position, &stream, *revision, row.event, row.data_key, row.sealed));
            }
            let appended = Appended { revision: *revision, cursor: Cursor::at(self.position) };
            kept.push(Kept { stream, expected, events, appended, answer });
        }
        if rows == 0 {
            transaction.rollback().await?;
            return Ok(None);
        }
        let mut values = values.into_iter();
        while rows > 0 {
            let size = rows.min(MAX_INSERT_ROWS);
            let sql = self.inserts.entry(size).or_insert_with(|| insert(size));
            transaction.execute_raw(self.database.sql(sql.as_str(), values.by_ref().take(size * COLUMNS).collect())).await?;
            rows -= size;
        }
        let sql = "UPDATE log_head SET position = $1 WHERE id = 1";
        transaction.execute_raw(self.database.sql(sql, vec![number(self.position).into()])).await?;
        Ok(Some(transaction))
    }

    /// Remembers the revision of every stream of the batch.
    async fn look_up(&mut self, transaction: &DatabaseTransaction, batch: &[Pending]) -> Result<(), DbErr> {
        let mut unknown: Vec<&Stream> =
            batch.iter().map(|pending| &pending.stream).filter(|stream| !self.revisions.contains_key(stream)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        for streams in unknown.chunks(MAX_INSERT_ROWS) {
            let list: Vec<_> = (0..streams.len()).map(|i| format!("(${}, ${})", 2 * i + 1, 2 * i + 2)).collect();
            let sql = format!(
                "WITH wanted (tenant, stream) AS (VALUES {}) SELECT tenant, stream, \
                 (SELECT MAX(revision) FROM records WHERE records.tenant = wanted.tenant AND records.stream = wanted.stream) FROM wanted",
                list.join(", ")
            );
            let values = streams.iter().flat_map(|(tenant, stream)| [tenant.to_string().into(), stream.as_str().into()]).collect();
            for row in transaction.query_all_raw(self.database.sql(sql, values)).await? {
                let (tenant, stream): (String, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
                let revision: Option<i64> = row.try_get_by_index(2)?;
                let named = streams.iter().find(|(t, s)| s.as_str() == stream && t.to_string() == tenant);
                if let (Some(stream), Some(revision)) = (named, revision) {
                    self.revisions.insert((*stream).clone(), revision.unsigned_abs());
                }
            }
        }
        Ok(())
    }

    /// Tells who waits that nothing was kept, or that nobody knows.
    fn refuse(&self, answer: Answer, unknown: bool, error: &DbErr) {
        if is_full(error) {
            self.database.room().lost();
        }
        let _ = answer.send(Err(AppendError::Unavailable { unknown, source: error.to_string().into() }));
    }

    fn acknowledge(&self, kept: Vec<Kept>) {
        self.database.room().found();
        self.head.send_if_modified(|head| {
            *head = Cursor::at(self.position).max(*head);
            true
        });
        for kept in kept {
            let _ = kept.answer.send(Ok(kept.appended));
        }
    }

    fn forget(&mut self) {
        self.position = 0;
        self.revisions.clear();
    }

    /// The commit was sent and no answer came. Takes the head lock, which waits for a commit that is still under way,
    /// and looks for the events by their ids.
    async fn read_back(&self, kept: Vec<Kept>, error: &DbErr) {
        tracing::warn!(error = %error, "the outcome of a commit is unknown; reading it back");
        let mut waiting = kept;
        let attempts = if self.database.backend() == DbBackend::Sqlite { READ_BACK_ATTEMPTS_OF_A_FILE } else { READ_BACK_ATTEMPTS };
        for _ in 0..attempts {
            if let Ok(found) = self.find_all(&waiting).await {
                for (kept, found) in waiting.drain(..).zip(found) {
                    match found {
                        Some(appended) => drop(kept.answer.send(Ok(appended))),
                        None => self.refuse(kept.answer, false, error),
                    }
                }
                if let Ok(head) = self.head_position().await {
                    self.head.send_if_modified(|known| {
                        *known = Cursor::at(head).max(*known);
                        true
                    });
                }
                return;
            }
            tokio::time::sleep(READ_BACK_PAUSE).await;
        }
        waiting.into_iter().for_each(|kept| self.refuse(kept.answer, true, error));
    }

    async fn find_all(&self, kept: &[Kept]) -> Result<Vec<Option<Appended>>, DbErr> {
        self.settle().await?;
        let transaction = self.database.begin().await?;
        let sql = format!("SELECT position FROM log_head WHERE id = 1{}", self.database.for_update());
        transaction.query_one_raw(self.database.sql(sql, vec![])).await?;
        let mut found = Vec::with_capacity(kept.len());
        for kept in kept {
            found.push(self.find(&transaction, &kept.stream, kept.expected, &kept.events).await?);
        }
        transaction.rollback().await?;
        Ok(found)
    }

    /// SQLite: a commit that failed at its end may stand in the write-ahead log, unused, and whoever opens the file after a crash
    /// finds it there and takes it for made. What is committed next is written over it.
    async fn settle(&self) -> Result<(), DbErr> {
        if self.database.backend() != DbBackend::Sqlite {
            return Ok(());
        }
        let sql = "INSERT INTO checkpoints (name, position) VALUES ('settled', 1) \
                   ON CONFLICT (name) DO UPDATE SET position = checkpoints.position + 1";
        self.database.write().execute_raw(self.database.sql(sql, vec![])).await.map(drop)
    }

    async fn head_position(&self) -> Result<u64, DbErr> {
        let row = self.database.write().query_one_raw(self.database.sql("SELECT position FROM log_head WHERE id = 1", vec![])).await?;
        let position: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(position.unwrap_or(0).unsigned_abs())
    }

    /// A writer that lost to itself: the very events it brings are there already.
    async fn already_kept(&self, pending: &Pending) -> Option<Result<Appended, AppendError>> {
        let events: Vec<_> = pending.rows.iter().map(|row| row.event.clone()).collect();
        let found = self.find(self.database.write(), &pending.stream, pending.expected, &events).await;
        found.ok().flatten().map(Ok)
    }

    async fn find(
        &self,
        connection: &impl ConnectionTrait,
        stream: &Stream,
        expected: u64,
        events: &[String],
    ) -> Result<Option<Appended>, DbErr> {
        let sql =
            "SELECT event, revision, position FROM records WHERE tenant = $1 AND stream = $2 AND revision > $3 ORDER BY revision LIMIT $4";
        let values =
            vec![stream.0.to_string().into(), stream.1.as_str().into(), number(expected).into(), number(events.len() as u64).into()];
        let rows = connection.query_all_raw(self.database.sql(sql, values)).await?;
        if rows.len() != events.len() {
            return Ok(None);
        }
        let mut last = None;
        for (row, event) in rows.iter().zip(events) {
            let (kept, revision, position): (String, i64, i64) =
                (row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?);
            if kept != *event {
                return Ok(None);
            }
            last = Some(Appended { revision: revision.unsigned_abs(), cursor: Cursor::at(position.unsigned_abs()) });
        }
        Ok(last)
    }
}

/// The batch as it was written behind this position.
fn kept_from(batch: Vec<Pending>, mut position: u64) -> Vec<Kept> {
    let kept = |Pending { stream, expected, rows, answer }: Pending| {
        position += rows.len() as u64;
        let appended = Appended { revision: expected + rows.len() as u64, cursor: Cursor::at(position) };
        Kept { stream, expected, events: rows.into_iter().map(|row| row.event).collect(), appended, answer }
    };
    batch.into_iter().map(kept).collect()
}

const COLUMNS: usize = 7;
const INTO: &str = "INSERT INTO records (position, tenant, stream, revision, event, data_key, sealed)";

fn columns(position: u64, (tenant, stream): &Stream, revision: u64, event: String, data_key: String, sealed: Vec<u8>) -> [Value; COLUMNS] {
    let (position, revision) = (number(position), number(revision));
    [position.into(), tenant.to_string().into(), stream.as_str().into(), revision.into(), event.into(), data_key.into(), sealed.into()]
}

fn insert(rows: usize) -> String {
    format!("{INTO} VALUES {}", places(rows, 1))
}

/// PostgreSQL: moves the head from `$2` to `$1` and inserts, or does nothing when it stands elsewhere.
fn conditional_insert(rows: usize) -> String {
    format!(
        "WITH moved AS (UPDATE log_head SET position = $1 WHERE id = 1 AND position = $2 RETURNING id) \
         {INTO} SELECT * FROM (VALUES {}) AS new WHERE EXISTS (SELECT 1 FROM moved)",
        places(rows, 3)
    )
}

/// `($1, …, $7), ($8, …` for so many rows.
fn places(rows: usize, first: usize) -> String {
    let mut sql = String::new();
    for row in 0..rows {
        let first = first + row * COLUMNS;
        let comma = if row == 0 { "" } else { ", " };
        let _ = write!(
            sql,
            "{comma}(${}, ${}, ${}, ${}, ${}, ${}, ${})",
            first,
            first + 1,
            first + 2,
            first + 3,
            first + 4,
            first + 5,
            first + 6
        );
    }
    sql
}
