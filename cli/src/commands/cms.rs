//! What old programs sealed or signed as CMS (PKCS#7): opened and verified by the agent, and made anew with a key of ours where that is
//! asked for. Weak algorithms need the right to `decrypt-legacy` or `verify-legacy`.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use schema::{
    encoding::{base64url, from_base64url},
    key::Pairs,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Session,
    messages::{read_message, warn},
};
use crate::{
    error::{Error, Exit},
    output,
};

/// CMS of old programs.
#[derive(Debug, clap::Subcommand)]
pub enum Cms {
    /// Open enveloped data, or seal its content again under another key
    Open(Open),
    /// Verify signed data, and sign its content again with another key where that is asked for
    Verify(Verify),
}

/// Open enveloped data.
#[derive(Debug, clap::Args)]
pub struct Open {
    /// The key it was sealed to: id, or project/name
    #[arg(long)]
    key: String,
    /// Which of several recipients the key is, counted from 0
    #[arg(long, value_name = "NUMBER")]
    recipient: Option<usize>,
    /// Seal the content again under this key and print that; it is not seen here
    #[arg(long, value_name = "KEY", conflicts_with = "target")]
    seal_with: Option<String>,
    #[command(flatten)]
    facts: Facts,
    /// Where the content goes: a new file that only its owner can read [default: standard output]
    #[arg(long = "out", value_name = "FILE")]
    target: Option<PathBuf>,
    /// The message: DER, BER or PEM; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Verify signed data.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The key that must have signed it: id, or project/name
    #[arg(long)]
    key: String,
    /// Which of several signatures the key made, counted from 0
    #[arg(long, value_name = "NUMBER")]
    signer: Option<usize>,
    /// What was signed, when it travels by itself
    #[arg(long, value_name = "FILE")]
    content: Option<PathBuf>,
    /// Sign the content again with this key, and print the signature (a JWS)
    #[arg(long, value_name = "KEY")]
    sign_with: Option<String>,
    #[command(flatten)]
    facts: Facts,
    /// Where the content goes when it is genuine: a new file that only its owner can read
    #[arg(long = "out", value_name = "FILE", conflicts_with = "content")]
    target: Option<PathBuf>,
    /// The message: DER, BER or PEM; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// An encryption context.
#[derive(Debug, clap::Args)]
pub struct Facts {
    /// Encryption context: for policy, and bound to what is made anew; may be repeated
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    context: Vec<(String, String)>,
}

impl Facts {
    fn pairs(&self) -> Pairs {
        self.context.iter().cloned().collect()
    }
}

impl Cms {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        match self {
            Self::Open(open) => open.run(session).await,
            Self::Verify(verify) => verify.run(session).await,
        }
    }
}

impl Open {
    async fn run(self, session: &Session) -> Result<(), Error> {
        check_new(self.target.as_deref())?;
        let mut body = json!({ "message": message(&self.file)?, "key": self.key, "context": self.facts.pairs() });
        put(&mut body, "recipient", self.recipient);
        put(&mut body, "seal_with", self.seal_with.as_ref());
        let mut answer = session.agent()?.post("/v1/cms/open", &body).await?;
        warn(&answer);
        if self.seal_with.is_some() {
            if session.output != output::Format::Table {
                return output::object(session.output, &[], &answer);
            }
            return output::line(answer["message"].as_str().unwrap_or_default());
        }
        let content = taken(&mut answer, "plaintext")?;
        match &self.target {
            Some(target) => {
                write_new(target, &content)?;
                let columns = [("key version", "/key_version"), ("policies", "/policies")];
                output::object(session.output, &columns, &answer)
            }
            None => std::io::stdout().write_all(&content).map_err(|source| Error::fault("could not write", source)),
        }
    }
}

impl Verify {
    async fn run(self, session: &Session) -> Result<(), Error> {
        check_new(self.target.as_deref())?;
        let mut body = json!({ "message": message(&self.file)?, "key": self.key, "context": self.facts.pairs() });
        put(&mut body, "signer", self.signer);
        put(&mut body, "sign_with", self.sign_with.as_ref());
        let content = self.content.as_deref().map(|path| read_message(path).map(|bytes| base64url(&bytes))).transpose()?;
        put(&mut body, "content", content);
        let mut answer = session.agent()?.post("/v1/cms/verify", &body).await?;
        warn(&answer);
        if answer["valid"] != true {
            return Err(Error::new(
                Exit::Unverified,
                "signature_invalid",
                "the signature does not verify: the content or the signature was changed, or another key made it",
            ));
        }
        if let Some(target) = &self.target {
            if answer.get("payload").is_none() {
                return Err(Error::usage("the content is not in the message").hint("give it with --content"));
            }
            write_new(target, &taken(&mut answer, "payload")?)?;
        }
        if let Some(map) = answer.as_object_mut() {
            map.remove("payload");
        }
        if self.sign_with.is_some() && session.output == output::Format::Table {
            return output::line(answer["signature"].as_str().unwrap_or_default());
        }
        let columns = [("valid", "/valid"), ("key version", "/key_version"), ("algorithm", "/algorithm"), ("policies", "/policies")];
        output::object(session.output, &columns, &answer)
    }
}

fn put(body: &mut Value, name: &str, value: Option<impl serde::Serialize>) {
    if let Some(value) = value {
        body[name] = json!(value);
    }
}

/// Takes bytes out of an answer.
fn taken(answer: &mut Value, field: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let text = answer.as_object_mut().and_then(|map| map.remove(field));
    let bytes = text.as_ref().and_then(Value::as_str).and_then(|text| from_base64url(text).ok());
    bytes.map(Zeroizing::new).ok_or_else(|| Error::new(Exit::Fault, "unexpected_answer", format!("the agent's answer has no {field}")))
}

fn check_new(target: Option<&Path>) -> Result<(), Error> {
    match target.filter(|target| target.exists()) {
        Some(target) => Err(Error::usage(format!("{} exists already", target.display())).hint("name another file")),
        None => Ok(()),
    }
}

fn write_new(target: &Path, bytes: &[u8]) -> Result<(), Error> {
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
    let written = opened.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|source| Error::fault(&format!("could not write {}", target.display()), source))
}

/// The message as base64url of what is between the lines of PEM, or of the file as it stands.
fn message(path: &Path) -> Result<String, Error> {
    let bytes = read_message(path)?;
    match unarmoured(&bytes) {
        Some(Ok(der)) => Ok(base64url(&der)),
        Some(Err(_)) => Err(Error::usage(format!("{} begins as PEM, but what follows is not base64", path.display()))),
        None => Ok(base64url(&bytes)),
    }
}

/// What stands in PEM (RFC 7468); none when it is none.
fn unarmoured(bytes: &[u8]) -> Option<Result<Vec<u8>, base64::DecodeError>> {
    let text = std::str::from_utf8(bytes).ok()?.trim_start();
    let body = text.strip_prefix("-----BEGIN ")?.split_once('\n')?.1;
    let body: String = body.lines().take_while(|line| !line.starts_with("-----END ")).map(str::trim).collect();
    Some(BASE64_STANDARD.decode(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn armour_is_taken_off() {
        let pem = b"-----BEGIN CMS-----\r\nAAEC\r\nAwQ=\r\n-----END CMS-----\r\n";
        assert_eq!(unarmoured(pem).unwrap().unwrap(), [0, 1, 2, 3, 4]);
        assert!(unarmoured(b"-----BEGIN CMS-----\n!\n").unwrap().is_err());
        assert!(unarmoured(b"\x30\x03\x02\x01\x00").is_none() && unarmoured(b"AAEC").is_none());
    }
}
