//! Talks to the control plane. Every document stands in `queries/` and is checked against the committed SDL by a test.

use serde_json::{Value, json};

use crate::{
    error::{Error, Exit},
    http,
    profile::Profile,
    secret,
};

/// The documents, one per noun.
pub mod documents {
    /// Tenants and who one is.
    pub const TENANT: &str = include_str!("queries/tenant.graphql");
    /// Projects.
    pub const PROJECT: &str = include_str!("queries/project.graphql");
    /// Recovery.
    pub const RECOVERY: &str = include_str!("queries/recovery.graphql");
    /// Sites.
    pub const SITE: &str = include_str!("queries/site.graphql");
    /// Agents.
    pub const AGENT: &str = include_str!("queries/agent.graphql");
    /// Callers.
    pub const CALLER: &str = include_str!("queries/caller.graphql");
    /// Keys, aliases and algorithms.
    pub const KEY: &str = include_str!("queries/key.graphql");
    /// Composites.
    pub const COMPOSITE: &str = include_str!("queries/composite.graphql");
    /// Policies.
    pub const POLICY: &str = include_str!("queries/policy.graphql");
    /// Statements that wait for signatures.
    pub const SIGNING: &str = include_str!("queries/signing.graphql");
    /// API tokens.
    pub const TOKEN: &str = include_str!("queries/token.graphql");
    /// Erasures.
    pub const ERASURE: &str = include_str!("queries/erasure.graphql");
    /// Events and receipts.
    pub const AUDIT: &str = include_str!("queries/audit.graphql");
    /// Certificate authorities of agents.
    pub const AUTHORITY: &str = include_str!("queries/authority.graphql");
    /// How far a suspension has come.
    pub const CONTAINMENT: &str = include_str!("queries/containment.graphql");
    /// All of them.
    pub const ALL: &[&str] =
        &[RECOVERY, CONTAINMENT, TENANT, PROJECT, SITE, AGENT, CALLER, KEY, COMPOSITE, POLICY, SIGNING, TOKEN, ERASURE, AUDIT, AUTHORITY];
}

/// A client of one control plane.
pub struct Client {
    http: reqwest::Client,
    url: url::Url,
    token: zeroize::Zeroizing<String>,
}

impl Client {
    /// Connects as the profile says.
    pub fn new(profile: &Profile) -> Result<Self, Error> {
        let server = profile.server.as_deref().ok_or_else(|| {
            Error::usage("no control plane is named")
                .hint("use --server URL, or 'freehold profile set NAME --server URL --token-file FILE'")
        })?;
        let token_file = profile.token_file.as_deref().ok_or_else(|| {
            Error::usage("no API token is named").hint("use --token-file FILE, or 'freehold profile set NAME --token-file FILE'")
        })?;
        let url = http::check_url(server, "--server")?.join("/graphql").map_err(|_| Error::usage("--server is not a URL"))?;
        Ok(Self {
            http: http::client(profile.ca_file.as_deref(), profile.proxy.as_ref())?,
            url,
            token: secret::read(token_file, "the API token")?,
        })
    }

    /// Runs one operation of a document and gives its `data`.
    pub async fn run(&self, document: &str, operation: &str, variables: Value) -> Result<Value, Error> {
        let body = json!({ "query": document, "operationName": operation, "variables": variables });
        let answer = self
            .http
            .post(self.url.clone())
            .bearer_auth(self.token.as_str())
            .json(&body)
            .send()
            .await
            .map_err(|error| http::unreachable(self.url.as_str(), error))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| http::unreachable(self.url.as_str(), error))?;
        let value: Value = match serde_json::from_slice(&bytes) {
            Ok(value) => value,
            Err(_) => {
                return Err(Error::new(
                    Exit::Fault,
                    "unexpected_answer",
                    format!("{} answered {status} with something that is not JSON", self.url),
                ));
            }
        };
        if value.get("code").is_some_and(Value::is_string)
            && let Ok(problem) = serde_json::from_value(value.clone())
        {
            return Err(Error::from_problem(problem));
        }
        if let Some(error) = value.pointer("/errors/0") {
            return Err(graphql_error(error));
        }
        Ok(value.get("data").cloned().unwrap_or(Value::Null))
    }

    /// Runs a mutation; what the domain refuses becomes an error. Gives the payload.
    pub async fn mutate(&self, document: &str, operation: &str, input: Value) -> Result<Value, Error> {
        let data = self.run(document, operation, json!({ "input": without_nulls(input) })).await?;
        let payload = first_field(data);
        let errors = payload.get("userErrors").and_then(Value::as_array).cloned().unwrap_or_default();
        let nothing_done = payload.get("position").is_none_or(Value::is_null);
        match errors.first() {
            Some(first) if nothing_done => {
                let text = |name: &str| first.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let code = text("code");
                let exit = if code.ends_with("not_found") || code.starts_with("no_such") { Exit::NotFound } else { Exit::Refused };
                let field = text("field");
                let message = if field.is_empty() { text("message") } else { format!("{field}: {}", text("message")) };
                let mut error = Error::new(exit, &code, message);
                if errors.len() > 1 {
                    error.facts.insert("also".into(), errors[1..].iter().filter_map(|e| e.get("message").cloned()).collect());
                }
                Err(error)
            }
            Some(first) => {
                crate::output::note(&format!("note: {}", crate::output::cell(first.get("message"))));
                Ok(payload)
            }
            None => Ok(payload),
        }
    }

    /// Reads a connection to its end, or to `limit` rows.
    pub async fn list(&self, document: &str, operation: &str, mut variables: Value, limit: usize) -> Result<Vec<Value>, Error> {
        let mut rows = Vec::new();
        while rows.len() < limit {
            variables["first"] = json!((limit - rows.len()).min(100));
            let connection = first_field(self.run(document, operation, without_nulls(variables.clone())).await?);
            rows.extend(connection.get("nodes").and_then(Value::as_array).cloned().unwrap_or_default());
            let more = connection.pointer("/pageInfo/hasNextPage").and_then(Value::as_bool).unwrap_or(false);
            match connection.pointer("/pageInfo/endCursor") {
                Some(cursor) if more => variables["after"] = cursor.clone(),
                _ => break,
            }
        }
        Ok(rows)
    }

    /// Reads the newest `limit` rows of a connection that lists the newest last.
    pub async fn newest(&self, document: &str, operation: &str, mut variables: Value, limit: usize) -> Result<Vec<Value>, Error> {
        let mut rows = Vec::new();
        while rows.len() < limit {
            variables["last"] = json!((limit - rows.len()).min(100));
            let connection = first_field(self.run(document, operation, without_nulls(variables.clone())).await?);
            let mut page = connection.get("nodes").and_then(Value::as_array).cloned().unwrap_or_default();
            page.append(&mut rows);
            rows = page;
            let more = connection.pointer("/pageInfo/hasPreviousPage").and_then(Value::as_bool).unwrap_or(false);
            match connection.pointer("/pageInfo/startCursor") {
                Some(cursor) if more => variables["before"] = cursor.clone(),
                _ => break,
            }
        }
        Ok(rows)
    }

    /// Runs a query for one thing; absent is an error.
    pub async fn one(&self, document: &str, operation: &str, variables: Value, what: &str) -> Result<Value, Error> {
        match first_field(self.run(document, operation, without_nulls(variables)).await?) {
            Value::Null => Err(Error::new(Exit::NotFound, "not_found", format!("{what} does not exist, or is not yours to see"))),
            value => Ok(value),
        }
    }
}

fn graphql_error(error: &Value) -> Error {
    let code = error.pointer("/extensions/code").and_then(Value::as_str).unwrap_or("graphql");
    let message = error.get("message").and_then(Value::as_str).unwrap_or("the control plane did not say what was wrong");
    let exit = match code {
        "unauthenticated" => Exit::Unauthenticated,
        "forbidden" | "denied" => Exit::Refused,
        "not_found" => Exit::NotFound,
        "invalid_input" | "invalid_reference" | "graphql" => Exit::Usage,
        _ => Exit::Fault,
    };
    let mut report = Error::new(exit, code, message);
    report.request_id = error.pointer("/extensions/requestId").and_then(Value::as_str).map(str::to_owned);
    report
}

fn first_field(data: Value) -> Value {
    match data {
        Value::Object(map) => map.into_iter().next().map_or(Value::Null, |(_, value)| value),
        _ => Value::Null,
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, without_nulls(value))).collect()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use apollo_compiler::{ExecutableDocument, Schema};

    #[test]
    fn every_document_fits_the_contract() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/contracts/control-plane.graphql");
        let sdl = std::fs::read_to_string(path).unwrap();
        let schema = Schema::parse_and_validate(sdl, "control-plane.graphql").unwrap();
        for document in super::documents::ALL {
            if let Err(problems) = ExecutableDocument::parse_and_validate(&schema, *document, "document.graphql") {
                panic!("{problems}");
            }
        }
    }
}
