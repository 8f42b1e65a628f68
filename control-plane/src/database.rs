//! The connection to SQLite or PostgreSQL that everything stored goes through.
//!
//! On SQLite one process writes, through one connection (so that writers queue and never collide), and others read; a
//! lock file beside the database keeps a second process out. On PostgreSQL any number of processes share the database.

use std::{
    fmt,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sea_orm::{
    ConnectOptions, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait, Value,
};
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};

/// Where the data is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file, made when it is not there.
    Sqlite(PathBuf),
    /// A server: `postgres://user@host/database`. May hold a password: does not print.
    Postgres(String),
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite {}", path.display()),
            Self::Postgres(_) => f.write_str("postgres (address hidden)"),
        }
    }
}

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another control plane is running on {}; stop it first, or give this one a data folder of its own", path.display())]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// Its folder or lock file could not be used.
    #[error("{act} {} failed", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It could not be reached.
    #[error("the database cannot be reached or is not a database ({location:?}); check that it runs and that its address is right")]
    Unreachable {
        /// Where.
        location: Location,
        /// What the driver said.
        #[source]
        source: DbErr,
    },
    /// The schema could not be brought up to date.
    #[error("bringing the database schema up to date failed; nothing was started")]
    Migration(#[source] DbErr),
}

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    write: DatabaseConnection,
    read: DatabaseConnection,
    backend: DbBackend,
    lock: Option<File>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.0.backend.as_str())
    }
}

impl Database {
    /// Opens it and brings its schema up to date.
    pub async fn open(location: &Location) -> Result<Self, OpenError> {
        let opened = match location {
            Location::Sqlite(path) => Self::open_sqlite(path, location).await?,
            Location::Postgres(url) => {
                let pool = connect(url, location, |options| {
                    options.max_connections(16).min_connections(1);
                })
                .await?;
                Inner { write: pool.clone(), read: pool, backend: DbBackend::Postgres, lock: None }
            }
        };
        migrations::up(&opened.write).await.map_err(OpenError::Migration)?;
        Ok(Self(Arc::new(opened)))
    }

    async fn open_sqlite(path: &Path, location: &Location) -> Result<Inner, OpenError> {
        let failed = |act, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::File { act, path, source }
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(failed("making the folder", folder))?;
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("opening the lock file", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed("locking", &lock_path)(source)),
        }
        let file = path.to_owned();
        let write = connect("sqlite://", location, |options| {
            let file = file.clone();
            options.max_connections(1).map_sqlx_sqlite_opts(move |sqlite| {
                sqlite
                    .filename(&file)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(Duration::from_secs(10))
                    .foreign_keys(true)
            });
        })
        .await?;
        let file = path.to_owned();
        let read = connect("sqlite://", location, |options| {
            let file = file.clone();
            options
                .max_connections(4)
                .map_sqlx_sqlite_opts(move |sqlite| sqlite.filename(&file).read_only(true).busy_timeout(Duration::from_secs(10)));
        })
        .await?;
        Ok(Inner { write, read, backend: DbBackend::Sqlite, lock: Some(lock) })
    }

    /// For changes, and for reads that must see the latest of them.
    pub fn write(&self) -> &DatabaseConnection {
        &self.0.write
    }

    /// For reads.
    pub fn read(&self) -> &DatabaseConnection {
        &self.0.read
    }

    /// Which engine it is.
    pub fn backend(&self) -> DbBackend {
        self.0.backend
    }

    /// A transaction that may write; on SQLite it has the write lock from the start.
    pub async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        let options =
            TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..TransactionOptions::default() };
        self.0.write.begin_with_options(options).await
    }

    /// A statement with `$1`-style parameters.
    pub fn sql(&self, sql: impl Into<String>, values: Vec<Value>) -> Statement {
        Statement::from_sql_and_values(self.0.backend, sql, values)
    }

    /// `FOR UPDATE` where the engine knows it; SQLite's write transactions exclude each other anyway.
    pub fn for_update(&self) -> &'static str {
        match self.0.backend {
            DbBackend::Sqlite => "",
            _ => " FOR UPDATE",
        }
    }

    /// Closes every connection, after what is under way, and lets another process have the file.
    pub async fn close(&self) -> Result<(), DbErr> {
        self.0.read.close_by_ref().await?;
        self.0.write.close_by_ref().await?;
        if let Some(lock) = &self.0.lock {
            // The lock ends with the last clone in any case.
            let _ = lock.unlock();
        }
        Ok(())
    }
}

async fn connect(url: &str, location: &Location, set: impl FnOnce(&mut ConnectOptions)) -> Result<DatabaseConnection, OpenError> {
    let mut options = ConnectOptions::new(url);
    options
        .sqlx_logging(false)
        .test_before_acquire(false)
        .connect_timeout(Duration::from_secs(10))
        .acquire_timeout(Duration::from_secs(30))
        .record_stmt_in_spans(false);
    set(&mut options);
    sea_orm::Database::connect(options).await.map_err(|source| OpenError::Unreachable { location: location.clone(), source })
}
