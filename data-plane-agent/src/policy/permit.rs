//! The proof that a use of a key was decided. Only the policy module can make one, and use spends it.

use std::sync::Arc;

use schema::{
    catalogue::Algorithm,
    id::{AgentId, KeyVersion},
    key::Operation,
};

use crate::vault::Held;

/// One use of one key version was allowed. Not `Clone`: a vault operation takes it by value, so a decision is good for
/// exactly one use, and using a key without a decision does not compile.
///
/// ```compile_fail
/// # use data_plane_agent::{policy::permit::UsePermit, vault::Vault};
/// async fn twice(vault: &dyn Vault, permit: UsePermit) {
///     let _ = vault.sign(permit, b"one").await;
///     let _ = vault.sign(permit, b"two").await;
/// }
/// ```
/// ```compile_fail
/// # use data_plane_agent::policy::permit::UsePermit;
/// # use schema::{catalogue::Algorithm, id::KeyVersion, key::Operation};
/// fn undecided(version: KeyVersion, algorithm: Algorithm) -> UsePermit {
///     UsePermit::grant(version, Operation::Sign, algorithm, None)
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that is dropped allows nothing"]
pub struct UsePermit {
    version: KeyVersion,
    operation: Operation,
    algorithm: Algorithm,
    external: Option<Arc<Held>>,
}

impl UsePermit {
    /// Allows one use. Only the deciding module may call this. The public half of a partner's key comes along: no vault has
    /// it.
    pub(in crate::policy) fn grant(version: KeyVersion, operation: Operation, algorithm: Algorithm, external: Option<Arc<Held>>) -> Self {
        Self { version, operation, algorithm, external }
    }

    /// The key version that may be used.
    pub fn version(&self) -> KeyVersion {
        self.version
    }

    /// What it may be used for.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The one algorithm of the key.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public half, as policy names it, when the key is a partner's.
    pub fn external(&self) -> Option<&Arc<Held>> {
        self.external.as_ref()
    }

    /// A permit to export is one for material to leave, into the hands of the caller; any other is none.
    pub fn into_export(self) -> Option<ExportPermit> {
        (self.operation == Operation::Export).then(|| ExportPermit::grant(self.version, Destination::Caller))
    }

    /// A permit nobody decided about, for tests.
    #[cfg(test)]
    pub(crate) fn for_test(version: KeyVersion, operation: Operation, algorithm: Algorithm) -> Self {
        Self::grant(version, operation, algorithm, None)
    }
}

/// Where material goes that leaves a vault. It never leaves unsealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Another agent's vault, sealed to a prekey of its rostered pair.
    Holder(AgentId),
    /// A backup, sealed to the site's recovery key.
    Backup,
    /// A caller's hands, wrapped under a key it named.
    Caller,
}

/// The material of one version may leave the vault, once. Not `Clone`; only the deciding module can make one.
///
/// ```compile_fail
/// # use data_plane_agent::policy::permit::{Destination, ExportPermit};
/// # use schema::id::KeyVersion;
/// fn undecided(version: KeyVersion) -> ExportPermit {
///     ExportPermit::grant(version, Destination::Backup)
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that is dropped allows nothing"]
pub struct ExportPermit {
    version: KeyVersion,
    destination: Destination,
}

impl ExportPermit {
    /// Allows one version to leave once. Only the deciding module may call this.
    pub(in crate::policy) fn grant(version: KeyVersion, destination: Destination) -> Self {
        Self { version, destination }
    }

    /// The version that may leave.
    pub fn version(&self) -> KeyVersion {
        self.version
    }

    /// Where it goes.
    pub fn destination(&self) -> Destination {
        self.destination
    }

    /// A permit nobody decided about, for tests.
    #[cfg(test)]
    pub(crate) fn for_test(version: KeyVersion, destination: Destination) -> Self {
        Self::grant(version, destination)
    }
}
