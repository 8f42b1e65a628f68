//! What the transit engine of Vault and OpenBao writes: `vault:v1:`, and base64 of a nonce of 12 bytes, the ciphertext and a tag
//! of 16; or of what RSAES-OAEP makes. Under a derived key each context has a key of its own: HKDF-SHA-256 of the engine's key, no
//! salt, the context as info. There is code here that reads it, and none that makes it.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use schema::catalogue::Family;

use super::{MAX_PLAINTEXT_BYTES, MessageError};
use crate::{
    algorithm::{
        SealedContent,
        aes_gcm::{NONCE_BYTES, TAG_BYTES},
        legacy::{self, KeyTransport},
    },
    policy::permit::UsePermit,
    vault::{Vault, VaultError, secret::SecretBytes},
};

const WHAT: &str = "ciphertext of a transit engine";

/// Bytes of a key that the engine derives.
const DERIVED_BYTES: usize = 32;

/// A ciphertext that was read, but not opened.
#[derive(Debug, Clone)]
pub struct Transit {
    version: u32,
    bytes: Vec<u8>,
}

impl Transit {
    /// Reads `vault:v1:…`. No key is used.
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        let text = text.trim_ascii();
        if text.len() > (MAX_PLAINTEXT_BYTES + NONCE_BYTES + TAG_BYTES).div_ceil(3) * 4 + 32 {
            return Err(MessageError::TooLong { what: "the ciphertext", max_bytes: MAX_PLAINTEXT_BYTES });
        }
        let rest = text.strip_prefix("vault:v").ok_or_else(|| malformed("it does not begin with vault:v and a number"))?;
        let (number, body) = rest.split_once(':').ok_or_else(|| malformed("it does not begin with vault:v and a number"))?;
        let version = number.parse::<u32>().ok().filter(|version| *version > 0 && !number.starts_with(['+', '0']));
        let version = version.ok_or_else(|| malformed("its version is no number from 1 on"))?;
        let bytes = BASE64_STANDARD.decode(body).map_err(|_| malformed("what follows the version is not base64"))?;
        if bytes.len() < NONCE_BYTES + TAG_BYTES {
            return Err(malformed("it is shorter than a nonce of 12 bytes and a tag of 16"));
        }
        Ok(Self { version, bytes })
    }

    /// The version of the key that sealed it.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes of plaintext, at most: of a ciphertext of RSA there are fewer.
    pub fn plaintext_bytes(&self) -> usize {
        self.bytes.len() - NONCE_BYTES - TAG_BYTES
    }

    /// Opens it with the permitted key. `derivation` is the context of the engine's key derivation, where its key was a derived one.
    pub async fn open(
        &self,
        vault: &dyn Vault,
        permit: UsePermit,
        associated: &[u8],
        derivation: Option<&[u8]>,
    ) -> Result<SecretBytes, MessageError> {
        let failed = |error: VaultError| match error.code() {
            "not_genuine" => MessageError::NotGenuine,
            _ => error.into(),
        };
        match (permit.algorithm().entry().family, derivation) {
            (Family::Hkdf, Some(context)) if !context.is_empty() => {
                let key = vault.derive(permit, &[], context, DERIVED_BYTES).await?;
                let (nonce, ciphertext, tag) = self.parts();
                let nonce = nonce.try_into().map_err(|_| MessageError::NotGenuine)?;
                legacy::open_gcm(&key, nonce, associated, ciphertext, tag).ok_or(MessageError::NotGenuine)
            }
            (Family::Hkdf, _) => {
                Err(malformed("its key is a derived one: give the context that it was derived with, as derivation_context"))
            }
            (_, Some(_)) => Err(malformed("its key is not a derived one: leave derivation_context out")),
            (Family::Rsa, None) if !associated.is_empty() => Err(malformed("what RSA sealed is bound to no associated data")),
            (Family::Rsa, None) => {
                // Its length is known when it is open.
                let opened = vault.unwrap_transported(permit, &KeyTransport::OaepMessage, &self.bytes, 0).await;
                opened.map_err(failed)
            }
            (_, None) => {
                let (nonce, ciphertext, tag) = self.parts();
                let sealed =
                    SealedContent { encapsulated: None, nonce: nonce.to_vec(), ciphertext: ciphertext.to_vec(), tag: tag.to_vec() };
                vault.open_content(permit, associated, &sealed).await.map_err(failed)
            }
        }
    }

    /// Nonce, ciphertext and tag.
    fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        let (nonce, rest) = self.bytes.split_at(NONCE_BYTES);
        let (ciphertext, tag) = rest.split_at(rest.len() - TAG_BYTES);
        (nonce, ciphertext, tag)
    }
}

fn malformed(detail: &str) -> MessageError {
    MessageError::Malformed { what: WHAT, detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_engine_writes_is_read() {
        let body = BASE64_STANDARD.encode([7; 30]);
        let read = Transit::parse(&format!("vault:v12:{body}\n")).unwrap();
        assert_eq!((read.version(), read.plaintext_bytes(), read.parts().0.len()), (12, 2, 12));
        let short = BASE64_STANDARD.encode([7; 27]);
        for text in [
            "",
            "vault:",
            "vault:v1",
            "vault:v:",
            &format!("vault:v0:{body}"),
            &format!("vault:v01:{body}"),
            &format!("vault:v+1:{body}"),
            &format!("vault:v-1:{body}"),
            &format!("vault:v4294967296:{body}"),
            &format!("vault:v1:{short}"),
            &format!("vault:v1:{body}!"),
            &format!("Vault:v1:{body}"),
            &format!("vault:v1:v1:{body}"),
        ] {
            assert!(Transit::parse(text).is_err(), "{text:?}");
        }
    }
}
