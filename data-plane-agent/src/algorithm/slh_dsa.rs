//! `SLH-DSA-SHA2-128s/192s/256s` (FIPS 205; pure, empty context). Signing takes hundreds of milliseconds: vaults move it
//! off the calling thread. A key is kept as its secret key of four hashes, because the last one takes long to compute.

use reference::slh_dsa::Set;
use schema::{catalogue::Algorithm, clock::Ids};

use super::{AlgorithmError, Implementation, LoadedKey};
use crate::vault::secret::SecretBytes;

/// The family.
#[derive(Debug)]
pub struct SlhDsa;

struct Key {
    algorithm: Algorithm,
    secret: SecretBytes,
}

impl Implementation for SlhDsa {
    fn generate(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        let random = SecretBytes::random(3 * set(algorithm).hash_bytes(), ids);
        let secret = set(algorithm).secret_key(random.expose());
        let secret = secret.ok_or(AlgorithmError::Failed { algorithm, act: "making a key" })?;
        Ok(SecretBytes::new(secret.to_vec()))
    }

    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        if secret.len() != 4 * set(algorithm).hash_bytes() {
            return Err(AlgorithmError::MalformedKey { algorithm, what: "secret key" });
        }
        Ok(Box::new(Key { algorithm, secret: SecretBytes::new(secret.expose().to_vec()) }))
    }

    fn check_public_key(&self, algorithm: Algorithm, public_key: &[u8]) -> Result<(), AlgorithmError> {
        let fits = public_key.len() == 2 * set(algorithm).hash_bytes();
        if fits { Ok(()) } else { Err(AlgorithmError::MalformedKey { algorithm, what: "public key" }) }
    }

    fn verify(&self, algorithm: Algorithm, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
        let genuine = set(algorithm).verify(public_key, message, signature);
        if genuine { Ok(()) } else { Err(AlgorithmError::NotGenuine { algorithm, act: "verifying a signature" }) }
    }

    /// A signature of another implementation. Signing is tried with the smallest set only (the code is the same): each
    /// start of an agent would otherwise take a second longer.
    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
        let (key, signature) = vector(algorithm);
        let public_key = key.public_key().unwrap_or_default();
        self.verify(algorithm, public_key, MESSAGE, signature).map_err(|error| format!("a signature of OpenSSL: {error}"))?;
        if self.verify(algorithm, public_key, b"another message", signature).is_ok() {
            return Err("a signature of OpenSSL verifies for another message".to_owned());
        }
        if set(algorithm) != Set::Sha2_128s {
            return Ok(());
        }
        let own = key.sign_hedged(MESSAGE, &schema::clock::random::<16>(ids)).map_err(|error| error.to_string())?;
        self.verify(algorithm, public_key, MESSAGE, &own).map_err(|error| error.to_string())
    }
}

impl Key {
    fn sign_hedged(&self, message: &[u8], random: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        let failed = AlgorithmError::Failed { algorithm: self.algorithm, act: "signing" };
        set(self.algorithm).sign(self.secret.expose(), message, random).ok_or(failed)
    }
}

impl LoadedKey for Key {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key(&self) -> Option<&[u8]> {
        self.secret.expose().get(2 * set(self.algorithm).hash_bytes()..)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        let mut random = [0; 32];
        let random = &mut random[..set(self.algorithm).hash_bytes()];
        let failed = AlgorithmError::Failed { algorithm: self.algorithm, act: "making random bytes" };
        aws_lc_rs::rand::fill(random).map_err(|_| failed)?;
        self.sign_hedged(message, random)
    }

    fn is_slow(&self) -> bool {
        true
    }
}

fn set(algorithm: Algorithm) -> Set {
    match algorithm.name() {
        "SLH-DSA-SHA2-192s" => Set::Sha2_192s,
        "SLH-DSA-SHA2-256s" => Set::Sha2_256s,
        _ => Set::Sha2_128s,
    }
}

const MESSAGE: &[u8] = b"SLH-DSA known answer of Freehold";

/// A secret key and a signature over [`MESSAGE`], both made by OpenSSL 3.5.8: the secret key, then the signature.
fn vector(algorithm: Algorithm) -> (Key, &'static [u8]) {
    let bytes: &[u8] = match set(algorithm) {
        Set::Sha2_128s => include_bytes!("vectors/slh-dsa-sha2-128s.bin"),
        Set::Sha2_192s => include_bytes!("vectors/slh-dsa-sha2-192s.bin"),
        Set::Sha2_256s => include_bytes!("vectors/slh-dsa-sha2-256s.bin"),
    };
    let (secret, signature) = bytes.split_at(4 * set(algorithm).hash_bytes());
    (Key { algorithm, secret: SecretBytes::new(secret.to_vec()) }, signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_of_openssl_comes_of_its_seeds() {
        for algorithm in Algorithm::all().filter(|algorithm| algorithm.entry().family == schema::catalogue::Family::SlhDsa) {
            let (key, signature) = vector(algorithm);
            let secret = key.secret.expose();
            let made = set(algorithm).secret_key(&secret[..3 * set(algorithm).hash_bytes()]).unwrap();
            assert_eq!(made.as_slice(), secret, "{algorithm}");
            for place in [0, 100, signature.len() / 2, signature.len() - 1] {
                let mut changed = signature.to_vec();
                changed[place] ^= 1;
                SlhDsa.verify(algorithm, key.public_key().unwrap(), MESSAGE, &changed).unwrap_err();
            }
            SlhDsa.verify(algorithm, key.public_key().unwrap(), MESSAGE, &signature[1..]).unwrap_err();
        }
    }
}
