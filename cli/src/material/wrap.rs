//! What is done to material before it leaves this process: wrapped under the import key that an agent made for one version.

use aws_lc_rs::{
    encoding::AsDer as _,
    key_wrap::{AES_256, AesKek, KeyWrapPadded as _},
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKey},
};
use hpke::{Deserializable as _, OpModeS, Serializable as _, aead::AesGcm256, kdf::KdfShake256, kem::XWing};
use schema::{catalogue::Algorithm, encoding::base64url, public_key};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// Wrapping failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the material could not be wrapped: {0}")]
pub struct NotWrapped(&'static str);

/// A compact JWE (`HPKE-9`: MLKEM768-X25519, SHAKE256, AES-256-GCM, integrated).
pub fn hpke(jwk: &Value, material: &[u8]) -> Result<String, NotWrapped> {
    type ImportKey = <XWing as hpke::kem::Kem>::PublicKey;
    let algorithm = row("HPKE-9")?;
    let public_key = public_key::read(algorithm, &jwk.to_string()).map_err(|_| NotWrapped("the import key is not one of HPKE-9"))?;
    let public_key = ImportKey::from_bytes(&public_key).map_err(|_| NotWrapped("the import key is not one of HPKE-9"))?;
    let header = json!({ "alg": "HPKE-9", "kid": jwk["kid"], "typ": "freehold-key", "draft": algorithm.entry().draft });
    let protected = base64url(header.to_string().as_bytes());
    let sealed = hpke::single_shot_seal::<AesGcm256, KdfShake256, XWing>(&OpModeS::Base, &public_key, &[], material, protected.as_bytes());
    let (encapsulated, ciphertext) = sealed.map_err(|_| NotWrapped("the library failed"))?;
    Ok(format!("{protected}.{}..{}.", base64url(&encapsulated.to_bytes()), base64url(&ciphertext)))
}

/// A fresh AES key by RSA-OAEP with SHA-256, and the material under it by AES-KWP (`CKM_RSA_AES_KEY_WRAP`).
pub fn rsa_aes_kwp(jwk: &Value, material: &[u8]) -> Result<Vec<u8>, NotWrapped> {
    let failed = |_| NotWrapped("the library failed");
    let no_key = NotWrapped("the import key is not one of RSA with 4096 bits");
    let public_key = public_key::read(row("RSA-OAEP-256-4096")?, &jwk.to_string()).map_err(|_| no_key.clone())?;
    let info = PublicKey::from_der(&public_key).and_then(|key| key.as_der().map_err(Into::into)).map_err(|_| no_key.clone())?;
    let key = PublicEncryptingKey::from_der(info.as_ref()).map_err(|_| no_key.clone())?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| no_key)?;
    let mut kek = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(kek.as_mut_slice()).map_err(failed)?;
    let mut wrapped = vec![0; key.ciphertext_size()];
    key.encrypt(&OAEP_SHA256_MGF1SHA256, kek.as_slice(), &mut wrapped, None).map_err(failed)?;
    let mut out = vec![0; material.len() + 15];
    let kek = AesKek::new(&AES_256, kek.as_slice()).map_err(failed)?;
    wrapped.extend_from_slice(kek.wrap_with_padding(material, &mut out).map_err(failed)?);
    Ok(wrapped)
}

fn row(name: &str) -> Result<Algorithm, NotWrapped> {
    name.parse().map_err(|_| NotWrapped("the algorithm is not in the catalogue"))
}
