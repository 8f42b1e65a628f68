//! Records as entries of the KV engine, version 2, which every agent that uses the server shares.

use std::{path::PathBuf, sync::Arc, time::Instant};

use devices::remote::token::TOKEN_ENDING;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    base64,
    client::{Answer, Client},
};
use crate::vault::{Trouble, TroubleKind, VaultError, keeper::Bounds, sealed::Records};

/// Records below one path.
pub struct KvRecords {
    client: Arc<Client>,
    mount: String,
    path: String,
}

impl KvRecords {
    /// The records below a path.
    pub fn new(client: Arc<Client>, mount: &str, path: &str) -> Self {
        Self { client, mount: mount.to_owned(), path: path.to_owned() }
    }

    fn data(&self, name: &str) -> String {
        format!("{}/data/{}/{name}", self.mount, self.path)
    }

    fn metadata(&self, name: &str) -> String {
        format!("{}/metadata/{}/{name}", self.mount, self.path)
    }

    fn failed(&self, detail: impl Into<String>) -> VaultError {
        Trouble::new(TroubleKind::Failed, self.client.place(), detail).into()
    }

    /// Writes when the entry is at this version; `false` when it is at another.
    fn write(&self, name: &str, bytes: &[u8], options: &Value) -> Result<bool, VaultError> {
        let body = json!({ "options": options, "data": { "record": base64::encode(bytes) } });
        match self.client.post(&self.data(name), &body)? {
            Answer::Invalid(said) if said.contains("check-and-set") => Ok(false),
            answer => answer.data(&self.client, "keeping a record").map(|_| true).map_err(VaultError::from),
        }
    }
}

impl Records for KvRecords {
    fn kind(&self) -> &'static str {
        "remote"
    }

    fn place(&self) -> String {
        self.client.place().to_owned()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn bounds(&self) -> Bounds {
        // A change takes a few calls one after the other.
        Bounds { call: self.client.limit().saturating_mul(3), make: self.client.limit().saturating_mul(12), width: 32 }
    }

    fn check(&self) -> Result<(), VaultError> {
        Ok(self.client.check()?)
    }

    fn advice(&self) -> Option<(&'static str, String)> {
        Some((TOKEN_ENDING, self.client.advice(Instant::now())?.to_string()))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{} of {}", self.data(name), self.client.place()))
    }

    fn names(&self) -> Result<Vec<String>, VaultError> {
        let path = format!("{}/metadata/{}?list=true", self.mount, self.path);
        match self.client.call(Method::GET, &path, None)? {
            Answer::NotFound => Ok(Vec::new()),
            answer => {
                let data = answer.data(&self.client, "listing records")?;
                let keys = data["keys"].as_array().ok_or_else(|| self.failed("its listing has no keys"))?;
                Ok(keys.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
        let data = match self.client.call(Method::GET, &self.data(name), None)? {
            Answer::NotFound => return Ok(None),
            answer => answer.data(&self.client, "reading a record")?,
        };
        let corrupt = || VaultError::Corrupt { path: self.path(name), detail: "it holds no record".to_owned() };
        let record = data["data"]["record"].as_str().and_then(base64::decode).ok_or_else(corrupt)?;
        Ok(Some(record.expose().to_vec()))
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, VaultError> {
        self.write(name, bytes, &json!({ "cas": 0 }))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError> {
        self.write(name, bytes, &json!({})).map(|_| ())
    }

    /// Every version of the entry, for good.
    fn remove(&self, name: &str) -> Result<(), VaultError> {
        match self.client.call(Method::DELETE, &self.metadata(name), None)? {
            Answer::NotFound => Ok(()),
            answer => answer.data(&self.client, "removing a record").map(|_| ()).map_err(VaultError::from),
        }
    }
}
