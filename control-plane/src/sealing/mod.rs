//! Data at rest: nothing a person wrote is stored in clear. A stolen database shows ids and times.
//!
//! ```text
//! source (a file, ...): where the sealing key is
//!   -> sealing key: seals keys of tenants, is in memory while the process runs
//!   -> per tenant, in tenant_keys: data keys (seal records, read models, blobs, secrets) and one index key
//!      (blind indexes, derived ids, ids of retried commands)
//! ```
//!
//! - [`source`]: where sealing keys are kept. Another one is another file there.
//! - [`SealingKey`]: the deployment's key.
//! - [`Keyring`]: makes, keeps and opens the keys of tenants; [`rotation`] replaces what they hang from.
//! - [`operate`]: what an operator's commands do, beside whoever serves.
//! - [`TenantKeys`]: what can be done with them.
//! - [`Secrets`]: the control plane's own signing pairs and CA keys.
//!
//! What is personal inside a record or a read model is sealed first under a key of that person ([`persons`]). Erasing a person or a
//! tenant is destroying keys; [`tombstones`] destroy them again where an older backup brings them back.

mod cipher;
pub mod keyring;
pub mod operate;
mod persons;
pub mod rotation;
mod sealing_key;
mod secrets;
pub mod source;
mod tenant_keys;
pub mod tombstones;

pub use keyring::Keyring;
pub use sealing_key::{Fingerprint, SealingKey};
pub use secrets::{Secret, Secrets};
pub use tenant_keys::{CommandIds, Place, Sealed, TenantKeys};

use std::path::PathBuf;

use devices::Trouble;
use schema::id::{DataKeyId, MemberId, TenantId};

/// Why something was not sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// The database was sealed under another key.
    #[error(
        "this is the wrong sealing key: the database was sealed under the key with fingerprint {expected}, this one has {found}; restore the \
         right key, or, where it was rotated elsewhere, bring it here from there"
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
    /// It is under a sealing key whose source this process does not use.
    #[error(
        "it hangs from the sealing key with fingerprint {fingerprint}, which is kept by the source \"{source_kind}\"; set [sealing.{source_kind}] \
         for this process as for the others, and start it again"
    )]
    SourceNotConfigured {
        /// The sealing key.
        fingerprint: Fingerprint,
        /// The source's word in settings.
        source_kind: String,
    },
    /// The database does not know the sealing key that something hangs from.
    #[error("it hangs from the sealing key with fingerprint {0}, of which the database knows nothing: it was damaged, or mixed from two")]
    UnknownSealingKey(Fingerprint),
    /// There is no such tenant.
    #[error("there is no tenant {0}, or it was erased")]
    UnknownTenant(TenantId),
    /// Neither variable nor credential holds a sealing key.
    #[error("{place} holds no sealing key (32 bytes as base64url); the database is sealed under the key with fingerprint {expected}")]
    NotInEnvironment {
        /// What settings name.
        place: String,
        /// The fingerprint recorded in the database; a dash in a new one.
        expected: Fingerprint,
    },
    /// Whoever hands keys over by the environment makes them.
    #[error(
        "{place} holds no key but those in use: make one (head -c 32 /dev/urandom | basenc --base64url | tr -d =), put it behind the \
         others, start every control plane again with both, and repeat this"
    )]
    NothingNewInEnvironment {
        /// What settings name.
        place: String,
    },
    /// A device or server that keeps the sealing key could not do its part.
    #[error("the sealing key with fingerprint {fingerprint} is kept by a device or server, which cannot be used: {trouble}")]
    Device {
        /// The sealing key; a dash when it is a new one.
        fingerprint: Fingerprint,
        /// What is wrong with it, and what to do.
        trouble: Trouble,
    },
    /// A device or server opens nothing of what was wrapped.
    #[error(
        "the sealing key with fingerprint {expected} was wrapped by another key than the one at {place}: name the right token or \
         server, or bring its key back"
    )]
    WrappedElsewhere {
        /// The sealing key.
        expected: Fingerprint,
        /// Where it was tried.
        place: String,
    },
    /// No deployment was ever started here.
    #[error("no deployment was ever started on this database, so it has no sealing key yet")]
    NoDeployment,
    /// Keys still hang from an old sealing key.
    #[error("{left} keys of tenants still hang from an older sealing key; run: freehold-control-plane sealing rotate")]
    RotationUnfinished {
        /// How many.
        left: u64,
    },
    /// Another process did the same at the same moment.
    #[error("another process rotates the sealing key at this moment; see: freehold-control-plane sealing status")]
    RotatedElsewhere,
    /// Sealed bytes do not open: damaged, moved, or sealed under another key.
    #[error("what is stored does not open: it was damaged or does not belong in this place")]
    DoesNotOpen,
    /// Sealed under a key this tenant does not have.
    #[error("it is sealed under {0}, which this tenant does not have")]
    UnknownDataKey(DataKeyId),
    /// The tenant's keys were destroyed.
    #[error("the keys of {0} were destroyed: what it stored cannot be read again")]
    TenantErased(TenantId),
    /// The person's keys were destroyed.
    #[error("the keys of {0} were destroyed: what was recorded of this person cannot be read again")]
    PersonErased(MemberId),
    /// Nothing was ever sealed for this person here.
    #[error("there are no keys of {0}, and none were destroyed: the database was damaged, or mixed from two")]
    UnknownPerson(MemberId),
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

impl SealingError {
    /// Whether it cannot be opened because it was erased, rather than because something is wrong.
    pub fn is_erasure(&self) -> bool {
        matches!(self, Self::TenantErased(_) | Self::PersonErased(_))
    }
}
