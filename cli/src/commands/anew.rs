//! What is protected already, protected anew by the agent: nothing is opened here.

use std::path::PathBuf;

use schema::{encoding::base64url, key::Pairs};
use serde_json::{Value, json};

use super::{
    Session,
    messages::{read_message, warn},
};
use crate::{error::Error, output};

/// Move a message, or a wrapped key, to the newest version of its key.
#[derive(Debug, clap::Args)]
pub struct Rewrap {
    /// It is a wrapped key, as 'wrap' printed it, of this key version: key_.../3
    #[arg(long, value_name = "VERSION")]
    wrapped_by: Option<String>,
    /// Encryption context of the message; may be repeated
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    context: Vec<(String, String)>,
    /// File with the message; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Seal a message (a JWE) under another key. The old key must allow 're-encrypt', the new one 'encrypt'.
#[derive(Debug, clap::Args)]
pub struct ReEncryptMessage {
    /// The key to seal it under: id, or project/name
    #[arg(long)]
    key: String,
    /// Encryption context the message was sealed with; may be repeated
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    context: Vec<(String, String)>,
    /// Another encryption context from now on; may be repeated [default: the same]
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    new_context: Vec<(String, String)>,
    /// File with the message; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Verify a detached JWS and sign the same with another key. The old key must allow 're-sign', the new one 'sign'.
#[derive(Debug, clap::Args)]
pub struct ReSign {
    /// The key to sign with: id, or project/name
    #[arg(long)]
    key: String,
    /// The signature, as 'freehold sign' printed it
    #[arg(long, value_name = "FILE")]
    signature: PathBuf,
    /// What was signed; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

impl Rewrap {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let (text, context) = (text_of(&self.file)?, pairs(&self.context));
        let body = match self.wrapped_by {
            Some(version) => json!({ "wrapped": text, "key": version, "context": context }),
            None => json!({ "message": text, "context": context }),
        };
        answer(session, "/v1/rewrap", &body, &["message", "wrapped"]).await
    }
}

impl ReEncryptMessage {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let mut body = json!({ "message": text_of(&self.file)?, "key": self.key, "context": pairs(&self.context) });
        if !self.new_context.is_empty() {
            body["new_context"] = json!(pairs(&self.new_context));
        }
        answer(session, "/v1/re-encrypt", &body, &["message"]).await
    }
}

impl ReSign {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let payload = base64url(&read_message(&self.file)?);
        let body = json!({ "signature": text_of(&self.signature)?, "payload": payload, "key": self.key, "detached": true });
        answer(session, "/v1/re-sign", &body, &["signature"]).await
    }
}

/// For people the result alone and beside it what became of what; for programs everything.
async fn answer(session: &Session, path: &str, body: &Value, fields: &[&str]) -> Result<(), Error> {
    let answer = session.agent()?.post(path, body).await?;
    warn(&answer);
    if session.output != output::Format::Table {
        return output::object(session.output, &[], &answer);
    }
    output::note(&format!("from {} to {}", output::cell(answer.pointer("/source/key_version")), output::cell(answer.get("key_version"))));
    let made = fields.iter().find_map(|field| answer[field].as_str());
    output::line(made.unwrap_or_default())
}

fn pairs(pairs: &[(String, String)]) -> Pairs {
    pairs.iter().cloned().collect()
}

fn text_of(path: &std::path::Path) -> Result<String, Error> {
    let text = String::from_utf8(read_message(path)?).map_err(|_| Error::usage(format!("{} is not text", path.display())))?;
    Ok(text.trim().to_owned())
}
