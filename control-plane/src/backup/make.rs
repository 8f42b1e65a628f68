//! Makes backups while the control plane serves, lists them, and removes old ones.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use schema::{
    clock::{Clock, Ids, Timestamp, random},
    encoding::u64_string,
};
use sea_orm::ConnectionTrait;
use serde::Serialize;
use service::files::{OWNER_ONLY, create_private_directory, sync_directory};
use sha2::{Digest as _, Sha256};

use super::{
    BackupError, EXTENSION, asking, blocking, erasures,
    file::{ContentKey, Engine, Head, Opening, Sealer},
    key::RecipientKey,
    tools::Tools,
};
use crate::{
    app::{kurrent_settings, owned},
    config::Config,
    database::{Database, Location},
    deployment,
    sealing::Keyring,
};

/// A backup that was made, or found in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// The file.
    pub path: PathBuf,
    /// Its name.
    pub id: String,
    /// When it was begun.
    pub created: Timestamp,
    /// The deployment.
    pub deployment: String,
    /// What it is of.
    pub engine: Engine,
    /// The records that it holds at least.
    #[serde(with = "u64_string")]
    pub position: u64,
    /// Its size.
    pub bytes: u64,
    /// The key that opens it.
    pub recipient: String,
    /// The fingerprint of the sealing key that is needed as well.
    pub sealing_key: String,
}

impl Made {
    fn of(path: &Path, head: &Head, bytes: u64) -> Self {
        Self {
            path: path.to_owned(),
            id: head.id.clone(),
            created: head.created,
            deployment: head.deployment.clone(),
            engine: head.engine,
            position: head.position,
            bytes,
            recipient: head.recipient.to_string(),
            sealing_key: head.sealing_key.clone(),
        }
    }
}

/// What lies in a folder of backups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// The backups, oldest first.
    pub backups: Vec<Made>,
    /// Files that are called like one and do not read as one, and why.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Makes backups of one deployment. Clones share it.
#[derive(Clone)]
pub struct Maker {
    database: Database,
    location: Location,
    tools: Option<Tools>,
    directory: PathBuf,
    /// Where a copy lies while it is sealed.
    work: PathBuf,
    recipient: RecipientKey,
    deployment: String,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl Maker {
    /// As settings say, of a database that is open.
    pub fn new(config: &Config, database: Database, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Self, BackupError> {
        if kurrent_settings(config)?.is_some() {
            return Err(BackupError::Kurrent);
        }
        let missing = |setting, what: &str| BackupError::Setting { setting, what: what.to_owned() };
        let directory = config.backup.directory.clone();
        let directory = directory.ok_or_else(|| missing("backup.directory", "name a folder on other storage than the database's"))?;
        let recipient = config.backup.recipient_file.as_ref();
        let recipient = recipient.ok_or_else(|| missing("backup.recipient_file", "name the public half that `backup keygen` wrote"))?;
        // Who dumps a database has to see every row of it.
        let (location, _) = owned(config)?;
        let tools = match &location {
            Location::Postgres(url) => Some(Tools::new(config.backup.postgres_tools.as_deref(), url)?),
            Location::Sqlite(_) => None,
        };
        Ok(Self {
            recipient: RecipientKey::read(recipient)?,
            database,
            location,
            tools,
            directory,
            work: config.data_dir.join("backup-work"),
            deployment: config.deployment.clone(),
            clock,
            ids,
        })
    }

    /// Makes a backup, reads it back, and only then gives it its name.
    pub async fn make(&self) -> Result<Made, BackupError> {
        let created = self.clock.now();
        create_private_directory(&self.directory)?;
        let sealing_key = Keyring::expected(&self.database).await?.ok_or(BackupError::Nothing)?.to_string();
        let deployment = self.recorded().await?;
        let time: String = created.to_string().chars().filter(char::is_ascii_alphanumeric).take(15).collect();
        let id = format!("{time}-{}", hex::encode(random::<4>(&*self.ids)));
        let path = self.directory.join(format!("{}-{id}.{EXTENSION}", super::plain(&deployment)));
        erasures::keep(&self.database, &self.directory, &deployment).await?;
        // A transaction that is open now is in it or not; what was committed before is.
        let (engine, copy) = match &self.location {
            Location::Sqlite(_) => (Engine::Sqlite, Some(self.copy_sqlite(&id).await?)),
            Location::Postgres(_) => (Engine::Postgresql, None),
        };
        let position = match &copy {
            Some(_) => None,
            None => Some(position(&self.database).await?),
        };
        let head = Head::new(id, created, deployment, engine, sealing_key, position.unwrap_or(0));
        let outcome = self.seal(head, path, copy.clone()).await;
        if let Some(copy) = copy {
            let _ = std::fs::remove_file(copy);
        }
        outcome
    }

    /// Brings the list of what was erased up to date, which lies beside the backups.
    pub async fn keep_erasures(&self) -> Result<(), BackupError> {
        erasures::keep(&self.database, &self.directory, &self.recorded().await?).await
    }

    async fn recorded(&self) -> Result<String, BackupError> {
        deployment::recorded(&self.database, &self.deployment).await.map_err(asking("reading the deployment's name"))
    }

    /// A copy as of one moment, made beside whoever writes.
    async fn copy_sqlite(&self, id: &str) -> Result<PathBuf, BackupError> {
        create_private_directory(&self.work)?;
        // Left by a process that was killed.
        for entry in std::fs::read_dir(&self.work).map_err(|source| BackupError::reading(&self.work, source))?.flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        let copy = self.work.join(format!("{id}.db"));
        let sql = self.database.sql("VACUUM INTO $1", vec![copy.display().to_string().into()]);
        self.database.read().execute_raw(sql).await.map_err(asking("copying the database"))?;
        Ok(copy)
    }

    async fn seal(&self, mut head: Head, path: PathBuf, copy: Option<PathBuf>) -> Result<Made, BackupError> {
        if let Some(copy) = &copy {
            head.position = super::restore::position_in(copy).await?;
        }
        let (recipient, ids, tools) = (self.recipient.clone(), self.ids.clone(), self.tools.clone());
        blocking(move || {
            let mut part = path.clone().into_os_string();
            part.push(".part");
            let part = PathBuf::from(part);
            let made = write(head, &recipient, &*ids, &part, |out| match (&copy, &tools) {
                (Some(copy), _) => {
                    let mut input = File::open(copy).map_err(|source| BackupError::reading(copy, source))?;
                    io::copy(&mut input, out).map(drop).map_err(BackupError::writing)
                }
                (None, Some(tools)) => tools.dump(out),
                (None, None) => Err(BackupError::Nothing),
            });
            let made = made.and_then(|(head, bytes)| {
                std::fs::rename(&part, &path).map_err(BackupError::writing)?;
                sync_directory(path.parent().unwrap_or(Path::new(".")))?;
                Ok(Made::of(&path, &head, bytes))
            });
            if made.is_err() {
                let _ = std::fs::remove_file(&part);
            }
            made
        })
        .await
    }
}

/// Writes a backup and reads it back.
fn write(
    head: Head,
    recipient: &RecipientKey,
    ids: &dyn Ids,
    part: &Path,
    body: impl FnOnce(&mut Hashing<'_, Sealer<io::BufWriter<File>>>) -> Result<(), BackupError>,
) -> Result<(Head, u64), BackupError> {
    let _ = std::fs::remove_file(part);
    let file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(part).map_err(BackupError::writing)?;
    let (mut sealer, head, key) = Sealer::begin(head, recipient, ids, io::BufWriter::new(file))?;
    let mut hashing = Hashing { hash: Sha256::new(), out: &mut sealer };
    body(&mut hashing)?;
    let written = hashing.hash.finalize();
    let file = sealer.finish()?.into_inner().map_err(|error| BackupError::Writing(error.into_error()))?;
    file.sync_all().map_err(BackupError::writing)?;
    let bytes = file.metadata().map_err(BackupError::writing)?.len();
    drop(file);
    if read_back(part, &key)? != written {
        return Err(BackupError::NotWritten { path: part.to_owned() });
    }
    Ok((head, bytes))
}

fn read_back(path: &Path, key: &ContentKey) -> Result<sha2::digest::Output<Sha256>, BackupError> {
    let file = File::open(path).map_err(|source| BackupError::reading(path, source))?;
    let mut read = Hashing { hash: Sha256::new(), out: &mut io::sink() };
    let not_written = |error| match error {
        BackupError::Damaged { path, .. } => BackupError::NotWritten { path },
        error => error,
    };
    Opening::begin(path, BufReader::new(file)).and_then(|file| file.open_with(key)?.copy_to(&mut read)).map_err(not_written)?;
    Ok(read.hash.finalize())
}

/// Writes on, and hashes what goes by.
struct Hashing<'a, W: Write> {
    hash: Sha256,
    out: &'a mut W,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// How far the log is.
pub(super) async fn position(database: &Database) -> Result<u64, BackupError> {
    let act = "reading the head of the log";
    let row =
        database.read().query_one_raw(database.sql("SELECT position FROM log_head WHERE id = 1", vec![])).await.map_err(asking(act))?;
    let position: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose().map_err(asking(act))?;
    Ok(position.unwrap_or(0).unsigned_abs())
}

/// Makes one as settings say, without a control plane that serves: on SQLite it must be stopped, which the lock of the file tells.
pub async fn make(config: &Config, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Made, BackupError> {
    service::tls::install_provider();
    let (location, access) = owned(config)?;
    let database = Database::open_with(&location, &access).await?;
    let made = match Maker::new(config, database.clone(), clock, ids) {
        Ok(maker) => maker.make().await,
        Err(error) => Err(error),
    };
    let _ = database.close().await;
    made
}

/// What lies in a folder.
pub fn list(directory: &Path) -> Result<Listing, BackupError> {
    let mut listing = Listing::default();
    for entry in std::fs::read_dir(directory).map_err(|source| BackupError::reading(directory, source))? {
        let path = entry.map_err(|source| BackupError::reading(directory, source))?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        match read_head(&path) {
            Ok(made) => listing.backups.push(made),
            Err(error) => listing.unreadable.push((path, error.to_string())),
        }
    }
    listing.backups.sort_by(|a, b| (a.created, &a.path).cmp(&(b.created, &b.path)));
    listing.unreadable.sort();
    Ok(listing)
}

/// What a backup says of itself.
pub fn read_head(path: &Path) -> Result<Made, BackupError> {
    let reading = |source| BackupError::reading(path, source);
    let file = File::open(path).map_err(reading)?;
    let bytes = file.metadata().map_err(reading)?.len();
    let opening = Opening::begin(path, BufReader::new(file))?;
    Ok(Made::of(path, &opening.head, bytes))
}

/// Removes backups of this deployment that are neither among the newest `keep` nor younger than `keep_for`; never the newest.
pub fn prune(
    directory: &Path,
    deployment: &str,
    keep: Option<u32>,
    keep_for: Option<std::time::Duration>,
    now: Timestamp,
) -> Result<Vec<PathBuf>, BackupError> {
    if keep.is_none() && keep_for.is_none() {
        return Ok(Vec::new());
    }
    let listing = list(directory)?;
    let ours: Vec<&Made> = listing.backups.iter().rev().filter(|made| made.deployment == deployment).collect();
    let among_newest = |place: usize| keep.is_some_and(|keep| place < keep as usize);
    let young = |made: &Made| keep_for.is_some_and(|keep_for| made.created > now.minus(keep_for));
    let mut removed = Vec::new();
    for (place, made) in ours.into_iter().enumerate().skip(1) {
        if !among_newest(place) && !young(made) {
            std::fs::remove_file(&made.path).map_err(BackupError::writing)?;
            removed.push(made.path.clone());
        }
    }
    Ok(removed)
}
