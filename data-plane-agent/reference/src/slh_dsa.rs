//! SLH-DSA with SHA-2, the small sets (FIPS 205).

use ::slh_dsa::{Sha2_128s, Sha2_192s, Sha2_256s, Signature, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

/// A parameter set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// SLH-DSA-SHA2-128s
    Sha2_128s,
    /// SLH-DSA-SHA2-192s
    Sha2_192s,
    /// SLH-DSA-SHA2-256s
    Sha2_256s,
}

macro_rules! with {
    ($set:expr, $parameters:ident => $body:expr) => {
        match $set {
            Set::Sha2_128s => {
                type $parameters = Sha2_128s;
                $body
            }
            Set::Sha2_192s => {
                type $parameters = Sha2_192s;
                $body
            }
            Set::Sha2_256s => {
                type $parameters = Sha2_256s;
                $body
            }
        }
    };
}

impl Set {
    /// Bytes of one hash: a public key has two of them, a secret key four.
    pub const fn hash_bytes(self) -> usize {
        match self {
            Self::Sha2_128s => 16,
            Self::Sha2_192s => 24,
            Self::Sha2_256s => 32,
        }
    }

    /// The secret key that comes of three hashes' worth of random bytes. Takes some tens of milliseconds.
    pub fn secret_key(self, random: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let n = self.hash_bytes();
        if random.len() != 3 * n {
            return None;
        }
        let (seed, prf, public) = (&random[..n], &random[n..2 * n], &random[2 * n..]);
        Some(Zeroizing::new(with!(self, P => SigningKey::<P>::slh_keygen_internal(seed, prf, public).to_vec())))
    }

    /// Signs with an empty context, hedged by one hash's worth of random bytes. Takes some hundred milliseconds.
    pub fn sign(self, secret_key: &[u8], message: &[u8], random: &[u8]) -> Option<Vec<u8>> {
        if random.len() != self.hash_bytes() {
            return None;
        }
        Some(with!(self, P => {
            let key = SigningKey::<P>::try_from(secret_key).ok()?;
            Vec::from(&key.try_sign_with_context(message, &[], Some(random)).ok()?)
        }))
    }

    /// Checks a signature over a message, with an empty context.
    pub fn verify(self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        with!(self, P => match (VerifyingKey::<P>::try_from(public_key), Signature::<P>::try_from(signature)) {
            (Ok(key), Ok(signature)) => key.try_verify_with_context(message, &[], &signature).is_ok(),
            _ => false,
        })
    }
}
