//! Break-glass on the host: `freehold-agent lock` stops everything the agent does, at once and without the control plane, until
//! whoever knows the vault's secret undoes it.
//!
//! The lock is a file in the data directory. A running agent looks for it all the time, and when it is there replaces its own
//! process by a fresh one: with the old address space go every key, every content key of a stream that is being written, and
//! every connection. The fresh process finds the file, opens no vault, and refuses everything until the file is gone. A start
//! finds it too.

use std::{
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use actix_web::{HttpRequest, HttpResponse, web};
use schema::{
    clock::{Clock, Timestamp},
    wire::{
        agent::{HostAct, HostActKind},
        problem::Problem,
    },
};
use serde::{Deserialize, Serialize};
use service::files::{FileError, OWNER_ONLY, READABLE, sync_directory, write_atomic};

use crate::host::note;

/// The lock, in the data directory.
const FILE: &str = "locked.json";
/// What the process says that obeys it.
const OBEYED: &str = "locked.obeyed.json";
/// How often a running agent looks for the lock, and a locked one for its end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a reason may be.
const MAX_REASON: usize = 500;

/// Who locked an agent, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// Version of this format: `1`.
    pub v: u32,
    /// When, by this host's clock.
    pub at: Timestamp,
    /// The user, by number.
    pub user: u32,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The process that obeys a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obeyed {
    /// Its number.
    pub process: u32,
    /// Of which lock: when that was set.
    pub lock: Timestamp,
}

/// Why an agent was not locked or unlocked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The lock cannot be written or taken away.
    #[error("the lock cannot be changed; run this as root, or as the user that the agent runs as")]
    File(#[from] FileError),
    /// It is locked already.
    #[error("this agent is locked already, since {0}")]
    AlreadyLocked(Timestamp),
    /// It is not.
    #[error("this agent is not locked")]
    NotLocked,
}

/// Locks the agent of a data directory.
pub fn lock(data_dir: &Path, reason: Option<&str>, clock: &dyn Clock) -> Result<Locked, LockError> {
    if let Some(locked) = state(data_dir) {
        return Err(LockError::AlreadyLocked(locked.at));
    }
    let reason = reason.map(|reason| reason.chars().take(MAX_REASON).collect());
    let locked = Locked { v: 1, at: clock.now(), user: rustix::process::getuid().as_raw(), reason };
    let bytes = serde_json::to_vec_pretty(&locked).unwrap_or_default();
    write_atomic(&data_dir.join(FILE), &bytes, READABLE)?;
    let act = HostAct { act: HostActKind::Locked, done: locked.at, user: locked.user, what: None, reason: locked.reason.clone() };
    // Whether or not that can be noted, it is locked.
    if let Err(error) = note(data_dir, &act) {
        tracing::error!(error = &error as &dyn std::error::Error, "that the agent was locked will not stand in its journal");
    }
    Ok(locked)
}

/// Takes the lock away. Whoever calls this has seen that the vault's secret is known.
pub fn unlock(data_dir: &Path, clock: &dyn Clock) -> Result<Locked, LockError> {
    let locked = state(data_dir).ok_or(LockError::NotLocked)?;
    let path = data_dir.join(FILE);
    let act = HostAct { act: HostActKind::Unlocked, done: clock.now(), user: rustix::process::getuid().as_raw(), what: None, reason: None };
    let noted = note(data_dir, &act);
    if let Err(source) = std::fs::remove_file(&path) {
        if let Ok(noted) = noted {
            let _ = std::fs::remove_file(noted);
        }
        return Err(FileError::Io { act: "remove", path, source }.into());
    }
    if let Err(error) = noted {
        tracing::error!(error = &error as &dyn std::error::Error, "that the agent was unlocked will not stand in its journal");
    }
    sync_directory(data_dir)?;
    Ok(locked)
}

/// The lock, if there is one. A file that cannot be read is one all the same.
pub fn state(data_dir: &Path) -> Option<Locked> {
    let path = data_dir.join(FILE);
    path.symlink_metadata().ok()?;
    let read = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Some(read.unwrap_or(Locked { v: 1, at: Timestamp::default(), user: 0, reason: Some("its lock cannot be read".to_owned()) }))
}

/// The process that obeys the lock, once there is one.
pub fn obeyed(data_dir: &Path, locked: &Locked) -> Option<Obeyed> {
    let bytes = std::fs::read(data_dir.join(OBEYED)).ok()?;
    serde_json::from_slice::<Obeyed>(&bytes).ok().filter(|obeyed| obeyed.lock == locked.at)
}

/// Says that this process obeys.
pub fn obey(data_dir: &Path, locked: &Locked) -> Result<(), FileError> {
    let obeyed = Obeyed { process: std::process::id(), lock: locked.at };
    write_atomic(&data_dir.join(OBEYED), &serde_json::to_vec(&obeyed).unwrap_or_default(), OWNER_ONLY)
}

/// Waits until the agent is locked.
pub async fn set(data_dir: PathBuf) -> Locked {
    loop {
        if let Some(locked) = state(&data_dir) {
            return locked;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until it is no longer.
pub async fn lifted(data_dir: PathBuf) {
    while state(&data_dir).is_some() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let _ = std::fs::remove_file(data_dir.join(OBEYED));
}

/// Replaces this process by a fresh one with the same arguments: nothing of its memory is left. Comes back only with the
/// reason why that did not happen.
pub fn start_afresh() -> io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "freehold-agent".into());
    // By this path it is the same program also after an update of its file.
    Command::new("/proc/self/exe").arg0(name).args(arguments).exec()
}

/// What a locked agent answers to everything.
pub fn problem(locked: &Locked) -> Problem {
    let why = locked.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    let detail = format!(
        "this agent was locked on its host at {}{why}: it holds no key and does nothing until it is unlocked there with the vault's secret \
         (freehold-agent unlock)",
        locked.at
    );
    Problem::new(503, "agent_locked", "The agent is locked", detail)
}

/// The handler of every path.
pub async fn refuse(_: HttpRequest, locked: web::Data<Locked>) -> HttpResponse {
    metrics::counter!("freehold_operations_total", "operation" => "any", "result" => "locked").increment(1);
    service::problem::response(problem(&locked))
}

#[cfg(test)]
mod tests {
    use schema::clock::ManualClock;

    use super::*;

    #[test]
    fn a_lock_is_set_once_told_and_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(Timestamp::from_micros(1_767_225_600_000_000));
        assert!(state(directory.path()).is_none());
        assert!(matches!(unlock(directory.path(), &clock), Err(LockError::NotLocked)));
        let locked = lock(directory.path(), Some("stolen laptop"), &clock).unwrap();
        assert_eq!(state(directory.path()), Some(locked.clone()));
        assert!(matches!(lock(directory.path(), None, &clock), Err(LockError::AlreadyLocked(_))));
        assert!(obeyed(directory.path(), &locked).is_none());
        obey(directory.path(), &locked).unwrap();
        assert_eq!(obeyed(directory.path(), &locked).unwrap().process, std::process::id());
        let told = problem(&locked);
        assert_eq!((told.status, told.code.as_str()), (503, "agent_locked"));
        assert!(told.detail.contains("stolen laptop") && told.detail.contains("freehold-agent unlock"), "{}", told.detail);
        assert_eq!(unlock(directory.path(), &clock).unwrap(), locked);
        // What an earlier lock was obeyed by says nothing of a later one.
        clock.advance(Duration::from_secs(1));
        let again = lock(directory.path(), None, &clock).unwrap();
        assert!(obeyed(directory.path(), &again).is_none());
    }

    #[test]
    fn a_lock_that_cannot_be_read_locks() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), "{").unwrap();
        assert!(state(directory.path()).is_some());
    }
}
