//! Projects.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Idempotency, Limit, Session,
    containment::{Contain, Stopwatch},
};
use crate::{
    error::Error,
    graphql::{Client, documents::PROJECT},
    output,
};

/// Projects: groups of keys and callers.
#[derive(Debug, Subcommand)]
pub enum Project {
    /// List projects
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
    /// Show one project
    Show {
        /// Id or name
        project: String,
        /// As it was at this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        as_of: Option<String>,
    },
    /// Create a project
    Create {
        /// Its name: a-z, 0-9, '-' and '.'
        name: String,
        /// What people call it
        #[arg(long)]
        display_name: Option<String>,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Let no key of a project be used until it is resumed
    Suspend {
        /// Id or name
        project: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        contain: Contain,
    },
    /// Let the keys of a project be used again
    Resume {
        /// Id or name
        project: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
}

const COLUMNS: &[output::Column] =
    &[("id", "/id"), ("name", "/name"), ("display name", "/displayName"), ("state", "/state"), ("created", "/createdAt")];

impl Project {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let client = session.control_plane()?;
        match self {
            Self::List { search, as_of, limit } => {
                let rows = client.list(PROJECT, "Projects", json!({ "search": search, "asOf": as_of }), limit.limit).await?;
                output::list(session.output, COLUMNS, &rows)
            }
            Self::Show { project, as_of } => {
                let value =
                    client.one(PROJECT, "Project", json!({ "reference": project, "asOf": as_of }), &format!("project '{project}'")).await?;
                output::object(session.output, COLUMNS, &value)
            }
            Self::Suspend { project, reason, contain } => {
                let watch = Stopwatch::start();
                let payload = client.mutate(PROJECT, "SuspendProject", json!({ "project": project, "reason": reason })).await?;
                contain.finish(&client, &watch, ("project", &project), &payload).await?;
                output::object(session.output, COLUMNS, payload.get("project").unwrap_or(&Value::Null))
            }
            Self::Resume { project, reason } => {
                change(session, &client, "ResumeProject", json!({ "project": project, "reason": reason })).await
            }
            Self::Create { name, display_name, idempotency } => {
                let input = json!({ "name": name, "displayName": display_name, "idempotencyKey": idempotency.idempotency_key });
                change(session, &client, "CreateProject", input).await
            }
        }
    }
}

async fn change(session: &Session, client: &Client, operation: &str, input: Value) -> Result<(), Error> {
    let payload = client.mutate(PROJECT, operation, input).await?;
    output::object(session.output, COLUMNS, payload.get("project").unwrap_or(&Value::Null))
}
