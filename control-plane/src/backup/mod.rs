//! Backups of the control plane: made while it serves, sealed to a key whose private half is elsewhere, read back at once, restored
//! into an empty place only, and tried by restoring one and walking through it (`docs/control-plane-recovery.md`).
//!
//! - [`file`]: one backup, as bytes. [`key`]: whom it is sealed to.
//! - [`make`]: makes, lists and removes them. [`restore`]: brings one back. [`drill`]: proves that it could be.
//! - [`erasures`]: what was erased since, which an older backup must not bring back.
//! - [`tools`]: the tools of PostgreSQL. [`schedule`]: backups by the clock.

pub mod drill;
pub mod erasures;
pub mod file;
pub mod key;
pub mod make;
pub mod restore;
pub mod schedule;
mod tools;

use std::{
    io,
    path::{Path, PathBuf},
};

use schema::encoding::Digest;
use sea_orm::DbErr;
use service::files::FileError;

use crate::{
    app::StartError,
    database::OpenError,
    sealing::{SealingError, tombstones::TombstoneError},
    verify::VerifyError,
};

/// How the names of backups end.
pub const EXTENSION: &str = "fhcb";

/// Why a backup was not made, read or brought back. [`BackupError::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Settings are missing.
    #[error("setting {setting}: {what}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What is to be there.
        what: String,
    },
    /// Settings, files or stores cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A key of the store cannot be used.
    #[error(transparent)]
    Store(#[from] SealingError),
    /// A list of what was erased cannot be read or written.
    #[error(transparent)]
    Erasures(#[from] TombstoneError),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
    /// Records are elsewhere.
    #[error("the records are in KurrentDB, which is backed up by its own means; docs/kurrentdb.md says how, and what belongs to it")]
    Kurrent,
    /// No deployment.
    #[error("there is nothing to back up: no deployment was ever started on the store that settings name")]
    Nothing,
    /// Sealing failed.
    #[error("sealing the backup failed")]
    Sealing,
    /// Writing failed.
    #[error("writing failed; make room, and look at the storage")]
    Writing(#[source] io::Error),
    /// Reading failed.
    #[error("reading {path} failed")]
    Reading {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key file is none.
    #[error("{path} is not {what}; `freehold-control-plane backup keygen` makes both halves")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// No backup, or not a whole one.
    #[error("{path} is not a whole backup: {detail}; use another one")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Made by a later program.
    #[error("{path} is of the format {format:?}, which this program does not read; use the version that made it, or a newer one")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: String,
    },
    /// Sealed to another key.
    #[error("{path} is sealed to the backup key {sealed_to}, and this is {given}; bring the right one")]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// The key id it names.
        sealed_to: Digest,
        /// The key id of the one that was brought.
        given: Digest,
    },
    /// What was read back is not what was written.
    #[error("{path} was written and read back, and is not what was written; it was removed: look at the storage")]
    NotWritten {
        /// The file.
        path: PathBuf,
    },
    /// Something is there already.
    #[error("{what}; nothing was changed. A backup is restored into an empty place only")]
    NotEmpty {
        /// What was found.
        what: String,
    },
    /// Of the other database.
    #[error("{path} is a backup of {found}, and store.url names {wanted}; restore it into {found}, then move-store takes it over")]
    OtherEngine {
        /// The file.
        path: PathBuf,
        /// What it is of.
        found: &'static str,
        /// What settings name.
        wanted: &'static str,
    },
    /// The sealing key is another one.
    #[error(
        "{path} was sealed under the sealing key {expected}, and {} holds {found}; bring the right sealing key: the backup does not hold it",
        key_file.display()
    )]
    OtherSealingKey {
        /// The file.
        path: PathBuf,
        /// The fingerprint it names.
        expected: String,
        /// The fingerprint of the one that is there.
        found: String,
        /// Where.
        key_file: PathBuf,
    },
    /// A tool of PostgreSQL could not be started or failed.
    #[error("{tool} failed: {said}; check that it is installed, is not older than the server, and may connect (backup.postgres_tools)")]
    Tool {
        /// Which.
        tool: &'static str,
        /// What it complained of.
        said: String,
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
    /// What was restored could not be looked at.
    #[error("looking at what was restored failed")]
    Verify(#[from] VerifyError),
}

impl From<OpenError> for BackupError {
    fn from(error: OpenError) -> Self {
        Self::Start(error.into())
    }
}

impl BackupError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Setting { .. } => "backup_setting",
            Self::Start(_) | Self::Store(_) | Self::Verify(_) => "backup_store",
            Self::Erasures(_) => "backup_erasures",
            Self::File(_) | Self::Reading { .. } | Self::Writing(_) => "backup_file",
            Self::Kurrent => "backup_of_kurrentdb",
            Self::Nothing => "backup_of_nothing",
            Self::Sealing => "backup_sealing_failed",
            Self::KeyFile { .. } => "backup_key_file",
            Self::Damaged { .. } => "backup_damaged",
            Self::Newer { .. } => "backup_of_newer_version",
            Self::OtherKey { .. } => "backup_of_another_key",
            Self::NotWritten { .. } => "backup_not_written",
            Self::NotEmpty { .. } => "restore_not_empty",
            Self::OtherEngine { .. } => "backup_of_another_engine",
            Self::OtherSealingKey { .. } => "backup_of_another_sealing_key",
            Self::Tool { .. } => "backup_tool_failed",
            Self::Database { .. } => "backup_database",
        }
    }

    fn reading(path: &Path, source: io::Error) -> Self {
        Self::Reading { path: path.to_owned(), source }
    }

    fn writing(source: io::Error) -> Self {
        Self::Writing(source)
    }

    fn newer(path: &Path, format: &str) -> Self {
        Self::Newer { path: path.to_owned(), format: format.to_owned() }
    }
}

/// The name of a deployment as a part of a file's name.
fn plain(deployment: &str) -> String {
    deployment.chars().map(|c| if c == '/' { '-' } else { c }).collect()
}

fn asking(act: &'static str) -> impl FnOnce(DbErr) -> BackupError {
    move |source| BackupError::Database { act, source }
}

/// Runs what blocks where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, BackupError> + Send + 'static) -> Result<T, BackupError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(BackupError::Writing(io::Error::other(error))),
    }
}
