//! What applications see: JSON over HTTP, and streams. Operations over JSON are alike (`act`): read, have it decided, use
//! the keys, answer; each by itself and as a batch.

mod act;
pub mod anew;
pub mod backup;
pub mod bare;
pub mod caller;
pub mod can;
pub mod certify;
pub mod cms;
pub mod composite;
pub mod data_key;
pub mod decrypt;
pub mod discover;
pub mod encrypt;
pub mod openapi;
pub mod problem;
pub mod public_key;
pub mod random;
pub mod self_test;
pub mod server;
pub mod sign;
pub mod status;
pub mod stream;
pub mod tokens;
pub mod transfer;
pub mod transit;
pub mod verify;

use std::sync::Arc;

use schema::{clock::Ids, key::KeyReference, wire::problem::Problem};

use tokio::sync::Notify;

use crate::{local::LocalToken, material::import_keys::ImportKeys, operation::Pipeline, recovery::backups::Backups, vault::Vault};

/// What every handler shares.
pub struct Shared {
    /// Decision and record.
    pub pipeline: Pipeline,
    /// Proves callers.
    pub callers: caller::Callers,
    /// Where the keys are.
    pub vault: Arc<dyn Vault>,
    /// What others wrap material under.
    pub import_keys: ImportKeys,
    /// Rung when the vault has something to report.
    pub to_report: Arc<Notify>,
    /// Randomness.
    pub ids: Arc<dyn Ids>,
    /// What `/v1/status` says beside the set in force.
    pub about: status::About,
    /// The largest streamed file in bytes.
    pub stream_limit: Option<u64>,
    /// What commands of this host prove themselves by.
    pub local: LocalToken,
    /// Writes backups; none before the agent has enrolled.
    pub backups: Option<Arc<Backups>>,
    /// Where files wait that are released only when they were found genuine.
    pub spool: Arc<stream::spool::Spool>,
}

/// Reads a reference to a key.
pub(crate) fn key_reference(text: &str) -> Result<KeyReference, Problem> {
    text.parse().map_err(|_| {
        Problem::new(
            400,
            "invalid_key_reference",
            "This names no key",
            "a key is named by key_…, key_…/3 or project/name, a composite by cmp_… or project/name",
        )
        .field("key")
    })
}
