//! What old formats need, and only to open and to verify: nothing here makes anything.
//!
//! A key of ours does more than its row of the catalogue says only through this file, and only with the permit of an
//! operation that policy must allow by name (`docs/decisions/0151-old-formats.md`).

use aws_lc_rs::{
    aead, cipher, digest,
    iv::FixedLength,
    key_wrap::{self, AesKek, KeyWrap as _},
    rsa::{
        OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepPrivateDecryptingKey,
        Pkcs1PrivateDecryptingKey, PrivateDecryptingKey,
    },
    signature::{self, RsaPssSaltLength, UnparsedPublicKey, VerificationAlgorithm},
};
use schema::catalogue::Algorithm;
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use zeroize::Zeroizing;

use super::{AlgorithmError, hmac_sha256};
use crate::vault::secret::SecretBytes;

/// A hash function, as old formats name it beside an algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1: collisions are known.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// The hash of a message.
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, message).as_ref().to_vec()
    }

    /// Bytes of a hash.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        }
    }
}

/// How a content key was encrypted to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyTransport {
    /// RSAES-PKCS1-v1_5 (RFC 8017, section 7.2).
    Pkcs1V15,
    /// RSAES-OAEP (RFC 8017, section 7.1) with this hash in both places.
    Oaep(Hash),
    /// RSAES-OAEP with SHA-256 over a message of any length, and not over a key.
    OaepMessage,
    /// Ephemeral-static ECDH (RFC 5753, section 3.1).
    Agreed(Agreement),
}

/// What the sender says of a key that both sides agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// The hash of the key derivation (ANSI X9.63).
    pub hash: Hash,
    /// Bytes of the AES key that wraps the content key (RFC 3394): 16 or 32.
    pub key_bytes: usize,
    /// The sender's public key: an uncompressed point.
    pub public_key: Vec<u8>,
    /// What is hashed beside the secret: DER of `ECC-CMS-SharedInfo`.
    pub shared_info: Vec<u8>,
}

impl KeyTransport {
    /// What of it is weaker than what our own keys are sealed with; none when it is as strong.
    pub fn legacy(&self) -> Option<String> {
        match self {
            Self::Pkcs1V15 => Some("RSAES-PKCS1-v1_5".to_owned()),
            Self::Agreed(Agreement { hash: Hash::Sha1, .. }) => Some("ECDH with a key derived by SHA-1".to_owned()),
            Self::Oaep(Hash::Sha256) | Self::OaepMessage | Self::Agreed(_) => None,
            Self::Oaep(hash) => Some(format!("RSAES-OAEP with {}", hash.name())),
        }
    }
}

/// How something was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2).
    Pkcs1V15(Hash),
    /// RSASSA-PSS (RFC 8017, section 8.1) with a salt of so many bytes.
    Pss {
        /// Of message and mask.
        hash: Hash,
        /// Of the salt.
        salt_bytes: u16,
    },
    /// ECDSA with both numbers in DER.
    Ecdsa(Hash),
    /// Ed25519.
    Ed25519,
}

/// Decrypts a content key of `length_bytes` with an RSA key in PKCS#8.
///
/// OAEP fails in one way. PKCS#1 v1.5 does not fail: for a ciphertext that holds no key of this length another key comes out,
/// always the same for the same ciphertext and to be foretold by nobody else, so that the answer to a guess tells nothing of its
/// padding (Bleichenbacher's attack). What is opened with that key is then found not genuine, or is noise.
pub fn unwrap_rsa(
    algorithm: Algorithm,
    pkcs8: &[u8],
    transport: &KeyTransport,
    encrypted_key: &[u8],
    length_bytes: usize,
) -> Result<SecretBytes, AlgorithmError> {
    let failed = AlgorithmError::Failed { algorithm, act: "decrypting a content key" };
    let not_genuine = AlgorithmError::NotGenuine { algorithm, act: "decrypting a content key" };
    let private = PrivateDecryptingKey::from_pkcs8(pkcs8).map_err(|_| failed.clone())?;
    let mut room = Zeroizing::new(vec![0; private.key_size_bytes()]);
    let hash = match transport {
        KeyTransport::Agreed(_) => return Err(AlgorithmError::NotServed { algorithm, act: "agree on keys" }),
        KeyTransport::Oaep(hash) => hash,
        KeyTransport::OaepMessage => &Hash::Sha256,
        KeyTransport::Pkcs1V15 => {
            let key = Pkcs1PrivateDecryptingKey::new(private).map_err(|_| failed)?;
            return Ok(implicitly_rejecting(&key, pkcs8, encrypted_key, length_bytes, &mut room));
        }
    };
    let oaep = match hash {
        Hash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        Hash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        Hash::Sha384 => &OAEP_SHA384_MGF1SHA384,
        Hash::Sha512 => &OAEP_SHA512_MGF1SHA512,
    };
    let key = OaepPrivateDecryptingKey::new(private).map_err(|_| failed)?;
    let content_key = key.decrypt(oaep, encrypted_key, &mut room, None).map_err(|_| not_genuine.clone())?;
    let fits = *transport == KeyTransport::OaepMessage || content_key.len() == length_bytes;
    if fits { Ok(SecretBytes::new(content_key.to_vec())) } else { Err(not_genuine) }
}

fn implicitly_rejecting(
    key: &Pkcs1PrivateDecryptingKey,
    pkcs8: &[u8],
    encrypted_key: &[u8],
    length_bytes: usize,
    room: &mut [u8],
) -> SecretBytes {
    const LABEL: &[u8] = b"freehold-implicit-rejection-v1";
    // The key that takes the place of one that is not there: made whether it is needed or not.
    let secret = Zeroizing::new(hmac_sha256(pkcs8, LABEL));
    let other = Zeroizing::new(hmac_sha256(secret.as_slice(), encrypted_key));
    let found_bytes = key.decrypt(encrypted_key, room).map_or(usize::MAX, |found| found.len());
    let fits = found_bytes.ct_eq(&length_bytes);
    let chosen = (0..length_bytes).map(|place| u8::conditional_select(&other[place % other.len()], &room[place % room.len()], fits));
    SecretBytes::new(chosen.collect())
}

/// Unwraps a content key of `length_bytes` that was wrapped with a key derived from this agreed secret. Every way to fail looks the same.
pub fn unwrap_agreed(secret: &SecretBytes, agreement: &Agreement, wrapped: &[u8], length_bytes: usize) -> Option<SecretBytes> {
    let cipher = match agreement.key_bytes {
        16 => &key_wrap::AES_128,
        32 => &key_wrap::AES_256,
        _ => return None,
    };
    let key = x963(agreement.hash, secret, &agreement.shared_info, agreement.key_bytes);
    let key = AesKek::new(cipher, key.expose()).ok()?;
    let mut content_key = SecretBytes::new(vec![0; length_bytes]);
    let unwrapped = key.unwrap(wrapped, content_key.expose_mut()).ok()?.len();
    (unwrapped == length_bytes).then_some(content_key)
}

/// The key derivation of ANSI X9.63 (SEC 1, section 3.6.1): hashes of the secret, a counter and the shared information.
fn x963(hash: Hash, secret: &SecretBytes, shared_info: &[u8], length_bytes: usize) -> SecretBytes {
    let mut key = SecretBytes::new(vec![0; length_bytes]);
    for (counter, block) in (1u32..).zip(key.expose_mut().chunks_mut(hash.bytes())) {
        let input = Zeroizing::new([secret.expose(), &counter.to_be_bytes(), shared_info].concat());
        let digest = Zeroizing::new(hash.digest(&input));
        block.copy_from_slice(&digest[..block.len()]);
    }
    key
}

/// Decrypts AES-CBC with the padding of PKCS#7 (RFC 5652, section 6.3). Nothing tells whether the content was changed.
pub fn open_cbc(key: &SecretBytes, iv: [u8; 16], ciphertext: &[u8]) -> Option<SecretBytes> {
    let algorithm = match key.len() {
        16 => &cipher::AES_128,
        24 => &cipher::AES_192,
        32 => &cipher::AES_256,
        _ => return None,
    };
    let key = cipher::UnboundCipherKey::new(algorithm, key.expose()).ok()?;
    let key = cipher::PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
    let mut room = Zeroizing::new(ciphertext.to_vec());
    let opened = key.decrypt(&mut room, cipher::DecryptionContext::Iv128(FixedLength::from(iv))).ok()?;
    Some(SecretBytes::new(opened.to_vec()))
}

/// Decrypts AES-GCM under a key of any size.
pub fn open_gcm(key: &SecretBytes, nonce: [u8; 12], associated: &[u8], ciphertext: &[u8], tag: &[u8]) -> Option<SecretBytes> {
    let algorithm = match key.len() {
        16 => &aead::AES_128_GCM,
        24 => &aead::AES_192_GCM,
        32 => &aead::AES_256_GCM,
        _ => return None,
    };
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key.expose()).ok()?);
    let mut plaintext = SecretBytes::new(vec![0; ciphertext.len()]);
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    key.open_separate_gather(nonce, aead::Aad::from(associated), ciphertext, tag, plaintext.expose_mut()).ok()?;
    Some(plaintext)
}

/// Checks a signature with a public key, encoded as the catalogue says: `RSAPublicKey`, an uncompressed point, or 32 bytes.
pub fn verify(
    algorithm: Algorithm,
    public_key: &[u8],
    scheme: SignatureScheme,
    message: &[u8],
    signature: &[u8],
) -> Result<(), AlgorithmError> {
    let not_genuine = AlgorithmError::NotGenuine { algorithm, act: "verifying a signature" };
    let unfit = |detail| AlgorithmError::Unfit { algorithm, detail };
    let pss;
    let verifying: &'static dyn VerificationAlgorithm = match (scheme, algorithm.entry().jose_kty, public_key.len()) {
        (SignatureScheme::Pkcs1V15(hash), "RSA", _) => match hash {
            Hash::Sha1 => &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Hash::Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Hash::Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        },
        (SignatureScheme::Pss { hash, salt_bytes }, "RSA", _) => {
            let parameters = match hash {
                Hash::Sha256 => signature::RSA_PSS_2048_8192_SHA256,
                Hash::Sha384 => signature::RSA_PSS_2048_8192_SHA384,
                Hash::Sha512 => signature::RSA_PSS_2048_8192_SHA512,
                Hash::Sha1 => return Err(unfit("RSASSA-PSS with SHA-1 is not verified")),
            };
            pss = parameters.with_pss_salt_length(RsaPssSaltLength::Custom(salt_bytes));
            return pss.verify_sig(public_key, message, signature).map_err(|_| not_genuine);
        }
        (SignatureScheme::Ecdsa(hash), "EC", 65) => match hash {
            Hash::Sha1 => &signature::ECDSA_P256_SHA1_ASN1,
            Hash::Sha256 => &signature::ECDSA_P256_SHA256_ASN1,
            Hash::Sha384 => &signature::ECDSA_P256_SHA384_ASN1,
            Hash::Sha512 => &signature::ECDSA_P256_SHA512_ASN1,
        },
        (SignatureScheme::Ecdsa(hash), "EC", 97) => match hash {
            Hash::Sha256 => &signature::ECDSA_P384_SHA256_ASN1,
            Hash::Sha384 => &signature::ECDSA_P384_SHA384_ASN1,
            Hash::Sha512 => &signature::ECDSA_P384_SHA512_ASN1,
            Hash::Sha1 => return Err(unfit("ECDSA on P-384 with SHA-1 is not verified")),
        },
        (SignatureScheme::Ed25519, "OKP", 32) => &signature::ED25519,
        _ => return Err(unfit("it was signed in a way that this key does not sign")),
    };
    UnparsedPublicKey::new(verifying, public_key).verify(message, signature).map_err(|_| not_genuine)
}
