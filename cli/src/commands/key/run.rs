//! Asks the control plane what a command says, and waits where it is told to.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    super::{Session, containment::Stopwatch, labels, usage},
    Key, read_public_key,
    show::{LIST, active, show, summed},
};
use crate::{
    error::{Error, Exit},
    graphql::{Client, documents::KEY},
    output,
};

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
        let payload = client.mutate(KEY, operation, input).await.map_err(|error| match error.code.as_str() {
            "key_deletion_protected" => error.hint("'freehold key protect KEY --off' switches it off"),
            _ => error,
        })?;
        if let Some((contain, kind, reference)) = contained {
            contain.finish(&client, &watch, (kind, &reference), &payload).await?;
            if operation == "CompromiseKeyVersion" {
                usage::protected(&client, &reference).await?;
            }
        }
        show(session, payload.get("key").cloned().unwrap_or(Value::Null))
    }
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
