//! What was erased, beside the backups. A backup from before an erasure brings keys back; the list in `erased.jsonl` has them
//! destroyed again at the next start. So the newest list lies where backups are, and a restore takes it along.

use std::path::{Path, PathBuf};

use service::files::create_private_directory;

use super::{BackupError, file::Head};
use crate::{
    config::Config,
    database::Database,
    sealing::tombstones::{self, Tombstone},
};

/// How the list of a deployment is called.
const NAME: &str = "erased.jsonl";

/// Where the list of a deployment is, in a folder of backups.
pub fn beside(directory: &Path, deployment: &str) -> PathBuf {
    directory.join(format!("{}-{NAME}", super::plain(deployment)))
}

/// Adds to the list in a folder of backups whatever the database says was erased. Nothing is ever taken off it.
pub(super) async fn keep(database: &Database, directory: &Path, deployment: &str) -> Result<(), BackupError> {
    let erased = tombstones::all(database).await?;
    if erased.is_empty() {
        return Ok(());
    }
    create_private_directory(directory)?;
    let path = beside(directory, deployment);
    let listed = tombstones::read(&path)?;
    Ok(tombstones::add(&path, &listed, erased)?)
}

/// Lists that were found for a restore, read before anything is put in place.
pub(super) struct Brought {
    list: PathBuf,
    was_there: bool,
    there: Vec<Tombstone>,
    more: Vec<Tombstone>,
    /// Whether a list lay beside the backup or was named.
    pub(super) found: bool,
}

impl Brought {
    /// The list beside a backup, and one that is named.
    pub(super) fn read(config: &Config, backup: &Path, head: &Head, named: Option<&Path>) -> Result<Self, BackupError> {
        let list = config.erasures_file();
        let beside = beside(backup.parent().unwrap_or(Path::new("")), &head.deployment);
        let mut more = Vec::new();
        if let Some(named) = named {
            // One that is named and not there is a mistake, and not an empty list.
            std::fs::metadata(named).map_err(|source| BackupError::reading(named, source))?;
            more.extend(tombstones::read(named)?);
        }
        more.extend(tombstones::read(&beside)?);
        let (was_there, found) = (list.exists(), named.is_some() || beside.exists());
        Ok(Self { there: tombstones::read(&list)?, list, was_there, more, found })
    }

    /// Puts them where a start reads them: before the restored database, so that none is ever there without.
    pub(super) fn put(&self) -> Result<(), BackupError> {
        Ok(tombstones::add(&self.list, &self.there, self.more.iter().copied())?)
    }

    /// Nothing was restored.
    pub(super) fn take_back(&self) {
        if !self.was_there {
            let _ = std::fs::remove_file(&self.list);
        }
    }
}
