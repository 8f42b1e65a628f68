//! What may be asked of an erasure.

use serde::Serialize;

use super::Subject;

/// A parsed intent.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum ErasureCommand {
    /// Destroy the keys.
    Erase {
        /// Of whom.
        subject: Subject,
        /// Whether there is such a person or tenant, looked up beforehand; no part of the request's hash.
        #[serde(skip)]
        known: bool,
    },
}
