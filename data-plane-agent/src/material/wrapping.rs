//! How material is wrapped for a public key: as a JWE, or by RSA-OAEP around an AES key that AES-KWP (RFC 5649) wraps the
//! material under, one behind the other, as PKCS #11 has it (`CKM_RSA_AES_KEY_WRAP`, version 3.0, section 2.1.21).

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded as _};
use schema::{
    catalogue::{Algorithm, Family, Sealing},
    clock::{Ids, random},
    encoding::{Digest, base64url, push_base64url},
    wire::operation::{MaterialFormat, Warning},
};
use serde_json::Value;

use super::MAX_MATERIAL_BYTES;
use crate::{
    algorithm::{
        ContentEncryption, LoadedKey,
        aes_gcm::{Aes256Gcm, NONCE_BYTES, TAG_BYTES},
        public_key, serve,
    },
    message::{
        MessageError,
        header::{HeaderWriter, carries},
    },
    vault::{
        VaultError,
        secret::{ContentKey, SecretBytes},
    },
};

/// What a wrapped block is called in errors.
const WHAT: &str = "key wrapped by RSA-OAEP and AES-KWP";
/// What a recipient's key is called in errors.
const PUBLIC_KEY: &str = "public key to export to";
/// The most bytes of a name that a recipient gave its key; a longer one is left out.
const MAX_KID_BYTES: usize = 256;
/// Bytes that AES-KWP adds at most.
const KWP_BYTES: usize = 15;

/// Algorithms a recipient's key may be of, in the order in which they are tried: what an X25519 key that names no algorithm
/// is for, nobody can tell.
const RECIPIENTS: [&str; 9] =
    ["HPKE-9-KE", "HPKE-9", "RSA-OAEP-256-4096", "RSA-OAEP-256-3072", "ECDH-ES-P256", "ECDH-ES-P384", "X25519", "HPKE-4-KE", "HPKE-4"];

/// Somebody's public key that material is exported to.
pub struct Recipient {
    /// The algorithm it is for.
    pub algorithm: Algorithm,
    /// As the algorithm's standard encodes it.
    pub public_key: Vec<u8>,
    /// What its holder calls it, where it came as a JWK that says so.
    kid: Option<String>,
}

impl Recipient {
    /// Reads a JWK or a PEM.
    pub fn read(jwk: Option<&Value>, pem: Option<&str>) -> Result<Self, MessageError> {
        let text = match (jwk, pem) {
            (Some(jwk), None) => jwk.to_string(),
            (None, Some(pem)) => pem.to_owned(),
            _ => return Err(malformed("give it once: as jwk or pem")),
        };
        if schema::public_key::holds_secret(&text) {
            return Err(malformed("it holds a secret: send the public half only, and replace that key"));
        }
        let kid = jwk.and_then(|jwk| jwk["kid"].as_str()).filter(|kid| kid.len() <= MAX_KID_BYTES).map(str::to_owned);
        RECIPIENTS
            .iter()
            .filter_map(|name| name.parse::<Algorithm>().ok())
            .find_map(|algorithm| {
                let public_key = schema::public_key::read(algorithm, &text).ok()?;
                serve(algorithm).check_public_key(algorithm, &public_key).ok()?;
                Some(Self { algorithm, public_key, kid: kid.clone() })
            })
            .ok_or_else(|| malformed("it is none of RSA with 3072 or 4096 bits, P-256, P-384, X25519, HPKE-4, HPKE-9 or their -KE"))
    }

    /// Names the key: SHA-256 over it, base64url.
    pub fn name(&self) -> String {
        Digest::of(&self.public_key).to_string()
    }

    /// What to think of before a key goes where a quantum computer could follow it.
    pub fn warning(&self, material: Algorithm) -> Option<Warning> {
        let weaker = material.is_post_quantum() && !self.algorithm.is_post_quantum();
        let detail = format!("a quantum computer opens what is wrapped by {}, and then has this key of {material}", self.algorithm);
        weaker.then(|| Warning { code: "wrapping_weaker".to_owned(), detail })
    }

    /// A compact JWE. `cty` tells what is in it.
    pub fn jwe(&self, material: &SecretBytes, format: MaterialFormat, ids: &dyn Ids) -> Result<String, MessageError> {
        let entry = self.algorithm.entry();
        let writer = HeaderWriter::new().optional("alg", entry.jose_alg);
        let writer = match &self.kid {
            // It is somebody else's text.
            Some(kid) => writer.json_member("kid", &Value::from(kid.as_str()).to_string()),
            None => writer,
        };
        let writer = writer
            .optional("enc", entry.jose_enc)
            .member("typ", "freehold-key")
            .member("cty", content_type(format))
            .optional("draft", entry.draft);
        if entry.sealing == Some(Sealing::Direct) {
            let protected = base64url(writer.json().as_bytes());
            let sealed = serve(self.algorithm)
                .seal_content(self.algorithm, &self.public_key, protected.as_bytes(), material.expose(), ids)
                .map_err(VaultError::from)?;
            return Ok(compact(&protected, &[&sealed.encapsulated.unwrap_or_default(), &sealed.nonce, &sealed.ciphertext, &sealed.tag]));
        }
        let content_key = ContentKey::random(ids);
        let wrapped = serve(self.algorithm)
            .seal_key(self.algorithm, &self.public_key, &content_key, ContentEncryption::A256Gcm, ids)
            .map_err(VaultError::from)?;
        let writer = match (carries(self.algorithm), &wrapped.encapsulated) {
            ((true, _), Some(encapsulated)) => writer.member("ek", base64url(encapsulated)),
            ((_, true), Some(point)) => {
                writer.json_member("epk", &public_key::ephemeral_jwk(self.algorithm, point).map_err(VaultError::from)?)
            }
            _ => writer,
        };
        let protected = base64url(writer.json().as_bytes());
        let (nonce, failed) = (random::<NONCE_BYTES>(ids), |_| MessageError::Failed("encrypting"));
        let (mut ciphertext, mut tag) = (vec![0; material.len()], [0; TAG_BYTES]);
        let gcm = Aes256Gcm::new(content_key.expose()).map_err(failed)?;
        gcm.seal_to(nonce, protected.as_bytes(), material.expose(), &mut ciphertext, &mut tag).map_err(failed)?;
        Ok(compact(&protected, &[&wrapped.encrypted_key, &nonce, &ciphertext, &tag]))
    }

    /// The material under a fresh AES key that the recipient's RSA key wraps.
    pub fn rsa_aes_kwp(&self, material: &SecretBytes, ids: &dyn Ids) -> Result<Vec<u8>, MessageError> {
        if self.algorithm.entry().family != Family::Rsa {
            return Err(malformed("rsa-aes-kwp takes an RSA key"));
        }
        let kek = SecretBytes::random(32, ids);
        let mut wrapped = serve(self.algorithm).wrap_bytes(self.algorithm, &self.public_key, &kek, ids).map_err(VaultError::from)?;
        let mut out = vec![0; material.len() + KWP_BYTES];
        let kek = AesKek::new(&AES_256, kek.expose()).map_err(|_| MessageError::Failed("wrapping"))?;
        wrapped.extend_from_slice(kek.wrap_with_padding(material.expose(), &mut out).map_err(|_| MessageError::Failed("wrapping"))?);
        Ok(wrapped)
    }
}

/// Unwraps what [`Recipient::rsa_aes_kwp`], an HSM or a cloud service made. Every way to fail looks the same.
pub fn open_rsa_aes_kwp(key: &dyn LoadedKey, modulus_bytes: usize, wrapped: &[u8]) -> Result<SecretBytes, MessageError> {
    if wrapped.len() > MAX_MATERIAL_BYTES + modulus_bytes + KWP_BYTES {
        return Err(MessageError::TooLong { what: "the wrapped key", max_bytes: MAX_MATERIAL_BYTES });
    }
    let Some((encrypted_key, material)) = wrapped.split_at_checked(modulus_bytes).filter(|(_, material)| material.len() >= 16) else {
        let detail = format!("it has {} bytes, of which the first {modulus_bytes} are RSA-OAEP", wrapped.len());
        return Err(MessageError::Malformed { what: WHAT, detail });
    };
    let kek = key.unwrap_bytes(encrypted_key).map_err(|_| MessageError::NotGenuine)?;
    if kek.len() != 32 {
        return Err(MessageError::NotGenuine);
    }
    let mut out = SecretBytes::new(vec![0; material.len()]);
    let kek = AesKek::new(&AES_256, kek.expose()).map_err(|_| MessageError::NotGenuine)?;
    let length = kek.unwrap_with_padding(material, out.expose_mut()).map_err(|_| MessageError::NotGenuine)?.len();
    Ok(SecretBytes::new(out.expose()[..length].to_vec()))
}

/// How JOSE names what is in it (`cty`).
const fn content_type(format: MaterialFormat) -> &'static str {
    match format {
        MaterialFormat::Raw => "octet-stream",
        MaterialFormat::Pkcs8 => "pkcs8",
        MaterialFormat::Jwk => "jwk+json",
    }
}

fn compact(protected: &str, parts: &[&[u8]]) -> String {
    let mut out = protected.to_owned();
    for part in parts {
        out.push('.');
        push_base64url(&mut out, part);
    }
    out
}

fn malformed(detail: &str) -> MessageError {
    MessageError::Malformed { what: PUBLIC_KEY, detail: detail.to_owned() }
}
