//! A key of the transit engine that seals: the server never tells it, and we never see it.

use std::{sync::Arc, time::Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::client::{Answer, Client};
use crate::{Trouble, TroubleKind};

/// Seals under a key of the transit engine. Methods block, as those of [`Client`].
pub struct TransitKey {
    client: Arc<Client>,
    mount: String,
    key: String,
}

impl TransitKey {
    /// The key of this name; made where `may_make` says so and there is none.
    pub fn open(client: Arc<Client>, mount: &str, key: &str, may_make: bool) -> Result<Self, Trouble> {
        let opened = Self { client, mount: mount.to_owned(), key: key.to_owned() };
        match opened.kind()? {
            Some(kind) if kind == "aes256-gcm96" => {}
            Some(kind) => return Err(opened.failed(format!("the transit key {key:?} is of type {kind}, not aes256-gcm96"))),
            None if may_make => {
                let body = json!({ "type": "aes256-gcm96", "exportable": false, "allow_plaintext_backup": false });
                opened.client.post(&format!("{mount}/keys/{key}"), &body)?.data(&opened.client, "making the transit key")?;
            }
            None => return Err(opened.failed(format!("the transit key {key:?} that sealed what is kept is not there"))),
        }
        Ok(opened)
    }

    /// Where it is, for people.
    pub fn place(&self) -> &str {
        self.client.place()
    }

    /// What somebody should do before it cannot be asked any longer.
    pub fn advice(&self) -> Option<Trouble> {
        self.client.advice(Instant::now())
    }

    fn kind(&self) -> Result<Option<String>, Trouble> {
        match self.client.call(Method::GET, &format!("{}/keys/{}", self.mount, self.key), None)? {
            Answer::NotFound => Ok(None),
            answer => Ok(Some(answer.data(&self.client, "reading the transit key")?["type"].as_str().unwrap_or("unknown").to_owned())),
        }
    }

    fn failed(&self, detail: impl Into<String>) -> Trouble {
        Trouble::new(TroubleKind::Failed, self.client.place(), detail)
    }

    /// What the server made of a secret: text, for it alone.
    pub fn seal(&self, associated: &[u8], secret: &[u8]) -> Result<Vec<u8>, Trouble> {
        // Written by hand, so that no copy of the secret stays behind.
        let plaintext = Zeroizing::new(STANDARD.encode(secret));
        let body = Zeroizing::new(format!(r#"{{"plaintext":"{}","associated_data":"{}"}}"#, *plaintext, STANDARD.encode(associated)));
        let path = format!("{}/encrypt/{}", self.mount, self.key);
        let data = self.client.call(Method::POST, &path, Some(&body))?.data(&self.client, "sealing a secret")?;
        let text = data["ciphertext"].as_str().ok_or_else(|| self.failed("its answer has no ciphertext"))?;
        Ok(text.as_bytes().to_vec())
    }

    /// What was sealed; none when it is not genuine.
    pub fn unseal(&self, associated: &[u8], sealed: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
        let Ok(text) = std::str::from_utf8(sealed) else { return Ok(None) };
        let body = json!({ "ciphertext": text, "associated_data": STANDARD.encode(associated) });
        let bytes = match self.client.post(&format!("{}/decrypt/{}", self.mount, self.key), &body)? {
            // It does not tell a ciphertext that is not genuine from other bad input.
            Answer::Invalid(_) => return Ok(None),
            answer => answer.yes(&self.client, "opening a sealed secret")?,
        };
        let opened = serde_json::from_slice::<Opened<'_>>(&bytes).ok().and_then(|opened| STANDARD.decode(opened.data.plaintext).ok());
        opened.map(|bytes| Some(Zeroizing::new(bytes))).ok_or_else(|| self.failed("its answer has no plaintext"))
    }

    /// Whether it is there; looks after the token that lets us ask.
    pub fn check(&self) -> Result<(), Trouble> {
        let kind = self.kind()?;
        self.client.tend(Instant::now());
        match kind {
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
