//! Moves a deployment from one store to another: SQLite, PostgreSQL, KurrentDB, in any direction.
//!
//! Records travel as they are kept, sealed, in their order and with their revisions, so nobody can tell afterwards where they
//! were; so do keys, bodies, secrets and whatever else a table holds. Only what a store computes for itself is made anew: the
//! read models where positions are others, and followers' positions, which are translated. At the end both sides are read back
//! and compared.
//!
//! - [`records`]: the log, of either kind of store.
//! - [`tables`]: everything else in SQL.
//!
//! A target that is not complete is marked, and no control plane starts on it; the same command goes on where it was broken
//! off. A source that was moved is marked as well: two control planes that believe to be the same would contradict each other.

mod records;
mod tables;

use std::sync::Arc;

use schema::clock::{Clock, Ids};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use serde::Serialize;
use service::files::{DirectoryLock, FileError};

use crate::{
    app::{StartError, kinds, kurrent_settings, owned},
    config::Config,
    database::{Database, OpenError},
    eventing::{
        kurrent::KurrentStore,
        sql::SqlStore,
        store::{AppendError, EventStore, ReadError},
        view::{ProjectError, Views},
    },
    sealing::{Keyring, SealingError, source::Sources},
};
use records::Log;
use tables::{Kept, Table};

/// A database that no control plane may serve.
#[derive(Debug, thiserror::Error)]
pub enum Standstill {
    /// It does not hold everything yet.
    #[error("this store is where a deployment is being moved to, and is not complete; run the same move-store again")]
    Arriving,
    /// Its deployment lives elsewhere.
    #[error(
        "the deployment was moved away from here, to {place}; serve it there. To come back for good to what is here, and lose what \
         happened there: freehold-control-plane move-store --come-back"
    )]
    Moved {
        /// Where it is.
        place: String,
    },
    /// It cannot be told.
    #[error("asking whether the deployment was moved failed")]
    Database(#[source] DbErr),
}

/// Why a deployment was not moved. Both sides are as they were, or the target is marked as incomplete.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// Settings, files or stores cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The store is part of a move that is not this one.
    #[error(transparent)]
    Standstill(#[from] Standstill),
    /// There is no deployment.
    #[error("there is nothing to move: no deployment was ever started on the store that settings name")]
    Nothing,
    /// A control plane works on it.
    #[error("another control plane is running on this database (it leads \"{leads}\"); stop every one, wait half a minute and try again")]
    InUse {
        /// What it leads.
        leads: String,
    },
    /// The target holds something else.
    #[error("the target is not empty: {what}; nothing was changed. Name an empty database, and with KurrentDB a namespace of its own")]
    NotEmpty {
        /// What was found.
        what: String,
    },
    /// A table's shape is not known how to move.
    #[error("the table {table} cannot be moved: {reason}")]
    Table {
        /// The table.
        table: String,
        /// What about it.
        reason: String,
    },
    /// Both sides are not the same.
    #[error("the two sides differ: {what}. The target is not used; make it empty and start again")]
    Differs {
        /// Where.
        what: String,
    },
    /// A database could not be asked.
    #[error("{act} failed")]
    Database {
        /// What was tried.
        act: &'static str,
        /// Why.
        #[source]
        source: DbErr,
    },
    /// A log could not be read.
    #[error("reading the log failed")]
    Read(#[from] ReadError),
    /// A log could not be written.
    #[error("writing the log failed; run the same command again to go on")]
    Append(#[from] AppendError),
    /// The read model could not be written.
    #[error("writing the read model failed")]
    Project(#[from] ProjectError),
    /// The sealing key is missing or the wrong one.
    #[error(transparent)]
    Sealing(#[from] SealingError),
}

impl From<OpenError> for MoveError {
    fn from(error: OpenError) -> Self {
        Self::Start(error.into())
    }
}

impl From<FileError> for MoveError {
    fn from(error: FileError) -> Self {
        Self::Start(error.into())
    }
}

fn asking(act: &'static str) -> impl FnOnce(DbErr) -> MoveError {
    move |source| MoveError::Database { act, source }
}

/// What was moved and found the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Records, by their exact sealed bytes, order and revisions.
    pub records: u64,
    /// SHA-256 over all of that, in order.
    pub records_sha256: String,
    /// Rows of each table.
    pub rows: Vec<(String, u64)>,
    /// Whether read models were made anew, because positions differ, rather than copied.
    pub read_models_made_anew: bool,
}

const ARRIVING: &str = "arriving";
const MOVED: &str = "moved";

/// One side of a move.
struct Side {
    config: Config,
    database: Database,
    log: Log,
    /// As people are told; without secrets.
    place: String,
}

impl Side {
    async fn open(config: Config) -> Result<Self, MoveError> {
        service::tls::install_provider();
        let (location, access) = owned(&config)?;
        let kurrent = kurrent_settings(&config)?;
        let place = match &kurrent {
            Some(kurrent) => format!("{kurrent:?}, and {location:?}"),
            None => format!("{location:?}"),
        };
        let database = Database::open_with(&location, &access).await?;
        let log = match kurrent {
            Some(settings) => Log::kurrent(settings),
            None => Log::Sql(database.clone()),
        };
        Ok(Self { config, database, log, place })
    }

    /// Brings its read model up to its log.
    async fn project(&self, clock: &Arc<dyn Clock>, ids: &Arc<dyn Ids>) -> Result<(), MoveError> {
        let sources = Sources::new(&self.config)?;
        let keyring = Arc::new(Keyring::open_from(self.database.clone(), sources, clock.clone(), ids.clone()).await?);
        let store: Arc<dyn EventStore> = match kurrent_settings(&self.config)? {
            Some(settings) => Arc::new(KurrentStore::open(settings, self.database.clone(), keyring.clone()).await?),
            None => Arc::new(SqlStore::open(self.database.clone(), keyring.clone()).await?),
        };
        let (_views, mut projector) = Views::open(self.database.clone(), keyring, store.clone(), kinds());
        projector.catch_up().await?;
        store.close().await;
        Ok(())
    }
}

/// Refuses a database that is incomplete or was left.
pub async fn refuse_standstill(database: &Database) -> Result<(), Standstill> {
    match state(database).await.map_err(Standstill::Database)? {
        Some((state, _)) if state == ARRIVING => Err(Standstill::Arriving),
        Some((_, place)) => Err(Standstill::Moved { place }),
        None => Ok(()),
    }
}

/// Moves what `source` names to what `target` names: the same settings with another `[store]`.
pub async fn move_store(source: Config, target: Config, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Moved, MoveError> {
    let _lock = DirectoryLock::take(&source.data_dir)?;
    let source = Side::open(source).await?;
    let target = Side::open(target).await?;
    let outcome = transfer(&source, &target, &clock, &ids).await;
    for database in [source.database, target.database] {
        if let Err(error) = database.close().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "closing a database failed");
        }
    }
    outcome
}

/// Serves again what was moved away: the mark is taken off.
pub async fn come_back(config: Config) -> Result<(), MoveError> {
    let _lock = DirectoryLock::take(&config.data_dir)?;
    let side = Side::open(config).await?;
    match state(&side.database).await.map_err(asking("reading the mark of a move"))? {
        Some((state, _)) if state == MOVED => unmark(&side.database).await?,
        Some(_) => return Err(Standstill::Arriving.into()),
        None => {}
    }
    side.database.close().await.map_err(asking("closing the database"))
}

async fn transfer(source: &Side, target: &Side, clock: &Arc<dyn Clock>, ids: &Arc<dyn Ids>) -> Result<Moved, MoveError> {
    Keyring::expected(&source.database).await?.ok_or(MoveError::Nothing)?;
    // Before anything is changed: the right sealing key is to be had.
    Keyring::open_from(source.database.clone(), Sources::new(&source.config)?, clock.clone(), ids.clone()).await?;
    refuse_use(&source.database, &**clock).await?;
    begin(source, target).await?;

    tracing::info!(from = %source.place, to = %target.place, "moving");
    source.project(clock, ids).await?;
    records::copy(&source.log, &target.log).await?;
    let same_positions = source.log.has_dense_positions() && target.log.has_dense_positions();
    let kept: Vec<Table> = tables::of(&source.database, &target.database)
        .await?
        .into_iter()
        .filter(|table| table.kept == Kept::Always || (table.kept == Kept::WithPositions && same_positions))
        .collect();
    for table in &kept {
        tables::copy(table, &source.database, &target.database).await?;
    }
    if !same_positions {
        target.project(clock, ids).await?;
    }

    let compared = records::compare(&source.log, &target.log, reactors(&source.database).await?).await?;
    let mut rows = Vec::with_capacity(kept.len());
    for table in &kept {
        rows.push((table.name.clone(), tables::compare(table, &source.database, &target.database).await?));
    }
    if !same_positions {
        rows.push(("views".to_owned(), tables::compare_read_models(&source.database, &target.database).await?));
    }
    keep_reactors(&target.database, &compared.reactors).await?;
    // The source first: broken off between the two, neither side is served, and the command is run again.
    mark(&source.database, MOVED, &target.place).await?;
    unmark(&target.database).await?;
    Ok(Moved { records: compared.count, records_sha256: compared.sha256, rows, read_models_made_anew: !same_positions })
}

/// On SQLite the lock of the file has told already.
async fn refuse_use(database: &Database, clock: &dyn Clock) -> Result<(), MoveError> {
    if database.backend() == DbBackend::Sqlite {
        return Ok(());
    }
    let sql = "SELECT name FROM leaders WHERE expires > $1 AND holder <> '' LIMIT 1";
    let row = database.write().query_one_raw(database.sql(sql, vec![clock.now().micros().into()])).await;
    let act = "asking who leads";
    match row.map_err(asking(act))? {
        Some(row) => Err(MoveError::InUse { leads: row.try_get_by_index(0).map_err(asking(act))? }),
        None => Ok(()),
    }
}

/// Marks an empty target, or finds it marked by an earlier run of the same.
async fn begin(source: &Side, target: &Side) -> Result<(), MoveError> {
    let act = "reading the mark of a move";
    let arriving = state(&target.database).await.map_err(asking(act))?;
    let resumed = arriving.as_ref().is_some_and(|(state, place)| state == ARRIVING && *place == source.place);
    match state(&source.database).await.map_err(asking(act))? {
        None => {}
        Some((state, place)) if state == MOVED && resumed && place == target.place => {}
        Some((state, _)) if state == ARRIVING => return Err(Standstill::Arriving.into()),
        Some((_, place)) => return Err(Standstill::Moved { place }.into()),
    }
    if resumed {
        tracing::info!("going on with a move that was broken off");
        return Ok(());
    }
    if arriving.is_some() {
        return Err(MoveError::NotEmpty { what: "it is marked by another move".to_owned() });
    }
    if let Some(what) = tables::first_filled(&target.database).await? {
        return Err(MoveError::NotEmpty { what: format!("there are rows in {what}") });
    }
    if target.log.head().await?.position() > 0 {
        return Err(MoveError::NotEmpty { what: "there are records in its log".to_owned() });
    }
    mark(&target.database, ARRIVING, &source.place).await
}

async fn state(database: &Database) -> Result<Option<(String, String)>, DbErr> {
    let sql = "SELECT state, place FROM deployment_move WHERE id = 1";
    let row = database.write().query_one_raw(database.sql(sql, vec![])).await?;
    row.map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?))).transpose()
}

async fn mark(database: &Database, state: &str, place: &str) -> Result<(), MoveError> {
    let sql = "INSERT INTO deployment_move (id, state, place) VALUES (1, $1, $2) \
               ON CONFLICT (id) DO UPDATE SET state = excluded.state, place = excluded.place";
    let outcome = database.write().execute_raw(database.sql(sql, vec![state.into(), place.into()])).await;
    outcome.map(drop).map_err(asking("marking the store"))
}

async fn unmark(database: &Database) -> Result<(), MoveError> {
    let outcome = database.write().execute_raw(database.sql("DELETE FROM deployment_move WHERE id = 1", vec![])).await;
    outcome.map(drop).map_err(asking("taking the mark off the store"))
}

/// Names of reactors and how far they have come.
async fn reactors(database: &Database) -> Result<Vec<(String, u64)>, MoveError> {
    let act = "reading how far reactors have come";
    let rows = database.write().query_all_raw(database.sql("SELECT name, position FROM reactors ORDER BY name", vec![])).await;
    let read = |row: &sea_orm::QueryResult| -> Result<(String, u64), DbErr> {
        Ok((row.try_get_by_index(0)?, row.try_get_by_index::<i64>(1)?.unsigned_abs()))
    };
    rows.map_err(asking(act))?.iter().map(read).collect::<Result<_, _>>().map_err(asking(act))
}

async fn keep_reactors(database: &Database, reactors: &[(String, u64)]) -> Result<(), MoveError> {
    for (name, position) in reactors {
        // Leases do not travel, so tokens begin anew.
        let sql = "INSERT INTO reactors (name, position, token) VALUES ($1, $2, 0) \
                   ON CONFLICT (name) DO UPDATE SET position = excluded.position";
        let values = vec![name.as_str().into(), i64::try_from(*position).unwrap_or(i64::MAX).into()];
        let outcome = database.write().execute_raw(database.sql(sql, values)).await;
        outcome.map_err(asking("keeping how far reactors have come"))?;
    }
    Ok(())
}
