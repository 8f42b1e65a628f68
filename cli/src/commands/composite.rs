//! Composites.

use clap::Subcommand;
use schema::composite::VerificationRule;
use serde_json::{Value, json};

use super::{Idempotency, Limit, Session, moment, one_of};
use crate::{error::Error, graphql::documents::COMPOSITE, output};

/// Composites: one name for a classical and a post-quantum key that sign together.
#[derive(Debug, Subcommand)]
pub enum Composite {
    /// List composites
    List {
        /// Only those of this project (id or name)
        #[arg(long)]
        project: Option<String>,
        /// Only those in this state
        #[arg(long, value_parser = ["active", "retired"])]
        state: Option<String>,
        /// Only those with this rule: all, any, classical-required, pq-required
        #[arg(long, value_parser = one_of::<VerificationRule>)]
        rule: Option<String>,
        /// Only those with this key: id, or project/name
        #[arg(long)]
        key: Option<String>,
        /// Only those whose name contains this
        #[arg(long)]
        search: Option<String>,
        /// As they were at this time
        #[arg(long, value_parser = moment, value_name = "TIME")]
        as_of: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one composite
    Show {
        /// Id, or project/name
        composite: String,
        /// As it was at this time
        #[arg(long, value_parser = moment, value_name = "TIME")]
        as_of: Option<String>,
    },
    /// Give a classical and a post-quantum key one name under which they sign together
    Create {
        /// Its name: a-z, 0-9, '-' and '.'; not a key's or an alias's; never changes
        name: String,
        /// The project (id or name)
        #[arg(long)]
        project: String,
        /// The key that signs classically, e.g. with Ed25519: id, or project/name
        #[arg(long, value_name = "KEY")]
        classical: String,
        /// The key that signs post-quantum, e.g. with ML-DSA-65: id, or project/name
        #[arg(long, value_name = "KEY")]
        post_quantum: String,
        /// The hybrid key for what is sealed to it (HPKE-9-KE or HPKE-9): id, or project/name
        #[arg(long, value_name = "KEY")]
        encryption: Option<String>,
        /// Which signatures must be genuine: all, any, classical-required, pq-required
        #[arg(long, value_parser = one_of::<VerificationRule>, default_value = "all")]
        rule: String,
        /// What it is for
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Say what a composite is for
    Describe {
        /// Id, or project/name
        composite: String,
        /// In words; none when left out
        description: Option<String>,
    },
    /// Accept fewer signatures from now on
    Tighten {
        /// Id, or project/name
        composite: String,
        /// Which signatures must be genuine: all, classical-required, pq-required
        #[arg(value_parser = one_of::<VerificationRule>)]
        rule: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Accept signatures from now on that are refused (administrators only)
    Loosen {
        /// Id, or project/name
        composite: String,
        /// Which signatures must be genuine: any, classical-required, pq-required
        #[arg(value_parser = one_of::<VerificationRule>)]
        rule: String,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// Let a composite be no more; final, and its keys stay as they are
    Retire {
        /// Id, or project/name
        composite: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
}

const COLUMNS: &[output::Column] = &[
    ("id", "/id"),
    ("project", "/project/name"),
    ("name", "/name"),
    ("state", "/state"),
    ("rule", "/rule"),
    ("classical", "/classical/name"),
    ("post-quantum", "/postQuantum/name"),
    ("encryption", "/encryption/name"),
];

const SHOW: &[output::Column] = &[
    ("id", "/id"),
    ("project", "/project/name"),
    ("name", "/name"),
    ("state", "/state"),
    ("description", "/description"),
    ("rule", "/rule"),
    ("classical", "/classical/name"),
    ("classical algorithm", "/classical/algorithm/name"),
    ("post-quantum", "/postQuantum/name"),
    ("post-quantum algorithm", "/postQuantum/algorithm/name"),
    ("encryption", "/encryption/name"),
    ("encryption algorithm", "/encryption/algorithm/name"),
    ("created", "/createdAt"),
];

impl Composite {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let client = session.control_plane()?;
        let (operation, input) = match self {
            Self::List { project, state, rule, key, search, as_of, limit } => {
                let variables = json!({
                    "project": project, "state": state.map(|state| super::word(&state)), "rule": rule, "key": key,
                    "search": search, "asOf": as_of,
                });
                let rows = client.list(COMPOSITE, "Composites", variables, limit.limit).await?;
                return output::list(session.output, COLUMNS, &rows);
            }
            Self::Show { composite, as_of } => {
                let variables = json!({ "reference": composite, "asOf": as_of });
                let value = client.one(COMPOSITE, "Composite", variables, &format!("composite '{composite}'")).await?;
                return output::object(session.output, SHOW, &value);
            }
            Self::Create { name, project, classical, post_quantum, encryption, rule, description, idempotency } => {
                let input = json!({
                    "project": project, "name": name, "classical": classical, "postQuantum": post_quantum, "encryption": encryption,
                    "rule": rule, "description": description, "idempotencyKey": idempotency.idempotency_key,
                });
                ("CreateComposite", input)
            }
            Self::Describe { composite, description } => {
                ("DescribeComposite", json!({ "composite": composite, "description": description }))
            }
            Self::Tighten { composite, rule, reason } => {
                ("TightenCompositeRule", json!({ "composite": composite, "rule": rule, "reason": reason }))
            }
            Self::Loosen { composite, rule, reason } => {
                ("LoosenCompositeRule", json!({ "composite": composite, "rule": rule, "reason": reason }))
            }
            Self::Retire { composite, reason } => ("RetireComposite", json!({ "composite": composite, "reason": reason })),
        };
        let payload = client.mutate(COMPOSITE, operation, input).await?;
        output::object(session.output, SHOW, payload.get("composite").unwrap_or(&Value::Null))
    }
}
