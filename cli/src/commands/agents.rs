//! Agents, as the control plane sees them.

use std::path::PathBuf;

use clap::Subcommand;
use schema::{encoding::Digest, key::RevocationReason};
use serde_json::{Value, json};

use super::{
    Idempotency, Limit, Session,
    containment::{Contain, Stopwatch},
    exchange::{self, Listener},
    root::Signing,
};
use crate::{error::Error, graphql::documents::AGENT, output, secret};

/// Agents: what does the cryptography at a site.
#[derive(Debug, Subcommand)]
pub enum Agents {
    /// List agents
    List {
        /// Only those of this site (id or name)
        #[arg(long)]
        site: Option<String>,
        /// Only those in this state: invited, enrolled, active, suspended, revoked, expired
        #[arg(long, value_parser = ["invited", "enrolled", "active", "suspended", "revoked", "expired"])]
        state: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one agent
    Show {
        /// Its id
        #[arg(id = "agent_id", value_name = "AGENT")]
        agent: String,
    },
    /// Invite an agent to a site; writes a single-use enrolment file for 'freehold-agent enrol'
    Invite {
        /// The site (id or name)
        #[arg(long)]
        site: String,
        /// Where the enrolment file goes; only its owner can read it
        #[arg(long, value_name = "FILE")]
        enrolment_file: PathBuf,
        /// What people call it
        #[arg(long)]
        display_name: Option<String>,
        /// How long the invitation holds, e.g. 1h
        #[arg(long, value_parser = super::seconds, value_name = "SPAN")]
        lifetime: Option<u64>,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Let an agent join that is connected to nothing: hands in the file of 'freehold-agent enrol --request'
    ///
    /// The token is not in that file: it comes from a copy of the enrolment file, and shows that the request was made with it and not changed on
    /// its way. The answer goes into a file for 'freehold-agent enrol --answer'. Vouching is as ever.
    Enrol {
        /// The file that 'freehold-agent enrol --request' wrote
        #[arg(value_name = "REQUEST")]
        request: PathBuf,
        /// The enrolment file that 'freehold agent invite' wrote
        #[arg(long, value_name = "FILE")]
        enrolment_file: PathBuf,
        /// Where the answer goes
        #[arg(long, value_name = "FILE")]
        answer: PathBuf,
        #[command(flatten)]
        listener: Listener,
    },
    /// Hand in what an agent says that is connected to nothing: the file of 'freehold-agent exchange write'
    ///
    /// The control plane takes it as if the agent had called. The answer goes into a file for 'freehold-agent exchange take': statements,
    /// material of other agents, leases, and how far receipts were taken. It needs no API token: the file is signed by its agent.
    Exchange {
        /// The file that 'freehold-agent exchange write' wrote
        #[arg(value_name = "OUTBOX")]
        outbox: PathBuf,
        /// Where the answer goes
        #[arg(long, value_name = "FILE")]
        answer: PathBuf,
        #[command(flatten)]
        listener: Listener,
    },
    /// Withdraw an invitation that was not used yet
    CancelInvitation {
        /// Its id
        #[arg(id = "agent_id", value_name = "AGENT")]
        agent: String,
    },
    /// Lock the agent on this host, without the control plane: runs 'freehold-agent lock' here (as root)
    Lock {
        /// The agent's settings
        #[arg(long, value_name = "FILE")]
        agent_config: Option<PathBuf>,
        /// Why, in words
        #[arg(long)]
        reason: Option<String>,
    },
    /// Vouch for an agent as a signer of the tenant: with as many as sign policies, its site believes it
    ///
    /// So does every site that shares a key with it: it becomes no agent there, but material of keys that policy places at both sites moves.
    /// Without signers, 'freehold-agent vouch' on the host of an agent says the same for the site of that agent.
    ///
    /// Compare the join code with the person at its host, who sees it when the agent enrols and in 'freehold-agent status'.
    Vouch {
        /// Its id
        #[arg(id = "agent_id", value_name = "AGENT")]
        agent: String,
        /// The join code that the person at its host reads out
        #[arg(value_name = "JOIN-CODE", allow_hyphen_values = true)]
        code: Digest,
        #[command(flatten)]
        signing: Signing,
    },
    /// Suspend an agent until it is resumed
    Suspend {
        /// Its id
        #[arg(id = "agent_id", value_name = "AGENT")]
        agent: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        contain: Contain,
    },
    /// Let a suspended agent act again
    Resume {
        /// Its id
        #[arg(id = "agent_id", value_name = "AGENT")]
        agent: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Revoke an agent; final
    Revoke {
        /// Its id
        #[arg(id = "agent_id", value_name = "AGENT")]
        agent: String,
        /// An RFC 5280 reason, e.g. keyCompromise, cessationOfOperation
        #[arg(long, value_parser = super::one_of::<RevocationReason>)]
        reason: String,
        /// Why, in words
        #[arg(long)]
        comment: Option<String>,
    },
}

const LIST: &[output::Column] = &[
    ("id", "/id"),
    ("site", "/site/name"),
    ("state", "/state"),
    ("host", "/host"),
    ("version", "/agentVersion"),
    ("enforced state", "/enforcedState"),
    ("last seen", "/lastSeenAt"),
];

const SHOW: &[output::Column] = &[
    ("id", "/id"),
    ("display name", "/displayName"),
    ("site", "/site/name"),
    ("state", "/state"),
    ("host", "/host"),
    ("version", "/agentVersion"),
    ("vault", "/vault"),
    ("key id", "/keyId"),
    ("certificate expires", "/certificateExpiresAt"),
    ("rostered", "/rosteredAt"),
    ("vouched for by", "/vouchedBy"),
    ("enforced heartbeat", "/enforcedHeartbeat"),
    ("enforced state", "/enforcedState"),
    ("rejection", "/rejection"),
    ("failed self-tests", "/failedSelfTests"),
    ("findings", "/findings"),
    ("on its host", "/hostActs"),
    ("last seen", "/lastSeenAt"),
    ("invitation expires", "/invitationExpiresAt"),
];

impl Agents {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        if let Self::Lock { agent_config, reason } = &self {
            return lock_here(agent_config.as_deref(), reason.as_deref());
        }
        match &self {
            Self::Enrol { request, enrolment_file, answer, listener } => {
                return exchange::enrol(session, request, enrolment_file, answer, listener).await;
            }
            Self::Exchange { outbox, answer, listener } => return exchange::exchange(session, outbox, answer, listener).await,
            _ => {}
        }
        let client = session.control_plane()?;
        let watch = Stopwatch::start();
        let mut contained = None;
        let (operation, input) = match self {
            Self::List { site, state, limit } => {
                let variables = json!({ "site": site, "state": state.map(|state| super::word(&state)) });
                let rows = client.list(AGENT, "Agents", variables, limit.limit).await?;
                return output::list(session.output, LIST, &rows);
            }
            Self::Show { agent } => {
                let value = client.one(AGENT, "Agent", json!({ "id": agent }), &format!("agent '{agent}'")).await?;
                return output::object(session.output, SHOW, &with_findings(session, value));
            }
            Self::Invite { site, enrolment_file, display_name, lifetime, idempotency } => {
                secret::check_new(&enrolment_file, "the enrolment")?;
                let input = json!({
                    "site": site, "displayName": display_name, "lifetimeSeconds": lifetime.map(|s| s.to_string()),
                    "idempotencyKey": idempotency.idempotency_key,
                });
                let payload = client.mutate(AGENT, "InviteAgent", input).await?;
                if let Some(enrolment) = payload.get("enrolment").and_then(Value::as_str) {
                    secret::write_new(&enrolment_file, "the enrolment", enrolment)?;
                    output::note(&format!(
                        "the enrolment is in {0}: bring it to the agent's host and run 'freehold-agent enrol --token-file {0}' (connected to nothing: \
                         add --request FILE there, and keep a copy here)",
                        enrolment_file.display()
                    ));
                }
                return output::object(session.output, SHOW, payload.get("agent").unwrap_or(&Value::Null));
            }
            Self::Vouch { agent, code, signing } => return super::vouch::vouch(session, &agent, code, &signing).await,
            Self::Lock { .. } | Self::Enrol { .. } | Self::Exchange { .. } => return Ok(()),
            Self::CancelInvitation { agent } => ("CancelInvitation", json!({ "agent": agent })),
            Self::Suspend { agent, reason, contain } => {
                let input = json!({ "agent": agent, "reason": reason });
                contained = Some((contain, agent));
                ("SuspendAgent", input)
            }
            Self::Resume { agent, reason } => ("ResumeAgent", json!({ "agent": agent, "reason": reason })),
            Self::Revoke { agent, reason, comment } => ("RevokeAgent", json!({ "agent": agent, "reason": reason, "comment": comment })),
        };
        let payload = client.mutate(AGENT, operation, input).await?;
        if let Some((contain, agent)) = contained {
            contain.finish(&client, &watch, ("agent", &agent), &payload).await?;
        }
        output::object(session.output, SHOW, payload.get("agent").unwrap_or(&Value::Null))
    }
}

/// In a table a finding is a line.
fn with_findings(session: &Session, mut agent: Value) -> Value {
    if session.output == output::Format::Table {
        let lines: Vec<String> = agent["findings"].as_array().into_iter().flatten().map(super::finding).collect();
        agent["findings"] = json!(lines.join("\n"));
        let acts: Vec<String> = agent["hostActs"].as_array().into_iter().flatten().map(host_act).collect();
        agent["hostActs"] = json!(acts.join("\n"));
    }
    agent
}

/// What somebody did on an agent's host, in a line.
fn host_act(act: &Value) -> String {
    let text = |name: &str| output::cell(act.get(name));
    let reason = if act["reason"].is_null() { String::new() } else { format!(": {}", text("reason")) };
    let what = if act["what"].is_null() { String::new() } else { format!(" ({})", text("what")) };
    format!("{} at {} by user {}{what}{reason}", text("act"), text("at"), text("user"))
}

/// Runs the agent's own program, from beside this one or from the path.
fn lock_here(config: Option<&std::path::Path>, reason: Option<&str>) -> Result<(), Error> {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("freehold-agent")).filter(|path| path.exists());
    let mut command = std::process::Command::new(beside.unwrap_or_else(|| "freehold-agent".into()));
    command.arg("lock");
    for (flag, value) in [("--config", config.map(std::path::Path::as_os_str)), ("--reason", reason.map(std::ffi::OsStr::new))] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    let status = command.status().map_err(|source| Error::fault("could not run freehold-agent on this host", source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(crate::error::Exit::Fault, "not_locked", "freehold-agent lock did not succeed on this host").hint("run it as root"))
}
