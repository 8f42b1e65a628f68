//! Agent-local tokens of callers: who may come with which. Only digests are kept, in one file of the data directory that
//! `freehold-agent caller` writes and the running agent reads again when it changes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use schema::{
    clock::{Clock, Ids, Timestamp},
    encoding::Digest,
    id::CallerId,
    name::{InvalidText, Name},
    token::{Token, TokenKind},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use service::files::{FileError, OWNER_ONLY, write_atomic};

/// How often the file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A caller as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallerReference {
    /// `clr_…`
    Id(CallerId),
    /// `project/name`
    Named {
        /// The project's name.
        project: Name,
        /// The caller's name.
        name: Name,
    },
}

impl FromStr for CallerReference {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let (project, name) = text.split_once('/').ok_or(InvalidText::Reference)?;
        match (project.parse(), name.parse()) {
            (Ok(project), Ok(name)) => Ok(Self::Named { project, name }),
            _ => Err(InvalidText::Reference),
        }
    }
}

impl std::fmt::Display for CallerReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Named { project, name } => write!(f, "{project}/{name}"),
        }
    }
}

impl Serialize for CallerReference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CallerReference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One token of one caller; a caller may have several, so that they can be exchanged without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Whose it is.
    pub caller: CallerReference,
    /// SHA-256 of its text.
    pub digest: Digest,
    /// When it was made.
    pub added: Timestamp,
}

impl Entry {
    /// Names the token without telling it: the first characters of its digest.
    pub fn short(&self) -> String {
        self.digest.to_string().chars().take(12).collect()
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    v: u32,
    tokens: Vec<Entry>,
}

/// Why the file of tokens could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what it should be.
    #[error("{path} is not a file of caller tokens ({detail}); restore it, or remove it and add the callers again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

/// Makes a token for a caller and keeps its digest. The token itself is for the caller alone.
pub fn add(path: &Path, caller: CallerReference, clock: &dyn Clock, ids: &dyn Ids) -> Result<Token, TokensError> {
    let token = Token::generate(TokenKind::Caller, ids);
    let mut file = read(path)?;
    file.tokens.push(Entry { caller, digest: token.digest(), added: clock.now() });
    write(path, &file)?;
    Ok(token)
}

/// Keeps the digest of a token that another agent of the site made, so that the caller may use either. The same one again
/// changes nothing.
pub fn accept(path: &Path, caller: CallerReference, token: &Token, clock: &dyn Clock) -> Result<(), TokensError> {
    let mut file = read(path)?;
    let digest = token.digest();
    if file.tokens.iter().any(|entry| entry.digest == digest && entry.caller == caller) {
        return Ok(());
    }
    file.tokens.retain(|entry| entry.digest != digest);
    file.tokens.push(Entry { caller, digest, added: clock.now() });
    write(path, &file)
}

/// Every token.
pub fn list(path: &Path) -> Result<Vec<Entry>, TokensError> {
    Ok(read(path)?.tokens)
}

/// Forgets the tokens of a caller, or only the one with this short digest; says how many.
pub fn remove(path: &Path, caller: &CallerReference, short: Option<&str>) -> Result<usize, TokensError> {
    let mut file = read(path)?;
    let before = file.tokens.len();
    file.tokens.retain(|entry| entry.caller != *caller || short.is_some_and(|short| entry.short() != short));
    write(path, &file)?;
    Ok(before - file.tokens.len())
}

fn read(path: &Path) -> Result<TokenFile, TokensError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(TokenFile { v: 1, tokens: Vec::new() }),
        Err(source) => return Err(FileError::Io { act: "read", path: path.to_path_buf(), source }.into()),
    };
    let damaged = |detail: String| TokensError::Damaged { path: path.to_path_buf(), detail };
    let file: TokenFile = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if file.v == 1 { Ok(file) } else { Err(damaged(format!("its version is {}, not 1", file.v))) }
}

fn write(path: &Path, file: &TokenFile) -> Result<(), TokensError> {
    let text = serde_json::to_vec_pretty(file).map_err(|error| FileError::Io {
        act: "write",
        path: path.to_path_buf(),
        source: std::io::Error::other(error),
    })?;
    Ok(write_atomic(path, &text, OWNER_ONLY)?)
}

/// The tokens as a running agent sees them.
pub struct Tokens {
    path: PathBuf,
    by_digest: RwLock<Arc<HashMap<Digest, CallerReference>>>,
    looked: Mutex<(Instant, Option<SystemTime>)>,
}

impl Tokens {
    /// Reads the file, which may not be there yet.
    pub fn open(path: PathBuf) -> Result<Self, TokensError> {
        let modified = modified(&path);
        let tokens = index(read(&path)?);
        Ok(Self { path, by_digest: RwLock::new(Arc::new(tokens)), looked: Mutex::new((Instant::now(), modified)) })
    }

    /// Whose token has this digest. (The digest is of 256 random bits: how long a look-up takes tells nothing about them.)
    pub fn caller(&self, digest: &Digest) -> Option<CallerReference> {
        self.look();
        self.by_digest.read().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// Reads the file again when it changed. A file that cannot be read lets nobody in.
    fn look(&self) {
        let Ok(mut looked) = self.looked.try_lock() else { return };
        if looked.0.elapsed() < LOOK_EVERY {
            return;
        }
        looked.0 = Instant::now();
        let modified = modified(&self.path);
        if modified == looked.1 {
            return;
        }
        looked.1 = modified;
        let next = read(&self.path).map(index).unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the tokens of callers cannot be read: no token is accepted");
            HashMap::new()
        });
        tracing::info!(tokens = next.len(), "the tokens of callers were read again");
        *self.by_digest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}

fn index(file: TokenFile) -> HashMap<Digest, CallerReference> {
    file.tokens.into_iter().map(|entry| (entry.digest, entry.caller)).collect()
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

#[cfg(test)]
mod tests {
    use schema::clock::{ManualClock, ManualIds};

    use super::*;

    #[test]
    fn tokens_come_and_go_while_the_agent_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("callers.json");
        let (clock, ids) = (ManualClock::at(Timestamp::default()), ManualIds::seeded(1));
        let tokens = Tokens::open(path.clone()).unwrap();
        let caller: CallerReference = "billing/checkout".parse().unwrap();
        let first = add(&path, caller.clone(), &clock, &ids).unwrap();
        let second = add(&path, caller.clone(), &clock, &ids).unwrap();
        assert!(tokens.caller(&first.digest()).is_none(), "not looked at yet");
        std::thread::sleep(LOOK_EVERY + Duration::from_millis(50));
        assert_eq!(tokens.caller(&first.digest()), Some(caller.clone()));
        assert!(!std::fs::read_to_string(&path).unwrap().contains(first.reveal()));

        let short = list(&path).unwrap()[0].short();
        assert_eq!(remove(&path, &caller, Some(&short)).unwrap(), 1);
        std::thread::sleep(LOOK_EVERY + Duration::from_millis(50));
        assert!(tokens.caller(&first.digest()).is_none());
        assert_eq!(tokens.caller(&second.digest()), Some(caller.clone()));
        assert_eq!(remove(&path, &caller, None).unwrap(), 1);
        assert!(list(&path).unwrap().is_empty());
    }

    #[test]
    fn a_token_of_one_agent_works_at_another() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one.json"), directory.path().join("other.json"));
        let (clock, ids) = (ManualClock::at(Timestamp::default()), ManualIds::seeded(1));
        let caller: CallerReference = "billing/checkout".parse().unwrap();
        let token = add(&one, caller.clone(), &clock, &ids).unwrap();
        for _ in 0..2 {
            accept(&other, caller.clone(), &token, &clock).unwrap();
            assert_eq!(list(&other).unwrap(), list(&one).unwrap());
        }
        // A token is one caller's.
        let another: CallerReference = "billing/other".parse().unwrap();
        accept(&other, another.clone(), &token, &clock).unwrap();
        assert_eq!(list(&other).unwrap().iter().map(|entry| &entry.caller).collect::<Vec<_>>(), [&another]);
    }

    #[test]
    fn a_damaged_file_is_said_to_be_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("callers.json");
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(Tokens::open(path), Err(TokensError::Damaged { .. })));
    }
}
