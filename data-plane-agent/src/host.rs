//! Receipts of what is done on an agent's host beside its callers. The running agent writes them into its journal; a command beside
//! it leaves a note in the data directory, which whoever opens the journal next brings into it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use schema::{
    clock::Timestamp,
    encoding::Digest,
    wire::agent::{HostAct, HostActKind},
};
use service::files::{FileError, READABLE, write_atomic};

use crate::journal::{Journal, JournalError};

/// How notes for the journal begin.
const NOTED: &str = "noted.";

/// Where acts are written.
#[derive(Clone)]
pub enum Acts {
    /// The journal of the running agent.
    Journal(Arc<dyn Journal>),
    /// Notes in the data directory of one that does not run.
    Notes(PathBuf),
}

/// An act could not be written, so it must not happen.
#[derive(Debug, thiserror::Error)]
pub enum NotWritten {
    /// The journal.
    #[error("the journal takes no receipt of it")]
    Journal(#[from] JournalError),
    /// The data directory.
    #[error("no note of it can be left for the journal")]
    Note(#[from] FileError),
}

impl NotWritten {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Journal(error) => error.code(),
            Self::Note(_) => "host_act_not_noted",
        }
    }
}

impl Acts {
    /// Writes down what the user this process runs as does now. Durable when this returns.
    pub async fn write(&self, act: HostActKind, now: Timestamp, what: String, reason: Option<&str>) -> Result<(), NotWritten> {
        let user = rustix::process::getuid().as_raw();
        let act = HostAct { act, done: now, user, what: Some(what), reason: reason.map(str::to_owned) };
        match self {
            Self::Journal(journal) => Ok(journal.host(&act).await?),
            Self::Notes(data_dir) => Ok(note(data_dir, &act).map(drop)?),
        }
    }
}

/// Notes an act for the journal, which only the agent itself can open.
pub fn note(data_dir: &Path, act: &HostAct) -> Result<PathBuf, FileError> {
    let bytes = serde_json::to_vec(act).unwrap_or_default();
    let unique: String = Digest::of(&bytes).to_string().chars().take(8).collect();
    let path = data_dir.join(format!("{NOTED}{:020}.{}.{unique}.json", act.done.micros(), act.act.as_str()));
    write_atomic(&path, &bytes, READABLE)?;
    Ok(path)
}

/// Brings into the journal what was noted for it. What cannot be written stays noted, and is written another time.
pub async fn record_noted(data_dir: &Path, journal: &dyn Journal) {
    let Ok(entries) = std::fs::read_dir(data_dir) else { return };
    let noted =
        |entry: &std::fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.starts_with(NOTED) && name.ends_with(".json"));
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).filter(noted).map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let read = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<HostAct>(&bytes).ok());
        let Some(act) = read else {
            tracing::error!(path = %path.display(), "a note of what was done on this host cannot be read: it does not stand in the journal");
            continue;
        };
        if let Err(error) = journal.host(&act).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, act = act.act.as_str(), "what was done on this host cannot be written into the journal now");
            return;
        }
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "a note of what was done on this host stands in the journal, and cannot be removed: remove it");
        }
    }
}
