//! A signer whose pair is on a PKCS#11 token: the Ed25519 half is made in it and never leaves it. Tokens of today do not hold
//! ML-DSA-65: that half is sealed by a key of the token, stands in the signer's file, and is used in this program's memory.

use std::{path::Path, sync::Arc};

use devices::{
    Trouble,
    pkcs11::{
        device::{Device, TokenSettings},
        ed25519::TokenEd25519,
        sealing::{NONCE_BYTES, TokenKey},
    },
};
use schema::{
    clock::{Ids, Timestamp, random},
    encoding::{Base64, Digest},
};
use serde::{Deserialize, Serialize};
use trust::{
    pair::{PairSignature, PostQuantumHalf, PublicPair},
    passphrase::PublicSigner,
};

use super::file::PassphraseSource;
use crate::error::{Error, Exit};

/// The format of the file.
const FORMAT: &str = "freehold-signer-token-v1";

/// Which token a new signer is made on.
#[derive(Debug, Clone, clap::Args)]
pub struct TokenChoice {
    /// Make the pair on a PKCS#11 token: the path of its module
    #[arg(long, value_name = "MODULE", requires = "token")]
    pub pkcs11: Option<std::path::PathBuf>,
    /// The token's label
    #[arg(long, value_name = "LABEL", requires = "pkcs11")]
    pub token: Option<String>,
    /// The token's serial number, where several have the label
    #[arg(long, value_name = "SERIAL", requires = "pkcs11")]
    pub token_serial: Option<String>,
}

/// A signer's file of a pair on a token. Nothing in it is secret without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSigner {
    format: String,
    /// Its public half.
    pub public: PublicSigner,
    /// When it was made.
    pub created: Timestamp,
    /// The module that reaches the token.
    pub module: std::path::PathBuf,
    /// The token's label.
    pub token: String,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What the module says of the slot.
    pub hardware: bool,
    /// The label of its keys.
    label: String,
    /// The ML-DSA-65 half, sealed by the token.
    nonce: Base64,
    sealed: Base64,
}

/// The pair, ready to sign.
pub struct TokenPair {
    keyid: Digest,
    ed25519: TokenEd25519,
    ml_dsa_65: PostQuantumHalf,
}

fn troubled(trouble: &Trouble) -> Error {
    Error::new(Exit::Fault, trouble.kind.code(), trouble.to_string())
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::new(Exit::Usage, "signer_file_unreadable", format!("{}: {why}", path.display()))
}

impl TokenSigner {
    /// Makes a pair on a token.
    pub fn make(choice: &TokenChoice, pin: &PassphraseSource, now: Timestamp, ids: &dyn Ids) -> Result<(Self, TokenPair), Error> {
        let (Some(module), Some(token)) = (choice.pkcs11.clone(), choice.token.clone()) else {
            return Err(Error::usage("a token is named by --pkcs11 and --token"));
        };
        let settings = settings(module, token, choice.token_serial.clone(), pin)?;
        let (module, token, serial) = (settings.module.clone(), settings.token.clone(), settings.serial.clone());
        let device = Arc::new(Device::open(settings).map_err(|trouble| troubled(&trouble))?);
        let (_, hardware) = device.abilities().map_err(|trouble| troubled(&trouble))?;
        let label = format!("freehold-signer/{}", hex::encode(random::<8>(ids)));
        let key = TokenKey::open(device.clone(), &sealing(&label), true).map_err(|trouble| troubled(&trouble))?;
        let ed25519 = TokenEd25519::make(device, &label).map_err(|trouble| troubled(&trouble))?;
        let half = PostQuantumHalf::generate(ids);
        let pair = PublicPair::parse(ed25519.public(), &half.public_key());
        let pair = pair.map_err(|error| Error::new(Exit::Fault, "token_key_unusable", error.to_string()))?;
        let (public, nonce) = (PublicSigner::of(&pair), random::<NONCE_BYTES>(ids));
        let sealed = key.seal(nonce, &bound(&public, now), &*half.to_seed()).map_err(|trouble| troubled(&trouble))?;
        let signer = Self {
            format: FORMAT.to_owned(),
            public,
            created: now,
            module,
            token,
            serial,
            hardware,
            label,
            nonce: nonce.into(),
            sealed: sealed.into(),
        };
        // Before anybody relies on it: as it will be opened later.
        let opened = signer.open(Path::new("the new signer"), pin)?;
        Ok((signer, opened))
    }

    /// Reads a file; none when it is of another kind.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|read: &Self| read.format == FORMAT)
    }

    /// The text of the file.
    pub fn to_text(&self) -> Result<String, Error> {
        serde_json::to_string_pretty(self).map(|text| format!("{text}\n")).map_err(|source| Error::fault("could not write JSON", source))
    }

    /// Finds both halves on the token.
    pub fn open(&self, path: &Path, pin: &PassphraseSource) -> Result<TokenPair, Error> {
        let settings = settings(self.module.clone(), self.token.clone(), self.serial.clone(), pin)?;
        let device = Arc::new(Device::open(settings).map_err(|trouble| troubled(&trouble))?);
        let key = TokenKey::open(device.clone(), &sealing(&self.label), false).map_err(|trouble| troubled(&trouble))?;
        let ed25519 = TokenEd25519::open(device, &self.label).map_err(|trouble| troubled(&trouble))?;
        let nonce = self.nonce.as_slice().try_into().map_err(|_| unusable(path, "its nonce is not 12 bytes"))?;
        let seed = key.unseal(nonce, &bound(&self.public, self.created), self.sealed.as_slice()).map_err(|trouble| troubled(&trouble))?;
        let seed = seed.ok_or_else(|| unusable(path, "it was changed, or is of another token"))?;
        let half = PostQuantumHalf::from_seed(&seed).ok_or_else(|| unusable(path, "what is sealed in it is no ML-DSA-65 seed"))?;
        let pair = PublicPair::parse(ed25519.public(), &half.public_key()).map_err(|error| unusable(path, &error.to_string()))?;
        if pair.keyid() != self.public.keyid {
            return Err(unusable(path, "the keys on the token are not those of this file"));
        }
        Ok(TokenPair { keyid: pair.keyid(), ed25519, ml_dsa_65: half })
    }

    /// What guards which half, for people.
    pub fn guarded(&self) -> String {
        let what = if self.hardware { "" } else { ", which is a program and no device, as its module says" };
        format!(
            "classical-only token {:?}{what}: Ed25519 inside it; ML-DSA-65 sealed by it, in this file, and in memory while it signs",
            self.token
        )
    }
}

impl TokenPair {
    /// The key id of the pair.
    pub fn keyid(&self) -> Digest {
        self.keyid
    }

    /// Signs with both halves.
    pub fn sign(&self, context: &'static str, message: &[u8]) -> Result<PairSignature, Error> {
        let ed25519 = self.ed25519.sign(message).map_err(|trouble| troubled(&trouble))?;
        Ok(PairSignature { ed25519, ml_dsa_65: self.ml_dsa_65.sign(context, message) })
    }
}

fn settings(module: std::path::PathBuf, token: String, serial: Option<String>, pin: &PassphraseSource) -> Result<TokenSettings, Error> {
    let missing = || Error::usage("the PIN of the token is missing").hint("name a file that only you may read: --pin-file FILE");
    Ok(TokenSettings { module, token, serial, pin_file: pin.pin_file.clone().ok_or_else(missing)?, sessions: 1 })
}

fn sealing(label: &str) -> String {
    format!("{label}/sealing")
}

/// What stands in clear, as associated data of the seal.
fn bound(public: &PublicSigner, created: Timestamp) -> Vec<u8> {
    Digest::labelled(FORMAT, &[&public.ed25519.0, &public.ml_dsa_65.0, created.to_string().as_bytes()]).0.to_vec()
}
