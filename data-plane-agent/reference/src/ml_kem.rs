//! ML-KEM (FIPS 203).

#[allow(deprecated, reason = "others take the expanded key only")]
use ::ml_kem::ExpandedKeyEncoding as _;
use ::ml_kem::{B32, Decapsulate as _, DecapsulationKey, EncapsulationKey, KeyExport as _, MlKem768, MlKem1024, Seed};
use zeroize::Zeroizing;

/// A parameter set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// ML-KEM-768
    MlKem768,
    /// ML-KEM-1024
    MlKem1024,
}

macro_rules! with {
    ($set:expr, $parameters:ident => $body:expr) => {
        match $set {
            Set::MlKem768 => {
                type $parameters = MlKem768;
                $body
            }
            Set::MlKem1024 => {
                type $parameters = MlKem1024;
                $body
            }
        }
    };
}

impl Set {
    /// The public key of a seed.
    pub fn public_key(self, seed: &[u8]) -> Option<Vec<u8>> {
        let seed = Seed::try_from(seed).ok()?;
        Some(with!(self, P => DecapsulationKey::<P>::from_seed(seed).encapsulation_key().to_bytes().to_vec()))
    }

    /// The expanded secret key of a seed.
    pub fn expanded(self, seed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let seed = Seed::try_from(seed).ok()?;
        #[allow(deprecated, reason = "others take the expanded key only")]
        let expanded = with!(self, P => DecapsulationKey::<P>::from_seed(seed).to_expanded_bytes().to_vec());
        Some(Zeroizing::new(expanded))
    }

    /// Ciphertext and shared secret that come of these 32 random bytes.
    pub fn encapsulate(self, public_key: &[u8], random: &[u8; 32]) -> Option<(Vec<u8>, Zeroizing<Vec<u8>>)> {
        Some(with!(self, P => {
            let key = EncapsulationKey::<P>::new(&public_key.try_into().ok()?).ok()?;
            let (ciphertext, secret) = key.encapsulate_deterministic(&B32::from(*random));
            (ciphertext.to_vec(), Zeroizing::new(secret.to_vec()))
        }))
    }

    /// The shared secret in a ciphertext.
    pub fn decapsulate(self, seed: &[u8], ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let seed = Seed::try_from(seed).ok()?;
        let secret = with!(self, P => DecapsulationKey::<P>::from_seed(seed).decapsulate_slice(ciphertext).ok()?.to_vec());
        Some(Zeroizing::new(secret))
    }
}
