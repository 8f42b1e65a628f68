//! What the agent keeps on disk of its dealings with the control plane. Every file is whole or not there, and closed to
//! others; private keys are sealed under a secret of the vault.
//!
//! ```text
//! identity.json      who the agent is, what it pinned, its sealed keys
//! certificate.json   its certificate and the authorities of the agent listener
//! statements.json    the accepted set: exact bytes, and what must never be forgotten
//! granting.json      the set before it whose policies go on granting, while those of the accepted set cannot be used
//! budgets.json       the lease, what was spent of it and of all before, the request that waits for its answer
//! prekeys.json       short-lived keys that material for this agent is sealed to, sealed
//! exchange.json      how many outboxes were written, and what the relay said last, of an agent that is connected to nothing
//! errands/           what commands beside the running agent ask of it, and its answers
//! ratchet.json       the secrets that prove the next report to be of the same agent as the last
//! cut-off.json       there while the control plane says that this agent is no longer one
//! time.json          the last signed time
//! confirmed.json     what a person here confirmed: join codes that were compared, an epoch that may begin, a recovery key
//! recovery.json      the recovery key that was made here: its public half
//! ```

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use schema::{
    clock::{Ids, Timestamp, random},
    encoding::Base64,
    id::{AgentId, KeyVersion, SiteId, TenantId},
    name::Name,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use service::files::{FileError, OWNER_ONLY, create_private_directory, write_atomic};
use trust::{
    accept::{Confirmed, Identity},
    pair::{Pair, SEEDS_BYTES},
    ratchet::Ratchet,
    time::StoredTime,
};
use zeroize::Zeroizing;

use crate::{
    algorithm::aes_gcm::{Aes256Gcm, NONCE_BYTES, TAG_BYTES},
    vault::{Vault, VaultError},
};

/// Why something could not be kept or read back.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is damaged; {advice}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Sealed keys do not open.
    #[error("the agent's keys in {path} do not open under this vault; use the vault they were made with, or enrol the agent again")]
    Sealed {
        /// The file.
        path: PathBuf,
    },
    /// The vault would not give the secret that seals them.
    #[error("the vault did not give the secret that seals the agent's keys")]
    Vault(#[from] VaultError),
    /// The TLS key is none.
    #[error("the agent's TLS key cannot be made or read")]
    TlsKey(#[source] rcgen::Error),
}

/// The directory `control` in the agent's data directory.
#[derive(Debug, Clone)]
pub struct ControlDirectory(PathBuf);

/// `identity.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredIdentity {
    /// Version of this format: `1`.
    pub v: u32,
    /// Who the agent is, and what it pinned.
    #[serde(flatten)]
    pub identity: Identity,
    /// Where the control plane's agent listener is.
    pub control_plane: String,
    /// The authority of that listener as the enrolment file names it, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// It joined by a file, and is connected to nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apart: bool,
    /// The signed roster entry, exact bytes.
    pub roster_entry: Base64,
    /// The certificate signing request, PEM: the same again when an answer was lost.
    pub csr_pem: String,
    /// The pair's seeds, sealed.
    sealed_pair: Sealed,
    /// The TLS key in PEM, sealed.
    sealed_tls_key: Sealed,
}

/// A secret of the agent, sealed under a secret of its vault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sealed {
    nonce: Base64,
    sealed: Base64,
}

/// `certificate.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCertificate {
    /// The certificate and the authorities above it, PEM.
    pub certificate_pem: String,
    /// The authorities of the agent listener, PEM.
    pub ca_pem: String,
    /// When it was received.
    pub received: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// `authorities.json`: whose certificates the control plane shows, as a heartbeat named them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAuthorities {
    /// Version of this format: `1`.
    pub v: u32,
    /// The authorities, PEM.
    pub ca_pem: String,
}

/// `recovery.json`: what is registered of a recovery key that was made at this agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeRecoveryKey {
    /// Version of this format: `1`.
    pub v: u32,
    /// Its number at the site.
    pub number: u32,
    /// Its public half.
    pub public_key: Base64,
    /// How many shares there are.
    pub shares: u8,
    /// How many of them are needed.
    pub threshold: u8,
    /// When it was made.
    pub made: Timestamp,
}

/// The agent's private keys, opened.
pub struct AgentKeys {
    /// Signs documents and batches of receipts.
    pub pair: Pair,
    /// The TLS key, PEM.
    pub tls_key_pem: Zeroizing<String>,
}

impl ControlDirectory {
    /// In an agent's data directory. Made when it is not there.
    pub fn open(data_dir: &Path) -> Result<Self, KeepError> {
        let path = data_dir.join("control");
        create_private_directory(&path)?;
        Ok(Self(path))
    }

    /// Who the agent is; none before it has begun to enrol.
    pub fn identity(&self) -> Result<Option<StoredIdentity>, KeepError> {
        self.read("identity.json")
    }

    /// Keeps whether the agent joins by a file.
    pub fn keep_apart(&self, stored: &mut StoredIdentity, apart: bool) -> Result<(), KeepError> {
        if stored.apart != apart {
            stored.apart = apart;
            self.write("identity.json", stored)?;
        }
        Ok(())
    }

    /// The certificate; none before it has enrolled.
    pub fn certificate(&self) -> Result<Option<StoredCertificate>, KeepError> {
        self.read("certificate.json")
    }

    /// Keeps a certificate.
    pub fn keep_certificate(&self, certificate: &StoredCertificate) -> Result<(), KeepError> {
        self.write("certificate.json", certificate)
    }

    /// The authorities of the control plane, as a heartbeat named them; none before one did.
    pub fn authorities(&self) -> Result<Option<StoredAuthorities>, KeepError> {
        self.read("authorities.json")
    }

    /// Keeps them.
    pub fn keep_authorities(&self, ca_pem: &str) -> Result<StoredAuthorities, KeepError> {
        let authorities = StoredAuthorities { v: 1, ca_pem: ca_pem.to_owned() };
        self.write("authorities.json", &authorities)?;
        Ok(authorities)
    }

    /// The accepted set as [`trust::accept::AcceptedSet::to_bytes`] wrote it.
    pub fn statements(&self) -> Result<Option<Vec<u8>>, KeepError> {
        self.read_bytes("statements.json")
    }

    /// Keeps an accepted set. Durable when this returns.
    pub fn keep_statements(&self, bytes: &[u8]) -> Result<(), KeepError> {
        Ok(write_atomic(&self.0.join("statements.json"), bytes, OWNER_ONLY)?)
    }

    /// The set whose policies grant, while those of the accepted one cannot be used.
    pub fn granting(&self) -> Result<Option<Vec<u8>>, KeepError> {
        self.read_bytes("granting.json")
    }

    /// Keeps that set; none when the accepted set grants by itself.
    pub fn keep_granting(&self, bytes: Option<&[u8]>) -> Result<(), KeepError> {
        match bytes {
            Some(bytes) => Ok(write_atomic(&self.0.join("granting.json"), bytes, OWNER_ONLY)?),
            None => self.remove("granting.json"),
        }
    }

    /// Where the ledger of budgets is kept.
    pub fn budgets_file(&self) -> PathBuf {
        self.0.join("budgets.json")
    }

    /// The ratchet; the beginning of one before the first report.
    pub fn ratchet(&self) -> Result<Ratchet, KeepError> {
        Ok(self.read("ratchet.json")?.unwrap_or_default())
    }

    /// Keeps the ratchet. Durable when this returns.
    pub fn keep_ratchet(&self, ratchet: &Ratchet) -> Result<(), KeepError> {
        self.write("ratchet.json", ratchet)
    }

    /// Why the control plane said that this agent is no longer one: the code of its refusal.
    pub fn cut_off(&self) -> Result<Option<String>, KeepError> {
        self.read("cut-off.json")
    }

    /// Keeps that; none when it is one again.
    pub fn keep_cut_off(&self, code: Option<&str>) -> Result<(), KeepError> {
        match code {
            Some(code) => self.write("cut-off.json", &code),
            None => self.remove("cut-off.json"),
        }
    }

    /// The last signed time.
    pub fn time(&self) -> Result<Option<StoredTime>, KeepError> {
        self.read("time.json")
    }

    /// Keeps the time.
    pub fn keep_time(&self, time: &StoredTime) -> Result<(), KeepError> {
        self.write("time.json", time)
    }

    /// What a person here confirmed.
    pub fn confirmed(&self) -> Result<Confirmed, KeepError> {
        Ok(self.read("confirmed.json")?.unwrap_or_default())
    }

    /// When a person here confirmed something last, or made a recovery key: what is then to be said to the site.
    pub fn told_at(&self) -> [Option<std::time::SystemTime>; 2] {
        ["confirmed.json", "recovery.json"].map(|name| std::fs::metadata(self.0.join(name)).and_then(|file| file.modified()).ok())
    }

    /// Keeps what a person here confirmed.
    pub fn keep_confirmed(&self, confirmed: &Confirmed) -> Result<(), KeepError> {
        self.write("confirmed.json", confirmed)
    }

    /// The recovery key that was made here.
    pub fn made_recovery_key(&self) -> Result<Option<MadeRecoveryKey>, KeepError> {
        self.read("recovery.json")
    }

    /// Keeps it, to be registered.
    pub fn keep_made_recovery_key(&self, made: &MadeRecoveryKey) -> Result<(), KeepError> {
        self.write("recovery.json", made)
    }

    /// Versions that were destroyed in the vault of this agent.
    pub fn ended(&self) -> Result<BTreeSet<KeyVersion>, KeepError> {
        Ok(self.read("ended.json")?.unwrap_or_default())
    }

    /// Keeps them: should one be there again, that is said.
    pub fn keep_ended(&self, versions: &BTreeSet<KeyVersion>) -> Result<(), KeepError> {
        self.write("ended.json", versions)
    }

    /// Forgets identity, certificate and statements: the agent is as before it enrolled. What it never forgets of other
    /// sets goes with the identity it was for.
    pub fn forget_identity(&self) -> Result<(), KeepError> {
        [
            "certificate.json",
            "authorities.json",
            "statements.json",
            "granting.json",
            "budgets.json",
            "prekeys.json",
            "exchange.json",
            "ratchet.json",
            "cut-off.json",
            "ended.json",
            "identity.json",
        ]
        .into_iter()
        .try_for_each(|name| self.remove(name))
    }

    /// Gives up the identity, so that this host can join again as another agent, with the vault it has. What was seen of the
    /// site is kept, and so is the former pair: it signed for material that is still here. Gives who that was.
    pub fn give_up_identity(&self) -> Result<Option<AgentId>, KeepError> {
        let former = self.identity()?.map(|stored| stored.identity);
        if let Some(former) = &former {
            let mut confirmed = self.confirmed()?;
            confirmed.agents.insert(former.agent, former.keyid);
            self.keep_confirmed(&confirmed)?;
        }
        for name in [
            "certificate.json",
            "authorities.json",
            "granting.json",
            "budgets.json",
            "exchange.json",
            "ratchet.json",
            "cut-off.json",
            "identity.json",
        ] {
            self.remove(name)?;
        }
        Ok(former.map(|former| former.agent))
    }

    /// Makes the keys of a new agent and keeps them, before anybody hears of them.
    pub async fn make_identity(&self, new: NewIdentity<'_>, vault: &dyn Vault, ids: &dyn Ids) -> Result<StoredIdentity, KeepError> {
        let NewIdentity { tenant, site, agent, root, founder, control_plane, ca_pem, apart, now } = new;
        let pair = Pair::generate(ids);
        let tls_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(KeepError::TlsKey)?;
        let tls_key_pem = Zeroizing::new(tls_key.serialize_pem());
        let key = sealing_key(vault).await?;
        let identity = Identity { tenant, site, agent, root, founder, keyid: pair.keyid() };
        let stored = StoredIdentity {
            v: 1,
            control_plane: control_plane.to_owned(),
            ca_pem: ca_pem.map(str::to_owned),
            apart,
            roster_entry: trust::document::sign_roster_entry(&pair, tenant, site, agent, root, now),
            csr_pem: signing_request(&tls_key, agent)?,
            sealed_pair: self.seal(&key, "pair", agent, &*pair.to_seeds(), ids)?,
            sealed_tls_key: self.seal(&key, "tls-key", agent, tls_key_pem.as_bytes(), ids)?,
            identity,
        };
        self.write("identity.json", &stored)?;
        Ok(stored)
    }

    /// Opens the agent's keys.
    pub async fn keys(&self, stored: &StoredIdentity, vault: &dyn Vault) -> Result<AgentKeys, KeepError> {
        let damaged = || KeepError::Sealed { path: self.0.join("identity.json") };
        let key = sealing_key(vault).await?;
        let seeds = self.unseal(&key, "pair", stored.identity.agent, &stored.sealed_pair)?;
        let seeds: &[u8; SEEDS_BYTES] = seeds.as_slice().try_into().map_err(|_| damaged())?;
        let pair = Pair::from_seeds(seeds);
        if pair.keyid() != stored.identity.keyid {
            return Err(damaged());
        }
        let pem = self.unseal(&key, "tls-key", stored.identity.agent, &stored.sealed_tls_key)?;
        let pem = std::str::from_utf8(&pem).map_err(|_| damaged())?;
        Ok(AgentKeys { pair, tls_key_pem: Zeroizing::new(pem.to_owned()) })
    }

    pub(super) fn seal(&self, key: &Aes256Gcm, what: &str, agent: AgentId, secret: &[u8], ids: &dyn Ids) -> Result<Sealed, KeepError> {
        let nonce = random::<NONCE_BYTES>(ids);
        let mut sealed = Zeroizing::new(secret.to_vec());
        let tag = key.seal(nonce, &associated(what, agent), &mut sealed);
        let tag = tag.map_err(|_| KeepError::Sealed { path: self.0.join("identity.json") })?;
        Ok(Sealed { nonce: nonce.into(), sealed: [sealed.as_slice(), &tag].concat().into() })
    }

    pub(super) fn unseal(&self, key: &Aes256Gcm, what: &str, agent: AgentId, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, KeepError> {
        let damaged = || KeepError::Sealed { path: self.0.join("identity.json") };
        let nonce: [u8; NONCE_BYTES] = sealed.nonce.as_slice().try_into().map_err(|_| damaged())?;
        let length = sealed.sealed.as_slice().len().checked_sub(TAG_BYTES).ok_or_else(damaged)?;
        let (ciphertext, tag) = sealed.sealed.as_slice().split_at(length);
        let mut opened = Zeroizing::new(vec![0; length]);
        key.open_to(nonce, &associated(what, agent), ciphertext, tag, &mut opened).map_err(|_| damaged())?;
        Ok(opened)
    }

    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, KeepError> {
        let Some(bytes) = self.read_bytes(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| KeepError::Damaged {
            path: self.0.join(name),
            advice: advice(name),
            source,
        })
    }

    fn read_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, KeepError> {
        let path = self.0.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeepError::Read { path, source }),
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), KeepError> {
        let path = self.0.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(KeepError::Read { path, source: error }),
            _ => Ok(()),
        }
    }

    pub(super) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), KeepError> {
        let path = self.0.join(name);
        let bytes =
            serde_json::to_vec_pretty(value).map_err(|source| KeepError::Damaged { path: path.clone(), advice: advice(name), source })?;
        Ok(write_atomic(&path, &bytes, OWNER_ONLY)?)
    }
}

/// What to do about a file that is damaged: only who the agent is cannot be had again without enrolling.
fn advice(name: &str) -> &'static str {
    match name {
        "time.json" => {
            "restore it from a backup, or remove it and start the agent again: it goes on from the time that the kept \
             statements were signed at (enrolling again is not needed)"
        }
        "confirmed.json" => "restore it from a backup, or remove it and confirm again what was confirmed here",
        _ => "restore it from a backup, or enrol the agent again with a new invitation",
    }
}

/// What a new identity is made of.
pub struct NewIdentity<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The agent.
    pub agent: AgentId,
    /// SHA-256 of the tenant's root.
    pub root: schema::encoding::Digest,
    /// The key id of the site's founder.
    pub founder: Option<schema::encoding::Digest>,
    /// Where the control plane's agent listener is.
    pub control_plane: &'a str,
    /// The authority of that listener, PEM.
    pub ca_pem: Option<&'a str>,
    /// Whether it joins by a file.
    pub apart: bool,
    /// Now.
    pub now: Timestamp,
}

/// A certificate signing request for a TLS key. The control plane names the agent itself.
pub(super) fn signing_request(key: &KeyPair, agent: AgentId) -> Result<String, KeepError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, agent.to_string());
    params.serialize_request(key).and_then(|request| request.pem()).map_err(KeepError::TlsKey)
}

#[allow(clippy::expect_used, reason = "a name of our own, covered by a test")]
pub(super) async fn sealing_key(vault: &dyn Vault) -> Result<Aes256Gcm, KeepError> {
    let name: Name = "agent-identity".parse().expect("this is a name");
    let secret = vault.named_secret(&name).await?;
    let bytes: &[u8; 32] =
        secret.expose().try_into().map_err(|_| VaultError::UnusableSecret("a named secret has not 32 bytes".to_owned()))?;
    Aes256Gcm::new(bytes).map_err(|_| VaultError::UnusableSecret("the identity's sealing key cannot be used".to_owned()).into())
}

fn associated(what: &str, agent: AgentId) -> Vec<u8> {
    format!("freehold-agent-identity-v1 {what} {agent}").into_bytes()
}
