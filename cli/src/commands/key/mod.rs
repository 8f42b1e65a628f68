//! Keys and their versions: what may be asked. `run` asks it, `show` prints what comes.

mod run;
mod show;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use schema::{
    key::{Durability, Origin, Protection, Purpose, RevocationReason, VersionState},
    public_key,
};
use serde_json::{Value, json};

pub use self::show::active;
use super::{Idempotency, Limit, containment::Contain, material, one_of, pair};
use crate::error::{Error, Exit};

/// Keys and their versions.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List keys
    List {
        /// Only those of this project (id or name)
        #[arg(long)]
        project: Option<String>,
        /// Only those with a version in this state
        #[arg(long, value_parser = one_of::<VersionState>)]
        state: Option<String>,
        /// Only those of this algorithm
        #[arg(long)]
        algorithm: Option<String>,
        /// Only those with this purpose
        #[arg(long, value_parser = one_of::<Purpose>)]
        purpose: Option<String>,
        /// Only those placed at this site (id or name)
        #[arg(long)]
        site: Option<String>,
        /// Only those with this label
        #[arg(long, value_parser = pair, value_name = "NAME=VALUE")]
        label: Option<(String, String)>,
        /// Only those whose name contains this
        #[arg(long)]
        search: Option<String>,
        /// As it was at this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        as_of: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one key: its versions, what is desired of each holder and what it reported
    Show {
        /// Id, or project/name
        key: String,
        /// As it was at this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        as_of: Option<String>,
    },
    /// List the algorithms a key can have
    Algorithms,
    /// Create a key; an agent of the site makes the material
    Create {
        /// Its name: a-z, 0-9, '-' and '.'
        name: String,
        /// The project (id or name)
        #[arg(long)]
        project: String,
        /// See 'freehold key algorithms'
        #[arg(long)]
        algorithm: String,
        /// What it is for: encrypt, sign, ...
        #[arg(long, value_parser = one_of::<Purpose>)]
        purpose: String,
        /// Where its material may be (id or name); may be repeated
        #[arg(long = "site", required = true)]
        sites: Vec<String>,
        /// What a version needs before it is used: sealed-backup, two-holders, or single-copy (losing one vault loses the key)
        ///
        /// Without it: sealed-backup, where every site of the key has a recovery key (freehold-agent recovery init); else you are asked to choose.
        #[arg(long, value_parser = one_of::<Durability>)]
        durability: Option<String>,
        /// How well a vault must guard its material; one that does not never makes or holds it: software, sealed-by-hardware,
        /// hardware (used inside a device that never lets it out)
        #[arg(long, value_parser = one_of::<Protection>, default_value = "software")]
        protection: String,
        /// What it is for, in words
        #[arg(long)]
        description: Option<String>,
        /// A label, given to policy; may be repeated
        #[arg(long = "label", value_parser = pair, value_name = "NAME=VALUE")]
        labels: Vec<(String, String)>,
        /// Its material may leave the vault, wrapped; cannot be changed later
        #[arg(long)]
        exportable: bool,
        /// Where its material is made: generated (by an agent), or imported (see 'freehold key import'); cannot be changed later
        #[arg(long, value_parser = one_of::<Origin>, default_value = "generated")]
        origin: String,
        /// Let it be destroyed without lifting a protection first
        #[arg(long)]
        no_deletion_protection: bool,
        #[command(flatten)]
        rotation: RotationFlags,
        /// The key whose place it takes: id, or project/name
        #[arg(long, value_name = "KEY")]
        successor_of: Option<String>,
        /// The template of policy it follows
        #[arg(long)]
        template: Option<String>,
        /// Wait until a version is active
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Bring the material of a key that was created with --origin imported; it is wrapped before it leaves this process
    Import(material::Import),
    /// Get a key to wrap material under in an HSM, a cloud service or on a machine without a network
    ImportKey(material::ImportKey),
    /// Take the material of an exportable key out, wrapped to a public key
    Export(material::Export),
    /// Ask for a certificate of a key (PKCS #10), or make one that it signs itself
    Csr(material::Csr),
    /// Register a partner's public key, to encrypt to and to verify with; the partner keeps the private half
    RegisterExternal {
        /// Its name: a-z, 0-9, '-' and '.'
        name: String,
        /// The project (id or name)
        #[arg(long)]
        project: String,
        /// An asymmetric algorithm: see 'freehold key algorithms'
        #[arg(long)]
        algorithm: String,
        /// The public key: a JWK, or a PEM
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
        /// Where it may be used (id or name); may be repeated
        #[arg(long = "site", required = true)]
        sites: Vec<String>,
        /// What it is for [default: the first purpose of the algorithm that a public half serves]
        #[arg(long, value_parser = one_of::<Purpose>)]
        purpose: Option<String>,
        /// What it is for, in words
        #[arg(long)]
        description: Option<String>,
        /// A label, given to policy; may be repeated
        #[arg(long = "label", value_parser = pair, value_name = "NAME=VALUE")]
        labels: Vec<(String, String)>,
        /// Let it be destroyed without lifting a protection first
        #[arg(long)]
        no_deletion_protection: bool,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Register the next public key of a partner: it is used from now on
    RegisterExternalVersion {
        /// Id, or project/name
        key: String,
        /// The public key: a JWK, or a PEM
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Change what a key is for, in words
    Describe {
        /// Id, or project/name
        key: String,
        /// What it is for; left out: nothing
        description: Option<String>,
    },
    /// Replace the labels of a key
    Relabel {
        /// Id, or project/name
        key: String,
        /// The labels it has from now on
        #[arg(value_parser = pair, value_name = "NAME=VALUE")]
        labels: Vec<(String, String)>,
    },
    /// Refuse the destruction of a key's versions, or allow it
    Protect {
        /// Id, or project/name
        key: String,
        /// Lift the protection
        #[arg(long)]
        off: bool,
    },
    /// Set the lowest versions that may still be used; 0 means no minimum
    Minimum {
        /// Id, or project/name
        key: String,
        /// To decrypt and verify
        #[arg(long, default_value_t = 0, value_name = "N")]
        process: u32,
        /// To encrypt and sign
        #[arg(long, default_value_t = 0, value_name = "N")]
        protect: u32,
    },
    /// Declare soft (warn) and hard (refuse) limits of one version; what is left out has none
    Limit {
        /// Id, or project/name
        key: String,
        /// Warn after this many uses
        #[arg(long, value_name = "N")]
        soft_uses: Option<u64>,
        /// Refuse after this many uses
        #[arg(long, value_name = "N")]
        hard_uses: Option<u64>,
        /// Warn after so many bytes protected
        #[arg(long, value_name = "BYTES")]
        soft_bytes: Option<u64>,
        /// Refuse after so many bytes protected
        #[arg(long, value_name = "BYTES")]
        hard_bytes: Option<u64>,
        /// Warn when a version has been active this long
        #[arg(long, value_parser = super::seconds, value_name = "SPAN")]
        soft_time: Option<u64>,
        /// Refuse when a version has been active this long
        #[arg(long, value_parser = super::seconds, value_name = "SPAN")]
        hard_time: Option<u64>,
    },
    /// Set how new versions come about and old ones end; what is left out is only done by hand
    Rotation {
        /// Id, or project/name
        key: String,
        #[command(flatten)]
        rotation: RotationFlags,
        /// The least time between two versions, e.g. 1h
        #[arg(long, value_parser = super::seconds, value_name = "SPAN")]
        min_interval: Option<u64>,
    },
    /// Who did what with a key or version, by receipts: callers, operations, counts, times
    Uses {
        /// Id, project/name, or a version
        #[arg(id = "used", value_name = "KEY")]
        key: String,
        /// Not before this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        since: Option<String>,
    },
    /// Move to another key: say which takes the old one's place, and list what is still on the old one, by receipts
    Migrate {
        /// The old key: id, or project/name
        old: String,
        /// The key that takes its place; left out: the one that was said before
        new: Option<String>,
        /// Only uses since this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        since: Option<String>,
    },
    /// Ask for the next version; it is used once its holders have it
    Rotate {
        /// Id, or project/name
        key: String,
        /// Wait until the new version is active
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Suspend a version until it is resumed
    Suspend {
        #[command(flatten)]
        version: Version,
        #[command(flatten)]
        contain: Contain,
    },
    /// Let a suspended version act again
    Resume(Version),
    /// Let a version only decrypt and verify, from now on or from a date on; shows its last use first
    Deactivate {
        #[command(flatten)]
        version: Version,
        /// When [default: now]
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        at: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Take back a deactivation that has not happened yet
    CancelDeactivation {
        /// A version: key_.../3, or project/name/3
        #[arg(id = "number", value_name = "VERSION")]
        version: String,
    },
    /// Revoke a version; the reason decides its state
    Revoke {
        /// A version: key_.../3, or project/name/3
        #[arg(id = "number", value_name = "VERSION")]
        version: String,
        /// An RFC 5280 reason, e.g. keyCompromise, superseded
        #[arg(long, value_parser = one_of::<RevocationReason>)]
        reason: String,
        /// Why, in words
        #[arg(long)]
        comment: Option<String>,
        #[command(flatten)]
        contain: Contain,
    },
    /// Say that a version is known or feared to be in other hands
    Compromise {
        #[command(flatten)]
        version: Version,
        #[command(flatten)]
        contain: Contain,
    },
    /// Let no version of a key do anything until it is resumed
    SuspendAll {
        /// Id, or project/name
        key: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        contain: Contain,
    },
    /// Let the versions of a suspended key act again
    ResumeAll {
        /// Id, or project/name
        key: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Destroy a version for ever, after a waiting time in which it can be cancelled; shows its last use first
    Destroy {
        /// A version: key_.../3, or project/name/3
        #[arg(id = "number", value_name = "VERSION")]
        version: String,
        /// Instead of a waiting time: the moment
        #[arg(long, value_parser = super::moment, value_name = "TIME", conflicts_with = "wait")]
        at: Option<String>,
        /// Until when backups that hold it may exist, as far as you know: stated in the record of its destruction
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        backups_expire: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// How long it can still be cancelled, e.g. 7d
        #[arg(long, value_parser = super::seconds, value_name = "SPAN")]
        wait: Option<u64>,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Take back a destruction that has not happened yet
    CancelDestruction {
        /// A version: key_.../3, or project/name/3
        #[arg(id = "number", value_name = "VERSION")]
        version: String,
    },
    /// Say why a holder will never report that it destroyed a version
    AttestLost {
        /// A version: key_.../3, or project/name/3
        #[arg(id = "number", value_name = "VERSION")]
        version: String,
        /// The agent that is gone
        #[arg(long)]
        holder: String,
        /// What happened to it, in words
        #[arg(long)]
        attestation: String,
    },
    /// Give a key another name in its project
    Alias {
        /// The project (id or name)
        #[arg(long)]
        project: String,
        /// The other name
        name: String,
        /// The key: id, or project/name
        key: String,
    },
    /// Let another name mean another key
    MoveAlias {
        /// The project (id or name)
        #[arg(long)]
        project: String,
        /// The other name
        name: String,
        /// The key: id, or project/name
        key: String,
    },
    /// Retire another name
    RetireAlias {
        /// The project (id or name)
        #[arg(long)]
        project: String,
        /// The other name
        name: String,
    },
}

/// When new versions come about by themselves, and old ones end.
#[derive(Debug, clap::Args)]
pub struct RotationFlags {
    /// Rotate by itself when the primary version is this old, e.g. 90d
    #[arg(long, value_parser = super::seconds, value_name = "SPAN")]
    rotate_every: Option<u64>,
    /// Rotate by itself at these times, in UTC: minute, hour, day, month, weekday as cron has them, e.g. "0 3 1 * *"
    #[arg(long, value_name = "CRON", value_parser = str::parse::<schema::calendar::Calendar>)]
    rotate_at: Option<schema::calendar::Calendar>,
    /// Rotate by itself after so many uses of the primary version; needs a limit on uses
    #[arg(long, value_name = "N")]
    rotate_after_uses: Option<u64>,
    /// Deactivate a version this long after a newer one took its place, e.g. 7d
    #[arg(long, value_parser = super::seconds, value_name = "SPAN")]
    deactivate_after: Option<u64>,
    /// Destroy a version this long after it was deactivated, 1h or more, in which it can be cancelled
    #[arg(long, value_parser = super::seconds, value_name = "SPAN", requires = "deactivate_after")]
    destroy_after: Option<u64>,
}

impl RotationFlags {
    fn input(&self, min_interval: Option<u64>) -> Value {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        json!({
            "everySeconds": number(self.rotate_every), "minIntervalSeconds": number(min_interval),
            "calendar": self.rotate_at.as_ref().map(ToString::to_string), "afterUses": number(self.rotate_after_uses),
            "deactivateAfterSeconds": number(self.deactivate_after), "destroyAfterSeconds": number(self.destroy_after),
        })
    }
}

/// One version, and why.
#[derive(Debug, clap::Args)]
pub struct Version {
    /// A version: key_.../3, or project/name/3
    #[arg(value_name = "VERSION")]
    number: String,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

impl Version {
    fn input(&self) -> Value {
        json!({ "version": self.number, "reason": self.reason })
    }
}

/// A file with a partner's public key. A private one is not sent.
pub fn read_public_key(path: &Path) -> Result<String, Error> {
    let act = || format!("could not read the public key from {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|source| Error { exit: Exit::Usage, ..Error::fault(&act(), source) })?;
    if public_key::holds_secret(&text) {
        let hint = "send the public half only; if this file came from somebody else, that key is to be replaced";
        return Err(Error::usage(format!("{} holds a private key; nothing was sent", path.display())).hint(hint));
    }
    Ok(text)
}
