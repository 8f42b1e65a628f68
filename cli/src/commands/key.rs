//! Keys and their versions.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use schema::{
    clock::{Clock, SystemClock},
    key::{Durability, Origin, Protection, Purpose, RevocationReason, VersionState},
    public_key,
};
use serde_json::{Value, json};

use super::{
    Idempotency, Limit, Session,
    containment::{Contain, Stopwatch},
    labels, material, one_of, pair, usage,
};
use crate::{
    error::{Error, Exit},
    graphql::{Client, documents::KEY},
    output,
};

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

const LIST: &[output::Column] = &[
    ("id", "/id"),
    ("project", "/project/name"),
    ("name", "/name"),
    ("algorithm", "/algorithm/name"),
    ("purpose", "/purpose"),
    ("durability", "/durability"),
    ("protection", "/protection"),
    ("primary", "/primaryVersion"),
    ("state", "/state"),
    ("sites", "/placement"),
    ("labels", "/labels"),
];

const SHOW: &[output::Column] = &[
    ("id", "/id"),
    ("project", "/project/name"),
    ("name", "/name"),
    ("state", "/state"),
    ("aliases", "/aliases"),
    ("description", "/description"),
    ("algorithm", "/algorithm/name"),
    ("purpose", "/purpose"),
    ("durability", "/durability"),
    ("protection", "/protection"),
    ("exportable", "/exportable"),
    ("origin", "/origin"),
    ("deletion protection", "/deletionProtection"),
    ("sites", "/placement"),
    ("labels", "/labels"),
    ("limits", "/limits"),
    ("rotation", "/rotation"),
    ("minimum versions", "/minimumVersions"),
    ("created", "/createdAt"),
    ("primary", "/primaryVersion"),
    ("versions", "/versionLines"),
    ("budgets", "/budgetLines"),
    ("last use", "/lastUseLines"),
    ("ends", "/endLines"),
    ("successor", "/successor/name"),
];

impl Key {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        // These are asked of an agent.
        let command = match self {
            Self::Import(command) => return command.run(session).await,
            Self::ImportKey(command) => return command.run(session).await,
            Self::Export(command) => return command.run(session).await,
            Self::Csr(command) => return command.run(session).await,
            command => command,
        };
        let client = session.control_plane()?;
        let watch = Stopwatch::start();
        let mut contained = None;
        let (operation, input) = match command {
            Self::Import(_) | Self::ImportKey(_) | Self::Export(_) | Self::Csr(_) => return Ok(()),
            Self::List { project, state, algorithm, purpose, site, label, search, as_of, limit } => {
                let variables = json!({
                    "project": project, "state": state, "algorithm": algorithm, "purpose": purpose, "site": site, "search": search,
                    "asOf": as_of, "label": label.map(|(name, value)| json!({ "name": name, "value": value })),
                });
                let rows = client.list(KEY, "Keys", variables, limit.limit).await?;
                let rows: Vec<Value> =
                    rows.into_iter().map(|row| if session.output == output::Format::Table { summed(row) } else { row }).collect();
                return output::list(session.output, LIST, &rows);
            }
            Self::Show { key, as_of } => {
                let value = client
                    .one(KEY, "Key", json!({ "reference": key, "asOf": as_of, "past": as_of.is_some() }), &format!("key '{key}'"))
                    .await?;
                return show(session, value);
            }
            Self::Algorithms => {
                let data = client.run(KEY, "Algorithms", json!({})).await?;
                let rows = data.get("algorithms").and_then(Value::as_array).cloned().unwrap_or_default();
                let columns = [
                    ("name", "/name"),
                    ("purposes", "/purposes"),
                    ("status", "/status"),
                    ("classical bits", "/classicalBits"),
                    ("quantum category", "/quantumCategory"),
                    ("standard", "/standard"),
                ];
                return output::list(session.output, &columns, &rows);
            }
            Self::Create {
                name,
                project,
                algorithm,
                purpose,
                sites,
                durability,
                protection,
                description,
                labels: pairs,
                exportable,
                origin,
                no_deletion_protection,
                rotation,
                successor_of,
                template,
                wait,
                idempotency,
            } => {
                let input = json!({
                    "project": project, "name": name, "algorithm": algorithm, "purpose": purpose,
                    "placement": sites, "durability": durability, "protection": protection, "template": template, "exportable": exportable, "origin": origin, "description": description,
                    "labels": labels(&pairs), "deletionProtection": !no_deletion_protection,
                    "rotation": rotation.input(None),
                    "idempotencyKey": idempotency.idempotency_key,
                });
                let payload = client.mutate(KEY, "CreateKey", input).await?;
                if let Some(old) = successor_of {
                    client.mutate(KEY, "SetKeySuccessor", json!({ "key": old, "successor": payload.pointer("/key/id") })).await?;
                }
                return finish(session, &client, payload, wait).await;
            }
            Self::Rotation { key, rotation, min_interval } => {
                ("SetKeyRotationRule", json!({ "key": key, "rotation": rotation.input(min_interval) }))
            }
            Self::Uses { key, since } => return usage::uses(session, &client, &key, since.as_deref()).await,
            Self::Migrate { old, new, since } => {
                return usage::migrate(session, &client, &old, new.as_deref(), since.as_deref()).await;
            }
            Self::Rotate { key, wait, idempotency } => {
                let input = json!({ "key": key, "idempotencyKey": idempotency.idempotency_key });
                let payload = client.mutate(KEY, "RotateKey", input).await?;
                return finish(session, &client, payload, wait).await;
            }
            Self::RegisterExternal {
                name,
                project,
                algorithm,
                public_key,
                sites,
                purpose,
                description,
                labels: pairs,
                no_deletion_protection,
                idempotency,
            } => {
                let input = json!({
                    "project": project, "name": name, "algorithm": algorithm, "purpose": purpose, "placement": sites,
                    "publicKey": read_public_key(&public_key)?, "description": description, "labels": labels(&pairs),
                    "deletionProtection": !no_deletion_protection, "idempotencyKey": idempotency.idempotency_key,
                });
                ("RegisterExternalKey", input)
            }
            Self::RegisterExternalVersion { key, public_key, idempotency } => {
                let public_key = read_public_key(&public_key)?;
                (
                    "RegisterExternalKeyVersion",
                    json!({ "key": key, "publicKey": public_key, "idempotencyKey": idempotency.idempotency_key }),
                )
            }
            Self::Describe { key, description } => ("DescribeKey", json!({ "key": key, "description": description })),
            Self::Relabel { key, labels: pairs } => ("RelabelKey", json!({ "key": key, "labels": labels(&pairs) })),
            Self::Protect { key, off } => ("SetKeyDeletionProtection", json!({ "key": key, "protected": !off })),
            Self::Minimum { key, process, protect } => {
                ("SetKeyMinimumVersions", json!({ "key": key, "minimumVersions": { "process": process, "protect": protect } }))
            }
            Self::Limit { key, soft_uses, hard_uses, soft_bytes, hard_bytes, soft_time, hard_time } => {
                let number = |number: Option<u64>| number.map(|number| number.to_string());
                let limits = json!({
                    "softUses": number(soft_uses), "hardUses": number(hard_uses),
                    "softBytes": number(soft_bytes), "hardBytes": number(hard_bytes), "softSeconds": number(soft_time), "hardSeconds": number(hard_time),
                });
                ("SetKeyLimits", json!({ "key": key, "limits": limits }))
            }
            Self::SuspendAll { key, reason, contain } => {
                let input = json!({ "key": key, "reason": reason });
                contained = Some((contain, "key", key));
                ("SuspendKey", input)
            }
            Self::ResumeAll { key, reason } => ("ResumeKey", json!({ "key": key, "reason": reason })),
            Self::Compromise { version, contain } => {
                let input = version.input();
                contained = Some((contain, "version", version.number));
                ("CompromiseKeyVersion", input)
            }
            Self::CancelDestruction { version } => ("CancelKeyVersionDestruction", json!({ "version": version })),
            Self::AttestLost { version, holder, attestation } => {
                ("AttestHolderLost", json!({ "version": version, "holder": holder, "attestation": attestation }))
            }
            Self::Suspend { version, contain } => {
                let input = version.input();
                contained = Some((contain, "version", version.number));
                ("SuspendKeyVersion", input)
            }
            Self::Resume(version) => ("ResumeKeyVersion", version.input()),
            Self::Deactivate { version, at, yes } => {
                usage::confirm(&client, &version.number, "Deactivate", yes).await?;
                ("DeactivateKeyVersion", json!({ "version": version.number, "at": at, "reason": version.reason }))
            }
            Self::CancelDeactivation { version } => ("CancelKeyVersionDeactivation", json!({ "version": version })),
            Self::Destroy { version, at, backups_expire, yes, wait, reason } => {
                usage::confirm(&client, &version, "Destroy", yes).await?;
                let input = json!({
                    "version": version, "waitSeconds": wait.map(|s| s.to_string()), "at": at, "reason": reason,
                    "backupsExpireAt": backups_expire,
                });
                ("DestroyKeyVersion", input)
            }
            Self::Revoke { version, reason, comment, contain } => {
                let input = json!({ "version": version, "reason": reason, "comment": comment });
                contained = Some((contain, "version", version));
                ("RevokeKeyVersion", input)
            }
            Self::Alias { project, name, key } => ("CreateAlias", json!({ "project": project, "name": name, "key": key })),
            Self::MoveAlias { project, name, key } => ("MoveAlias", json!({ "project": project, "name": name, "key": key })),
            Self::RetireAlias { project, name } => ("RetireAlias", json!({ "project": project, "name": name })),
        };
        let payload = client.mutate(KEY, operation, input).await?;
        if let Some((contain, kind, reference)) = contained {
            contain.finish(&client, &watch, (kind, &reference), &payload).await?;
            if operation == "CompromiseKeyVersion" {
                usage::protected(&client, &reference).await?;
            }
        }
        show(session, payload.get("key").cloned().unwrap_or(Value::Null))
    }
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

/// After creation and rotation: waits, if asked to, until the newest version is active.
async fn finish(session: &Session, client: &Client, payload: Value, wait: bool) -> Result<(), Error> {
    let mut key = payload.get("key").cloned().unwrap_or(Value::Null);
    let newest = newest_number(&key);
    for _ in 0..300 {
        if !wait || active(&key, newest) {
            return show(session, key);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        key = client.one(KEY, "Key", json!({ "reference": key["id"] }), "the key").await?;
    }
    Err(Error::new(Exit::Fault, "not_active_yet", format!("version {newest} is not active after 60 s"))
        .hint("is an agent of its site running? See 'freehold agent list' and 'freehold key show'"))
}

fn newest_number(key: &Value) -> u64 {
    let numbers = key["versions"].as_array().into_iter().flatten().filter_map(|version| version["number"].as_u64());
    numbers.max().unwrap_or(1)
}

/// Whether a version is active.
pub fn active(key: &Value, number: u64) -> bool {
    key["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|version| version["number"].as_u64() == Some(number) && version["state"] == "ACTIVE")
}

fn show(session: &Session, mut key: Value) -> Result<(), Error> {
    if session.output == output::Format::Table {
        let origin = output::cell(key.get("origin"));
        let lines: Vec<String> = key["versions"].as_array().into_iter().flatten().map(|version| version_line(version, &origin)).collect();
        key["versionLines"] = json!(lines.join("\n"));
        let budgets: Vec<String> = key["versions"].as_array().into_iter().flatten().flat_map(budget_lines).collect();
        key["budgetLines"] = json!(budgets.join("\n"));
        let of_versions = |line: fn(&Value) -> Option<String>| -> Value {
            let lines: Vec<String> = key["versions"].as_array().into_iter().flatten().filter_map(line).collect();
            json!(lines.join("\n"))
        };
        let (last_uses, ends) = (of_versions(last_use_line), of_versions(end_line));
        (key["lastUseLines"], key["endLines"]) = (last_uses, ends);
    }
    output::object(session.output, SHOW, &key)
}

/// The state of the newest version stands for the key in listings.
fn summed(mut row: Value) -> Value {
    let primary = row["primaryVersion"].as_u64().unwrap_or(0);
    let versions = row["versions"].as_array().cloned().unwrap_or_default();
    let shown = versions.iter().find(|version| version["number"].as_u64() == Some(primary)).or(versions.last());
    row["state"] = shown.map_or(Value::Null, |version| version["state"].clone());
    row
}

/// How far each limit of a version is used up: what agents said they used, what they hold, what nobody holds.
fn budget_lines(version: &Value) -> Vec<String> {
    let line = |budget: &Value| {
        let text = |name: &str| output::cell(budget.get(name));
        let number = output::cell(version.get("number"));
        let of = if budget["hard"].is_null() { String::new() } else { format!(" of {}, {} left", text("hard"), text("left")) };
        format!("{number} {} used {}, held by agents {}{of}", text("counts"), text("used"), text("held"))
    };
    version["budgets"].as_array().into_iter().flatten().map(line).collect()
}

fn last_use_line(version: &Value) -> Option<String> {
    let last = version.get("lastUse").filter(|last| !last.is_null())?;
    Some(usage::last_use(last, SystemClock.now()))
}

/// How a version ends, or ended: each holder, and what is stated of backups.
fn end_line(version: &Value) -> Option<String> {
    let number = output::cell(version.get("number"));
    let Some(destruction) = version.get("destruction").filter(|destruction| !destruction.is_null()) else {
        let due = version.get("deactivationDueAt").filter(|due| !due.is_null())?;
        return Some(format!("{number} deactivated at {}", output::cell(Some(due))));
    };
    let text = |name: &str| output::cell(destruction.get(name));
    let is = |name: &str| destruction.get(name).is_some_and(|value| !value.is_null());
    let so_far = match (is("begunAt"), is("completedAt"), destruction["proven"] == true) {
        (false, _, _) => format!("destroyed from {} on, unless cancelled", text("dueAt")),
        (true, false, _) => format!("destruction begun {}, not complete", text("begunAt")),
        (true, true, true) => format!("destroyed {}, every holder has signed for it", text("completedAt")),
        (true, true, false) => format!("destroyed {}, as far as is known: not every holder could say so", text("completedAt")),
    };
    let holders = destruction["holders"].as_array().into_iter().flatten().map(|holder| {
        let said = match holder["said"].as_str() {
            Some("DESTROYED") => "has destroyed it".to_owned(),
            Some("LOST") => format!("is lost: {}", output::cell(holder.get("attestation"))),
            _ => "has not said that it is gone".to_owned(),
        };
        format!("{} {said}", output::cell(holder.get("agentId")))
    });
    let backups = if is("backupsExpireAt") {
        format!("backups may hold it until {}", text("backupsExpireAt"))
    } else {
        "nobody has stated until when backups may hold it".to_owned()
    };
    let parts: Vec<String> = std::iter::once(so_far).chain(holders).chain(std::iter::once(backups)).collect();
    Some(format!("{number} {}", parts.join("; ")))
}

fn version_line(version: &Value, origin: &str) -> String {
    let text = |name: &str| output::cell(version.get(name));
    let holders: Vec<String> = version["holders"].as_array().into_iter().flatten().map(holder_line).collect();
    let holders = match holders.is_empty() {
        false => holders.join("\n"),
        true if origin == "EXTERNAL" => "  with the partner".to_owned(),
        true if origin == "IMPORTED" && version["state"] == "PRE_ACTIVATION" => match version["generator"]["id"].as_str() {
            Some(agent) => format!("  waits for its material, to be brought to {agent}"),
            None => "  waits for its material, and for an agent to take it".to_owned(),
        },
        true => "  no holder yet".to_owned(),
    };
    let backed_up = version["backups"].as_array().and_then(|backups| backups.first()).map_or_else(String::new, |backup| {
        let key: String = output::cell(backup.get("recoveryKey")).chars().take(12).collect();
        format!("\n  backed up by {}, sealed to {key}", output::cell(backup.get("agentId")))
    });
    format!("{} {} since {}\n{holders}{backed_up}", text("number"), text("state"), text("activatedAt"))
}

/// What one agent should have and what it has reported; of one that does not report any more, when it last did.
fn holder_line(holder: &Value) -> String {
    let text = |name: &str| output::cell(holder.get(name));
    let agent = &holder["agent"];
    let name = ["displayName", "host"].iter().find_map(|name| agent[*name].as_str().filter(|name| !name.is_empty()));
    let mut line = format!("  {}", text("agentId"));
    if let Some(name) = name {
        line.push_str(&format!(" ({name})"));
    }
    line.push_str(&format!(": desired {}, reported {}", text("desired"), text("reported")));
    if !holder["reportedAt"].is_null() {
        line.push_str(&format!(" at {}", text("reportedAt")));
    }
    match agent["state"].as_str() {
        None | Some("ROSTERED") => {}
        Some(state) => line.push_str(&format!("; the agent is {state}")),
    }
    if holder["desired"] != holder["reported"] {
        match agent["lastSeenAt"].as_str() {
            Some(seen) => line.push_str(&format!("; last heard of at {seen}")),
            None => line.push_str("; nothing was heard of it yet"),
        }
    }
    for finding in holder["findings"].as_array().into_iter().flatten() {
        line.push_str(&format!("\n    {}", super::finding(finding)));
    }
    line
}
