//! Where sealing keys are kept. A source holds keys itself (a file), or wraps them under a key of its own: then the database
//! keeps what it wrapped. Either way it is asked when a process starts and when a key is replaced; what hangs from a key that is
//! open goes on without it.
//!
//! Another source is another file here, its settings, and a line in [`Sources::new`].

pub mod environment;
mod file;
mod held;
mod pkcs11;
mod remote;

use std::sync::Arc;

use async_trait::async_trait;
use schema::clock::Ids;

use super::{Fingerprint, SealingError, SealingKey, cipher::framed};
use crate::config::{Config, SourceKind};
use environment::EnvironmentSource;
use file::FileSource;
pub(super) use file::KIND as FILE;
use held::HeldSource;
use pkcs11::TokenSource;
use remote::RemoteSource;

/// A sealing key, and what the database keeps for its source.
pub struct Made {
    /// The key.
    pub key: SealingKey,
    /// What the source needs to open it again; none when it holds it itself.
    pub wrapped: Option<Vec<u8>>,
}

/// Keeps sealing keys.
#[async_trait]
pub trait Source: Send + Sync {
    /// Its word in settings and in the database; for ever.
    fn kind(&self) -> &'static str;

    /// Where it is, for people; no secrets.
    fn place(&self) -> String;

    /// The sealing key with this fingerprint. The caller checks that it is.
    async fn open(&self, wanted: &Fingerprint, wrapped: Option<&[u8]>) -> Result<SealingKey, SealingError>;

    /// What somebody should do before the source can no longer be asked; no secrets.
    fn advice(&self) -> Option<String> {
        None
    }

    /// A sealing key that is none of `known`, kept for good before this returns: one that it was given, or a new one.
    async fn make(&self, known: &[Fingerprint], ids: &dyn Ids) -> Result<Made, SealingError>;

    /// Lets go of these keys, from which nothing hangs any more, as far as it has them.
    async fn retire(&self, gone: &[Fingerprint]) -> Result<(), SealingError>;
}

/// Every source that settings name. Clones share them.
#[derive(Clone)]
pub struct Sources {
    all: Vec<Arc<dyn Source>>,
    /// Where the next key is made.
    preferred: &'static str,
}

impl Sources {
    /// As settings say. Must be called inside a runtime where they name a server.
    pub fn new(config: &Config) -> Result<Self, SealingError> {
        let mut all: Vec<Arc<dyn Source>> = vec![Arc::new(FileSource::new(config.sealing_key_file()))];
        if let Some(environment) = config.sealing.environment() {
            all.push(Arc::new(EnvironmentSource::new(environment)));
        }
        if let Some(token) = &config.sealing.pkcs11 {
            all.push(Arc::new(TokenSource::new(token.clone())));
        }
        if let Some(server) = &config.sealing.remote {
            all.push(Arc::new(RemoteSource::new(server.clone())?));
        }
        let preferred = match config.sealing.source {
            SourceKind::File => file::KIND,
            SourceKind::Environment => environment::KIND,
            SourceKind::Pkcs11 => pkcs11::KIND,
            SourceKind::Remote => remote::KIND,
        };
        Ok(Self { preferred, all })
    }

    /// One key that the caller holds.
    pub fn held(key: SealingKey) -> Self {
        let held = HeldSource::new(key);
        Self { preferred: held.kind(), all: vec![Arc::new(held)] }
    }

    /// Where the next key is made.
    pub fn preferred(&self) -> Result<&dyn Source, SealingError> {
        self.find(self.preferred).ok_or(SealingError::NoDeployment)
    }

    /// The source of this kind.
    pub fn find(&self, kind: &str) -> Option<&dyn Source> {
        self.all.iter().map(|source| &**source).find(|source| source.kind() == kind)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &dyn Source> {
        self.all.iter().map(|source| &**source)
    }
}

/// What a device authenticates beside the sealing key that it wraps: which one it is.
fn wrapping(fingerprint: &Fingerprint) -> Vec<u8> {
    framed("freehold-sealing-key-wrapped-v1", &[fingerprint.as_str().as_bytes()])
}

/// A sealing key as a device gave it back.
fn unwrapped(bytes: Option<zeroize::Zeroizing<Vec<u8>>>, expected: &Fingerprint, place: &str) -> Result<SealingKey, SealingError> {
    let other = || SealingError::WrappedElsewhere { expected: expected.clone(), place: place.to_owned() };
    let bytes = bytes.ok_or_else(other)?;
    let mut key = zeroize::Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return Err(other());
    }
    key.copy_from_slice(&bytes);
    Ok(SealingKey::from_bytes(*key))
}
