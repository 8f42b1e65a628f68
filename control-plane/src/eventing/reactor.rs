//! Reactors follow the log and act: compile statements, integrate the ledger, feed sinks. Each has a name, a durable
//! cursor, and runs in one replica at a time; it gets every record at least once, in order, and must be idempotent.

use std::{
    collections::BTreeMap,
    error::Error,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use schema::clock::{Clock, Ids};
use sea_orm::{ConnectionTrait, DbErr};
use service::telemetry::TARGET;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    leadership::{LEASE, Leadership, Lease},
    store::{Cursor, EventStore, ReadError, Stored},
};
use crate::database::Database;

const BATCH: usize = 200;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a reactor failed with.
pub type Fault = Box<dyn Error + Send + Sync>;

/// Follows the log and acts, through commands like everybody else.
#[async_trait]
pub trait Reactor: Send + Sync + 'static {
    /// Its name, for ever: its cursor is kept under it.
    fn name(&self) -> &'static str;

    /// Takes the next records. On a fault the same come again.
    async fn react(&self, records: &[Stored]) -> Result<(), Fault>;

    /// How often [`Reactor::tick`] is called while this replica leads; never, by default.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// What is to be done as time passes. Called once at the start, then at every interval.
    async fn tick(&self) -> Result<(), Fault> {
        Ok(())
    }
}

/// Runs reactors. Clones share it.
#[derive(Clone)]
pub struct Reactors {
    database: Database,
    store: Arc<dyn EventStore>,
    leadership: Leadership,
    faults: Faults,
}

/// Which reactors of this process failed last, and have done nothing since: what they do waits meanwhile.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<BTreeMap<&'static str, u32>>>);

impl Faults {
    /// Who fails, for people; none while all is well.
    pub fn note(&self) -> Option<String> {
        let faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = faults.iter().map(|(name, times)| format!("{name} failed {times} times in a row"));
        let list = each.collect::<Vec<_>>().join(", ");
        (!list.is_empty()).then(|| format!("{list}; it is tried again, and the log says why"))
    }

    fn failed(&self, reactor: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(reactor).or_default() += 1;
    }

    fn worked(&self, reactor: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(reactor);
    }
}

/// Why a reactor's turn ended.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error("the reactor could not do its work")]
    Work(#[source] Fault),
    #[error("the reactor could not read the log")]
    Read(#[from] ReadError),
    #[error("the reactor could not keep its cursor or its lease")]
    Database(#[from] DbErr),
}

enum Turn {
    /// Told to stop.
    Stopped,
    /// Another replica leads.
    Lost,
}

impl Reactors {
    /// For a process that has just started.
    pub fn new(database: Database, store: Arc<dyn EventStore>, clock: Arc<dyn Clock>, ids: &dyn Ids) -> Self {
        let leadership = Leadership::new(database.clone(), clock, ids);
        Self { database, store, leadership, faults: Faults::default() }
    }

    /// Tells its faults where others look.
    #[must_use]
    pub fn telling(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Runs a reactor whenever this replica leads it, until told to stop.
    pub async fn run(self, reactor: Arc<dyn Reactor>, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            match self.turn(&*reactor, &stop, &mut pause).await {
                Ok(Turn::Stopped) => return,
                Ok(Turn::Lost) => pause = LEASE / 3,
                Err(error) => {
                    tracing::error!(
                        reactor = reactor.name(),
                        error = &error as &dyn Error,
                        retry_seconds = pause.as_secs_f32(),
                        "a reactor failed"
                    );
                    metrics::counter!("freehold_reactor_faults_total", "reactor" => reactor.name()).increment(1);
                    self.faults.failed(reactor.name());
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// From taking the lead to losing it.
    async fn turn(&self, reactor: &dyn Reactor, stop: &CancellationToken, pause: &mut Duration) -> Result<Turn, TurnError> {
        let Some(lease) = self.leadership.acquire(reactor.name()).await? else { return Ok(Turn::Lost) };
        let outcome = self.lead(reactor, &lease, stop, pause).await;
        if !matches!(outcome, Ok(Turn::Lost)) {
            self.leadership.release(lease).await?;
        }
        outcome
    }

    async fn lead(&self, reactor: &dyn Reactor, lease: &Lease, stop: &CancellationToken, pause: &mut Duration) -> Result<Turn, TurnError> {
        let Some(mut cursor) = self.take_over(lease).await? else { return Ok(Turn::Lost) };
        let mut renewal = tokio::time::interval_at(Instant::now() + LEASE / 3, LEASE / 3);
        let mut ticks = reactor.interval().map(tokio::time::interval);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let next_tick = async {
                match &mut ticks {
                    Some(ticks) => ticks.tick().await,
                    None => pending().await,
                }
            };
            // What is chosen here is then done to its end; only waiting is given up.
            let due = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Turn::Stopped),
                _ = renewal.tick() => Due::Renewal,
                _ = next_tick => Due::Tick,
                followed = self.store.follow(cursor) => Due::Records(followed?),
            };
            match &due {
                Due::Renewal => {
                    if !self.leadership.renew(lease).await? {
                        return Ok(Turn::Lost);
                    }
                }
                Due::Tick => {
                    if !self.renewing(lease, &mut renewal, reactor.tick()).await? {
                        return Ok(Turn::Lost);
                    }
                }
                Due::Records(head) => {
                    let batch = self.store.read_all(cursor, BATCH).await?;
                    behind(reactor.name(), *head, batch.upto);
                    if !batch.records.is_empty() {
                        let span = tracing::info_span!(
                            target: TARGET, "react", otel.name = format_args!("react {}", reactor.name()),
                            otel.kind = "consumer", messaging.batch.message_count = batch.records.len()
                        );
                        if !self.renewing(lease, &mut renewal, reactor.react(&batch.records)).instrument(span).await? {
                            return Ok(Turn::Lost);
                        }
                    }
                    if !self.advance(lease, batch.upto).await? {
                        return Ok(Turn::Lost);
                    }
                    cursor = batch.upto;
                }
            }
            if matches!(due, Due::Tick | Due::Records(_)) {
                self.faults.worked(reactor.name());
            }
            *pause = FIRST_PAUSE;
        }
    }

    /// Does a piece of work, renewing the lease while it lasts; false when the lead was lost over it. The work goes on while the
    /// lease is renewed: both may wait for the same connection, and who is given it must be there to take it.
    async fn renewing(
        &self,
        lease: &Lease,
        renewal: &mut tokio::time::Interval,
        work: impl Future<Output = Result<(), Fault>>,
    ) -> Result<bool, TurnError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                outcome = &mut work => return outcome.map(|()| true).map_err(TurnError::Work),
                _ = renewal.tick() => {}
            }
            let (mut renewing, mut done) = (std::pin::pin!(self.leadership.renew(lease)), None);
            let renewed = loop {
                tokio::select! {
                    renewed = &mut renewing => break renewed?,
                    outcome = &mut work, if done.is_none() => done = Some(outcome),
                }
            };
            match done {
                _ if !renewed => return Ok(false),
                Some(outcome) => return outcome.map(|()| true).map_err(TurnError::Work),
                None => {}
            }
        }
    }

    /// Marks the cursor as ours and reads it; none when a newer leader has it.
    async fn take_over(&self, lease: &Lease) -> Result<Option<Cursor>, DbErr> {
        let sql = "INSERT INTO reactors (name, position, token) VALUES ($1, 0, $2) ON CONFLICT (name) DO UPDATE \
                   SET token = excluded.token WHERE reactors.token <= excluded.token RETURNING position";
        let values = vec![lease.name().into(), lease.token().into()];
        let row = self.database.write().query_one_raw(self.database.sql(sql, values)).await?;
        let position: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(position.map(|position| Cursor::at(position.unsigned_abs())))
    }

    /// Keeps the cursor; false when a newer leader has it.
    async fn advance(&self, lease: &Lease, to: Cursor) -> Result<bool, DbErr> {
        let sql = "UPDATE reactors SET position = $1 WHERE name = $2 AND token = $3";
        let position = i64::try_from(to.position()).unwrap_or(i64::MAX);
        let values = vec![position.into(), lease.name().into(), lease.token().into()];
        let outcome = self.database.write().execute_raw(self.database.sql(sql, values)).await?;
        Ok(outcome.rows_affected() == 1)
    }
}

/// How far a follower is behind the log, in positions: records, on engines that number them without gaps.
pub fn behind(follower: &'static str, head: Cursor, reached: Cursor) {
    let behind = head.position().saturating_sub(reached.position());
    metrics::gauge!("freehold_follower_behind_records", "follower" => follower).set(behind as f64);
}

enum Due {
    Renewal,
    Tick,
    /// There are some, up to this head.
    Records(Cursor),
}
