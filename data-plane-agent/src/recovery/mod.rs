//! Keys that outlive their host: a recovery key whose private half is in the hands of m of n people, and backups of the vault
//! that only they open (`docs/recovery.md`).
//!
//! - [`secret`]: the private half, and what is sealed to the public one. [`share`]: how it is split, and put together again.
//! - [`file`]: one backup, as bytes (`docs/formats/backups.md`). [`backups`]: writes them, from a vault that is in use.
//! - [`schedule`]: has them written by themselves, and removes those that newer ones replace.
//! - [`custody`]: makes the recovery key of a site, and has it registered.
//! - [`restore`]: brings a backup into a vault. [`drill`]: proves beforehand that it could be.
//! - [`command`]: the commands.

pub mod backups;
pub mod command;
pub mod custody;
pub mod drill;
pub mod file;
pub mod restore;
pub mod schedule;
pub mod secret;
pub mod share;

pub use self::file::BackupError;
