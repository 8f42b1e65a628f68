//! What was recorded, and what agents say they did.

use clap::Subcommand;
use schema::key::Operation;
use serde_json::json;

use super::{Limit, Session, one_of};
use crate::{
    error::Error,
    graphql::documents::{AUDIT, CALLER},
    output,
};

/// What was recorded.
#[derive(Debug, Subcommand)]
pub enum Event {
    /// List the newest events, newest last
    List {
        /// Only those of one thing, by its id
        #[arg(long)]
        stream: Option<String>,
        /// Only those of this type, e.g. KeyCreated
        #[arg(long = "type")]
        event_type: Option<String>,
        /// Only those of this principal
        #[arg(long)]
        actor: Option<String>,
        /// Only those since this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        since: Option<String>,
        /// Only those until this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        until: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
}

/// What agents say they did.
#[derive(Debug, Subcommand)]
pub enum Receipt {
    /// List the newest receipts, newest last
    List {
        /// Only those of this caller (id, or project/name)
        #[arg(long)]
        caller: Option<String>,
        /// Only those of this key (id, or project/name)
        #[arg(long)]
        key: Option<String>,
        /// Only those of this operation
        #[arg(long, value_parser = one_of::<Operation>)]
        operation: Option<String>,
        /// Only those of this agent (on the control plane's side), by its id
        #[arg(long = "by-agent", value_name = "ID")]
        by_agent: Option<String>,
        /// Only those with this outcome
        #[arg(long, value_parser = ["ok", "failed", "aborted", "unknown", "refused", "pending"])]
        outcome: Option<String>,
        /// Only those since this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        since: Option<String>,
        /// Only those until this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        until: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
}

impl Event {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let Self::List { stream, event_type, actor, since, until, limit } = self;
        let variables = json!({ "stream": stream, "type": event_type, "actor": actor, "since": since, "until": until });
        let rows = session.control_plane()?.newest(AUDIT, "Events", variables, limit.limit).await?;
        let columns = [
            ("index", "/ledgerIndex"),
            ("time", "/time"),
            ("type", "/type"),
            ("stream", "/stream"),
            ("revision", "/revision"),
            ("actor", "/actor"),
        ];
        output::list(session.output, &columns, &rows)
    }
}

impl Receipt {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let Self::List { caller, key, operation, by_agent, outcome, since, until, limit } = self;
        let client = session.control_plane()?;
        let caller = match caller {
            Some(reference) if !reference.starts_with("clr_") => {
                let found = client.one(CALLER, "Caller", json!({ "reference": reference }), &format!("caller '{reference}'")).await?;
                found["id"].clone()
            }
            id => json!(id),
        };
        let variables = json!({
            "caller": caller, "key": key, "operation": operation, "agent": by_agent, "since": since, "until": until,
            "outcome": outcome.map(|outcome| super::word(&outcome)),
        });
        let rows = client.newest(AUDIT, "Receipts", variables, limit.limit).await?;
        let columns = [
            ("time", "/time"),
            ("caller", "/caller"),
            ("operation", "/operation"),
            ("key version", "/keyVersion"),
            ("size", "/size"),
            ("outcome", "/outcome"),
            ("code", "/code"),
            ("count", "/count"),
            ("policies", "/policies"),
        ];
        output::list(session.output, &columns, &rows)
    }
}
