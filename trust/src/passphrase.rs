//! A pair in a file, sealed under its holder's passphrase: Argon2id, then AES-256-GCM over the seeds. The public halves
//! stand beside it in clear and are bound into the seal, so that a file whose public part was changed does not open.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{AeadInOut, Nonce, Tag},
};
use argon2::{Argon2, Params};
use schema::{
    clock::{Ids, Timestamp, random},
    encoding::{Base64, Digest},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    json,
    pair::{InvalidPair, Pair, PublicPair, SEEDS_BYTES},
};

/// The format of the file.
const FORMAT: &str = "freehold-signer-v1";
/// 256 MiB and three passes: a signer opens its file a few times a week, and whoever stole it should wait.
const MEMORY_KIB: u32 = 256 * 1024;
const PASSES: u32 = 3;
/// What a file may ask of us at most: 1 GiB.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 100;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// The fewest characters of a passphrase.
pub const LEAST_CHARACTERS: usize = 12;

/// The public half of a signer: what it hands in to be named in root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicSigner {
    /// Identifies the pair.
    pub keyid: Digest,
    /// Ed25519 public key, 32 bytes.
    pub ed25519: Base64,
    /// ML-DSA-65 public key, 1952 bytes.
    pub ml_dsa_65: Base64,
}

impl PublicSigner {
    /// Of a pair.
    pub fn of(pair: &PublicPair) -> Self {
        Self { keyid: pair.keyid(), ed25519: Base64::from(*pair.ed25519()), ml_dsa_65: pair.ml_dsa_65().into() }
    }

    /// The pair, checked.
    pub fn pair(&self) -> Result<PublicPair, SignerFileError> {
        let pair = PublicPair::parse(self.ed25519.as_slice(), self.ml_dsa_65.as_slice())?;
        if pair.keyid() == self.keyid { Ok(pair) } else { Err(SignerFileError::OtherKeyid(pair.keyid())) }
    }
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedPair {
    format: String,
    /// Its public half.
    pub public: PublicSigner,
    /// When it was made.
    pub created: Timestamp,
    kdf: Kdf,
    nonce: Base64,
    sealed: Base64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
enum Kdf {
    Argon2id { memory_kib: u32, passes: u32, lanes: u32, salt: Base64 },
}

/// Why a file does not open.
#[derive(Debug, thiserror::Error)]
pub enum SignerFileError {
    /// Not JSON, or not of this format.
    #[error("it is not a signer's file")]
    Malformed(#[source] serde_json::Error),
    /// Of a later format.
    #[error("its format is {0:?}, this program reads {FORMAT:?}")]
    Format(String),
    /// The keys in it are none.
    #[error(transparent)]
    Pair(#[from] InvalidPair),
    /// The key id is not that of the keys.
    #[error("its key id is not that of its keys, which is {0}")]
    OtherKeyid(Digest),
    /// Its parameters are out of bounds, or the seal has the wrong size.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// The passphrase is another one, or the file was changed.
    #[error("the passphrase does not open it")]
    WrongPassphrase,
    /// Too short to keep anybody out.
    #[error("a passphrase has at least {LEAST_CHARACTERS} characters")]
    TooShort,
}

impl SealedPair {
    /// Seals a pair.
    pub fn seal(pair: &Pair, passphrase: &str, created: Timestamp, ids: &dyn Ids) -> Result<Self, SignerFileError> {
        Self::seal_with(pair, passphrase, created, ids, MEMORY_KIB)
    }

    fn seal_with(pair: &Pair, passphrase: &str, created: Timestamp, ids: &dyn Ids, memory_kib: u32) -> Result<Self, SignerFileError> {
        if passphrase.chars().count() < LEAST_CHARACTERS {
            return Err(SignerFileError::TooShort);
        }
        let kdf = Kdf::Argon2id { memory_kib, passes: PASSES, lanes: 1, salt: random::<16>(ids).into() };
        let nonce: [u8; NONCE_BYTES] = random(ids);
        let public = PublicSigner::of(pair.public());
        let mut sealed = Self { format: FORMAT.to_owned(), public, created, kdf, nonce: nonce.into(), sealed: Base64::default() };
        let mut secret = Zeroizing::new(pair.to_seeds().to_vec());
        let tag = cipher(&sealed.kdf, passphrase)?
            .encrypt_inout_detached(&Nonce::<Aes256Gcm>::from(nonce), &sealed.bound(), secret.as_mut_slice().into())
            .map_err(|_| SignerFileError::Damaged("sealing failed"))?;
        sealed.sealed = [secret.as_slice(), tag.as_slice()].concat().into();
        Ok(sealed)
    }

    /// Reads a file. What it says of its public half is checked; that it opens is another matter.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignerFileError> {
        let sealed: Self = json::strict(bytes).map_err(SignerFileError::Malformed)?;
        if sealed.format != FORMAT {
            return Err(SignerFileError::Format(sealed.format));
        }
        sealed.public.pair()?;
        Ok(sealed)
    }

    /// The text of the file.
    #[allow(clippy::expect_used, reason = "our own type: its map keys are text, and writing to memory cannot fail")]
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a signer's file is JSON");
        text.push('\n');
        text
    }

    /// Opens the pair.
    pub fn open(&self, passphrase: &str) -> Result<Pair, SignerFileError> {
        let nonce: [u8; NONCE_BYTES] =
            self.nonce.as_slice().try_into().map_err(|_| SignerFileError::Damaged("its nonce is not 12 bytes"))?;
        let (ciphertext, tag) = match self.sealed.as_slice().split_at_checked(SEEDS_BYTES) {
            Some((ciphertext, tag)) if tag.len() == TAG_BYTES => (ciphertext, tag),
            _ => return Err(SignerFileError::Damaged("its sealed seeds are not 80 bytes")),
        };
        let tag = Tag::<Aes256Gcm>::try_from(tag).map_err(|_| SignerFileError::Damaged("its tag is not 16 bytes"))?;
        let mut seeds = Zeroizing::new([0; SEEDS_BYTES]);
        seeds.copy_from_slice(ciphertext);
        cipher(&self.kdf, passphrase)?
            .decrypt_inout_detached(&Nonce::<Aes256Gcm>::from(nonce), &self.bound(), seeds.as_mut_slice().into(), &tag)
            .map_err(|_| SignerFileError::WrongPassphrase)?;
        let pair = Pair::from_seeds(&seeds);
        if pair.keyid() == self.public.keyid { Ok(pair) } else { Err(SignerFileError::OtherKeyid(pair.keyid())) }
    }

    /// What stands in clear, as associated data of the seal.
    fn bound(&self) -> Vec<u8> {
        let Kdf::Argon2id { memory_kib, passes, lanes, salt } = &self.kdf;
        let numbers = [memory_kib.to_be_bytes(), passes.to_be_bytes(), lanes.to_be_bytes()].concat();
        let parts = [numbers.as_slice(), salt.as_slice(), &self.public.keyid.0, self.created.to_string().as_bytes()].map(<[u8]>::to_vec);
        Digest::labelled(FORMAT, &parts.each_ref().map(Vec::as_slice)).0.to_vec()
    }
}

fn cipher(kdf: &Kdf, passphrase: &str) -> Result<Aes256Gcm, SignerFileError> {
    let Kdf::Argon2id { memory_kib, passes, lanes, salt } = kdf;
    if *memory_kib > MAX_MEMORY_KIB || *passes > MAX_PASSES {
        return Err(SignerFileError::Damaged("it asks for too much memory or time to be opened"));
    }
    let params = Params::new(*memory_kib, *passes, *lanes, Some(32)).map_err(|_| SignerFileError::Damaged("its Argon2id parameters"))?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt.as_slice(), key.as_mut_slice())
        .map_err(|_| SignerFileError::Damaged("its Argon2id parameters"))?;
    Aes256Gcm::new_from_slice(key.as_slice()).map_err(|_| SignerFileError::Damaged("its key"))
}

#[cfg(test)]
mod tests {
    use schema::clock::ManualIds;

    use super::*;

    const PASSPHRASE: &str = "correct horse battery";

    fn sealed() -> (Pair, SealedPair) {
        let ids = ManualIds::seeded(1);
        let pair = Pair::generate(&ids);
        let sealed = SealedPair::seal_with(&pair, PASSPHRASE, Timestamp::default(), &ids, 64).unwrap();
        (pair, sealed)
    }

    #[test]
    fn the_passphrase_opens_it_and_no_other_does() {
        let (pair, sealed) = sealed();
        let read = SealedPair::parse(sealed.to_text().as_bytes()).unwrap();
        assert_eq!(read, sealed);
        assert_eq!(read.open(PASSPHRASE).unwrap().to_seeds(), pair.to_seeds());
        assert!(matches!(read.open("correct horse batterz"), Err(SignerFileError::WrongPassphrase)));
        assert!(!sealed.to_text().contains(&Base64::from(*pair.to_seeds()).to_string()));
    }

    #[test]
    fn short_passphrases_are_refused() {
        let ids = ManualIds::seeded(1);
        let short = SealedPair::seal_with(&Pair::generate(&ids), "eleven char", Timestamp::default(), &ids, 64);
        assert!(matches!(short, Err(SignerFileError::TooShort)));
    }

    #[test]
    fn what_was_changed_does_not_open() {
        let (_, honest) = sealed();
        let other = PublicSigner::of(Pair::generate(&ManualIds::seeded(2)).public());
        type Change = fn(&mut SealedPair);
        let changed: [(&str, Change); 4] = [
            ("created", |file| file.created = file.created.plus(std::time::Duration::from_secs(1))),
            ("salt", |file| {
                let Kdf::Argon2id { salt, .. } = &mut file.kdf;
                salt.0[0] ^= 1;
            }),
            ("nonce", |file| file.nonce.0[0] ^= 1),
            ("sealed", |file| file.sealed.0[0] ^= 1),
        ];
        for (what, change) in changed {
            let mut file = honest.clone();
            change(&mut file);
            assert!(matches!(file.open(PASSPHRASE), Err(SignerFileError::WrongPassphrase)), "{what}");
        }
        let mut file = honest.clone();
        file.public = other;
        assert!(matches!(file.open(PASSPHRASE), Err(SignerFileError::WrongPassphrase)));
        file.public.keyid = honest.public.keyid;
        assert!(matches!(SealedPair::parse(file.to_text().as_bytes()), Err(SignerFileError::OtherKeyid(_))));
        let greedy = honest.to_text().replace("\"memory_kib\": 64", "\"memory_kib\": 4194304");
        assert!(matches!(SealedPair::parse(greedy.as_bytes()).unwrap().open(PASSPHRASE), Err(SignerFileError::Damaged(_))));
    }
}
