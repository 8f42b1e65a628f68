//! A key: a named thing with exactly one algorithm and one purpose, and numbered versions whose material exists only in
//! vaults.
//!
//! States belong to versions and follow SP 800-57. A version is pre-activation until its generator has signed for it and
//! the holders its durability demands have reported it ready; only then does the primary move, and only forward. It
//! refuses an algorithm that does not serve the purpose, a second fingerprint for a version, a generator that was not
//! chosen, two versions in the making at once, a rotation that is too soon, transitions that SP 800-57 does not know, and
//! destruction while it is protected or without a wait.
//!
//! An external key is a partner's: only its public half is known, every version of it is registered by hand and active at
//! once, and nobody here makes, holds or rotates it.

mod aggregate;
mod command;
mod decide;
mod destruction;
mod external;
pub mod graphql;
pub mod mutations;
pub mod placement;
mod recovery;
mod refusal;
#[cfg(test)]
mod tests;
pub mod upkeep;
mod version;

pub use aggregate::{Fixed, Key, KeyState, Stopped};
pub use command::{
    CreateKey, KeyCommand, RecordBackup, RecordDestroyed, RecordReady, RecordSent, RecordVersion, RegisterExternal, Successor, Template,
};
pub use destruction::{DEFAULT_WAIT, MAX_WAIT, MIN_WAIT};
pub use recovery::RecoverKey;
pub use refusal::KeyRefusal;
pub use version::{Backup, Deactivation, Destruction, Gone, Holder, Made, Ready, Revoked, Version};
