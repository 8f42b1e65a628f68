//! Data at rest: nothing a person wrote is stored in clear. A stolen database shows ids and times.
//!
//! ```text
//! sealing key (a file, or wherever the operator keeps it)
//!   -> per tenant, in tenant_keys: data keys (seal records, read models, blobs, secrets) and one index key
//!      (blind indexes, derived ids, ids of retried commands)
//! ```
//!
//! - [`SealingKey`]: the deployment's key, and its file.
//! - [`Keyring`]: makes, keeps and opens the keys of tenants.
//! - [`TenantKeys`]: what can be done with them.
//! - [`Secrets`]: the control plane's own signing pairs and CA keys.
//!
//! A key that seals a person's data inside a record is one more data key beside the tenant's: the record names it, and
//! [`Place`] gains a kind.

mod cipher;
mod keyring;
mod sealing_key;
mod secrets;
mod tenant_keys;

pub use keyring::Keyring;
pub use sealing_key::{Fingerprint, SealingKey};
pub use secrets::{Secret, Secrets};
pub use tenant_keys::{CommandIds, Place, Sealed, TenantKeys};

use std::path::PathBuf;

use schema::id::{DataKeyId, TenantId};

/// Why something was not sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// The database was sealed under another key.
    #[error(
        "this is the wrong sealing key: the database was sealed under the key with fingerprint {expected}, this one has {found}; restore the right key file"
    )]
    WrongSealingKey {
        /// The fingerprint recorded in the database.
        expected: Fingerprint,
        /// The fingerprint of the key that was offered.
        found: Fingerprint,
    },
    /// The database is there, the key it was sealed under is not.
    #[error(
        "the database was sealed under the key with fingerprint {expected}, but its file {} is not there; restore it from its backup",
        path.display()
    )]
    SealingKeyMissing {
        /// The fingerprint recorded in the database.
        expected: Fingerprint,
        /// Where the key file should be.
        path: PathBuf,
    },
    /// The key file could not be used.
    #[error("{act} the sealing key file {} failed", path.display())]
    KeyFile {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others can read the key file.
    #[error("the sealing key file {} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    KeyFileOpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key file holds something else.
    #[error("the file {} is not a sealing key (32 bytes as base64url on one line); restore it from its backup", path.display())]
    KeyFileDamaged {
        /// The file.
        path: PathBuf,
    },
    /// Sealed bytes do not open: damaged, moved, or sealed under another key.
    #[error("what is stored does not open: it was damaged or does not belong in this place")]
    DoesNotOpen,
    /// Sealed under a key this tenant does not have.
    #[error("it is sealed under {0}, which this tenant does not have")]
    UnknownDataKey(DataKeyId),
    /// The tenant's keys were destroyed.
    #[error("the keys of {0} were destroyed: what it stored cannot be read again")]
    TenantErased(TenantId),
    /// The database could not be asked for keys.
    #[error("{act} failed")]
    Database {
        /// What was tried.
        act: &'static str,
        /// What the database said.
        #[source]
        source: sea_orm::DbErr,
    },
}
