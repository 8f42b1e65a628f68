//! Group commit: one task takes what has gathered in the queue and commits it in one transaction.
//!
//! The transaction locks the head row, checks every writer's revision under the lock, refuses losers one by one, inserts
//! the rest in multi-row inserts, moves the head and commits. Revisions are remembered from one batch to the next for as
//! long as nobody else has moved the head in between.

use std::{
    collections::HashMap,
    fmt::Write,
    time::{Duration, Instant},
};

use schema::{event::StreamId, id::TenantId};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr, Value};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    super::store::{AppendError, Appended, Cursor},
    number,
};
use crate::database::Database;

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

pub(super) struct Writer {
    database: Database,
    head: watch::Sender<Cursor>,
    /// The head after our last commit, and revisions that hold while it stays there.
    position: u64,
    revisions: HashMap<Stream, u64>,
    inserts: HashMap<usize, String>,
}

impl Writer {
    pub(super) fn new(database: Database, head: watch::Sender<Cursor>) -> Self {
        Self { database, head, position: 0, revisions: HashMap::new(), inserts: HashMap::new() }
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
                    refuse(kept.answer, false, &error);
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
                batch.into_iter().for_each(|pending| refuse(pending.answer, false, &error));
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
                values.extend([
                    Value::from(number(self.position)),
                    stream.0.to_string().into(),
                    stream.1.as_str().into(),
                    number(*revision).into(),
                    row.event.into(),
                    row.data_key.into(),
                    row.sealed.into(),
                ]);
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

    fn acknowledge(&self, kept: Vec<Kept>) {
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
        for _ in 0..READ_BACK_ATTEMPTS {
            if let Ok(found) = self.find_all(&waiting).await {
                for (kept, found) in waiting.drain(..).zip(found) {
                    match found {
                        Some(appended) => drop(kept.answer.send(Ok(appended))),
                        None => refuse(kept.answer, false, error),
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
        waiting.into_iter().for_each(|kept| refuse(kept.answer, true, error));
    }

    async fn find_all(&self, kept: &[Kept]) -> Result<Vec<Option<Appended>>, DbErr> {
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

fn refuse(answer: Answer, unknown: bool, error: &DbErr) {
    let _ = answer.send(Err(AppendError::Unavailable { unknown, source: error.to_string().into() }));
}

const COLUMNS: usize = 7;

fn insert(rows: usize) -> String {
    let mut sql = String::from("INSERT INTO records (position, tenant, stream, revision, event, data_key, sealed) VALUES ");
    for row in 0..rows {
        let first = row * COLUMNS;
        let comma = if row == 0 { "" } else { ", " };
        let _ = write!(
            sql,
            "{comma}(${}, ${}, ${}, ${}, ${}, ${}, ${})",
            first + 1,
            first + 2,
            first + 3,
            first + 4,
            first + 5,
            first + 6,
            first + 7
        );
    }
    sql
}
