//! The catalogue made to work: one file per family, each behind [`Implementation`].
//!
//! A key is kept as a short secret (its seed) and expanded in memory into a [`LoadedKey`]. What needs only a public key
//! (sealing to it, verifying with it) is done by the [`Implementation`] itself. Fast and reference implementation stand
//! side by side in the same file, and [`Implementation::self_test`] compares them (`docs/adding-an-algorithm.md`).
//!
//! - [`aes_kw`]: wrapping content keys; [`aes_gcm`]: protecting content; [`hpke`], [`eddsa`], [`ml_dsa`].
//! - [`public_key`]: JWK and PEM.

pub mod aes_gcm;
pub mod aes_kw;
pub mod eddsa;
pub mod hpke;
pub mod ml_dsa;
pub mod public_key;

use schema::{
    catalogue::{Algorithm, Family},
    clock::Ids,
    encoding::Digest,
};

use crate::vault::secret::{ContentKey, SecretBytes};

/// How the content of a message or file is protected under its content key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentEncryption {
    /// AES-256-GCM in one piece (RFC 7518, section 5.3): messages.
    A256Gcm,
    /// Chunks of 16 KiB under AES-256-GCM (C2SP chunked encryption): files.
    Cobblestone256,
}

impl ContentEncryption {
    /// The `enc` header parameter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A256Gcm => "A256GCM",
            Self::Cobblestone256 => "C2SP-Cobblestone-256",
        }
    }
}

/// A content key as it travels in a message or file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// What the KEM encapsulated (`ek`), where there is a KEM.
    pub encapsulated: Option<Vec<u8>>,
    /// The content key, encrypted.
    pub encrypted_key: Vec<u8>,
}

/// Why an algorithm did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlgorithmError {
    /// The algorithm has no such operation.
    #[error("{algorithm} does not {act}")]
    NotServed {
        /// The algorithm.
        algorithm: Algorithm,
        /// What was asked.
        act: &'static str,
    },
    /// Key bytes of the wrong shape.
    #[error("this is not a {what} of {algorithm}")]
    MalformedKey {
        /// The algorithm.
        algorithm: Algorithm,
        /// `secret key` or `public key`.
        what: &'static str,
    },
    /// The wrapped key or signature is not genuine: other key, other data, or changed on the way.
    #[error("{act} with {algorithm} failed: the data is not genuine, or it was made with another key")]
    NotGenuine {
        /// The algorithm.
        algorithm: Algorithm,
        /// What failed.
        act: &'static str,
    },
    /// The implementation failed for no reason of the input.
    #[error("{act} with {algorithm} failed inside the cryptographic library")]
    Failed {
        /// The algorithm.
        algorithm: Algorithm,
        /// What failed.
        act: &'static str,
    },
}

/// A key expanded in memory. Wiped on drop.
pub trait LoadedKey: Send + Sync {
    /// Which algorithm.
    fn algorithm(&self) -> Algorithm;

    /// The public half as the algorithm's standard encodes it.
    fn public_key(&self) -> Option<&[u8]> {
        None
    }

    /// Encrypts a content key under a symmetric key.
    fn wrap_key(&self, _key: &ContentKey, _content: ContentEncryption) -> Result<WrappedKey, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "wrap keys" })
    }

    /// Decrypts a content key.
    fn unwrap_key(&self, _wrapped: &WrappedKey, _content: ContentEncryption) -> Result<ContentKey, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "unwrap keys" })
    }

    /// Signs a message.
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "sign" })
    }

    /// Whether one call takes so long (more than a few milliseconds) that it must not run on a thread that serves
    /// others.
    fn is_slow(&self) -> bool {
        false
    }
}

/// What a family of algorithms can do.
pub trait Implementation: Send + Sync + 'static {
    /// How many random bytes make a key.
    fn seed_bytes(&self, algorithm: Algorithm) -> usize;

    /// Expands a key.
    fn load(&self, algorithm: Algorithm, seed: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError>;

    /// Encrypts a content key to a public key.
    fn seal_key(
        &self,
        algorithm: Algorithm,
        _public_key: &[u8],
        _key: &ContentKey,
        _content: ContentEncryption,
        _ids: &dyn Ids,
    ) -> Result<WrappedKey, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm, act: "encrypt keys to a public key" })
    }

    /// Checks a signature.
    fn verify(&self, algorithm: Algorithm, _public_key: &[u8], _message: &[u8], _signature: &[u8]) -> Result<(), AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm, act: "verify" })
    }

    /// Known answers, and the fast against the reference implementation. The error says what was wrong.
    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String>;
}

/// Who serves a family. Adding a family is a file and a line here.
pub fn implementation(family: Family) -> &'static dyn Implementation {
    match family {
        Family::AesKeyWrap => &aes_kw::AesKeyWrap,
        Family::Hpke => &hpke::Hpke,
        Family::EdDsa => &eddsa::EdDsa,
        Family::MlDsa => &ml_dsa::MlDsa,
    }
}

/// Who serves an algorithm.
pub fn serve(algorithm: Algorithm) -> &'static dyn Implementation {
    implementation(algorithm.entry().family)
}

/// Identifies key material without telling it: SHA-256 over a label, the algorithm and the public key, or a value
/// derived from the secret where there is no public key.
pub fn fingerprint(algorithm: Algorithm, public_key: Option<&[u8]>, seed: &SecretBytes) -> Digest {
    const LABEL: &str = "freehold-fingerprint-v1";
    let name = algorithm.name().as_bytes();
    match public_key {
        Some(public_key) => Digest::labelled(LABEL, &[name, public_key]),
        None => Digest::labelled(LABEL, &[name, &hmac_sha256(seed.expose(), LABEL.as_bytes())]),
    }
}

/// The pairwise test of a new key (FIPS 140-3 IG 10.3.A): what one half does, the other undoes.
pub fn pairwise(key: &dyn LoadedKey, ids: &dyn Ids) -> Result<(), AlgorithmError> {
    use schema::key::Purpose;
    let algorithm = key.algorithm();
    let failed = AlgorithmError::Failed { algorithm, act: "the pairwise test of a new key" };
    let serving = serve(algorithm);
    if algorithm.serves(Purpose::Sign) {
        let mut message = [0; 32];
        ids.fill(&mut message);
        let public_key = key.public_key().ok_or(failed.clone())?;
        let signature = key.sign(&message)?;
        serving.verify(algorithm, public_key, &message, &signature)?;
        message[0] ^= 1;
        if serving.verify(algorithm, public_key, &message, &signature).is_ok() {
            return Err(failed);
        }
    }
    if algorithm.serves(Purpose::Encrypt) {
        let content = ContentKey::random(ids);
        let wrapped = match key.public_key() {
            Some(public_key) => serving.seal_key(algorithm, public_key, &content, ContentEncryption::A256Gcm, ids)?,
            None => key.wrap_key(&content, ContentEncryption::A256Gcm)?,
        };
        if key.unwrap_key(&wrapped, ContentEncryption::A256Gcm)?.expose() != content.expose() {
            return Err(failed);
        }
    }
    Ok(())
}

/// HMAC-SHA-256 (RFC 2104).
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    let mut tag = [0; 32];
    tag.copy_from_slice(aws_lc_rs::hmac::sign(&key, message).as_ref());
    tag
}

#[cfg(test)]
mod tests {
    use schema::{catalogue::CATALOGUE, clock::ManualIds};

    use super::*;

    #[test]
    fn every_row_of_the_catalogue_is_served_and_passes_its_tests() {
        let ids = ManualIds::seeded(1);
        for entry in CATALOGUE {
            let algorithm: Algorithm = entry.name.parse().unwrap();
            serve(algorithm).self_test(algorithm, &ids).unwrap();
            let seed = SecretBytes::random(serve(algorithm).seed_bytes(algorithm), &ids);
            let key = serve(algorithm).load(algorithm, &seed).unwrap();
            assert_eq!(key.public_key().is_some(), entry.asymmetric, "{}", entry.name);
            pairwise(key.as_ref(), &ids).unwrap();
            let other = SecretBytes::random(seed.len(), &ids);
            assert_ne!(
                fingerprint(algorithm, key.public_key(), &seed),
                fingerprint(algorithm, serve(algorithm).load(algorithm, &other).unwrap().public_key(), &other)
            );
            let short = SecretBytes::random(seed.len() - 1, &ids);
            assert!(matches!(serve(algorithm).load(algorithm, &short), Err(AlgorithmError::MalformedKey { .. })));
        }
    }
}
