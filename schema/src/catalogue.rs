//! Every algorithm: one table. API, policy, console, inventory and documentation are all driven by it.
//!
//! Adding an algorithm is a row here and a file in the agent's `algorithm/` folder.

mod table;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::table::CATALOGUE;
use crate::key::{Operation, Purpose, UnknownWord, words};

words! {
    /// Whether an algorithm should be chosen today.
    Status {
        /// Choose it.
        Recommended = "recommended",
        /// May be chosen.
        Allowed = "allowed",
        /// Only to open or verify what is old.
        Legacy = "legacy",
        /// The specification may still change.
        Draft = "draft",
    }
}

words! {
    /// What kind of thing an algorithm is; one file of the agent serves one family.
    Family {
        /// AES key wrap around an AES-GCM content key.
        AesKeyWrap = "aes-key-wrap",
        /// Authenticated encryption of the content itself.
        Aead = "aead",
        /// Keyed hashes.
        Hmac = "hmac",
        /// Key derivation by keyed hashes.
        Hkdf = "hkdf",
        /// Encryption and signatures with RSA.
        Rsa = "rsa",
        /// Signatures on the curves of NIST.
        Ecdsa = "ecdsa",
        /// Agreement on a curve, alone or around a content key.
        Ecdh = "ecdh",
        /// Edwards-curve signatures.
        EdDsa = "eddsa",
        /// HPKE, with a classical or a hybrid KEM.
        Hpke = "hpke",
        /// Module-lattice key encapsulation.
        MlKem = "ml-kem",
        /// Module-lattice signatures.
        MlDsa = "ml-dsa",
        /// Stateless hash-based signatures.
        SlhDsa = "slh-dsa",
    }
}

words! {
    /// How content is encrypted under a key.
    Sealing {
        /// Each message or file has a content key of its own, which is wrapped for each recipient.
        ContentKey = "content-key",
        /// The content itself, for one recipient: no files, and only messages.
        Direct = "direct",
    }
}

/// One row of the catalogue.
#[derive(Debug)]
pub struct Entry {
    /// The name: used in APIs, policies and records. Never changes.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// Which file of the agent serves it.
    pub family: Family,
    /// The standard that defines it.
    pub standard: &'static str,
    /// Parameters, as the standard writes them.
    pub parameters: &'static str,
    /// What a key of this algorithm may be for.
    pub purposes: &'static [Purpose],
    /// How it encrypts content, where that is what it is for.
    pub sealing: Option<Sealing>,
    /// How many bytes it signs as a ready digest, where it does.
    pub digest_bytes: Option<u16>,
    /// The JOSE `alg`, where there is one.
    pub jose_alg: Option<&'static str>,
    /// The JOSE `enc`, where there is one.
    pub jose_enc: Option<&'static str>,
    /// The JOSE `kty` of its keys.
    pub jose_kty: &'static str,
    /// The JOSE `crv` of its keys, where they are points of a curve.
    pub jose_crv: Option<&'static str>,
    /// The revision of the draft that is followed, where it is not a standard yet; stands in the protected header.
    pub draft: Option<&'static str>,
    /// The object identifier of its public keys or of the algorithm.
    pub oid: Option<&'static str>,
    /// Whether it should be chosen.
    pub status: Status,
    /// Strength against a classical attacker, in bits.
    pub classical_bits: u16,
    /// Strength against a quantum attacker: the NIST category (1 to 5), or 0 for none.
    pub quantum_category: u8,
    /// The most uses that protect data under one version, where the mathematics sets a limit.
    pub max_uses: Option<u64>,
    /// Which implementation serves callers.
    pub implementation: &'static str,
    /// Which implementation checks it at start.
    pub reference: Option<&'static str>,
    /// Whether its keys have a public half.
    pub asymmetric: bool,
}

/// An algorithm of the catalogue. Comparing two compares their rows.
#[derive(Clone, Copy)]
pub struct Algorithm(&'static Entry);

impl Algorithm {
    /// Every algorithm, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        CATALOGUE.iter().map(Self)
    }

    /// The row.
    pub const fn entry(self) -> &'static Entry {
        self.0
    }

    /// The name used in APIs, policies and records.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// Whether a quantum computer does not break it.
    pub const fn is_post_quantum(self) -> bool {
        self.0.quantum_category > 0
    }

    /// Whether a key of this algorithm may have this purpose.
    pub fn serves(self, purpose: Purpose) -> bool {
        self.0.purposes.contains(&purpose)
    }

    /// Whether a key of this algorithm and purpose does this.
    pub fn does(self, purpose: Purpose, operation: Operation) -> bool {
        match operation {
            Operation::Encrypt | Operation::Decrypt | Operation::GenerateDataKey | Operation::ReEncrypt => purpose == Purpose::Encrypt,
            Operation::Sign | Operation::Verify | Operation::ReSign => purpose == Purpose::Sign,
            Operation::DecryptLegacy => {
                let encrypts = purpose == Purpose::Encrypt && (matches!(self.0.jose_kty, "RSA" | "EC") || self.0.family == Family::Aead);
                // A transit engine's derived key: each of its ciphertexts is under a key that HKDF gives.
                encrypts || (purpose == Purpose::Derive && self.0.name == "HKDF-SHA-256")
            }
            Operation::VerifyLegacy => purpose == Purpose::Sign && matches!(self.0.jose_kty, "RSA" | "EC"),
            Operation::SignDigest | Operation::VerifyDigest => purpose == Purpose::SignDigest,
            Operation::Mac | Operation::VerifyMac => purpose == Purpose::Mac,
            Operation::Wrap | Operation::Unwrap => purpose == Purpose::Wrap,
            Operation::Rewrap => matches!(purpose, Purpose::Encrypt | Purpose::Wrap),
            Operation::Agree => purpose == Purpose::Agree && self.0.family != Family::MlKem,
            Operation::Encapsulate | Operation::Decapsulate => purpose == Purpose::Agree && self.0.family == Family::MlKem,
            Operation::Derive => purpose == Purpose::Derive,
            Operation::PublicKey => self.0.asymmetric,
            Operation::Certify => purpose == Purpose::Sign,
            // Whether the key is one to import or to export, its definition says.
            Operation::Explain | Operation::Import | Operation::Export => true,
            Operation::Random => false,
        }
    }
}

impl PartialEq for Algorithm {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Algorithm {}

impl PartialOrd for Algorithm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Algorithm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.name.cmp(other.0.name)
    }
}

impl std::hash::Hash for Algorithm {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl fmt::Debug for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl FromStr for Algorithm {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::all()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| UnknownWord { expected: CATALOGUE.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ") })
    }
}

impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name)
    }
}

impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_of_a_row_does_something_and_agreement_is_one_or_the_other() {
        for algorithm in Algorithm::all() {
            for purpose in algorithm.entry().purposes {
                let of_every_key = [Operation::Explain, Operation::Import, Operation::Export, Operation::PublicKey];
                let mut own = Operation::ALL.iter().filter(|operation| !of_every_key.contains(operation));
                assert!(own.any(|operation| algorithm.does(*purpose, *operation)), "{algorithm} {purpose}");
            }
            let agrees = algorithm.does(Purpose::Agree, Operation::Agree);
            assert_ne!(agrees, algorithm.does(Purpose::Agree, Operation::Encapsulate), "{algorithm}");
        }
    }

    #[test]
    fn every_row_is_whole_and_named_once() {
        for (index, entry) in CATALOGUE.iter().enumerate() {
            assert!(!entry.purposes.is_empty(), "{}", entry.name);
            assert!(entry.classical_bits >= 112, "{}", entry.name);
            assert_eq!(entry.sealing.is_some(), entry.purposes.contains(&Purpose::Encrypt), "{}", entry.name);
            assert_eq!(entry.digest_bytes.is_some(), entry.purposes.contains(&Purpose::SignDigest), "{}", entry.name);
            assert_eq!(entry.jose_crv.is_some(), matches!(entry.jose_kty, "EC" | "OKP"), "{}", entry.name);
            assert_eq!(entry.asymmetric, entry.jose_kty != "oct", "{}", entry.name);
            assert!(entry.draft.is_none() || entry.status == Status::Draft, "{}", entry.name);
            assert!(CATALOGUE[index + 1..].iter().all(|other| other.name != entry.name), "{} twice", entry.name);
        }
    }
}
