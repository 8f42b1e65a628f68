//! Keys that whoever starts the process hands over: in a variable, or in a credential of systemd. Weaker than a file where it is
//! a variable: other programs of the same user see it until it is taken away, and so does whatever stores how the process is
//! started.
//!
//! A program cannot change what the kernel shows of the environment it was started with, so one that finds the key there starts
//! itself again without it, and hands the key on through a pipe ([`hide`]).

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

use async_trait::async_trait;
use schema::clock::Ids;
use service::files::read_secret_line;
use zeroize::Zeroizing;

use super::{Made, Source};
use crate::{
    config::{Config, EnvironmentConfig},
    sealing::{Fingerprint, SealingError, SealingKey},
};

pub(super) const KIND: &str = "environment";

/// Says that the variable's text is to be read from standard input.
const HANDED_OVER: &str = "FREEHOLD_SEALING_KEY_HANDED_OVER";
/// The most bytes that are handed over: what fits into a pipe that nobody reads yet.
const MAX_BYTES: u64 = 16 * 1024;

/// What was handed over.
static TEXT: OnceLock<Zeroizing<String>> = OnceLock::new();

/// Takes the key out of the environment of this process: call it first, when there is nothing yet to lose. Where the variable
/// is set, the process is replaced by itself without it, and this does not return.
pub fn hide(config: &Config) -> io::Result<()> {
    if std::env::var_os(HANDED_OVER).is_some() {
        let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES as usize));
        io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text)?;
        let _ = TEXT.set(text);
        return Ok(());
    }
    let Some(environment) = config.sealing.environment().filter(|environment| environment.credential.is_none()) else { return Ok(()) };
    let Ok(text) = std::env::var(&environment.variable).map(Zeroizing::new) else { return Ok(()) };
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is longer than any keys", environment.variable)));
    }
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(text.as_bytes())?;
    drop(writer);
    let mut arguments = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    again.arg0(arguments.next().unwrap_or_else(|| OsString::from("freehold-control-plane")));
    Err(again.args(arguments).env_remove(&environment.variable).env(HANDED_OVER, "1").stdin(Stdio::from(reader)).exec())
}

/// A variable, or a credential.
pub(super) struct EnvironmentSource {
    settings: EnvironmentConfig,
}

impl EnvironmentSource {
    pub(super) fn new(settings: EnvironmentConfig) -> Self {
        Self { settings }
    }

    fn keys(&self) -> Option<Vec<SealingKey>> {
        if let Some(credential) = &self.settings.credential {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
            let text = read_secret_line(&Path::new(&folder).join(credential)).ok()?;
            return SealingKey::parse_all(std::str::from_utf8(&text).ok()?);
        }
        match TEXT.get() {
            Some(text) => SealingKey::parse_all(text),
            None => SealingKey::parse_all(&std::env::var(&self.settings.variable).map(Zeroizing::new).ok()?),
        }
    }
}

#[async_trait]
impl Source for EnvironmentSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn place(&self) -> String {
        match &self.settings.credential {
            Some(credential) => format!("the credential {credential}"),
            None => format!("the variable {}", self.settings.variable),
        }
    }

    async fn open(&self, wanted: &Fingerprint, _: Option<&[u8]>) -> Result<SealingKey, SealingError> {
        let missing = || SealingError::NotInEnvironment { place: self.place(), expected: wanted.clone() };
        let mut keys = self.keys().ok_or_else(missing)?;
        match keys.iter().position(|key| key.fingerprint() == *wanted) {
            Some(at) => Ok(keys.swap_remove(at)),
            None => keys.pop().ok_or_else(missing),
        }
    }

    async fn make(&self, known: &[Fingerprint], _: &dyn Ids) -> Result<Made, SealingError> {
        let missing =
            || SealingError::NotInEnvironment { place: self.place(), expected: known.last().cloned().unwrap_or_else(Fingerprint::none) };
        let newest = self.keys().ok_or_else(missing)?.pop().ok_or_else(missing)?;
        if known.contains(&newest.fingerprint()) {
            return Err(SealingError::NothingNewInEnvironment { place: self.place() });
        }
        Ok(Made { key: newest, wrapped: None })
    }

    async fn retire(&self, _: &[Fingerprint]) -> Result<(), SealingError> {
        Ok(())
    }
}
