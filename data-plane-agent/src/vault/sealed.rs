//! Material that is kept sealed, as records somewhere, and used in the agent's memory: the file vault, the remote vault, and
//! what a device cannot hold.
//!
//! ```text
//! key_….3.json             a version: algorithm, fingerprint, public key in clear, its secret sealed
//! key_….3.destroyed        a tombstone; beats a record that came back with an old backup
//! secret.<name>.json       a secret of the agent itself, sealed
//! ```
//!
//! What stands in clear beside a sealed value is bound into it (`docs/formats.md`).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use schema::{
    catalogue::Algorithm,
    clock::Ids,
    encoding::{Base64, Digest},
    id::{KeyId, KeyVersion},
    key::Protection,
    name::Name,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Description, Held, VaultError,
    keeper::{Bounds, Keeper, Loaded},
    secret::SecretBytes,
};
use crate::algorithm;

const VERSION_FORMAT: &str = "freehold-vault-key-v1";
const SECRET_FORMAT: &str = "freehold-vault-secret-v1";
const TOMBSTONE_FORMAT: &str = "freehold-vault-tombstone-v1";
const DESTROYED: &str = ".destroyed";
const SEALED: &str = ".json";

/// A place for small records with names. Every method may block.
pub trait Records: Send + Sync + 'static {
    /// What it is: `file`, …
    fn kind(&self) -> &'static str;

    /// Where it is, for people.
    fn place(&self) -> String;

    /// Whether other agents change it while this one runs.
    fn is_shared(&self) -> bool;

    /// How long it may take.
    fn bounds(&self) -> Bounds;

    /// Whether it can be used now.
    fn check(&self) -> Result<(), VaultError>;

    /// What will go wrong unless somebody does something: a stable code, and words.
    fn advice(&self) -> Option<(&'static str, String)> {
        None
    }

    /// Where a record is, for people.
    fn path(&self, name: &str) -> PathBuf;

    /// The name of every record.
    fn names(&self) -> Result<Vec<String>, VaultError>;

    /// One record.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, VaultError>;

    /// Keeps a record, whole and durable when this returns; `false` when one of this name is there already, and it stays as
    /// it is.
    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, VaultError>;

    /// Puts a record in the place of another, whole and durable when this returns.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError>;

    /// Removes a record, if there is one, so that it cannot be read again where that is possible.
    fn remove(&self, name: &str) -> Result<(), VaultError>;
}

/// A sealed value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SealedValue {
    /// The nonce; empty where the ciphertext holds it.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub nonce: Base64,
    /// The ciphertext with its tag; empty where there is nothing sealed.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub sealed: Base64,
}

fn is_empty(bytes: &Base64) -> bool {
    bytes.as_slice().is_empty()
}

/// Seals small secrets. Every method may block.
pub trait Seal: Send + Sync + 'static {
    /// Seals a value. `bound` is what stands in clear beside it.
    fn seal(&self, bound: &Digest, value: &SecretBytes, ids: &dyn Ids) -> Result<SealedValue, VaultError>;

    /// Opens a value; `None` when it is not genuine.
    fn unseal(&self, bound: &Digest, sealed: &SealedValue) -> Result<Option<SecretBytes>, VaultError>;

    /// How well what it seals is guarded.
    fn protection(&self) -> Protection;

    /// Whether it can be used now.
    fn check(&self) -> Result<(), VaultError>;

    /// What will go wrong unless somebody does something: a stable code, and words.
    fn advice(&self) -> Option<(&'static str, String)> {
        None
    }
}

/// `key_….3.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VersionRecord {
    format: String,
    version: KeyVersion,
    algorithm: Algorithm,
    fingerprint: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<Base64>,
    /// Set when the material is inside a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) inside: Option<Inside>,
    #[serde(flatten)]
    value: SealedValue,
}

/// Where the material is that is inside a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inside {
    /// The id of its objects.
    pub(super) object: Base64,
    /// What the device computes of it, to tell it from any other.
    pub(super) check: Digest,
}

/// `secret.<name>.json`.
#[derive(Serialize, Deserialize)]
struct SecretRecord {
    format: String,
    name: Name,
    #[serde(flatten)]
    value: SealedValue,
}

#[derive(Serialize, Deserialize)]
struct Tombstone {
    format: String,
    version: KeyVersion,
}

impl VersionRecord {
    /// Of a version whose material is inside a device.
    pub(super) fn inside(held: &Held, inside: Inside) -> Self {
        Self { inside: Some(inside), ..Self::sealed(held, SealedValue::default()) }
    }

    fn sealed(held: &Held, value: SealedValue) -> Self {
        Self {
            format: VERSION_FORMAT.to_owned(),
            version: held.version,
            algorithm: held.algorithm,
            fingerprint: held.fingerprint,
            public_key: held.public_key.clone().map(Base64),
            inside: None,
            value,
        }
    }

    /// What it says of the version.
    pub(super) fn held(&self, protection: Protection) -> Held {
        let public_key = self.public_key.clone().map(|bytes| bytes.0);
        Held { version: self.version, algorithm: self.algorithm, fingerprint: self.fingerprint, public_key, protection }
    }
}

/// Material that is kept sealed.
pub struct Sealed<R, S> {
    pub(super) records: R,
    pub(super) seal: S,
}

impl<R: Records, S: Seal> Sealed<R, S> {
    /// Records in this place, under this seal.
    pub fn new(records: R, seal: S) -> Self {
        Self { records, seal }
    }

    pub(super) fn corrupt(&self, name: &str, detail: impl Into<String>) -> VaultError {
        VaultError::Corrupt { path: self.records.path(name), detail: detail.into() }
    }

    /// Tests the material, stores it, and reads it back.
    pub(super) fn keep(
        &self,
        version: KeyVersion,
        algorithm: Algorithm,
        secret: &SecretBytes,
        ids: &dyn Ids,
    ) -> Result<Loaded, VaultError> {
        let key = algorithm::serve(algorithm).load(algorithm, secret)?;
        algorithm::pairwise(key.as_ref(), ids)?;
        let public_key = key.public_key().map(<[u8]>::to_vec);
        let fingerprint = algorithm::fingerprint(algorithm, public_key.as_deref(), secret);
        let held = Held { version, algorithm, fingerprint, public_key, protection: self.seal.protection() };
        let value = self.seal.seal(&bound_version(&held), secret, ids)?;
        self.write_version(&VersionRecord::sealed(&held, value))?;
        self.load(version, ids)
    }

    /// Keeps the record of a version; nothing when another agent was quicker.
    pub(super) fn write_version(&self, record: &VersionRecord) -> Result<(), VaultError> {
        let name = version_name(record.version);
        self.records.create(&name, &self.text(&name, record)?).map(|_| ())
    }

    /// The record of a version that was not destroyed.
    pub(super) fn read_version(&self, version: KeyVersion) -> Result<VersionRecord, VaultError> {
        if self.records.read(&tombstone_name(version))?.is_some() {
            return Err(VaultError::Destroyed(version));
        }
        let name = version_name(version);
        let record: VersionRecord = self.parse(&name)?.ok_or(VaultError::NotHeld(version))?;
        if record.format != VERSION_FORMAT || record.version != version {
            return Err(self.corrupt(&name, "it is not the record of this version"));
        }
        Ok(record)
    }

    /// What a version's record holds, opened.
    pub(super) fn open(&self, record: &VersionRecord) -> Result<(Held, SecretBytes), VaultError> {
        let held = record.held(self.seal.protection());
        let secret = self.seal.unseal(&bound_version(&held), &record.value)?;
        let changed = || self.corrupt(&version_name(record.version), "what it holds was changed, or belongs to another vault");
        Ok((held, secret.ok_or_else(changed)?))
    }

    /// Expands what a version's record holds; checks that it is the material that the record says it is.
    pub(super) fn expand(&self, record: &VersionRecord) -> Result<Loaded, VaultError> {
        let (held, secret) = self.open(record)?;
        let key = algorithm::serve(held.algorithm).load(held.algorithm, &secret)?;
        if algorithm::fingerprint(held.algorithm, key.public_key(), &secret) != held.fingerprint {
            return Err(self.corrupt(&version_name(held.version), "the material does not have the fingerprint beside it"));
        }
        Ok(Loaded { held: Arc::new(held), key })
    }

    /// Seals every value again, under whatever the seal seals with now.
    pub(super) fn seal_again(&self, ids: &dyn Ids) -> Result<usize, VaultError> {
        let names = self.records.names()?;
        for name in names.iter().filter(|name| name.ends_with(SEALED)) {
            let changed = || self.corrupt(name, "what it holds was changed, or belongs to another vault");
            if let Some(version) = version_of(name, SEALED) {
                // What came back with an old backup, under an old root key, is removed and not read.
                if names.contains(&tombstone_name(version)) {
                    continue;
                }
                let Some(mut record) = self.parse::<VersionRecord>(name)?.filter(|record| record.inside.is_none()) else { continue };
                if record.version != version {
                    return Err(self.corrupt(name, "it is not the record of this version"));
                }
                let bound = bound_version(&record.held(self.seal.protection()));
                let secret = self.seal.unseal(&bound, &record.value)?.ok_or_else(changed)?;
                record.value = self.seal.seal(&bound, &secret, ids)?;
                self.records.replace(name, &self.text(name, &record)?)?;
            } else if name.starts_with("secret.") {
                let Some(mut record) = self.parse::<SecretRecord>(name)? else { continue };
                let bound = bound_secret(&record.name);
                let secret = self.seal.unseal(&bound, &record.value)?.ok_or_else(changed)?;
                record.value = self.seal.seal(&bound, &secret, ids)?;
                self.records.replace(name, &self.text(name, &record)?)?;
            }
        }
        Ok(names.len())
    }

    /// Leaves the mark that outlives the key.
    pub(super) fn bury(&self, version: KeyVersion) -> Result<(), VaultError> {
        let name = tombstone_name(version);
        let tombstone = Tombstone { format: TOMBSTONE_FORMAT.to_owned(), version };
        self.records.create(&name, &self.text(&name, &tombstone)?).map(|_| ())
    }

    fn ending(&self, ending: &str) -> Result<BTreeSet<KeyVersion>, VaultError> {
        Ok(self.records.names()?.iter().filter_map(|name| version_of(name, ending)).collect())
    }

    fn text<T: Serialize>(&self, name: &str, value: &T) -> Result<Vec<u8>, VaultError> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|error| self.corrupt(name, error.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    fn parse<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, VaultError> {
        let Some(bytes) = self.records.read(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| self.corrupt(name, error.to_string()))
    }

    fn read_secret(&self, name: &Name) -> Result<Option<SecretBytes>, VaultError> {
        let place = format!("secret.{name}{SEALED}");
        let Some(record) = self.parse::<SecretRecord>(&place)? else { return Ok(None) };
        let genuine = record.format == SECRET_FORMAT && record.name == *name;
        let secret = if genuine { self.seal.unseal(&bound_secret(name), &record.value)? } else { None };
        secret.map(Some).ok_or_else(|| self.corrupt(&place, "what it holds was changed, or belongs to another vault"))
    }
}

impl<R: Records, S: Seal> Keeper for Sealed<R, S> {
    fn description(&self) -> Description {
        let protection = self.seal.protection();
        let algorithms: BTreeMap<_, _> = Algorithm::all().map(|algorithm| (algorithm, protection)).collect();
        Description { kind: self.records.kind(), place: self.records.place(), algorithms, brought: protection, needed_for_use: false }
    }

    fn bounds(&self) -> Bounds {
        self.records.bounds()
    }

    fn is_shared(&self) -> bool {
        self.records.is_shared()
    }

    fn check(&self) -> Result<(), VaultError> {
        self.records.check()?;
        self.seal.check()
    }

    fn advice(&self) -> Option<(&'static str, String)> {
        self.records.advice().or_else(|| self.seal.advice())
    }

    fn make(&self, version: KeyVersion, algorithm: Algorithm, ids: &dyn Ids) -> Result<Loaded, VaultError> {
        let secret = algorithm::serve(algorithm).generate(algorithm, ids)?;
        self.keep(version, algorithm, &secret, ids)
    }

    fn take_in(&self, version: KeyVersion, algorithm: Algorithm, material: &SecretBytes, ids: &dyn Ids) -> Result<Loaded, VaultError> {
        let expected = algorithm::serve(algorithm).load(algorithm, material)?;
        let expected = algorithm::fingerprint(algorithm, expected.public_key(), material);
        let kept = self.keep(version, algorithm, material, ids)?;
        if kept.held.fingerprint == expected { Ok(kept) } else { Err(VaultError::OtherMaterial(version)) }
    }

    fn load(&self, version: KeyVersion, _ids: &dyn Ids) -> Result<Loaded, VaultError> {
        self.expand(&self.read_version(version)?)
    }

    fn material(&self, version: KeyVersion) -> Result<SecretBytes, VaultError> {
        Ok(self.open(&self.read_version(version)?)?.1)
    }

    fn versions(&self) -> Result<BTreeSet<KeyVersion>, VaultError> {
        self.ending(SEALED)
    }

    fn tombstones(&self) -> Result<BTreeSet<KeyVersion>, VaultError> {
        self.ending(DESTROYED)
    }

    fn destroy(&self, version: KeyVersion) -> Result<(), VaultError> {
        self.bury(version)?;
        self.records.remove(&version_name(version))
    }

    fn named_secret(&self, name: &Name, ids: &dyn Ids) -> Result<SecretBytes, VaultError> {
        if let Some(secret) = self.read_secret(name)? {
            return Ok(secret);
        }
        let secret = SecretBytes::random(32, ids);
        let value = self.seal.seal(&bound_secret(name), &secret, ids)?;
        let record = SecretRecord { format: SECRET_FORMAT.to_owned(), name: name.clone(), value };
        let place = format!("secret.{name}{SEALED}");
        if self.records.create(&place, &self.text(&place, &record)?)? {
            return Ok(secret);
        }
        // Another agent was quicker: its secret is the one.
        self.read_secret(name)?.ok_or_else(|| self.corrupt(&place, "it came and went"))
    }
}

/// The name of a version's record.
pub(super) fn version_name(version: KeyVersion) -> String {
    format!("{}.{}{SEALED}", version.key, version.number)
}

fn tombstone_name(version: KeyVersion) -> String {
    format!("{}.{}{DESTROYED}", version.key, version.number)
}

fn version_of(name: &str, ending: &str) -> Option<KeyVersion> {
    let (key, number) = name.strip_suffix(ending)?.split_once('.')?;
    Some(KeyVersion::new(key.parse::<KeyId>().ok()?, number.parse().ok()?))
}

/// What stands in clear in a version's record.
fn bound_version(held: &Held) -> Digest {
    let public_key = held.public_key.as_deref().unwrap_or_default();
    Digest::labelled(
        VERSION_FORMAT,
        &[held.version.to_string().as_bytes(), held.algorithm.name().as_bytes(), &held.fingerprint.0, public_key],
    )
}

fn bound_secret(name: &Name) -> Digest {
    Digest::labelled(SECRET_FORMAT, &[name.to_string().as_bytes()])
}
