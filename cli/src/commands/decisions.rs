//! What may I do? What may somebody else do, and why not?

use std::net::IpAddr;

use schema::key::Operation;
use serde_json::{Value, json};

use super::Session;
use crate::{
    error::{Error, Exit},
    output,
};

const EXAMPLES: &str = "\
Examples:
  freehold can me decrypt payments/card-data --context customer=acme
  freehold can payments/checkout sign payments/invoices --why

Exits with 0 when it is allowed and with 3 when it is not. To ask about another caller, policy must allow you the action
'explain' on the key.";

/// Ask an agent whether a caller may do something.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Can {
    /// Who: 'me', a caller's id, or project/name
    caller: String,
    /// What: encrypt, decrypt, sign, verify, ...
    #[arg(value_parser = |text: &str| text.parse::<Operation>().map_err(|error| error.to_string()))]
    operation: Operation,
    /// The key: id, key_.../3, or project/name; none for random
    key: Option<String>,
    /// Encryption context; may be repeated
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    context: Vec<(String, String)>,
    /// Bytes of plaintext or ciphertext
    #[arg(long)]
    size: Option<u64>,
    /// Where the caller would come from [default: here]
    #[arg(long)]
    address: Option<IpAddr>,
    /// Say which policies decide, what they demand, or what stands against it
    #[arg(long)]
    why: bool,
}

/// Keys this caller may use, and what for.
#[derive(Debug, clap::Args)]
pub struct Keys {
    /// Only keys of this project
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    #[command(flatten)]
    limit: super::Limit,
}

impl Can {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let context: schema::key::Pairs = self.context.into_iter().collect();
        let mut body = json!({ "operation": self.operation, "context": context });
        let caller = Some(self.caller).filter(|caller| caller != "me");
        let size = self.size.map(|size| size.to_string());
        for (name, value) in [("caller", json!(caller)), ("key", json!(self.key)), ("size", json!(size)), ("address", json!(self.address))]
        {
            if !value.is_null() {
                body[name] = value;
            }
        }
        let answer = session.agent()?.post("/v1/can", &body).await?;
        let allowed = answer["allowed"] == true;
        if session.output == output::Format::Table && !self.why {
            output::line(if allowed { "yes" } else { "no" })?;
        } else {
            output::object(session.output, &columns(&answer), &answer)?;
        }
        if allowed {
            return Ok(());
        }
        let refusal = |name: &str| answer.pointer(&format!("/refusal/{name}")).and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(Error::new(Exit::Refused, &refusal("code"), refusal("detail")))
    }
}

/// What there is to say, one line each.
fn columns(answer: &Value) -> Vec<output::Column> {
    const KNOWN: &[output::Column] = &[
        ("allowed", "/allowed"),
        ("caller", "/caller"),
        ("operation", "/operation"),
        ("key version", "/key_version"),
        ("and key versions", "/also"),
        ("policies", "/policies"),
        ("demanded context", "/obligations/require_context"),
        ("most bytes", "/obligations/max_bytes"),
        ("mask", "/obligations/mask"),
        ("signatures", "/obligations/require_signatures"),
        ("warnings", "/warnings"),
        ("because", "/refusal/code"),
        ("forbidden by", "/refusal/facts/policies"),
        ("limit on", "/refusal/facts/limit/counts"),
        ("hard limit", "/refusal/facts/limit/hard"),
        ("freed by", "/refusal/facts/limit/frees"),
        ("nearest policy", "/refusal/facts/nearest/policy"),
        ("failed condition", "/refusal/facts/nearest/condition"),
        ("error", "/refusal/facts/nearest/error"),
    ];
    KNOWN.iter().copied().filter(|(_, pointer)| answer.pointer(pointer).is_some()).collect()
}

impl Keys {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let agent = session.agent()?;
        let mut found: Vec<Value> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(self.project.as_ref().map(|project| ("project", project)));
            query.extend_pairs(after.as_ref().map(|after| ("after", after)));
            let answer = agent.read(&format!("/v1/keys?{}", query.finish())).await?;
            found.extend(answer["keys"].as_array().into_iter().flatten().cloned());
            found.extend(answer["composites"].as_array().into_iter().flatten().cloned().map(composite));
            after = answer["next"].as_str().map(str::to_owned);
            if after.is_none() || found.len() >= self.limit.limit {
                break;
            }
        }
        found.truncate(self.limit.limit);
        let columns = [
            ("name", "/name"),
            ("id", "/id"),
            ("algorithm", "/algorithm"),
            ("purpose", "/purpose"),
            ("primary", "/primary"),
            ("may", "/operations"),
        ];
        output::list(session.output, &columns, &found)
    }
}

/// A composite as a row among keys.
fn composite(mut composite: Value) -> Value {
    composite["algorithm"] = json!(format!("rule {}", output::cell(composite.get("rule"))));
    composite["purpose"] = json!("composite");
    composite
}

/// Prints the algorithms of an agent.
pub async fn algorithms(session: &Session) -> Result<(), Error> {
    let answer = session.agent()?.read("/v1/algorithms").await?;
    let rows: Vec<Value> = answer["algorithms"].as_array().cloned().unwrap_or_default();
    let columns = [
        ("name", "/name"),
        ("status", "/status"),
        ("enabled", "/enabled"),
        ("classical bits", "/classical_bits"),
        ("quantum category", "/quantum_category"),
        ("what it is", "/title"),
    ];
    output::list(session.output, &columns, &rows)
}

/// Prints the public keys this caller may read, as one JSON Web Key Set.
pub async fn jwks(session: &Session) -> Result<(), Error> {
    output::line(session.agent()?.text("/v1/jwks").await?.trim_end())
}
