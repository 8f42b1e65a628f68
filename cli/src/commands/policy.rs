//! Policies.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use serde_json::{Value, json};
use trust::statement::Kind;

use super::{Idempotency, Limit, Session};
use crate::{
    error::{Error, Exit},
    graphql::{
        Client,
        documents::{POLICY, PROJECT, SITE, TENANT},
    },
    output,
    signing::{desk::Desk, file::Memory},
};

/// Policies: who may do what with which key.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// List policies
    List {
        /// Only those of this project (id or name)
        #[arg(long)]
        project: Option<String>,
        /// Only those whose name contains this
        #[arg(long)]
        search: Option<String>,
        /// As it was at this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        as_of: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one policy: what is in force, its versions, its draft
    Show {
        /// Id, name, or project/name
        policy: String,
        /// As it was at this moment
        #[arg(long, value_parser = super::moment, value_name = "TIME")]
        as_of: Option<String>,
    },
    /// Check a Cedar text against the schema, without saving it
    Check {
        /// The text; '-' is standard input
        file: PathBuf,
    },
    /// Make a policy for a project or the whole tenant
    Create {
        /// Its name: a-z, 0-9, '-' and '.'
        name: String,
        /// The project it reaches (id or name); else the whole tenant
        #[arg(long)]
        project: Option<String>,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Save a draft
    Draft {
        /// Id, name, or project/name
        policy: String,
        /// The Cedar text; '-' is standard input
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// What a draft would change, or what changed between two versions
    Diff {
        /// Id, name, or project/name
        policy: String,
        /// A version; left out: the one in force
        #[arg(long)]
        from: Option<u32>,
        /// A version; left out: the draft
        #[arg(long)]
        to: Option<u32>,
    },
    /// Sign the draft for the agents; with --file, save it first
    Publish {
        /// Id, name, or project/name
        policy: String,
        /// The Cedar text to save as the draft first; '-' is standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Why
        #[arg(long)]
        comment: Option<String>,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// List policies that wait for signatures of your signers
    Pending,
    /// Look at policies that wait, and sign them
    ///
    /// What is shown is computed here from the very bytes that are signed, against what is in force and your signers signed.
    Sign {
        /// Only these: 'tenant', or the id or name of a project or site; left out: everything that waits
        #[arg(value_name = "SCOPE")]
        scopes: Vec<String>,
        #[command(flatten)]
        sign: super::root::Signing,
    },
    /// Publish an earlier version again
    Rollback {
        /// Id, name, or project/name
        policy: String,
        /// The version
        #[arg(long)]
        to: u32,
        /// Why
        #[arg(long)]
        comment: Option<String>,
    },
}

const COLUMNS: &[output::Column] = &[
    ("id", "/id"),
    ("name", "/name"),
    ("project", "/projectId"),
    ("in force", "/published/number"),
    ("published", "/published/publishedAt"),
    ("note", "/published/note"),
    ("draft", "/draft/number"),
];

impl Policy {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let client = session.control_plane()?;
        let (operation, input) = match self {
            Self::List { project, search, as_of, limit } => {
                let rows =
                    client.list(POLICY, "Policies", json!({ "project": project, "search": search, "asOf": as_of }), limit.limit).await?;
                return output::list(session.output, COLUMNS, &rows);
            }
            Self::Show { policy, as_of } => {
                let mut value = client
                    .one(POLICY, "Policy", json!({ "id": id(&client, &policy).await?, "asOf": as_of }), &format!("policy '{policy}'"))
                    .await?;
                let in_force = value.pointer("/versions").and_then(Value::as_array).and_then(|versions| versions.first()).cloned();
                value["cedar"] = in_force.map_or(Value::Null, |version| version["content"]["cedar"].clone());
                let columns = [COLUMNS, &[("draft text", "/draft/content/cedar"), ("text in force", "/cedar")]].concat();
                return output::object(session.output, &columns, &value);
            }
            Self::Pending => return super::root::pending(session, Kind::Policy).await,
            Self::Sign { scopes, sign } => {
                let mut only = Vec::new();
                for scope in &scopes {
                    only.push(scope_id(&client, scope).await?);
                }
                return sign.run(session, Kind::Policy, &only, false).await;
            }
            Self::Check { file } => return check(session, &client, &file).await,
            Self::Diff { policy, from, to } => {
                let diff = client
                    .one(
                        POLICY,
                        "PolicyDiff",
                        json!({ "policy": id(&client, &policy).await?, "from": from, "to": to }),
                        &format!("policy '{policy}'"),
                    )
                    .await?;
                return match session.output {
                    output::Format::Table if diff["same"] == true => output::line("no difference"),
                    output::Format::Table => output::line(diff["unified"].as_str().unwrap_or_default().trim_end()),
                    _ => output::object(session.output, &[], &diff),
                };
            }
            Self::Create { name, project, idempotency } => {
                ("CreatePolicy", json!({ "name": name, "project": project, "idempotencyKey": idempotency.idempotency_key }))
            }
            Self::Draft { policy, file } => {
                let policy = id(&client, &policy).await?;
                let payload = save(&client, &policy, &file).await?;
                return output::object(session.output, COLUMNS, payload.get("policy").unwrap_or(&Value::Null));
            }
            Self::Publish { policy, file, comment, idempotency } => {
                let policy = id(&client, &policy).await?;
                if let Some(file) = file {
                    save(&client, &policy, &file).await?;
                }
                ("PublishPolicy", json!({ "policy": policy, "note": comment, "idempotencyKey": idempotency.idempotency_key }))
            }
            Self::Rollback { policy, to, comment } => {
                ("RollbackPolicy", json!({ "policy": id(&client, &policy).await?, "version": to, "note": comment }))
            }
        };
        let payload = client.mutate(POLICY, operation, input).await?;
        print_problems(payload.get("problems"), Path::new("draft"));
        if matches!(operation, "PublishPolicy" | "RollbackPolicy") && session.output == output::Format::Table {
            let desk = Desk::open(session.control_plane()?, &Memory::default(), None).await;
            if desk.is_ok_and(|desk| desk.authority.is_tenant_held(Kind::Policy)) {
                output::note("Agents go by it once your signers have signed it: freehold policy pending, freehold policy sign.");
            }
        }
        output::object(session.output, COLUMNS, payload.get("policy").unwrap_or(&Value::Null))
    }
}

/// The id of what a policy may be for.
async fn scope_id(client: &Client, reference: &str) -> Result<String, Error> {
    if reference == "tenant" {
        let viewer = client.one(TENANT, "Viewer", json!({}), "the tenant").await?;
        return Ok(viewer.pointer("/tenant/id").and_then(Value::as_str).unwrap_or_default().to_owned());
    }
    for (document, operation) in [(PROJECT, "Project"), (SITE, "Site")] {
        if let Ok(found) = client.one(document, operation, json!({ "reference": reference }), reference).await {
            return Ok(found["id"].as_str().unwrap_or_default().to_owned());
        }
    }
    Err(Error::new(Exit::NotFound, "not_found", format!("there is no project or site '{reference}', or it is not yours to see")))
}

async fn check(session: &Session, client: &Client, file: &Path) -> Result<(), Error> {
    let value = client.one(POLICY, "ValidatePolicy", json!({ "cedar": text(file)? }), "the result").await?;
    if session.output != output::Format::Table {
        output::object(session.output, &[], &value)?;
    } else {
        print_problems(value.get("problems"), file);
    }
    if value["valid"] == true {
        return if session.output == output::Format::Table { output::line("valid") } else { Ok(()) };
    }
    Err(Error::new(Exit::Usage, "invalid_policy", format!("{} is not a valid policy", file.display())))
}

async fn save(client: &Client, policy: &str, file: &Path) -> Result<Value, Error> {
    let payload = client.mutate(POLICY, "SavePolicyDraft", json!({ "policy": policy, "content": { "cedar": text(file)? } })).await?;
    print_problems(payload.get("problems"), file);
    Ok(payload)
}

/// `file:line:column: error: what` as compilers print it.
fn print_problems(problems: Option<&Value>, file: &Path) {
    for problem in problems.and_then(Value::as_array).into_iter().flatten() {
        let number = |name: &str| problem.get(name).and_then(Value::as_u64).unwrap_or(0);
        let severity = problem["severity"].as_str().unwrap_or("error").to_lowercase();
        let message = problem["message"].as_str().unwrap_or_default();
        output::note(&format!("{}:{}:{}: {severity}: {message}", file.display(), number("line"), number("column")));
        if let Some(help) = problem["help"].as_str() {
            output::note(&format!("  help: {help}"));
        }
    }
}

fn text(file: &Path) -> Result<String, Error> {
    let read = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|source| Error { exit: Exit::Usage, ..Error::fault(&format!("could not read {}", file.display()), source) })
}

/// The id of the policy with this id, name (of the tenant), or project/name.
async fn id(client: &Client, reference: &str) -> Result<String, Error> {
    if reference.parse::<schema::id::PolicyId>().is_ok() {
        return Ok(reference.to_owned());
    }
    let (project, name) = match reference.split_once('/') {
        Some((project, name)) => (Some(project), name),
        None => (None, reference),
    };
    let rows = client.list(POLICY, "Policies", json!({ "project": project, "search": name }), 1000).await?;
    rows.iter()
        .find(|row| row["name"] == name && (project.is_some() || row["projectId"].is_null()))
        .and_then(|row| row["id"].as_str())
        .map(str::to_owned)
        .ok_or_else(|| Error::new(Exit::NotFound, "not_found", format!("policy '{reference}' does not exist, or is not yours to see")))
}
