//! Erasing persons and tenants: the keys that their data is sealed under are destroyed.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Limit, Session};
use crate::{
    error::Error,
    graphql::{Client, documents::ERASURE},
    output,
};

/// Persons: whose data is sealed under a key of their own.
#[derive(Debug, Subcommand)]
pub enum Person {
    /// Erase a person; final
    ///
    /// The person's key is destroyed: name and e-mail address can be read nowhere again, in records, listings and backups that
    /// are restored later. That there was somebody, and what was done, stays on record.
    Erase(Erase),
    /// List persons that were erased; operators see tenants
    Erasures(Limit),
}

/// Who is erased. The id is given twice, because nothing brings anything back.
#[derive(Debug, Args)]
pub struct Erase {
    /// The id: mem_… of a person, ten_… of a tenant
    id: String,
    /// The same id again
    #[arg(long, value_name = "ID")]
    confirm: String,
}

const COLUMNS: &[output::Column] =
    &[("id", "/id"), ("person", "/person"), ("tenant", "/tenant"), ("erased", "/erasedAt"), ("by", "/erasedBy")];

impl Person {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let client = session.control_plane()?;
        match self {
            Self::Erase(erase) => erase.run(session, &client, "ErasePerson", "person").await,
            Self::Erasures(Limit { limit }) => {
                output::list(session.output, COLUMNS, &client.list(ERASURE, "Erasures", json!({}), limit).await?)
            }
        }
    }
}

impl Erase {
    /// Runs it as this mutation, whose input calls the id so.
    pub async fn run(self, session: &Session, client: &Client, mutation: &str, field: &str) -> Result<(), Error> {
        let payload = client.mutate(ERASURE, mutation, json!({ field: self.id, "confirm": self.confirm })).await?;
        output::object(session.output, COLUMNS, payload.get("erasure").unwrap_or(&Value::Null))
    }
}
