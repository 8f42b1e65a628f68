//! Tenants: one customer organisation each. Operators only.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Idempotency, Limit, Session, erasure::Erase};
use crate::{error::Error, graphql::documents::TENANT, output, secret};

/// Tenants (operators only).
#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// List tenants
    List(Limit),
    /// Create a tenant; writes its first admin token to a file
    Create {
        /// Its name: a-z, 0-9, '-' and '.'
        name: String,
        /// What people call it
        #[arg(long)]
        display_name: Option<String>,
        /// Where the admin token goes; only its owner can read it
        #[arg(long, value_name = "FILE")]
        admin_token_file: PathBuf,
        /// How long the token lives, e.g. 90d
        #[arg(long, value_parser = super::seconds, value_name = "SPAN")]
        token_lifetime: Option<u64>,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Erase a tenant; final
    ///
    /// Its keys are destroyed, and everything it has but its log, which nobody can read any more.
    Erase(Erase),
}

impl Tenant {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let client = session.control_plane()?;
        match self {
            Self::List(Limit { limit }) => {
                let rows = client.list(TENANT, "Tenants", json!({}), limit).await?;
                output::list(session.output, &[("id", "/id")], &rows)
            }
            Self::Erase(erase) => erase.run(session, &client, "EraseTenant", "tenant").await,
            Self::Create { name, display_name, admin_token_file, token_lifetime, idempotency } => {
                secret::check_new(&admin_token_file, "the admin token")?;
                let input = json!({
                    "name": name, "displayName": display_name, "tokenLifetimeSeconds": token_lifetime.map(|s| s.to_string()),
                    "idempotencyKey": idempotency.idempotency_key,
                });
                let payload = client.mutate(TENANT, "CreateTenant", input).await?;
                if let Some(token) = payload.get("adminToken").and_then(Value::as_str) {
                    secret::write_new(&admin_token_file, "the admin token", token)?;
                    output::note(&format!("the admin token is in {}", admin_token_file.display()));
                }
                let columns = [("id", "/id"), ("name", "/name"), ("created", "/createdAt")];
                output::object(session.output, &columns, payload.get("tenant").unwrap_or(&Value::Null))
            }
        }
    }
}
