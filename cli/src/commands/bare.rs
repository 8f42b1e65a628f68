//! Bare bytes: tags, signatures over digests, wrapped keys, secrets. Secrets go to files that only their owner can read.

use std::path::{Path, PathBuf};

use schema::{
    encoding::{base64url, from_base64url},
    key::Pairs,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Session,
    key::read_public_key,
    messages::{read_message, warn},
};
use crate::{
    error::{Error, Exit},
    output, secret,
};

/// Facts for policy and receipts.
#[derive(Debug, clap::Args)]
pub struct Facts {
    /// Facts for policy and receipts; nothing binds them to the result; may be repeated
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    context: Vec<(String, String)>,
}

impl Facts {
    fn pairs(&self) -> Pairs {
        self.context.iter().cloned().collect()
    }
}

/// Authenticate standard input or a file of at most 1 MiB with a shared key.
#[derive(Debug, clap::Args)]
pub struct Mac {
    /// The key: id, or project/name
    #[arg(long)]
    key: String,
    #[command(flatten)]
    facts: Facts,
    /// What to authenticate; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Check the tag of standard input or a file.
#[derive(Debug, clap::Args)]
pub struct VerifyMac {
    /// The key version that made it, key_.../3, as 'mac' said
    #[arg(long)]
    key: String,
    /// The tag, base64url
    #[arg(long)]
    tag: String,
    #[command(flatten)]
    facts: Facts,
    /// What was authenticated; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Sign a ready digest.
#[derive(Debug, clap::Args)]
pub struct SignDigest {
    /// The key: id, or project/name
    #[arg(long)]
    key: String,
    /// The digest, hexadecimal, as sha256sum prints it
    #[arg(value_parser = hexadecimal)]
    digest: String,
    #[command(flatten)]
    facts: Facts,
}

/// Verify a signature over a ready digest.
#[derive(Debug, clap::Args)]
pub struct VerifyDigest {
    /// The key version that made it, key_.../3, as 'sign-digest' said
    #[arg(long)]
    key: String,
    /// The digest, hexadecimal
    #[arg(value_parser = hexadecimal)]
    digest: String,
    /// File with the signature, as 'sign-digest' printed it
    #[arg(long, value_name = "FILE")]
    signature: PathBuf,
    #[command(flatten)]
    facts: Facts,
}

/// Wrap a bare key.
#[derive(Debug, clap::Args)]
pub struct Wrap {
    /// The key to wrap it with: id, or project/name
    #[arg(long)]
    key: String,
    #[command(flatten)]
    facts: Facts,
    /// File with the key to wrap, as raw bytes; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Unwrap a bare key.
#[derive(Debug, clap::Args)]
pub struct Unwrap {
    /// The key version that wrapped it, key_.../3, as 'wrap' said
    #[arg(long)]
    key: String,
    #[command(flatten)]
    into: Into,
    #[command(flatten)]
    facts: Facts,
    /// File with the wrapped key, as 'wrap' printed it; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Agree on a secret with the holder of another key.
#[derive(Debug, clap::Args)]
pub struct Agree {
    /// The key: id, or project/name
    #[arg(long)]
    key: String,
    #[command(flatten)]
    theirs: Theirs,
    #[command(flatten)]
    into: Into,
    #[command(flatten)]
    facts: Facts,
}

/// The other's public key.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Theirs {
    /// The other's public key, base64url: 32 bytes of X25519, or an uncompressed point
    #[arg(long, value_name = "KEY")]
    public_key: Option<String>,
    /// A file with the other's public key: JWK or PEM
    #[arg(long, value_name = "FILE")]
    public_key_file: Option<PathBuf>,
    /// The other's key as policy names it, such as a partner's: id, key_.../3, or project/name
    #[arg(long, value_name = "KEY")]
    their_key: Option<String>,
}

/// Make a secret for the holder of a key.
#[derive(Debug, clap::Args)]
pub struct Encapsulate {
    /// The key: id, or project/name
    #[arg(long)]
    key: String,
    #[command(flatten)]
    into: Into,
    #[command(flatten)]
    facts: Facts,
}

/// Take an encapsulated secret out.
#[derive(Debug, clap::Args)]
pub struct Decapsulate {
    /// The key version it was made for, key_.../3, as 'encapsulate' said
    #[arg(long)]
    key: String,
    #[command(flatten)]
    into: Into,
    #[command(flatten)]
    facts: Facts,
    /// File with the encapsulated secret, as 'encapsulate' printed it; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Derive a key.
#[derive(Debug, clap::Args)]
pub struct Derive {
    /// The key version, key_.../3; without a version the newest, which changes when the key is rotated
    #[arg(long)]
    key: String,
    /// What the derived key is for: another one for each text
    #[arg(long, default_value = "")]
    info: String,
    /// The salt, base64url
    #[arg(long, default_value = "")]
    salt: String,
    /// How many bytes
    #[arg(long, default_value_t = 32)]
    bytes: u32,
    #[command(flatten)]
    into: Into,
    #[command(flatten)]
    facts: Facts,
}

/// Where a secret goes.
#[derive(Debug, clap::Args)]
pub struct Into {
    /// Where the secret goes, as base64url; a new file that only its owner can read
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
}

impl Mac {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let body = json!({ "key": self.key, "payload": base64url(&read_message(&self.file)?), "context": self.facts.pairs() });
        made(session, "/v1/mac", &body, "tag").await
    }
}

impl VerifyMac {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let payload = base64url(&read_message(&self.file)?);
        let body = json!({ "key": self.key, "payload": payload, "tag": self.tag, "context": self.facts.pairs() });
        checked(
            session,
            "/v1/verify-mac",
            &body,
            "tag_invalid",
            "the tag does not verify: the data or the tag was changed, or another key made it",
        )
        .await
    }
}

impl SignDigest {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let body = json!({ "key": self.key, "digest": self.digest, "context": self.facts.pairs() });
        made(session, "/v1/sign-digest", &body, "signature").await
    }
}

impl VerifyDigest {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let signature = text_of(&self.signature)?;
        let body = json!({ "key": self.key, "digest": self.digest, "signature": signature, "context": self.facts.pairs() });
        let wrong = "the signature does not verify: it is of another digest, or another key made it";
        checked(session, "/v1/verify-digest", &body, "signature_invalid", wrong).await
    }
}

impl Wrap {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let plaintext = Zeroizing::new(read_message(&self.file)?);
        let body = json!({ "key": self.key, "plaintext": base64url(&plaintext), "context": self.facts.pairs() });
        made(session, "/v1/wrap", &body, "wrapped").await
    }
}

impl Unwrap {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let body = json!({ "key": self.key, "wrapped": text_of(&self.file)?, "context": self.facts.pairs() });
        self.into.secret(session, "/v1/unwrap", &body, "plaintext", None).await
    }
}

impl Agree {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let mut body = json!({ "key": self.key, "context": self.facts.pairs() });
        let (field, theirs) = self.theirs.read()?;
        body[field] = theirs;
        self.into.secret(session, "/v1/agree", &body, "secret", None).await
    }
}

impl Theirs {
    /// The field of the request it stands in, and what it is there.
    fn read(self) -> Result<(&'static str, Value), Error> {
        let Self { public_key, public_key_file, their_key } = self;
        let Some(path) = public_key_file else {
            return Ok(public_key.map_or(("their_key", json!(their_key)), |bytes| ("public_key", json!(bytes))));
        };
        let text = read_public_key(&path)?;
        match serde_json::from_str::<Value>(&text) {
            Ok(jwk) => Ok(("jwk", jwk)),
            Err(_) => Ok(("pem", json!(text))),
        }
    }
}

impl Encapsulate {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let body = json!({ "key": self.key, "context": self.facts.pairs() });
        self.into.secret(session, "/v1/encapsulate", &body, "secret", Some("ciphertext")).await
    }
}

impl Decapsulate {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let body = json!({ "key": self.key, "ciphertext": text_of(&self.file)?, "context": self.facts.pairs() });
        self.into.secret(session, "/v1/decapsulate", &body, "secret", None).await
    }
}

impl Derive {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let (info, context) = (base64url(self.info.as_bytes()), self.facts.pairs());
        let body = json!({ "key": self.key, "info": info, "salt": self.salt, "bytes": self.bytes, "context": context });
        self.into.secret(session, "/v1/derive", &body, "derived", None).await
    }
}

impl Into {
    /// Asks for a secret, writes it to its file, and prints what is not secret.
    async fn secret(&self, session: &Session, path: &str, body: &Value, field: &str, shown: Option<&str>) -> Result<(), Error> {
        secret::check_new(&self.secret_file, "the secret")?;
        let mut answer = session.agent()?.post(path, body).await?;
        warn(&answer);
        let taken = answer.as_object_mut().and_then(|map| map.remove(field));
        let text = Zeroizing::new(taken.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned());
        secret::write_new(&self.secret_file, "the secret", &text)?;
        output::note(&format!("the secret is in {}, as base64url", self.secret_file.display()));
        match shown {
            Some(field) => show(session, &answer, field),
            None => output::object(session.output, &[("key version", "/key_version"), ("policies", "/policies")], &answer),
        }
    }
}

/// Asks for something that is not secret, and prints it.
async fn made(session: &Session, path: &str, body: &Value, field: &str) -> Result<(), Error> {
    let answer = session.agent()?.post(path, body).await?;
    warn(&answer);
    show(session, &answer, field)
}

/// For people the result alone, to be kept, and beside it the version to name later; for programs everything.
fn show(session: &Session, answer: &Value, field: &str) -> Result<(), Error> {
    if session.output != output::Format::Table {
        return output::object(session.output, &[], answer);
    }
    output::note(&format!("made with {}: name it to use this again", output::cell(answer.get("key_version"))));
    output::line(answer[field].as_str().unwrap_or_default())
}

async fn checked(session: &Session, path: &str, body: &Value, code: &str, wrong: &str) -> Result<(), Error> {
    let answer = session.agent()?.post(path, body).await?;
    warn(&answer);
    let columns = [("valid", "/valid"), ("key version", "/key_version"), ("algorithm", "/algorithm"), ("policies", "/policies")];
    output::object(session.output, &columns, &answer)?;
    if answer["valid"] == true { Ok(()) } else { Err(Error::new(Exit::Unverified, code, wrong)) }
}

/// One line of text from a file or standard input: what another command printed.
fn text_of(path: &Path) -> Result<String, Error> {
    let text = String::from_utf8(read_message(path)?).unwrap_or_default();
    let text = text.trim();
    if text.is_empty() || from_base64url(text).is_err() {
        return Err(Error::usage(format!("{} is not base64url", path.display())).hint("give it the way it was printed"));
    }
    Ok(text.to_owned())
}

/// Hexadecimal text as base64url.
fn hexadecimal(text: &str) -> Result<String, String> {
    let wrong = || "expected hexadecimal digits, two for each byte".to_owned();
    if !text.len().is_multiple_of(2) || text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let bytes: Result<Vec<u8>, _> = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16)).collect();
    bytes.map(|bytes| base64url(&bytes)).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_hexadecimal() {
        assert_eq!(hexadecimal("00ff"), Ok("AP8".to_owned()));
        for wrong in ["", "0", "0g", "öö"] {
            assert!(hexadecimal(wrong).is_err(), "{wrong}");
        }
    }
}
