//! The catalogue made to work: one file per family, each behind [`Implementation`].
//!
//! A key is kept as its secret (a seed, where its standard has seeds) and expanded in memory into a [`LoadedKey`]. What needs only a public key
//! (sealing to it, verifying with it) is done by the [`Implementation`] itself. Fast and reference implementation stand
//! side by side in the same file, and [`Implementation::self_test`] compares them (`docs/adding-an-algorithm.md`).
//!
//! - [`aes_kw`]: wrapping content keys; [`aes_gcm`]: protecting content; [`aead`]: content directly under a key.
//! - [`hmac`], [`hkdf`]: keyed hashes, and keys derived by them.
//! - [`rsa`], [`ecdsa`], [`ecdh`], [`eddsa`]: classical; [`hpke`]: classical and hybrid; [`ml_kem`], [`ml_dsa`], [`slh_dsa`]:
//!   post-quantum.
//! - [`public_key`]: JWK and PEM.
//! - [`legacy`]: what old formats need, only to open and to verify.

pub mod aead;
pub mod aes_gcm;
pub mod aes_kw;
pub mod ecdh;
pub mod ecdsa;
pub mod eddsa;
pub mod hkdf;
pub mod hmac;
pub mod hpke;
pub mod legacy;
pub mod ml_dsa;
pub mod ml_kem;
pub mod public_key;
pub mod rsa;
pub mod slh_dsa;

use schema::{
    catalogue::{Algorithm, Family, Sealing},
    clock::Ids,
    encoding::Digest,
    key::{FINGERPRINT_LABEL, Operation, Purpose},
};

use crate::vault::{
    Trouble,
    secret::{ContentKey, SecretBytes},
};

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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WrappedKey {
    /// What the KEM encapsulated (`ek`), or the ephemeral public key (`epk`), where there is one.
    pub encapsulated: Option<Vec<u8>>,
    /// The content key, encrypted.
    pub encrypted_key: Vec<u8>,
    /// What other programs say of the sender (`apu`); bound by the key derivation of ECDH-ES (RFC 7518, section 4.6.2).
    pub sender: Vec<u8>,
    /// What they say of the recipient (`apv`); bound likewise.
    pub recipient: Vec<u8>,
}

/// Content that was encrypted directly under a key, without a content key of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SealedContent {
    /// What the KEM encapsulated, where there is a KEM.
    pub encapsulated: Option<Vec<u8>>,
    /// The nonce; empty where the KEM's secret makes it.
    pub nonce: Vec<u8>,
    /// As long as the plaintext, or with the tag at its end where `tag` is empty.
    pub ciphertext: Vec<u8>,
    /// The authentication tag; empty where it stands at the end of the ciphertext.
    pub tag: Vec<u8>,
}

/// A fresh secret, and what its holder needs to get it too.
pub struct Encapsulated {
    /// The shared secret.
    pub secret: SecretBytes,
    /// The same, for the holder of the private key.
    pub ciphertext: Vec<u8>,
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
    /// Input that the algorithm cannot take.
    #[error("{algorithm} cannot take this: {detail}")]
    Unfit {
        /// The algorithm.
        algorithm: Algorithm,
        /// What is wrong with it, and what would do.
        detail: &'static str,
    },
    /// The wrapped key or signature is not genuine: other key, other data, or changed on the way.
    #[error("{act} with {algorithm} failed: the data is not genuine, or it was made with another key")]
    NotGenuine {
        /// The algorithm.
        algorithm: Algorithm,
        /// What failed.
        act: &'static str,
    },
    /// The device that holds the key did not do it.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// The implementation failed for no reason of the input.
    #[error("{act} with {algorithm} failed inside the cryptographic library")]
    Failed {
        /// The algorithm.
        algorithm: Algorithm,
        /// What failed.
        act: &'static str,
    },
}

/// A key in use: expanded in memory and wiped on drop, or in a device that never lets it out.
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
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "unwrap content keys" })
    }

    /// Decrypts a content key of `length_bytes` that came in an old format.
    fn unwrap_transported(
        &self,
        _transport: &legacy::KeyTransport,
        _encrypted_key: &[u8],
        _length_bytes: usize,
    ) -> Result<SecretBytes, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "unwrap content keys of old formats" })
    }

    /// Encrypts content directly under a symmetric key.
    fn seal_content(&self, _associated: &[u8], _plaintext: &[u8], _ids: &dyn Ids) -> Result<SealedContent, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "encrypt content directly" })
    }

    /// Decrypts content that was encrypted directly under this key, or to its public half.
    fn open_content(&self, _associated: &[u8], _sealed: &SealedContent) -> Result<SecretBytes, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "decrypt content directly" })
    }

    /// Signs a message.
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "sign" })
    }

    /// Signs a ready digest: of the hash the algorithm signs with, or the external mu of ML-DSA.
    fn sign_digest(&self, _digest: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "sign ready digests" })
    }

    /// Authenticates a message; returns the whole tag.
    fn mac(&self, _message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "authenticate messages" })
    }

    /// Checks the authentication of a message, in constant time.
    fn verify_mac(&self, _message: &[u8], _tag: &[u8]) -> Result<(), AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "authenticate messages" })
    }

    /// Wraps a bare key under a symmetric key.
    fn wrap_bytes(&self, _key: &SecretBytes) -> Result<Vec<u8>, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "wrap bare keys" })
    }

    /// Unwraps a bare key.
    fn unwrap_bytes(&self, _wrapped: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "unwrap bare keys" })
    }

    /// Agrees on a secret with the holder of a public key. The secret is as it comes out of the curve: derive keys from it.
    fn agree(&self, _public_key: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "agree on secrets" })
    }

    /// Takes an encapsulated secret out.
    fn decapsulate(&self, _ciphertext: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "decapsulate secrets" })
    }

    /// Derives `length_bytes` from this key.
    fn derive(&self, _salt: &[u8], _info: &[u8], _length_bytes: usize) -> Result<SecretBytes, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm(), act: "derive keys" })
    }

    /// Whether one call takes so long (more than a few milliseconds), or waits for a device, that it must not run on a
    /// thread that serves others.
    fn is_slow(&self) -> bool {
        false
    }
}

/// What a family of algorithms can do.
pub trait Implementation: Send + Sync + 'static {
    /// Makes the secret of a new key: random bytes where the standard has seeds, else what its private key is made of.
    fn generate(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError>;

    /// The secret of a key to test with: a fresh one, where making one is quick.
    fn test_secret(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        self.generate(algorithm, ids)
    }

    /// Expands a key.
    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError>;

    /// Whether these bytes are a public key of the algorithm: the right length, on the curve, the right modulus.
    fn check_public_key(&self, algorithm: Algorithm, _public_key: &[u8]) -> Result<(), AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm, act: "have a public key" })
    }

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

    /// Encrypts content directly to a public key.
    fn seal_content(
        &self,
        algorithm: Algorithm,
        _public_key: &[u8],
        _associated: &[u8],
        _plaintext: &[u8],
        _ids: &dyn Ids,
    ) -> Result<SealedContent, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm, act: "encrypt content directly to a public key" })
    }

    /// Checks a signature.
    fn verify(&self, algorithm: Algorithm, _public_key: &[u8], _message: &[u8], _signature: &[u8]) -> Result<(), AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm, act: "verify" })
    }

    /// Checks a signature over a ready digest.
    fn verify_digest(&self, algorithm: Algorithm, _public_key: &[u8], _digest: &[u8], _signature: &[u8]) -> Result<(), AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm, act: "verify signatures over ready digests" })
    }

    /// Wraps a bare key to a public key.
    fn wrap_bytes(&self, algorithm: Algorithm, _public_key: &[u8], _key: &SecretBytes, _ids: &dyn Ids) -> Result<Vec<u8>, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm, act: "wrap bare keys to a public key" })
    }

    /// Makes a secret and encapsulates it to a public key.
    fn encapsulate(&self, algorithm: Algorithm, _public_key: &[u8], _ids: &dyn Ids) -> Result<Encapsulated, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm, act: "encapsulate secrets" })
    }

    /// Known answers, and the fast against the reference implementation. The error says what was wrong.
    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String>;
}

/// Who serves a family. Adding a family is a file and a line here.
pub fn implementation(family: Family) -> &'static dyn Implementation {
    match family {
        Family::AesKeyWrap => &aes_kw::AesKeyWrap,
        Family::Aead => &aead::Aead,
        Family::Hmac => &hmac::Hmac,
        Family::Hkdf => &hkdf::Hkdf,
        Family::Rsa => &rsa::Rsa,
        Family::Ecdsa => &ecdsa::Ecdsa,
        Family::Ecdh => &ecdh::Ecdh,
        Family::EdDsa => &eddsa::EdDsa,
        Family::Hpke => &hpke::Hpke,
        Family::MlKem => &ml_kem::MlKem,
        Family::MlDsa => &ml_dsa::MlDsa,
        Family::SlhDsa => &slh_dsa::SlhDsa,
    }
}

/// Who serves an algorithm.
pub fn serve(algorithm: Algorithm) -> &'static dyn Implementation {
    implementation(algorithm.entry().family)
}

/// Identifies key material without telling it: SHA-256 over a label, the algorithm and the public key, or a value
/// derived from the secret where there is no public key.
pub fn fingerprint(algorithm: Algorithm, public_key: Option<&[u8]>, secret: &SecretBytes) -> Digest {
    match public_key {
        Some(public_key) => schema::key::fingerprint(algorithm, public_key),
        None => {
            let derived = hmac_sha256(secret.expose(), FINGERPRINT_LABEL.as_bytes());
            Digest::labelled(FINGERPRINT_LABEL, &[algorithm.name().as_bytes(), &derived])
        }
    }
}

/// The pairwise test of a new key (FIPS 140-3 IG 10.3.A), for every purpose it may have: what one half does, the other
/// undoes.
pub fn pairwise(key: &dyn LoadedKey, ids: &dyn Ids) -> Result<(), AlgorithmError> {
    pairwise_of(serve(key.algorithm()), key, ids)
}

/// The same with another implementation than the one that serves.
pub fn pairwise_of(serving: &dyn Implementation, key: &dyn LoadedKey, ids: &dyn Ids) -> Result<(), AlgorithmError> {
    key.algorithm().entry().purposes.iter().try_for_each(|purpose| pairwise_for(*purpose, serving, key, ids))
}

fn pairwise_for(purpose: Purpose, serving: &dyn Implementation, key: &dyn LoadedKey, ids: &dyn Ids) -> Result<(), AlgorithmError> {
    let algorithm = key.algorithm();
    let failed = AlgorithmError::Failed { algorithm, act: "the pairwise test of a new key" };
    let public_key = || key.public_key().ok_or(failed.clone());
    let secret = SecretBytes::random(32, ids);
    let mut message: [u8; 32] = schema::clock::random(ids);
    let agree = match purpose {
        Purpose::Encrypt if algorithm.entry().sealing == Some(Sealing::Direct) => {
            let mut sealed = match key.public_key() {
                Some(public_key) => serving.seal_content(algorithm, public_key, &message, secret.expose(), ids)?,
                None => key.seal_content(&message, secret.expose(), ids)?,
            };
            let opened = key.open_content(&message, &sealed)?.expose() == secret.expose();
            sealed.ciphertext[0] ^= 1;
            opened && key.open_content(&message, &sealed).is_err()
        }
        Purpose::Encrypt => {
            let content = ContentKey::random(ids);
            let wrapped = match key.public_key() {
                Some(public_key) => serving.seal_key(algorithm, public_key, &content, ContentEncryption::A256Gcm, ids)?,
                None => key.wrap_key(&content, ContentEncryption::A256Gcm)?,
            };
            key.unwrap_key(&wrapped, ContentEncryption::A256Gcm)?.expose() == content.expose()
        }
        Purpose::Sign => {
            let signature = key.sign(&message)?;
            serving.verify(algorithm, public_key()?, &message, &signature)?;
            message[0] ^= 1;
            serving.verify(algorithm, public_key()?, &message, &signature).is_err()
        }
        Purpose::SignDigest => {
            let mut digest = vec![0; algorithm.entry().digest_bytes.ok_or(failed.clone())?.into()];
            ids.fill(&mut digest);
            let signature = key.sign_digest(&digest)?;
            serving.verify_digest(algorithm, public_key()?, &digest, &signature)?;
            digest[0] ^= 1;
            serving.verify_digest(algorithm, public_key()?, &digest, &signature).is_err()
        }
        Purpose::Mac => {
            let tag = key.mac(&message)?;
            key.verify_mac(&message, &tag)?;
            message[0] ^= 1;
            key.verify_mac(&message, &tag).is_err()
        }
        Purpose::Wrap => {
            let wrapped = match key.public_key() {
                Some(public_key) => serving.wrap_bytes(algorithm, public_key, &secret, ids)?,
                None => key.wrap_bytes(&secret)?,
            };
            key.unwrap_bytes(&wrapped)?.expose() == secret.expose()
        }
        Purpose::Agree if algorithm.does(Purpose::Agree, Operation::Encapsulate) => {
            let encapsulated = serving.encapsulate(algorithm, public_key()?, ids)?;
            key.decapsulate(&encapsulated.ciphertext)?.expose() == encapsulated.secret.expose()
        }
        Purpose::Agree => {
            let other = serving.load(algorithm, &serving.generate(algorithm, ids)?)?;
            let theirs = other.agree(public_key()?)?;
            key.agree(other.public_key().ok_or(failed.clone())?)?.expose() == theirs.expose()
        }
        Purpose::Derive => {
            let derived = key.derive(&message, b"one", 32)?;
            derived.expose() == key.derive(&message, b"one", 32)?.expose() && derived.expose() != key.derive(&message, b"two", 32)?.expose()
        }
    };
    if agree { Ok(()) } else { Err(failed) }
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
            serve(algorithm).self_test(algorithm, &ids).unwrap_or_else(|error| panic!("{}: {error}", entry.name));
            let secret = serve(algorithm).test_secret(algorithm, &ids).unwrap();
            let key = serve(algorithm).load(algorithm, &secret).unwrap();
            assert_eq!(key.public_key().is_some(), entry.asymmetric, "{}", entry.name);
            pairwise(key.as_ref(), &ids).unwrap_or_else(|error| panic!("{}: {error}", entry.name));
            if let Some(public_key) = key.public_key() {
                serve(algorithm).check_public_key(algorithm, public_key).unwrap();
                assert!(serve(algorithm).check_public_key(algorithm, &public_key[1..]).is_err(), "{}", entry.name);
                assert!(serve(algorithm).check_public_key(algorithm, &[public_key, &[0]].concat()).is_err(), "{}", entry.name);
            }
            let other = serve(algorithm).generate(algorithm, &ids).unwrap();
            assert_ne!(
                fingerprint(algorithm, key.public_key(), &secret),
                fingerprint(algorithm, serve(algorithm).load(algorithm, &other).unwrap().public_key(), &other)
            );
            let short = SecretBytes::new(secret.expose()[..secret.len() - 1].to_vec());
            assert!(matches!(serve(algorithm).load(algorithm, &short), Err(AlgorithmError::MalformedKey { .. })));
        }
    }
}
