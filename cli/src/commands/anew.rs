//! What is protected already, protected anew by the agent: nothing is opened here.

use std::{
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use schema::{
    encoding::{base64url, from_base64url},
    key::Pairs,
};
use serde_json::{Value, json};

use super::{
    Session,
    messages::{is_of_stream, read_message, stream, warn},
};
use crate::{
    error::{Error, Exit},
    output,
};

/// The most bytes of a file's header.
const MAX_HEADER_BYTES: u32 = 64 * 1024;

/// Move a message, a sealed file or a wrapped key to the newest version of its key. Of a file only the header is sent.
#[derive(Debug, clap::Args)]
pub struct Rewrap {
    /// Where a sealed file goes; an existing file is refused
    #[arg(long = "out", value_name = "FILE")]
    target: Option<PathBuf>,
    /// It is a wrapped key, as 'wrap' printed it, of this key version: key_.../3
    #[arg(long, value_name = "VERSION")]
    wrapped_by: Option<String>,
    /// Of what is sealed for several keys, the one to move: id, key_.../3, or project/name [default: the first at the agent's site]
    #[arg(long, value_name = "KEY", conflicts_with = "wrapped_by")]
    of: Option<String>,
    /// Encryption context of the message; may be repeated
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    context: Vec<(String, String)>,
    /// The sealed file, or a file with the message or wrapped key; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Seal a message (a JWE) under another key. The old key must allow 're-encrypt', the new one 'encrypt'.
#[derive(Debug, clap::Args)]
pub struct ReEncryptMessage {
    /// The key to seal it under: id, or project/name
    #[arg(long)]
    key: String,
    /// Of a message for several keys, the one to replace: id, key_.../3, or project/name [default: the first at the agent's site]
    #[arg(long, value_name = "KEY")]
    of: Option<String>,
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
    /// The signature, as 'freehold sign' printed it; one over a stream is known by itself
    #[arg(long, value_name = "FILE")]
    signature: PathBuf,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// What was signed; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

impl Rewrap {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        if let Some(target) = &self.target {
            return self.file(session, target).await;
        }
        let (text, context) = (text_of(&self.file)?, pairs(&self.context));
        let body = match self.wrapped_by {
            Some(version) => json!({ "wrapped": text, "key": version, "context": context }),
            None => named(json!({ "message": text, "context": context }), "key", self.of),
        };
        answer(session, "/v1/rewrap", &body, &["message", "wrapped"]).await
    }
}

impl Rewrap {
    /// Rewraps a sealed file: the agent sees its header, and the body is copied here.
    async fn file(&self, session: &Session, target: &Path) -> Result<(), Error> {
        let unreadable = |source| Error { exit: Exit::Usage, ..Error::fault(&format!("could not read {}", self.file.display()), source) };
        let unwritable = |source| Error::fault(&format!("could not write {}", target.display()), source);
        if target.exists() {
            return Err(Error::usage(format!("{} exists already", target.display())).hint("name another file"));
        }
        let mut sealed = std::fs::File::open(&self.file).map_err(unreadable)?;
        let mut header = vec![0; 8];
        sealed.read_exact(&mut header).map_err(unreadable)?;
        let length = header.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        if !header.starts_with(b"FHF1") || length > MAX_HEADER_BYTES {
            return Err(Error::usage(format!("{} is not what 'encrypt' sealed", self.file.display()))
                .hint("leave --out out for a message or a wrapped key"));
        }
        (&mut sealed).take(length.into()).read_to_end(&mut header).map_err(unreadable)?;
        let body = json!({ "file_header": base64url(&header), "context": pairs(&self.context) });
        let body = named(body, "key", self.of.clone());
        let answer = session.agent()?.post("/v1/rewrap", &body).await?;
        warn(&answer);
        let header = answer["file_header"].as_str().and_then(|text| from_base64url(text).ok());
        let header = header.ok_or_else(|| Error::new(Exit::Fault, "unexpected_answer", "the agent's answer has no header"))?;
        // Written beside its place, so that a broken end leaves nothing under the name.
        let beside = super::files::beside(target);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(unwritable)?;
        let written = file.write_all(&header).and_then(|()| std::io::copy(&mut sealed, &mut file)).and_then(|_| file.sync_all());
        written.and_then(|()| std::fs::rename(&beside, target)).map_err(|source| {
            let _ = std::fs::remove_file(&beside);
            unwritable(source)
        })?;
        let columns = [("from", "/source/key_version"), ("to", "/key_version"), ("policies", "/policies")];
        output::object(session.output, &columns, &answer)
    }
}

impl ReEncryptMessage {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let body = json!({ "message": text_of(&self.file)?, "key": self.key, "context": pairs(&self.context) });
        let mut body = named(body, "source_key", self.of);
        if !self.new_context.is_empty() {
            body["new_context"] = json!(pairs(&self.new_context));
        }
        answer(session, "/v1/re-encrypt", &body, &["message"]).await
    }
}

impl ReSign {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let signature = text_of(&self.signature)?;
        if is_of_stream(&signature) {
            let mut path = url::form_urlencoded::Serializer::new("/v1/stream/re-sign?".to_owned());
            path.append_pair("key", &self.key);
            return show(session, &stream(session, &path.finish(), Some(signature), &self.file, self.quiet).await?, &["signature"]);
        }
        let payload = base64url(&read_message(&self.file)?);
        let body = json!({ "signature": signature, "payload": payload, "key": self.key, "detached": true });
        answer(session, "/v1/re-sign", &body, &["signature"]).await
    }
}

/// The request with the recipient that is meant, when one is named.
fn named(mut body: Value, field: &str, key: Option<String>) -> Value {
    if let Some(key) = key {
        body[field] = json!(key);
    }
    body
}

/// For people the result alone and beside it what became of what; for programs everything.
async fn answer(session: &Session, path: &str, body: &Value, fields: &[&str]) -> Result<(), Error> {
    show(session, &session.agent()?.post(path, body).await?, fields)
}

fn show(session: &Session, answer: &Value, fields: &[&str]) -> Result<(), Error> {
    warn(answer);
    if session.output != output::Format::Table {
        return output::object(session.output, &[], answer);
    }
    output::note(&format!("from {} to {}", output::cell(answer.pointer("/source/key_version")), output::cell(answer.get("key_version"))));
    let made = fields.iter().find_map(|field| answer[field].as_str());
    output::line(made.unwrap_or_default())
}

fn pairs(pairs: &[(String, String)]) -> Pairs {
    pairs.iter().cloned().collect()
}

fn text_of(path: &Path) -> Result<String, Error> {
    let text = String::from_utf8(read_message(path)?).map_err(|_| Error::usage(format!("{} is not text", path.display())))?;
    Ok(text.trim().to_owned())
}
