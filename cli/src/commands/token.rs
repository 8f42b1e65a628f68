//! API tokens.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Limit, Session};
use crate::{error::Error, graphql::documents::TOKEN, output, secret};

/// API tokens of the control plane.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// List tokens
    List(Limit),
    /// Make a token; writes it to a file
    Create {
        /// What it is for
        name: String,
        /// What it may do; may be repeated
        #[arg(long = "scope", required = true, value_parser = ["admin", "key-manager", "policy-editor", "reader"])]
        scopes: Vec<String>,
        /// Where the token goes; only its owner can read it
        #[arg(long, value_name = "FILE")]
        secret_file: PathBuf,
        /// How long it lives, e.g. 90d
        #[arg(long, value_parser = super::seconds, value_name = "SPAN")]
        lifetime: Option<u64>,
        /// What the person who holds it is called
        #[arg(long, value_name = "NAME")]
        holder: Option<String>,
        /// Where that person is reached
        #[arg(long, value_name = "EMAIL", requires = "holder")]
        holder_email: Option<String>,
        /// That person's id, mem_…, when another token is held already
        #[arg(long, value_name = "ID", requires = "holder")]
        holder_id: Option<String>,
    },
    /// Revoke a token; final
    Revoke {
        /// Its id
        token: String,
    },
}

const COLUMNS: &[output::Column] = &[
    ("id", "/id"),
    ("name", "/name"),
    ("principal", "/principal"),
    ("scopes", "/scopes"),
    ("state", "/state"),
    ("expires", "/expiresAt"),
    ("holder", "/holder/name"),
    ("person", "/holder/person"),
];

impl Token {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let client = session.control_plane()?;
        match self {
            Self::List(Limit { limit }) => output::list(session.output, COLUMNS, &client.list(TOKEN, "Tokens", json!({}), limit).await?),
            Self::Create { name, scopes, secret_file, lifetime, holder, holder_email, holder_id } => {
                secret::check_new(&secret_file, "the token")?;
                let scopes: Vec<String> = scopes.iter().map(|scope| super::word(scope)).collect();
                let holder = holder.map(|name| json!({ "name": name, "email": holder_email, "person": holder_id }));
                let input = json!({
                    "name": name, "scopes": scopes, "lifetimeSeconds": lifetime.map(|s| s.to_string()), "holder": holder,
                });
                let payload = client.mutate(TOKEN, "CreateToken", input).await?;
                if let Some(text) = payload.get("secret").and_then(Value::as_str) {
                    secret::write_new(&secret_file, "the token", text)?;
                    output::note(&format!("the token is in {}", secret_file.display()));
                }
                output::object(session.output, COLUMNS, payload.get("token").unwrap_or(&Value::Null))
            }
            Self::Revoke { token } => {
                let payload = client.mutate(TOKEN, "RevokeToken", json!({ "token": token })).await?;
                output::object(session.output, COLUMNS, payload.get("token").unwrap_or(&Value::Null))
            }
        }
    }
}
