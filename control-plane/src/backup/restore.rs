//! Brings a backup into an empty place: opened and checked whole before anything is put there, and then all of it or nothing.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use schema::clock::{Clock, Ids, Timestamp};
use sea_orm::ConnectionTrait;
use serde::Serialize;
use service::files::{OWNER_ONLY, create_private_directory, sync_directory};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, sqlite::SqliteConnectOptions};
use trust::seal::PrekeySecret;

use super::{
    BackupError, asking, blocking,
    erasures::Brought,
    file::{Engine, Head, Opening},
    tools::Tools,
};
use crate::{
    app::{kurrent_settings, owned},
    config::{Config, SourceKind},
    database::{Access, Database, Location},
    preparing,
    sealing::{Keyring, SealingKey, source::Sources},
};

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The backup.
    pub id: String,
    /// When it was begun.
    pub created: Timestamp,
    /// The deployment.
    pub deployment: String,
    /// Where it is now.
    pub place: String,
    /// The place of the last record.
    pub position: u64,
    /// The fingerprint of the sealing key that is needed.
    pub sealing_key: String,
    /// Whether that key is where settings look for it.
    pub sealing_key_is_there: bool,
    /// Whether a list of what was erased lay beside the backup, or was named: it is erased again at the next start.
    pub erasures_are_known: bool,
}

/// A database that was restored once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// When the backup was begun.
    pub created: Timestamp,
    /// When it was restored.
    pub restored: Timestamp,
}

/// Restores a backup into the store that settings name. `erased`: a list of what was erased, beside the one that lies beside the
/// backup.
pub async fn restore(
    config: &Config,
    path: &Path,
    secret: &PrekeySecret,
    erased: Option<&Path>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
) -> Result<Restored, BackupError> {
    if kurrent_settings(config)?.is_some() {
        return Err(BackupError::Kurrent);
    }
    let head = read_head(path)?;
    let (location, access) = owned(config)?;
    let wanted = match location {
        Location::Sqlite(_) => Engine::Sqlite,
        Location::Postgres(_) => Engine::Postgresql,
    };
    if head.engine != wanted {
        return Err(BackupError::OtherEngine { path: path.to_owned(), found: name(head.engine), wanted: name(wanted) });
    }
    let key_file = config.sealing_key_file();
    // Only a file can be asked which keys it has; what others wrap, the database keeps.
    if only_a_file(config) && key_file.exists() {
        let found: Vec<String> = SealingKey::read_all(&key_file)?.iter().map(|key| key.fingerprint().to_string()).collect();
        if !found.contains(&head.sealing_key) {
            let found = found.join(", ");
            return Err(BackupError::OtherSealingKey { path: path.to_owned(), expected: head.sealing_key, found, key_file });
        }
    }
    let brought = Brought::read(config, path, &head, erased)?;
    create_private_directory(&config.data_dir)?;
    let tools = config.backup.postgres_tools.as_deref();
    brought.put()?;
    let restored = restore_into(&location, &config.data_dir, tools, path, secret, &*clock).await;
    if restored.is_err() {
        brought.take_back();
    }
    let position = restored?;
    if config.store.roles.named() {
        preparing::migrate(config).await?;
    }
    let sealing_key_is_there = opens(config, &location, &access, clock, ids).await?;
    let Head { id, created, deployment, sealing_key, .. } = head;
    Ok(Restored {
        id,
        created,
        deployment,
        place: format!("{location:?}"),
        position,
        sealing_key,
        sealing_key_is_there,
        erasures_are_known: brought.found,
    })
}

/// Whether settings name no other place for a sealing key.
fn only_a_file(config: &Config) -> bool {
    let sealing = &config.sealing;
    matches!(sealing.source, SourceKind::File) && sealing.environment().is_none() && sealing.pkcs11.is_none() && sealing.remote.is_none()
}

/// Whether the sealing key is to be had where settings look for it.
async fn opens(
    config: &Config,
    location: &Location,
    access: &Access,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
) -> Result<bool, BackupError> {
    let database = Database::open_with(location, access).await?;
    let opened = match Sources::new(config) {
        Ok(sources) => Keyring::open_from(database.clone(), sources, clock, ids).await.map(drop),
        Err(error) => Err(error),
    };
    database.close().await.map_err(asking("closing the database"))?;
    if let Err(error) = &opened {
        tracing::warn!(error = error as &dyn std::error::Error, "the sealing key of what was restored is not to be had yet");
    }
    Ok(opened.is_ok())
}

const fn name(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "SQLite",
        Engine::Postgresql => "PostgreSQL",
    }
}

fn read_head(path: &Path) -> Result<Head, BackupError> {
    let file = File::open(path).map_err(|source| BackupError::reading(path, source))?;
    Ok(Opening::begin(path, BufReader::new(file))?.head)
}

/// Restores a backup to a place; gives how far its log is.
pub(super) async fn restore_into(
    location: &Location,
    work: &Path,
    tools: Option<&Path>,
    path: &Path,
    secret: &PrekeySecret,
    clock: &dyn Clock,
) -> Result<u64, BackupError> {
    let head = read_head(path)?;
    match location {
        Location::Sqlite(target) => {
            refuse_filled_sqlite(target)?;
            let part = beside(target, ".restoring");
            let outcome = restore_sqlite(path, secret, &part, &head, clock).await;
            let outcome = outcome.and_then(|position| {
                // Never over something that came meanwhile.
                std::fs::hard_link(&part, target).map_err(BackupError::writing)?;
                sync_directory(target.parent().unwrap_or(Path::new(".")))?;
                Ok(position)
            });
            for ending in ["", "-wal", "-shm", ".lock", "-journal"] {
                let _ = std::fs::remove_file(beside(&part, ending));
            }
            outcome
        }
        Location::Postgres(url) => {
            refuse_filled_postgres(location).await?;
            let archive = work.join(format!("restoring-{}.dump", head.id));
            let outcome = restore_postgres(path, secret, &archive, Tools::new(tools, url)?).await;
            let _ = std::fs::remove_file(&archive);
            outcome?;
            mark(location, &head, clock).await
        }
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn refuse_filled_sqlite(target: &Path) -> Result<(), BackupError> {
    for ending in ["", "-wal", "-journal"] {
        let there = beside(target, ending);
        if there.exists() {
            return Err(BackupError::NotEmpty { what: format!("{} is there: move it away first", there.display()) });
        }
    }
    Ok(())
}

/// Opens the backup whole into a file.
async fn open_into(path: &Path, secret: &PrekeySecret, out: &Path) -> Result<(), BackupError> {
    let (path, out) = (path.to_owned(), out.to_owned());
    let secret = PrekeySecret::from_bytes(&*secret.to_bytes()).map_err(|_| BackupError::Sealing)?;
    blocking(move || {
        let _ = std::fs::remove_file(&out);
        let file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(&out).map_err(BackupError::writing)?;
        let mut file = io::BufWriter::new(file);
        let input = File::open(&path).map_err(|source| BackupError::reading(&path, source))?;
        Opening::begin(&path, BufReader::new(input))?.open(&secret)?.copy_to(&mut file)?;
        file.flush().map_err(BackupError::writing)?;
        file.get_ref().sync_all().map_err(BackupError::writing)
    })
    .await
}

async fn restore_sqlite(path: &Path, secret: &PrekeySecret, part: &Path, head: &Head, clock: &dyn Clock) -> Result<u64, BackupError> {
    if let Some(folder) = part.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        create_private_directory(folder)?;
    }
    open_into(path, secret, part).await?;
    check_sqlite(path, part).await?;
    mark(&Location::Sqlite(part.to_owned()), head, clock).await
}

/// What SQLite itself says of a file.
async fn check_sqlite(path: &Path, part: &Path) -> Result<(), BackupError> {
    let damaged = |detail: String| BackupError::Damaged { path: path.to_owned(), detail };
    let failed = |error: sqlx::Error| damaged(format!("what is in it is no sound database: {error}"));
    let mut connection = SqliteConnectOptions::new().filename(part).connect().await.map_err(failed)?;
    let rows = sqlx::query("PRAGMA quick_check").fetch_all(&mut connection).await.map_err(failed)?;
    let said: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed)?;
    connection.close().await.map_err(failed)?;
    if said == ["ok"] { Ok(()) } else { Err(damaged(format!("what is in it is no sound database: {}", said.join("; ")))) }
}

/// How far the log in a copy is.
pub(super) async fn position_in(copy: &Path) -> Result<u64, BackupError> {
    let damaged = |error: sqlx::Error| BackupError::Damaged { path: copy.to_owned(), detail: format!("the copy does not read: {error}") };
    let mut connection = SqliteConnectOptions::new().filename(copy).read_only(true).connect().await.map_err(damaged)?;
    let row = sqlx::query("SELECT position FROM log_head WHERE id = 1").fetch_one(&mut connection).await.map_err(damaged)?;
    let position: i64 = row.try_get(0).map_err(damaged)?;
    connection.close().await.map_err(damaged)?;
    Ok(position.unsigned_abs())
}

async fn restore_postgres(path: &Path, secret: &PrekeySecret, archive: &Path, tools: Tools) -> Result<(), BackupError> {
    open_into(path, secret, archive).await?;
    let archive = archive.to_owned();
    blocking(move || tools.restore(&archive)).await
}

async fn refuse_filled_postgres(location: &Location) -> Result<(), BackupError> {
    let Location::Postgres(url) = location else { return Ok(()) };
    let failed = |error: sqlx::Error| BackupError::Setting { setting: "store.url", what: format!("the database cannot be asked: {error}") };
    let mut connection = sqlx::PgConnection::connect(url).await.map_err(failed)?;
    let sql = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY 1 LIMIT 1";
    let row = sqlx::query(sql).fetch_optional(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    match row {
        None => Ok(()),
        Some(row) => {
            let table: String = row.try_get(0).map_err(failed)?;
            Err(BackupError::NotEmpty { what: format!("{location:?} has the table {table}: name an empty database") })
        }
    }
}

/// Notes in a restored database that it is one, and brings its schema up to date; gives how far its log is.
async fn mark(location: &Location, head: &Head, clock: &dyn Clock) -> Result<u64, BackupError> {
    let database = Database::open(location).await?;
    let sql = "INSERT INTO deployment_restore (id, backup, created, restored) VALUES (1, $1, $2, $3) \
               ON CONFLICT (id) DO UPDATE SET backup = excluded.backup, created = excluded.created, restored = excluded.restored";
    let values = vec![head.id.clone().into(), head.created.micros().into(), clock.now().micros().into()];
    let marked = database.write().execute_raw(database.sql(sql, values)).await.map_err(asking("noting that the database was restored"));
    let position = super::make::position(&database).await;
    database.close().await.map_err(asking("closing the database"))?;
    marked?;
    position
}

/// Whether a database was restored, and the last time.
pub async fn restored(database: &Database) -> Result<Option<Mark>, sea_orm::DbErr> {
    let row = database.read().query_one_raw(database.sql("SELECT created, restored FROM deployment_restore WHERE id = 1", vec![])).await?;
    row.map(|row| {
        Ok(Mark { created: Timestamp::from_micros(row.try_get_by_index(0)?), restored: Timestamp::from_micros(row.try_get_by_index(1)?) })
    })
    .transpose()
}
