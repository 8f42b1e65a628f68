//! What a person beside the running agent asks of it: prekeys and sealed material as files, for sites that are connected to
//! nothing. The command leaves a file in the agent's own folder, which only its owner may write, and the running agent
//! answers with another. What came from elsewhere is judged as if the relay had brought it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use schema::{
    clock::{Clock, Ids, random},
    encoding::{Base64, base64url},
    id::{AgentId, KeyVersion},
    key::Operation,
    wire::{
        agent::{Intent, OutcomeResult, StatementSet},
        exchange::OutboxFile,
    },
};
use serde::{Deserialize, Serialize};
use service::{
    explain::in_one_line as whole,
    files::{DirectoryLock, FileError, OWNER_ONLY, create_private_directory, write_atomic},
};
use trust::{accept::AcceptedSet, document::Prekey, movement::accept_prekey};

use super::movement::{Mover, NotTaken};
use crate::{
    control::exchange::{Exchange, Exchanged},
    journal::Journal,
    policy::current::Current,
};

/// The format of files with prekeys and transfers.
pub const MOVEMENT_FORMAT: &str = "application/vnd.freehold.movement+json";
/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// How long the command waits for the running agent.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Prekeys and transfers on their way between agents, as a file. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovementFile {
    /// [`MOVEMENT_FORMAT`].
    pub format: String,
    /// Version of this format: `1`.
    pub v: u32,
    /// Signed prekeys (`trust::document::Prekey`), exact bytes.
    #[serde(default)]
    pub prekeys: Vec<Base64>,
    /// Signed transfers (`trust::document::Transfer`), exact bytes.
    #[serde(default)]
    pub transfers: Vec<Base64>,
}

impl MovementFile {
    /// A file with these.
    pub fn new(prekeys: Vec<Base64>, transfers: Vec<Base64>) -> Self {
        Self { format: MOVEMENT_FORMAT.to_owned(), v: 1, prekeys, transfers }
    }

    /// Reads one.
    pub fn read(path: &Path) -> Result<Self, ErrandError> {
        let failed = |source| ErrandError::Read { path: path.to_owned(), source };
        let length = fs::metadata(path).map_err(failed)?.len();
        let not_one = || ErrandError::NotAMovementFile { path: path.to_owned() };
        if length > MAX_FILE_BYTES {
            return Err(not_one());
        }
        let file: Self = serde_json::from_slice(&fs::read(path).map_err(failed)?).map_err(|_| not_one())?;
        if file.format == MOVEMENT_FORMAT && file.v == 1 { Ok(file) } else { Err(not_one()) }
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Errand {
    /// A prekey, to be carried to another agent.
    Prekey,
    /// Everything that the owner of this prekey lacks, sealed to it.
    Seal {
        /// Whom it is for: the person says so, not the file.
        recipient: AgentId,
        /// Prekeys that came as a file.
        prekeys: Vec<Base64>,
    },
    /// Material that another agent sealed.
    Take {
        /// Transfers that came as a file.
        transfers: Vec<Base64>,
    },
    /// Everything that there is to say to the control plane.
    Outbox,
    /// What the control plane answered.
    Inbox {
        /// The signed answer.
        inbox: Base64,
        /// Statements that came with it.
        statements: Option<StatementSet>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// A file to carry.
    File {
        /// The file.
        file: MovementFile,
    },
    /// What was taken in, and why the rest was not.
    Taken {
        /// Versions that are in the vault now.
        versions: Vec<KeyVersion>,
        /// Codes and details of what was not taken.
        refused: Vec<(String, String)>,
    },
    /// A file to carry to the control plane.
    Outbox {
        /// The file.
        file: OutboxFile,
        /// Whether receipts are left for the next one.
        more: bool,
    },
    /// What came of an answer of the control plane.
    Exchanged(Exchanged),
    /// No.
    Refused {
        /// A stable code.
        code: String,
        /// What was wrong.
        detail: String,
    },
}

/// Why an errand was not done.
#[derive(Debug, thiserror::Error)]
pub enum ErrandError {
    /// The folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is no file of `freehold-agent keys request` or `keys export`")]
    NotAMovementFile {
        /// The file.
        path: PathBuf,
    },
    /// Nobody is there to ask.
    #[error("no agent runs with the data in {0}: start it, and try again")]
    NotRunning(PathBuf),
    /// Nobody answered.
    #[error("the running agent has not answered within a minute: look at its log")]
    NoAnswer,
    /// It said no.
    #[error("the agent refused ({code}): {detail}")]
    Refused {
        /// The stable code.
        code: String,
        /// What was wrong.
        detail: String,
    },
}

/// Asks the agent that runs with this data directory, and waits for what it says.
pub fn ask(data_dir: &Path, errand: &Errand, ids: &dyn Ids) -> Result<Answer, ErrandError> {
    // Whoever runs holds the lock.
    if !data_dir.exists() || DirectoryLock::take(data_dir).is_ok() {
        return Err(ErrandError::NotRunning(data_dir.to_owned()));
    }
    let folder = folder(data_dir);
    create_private_directory(&folder)?;
    let name = base64url(&random::<12>(ids));
    let (request, answer) = (folder.join(format!("{name}.json")), folder.join(format!("{name}.answer")));
    write_atomic(&request, &to_json(errand), OWNER_ONLY)?;
    let mut waited = Duration::ZERO;
    let answered = loop {
        match fs::read(&answer) {
            Ok(bytes) => break serde_json::from_slice(&bytes).map_err(|_| ErrandError::NoAnswer),
            Err(error) if error.kind() != io::ErrorKind::NotFound => break Err(ErrandError::Read { path: answer.clone(), source: error }),
            Err(_) if waited >= PATIENCE => break Err(ErrandError::NoAnswer),
            Err(_) => {}
        }
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    };
    // The agent removes what it has answered; what it has not, it need not answer any more.
    drop(fs::remove_file(&request));
    drop(fs::remove_file(&answer));
    match answered? {
        Answer::Refused { code, detail } => Err(ErrandError::Refused { code, detail }),
        answer => Ok(answer),
    }
}

/// Does errands for the running agent.
pub struct Errands {
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    journal: Arc<dyn Journal>,
    current: Arc<Current>,
    exchange: Option<Exchange>,
}

impl Errands {
    /// Those of this data directory. What was left of an earlier run is forgotten: nobody waits for it.
    pub fn open(data_dir: &Path, clock: Arc<dyn Clock>, journal: Arc<dyn Journal>, current: Arc<Current>) -> Self {
        let folder = folder(data_dir);
        for left in entries(&folder) {
            drop(fs::remove_file(left));
        }
        Self { folder, clock, journal, current, exchange: None }
    }

    /// The same, and files for the control plane.
    pub fn with_exchange(self, exchange: Exchange) -> Self {
        Self { exchange: Some(exchange), ..self }
    }

    /// Does what was asked since it last looked.
    pub async fn run(&self, set: Option<&AcceptedSet>, mover: &mut Mover) {
        for path in entries(&self.folder).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
            // Only the agent's user may write here; root may hand a file on.
            let user = fs::metadata(&path).map_or(0, |file| file.uid());
            let answer = match read(&path) {
                Some(errand) => self.run_one(errand, user, set, mover).await,
                None => refused("errand_malformed", "the request cannot be read"),
            };
            if let Err(error) = write_atomic(&path.with_extension("answer"), &to_json(&answer), OWNER_ONLY) {
                tracing::error!(error = &error as &dyn std::error::Error, "an answer to a command beside this agent cannot be written");
            }
            drop(fs::remove_file(&path));
        }
    }

    async fn run_one(&self, errand: Errand, user: u32, set: Option<&AcceptedSet>, mover: &mut Mover) -> Answer {
        // The first statements may come with an answer.
        if let (Errand::Inbox { inbox, statements }, Some(exchange)) = (&errand, &self.exchange) {
            return match exchange.take(mover, inbox, statements.as_ref()).await {
                Ok(exchanged) => Answer::Exchanged(exchanged),
                Err(error) => refused(error.code(), &whole(&error)),
            };
        }
        let Some(set) = set else {
            return refused("no_statements", "this agent believes no statements yet: it does not know whom to believe");
        };
        match errand {
            Errand::Prekey => match mover.prekey_for_file().await {
                Ok(prekey) => Answer::File { file: MovementFile::new(vec![prekey], Vec::new()) },
                Err(error) => refused("prekey_failed", &whole(&error)),
            },
            Errand::Seal { recipient, prekeys } => {
                let prekey = super::movement::prekey_of(&prekeys, set, recipient, self.clock.now());
                match prekey.and_then(|prekey| accept_prekey(set, prekey.as_slice(), self.clock.now())) {
                    Ok(prekey) => self.seal(set, mover, &prekey, user).await,
                    Err(refusal) => refused(refusal.code(), &whole(&refusal)),
                }
            }
            Errand::Outbox | Errand::Inbox { .. } => match &self.exchange {
                Some(exchange) => match exchange.write(mover).await {
                    Ok((file, more)) => Answer::Outbox { file, more },
                    Err(error) => refused(error.code(), &whole(&error)),
                },
                None => refused("agent_not_enrolled", "this agent belongs to no site yet"),
            },
            Errand::Take { transfers } => {
                let (mut versions, mut not_taken) = (Vec::new(), Vec::new());
                for bytes in &transfers {
                    match self.take(set, mover, bytes, user).await {
                        Ok(version) => versions.push(version),
                        Err(why) => not_taken.push(why),
                    }
                }
                let missing = mover.missing(set).await;
                if let Err(error) = mover.tend(!missing.is_empty()).await {
                    tracing::error!(error = &error as &dyn std::error::Error, "prekeys could not be erased");
                }
                Answer::Taken { versions, refused: not_taken }
            }
        }
    }
}

impl Errands {
    /// Takes one transfer out of a file. That material comes in this way stands in the journal before it does.
    async fn take(&self, set: &AcceptedSet, mover: &mut Mover, bytes: &Base64, user: u32) -> Result<KeyVersion, (String, String)> {
        let why = |error: NotTaken| (error.code().to_owned(), whole(&error));
        let judged = mover.judge(set, bytes.as_slice()).map_err(why)?;
        let (version, sender) = (judged.head.version, judged.head.sender);
        let request = format!("keys import --from {sender} by user {user}");
        let intent = self.journal.intent(self.intent(set, Operation::Import, version, request)).await;
        let ticket = intent.map_err(|error| (error.code().to_owned(), whole(&error)))?;
        match mover.keep(judged).await {
            Ok(version) => {
                ticket.finish(OutcomeResult::Ok, None, None);
                tracing::info!(%version, %sender, "a key version was received as a file");
                Ok(version)
            }
            Err(error) => {
                ticket.finish(OutcomeResult::Failed, Some(error.code()), None);
                Err(why(error))
            }
        }
    }

    /// What a receipt says of material that comes or leaves as a file: no caller asked for it, but a user of the host.
    fn intent(&self, set: &AcceptedSet, operation: Operation, version: KeyVersion, request: String) -> Intent {
        Intent {
            caller: None,
            operation,
            key_version: Some(version),
            algorithm: set.keys().get(&version.key).map(|key| key.algorithm.name().to_owned()),
            size: None,
            context: Default::default(),
            context_key: None,
            request,
            trace: None,
            statements: self.current.load().map_or_else(String::new, |in_force| in_force.serials.to_string()),
            policies: Vec::new(),
        }
    }

    /// Seals for a file. That material leaves this way stands in the journal before it does: a receipt for each version.
    async fn seal(&self, set: &AcceptedSet, mover: &mut Mover, prekey: &Prekey, user: u32) -> Answer {
        let recipient = prekey.agent;
        let versions = mover.given_to(set, recipient).await;
        let request = format!("keys export --to {recipient} by user {user}");
        let intent = |version: &KeyVersion| self.intent(set, Operation::Export, *version, request.clone());
        let tickets = match self.journal.intents(versions.iter().map(intent).collect()).await {
            Ok(tickets) => tickets,
            Err(error) => return refused(error.code(), &whole(&error)),
        };
        let mut transfers = Vec::new();
        for (version, ticket) in versions.into_iter().zip(tickets) {
            match mover.seal_one(set, version, prekey).await {
                Some(transfer) => {
                    transfers.push(transfer);
                    ticket.finish(OutcomeResult::Ok, None, None);
                }
                None => ticket.finish(OutcomeResult::Failed, None, None),
            }
        }
        match transfers.len() {
            0 => refused("nothing_to_send", &format!("there is nothing that {recipient} lacks and this vault may give")),
            _ => Answer::File { file: MovementFile::new(Vec::new(), transfers) },
        }
    }
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("control").join("errands")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    // Not there: nobody has asked for anything yet.
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn read(path: &Path) -> Option<Errand> {
    let length = fs::metadata(path).ok()?.len();
    (length <= MAX_FILE_BYTES).then(|| fs::read(path).ok()).flatten().and_then(|bytes| serde_json::from_slice(&bytes).ok())
}

fn refused(code: &str, detail: &str) -> Answer {
    Answer::Refused { code: code.to_owned(), detail: detail.to_owned() }
}

#[allow(clippy::expect_used, reason = "our own types, written to memory")]
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("errands and answers are JSON")
}
