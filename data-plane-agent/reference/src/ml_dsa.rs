//! ML-DSA (FIPS 204).

use std::convert::Infallible;

use ::ml_dsa::{
    B32, ExpandedSigningKey, KeyExport as _, MlDsa44, MlDsa65, MlDsa87, Signature, SigningKey, VerifyingKey,
    signature::rand_core::{TryCryptoRng, TryRng},
};

/// Bytes of the digest that is signed: the external mu.
pub const MU_BYTES: usize = 64;

/// A parameter set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// ML-DSA-44
    MlDsa44,
    /// ML-DSA-65
    MlDsa65,
    /// ML-DSA-87
    MlDsa87,
}

macro_rules! with {
    ($set:expr, $parameters:ident => $body:expr) => {
        match $set {
            Set::MlDsa44 => {
                type $parameters = MlDsa44;
                $body
            }
            Set::MlDsa65 => {
                type $parameters = MlDsa65;
                $body
            }
            Set::MlDsa87 => {
                type $parameters = MlDsa87;
                $body
            }
        }
    };
}

impl Set {
    /// The public key of a seed.
    pub fn public_key(self, seed: &[u8]) -> Option<Vec<u8>> {
        let seed = B32::try_from(seed).ok()?;
        Some(with!(self, P => {
            let key = SigningKey::<P>::from_seed(&seed);
            AsRef::<VerifyingKey<P>>::as_ref(&key).to_bytes().to_vec()
        }))
    }

    /// Signs deterministically, with an empty context.
    pub fn sign_deterministic(self, seed: &[u8], message: &[u8]) -> Option<Vec<u8>> {
        let seed = B32::try_from(seed).ok()?;
        Some(with!(self, P => ExpandedSigningKey::<P>::from_seed(&seed).sign_deterministic(message, &[]).ok()?.encode().to_vec()))
    }

    /// Signs a ready mu, hedged by 32 random bytes.
    pub fn sign_mu(self, seed: &[u8], mu: &[u8], random: &[u8; 32]) -> Option<Vec<u8>> {
        let (seed, mu) = (B32::try_from(seed).ok()?, mu.try_into().ok()?);
        Some(with!(self, P => {
            ExpandedSigningKey::<P>::from_seed(&seed).sign_mu_randomized(&mu, &mut Given(random)).ok()?.encode().to_vec()
        }))
    }

    /// The mu of a message with an empty context, as whoever holds the message computes it.
    pub fn mu(self, public_key: &[u8], message: &[u8]) -> Option<[u8; MU_BYTES]> {
        with!(self, P => {
            let key = VerifyingKey::<P>::decode(&public_key.try_into().ok()?);
            let absorb = |hash: &mut _| {
                ::ml_dsa::signature::digest::Update::update(hash, message);
                Ok(())
            };
            key.compute_mu(absorb, &[]).ok().map(Into::into)
        })
    }

    /// Checks a signature over a message, with an empty context.
    pub fn verify(self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        with!(self, P => match (public_key.try_into(), Signature::<P>::try_from(signature)) {
            (Ok(public_key), Ok(signature)) => VerifyingKey::<P>::decode(&public_key).verify_with_context(message, &[], &signature),
            _ => false,
        })
    }

    /// Checks a signature over a ready mu.
    pub fn verify_mu(self, public_key: &[u8], mu: &[u8], signature: &[u8]) -> bool {
        with!(self, P => match (public_key.try_into(), mu.try_into(), Signature::<P>::try_from(signature)) {
            (Ok(public_key), Ok(mu), Ok(signature)) => VerifyingKey::<P>::decode(&public_key).verify_mu(&mu, &signature),
            _ => false,
        })
    }
}

/// Random bytes that were made before, as the library's random source; it takes exactly these.
struct Given<'a>(&'a [u8; 32]);

impl TryRng for Given<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let [a, b, c, d, ..] = *self.0;
        Ok(u32::from_le_bytes([a, b, c, d]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let [a, b, c, d, e, f, g, h, ..] = *self.0;
        Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for (byte, given) in bytes.iter_mut().zip(self.0.iter().cycle()) {
            *byte = *given;
        }
        Ok(())
    }
}

impl TryCryptoRng for Given<'_> {}
