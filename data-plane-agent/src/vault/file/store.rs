//! The directory of a file vault: names, modes, atomic writes, and one user at a time.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use schema::{
    catalogue::Algorithm,
    clock::Ids,
    encoding::{Base64, Digest},
    id::{KeyId, KeyVersion},
    name::Name,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::unlock::{Header, RootKey};
use crate::vault::{Held, VaultError, secret::SecretBytes};

/// The header's file name.
pub(super) const HEADER: &str = "vault.json";
const DESTROYED: &str = ".destroyed";
const SEALED: &str = ".json";

pub(super) struct Store {
    directory: PathBuf,
    /// Locked while this lives.
    _lock: File,
}

/// `key_….3.json`.
#[derive(Serialize, Deserialize)]
struct VersionFile {
    format: String,
    version: KeyVersion,
    algorithm: Algorithm,
    fingerprint: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<Base64>,
    nonce: Base64,
    sealed: Base64,
}

/// `secret.<name>.json`.
#[derive(Serialize, Deserialize)]
struct SecretFile {
    format: String,
    name: Name,
    nonce: Base64,
    sealed: Base64,
}

const VERSION_FORMAT: &str = "freehold-vault-key-v1";
const SECRET_FORMAT: &str = "freehold-vault-secret-v1";

impl Store {
    /// Takes the directory for this process; makes it when it is not there.
    pub(super) fn open_or_create(directory: &Path) -> Result<Self, VaultError> {
        let io = |act| move |source| VaultError::Io { act, path: directory.to_owned(), source };
        if !directory.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io("making"))?;
        }
        let mode = fs::metadata(directory).map_err(io("reading"))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(VaultError::TooOpen { path: directory.to_owned(), mode, wanted: 0o700 });
        }
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(directory.join("lock")).map_err(io("locking"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => VaultError::InUse(directory.to_owned()),
            other => io("locking")(other.into()),
        })?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn header_path(&self) -> PathBuf {
        self.directory.join(HEADER)
    }

    pub(super) fn version_path(&self, version: KeyVersion) -> PathBuf {
        self.directory.join(format!("{}.{}{SEALED}", version.key, version.number))
    }

    /// The header; none in a new vault. A vault with keys but without its header is damaged, not new.
    pub(super) fn header(&self) -> Result<Option<Header>, VaultError> {
        let header = self.read(&self.header_path())?;
        if header.is_none() && !self.versions()?.is_empty() {
            return Err(VaultError::Corrupt { path: self.header_path(), detail: "it is missing, but there are keys".to_owned() });
        }
        Ok(header)
    }

    pub(super) fn write_header(&self, header: &Header) -> Result<(), VaultError> {
        self.write(&self.header_path(), header)
    }

    /// Every version with a sealed file.
    pub(super) fn versions(&self) -> Result<BTreeSet<KeyVersion>, VaultError> {
        self.names_ending(SEALED)
    }

    /// Every destroyed version.
    pub(super) fn tombstones(&self) -> Result<BTreeSet<KeyVersion>, VaultError> {
        self.names_ending(DESTROYED)
    }

    fn names_ending(&self, ending: &str) -> Result<BTreeSet<KeyVersion>, VaultError> {
        let io = |source| VaultError::Io { act: "listing", path: self.directory.clone(), source };
        let mut versions = BTreeSet::new();
        for entry in fs::read_dir(&self.directory).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(ending)) else { continue };
            if let Some((key, number)) = stem.split_once('.')
                && let (Ok(key), Ok(number)) = (key.parse::<KeyId>(), number.parse())
            {
                versions.insert(KeyVersion::new(key, number));
            }
        }
        Ok(versions)
    }

    pub(super) fn write_version(&self, root: &RootKey, held: &Held, seed: &SecretBytes, ids: &dyn Ids) -> Result<(), VaultError> {
        let (nonce, sealed) = root.seal(&bound_version(held), seed, ids)?;
        let file = VersionFile {
            format: VERSION_FORMAT.to_owned(),
            version: held.version,
            algorithm: held.algorithm,
            fingerprint: held.fingerprint,
            public_key: held.public_key.clone().map(Base64),
            nonce,
            sealed,
        };
        self.write(&self.version_path(held.version), &file)
    }

    pub(super) fn read_version(&self, root: &RootKey, version: KeyVersion) -> Result<(Held, SecretBytes), VaultError> {
        let path = self.version_path(version);
        let corrupt = |detail: &str| VaultError::Corrupt { path: path.clone(), detail: detail.to_owned() };
        let file: VersionFile = self.read(&path)?.ok_or(VaultError::NotHeld(version))?;
        if file.format != VERSION_FORMAT || file.version != version {
            return Err(corrupt("it is not the file of this version"));
        }
        let held =
            Held { version, algorithm: file.algorithm, fingerprint: file.fingerprint, public_key: file.public_key.map(|bytes| bytes.0) };
        let seed = root
            .unseal(&bound_version(&held), &file.nonce, &file.sealed)
            .ok_or_else(|| corrupt("what it holds was changed, or belongs to another vault"))?;
        Ok((held, seed))
    }

    /// Leaves the mark that outlives the key.
    pub(super) fn write_tombstone(&self, version: KeyVersion) -> Result<(), VaultError> {
        let path = self.directory.join(format!("{}.{}{DESTROYED}", version.key, version.number));
        self.write(&path, &serde_json::json!({ "format": "freehold-vault-tombstone-v1", "version": version }))
    }

    /// Overwrites and removes the sealed file of a version, if there is one. (On copy-on-write disks the overwriting does
    /// not reach the old blocks; what is left there is sealed.)
    pub(super) fn remove_version(&self, version: KeyVersion) -> Result<(), VaultError> {
        let path = self.version_path(version);
        let io = |act| {
            let path = path.clone();
            move |source| VaultError::Io { act, path, source }
        };
        match OpenOptions::new().write(true).open(&path) {
            Ok(mut file) => {
                let length = file.metadata().map_err(io("reading"))?.len();
                file.write_all(&vec![0; usize::try_from(length).unwrap_or(0)]).and_then(|()| file.sync_all()).map_err(io("erasing"))?;
                fs::remove_file(&path).and_then(|()| self.sync_directory()).map_err(io("removing"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io("erasing")(error)),
        }
    }

    pub(super) fn write_secret(&self, root: &RootKey, name: &Name, secret: &SecretBytes, ids: &dyn Ids) -> Result<(), VaultError> {
        let (nonce, sealed) = root.seal(&bound_secret(name), secret, ids)?;
        let file = SecretFile { format: SECRET_FORMAT.to_owned(), name: name.clone(), nonce, sealed };
        self.write(&self.secret_path(name), &file)
    }

    pub(super) fn read_secret(&self, root: &RootKey, name: &Name) -> Result<Option<SecretBytes>, VaultError> {
        let path = self.secret_path(name);
        let Some(file) = self.read::<SecretFile>(&path)? else { return Ok(None) };
        let genuine = file.format == SECRET_FORMAT && file.name == *name;
        let secret = genuine.then(|| root.unseal(&bound_secret(name), &file.nonce, &file.sealed)).flatten();
        let corrupt = || VaultError::Corrupt { path, detail: "what it holds was changed, or belongs to another vault".to_owned() };
        secret.map(Some).ok_or_else(corrupt)
    }

    fn secret_path(&self, name: &Name) -> PathBuf {
        self.directory.join(format!("secret.{name}{SEALED}"))
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, VaultError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(VaultError::Io { act: "reading", path: path.to_owned(), source }),
        };
        let corrupt = |error: serde_json::Error| VaultError::Corrupt { path: path.to_owned(), detail: error.to_string() };
        serde_json::from_slice(&bytes).map(Some).map_err(corrupt)
    }

    /// Beside its place, synced, renamed, and the directory synced: after a crash the old file is there or the new one.
    fn write<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), VaultError> {
        let write = || -> io::Result<()> {
            let beside = path.with_extension("new");
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
            serde_json::to_writer_pretty(&mut file, value)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            self.sync_directory()
        };
        write().map_err(|source| VaultError::Io { act: "writing", path: path.to_owned(), source })
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

/// What stands in clear in a version's file.
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
