//! The connection to SQLite or PostgreSQL that everything stored goes through.
//!
//! On SQLite one process writes, through one connection (so that writers queue and never collide), and others read; a
//! lock file beside the database keeps a second process out. On PostgreSQL any number of processes share the database, through
//! [`roles`] when settings name some.

pub mod roles;
pub mod room;
mod scoped;

use std::{
    error::Error,
    fmt,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use sea_orm::{
    ConnectOptions, ConnectionTrait as _, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, RuntimeErr, SqliteTransactionMode,
    Statement, TransactionOptions, TransactionTrait, Value,
};
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
    sqlite::{SqliteJournalMode, SqliteSynchronous},
};

use roles::{Duty, Role, Roles};
pub use scoped::Scoped;

/// How long one connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a transaction may stand open with nothing going on in it. A process that was paused in the middle of one holds its
/// locks, and everybody would wait for it; the server ends it instead, and what came of a commit is read back.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(8);
/// How long a server that refuses connections is given to start.
const SERVER_START_LIMIT: Duration = Duration::from_secs(15);

/// The target under which every statement is traced, without its values.
pub const STATEMENTS: &str = "freehold::statements";

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

/// How PostgreSQL is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The roles to connect as, instead of as who the URL names.
    pub roles: Option<Roles>,
    /// Whether commits must wait for a standby.
    pub synchronous_standby: bool,
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
    /// It did not prove who it is.
    #[error(
        "the database's certificate is not accepted ({location:?}): nothing was sent to it; sslrootcert in store.url names the authority \
         to believe, and the certificate must name the host of store.url"
    )]
    Certificate {
        /// Where.
        location: Location,
        /// What the driver said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The schema could not be brought up to date.
    #[error("bringing the database schema up to date failed; nothing was started")]
    Migration(#[source] DbErr),
    /// Somebody else is to bring the schema up to date, and has not.
    #[error(
        "the database schema is not up to date ({missing} is missing), and store.roles.migrate is off; run `freehold-control-plane database migrate`"
    )]
    Outdated {
        /// The first step that is missing.
        missing: String,
    },
    /// The roles could not be given what they need.
    #[error(
        "giving the roles of store.roles what they need failed; `freehold-control-plane database roles` prints what a database \
         administrator is to run"
    )]
    Granting(#[source] DbErr),
    /// A role may do what it should not, or not what it should.
    #[error(
        "the database role \"{role}\" ({setting}) is not used: it {problem}; `freehold-control-plane database roles` prints how roles are made"
    )]
    Role {
        /// Its name.
        role: String,
        /// The setting that names it.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// What is committed would be lost with the server.
    #[error(
        "store.synchronous_standby is set, and {problem} ({location:?}); set synchronous_standby_names and synchronous_commit = on in PostgreSQL"
    )]
    NotReplicated {
        /// Where.
        location: Location,
        /// What is missing.
        problem: String,
    },
}

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
    /// Whether changes are those of a projector.
    projecting: bool,
    room: room::Room,
}

struct Inner {
    write: DatabaseConnection,
    read: DatabaseConnection,
    /// What only sees the tenant that its transaction names.
    reader: Option<DatabaseConnection>,
    /// What writes read models.
    project: DatabaseConnection,
    backend: DbBackend,
    lock: Option<File>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.inner.backend.as_str())
    }
}

impl Database {
    /// Opens it and brings its schema up to date.
    pub async fn open(location: &Location) -> Result<Self, OpenError> {
        Self::open_with(location, &Access::default()).await
    }

    /// The same; a PostgreSQL in this way.
    pub async fn open_with(location: &Location, access: &Access) -> Result<Self, OpenError> {
        let inner = match (location, &access.roles) {
            (Location::Sqlite(path), _) => {
                let opened = Self::open_sqlite(path, location).await?;
                migrations::up(&opened.write).await.map_err(OpenError::Migration)?;
                opened
            }
            (Location::Postgres(url), None) => {
                let pool = Self::as_owner(url, location, access).await?;
                let (read, project) = (pool.clone(), pool.clone());
                Inner { write: pool, read, reader: None, project, backend: DbBackend::Postgres, lock: None }
            }
            (Location::Postgres(url), Some(roles)) => Self::open_as(url, roles, location, access).await?,
        };
        Ok(Self { inner: Arc::new(inner), projecting: false, room: room::Room::default() })
    }

    /// As who the URL names; the schema is up to date then.
    async fn as_owner(url: &str, location: &Location, access: &Access) -> Result<DatabaseConnection, OpenError> {
        wait_for_server(url, None, location, access).await?;
        let pool = connect_postgres(url, None, 16, location, access).await?;
        migrations::up(&pool).await.map_err(OpenError::Migration)?;
        Ok(pool)
    }

    /// As roles, each of which is looked at first.
    async fn open_as(url: &str, roles: &Roles, location: &Location, access: &Access) -> Result<Inner, OpenError> {
        if roles.migrate {
            let owner = Self::as_owner(url, location, access).await?;
            roles::grant(&owner, roles).await.map_err(OpenError::Granting)?;
            owner.close().await.map_err(OpenError::Granting)?;
        }
        let mut pools = Vec::with_capacity(3);
        for (duty, role, most) in
            [(Duty::Writer, &roles.writer, 10), (Duty::Reader, &roles.reader, 10), (Duty::Projector, &roles.projector, 6)]
        {
            wait_for_server(url, Some(role), location, access).await?;
            let pool = connect_postgres(url, Some(role), most, location, access).await?;
            let unreachable = |source| OpenError::Unreachable { location: location.clone(), source };
            if let Some(problem) = roles::check(&pool, duty, roles).await.map_err(unreachable)? {
                return Err(OpenError::Role { role: role.name().to_owned(), setting: duty.setting(), problem });
            }
            if duty == Duty::Writer
                && let Some(missing) = migrations::missing(&pool).await.map_err(unreachable)?
            {
                return Err(OpenError::Outdated { missing });
            }
            pools.push(pool);
        }
        let [write, reader, project] = pools.try_into().unwrap_or_else(|_| unreachable!("there are three roles"));
        Ok(Inner { write, read: project.clone(), reader: Some(reader), project, backend: DbBackend::Postgres, lock: None })
    }

    /// Whether it has room.
    pub fn room(&self) -> &room::Room {
        &self.room
    }

    /// For who writes read models: the same database, changed as the projector.
    #[must_use]
    pub fn projecting(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), projecting: true, room: self.room.clone() }
    }

    /// Opens it beside whoever serves it, for a few short changes: without the lock of a SQLite file, and without bringing the
    /// schema up to date, which must be that of this program.
    pub async fn beside(location: &Location) -> Result<Self, OpenError> {
        let opened = match location {
            Location::Sqlite(path) => Self::connect_sqlite(path, location, false, None).await?,
            Location::Postgres(url) => {
                let pool = connect_postgres(url, None, 2, location, &Access::default()).await?;
                Inner { write: pool.clone(), read: pool.clone(), reader: None, project: pool, backend: DbBackend::Postgres, lock: None }
            }
        };
        match migrations::is_current(&opened.write).await {
            Ok(true) => Ok(Self { inner: Arc::new(opened), projecting: false, room: room::Room::default() }),
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
            // After a commit that failed the driver counts a transaction that SQLite has ended, or the other way round: what came next
            // would be a part of one that nobody commits. Such a connection is closed, which ends whatever it held.
            options.map_sqlx_sqlite_pool_opts(|pool| {
                pool.before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
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
        let project = write.clone();
        Ok(Inner { write, read, reader: None, project, backend: DbBackend::Sqlite, lock })
    }

    /// For changes, and for reads that must see the latest of them.
    pub fn write(&self) -> &DatabaseConnection {
        if self.projecting { &self.inner.project } else { &self.inner.write }
    }

    /// For reads that are not inside one tenant; [`Database::of`] is for those that are.
    pub fn read(&self) -> &DatabaseConnection {
        &self.inner.read
    }

    /// What only sees one tenant, where there is a role for it.
    fn reader(&self) -> Option<&DatabaseConnection> {
        self.inner.reader.as_ref()
    }

    /// Which engine it is.
    pub fn backend(&self) -> DbBackend {
        self.inner.backend
    }

    /// Why what is committed could be lost with the server, if it could. Of a file there is nothing to say: it is on one disk, and
    /// nobody takes it for two.
    pub async fn unreplicated(&self) -> Result<Option<String>, DbErr> {
        if self.backend() == DbBackend::Sqlite {
            return Ok(None);
        }
        let sql = "SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names')";
        let row = self.write().query_one_raw(self.sql(sql, vec![])).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("settings of the server".to_owned()))?;
        let (commit, names): (String, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        Ok(unreplicated(&commit, &names))
    }

    /// A transaction that may write; on SQLite it has the write lock from the start.
    pub async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        let options =
            TransactionOptions { sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate), ..TransactionOptions::default() };
        self.write().begin_with_options(options).await
    }

    /// A statement with `$1`-style parameters.
    pub fn sql(&self, sql: impl Into<String>, values: Vec<Value>) -> Statement {
        let sql = sql.into();
        // For transcripts of what a version says to its database (`tests/transcripts`).
        tracing::trace!(target: STATEMENTS, sql, types = values.iter().map(type_name).collect::<Vec<_>>().join(","));
        Statement::from_sql_and_values(self.inner.backend, sql, values)
    }

    /// `FOR UPDATE` where the engine knows it; SQLite's write transactions exclude each other anyway.
    pub fn for_update(&self) -> &'static str {
        match self.inner.backend {
            DbBackend::Sqlite => "",
            _ => " FOR UPDATE",
        }
    }

    /// Closes every connection, after what is under way, and lets another process have the file.
    pub async fn close(&self) -> Result<(), DbErr> {
        self.inner.read.close_by_ref().await?;
        if let Some(reader) = &self.inner.reader {
            reader.close_by_ref().await?;
        }
        self.inner.project.close_by_ref().await?;
        self.inner.write.close_by_ref().await?;
        if let Some(lock) = &self.inner.lock {
            // The lock ends with the last clone in any case.
            let _ = lock.unlock();
        }
        Ok(())
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::BigInt(_) => "bigint",
        Value::Bytes(_) => "bytea",
        Value::Bool(_) => "boolean",
        _ => "text",
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

/// Without verification anybody on the way may answer as the database.
fn warn_of_strangers(options: &PgConnectOptions, location: &Location) {
    let host = options.get_host();
    let near = options.get_socket().is_some() || host.starts_with('/') || matches!(host, "localhost" | "127.0.0.1" | "::1");
    if !near && !matches!(options.get_ssl_mode(), PgSslMode::VerifyFull) {
        tracing::warn!(database = ?location, "the database does not prove who it is; use sslmode=verify-full and sslrootcert in store.url");
    }
}

/// A pool asks a server that refuses again and again and at last says only that it took too long. This says why, and gives a
/// server that is just starting its time.
async fn wait_for_server(url: &str, role: Option<&Role>, location: &Location, access: &Access) -> Result<(), OpenError> {
    let unreachable =
        |source| OpenError::Unreachable { location: location.clone(), source: DbErr::Conn(RuntimeErr::SqlxError(Arc::new(source))) };
    let options: PgConnectOptions = address(url, role).parse().map_err(unreachable)?;
    let options = as_role(options, role);
    warn_of_strangers(&options, location);
    let started = Instant::now();
    let mut told = false;
    loop {
        let attempt = tokio::time::timeout(CONNECT_LIMIT, options.connect()).await;
        let error = match attempt {
            Ok(Ok(mut connection)) => {
                let fit = fitness(&mut connection, access.synchronous_standby).await.map_err(unreachable)?;
                connection.close().await.map_err(unreachable)?;
                return match fit {
                    Fitness::Unreplicated(problem) => Err(OpenError::NotReplicated { location: location.clone(), problem }),
                    _ => Ok(()),
                };
            }
            Ok(Err(error)) => error,
            Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
        };
        // Refused while it starts or restarts; anything else does not get better by itself.
        let starting = matches!(&error, sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused);
        match error {
            sqlx::Error::Tls(source) => return Err(OpenError::Certificate { location: location.clone(), source }),
            // What the TLS library refuses in a handshake.
            sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
                return Err(OpenError::Certificate { location: location.clone(), source: io.into() });
            }
            _ => {}
        }
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

/// The URL; without the password of its own user, when another connects.
fn address(url: &str, role: Option<&Role>) -> String {
    match (url::Url::parse(url), role) {
        (Ok(mut url), Some(_)) => {
            let _ = url.set_password(None);
            url.into()
        }
        _ => url.to_owned(),
    }
}

fn as_role(options: PgConnectOptions, role: Option<&Role>) -> PgConnectOptions {
    let Some(role) = role else { return options };
    let options = options.username(role.name());
    match role.password() {
        Some(password) => options.password(&password),
        None => options,
    }
}

/// Whether a server may be given something to keep.
enum Fitness {
    Fit,
    /// It only follows another, and takes nothing.
    Standby,
    /// Its commits do not wait for a standby, as they should: why.
    Unreplicated(String),
}

/// Why commits with these settings do not wait for a standby, if so.
fn unreplicated(commit: &str, names: &str) -> Option<String> {
    if names.trim().is_empty() {
        return Some("the server names no synchronous standby".to_owned());
    }
    (!matches!(commit, "on" | "remote_apply")).then(|| format!("its synchronous_commit is \"{commit}\""))
}

/// Looks at a new connection, makes its commits wait for the disk in any case, and bounds how long it may hold what it has locked.
async fn fitness(connection: &mut PgConnection, synchronous_standby: bool) -> Result<Fitness, sqlx::Error> {
    let sql = "SELECT pg_is_in_recovery(), current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), \
               set_config('idle_in_transaction_session_timeout', $1, false)";
    let idle = IDLE_IN_TRANSACTION.as_millis().to_string();
    let (standby, commit, names, _): (bool, String, String, String) = sqlx::query_as(sql).bind(idle).fetch_one(&mut *connection).await?;
    if standby {
        return Ok(Fitness::Standby);
    }
    if let Some(problem) = unreplicated(&commit, &names).filter(|_| synchronous_standby) {
        return Ok(Fitness::Unreplicated(problem));
    }
    if commit == "off" {
        // What is acknowledged must not be lost with the server's memory.
        sqlx::query("SET synchronous_commit = on").execute(connection).await?;
    }
    Ok(Fitness::Fit)
}

async fn connect_postgres(
    url: &str,
    role: Option<&Role>,
    most: u32,
    location: &Location,
    access: &Access,
) -> Result<DatabaseConnection, OpenError> {
    let (connects, demanded) = (role.cloned(), access.synchronous_standby);
    connect(&address(url, role), location, |options| {
        options.max_connections(most).min_connections(1);
        options.map_sqlx_postgres_opts(move |options| as_role(options, connects.as_ref()));
        // Another server may answer at the same address tomorrow: each connection is looked at.
        options.map_sqlx_postgres_pool_opts(move |pool| {
            let pool = pool.before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }));
            pool.after_connect(move |connection, _| {
                Box::pin(async move {
                    let refused = |problem: String| Err(sqlx::Error::Configuration(problem.into()));
                    match fitness(connection, demanded).await? {
                        Fitness::Fit => Ok(()),
                        Fitness::Standby => refused("this server is a standby, which takes nothing".to_owned()),
                        Fitness::Unreplicated(problem) => refused(format!("store.synchronous_standby is set, and {problem}")),
                    }
                })
            })
        });
    })
    .await
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
