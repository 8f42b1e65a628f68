//! What may be asked of the authorities.

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
};
use serde::Serialize;

/// A parsed intent.
#[derive(Debug, Clone, Serialize)]
pub enum AuthorityCommand {
    /// Make the next one. The first of all takes over at once.
    Make {
        /// SHA-256 of its certificate.
        sha256: Digest,
        /// Its certificate, DER.
        certificate: Base64,
        /// When that ends.
        expires: Timestamp,
        /// From when on it may take over.
        not_before: Timestamp,
    },
    /// Let the next one take over.
    TakeOver {
        /// Also before its time.
        early: bool,
        /// Until when the one before is believed.
        former_until: Timestamp,
    },
    /// Make one that takes over at once, and believe none of the others any more.
    Replace {
        /// SHA-256 of its certificate.
        sha256: Digest,
        /// Its certificate, DER.
        certificate: Base64,
        /// When that ends.
        expires: Timestamp,
    },
    /// Believe those no more whose time has come.
    Retire,
}
