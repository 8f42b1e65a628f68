//! Callers.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use schema::key::RevocationReason;
use serde_json::{Value, json};

use super::{
    Idempotency, Limit, Session,
    containment::{Contain, Stopwatch},
    labels, pair,
};
use crate::{
    error::{Error, Exit},
    graphql::documents::CALLER,
    output,
};

/// Callers: applications that use agents.
#[derive(Debug, Subcommand)]
pub enum Caller {
    /// List callers
    List {
        /// Only those of this project (id or name)
        #[arg(long)]
        project: Option<String>,
        /// Only those in this state
        #[arg(long, value_parser = ["active", "suspended", "revoked"])]
        state: Option<String>,
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
    /// Show one caller
    Show {
        /// Id, or project/name
        caller: String,
        /// As it was at this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        as_of: Option<String>,
    },
    /// Register an application that comes with an agent-local token, or with a client certificate
    #[command(group(clap::ArgGroup::new("proof").required(true).args(["token_site", "certificate_authority"])))]
    Register {
        /// Its name: a-z, 0-9, '-' and '.'
        name: String,
        /// The project (id or name)
        #[arg(long)]
        project: String,
        /// It comes with a token that agents of this site keep (id or name)
        #[arg(long, value_name = "SITE")]
        token_site: Option<String>,
        /// It comes with a certificate of this authority: the authority's certificate, PEM
        #[arg(long, value_name = "FILE", requires = "subject")]
        certificate_authority: Option<PathBuf>,
        /// The URI or DNS name in its certificate
        #[arg(long)]
        subject: Option<String>,
        /// A label, given to policy; may be repeated
        #[arg(long = "label", value_parser = pair, value_name = "NAME=VALUE")]
        labels: Vec<(String, String)>,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Suspend a caller until it is resumed
    Suspend {
        /// Id, or project/name
        caller: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        contain: Contain,
    },
    /// Let a suspended caller act again
    Resume {
        /// Id, or project/name
        caller: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Revoke a caller; final
    Revoke {
        /// Id, or project/name
        caller: String,
        /// An RFC 5280 reason, e.g. keyCompromise, privilegeWithdrawn
        #[arg(long, value_parser = super::one_of::<RevocationReason>)]
        reason: String,
        /// Why, in words
        #[arg(long)]
        comment: Option<String>,
        #[command(flatten)]
        contain: Contain,
    },
}

const COLUMNS: &[output::Column] = &[
    ("id", "/id"),
    ("project", "/project/name"),
    ("name", "/name"),
    ("kind", "/kind"),
    ("state", "/state"),
    ("subject", "/subject"),
    ("labels", "/labels"),
    ("created", "/createdAt"),
];

impl Caller {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let client = session.control_plane()?;
        let watch = Stopwatch::start();
        let mut contained = None;
        let (operation, input) = match self {
            Self::List { project, state, label, search, as_of, limit } => {
                let variables = json!({
                    "project": project, "state": state.map(|state| super::word(&state)), "search": search, "asOf": as_of,
                    "label": label.map(|(name, value)| json!({ "name": name, "value": value })),
                });
                let rows = client.list(CALLER, "Callers", variables, limit.limit).await?;
                return output::list(session.output, COLUMNS, &rows);
            }
            Self::Show { caller, as_of } => {
                let value =
                    client.one(CALLER, "Caller", json!({ "reference": caller, "asOf": as_of }), &format!("caller '{caller}'")).await?;
                return output::object(session.output, COLUMNS, &value);
            }
            Self::Register { name, project, token_site, certificate_authority, subject, labels: pairs, idempotency } => {
                let authority = certificate_authority.as_deref().map(read_authority).transpose()?;
                let kind = if authority.is_some() { "MTLS" } else { "TOKEN" };
                let input = json!({
                    "project": project, "name": name, "kind": kind, "issuer": token_site, "authorityPem": authority, "subject": subject,
                    "labels": labels(&pairs), "idempotencyKey": idempotency.idempotency_key,
                });
                ("RegisterCaller", input)
            }
            Self::Suspend { caller, reason, contain } => {
                let input = json!({ "caller": caller, "reason": reason });
                contained = Some((contain, caller));
                ("SuspendCaller", input)
            }
            Self::Resume { caller, reason } => ("ResumeCaller", json!({ "caller": caller, "reason": reason })),
            Self::Revoke { caller, reason, comment, contain } => {
                let input = json!({ "caller": caller, "reason": reason, "comment": comment });
                contained = Some((contain, caller));
                ("RevokeCaller", input)
            }
        };
        let payload = client.mutate(CALLER, operation, input).await?;
        if let Some((contain, caller)) = contained {
            contain.finish(&client, &watch, ("caller", &caller), &payload).await?;
        }
        output::object(session.output, COLUMNS, payload.get("caller").unwrap_or(&Value::Null))
    }
}

fn read_authority(path: &Path) -> Result<String, Error> {
    let act = || format!("could not read the authority's certificate from {}", path.display());
    std::fs::read_to_string(path).map_err(|source| Error { exit: Exit::Usage, ..Error::fault(&act(), source) })
}
