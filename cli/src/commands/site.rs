//! Sites.

use clap::Subcommand;
use schema::key::Operation;
use serde_json::{Value, json};

use super::{
    Idempotency, Limit, Session,
    containment::{Contain, Stopwatch},
};
use crate::{
    error::{Error, Exit},
    graphql::documents::{RECOVERY, SITE},
    output,
};

/// Sites: groups of agents that share one set of statements.
#[derive(Debug, Subcommand)]
pub enum Site {
    /// List sites
    List {
        /// Only those whose name contains this
        #[arg(long)]
        search: Option<String>,
        /// As it was at this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        as_of: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one site
    Show {
        /// Id or name
        site: String,
        /// As it was at this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        as_of: Option<String>,
    },
    /// Create a site
    Create {
        /// Its name: a-z, 0-9, '-' and '.'
        name: String,
        /// What people call it
        #[arg(long)]
        display_name: Option<String>,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Let no agent of a site do anything until the site is resumed
    Suspend {
        /// Id or name
        site: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        contain: Contain,
    },
    /// Let the agents of a suspended site act again
    Resume {
        /// Id or name
        site: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Say how old statements may be at a site, also on their way there: for sites that are connected rarely, or to nothing
    ///
    /// Ages count from the last heartbeat that came. A set that somebody carries is believed as long as it would not be stale on arrival, and
    /// for four days at most.
    Offline {
        /// Id or name
        site: String,
        /// From this age on, warnings; how long a carried set may be on its way, e.g. 4d
        #[arg(long, value_parser = super::seconds, value_name = "SPAN", required_unless_present = "default")]
        stale: Option<u64>,
        /// From this age on, only what --allow names, e.g. 14d
        #[arg(long, value_parser = super::seconds, value_name = "SPAN", requires = "stale")]
        grace: Option<u64>,
        /// From this age on, nothing, e.g. 30d
        #[arg(long, value_parser = super::seconds, value_name = "SPAN", requires = "grace")]
        expired: Option<u64>,
        /// What is allowed in between; may be repeated
        #[arg(long, value_parser = super::one_of::<Operation>, value_name = "OPERATION", default_values = ["decrypt", "verify"])]
        allow: Vec<String>,
        /// Back to the rule of the tenant, or the defaults: 10 minutes, a day, a week
        #[arg(long, conflicts_with_all = ["stale", "grace", "expired"])]
        default: bool,
    },
    /// The signed statements in force at a site, and which agents enforce them
    Statements {
        /// Id or name
        site: String,
        /// Write all of them into a file instead, to carry to agents that are connected to nothing
        #[arg(long, value_name = "FILE")]
        out: Option<std::path::PathBuf>,
    },
}

const COLUMNS: &[output::Column] = &[
    ("id", "/id"),
    ("name", "/name"),
    ("display name", "/displayName"),
    ("recovery key", "/recoveryKey/keyId"),
    ("suspended", "/suspendedAt"),
    ("created", "/createdAt"),
];

const SHOW: &[output::Column] = &[
    ("id", "/id"),
    ("name", "/name"),
    ("display name", "/displayName"),
    ("recovery key", "/recoveryKey/keyId"),
    ("suspended", "/suspendedAt"),
    ("shares", "/recoveryKey/shares"),
    ("of which are needed", "/recoveryKey/threshold"),
    ("made at", "/recoveryKey/agentId"),
    ("without control plane", "/offlineLine"),
    ("agents", "/agentLines"),
    ("created", "/createdAt"),
];

const OFFLINE: &[output::Column] = &[("id", "/id"), ("name", "/name"), ("without control plane", "/offlineLine")];

/// What goes on at a site without the control plane, in one line.
fn offline_line(site: &Value) -> String {
    let rule = &site["offline"];
    let age = |name: &str| rule[name].as_str().and_then(|text| text.parse().ok()).map(super::span);
    let (Some(stale), Some(grace), Some(expired)) = (age("staleSeconds"), age("graceSeconds"), age("expiredSeconds")) else {
        return "the tenant's rule, or the defaults".to_owned();
    };
    let allowed: Vec<String> =
        rule["graceOperations"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_lowercase).collect();
    let allowed = if allowed.is_empty() { "nothing".to_owned() } else { format!("only {}", allowed.join(", ").replace('_', "-")) };
    format!("warnings from {stale}, {allowed} from {grace}, nothing from {expired}")
}

impl Site {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let client = session.control_plane()?;
        match self {
            Self::List { search, as_of, limit } => {
                let rows = client.list(SITE, "Sites", json!({ "search": search, "asOf": as_of }), limit.limit).await?;
                output::list(session.output, COLUMNS, &rows)
            }
            Self::Show { site, as_of } => {
                let mut value = client.one(SITE, "Site", json!({ "reference": site, "asOf": as_of }), &format!("site '{site}'")).await?;
                if session.output == output::Format::Table {
                    let lines: Vec<String> = value["agents"]["nodes"].as_array().into_iter().flatten().map(agent_lines).collect();
                    value["agentLines"] = json!(lines.join("\n"));
                    value["offlineLine"] = json!(offline_line(&value));
                }
                output::object(session.output, SHOW, &value)
            }
            Self::Create { name, display_name, idempotency } => {
                let input = json!({ "name": name, "displayName": display_name, "idempotencyKey": idempotency.idempotency_key });
                let payload = client.mutate(SITE, "CreateSite", input).await?;
                output::object(session.output, COLUMNS, payload.get("site").unwrap_or(&Value::Null))
            }
            Self::Suspend { site, reason, contain } => {
                let watch = Stopwatch::start();
                let payload = client.mutate(SITE, "SuspendSite", json!({ "site": site, "reason": reason })).await?;
                contain.finish(&client, &watch, ("site", &site), &payload).await?;
                output::object(session.output, COLUMNS, payload.get("site").unwrap_or(&Value::Null))
            }
            Self::Resume { site, reason } => {
                let payload = client.mutate(SITE, "ResumeSite", json!({ "site": site, "reason": reason })).await?;
                output::object(session.output, COLUMNS, payload.get("site").unwrap_or(&Value::Null))
            }
            Self::Offline { site, stale, grace, expired, allow, default: _ } => {
                let rule = stale.map(|stale| {
                    let grace = grace.unwrap_or(stale.saturating_mul(2));
                    let expired = expired.unwrap_or(grace.saturating_mul(2));
                    let [stale, grace, expired] = [stale, grace, expired].map(|seconds| seconds.to_string());
                    json!({ "staleSeconds": stale, "graceSeconds": grace, "expiredSeconds": expired, "graceOperations": allow })
                });
                let payload = client.mutate(SITE, "SetSiteOfflineRule", json!({ "site": site, "offline": rule })).await?;
                let mut value = payload.get("site").cloned().unwrap_or_default();
                if session.output == output::Format::Table {
                    value["offlineLine"] = json!(offline_line(&value));
                }
                output::object(session.output, OFFLINE, &value)
            }
            Self::Statements { site, out: Some(out) } => {
                let found = client.one(SITE, "Site", json!({ "reference": site }), &format!("site '{site}'")).await?;
                let what = format!("a set of statements of the site '{site}'");
                let set = client.one(RECOVERY, "SiteStatementSet", json!({ "site": found["id"] }), &what).await?;
                let failed = |error: std::io::Error| Error::new(Exit::Usage, "unwritable_file", format!("{}: {error}", out.display()));
                std::fs::write(&out, set.as_str().unwrap_or_default()).map_err(failed)?;
                output::note(&format!("beside each agent: freehold-agent statements import {}", out.display()));
                Ok(())
            }
            Self::Statements { site, out: None } => {
                let value = client.one(SITE, "SiteStatements", json!({ "reference": site }), &format!("site '{site}'")).await?;
                let rows = value.get("statements").and_then(Value::as_array).cloned().unwrap_or_default();
                let columns = [
                    ("kind", "/kind"),
                    ("project", "/project"),
                    ("epoch", "/epoch"),
                    ("serial", "/serial"),
                    ("issued", "/issuedAt"),
                    ("expires", "/expiresAt"),
                    ("sha256", "/sha256"),
                    ("enforced by", "/enforcedBy"),
                    ("warning", "/warning"),
                ];
                let rows: Vec<Value> = rows.into_iter().map(with_agent_ids).collect();
                output::list(session.output, &columns, &rows)
            }
        }
    }
}

/// An agent of a site, and what keeps it from what the site asks.
fn agent_lines(agent: &Value) -> String {
    let text = |name: &str| output::cell(agent.get(name));
    let name = ["displayName", "host"].iter().find_map(|name| agent[*name].as_str().filter(|name| !name.is_empty()));
    let name = name.map_or_else(String::new, |name| format!(" ({name})"));
    let first = format!("{}{name} {}, last heard of at {}", text("id"), text("state"), text("lastSeenAt"));
    let findings = agent["findings"].as_array().into_iter().flatten().map(|finding| format!("  {}", super::finding(finding)));
    std::iter::once(first).chain(findings).collect::<Vec<_>>().join("\n")
}

fn with_agent_ids(mut row: Value) -> Value {
    if let Some(agents) = row.get("enforcedBy").and_then(Value::as_array) {
        row["enforcedBy"] = agents.iter().filter_map(|agent| agent.get("id").cloned()).collect();
    }
    row
}
