//! A key of the transit engine that seals: the server never tells it, and we never see it.

use std::sync::Arc;

use reqwest::Method;
use schema::{clock::Ids, encoding::Digest, key::Protection};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    base64,
    client::{Answer, Client},
};
use crate::vault::{
    Trouble, TroubleKind, VaultError,
    sealed::{Seal, SealedValue},
    secret::SecretBytes,
};

/// Seals under a key of the transit engine.
pub struct TransitSeal {
    client: Arc<Client>,
    mount: String,
    key: String,
}

impl TransitSeal {
    /// The key of this name; made where `may_make` says so and there is none.
    pub fn open(client: Arc<Client>, mount: &str, key: &str, may_make: bool) -> Result<Self, VaultError> {
        let seal = Self { client, mount: mount.to_owned(), key: key.to_owned() };
        match seal.kind()? {
            Some(kind) if kind == "aes256-gcm96" => {}
            Some(kind) => return Err(seal.failed(format!("the transit key {key:?} is of type {kind}, not aes256-gcm96"))),
            None if may_make => {
                let body = json!({ "type": "aes256-gcm96", "exportable": false, "allow_plaintext_backup": false });
                seal.client.post(&format!("{mount}/keys/{key}"), &body)?.data(&seal.client, "making the transit key")?;
            }
            None => return Err(seal.failed(format!("the transit key {key:?} that sealed what is kept is not there"))),
        }
        Ok(seal)
    }

    fn kind(&self) -> Result<Option<String>, VaultError> {
        match self.client.call(Method::GET, &format!("{}/keys/{}", self.mount, self.key), None)? {
            Answer::NotFound => Ok(None),
            answer => Ok(Some(answer.data(&self.client, "reading the transit key")?["type"].as_str().unwrap_or("unknown").to_owned())),
        }
    }

    fn failed(&self, detail: impl Into<String>) -> VaultError {
        Trouble::new(TroubleKind::Failed, self.client.place(), detail).into()
    }
}

impl Seal for TransitSeal {
    fn seal(&self, bound: &Digest, value: &SecretBytes, _ids: &dyn Ids) -> Result<SealedValue, VaultError> {
        // Written by hand, so that no copy of the secret stays behind.
        let plaintext = Zeroizing::new(base64::encode(value.expose()));
        let body = Zeroizing::new(format!(r#"{{"plaintext":"{}","associated_data":"{}"}}"#, *plaintext, base64::encode(&bound.0)));
        let path = format!("{}/encrypt/{}", self.mount, self.key);
        let data = self.client.call(Method::POST, &path, Some(&body))?.data(&self.client, "sealing a secret")?;
        let text = data["ciphertext"].as_str().ok_or_else(|| self.failed("its answer has no ciphertext"))?;
        Ok(SealedValue { sealed: text.as_bytes().to_vec().into(), ..SealedValue::default() })
    }

    fn unseal(&self, bound: &Digest, value: &SealedValue) -> Result<Option<SecretBytes>, VaultError> {
        let Ok(text) = std::str::from_utf8(value.sealed.as_slice()) else { return Ok(None) };
        let body = json!({ "ciphertext": text, "associated_data": base64::encode(&bound.0) });
        let bytes = match self.client.post(&format!("{}/decrypt/{}", self.mount, self.key), &body)? {
            // It does not tell a ciphertext that is not genuine from other bad input.
            Answer::Invalid(_) => return Ok(None),
            answer => answer.yes(&self.client, "opening a sealed secret")?,
        };
        let opened = serde_json::from_slice::<Opened<'_>>(&bytes).ok().and_then(|opened| base64::decode(opened.data.plaintext));
        opened.map(Some).ok_or_else(|| self.failed("its answer has no plaintext"))
    }

    /// What guards the server's own key is not to be seen from here.
    fn protection(&self) -> Protection {
        Protection::Software
    }

    fn check(&self) -> Result<(), VaultError> {
        match self.kind()? {
            Some(_) => Ok(()),
            None => Err(self.failed(format!("the transit key {:?} is gone", self.key))),
        }
    }
}

/// The answer of a decryption, read where it stands: no copy stays behind.
#[derive(Deserialize)]
struct Opened<'a> {
    #[serde(borrow)]
    data: OpenedData<'a>,
}

#[derive(Deserialize)]
struct OpenedData<'a> {
    plaintext: &'a str,
}
