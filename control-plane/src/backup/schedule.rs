//! Backups by the clock. Of several replicas one makes each: whoever takes its place in the table first. What went wrong, or was
//! not done in time, shows in `/readyz` and in metrics of every replica.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use schema::{
    calendar::Calendar,
    clock::{Clock, Timestamp},
};
use sea_orm::{ConnectionTrait, DbErr};

use super::{
    BackupError,
    make::{Maker, prune},
};
use crate::{config::BackupConfig, database::Database, eventing::view::with_cause};

/// How often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a backup may take before somebody is told.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);

/// Makes backups when it is time.
pub struct Schedule {
    calendar: Calendar,
    config: BackupConfig,
    deployment: String,
    maker: Maker,
    database: Database,
    clock: Arc<dyn Clock>,
    told: Told,
}

/// What somebody should know about scheduled backups. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<Option<String>>>);

impl Told {
    /// What is wrong, if anything is.
    pub fn note(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, note: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = note;
    }
}

/// The row of what was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    /// The time of the calendar that was taken last.
    slot: i64,
    /// When the last good one ended; 0: none did.
    succeeded: i64,
    failure: Option<String>,
}

impl Schedule {
    /// Puts the parts together.
    pub fn new(
        config: BackupConfig,
        calendar: Calendar,
        deployment: String,
        maker: Maker,
        database: Database,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { calendar, config, deployment, maker, database, clock, told: Told::default() }
    }

    /// What is to be told.
    pub fn told(&self) -> Told {
        self.told.clone()
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        let started = self.clock.now();
        loop {
            if let Err(error) = self.look(started).await {
                let text = with_cause(&error);
                tracing::error!(error = text, "scheduled backups cannot be looked at");
                self.told.set(Some(format!("scheduled backups cannot be looked at: {text}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Makes one if it is time.
    pub async fn look(&self, started: Timestamp) -> Result<(), DbErr> {
        let mut row = self.row().await?;
        let now = self.clock.now();
        // Times before the first start are not made up for; the last one missed since is, once.
        let since = if row.slot == 0 { started } else { Timestamp::from_micros(row.slot) };
        let mut due = self.calendar.next_after(since).filter(|time| *time <= now);
        while let Some(later) = due.and_then(|due| self.calendar.next_after(due)).filter(|time| *time <= now) {
            due = Some(later);
        }
        if let Some(due) = due
            && self.take(due).await?
        {
            self.make().await?;
            row = self.row().await?;
        }
        // Not only with the next backup: who restores one of before wants to know at once what was erased since.
        let erasures = self.maker.keep_erasures().await.err();
        self.tell(&row, erasures.as_ref(), started, now);
        Ok(())
    }

    async fn make(&self) -> Result<(), DbErr> {
        let made = match self.maker.make().await {
            Ok(made) => {
                let keep_for = self.config.keep_for.map(|period| period.0);
                let directory = made.path.parent().map(std::path::Path::to_owned).unwrap_or_default();
                match prune(&directory, &self.deployment, self.config.keep, keep_for, self.clock.now()) {
                    Ok(removed) => {
                        tracing::info!(path = %made.path.display(), bytes = made.bytes, removed = removed.len(), "a backup was made");
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => {
                let sql = "UPDATE backup_runs SET succeeded = $1, failure = NULL WHERE id = 1";
                self.database.write().execute_raw(self.database.sql(sql, vec![self.clock.now().micros().into()])).await.map(drop)
            }
            Err(error) => {
                metrics::counter!("freehold_backup_failures_total").increment(1);
                tracing::error!(code = error.code(), error = &error as &dyn std::error::Error, "the scheduled backup failed");
                let sql = "UPDATE backup_runs SET failure = $1 WHERE id = 1";
                self.database.write().execute_raw(self.database.sql(sql, vec![error.code().into()])).await.map(drop)
            }
        }
    }

    /// Takes a time of the calendar; false when another replica did.
    async fn take(&self, due: Timestamp) -> Result<bool, DbErr> {
        let sql = "INSERT INTO backup_runs (id, slot, succeeded) VALUES (1, $1, 0) \
                   ON CONFLICT (id) DO UPDATE SET slot = excluded.slot WHERE backup_runs.slot < excluded.slot";
        let done = self.database.write().execute_raw(self.database.sql(sql, vec![due.micros().into()])).await?;
        Ok(done.rows_affected() == 1)
    }

    async fn row(&self) -> Result<Row, DbErr> {
        let sql = "SELECT slot, succeeded, failure FROM backup_runs WHERE id = 1";
        let row = self.database.read().query_one_raw(self.database.sql(sql, vec![])).await?;
        let row = row.map(|row| {
            Ok::<_, DbErr>(Row { slot: row.try_get_by_index(0)?, succeeded: row.try_get_by_index(1)?, failure: row.try_get_by_index(2)? })
        });
        Ok(row.transpose()?.unwrap_or_default())
    }

    fn tell(&self, row: &Row, erasures: Option<&BackupError>, started: Timestamp, now: Timestamp) {
        if row.succeeded > 0 {
            metrics::gauge!("freehold_backup_last_success_timestamp_seconds").set((row.succeeded / 1_000_000) as f64);
        }
        let overdue = || {
            let since = if row.succeeded > 0 { Timestamp::from_micros(row.succeeded) } else { started };
            let wanted = self.calendar.next_after(since)?;
            (wanted.plus(PATIENCE) < now).then(|| format!("no backup was made since {since}, and one was due at {wanted}"))
        };
        let failed = row.failure.as_ref().map(|code| format!("the last scheduled backup failed ({code}); the log says more"));
        let erasures = || erasures.map(|error| format!("what was erased cannot be kept beside the backups: {}", with_cause(error)));
        self.told.set(failed.or_else(erasures).or_else(overdue));
    }
}
