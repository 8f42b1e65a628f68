//! How the vault is: asked every few seconds, told to whoever asks.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use service::explain::in_one_line;

use crate::{
    findings::{Findings, Found},
    vault::Vault,
};

/// Under which name its findings stand.
const PART: &str = "vault";

/// How often the vault is asked.
const EVERY: Duration = Duration::from_secs(5);

/// How the vault answered last.
#[derive(Debug, Default)]
pub struct VaultHealth(RwLock<Option<(&'static str, String)>>);

impl VaultHealth {
    /// What is wrong, if anything is: a stable code, and words.
    pub fn trouble(&self) -> Option<(&'static str, String)> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the vault again and again.
    pub(super) async fn watch(self: Arc<Self>, vault: Arc<dyn Vault>, findings: Arc<Findings>) {
        loop {
            let trouble = vault.check().await.err();
            let found = trouble.as_ref().map(|error| Found { version: None, code: error.code(), detail: in_one_line(error) });
            let advice = vault.advice().map(|(code, detail)| Found { version: None, code, detail });
            findings.replace(PART, found.into_iter().chain(advice).collect());
            self.note(trouble.map(|error| (error.code(), error.to_string())));
            tokio::time::sleep(EVERY).await;
        }
    }

    fn note(&self, trouble: Option<(&'static str, String)>) {
        metrics::gauge!("freehold_vault_up").set(if trouble.is_none() { 1.0 } else { 0.0 });
        let before = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), trouble.clone());
        match (before, trouble) {
            (None, Some((code, detail))) => tracing::error!(code, detail, "the vault cannot be used"),
            (Some(_), None) => tracing::info!("the vault can be used again"),
            _ => {}
        }
    }
}
