//! One backup as bytes (`docs/formats/backups.md`): a line `FHB1`, a line with the signed head, and the body. The head seals
//! the content key to the recovery key and pins the body; in the body each version's material is sealed by itself.

use std::{collections::BTreeSet, path::PathBuf};

use schema::{
    catalogue::Algorithm,
    clock::{Ids, Timestamp},
    encoding::{Base64, Digest},
    id::{AgentId, KeyVersion, SiteId, TenantId},
    wire::recovery::LeftOutOfBackup,
};
use serde::{Deserialize, Serialize};
use service::files::FileError;
use trust::{
    accept::RecoveryMemory,
    document,
    dsse::{EnvelopeError, peek_document},
    pair::{Pair, PublicPair},
    recovery::BackupHead,
};

use super::secret::{self, RecoverySecret};
use crate::{
    algorithm::{
        self, AlgorithmError,
        aes_gcm::{Aes256Gcm, NONCE_BYTES, TAG_BYTES},
    },
    policy::backup::NotBackedUp,
    vault::{
        Exported, Held, VaultError,
        secret::{ContentKey, SecretBytes},
    },
};

const MAGIC: &str = "FHB1\n";
const FORMAT: &str = "freehold-backup-v1";
/// The largest backup that is read: hundreds of thousands of versions.
pub const MAX_BYTES: u64 = 512 << 20;

/// Why a backup is not made, believed, opened or brought back. [`BackupError::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Nobody has said where.
    #[error("there is nowhere to put backups: set backup.directory to a directory on other storage than the vault's")]
    NoDirectory,
    /// Policy.
    #[error(transparent)]
    NotAllowed(#[from] NotBackedUp),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
    /// The vault.
    #[error("the vault failed")]
    Vault(#[from] VaultError),
    /// Nobody would know of it afterwards.
    #[error("no backup was made")]
    NotWrittenDown(#[from] crate::host::NotWritten),
    /// Sealing failed.
    #[error("sealing the backup failed")]
    Sealing(#[source] AlgorithmError),
    /// What was read back is not what was written.
    #[error("{path} was written and read back, and is not what it should be ({detail}); it was removed: look at the storage")]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// No backup, or not a whole one.
    #[error("{path} is not a whole backup: {detail}; use another one")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Of another tenant or site.
    #[error("{path} is a backup of {site}, and this agent is of {here}")]
    OtherSite {
        /// The file.
        path: PathBuf,
        /// Whose.
        site: SiteId,
        /// This agent's.
        here: SiteId,
    },
    /// Of an agent nobody knows.
    #[error("{path} says it was written by {agent}, of which the site's statements know nothing: its signature cannot be checked")]
    UnknownAgent {
        /// The file.
        path: PathBuf,
        /// The agent.
        agent: AgentId,
    },
    /// Not signed by the agent it names.
    #[error("{path} is not signed by the agent it names; it was made or changed by somebody else")]
    NotSigned {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
    /// Sealed to another recovery key.
    #[error("{path} is sealed to the recovery key {sealed_to}, and these shares are of {given}")]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// The key id it names.
        sealed_to: Digest,
        /// The key id of the shares.
        given: Digest,
    },
    /// It does not open.
    #[error("{path} does not open: what is sealed in it was changed")]
    NotGenuine {
        /// The file.
        path: PathBuf,
    },
    /// The vault failed in the middle of restoring.
    #[error("{restored} versions were restored, then {version} failed; put that right and run the same command again")]
    Stopped {
        /// Versions that are in the vault now.
        restored: usize,
        /// The one that failed.
        version: KeyVersion,
        /// Why.
        #[source]
        source: VaultError,
    },
    /// The material is not the one the site knows.
    #[error("{path} holds other material of {version} than its version record says; nothing was restored")]
    OtherMaterial {
        /// The file.
        path: PathBuf,
        /// The version.
        version: KeyVersion,
    },
}

impl BackupError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoDirectory => "backup_directory_missing",
            Self::NotAllowed(not) => not.code(),
            Self::File(_) => "backup_file",
            Self::Vault(error) => error.code(),
            Self::NotWrittenDown(error) => error.code(),
            Self::Sealing(_) => "backup_sealing_failed",
            Self::NotWritten { .. } => "backup_not_written",
            Self::Damaged { .. } => "backup_damaged",
            Self::OtherSite { .. } => "backup_of_another_site",
            Self::UnknownAgent { .. } => "backup_of_unknown_agent",
            Self::NotSigned { .. } => "backup_not_signed",
            Self::OtherKey { .. } => "backup_of_another_recovery_key",
            Self::NotGenuine { .. } => "backup_not_genuine",
            Self::Stopped { source, .. } => source.code(),
            Self::OtherMaterial { .. } => "backup_other_material",
        }
    }

    /// Whether something has to be set up first, and nothing failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::NoDirectory | Self::NotAllowed(_))
    }
}

/// What stands in clear in a backup, and the sealed material.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    format: String,
    /// Every version, in order.
    pub versions: Vec<SealedVersion>,
    /// Versions that were destroyed: they do not come back.
    pub tombstones: Vec<KeyVersion>,
    /// Versions that the vault holds and the backup does not, and why.
    pub left_out: Vec<LeftOutOfBackup>,
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedVersion {
    /// Which.
    pub version: KeyVersion,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Identifies the material.
    pub fingerprint: Digest,
    /// The material, sealed under the content key.
    sealed: Base64,
}

/// Who writes a backup, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The agent.
    pub agent: AgentId,
    /// Signs the head.
    pub pair: &'a Pair,
    /// When.
    pub now: Timestamp,
}

/// A backup that was written: its bytes, and what opens them, to read it back at once.
pub struct Sealed {
    /// The file.
    pub bytes: Vec<u8>,
    /// What it holds.
    pub body: Body,
    key: ContentKey,
}

/// Seals a backup.
pub fn seal(
    exported: &[Exported],
    tombstones: Vec<KeyVersion>,
    left_out: Vec<LeftOutOfBackup>,
    recovery: &RecoveryMemory,
    writer: Writer<'_>,
    ids: &dyn Ids,
) -> Result<Sealed, BackupError> {
    let key = ContentKey::random(ids);
    let sealed = |(place, exported): (usize, &Exported)| {
        let held = &exported.held;
        let sealed = seal_value(&key, place, &bound(held), &exported.material).map_err(BackupError::Sealing)?;
        Ok(SealedVersion { version: held.version, algorithm: held.algorithm, fingerprint: held.fingerprint, sealed: sealed.into() })
    };
    let versions = exported.iter().enumerate().map(sealed).collect::<Result<Vec<_>, BackupError>>()?;
    let body = Body { format: FORMAT.to_owned(), versions, tombstones, left_out };
    let body_bytes = to_json(&body);
    let Writer { tenant, site, agent, pair, now } = writer;
    let count = |length| u32::try_from(length).unwrap_or(u32::MAX);
    let mut head = BackupHead {
        tenant,
        site,
        agent,
        created: now,
        recovery_key: recovery.keyid(),
        encapsulated: Base64::default(),
        encrypted_key: Base64::default(),
        versions: count(body.versions.len()),
        tombstones: count(body.tombstones.len()),
        body: Digest::of(&body_bytes),
    };
    secret::seal(&mut head, recovery.public_key.as_slice(), &key, ids).map_err(BackupError::Sealing)?;
    let envelope = document::sign(&head, pair);
    Ok(Sealed { bytes: [MAGIC.as_bytes(), envelope.as_slice(), b"\n", &body_bytes].concat(), body, key })
}

/// A backup that was read. Whose it is and whether it opens is still to be asked.
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    /// The head, as it says of itself.
    pub head: BackupHead,
    envelope: Vec<u8>,
    /// What stands in clear.
    pub body: Body,
    /// SHA-256 of the whole file.
    pub sha256: Digest,
}

/// The material of one version of a backup.
pub struct Opened {
    /// The version.
    pub version: KeyVersion,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// What identifies it: computed from the material.
    pub fingerprint: Digest,
    /// The material.
    pub material: SecretBytes,
}

impl BackupFile {
    /// Reads a file.
    pub fn read(path: &std::path::Path) -> Result<Self, BackupError> {
        let io = |source| FileError::Io { act: "read", path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > MAX_BYTES {
            return Err(FileError::TooLarge { path: path.to_owned(), limit: MAX_BYTES }.into());
        }
        Self::parse(path, &std::fs::read(path).map_err(io)?)
    }

    /// Parses what stood in a file: it is whole, and its body is the one its head names.
    pub fn parse(path: &std::path::Path, bytes: &[u8]) -> Result<Self, BackupError> {
        let damaged = |detail: String| BackupError::Damaged { path: path.to_owned(), detail };
        let rest = bytes.strip_prefix(MAGIC.as_bytes()).ok_or_else(|| damaged("it does not begin as one".to_owned()))?;
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("its head is cut off".to_owned()))?;
        let (envelope, body_bytes) = (&rest[..end], &rest[end + 1..]);
        let head: BackupHead = peek_document(envelope).map_err(|error| damaged(format!("its head does not read: {error}")))?;
        if Digest::of(body_bytes) != head.body {
            return Err(damaged("its body is cut off or was changed".to_owned()));
        }
        let body: Body = serde_json::from_slice(body_bytes).map_err(|error| damaged(format!("its body does not read: {error}")))?;
        if body.format != FORMAT {
            return Err(damaged(format!("its format is {:?}, and this program reads {FORMAT:?}", body.format)));
        }
        let versions: BTreeSet<KeyVersion> = body.versions.iter().map(|sealed| sealed.version).collect();
        if versions.len() != body.versions.len() {
            return Err(damaged("a version stands in it twice".to_owned()));
        }
        Ok(Self { path: path.to_owned(), head, envelope: envelope.to_vec(), body, sha256: Digest::of(bytes) })
    }

    /// Where it was read.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Checks that this pair signed it.
    pub fn signed_by(&self, pair: &PublicPair) -> Result<(), BackupError> {
        let not_signed = |source| BackupError::NotSigned { path: self.path.clone(), source };
        document::open::<BackupHead>(&self.envelope, pair).map(drop).map_err(not_signed)
    }

    /// Opens it with the recovery key that its shares gave.
    pub fn open(&self, secret: &RecoverySecret) -> Result<Vec<Opened>, BackupError> {
        let (sealed_to, given) = (self.head.recovery_key, secret.keyid());
        if sealed_to != given {
            return Err(BackupError::OtherKey { path: self.path.clone(), sealed_to, given });
        }
        let key = secret.open(&self.head).map_err(|_| BackupError::NotGenuine { path: self.path.clone() })?;
        self.open_with(&key)
    }

    /// Opens it with its content key; every material is the one its fingerprint says.
    fn open_with(&self, key: &ContentKey) -> Result<Vec<Opened>, BackupError> {
        let not_genuine = || BackupError::NotGenuine { path: self.path.clone() };
        let open = |(place, sealed): (usize, &SealedVersion)| {
            let SealedVersion { version, algorithm, fingerprint, sealed } = sealed;
            let material = open_value(key, place, &bound_of(*version, *algorithm, *fingerprint), sealed.as_slice());
            let material = material.ok_or_else(not_genuine)?;
            let loaded = algorithm::serve(*algorithm).load(*algorithm, &material).map_err(|_| not_genuine())?;
            let found = algorithm::fingerprint(*algorithm, loaded.public_key(), &material);
            if found != *fingerprint {
                return Err(BackupError::OtherMaterial { path: self.path.clone(), version: *version });
            }
            Ok(Opened { version: *version, algorithm: *algorithm, fingerprint: found, material })
        };
        self.body.versions.iter().enumerate().map(open).collect()
    }

    /// Reads back what was just written: it is whole, signed by this pair, and every material opens and is what it should be.
    pub fn verify_written(&self, written: &Sealed, pair: &PublicPair) -> Result<(), BackupError> {
        self.signed_by(pair)?;
        if self.body != written.body {
            return Err(BackupError::Damaged { path: self.path.clone(), detail: "it holds something else".to_owned() });
        }
        self.open_with(&written.key).map(drop)
    }
}

fn seal_value(key: &ContentKey, place: usize, bound: &[u8], material: &SecretBytes) -> Result<Vec<u8>, AlgorithmError> {
    let failed = || AlgorithmError::Failed { algorithm: secret::algorithm(), act: "sealing a backup" };
    let mut sealed = vec![0; material.len() + TAG_BYTES];
    let (ciphertext, tag) = sealed.split_at_mut(material.len());
    let gcm = Aes256Gcm::new(key.expose()).map_err(|_| failed())?;
    gcm.seal_to(nonce(place), bound, material.expose(), ciphertext, tag).map_err(|_| failed())?;
    Ok(sealed)
}

fn open_value(key: &ContentKey, place: usize, bound: &[u8], sealed: &[u8]) -> Option<SecretBytes> {
    let (ciphertext, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_BYTES)?)?;
    let mut material = SecretBytes::new(vec![0; ciphertext.len()]);
    Aes256Gcm::new(key.expose()).ok()?.open_to(nonce(place), bound, ciphertext, tag, material.expose_mut()).ok()?;
    Some(material)
}

/// Every backup has a content key of its own, so a version's place in it is used once.
fn nonce(place: usize) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[NONCE_BYTES - 8..].copy_from_slice(&(place as u64).to_be_bytes());
    nonce
}

fn bound(held: &Held) -> Vec<u8> {
    bound_of(held.version, held.algorithm, held.fingerprint)
}

/// What stands in clear beside sealed material.
fn bound_of(version: KeyVersion, algorithm: Algorithm, fingerprint: Digest) -> Vec<u8> {
    let version = version.to_string();
    Digest::labelled("freehold-backup-value-v1", &[version.as_bytes(), algorithm.name().as_bytes(), &fingerprint.0]).0.to_vec()
}

#[allow(clippy::expect_used, reason = "lists of our own types, written to memory")]
fn to_json(body: &Body) -> Vec<u8> {
    serde_json::to_vec(body).expect("a body is JSON")
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use schema::{
        clock::{ManualIds, SystemIds},
        id::KeyId,
    };

    use super::*;

    const PLACE: &str = "a.fhb";

    struct Bench {
        secret: RecoverySecret,
        pair: Pair,
        sealed: Sealed,
        seed: Vec<u8>,
    }

    fn bench() -> Bench {
        let ids = ManualIds::seeded(4);
        let secret = RecoverySecret::generate(&ids).unwrap();
        let recovery =
            RecoveryMemory { number: 1, public_key: secret.public_key().into(), shares: 3, threshold: 2, agent: AgentId::from_bits(3) };
        let exported = ["A256KW+A256GCM", "ML-DSA-65", "ECDSA-P256"].iter().enumerate().map(|(place, name)| {
            let algorithm: Algorithm = name.parse().unwrap();
            let material = algorithm::serve(algorithm).generate(algorithm, &ids).unwrap();
            let key = algorithm::serve(algorithm).load(algorithm, &material).unwrap();
            let fingerprint = algorithm::fingerprint(algorithm, key.public_key(), &material);
            let version = KeyVersion::new(KeyId::from_bits(place as u128 + 1), 1);
            Exported {
                held: Arc::new(Held {
                    version,
                    algorithm,
                    fingerprint,
                    public_key: key.public_key().map(<[u8]>::to_vec),
                    protection: schema::key::Protection::Software,
                }),
                material,
            }
        });
        let exported: Vec<Exported> = exported.collect();
        let pair = Pair::generate(&ids);
        let (tenant, site, agent) = (TenantId::from_bits(1), SiteId::from_bits(2), AgentId::from_bits(3));
        let writer = Writer { tenant, site, agent, pair: &pair, now: Timestamp::from_micros(1_750_000_000_000_000) };
        let gone = KeyVersion::new(KeyId::from_bits(9), 1);
        let out = LeftOutOfBackup { version: KeyVersion::new(KeyId::from_bits(8), 1), reason: "it cannot leave".to_owned() };
        let sealed = seal(&exported, vec![gone], vec![out], &recovery, writer, &SystemIds).unwrap();
        let seed = exported[0].material.expose().to_vec();
        Bench { secret, pair, sealed, seed }
    }

    fn parse(bytes: &[u8]) -> Result<BackupFile, BackupError> {
        BackupFile::parse(Path::new(PLACE), bytes)
    }

    #[test]
    fn what_was_sealed_opens_with_the_recovery_key_and_holds_no_material_in_clear() {
        let Bench { secret, pair, sealed, seed } = bench();
        assert!(!sealed.bytes.windows(seed.len()).any(|window| window == seed));
        let file = parse(&sealed.bytes).unwrap();
        file.verify_written(&sealed, pair.public()).unwrap();
        let opened = file.open(&secret).unwrap();
        assert_eq!((opened.len(), opened[0].material.expose()), (3, seed.as_slice()));
        assert_eq!((file.head.versions, file.head.tombstones, file.body.left_out.len()), (3, 1, 1));
        assert!(matches!(file.signed_by(Pair::generate(&SystemIds).public()), Err(BackupError::NotSigned { .. })));
        let other = RecoverySecret::generate(&SystemIds).unwrap();
        assert_eq!(file.open(&other).err().unwrap().code(), "backup_of_another_recovery_key");
    }

    #[test]
    fn a_damaged_backup_is_named_whatever_is_wrong_with_it() {
        let Bench { secret, pair, sealed, .. } = bench();
        let bytes = sealed.bytes;
        for end in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            assert_eq!(parse(&bytes[..end]).err().unwrap().code(), "backup_damaged", "cut at {end}");
        }
        let mut named = BTreeSet::new();
        for place in (0..bytes.len()).step_by(13) {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            let found = parse(&changed).and_then(|file| {
                file.signed_by(pair.public())?;
                file.open(&secret)
            });
            // A key id or blank of the envelope may be another one: it is a hint and nothing more.
            if let Err(error) = found {
                named.insert(error.code());
            } else {
                assert_eq!(parse(&changed).unwrap().body, parse(&bytes).unwrap().body, "{place}");
            }
        }
        assert!(named.contains("backup_damaged") && named.contains("backup_not_signed"), "{named:?}");
    }

    /// Whoever has the public half can seal what he likes; without the agent's pair it is nobody's backup.
    #[test]
    fn a_backup_sealed_by_somebody_else_is_not_the_agents() {
        let Bench { secret, pair, .. } = bench();
        let recovery =
            RecoveryMemory { number: 1, public_key: secret.public_key().into(), shares: 3, threshold: 2, agent: AgentId::from_bits(3) };
        let evil = Pair::generate(&SystemIds);
        let (tenant, site, agent) = (TenantId::from_bits(1), SiteId::from_bits(2), AgentId::from_bits(3));
        let writer = Writer { tenant, site, agent, pair: &evil, now: Timestamp::default() };
        let forged = seal(&[], vec![], vec![], &recovery, writer, &SystemIds).unwrap();
        let file = parse(&forged.bytes).unwrap();
        assert!(file.open(&secret).is_ok(), "anybody can seal to a public key");
        assert_eq!(file.signed_by(pair.public()).err().unwrap().code(), "backup_not_signed");
    }
}
