//! The certificate authorities of agents. Operators only.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Session;
use crate::{error::Error, graphql::documents::AUTHORITY, output};

const COLUMNS: &[output::Column] =
    &[("id", "/sha256"), ("state", "/state"), ("since or until", "/stateAt"), ("made", "/madeAt"), ("ends", "/expiresAt")];

/// Certificate authorities of agents (operators only).
#[derive(Debug, Subcommand)]
pub enum Authority {
    /// Show the one in force, the next one, and those that were
    Show,
    /// Make the next one; it takes over by itself when agents were told of it for two weeks
    Rotate {
        /// Let the next one take over at once; agents that do not know it come back by themselves
        #[arg(long)]
        now: bool,
        /// The key of an authority may be known to others: a new one takes over at once, and no other is believed any more
        #[arg(long, conflicts_with = "now")]
        compromised: bool,
    },
}

impl Authority {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let client = session.control_plane()?;
        let rows = match self {
            Self::Show => client.one(AUTHORITY, "AgentAuthorities", json!({}), "the list of authorities").await?,
            Self::Rotate { now, compromised } => {
                let input = json!({ "now": now, "compromised": compromised });
                client.mutate(AUTHORITY, "RotateAgentAuthority", input).await?["authorities"].take()
            }
        };
        let rows: Vec<Value> = rows.as_array().cloned().unwrap_or_default();
        output::list(session.output, COLUMNS, &rows)
    }
}
