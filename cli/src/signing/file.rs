//! The signer's file, and what this signer remembers beside it: the newest root it verified, and what it signed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schema::{clock::Timestamp, encoding::Digest, id::TenantId};
use serde::{Deserialize, Serialize};
use trust::{
    pair::Pair,
    passphrase::{LEAST_CHARACTERS, PublicSigner, SealedPair, SignerFileError},
};
use zeroize::Zeroizing;

use super::token::TokenSigner;
use crate::{
    error::{Error, Exit},
    secret,
};

/// A file larger than this is none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// Where the passphrase comes from.
#[derive(Debug, Clone, clap::Args)]
pub struct PassphraseSource {
    /// File with the passphrase, which only you may read; '-' is standard input [default: asked for]
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// File with the PIN, of a signer on a PKCS#11 token; only you may read it
    #[arg(long, value_name = "FILE", env = "FREEHOLD_PIN_FILE")]
    pub pin_file: Option<PathBuf>,
}

impl PassphraseSource {
    /// The passphrase of a file that is there.
    pub fn read(&self, path: &Path) -> Result<Zeroizing<String>, Error> {
        match &self.passphrase_file {
            Some(file) => secret::read(file, "the passphrase"),
            None => ask(&format!("Passphrase of {}: ", path.display())),
        }
    }

    /// A new passphrase, asked for twice.
    pub fn choose(&self, path: &Path) -> Result<Zeroizing<String>, Error> {
        let chosen = match &self.passphrase_file {
            Some(file) => secret::read(file, "the passphrase")?,
            None => {
                let first = ask(&format!("New passphrase of {} (at least {LEAST_CHARACTERS} characters): ", path.display()))?;
                if *first != *ask("The same again: ")? {
                    return Err(Error::usage("the two passphrases differ"));
                }
                first
            }
        };
        match chosen.chars().count() >= LEAST_CHARACTERS {
            true => Ok(chosen),
            false => Err(Error::usage(SignerFileError::TooShort.to_string())),
        }
    }
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, Error> {
    let answer = rpassword::prompt_password(prompt);
    answer.map(Zeroizing::new).map_err(|source| {
        Error { exit: Exit::Usage, ..Error::fault("could not ask for the passphrase", source) }
            .hint("without a terminal, use --passphrase-file FILE")
    })
}

/// A file that does not hold what it should.
fn unreadable(path: &Path, error: &SignerFileError) -> Error {
    let exit = if matches!(error, SignerFileError::WrongPassphrase) { Exit::Refused } else { Exit::Usage };
    let code = if matches!(error, SignerFileError::WrongPassphrase) { "passphrase_wrong" } else { "signer_file_unreadable" };
    Error::new(exit, code, format!("{}: {error}", path.display()))
}

/// Reads a signer's file.
pub fn read(path: &Path) -> Result<SealedPair, Error> {
    SealedPair::parse(&bytes(path)?).map_err(|error| unreadable(path, &error))
}

/// Reads the file of a signer on a token; none when it is of another kind.
pub fn token(path: &Path) -> Result<Option<TokenSigner>, Error> {
    Ok(TokenSigner::parse(&bytes(path)?))
}

/// Opens the pair in it.
pub fn open(path: &Path, sealed: &SealedPair, passphrase: &str) -> Result<Pair, Error> {
    sealed.open(passphrase).map_err(|error| unreadable(path, &error))
}

/// The public half of a signer: from what `freehold signer public` printed, or from the signer's file itself.
pub fn public(path: &Path) -> Result<PublicSigner, Error> {
    let bytes = bytes(path)?;
    let public = match (SealedPair::parse(&bytes), TokenSigner::parse(&bytes)) {
        (Ok(sealed), _) => sealed.public,
        (Err(_), Some(signer)) => signer.public,
        (Err(_), None) => serde_json::from_slice(&bytes).map_err(|source| Error {
            exit: Exit::Usage,
            ..Error::fault(&format!("{} is no signer's public half", path.display()), source)
        })?,
    };
    public.pair().map_err(|error| unreadable(path, &error))?;
    Ok(public)
}

fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error { exit: Exit::Usage, ..Error::fault(&format!("could not read {}", path.display()), source) };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(Error::usage(format!("{} is too long for a signer's file", path.display())));
    }
    std::fs::read(path).map_err(failed)
}

/// What a signer remembers. Not secret, but whoever can change it can make its signer less careful.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// By tenant.
    pub tenants: BTreeMap<TenantId, Known>,
}

/// What a signer remembers of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// SHA-256 of the newest root it verified: the next ones must follow from it.
    pub root: Digest,
    /// What it signed, the oldest first.
    pub signed: Vec<SignedBefore>,
}

/// One signature this signer gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBefore {
    /// `root` or `policy`.
    pub kind: String,
    /// What it was for: the id of the tenant, a project or a site.
    pub scope: String,
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub serial: u64,
    /// SHA-256 of its payload.
    pub sha256: Digest,
    /// When it was signed.
    pub at: Timestamp,
}

impl Memory {
    /// Where the memory of a signer's file stands.
    pub fn path(signer: &Path) -> PathBuf {
        let mut name = signer.as_os_str().to_owned();
        name.push(".memory.json");
        name.into()
    }

    /// What the signer of this file remembers; nothing when it has signed nothing yet.
    pub fn read(signer: &Path) -> Result<Self, Error> {
        let path = Self::path(signer);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| Error::fault(&format!("{} is damaged", path.display()), source)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(Error::fault(&format!("could not read {}", path.display()), source)),
        }
    }

    /// Keeps it: whole or not at all.
    pub fn keep(&self, signer: &Path) -> Result<(), Error> {
        let path = Self::path(signer);
        let failed = |source| Error::fault(&format!("could not write {}", path.display()), source);
        let text = serde_json::to_string_pretty(self).map_err(|source| Error::fault("could not write JSON", source))?;
        replace(&path, text.as_bytes()).map_err(failed)
    }
}

/// Writes a file beside another and puts it in its place.
pub fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
