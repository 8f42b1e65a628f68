//! AES-256-GCM with a nonce that is a keyed hash of what is sealed and where: the same content in the same place seals to
//! the same bytes (so a rebuilt read model has identical rows), and two contents never share a nonce but by a collision
//! of 96 bits of HMAC-SHA-256.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use zeroize::Zeroizing;

use super::SealingError;

/// A 256-bit key, ready to seal and open. Does not print; the library wipes it on drop.
pub(super) struct Cipher {
    aead: LessSafeKey,
    nonce: hmac::Key,
}

impl Cipher {
    pub(super) fn new(key: &[u8; 32]) -> Result<Self, SealingError> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, key);
        let aead = Zeroizing::new(keyed_hash(&root, "freehold-seal-aes-256-gcm-v1", &[]));
        let nonce = Zeroizing::new(keyed_hash(&root, "freehold-seal-nonce-v1", &[]));
        let aead = UnboundKey::new(&AES_256_GCM, &*aead).map_err(|_| SealingError::DoesNotOpen)?;
        Ok(Self { aead: LessSafeKey::new(aead), nonce: hmac::Key::new(hmac::HMAC_SHA256, &*nonce) })
    }

    /// Nonce, ciphertext and tag, in one piece.
    pub(super) fn seal(&self, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealingError> {
        let hash = keyed_hash(&self.nonce, "freehold-nonce-v1", &[aad, plaintext]);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&hash[..NONCE_LEN]);
        let mut sealed = Vec::with_capacity(NONCE_LEN + plaintext.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let tag = self
            .aead
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut sealed[NONCE_LEN..])
            .map_err(|_| SealingError::DoesNotOpen)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    pub(super) fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealingError> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealingError::DoesNotOpen)?;
        let mut body = body.to_vec();
        let length = self
            .aead
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut body)
            .map_err(|_| SealingError::DoesNotOpen)?
            .len();
        body.truncate(length);
        Ok(body)
    }
}

/// HMAC-SHA-256 over a label and parts, each prefixed by its length as 8 bytes big-endian.
pub(super) fn keyed_hash(key: &hmac::Key, label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    for part in std::iter::once(&label.as_bytes()).chain(parts) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.sign().as_ref());
    hash
}

/// A label and parts, each prefixed by its length as 8 bytes big-endian.
pub(super) fn framed(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    for part in std::iter::once(&label.as_bytes()).chain(parts) {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn only_the_same_key_and_place_open(key: [u8; 32], other: [u8; 32], aad: Vec<u8>, wrong: Vec<u8>, body: Vec<u8>, flip: prop::sample::Index) {
            prop_assume!(key != other && aad != wrong);
            let cipher = Cipher::new(&key).unwrap();
            let sealed = cipher.seal(&aad, &body).unwrap();
            prop_assert_eq!(cipher.open(&aad, &sealed).unwrap(), body.clone());
            prop_assert_eq!(cipher.seal(&aad, &body).unwrap(), sealed.clone());
            prop_assert!(cipher.open(&wrong, &sealed).is_err());
            prop_assert!(Cipher::new(&other).unwrap().open(&aad, &sealed).is_err());
            let mut flipped = sealed.clone();
            let at = flip.index(flipped.len());
            flipped[at] ^= 1;
            prop_assert!(cipher.open(&aad, &flipped).is_err());
            prop_assert!(cipher.open(&aad, &sealed[..sealed.len() - 1]).is_err());
        }
    }

    #[test]
    fn another_content_has_another_nonce() {
        let cipher = Cipher::new(&[7; 32]).unwrap();
        let (a, b) = (cipher.seal(b"x", b"one").unwrap(), cipher.seal(b"x", b"two").unwrap());
        assert_ne!(a[..NONCE_LEN], b[..NONCE_LEN]);
        assert_ne!(a[..NONCE_LEN], cipher.seal(b"y", b"one").unwrap()[..NONCE_LEN]);
    }
}
