//! The connection to SQLite or PostgreSQL that everything stored goes through.
//!
//! On SQLite one process writes, through one connection (so that writers queue and never collide), and others read; a
//! lock file beside the database keeps a second process out. On PostgreSQL any number of processes share the database.

use std::{
    error::Error,
    fmt,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use sea_orm::{
    ConnectOptions, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, RuntimeErr, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait, Value,
};
use sqlx::{
    ConnectOptions as _, Connection as _,
    postgres::PgConnectOptions,
    sqlite::{SqliteJournalMode, SqliteSynchronous},
};

/// How long one connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a server that refuses connections is given to start.
const SERVER_START_LIMIT: Duration = Duration::from_secs(15);

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
            Self::Postgres(url) => f.write_str(&without_secrets(url)),
        }
    }
}

/// Host, port and database; neither user, password nor options.
fn without_secrets(url: &str) -> String {
    let Ok(url) = url::Url::parse(url) else { return "postgres".to_owned() };
    format!(
        "postgres at {}:{}, database {}",
        url.host_str().unwrap_or("(a socket)"),
        url.port().unwrap_or(5432),
        url.path().trim_matches('/')
    )
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
    /// It is a file, and not a sound one.
    #[error("the database {} is damaged or is not a database; restore it from a backup, or move it away to begin anew", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What the driver said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// It could not be reached.
    #[error("the database cannot be used ({location:?}); check that it runs, and store.url and store.password_file")]
    Unreachable {
        /// Where.
        location: Location,
        /// What the driver said.
        #[source]
        source: DbErr,
    },
    /// Another program than this keeps it.
    #[error(
        "the database has the schema of another version of this program, or none yet; run this command with the version that serves it, \
         after its first start"
    )]
    OtherVersion,
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
                wait_for_server(url, location).await?;
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

    /// Opens it beside whoever serves it, for a few short changes: without the lock of a SQLite file, and without bringing the
    /// schema up to date, which must be that of this program.
    pub async fn beside(location: &Location) -> Result<Self, OpenError> {
        let opened = match location {
            Location::Sqlite(path) => Self::connect_sqlite(path, location, false, None).await?,
            Location::Postgres(url) => {
                let pool = connect(url, location, |options| {
                    options.max_connections(2).min_connections(1);
                })
                .await?;
                Inner { write: pool.clone(), read: pool, backend: DbBackend::Postgres, lock: None }
            }
        };
        match migrations::is_current(&opened.write).await {
            Ok(true) => Ok(Self(Arc::new(opened))),
            Ok(false) => Err(OpenError::OtherVersion),
            Err(source) => Err(OpenError::Unreachable { location: location.clone(), source }),
        }
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
        Self::connect_sqlite(path, location, true, Some(lock)).await
    }

    async fn connect_sqlite(path: &Path, location: &Location, make: bool, lock: Option<File>) -> Result<Inner, OpenError> {
        let file = path.to_owned();
        let write = connect("sqlite://", location, |options| {
            let file = file.clone();
            options.max_connections(1).map_sqlx_sqlite_opts(move |sqlite| {
                sqlite
                    .filename(&file)
                    .create_if_missing(make)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(Duration::from_secs(10))
                    // Keys that are destroyed are overwritten, not only unlinked.
                    .pragma("secure_delete", "ON")
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
        Ok(Inner { write, read, backend: DbBackend::Sqlite, lock })
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

/// Whether SQLite said that a file is damaged (`SQLITE_CORRUPT`) or none of its own (`SQLITE_NOTADB`).
pub fn is_damage(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if text.contains("(code: 11)") || text.contains("(code: 26)") {
            return true;
        }
        next = error.source();
    }
    false
}

/// A pool asks a server that refuses again and again and at last says only that it took too long. This says why, and gives a
/// server that is just starting its time.
async fn wait_for_server(url: &str, location: &Location) -> Result<(), OpenError> {
    let unreachable =
        |source| OpenError::Unreachable { location: location.clone(), source: DbErr::Conn(RuntimeErr::SqlxError(Arc::new(source))) };
    let options: PgConnectOptions = url.parse().map_err(unreachable)?;
    let started = Instant::now();
    let mut told = false;
    loop {
        let attempt = tokio::time::timeout(CONNECT_LIMIT, options.connect()).await;
        let error = match attempt {
            Ok(Ok(connection)) => return connection.close().await.map_err(unreachable),
            Ok(Err(error)) => error,
            Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
        };
        // Refused while it starts or restarts; anything else does not get better by itself.
        let starting = matches!(&error, sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused);
        if !starting || started.elapsed() > SERVER_START_LIMIT {
            return Err(unreachable(error));
        }
        if !told {
            tracing::warn!(database = ?location, "the database does not answer yet; trying for {} s", SERVER_START_LIMIT.as_secs());
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn connect(url: &str, location: &Location, set: impl FnOnce(&mut ConnectOptions)) -> Result<DatabaseConnection, OpenError> {
    let mut options = ConnectOptions::new(url);
    options
        .sqlx_logging(false)
        .test_before_acquire(false)
        .connect_timeout(CONNECT_LIMIT)
        .acquire_timeout(Duration::from_secs(30))
        .record_stmt_in_spans(false);
    set(&mut options);
    sea_orm::Database::connect(options).await.map_err(|source| match location {
        Location::Sqlite(path) if is_damage(&source) => OpenError::Damaged { path: path.clone(), source: Box::new(source) },
        _ => OpenError::Unreachable { location: location.clone(), source },
    })
}
