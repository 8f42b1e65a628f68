//! Key material as it travels: what comes from elsewhere is read, checked and made what the algorithm keeps; what leaves is
//! written so that others read it. Both are always wrapped on their way.
//!
//! - [`pkcs8`], [`jwk`]: the two formats beside plain bytes.
//! - [`wrapping`]: how material is wrapped for a public key, and unwrapped.
//! - [`import_keys`]: the keys that others wrap material under; each for one version and one import.

pub mod import_keys;
mod jwk;
mod pkcs8;
pub mod wrapping;

use schema::{catalogue::Algorithm, public_key::rsa_components, wire::operation::MaterialFormat};

use crate::{algorithm::serve, vault::secret::SecretBytes};

/// The most bytes of material: the largest private key is a fraction of it.
pub const MAX_MATERIAL_BYTES: usize = 64 * 1024;

/// Why this cannot be, or cannot become, the material of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this cannot be the material of a key of {algorithm}: {detail}")]
pub struct UnfitMaterial {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What is wrong with it, and what would do. Nothing of the material stands in it.
    pub detail: &'static str,
}

/// What was read: the secret as the algorithm keeps it, and the public half that came along, which must be the secret's.
struct Read {
    secret: SecretBytes,
    public_key: Option<Vec<u8>>,
}

/// Makes material what the algorithm keeps: of this algorithm, whole, strong enough, and one key where both halves came.
pub fn read(algorithm: Algorithm, format: MaterialFormat, material: &SecretBytes) -> Result<SecretBytes, UnfitMaterial> {
    let unfit = |detail| UnfitMaterial { algorithm, detail };
    if material.len() > MAX_MATERIAL_BYTES {
        return Err(unfit("it is longer than 64 KiB"));
    }
    let Read { secret, public_key } = match format {
        MaterialFormat::Raw => raw(algorithm, material)?,
        MaterialFormat::Pkcs8 => pkcs8::read(algorithm, material.expose())?,
        MaterialFormat::Jwk => jwk::read(algorithm, material.expose())?,
    };
    let key = serve(algorithm).load(algorithm, &secret).map_err(|_| unfit(wrong_shape(algorithm)))?;
    if public_key.is_some_and(|given| key.public_key() != Some(given.as_slice())) {
        return Err(unfit("the public half that comes with it is that of another key"));
    }
    if algorithm.entry().jose_kty == "RSA" {
        let exponent = key.public_key().and_then(rsa_components).map(|(_, exponent)| exponent);
        let is_large = |exponent: Vec<u8>| exponent.len() > 2 && exponent.as_slice() >= [1, 0, 1].as_slice();
        if !exponent.is_some_and(is_large) {
            return Err(unfit("its public exponent is below 65537: such keys are too easily misused, make a new one"));
        }
    }
    if secret.expose().iter().all(|byte| *byte == secret.expose()[0]) {
        return Err(unfit("every byte of it is the same: this is no random key"));
    }
    Ok(secret)
}

/// Writes material as others read it.
pub fn write(algorithm: Algorithm, format: MaterialFormat, secret: &SecretBytes) -> Result<SecretBytes, UnfitMaterial> {
    let unfit = |detail| UnfitMaterial { algorithm, detail };
    match format {
        MaterialFormat::Raw if algorithm.entry().jose_kty == "RSA" => Err(unfit("an RSA key is no plain bytes: take pkcs8 or jwk")),
        MaterialFormat::Raw => Ok(SecretBytes::new(secret.expose().to_vec())),
        MaterialFormat::Pkcs8 => pkcs8::write(algorithm, secret),
        MaterialFormat::Jwk => jwk::write(algorithm, secret),
    }
}

fn raw(algorithm: Algorithm, material: &SecretBytes) -> Result<Read, UnfitMaterial> {
    if algorithm.entry().jose_kty == "RSA" {
        return Err(UnfitMaterial { algorithm, detail: "an RSA key is no plain bytes: bring it as pkcs8 or jwk" });
    }
    Ok(Read { secret: SecretBytes::new(material.expose().to_vec()), public_key: None })
}

/// What a secret of the algorithm is, for whoever brought something else.
fn wrong_shape(algorithm: Algorithm) -> &'static str {
    match (algorithm.entry().jose_kty, algorithm.name()) {
        ("RSA", name) if name.ends_with("4096") => "it is not a sound RSA key with a modulus of 4096 bits",
        ("RSA", _) => "it is not a sound RSA key with a modulus of 3072 bits",
        ("EC", "ECDSA-P384" | "ECDH-ES-P384") => "it is not a number of 48 bytes within the order of P-384",
        ("EC", _) => "it is not a number of 32 bytes within the order of P-256",
        ("oct", "HMAC-SHA-384") => "a key has 48 bytes",
        ("oct", "HMAC-SHA-512" | "HKDF-SHA-512") => "a key has 64 bytes",
        ("AKP", "ML-KEM-768" | "ML-KEM-1024") => "its seed has 64 bytes",
        ("AKP", "SLH-DSA-SHA2-128s") => "it has 64 bytes",
        ("AKP", "SLH-DSA-SHA2-192s") => "it has 96 bytes",
        ("AKP", "SLH-DSA-SHA2-256s") => "it has 128 bytes",
        _ => "it has 32 bytes",
    }
}

#[cfg(test)]
mod tests;
