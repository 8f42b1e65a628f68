//! Statements that are carried by hand, for agents that are connected to nothing: a command beside the running agent leaves a set in
//! its folder, and the agent judges it as if the control plane had served it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use schema::{
    clock::{Ids, random},
    encoding::base64url,
    wire::agent::{Rejected, StatementSet},
};
use serde::{Deserialize, Serialize};
use service::files::{DirectoryLock, FileError, OWNER_ONLY, create_private_directory, write_atomic};
use trust::accept::{Rejection, restore};

use super::directory::{ControlDirectory, KeepError};

/// The largest set that is read.
const MAX_BYTES: u64 = 512 << 20;
/// How long the command waits for the running agent.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often either looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the running agent made of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Taken {
    /// It is in force, or was already.
    InForce {
        /// Whether it is another one than before.
        new: bool,
    },
    /// It is not believed, or cannot be used.
    Refused(Rejected),
    /// It could not be kept.
    Failed {
        /// Why.
        detail: String,
    },
}

/// Why statements were not carried.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// What the agent keeps.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error(
        "{0} holds no set of statements: `freehold site statements` at the control plane, or `freehold-agent statements export`, writes one"
    )]
    NoSet(PathBuf),
    /// Nothing is there.
    #[error("this agent has believed no statements yet: there is nothing to export")]
    Nothing,
    /// This agent is nobody itself.
    #[error("this agent has not joined a site: run freehold-agent enrol first")]
    NotEnrolled,
    /// What it has does not hold.
    #[error("the kept statements do not hold")]
    Rejected(#[source] Rejection),
    /// Epochs begin one after the other.
    #[error("the present epoch is {present}: only epoch {next} can begin next")]
    Epoch {
        /// The present one.
        present: u64,
        /// The next one.
        next: u64,
    },
    /// Nobody is there to ask.
    #[error("no agent runs with the data in {0}: start it, and try again")]
    NotRunning(PathBuf),
    /// Nobody answered.
    #[error("the running agent has not answered within a minute: look at its log")]
    NoAnswer,
}

/// The set that an agent holds, as the exact bytes, also while it is stopped.
pub fn export(directory: &ControlDirectory) -> Result<Vec<u8>, CarryError> {
    #[derive(Deserialize)]
    struct Cache {
        statements: StatementSet,
    }
    let bytes = directory.statements()?.ok_or(CarryError::Nothing)?;
    let cache: Cache = serde_json::from_slice(&bytes).map_err(|_| CarryError::Nothing)?;
    Ok(to_json(&cache.statements))
}

/// Hands a set to the agent that runs with this data directory, and waits for what it makes of it.
pub fn import(data_dir: &Path, file: &Path, ids: &dyn Ids) -> Result<Taken, CarryError> {
    let reading = |source| CarryError::Read { path: file.to_owned(), source };
    if fs::metadata(file).map_err(reading)?.len() > MAX_BYTES {
        return Err(CarryError::NoSet(file.to_owned()));
    }
    let bytes = fs::read(file).map_err(reading)?;
    let set: StatementSet = serde_json::from_slice(&bytes).map_err(|_| CarryError::NoSet(file.to_owned()))?;
    // Whoever runs holds the lock.
    if !data_dir.exists() || DirectoryLock::take(data_dir).is_ok() {
        return Err(CarryError::NotRunning(data_dir.to_owned()));
    }
    let folder = folder(data_dir);
    create_private_directory(&folder)?;
    let name = base64url(&random::<12>(ids));
    let (request, answer) = (folder.join(format!("{name}.json")), folder.join(format!("{name}.answer")));
    write_atomic(&request, &to_json(&set), OWNER_ONLY)?;
    let mut waited = Duration::ZERO;
    let taken = loop {
        match fs::read(&answer) {
            Ok(bytes) => break serde_json::from_slice(&bytes).map_err(|_| CarryError::NoAnswer),
            Err(_) if waited >= PATIENCE => break Err(CarryError::NoAnswer),
            Err(_) => {}
        }
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    };
    drop(fs::remove_file(&request));
    drop(fs::remove_file(&answer));
    taken
}

/// Lets an epoch begin here, which a person has confirmed: the one after the present one and no other.
pub fn confirm_epoch(directory: &ControlDirectory, epoch: u64) -> Result<(), CarryError> {
    let identity = directory.identity()?.ok_or(CarryError::NotEnrolled)?.identity;
    if let Some(bytes) = directory.statements()? {
        let present = restore(&bytes, &identity).map_err(CarryError::Rejected)?.root().head.epoch;
        if epoch != present + 1 {
            return Err(CarryError::Epoch { present, next: present + 1 });
        }
    }
    let mut confirmed = directory.confirmed()?;
    confirmed.epoch = Some(epoch);
    Ok(directory.keep_confirmed(&confirmed)?)
}

/// For the running agent: hands itself a set that came with something else, and waits for what it makes of it.
pub(super) async fn hand_over(folder: &Path, set: &StatementSet, ids: &dyn Ids) -> Result<Taken, CarryError> {
    create_private_directory(folder)?;
    let name = base64url(&random::<12>(ids));
    let (request, answer) = (folder.join(format!("{name}.json")), folder.join(format!("{name}.answer")));
    write_atomic(&request, &to_json(set), OWNER_ONLY)?;
    let mut waited = Duration::ZERO;
    let taken = loop {
        match fs::read(&answer) {
            Ok(bytes) => break serde_json::from_slice(&bytes).map_err(|_| CarryError::NoAnswer),
            Err(_) if waited >= PATIENCE / 2 => break Err(CarryError::NoAnswer),
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
        waited += LOOK_EVERY;
    };
    drop(fs::remove_file(&request));
    drop(fs::remove_file(&answer));
    taken
}

/// For the running agent: waits until a set was left.
pub(super) async fn next(folder: PathBuf) -> PathBuf {
    loop {
        match left_in(&folder) {
            Some(path) => return path,
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

fn left_in(folder: &Path) -> Option<PathBuf> {
    // Not there: nobody has carried anything yet.
    let mut entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries.find(|path| path.extension().is_some_and(|extension| extension == "json"))
}

/// For the running agent: reads what was left; none when it cannot be read.
pub(super) fn read(path: &Path) -> Option<StatementSet> {
    let length = fs::metadata(path).ok()?.len();
    (length <= MAX_BYTES).then(|| fs::read(path).ok()).flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok())
}

/// For the running agent: says what it made of it.
pub(super) fn answer(path: &Path, taken: &Taken) {
    if let Err(error) = write_atomic(&path.with_extension("answer"), &to_json(taken), OWNER_ONLY) {
        tracing::error!(error = &error as &dyn std::error::Error, "an answer to a command beside this agent cannot be written");
    }
    drop(fs::remove_file(path));
}

/// Where sets are left for the agent with this data directory.
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("control").join("carried")
}

#[allow(clippy::expect_used, reason = "our own types, written to memory")]
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("sets and answers are JSON")
}
