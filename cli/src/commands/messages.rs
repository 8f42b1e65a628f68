//! Signatures, data keys, random bytes and public keys.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use schema::encoding::{base64url, from_base64url};
use serde_json::{Value, json};

use super::{Session, files::Upload};
use crate::{
    error::{Error, Exit},
    output, secret,
};

/// Sign standard input or a file: up to 1 MiB itself, any size with --stream.
#[derive(Debug, clap::Args)]
pub struct Sign {
    /// The key: id, or project/name; or a composite, whose two keys sign
    #[arg(long)]
    key: String,
    /// Sign any size: a manifest with two digests and the length, which 'verify' knows by itself
    #[arg(long)]
    stream: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// What to sign; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Where the signature goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

/// Verify what 'sign' signed.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The signature, as 'freehold sign' printed it
    #[arg(long, value_name = "FILE")]
    signature: PathBuf,
    /// The key it must be of, or the composite whose rule it must meet: id, or project/name [default: what the signature names]
    #[arg(long)]
    key: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// What was signed; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Make a data key: sealed, and in clear where that is asked for.
#[derive(Debug, clap::Args)]
pub struct DataKey {
    /// The key it is sealed for: id, or project/name
    #[arg(long)]
    key: String,
    /// Encryption context; may be repeated
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    context: Vec<(String, String)>,
    /// Where the clear data key goes (32 bytes); only its owner can read it [default: it is only given sealed]
    #[arg(long, value_name = "FILE")]
    plaintext_file: Option<PathBuf>,
}

/// Random bytes.
#[derive(Debug, clap::Args)]
pub struct Random {
    /// How many
    #[arg(default_value_t = 32)]
    bytes: u32,
}

/// Print a public key.
#[derive(Debug, clap::Args)]
pub struct PublicKey {
    /// The key: id, key_.../3, or project/name
    key: String,
    /// How to write it
    #[arg(long, default_value = "jwk", value_parser = ["jwk", "jwks", "pem"])]
    format: String,
}

const SIGNED: [output::Column; 3] = [("key version", "/key_version"), ("algorithm", "/algorithm"), ("policies", "/policies")];
const SIGNED_TOGETHER: [output::Column; 5] = [
    ("classical", "/key_version"),
    ("classical algorithm", "/algorithm"),
    ("post-quantum", "/also/key_version"),
    ("post-quantum algorithm", "/also/algorithm"),
    ("policies", "/policies"),
];
const VERIFIED: [output::Column; 4] =
    [("valid", "/valid"), ("key version", "/key_version"), ("algorithm", "/algorithm"), ("policies", "/policies")];
const JUDGED: [output::Column; 8] = [
    ("valid", "/valid"),
    ("rule", "/composite/rule"),
    ("classical", "/composite/signatures/0/key_version"),
    ("classical valid", "/composite/signatures/0/valid"),
    ("post-quantum", "/composite/signatures/1/key_version"),
    ("post-quantum valid", "/composite/signatures/1/valid"),
    ("reason", "/reason"),
    ("policies", "/policies"),
];

impl Sign {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let answer = if self.stream {
            let mut path = url::form_urlencoded::Serializer::new("/v1/stream/sign?".to_owned());
            path.append_pair("key", &self.key);
            stream(session, &path.finish(), None, &self.file, self.quiet).await?
        } else {
            let payload = read_message(&self.file)?;
            let body = json!({ "key": self.key, "payload": base64url(&payload), "detached": true });
            session.agent()?.post("/v1/sign", &body).await?
        };
        warn(&answer);
        let signature = answer["signature"].as_str().unwrap_or_default();
        match &self.signature {
            Some(path) => {
                std::fs::write(path, format!("{signature}\n"))
                    .map_err(|source| Error::fault(&format!("could not write {}", path.display()), source))?;
                let columns = if answer["also"].is_null() { SIGNED.as_slice() } else { &SIGNED_TOGETHER };
                output::object(session.output, columns, &answer)
            }
            None if session.output == output::Format::Table => output::line(signature),
            None => output::object(session.output, &[], &answer),
        }
    }
}

impl Verify {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let signature = std::fs::read_to_string(&self.signature).map_err(|source| Error {
            exit: Exit::Usage,
            ..Error::fault(&format!("could not read {}", self.signature.display()), source)
        })?;
        let answer = if is_of_stream(&signature) {
            let mut path = url::form_urlencoded::Serializer::new("/v1/stream/verify?".to_owned());
            path.extend_pairs(self.key.as_ref().map(|key| ("key", key)));
            stream(session, &path.finish(), Some(signature.trim().to_owned()), &self.file, self.quiet).await?
        } else {
            let payload = read_message(&self.file)?;
            let mut body = json!({ "signature": signature.trim(), "payload": base64url(&payload) });
            if let Some(key) = &self.key {
                body["key"] = json!(key);
            }
            session.agent()?.post("/v1/verify", &body).await?
        };
        warn(&answer);
        let columns = if answer["composite"].is_null() { VERIFIED.as_slice() } else { &JUDGED };
        output::object(session.output, columns, &answer)?;
        if answer["valid"] == true {
            return Ok(());
        }
        let why = match answer["reason"].as_str() {
            Some("signature_missing") => "a signature that the rule demands is missing",
            Some("context_mismatch") => "it is bound to another encryption context",
            _ => "the document or the signature was changed, or another key made it",
        };
        Err(Error::new(Exit::Unverified, "signature_invalid", format!("the signature does not verify: {why}")))
    }
}

impl DataKey {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        if let Some(file) = &self.plaintext_file {
            secret::check_new(file, "the data key")?;
        }
        let context: schema::key::Pairs = self.context.into_iter().collect();
        let body = json!({ "key": self.key, "context": context, "without_plaintext": self.plaintext_file.is_none() });
        let answer = session.agent()?.post("/v1/generate-data-key", &body).await?;
        warn(&answer);
        if let Some(file) = &self.plaintext_file {
            let plaintext = zeroize::Zeroizing::new(answer["plaintext"].as_str().unwrap_or_default().to_owned());
            secret::write_new(file, "the data key", &plaintext)?;
            output::note(&format!("the clear data key is in {}, as base64url", file.display()));
        }
        let mut shown = answer.clone();
        if let Some(map) = shown.as_object_mut() {
            map.remove("plaintext");
        }
        output::object(session.output, &[("message", "/message"), ("key version", "/key_version"), ("policies", "/policies")], &shown)
    }
}

impl Random {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let answer = session.agent()?.post("/v1/random", &json!({ "bytes": self.bytes })).await?;
        output::line(answer["random"].as_str().unwrap_or_default())
    }
}

impl PublicKey {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let path = format!("/v1/keys/{}/public?format={}", self.key, self.format);
        output::line(session.agent()?.text(&path).await?.trim_end())
    }
}

/// Sends a file of any size to be signed or verified.
pub async fn stream(session: &Session, path: &str, signature: Option<String>, file: &Path, quiet: bool) -> Result<Value, Error> {
    let input = (file != Path::new("-")).then_some(file);
    let Upload { source, length, progress } = Upload::open(input, quiet).await?;
    let answer = session.agent()?.stream_for_json(path, &[("freehold-signature", signature)], &source, length).await;
    progress.finish_and_clear();
    answer
}

/// Whether a signature is one over the manifest of a stream: its header says so.
pub fn is_of_stream(signature: &str) -> bool {
    let json: Option<Value> = serde_json::from_str(signature).ok();
    let first = match &json {
        Some(json) => json.pointer("/signatures/0/protected").or(json.get("protected")).and_then(Value::as_str),
        None => signature.trim().split('.').next(),
    };
    let header = first.and_then(|header| from_base64url(header).ok());
    let header: Option<Value> = header.and_then(|json| serde_json::from_slice(&json).ok());
    header.is_some_and(|header| header["typ"] == "freehold-manifest+jws")
}

/// Warnings of the agent, for people.
pub fn warn(answer: &Value) {
    // Beside those of the key that did it, those of the others that took part.
    const OTHERS: [&str; 6] = ["/source", "/also", "/sealed", "/signed", "/their_key", "/composite/signatures/1"];
    let also_for = answer["also_for"].as_array().into_iter().flatten();
    let used = std::iter::once(answer).chain(OTHERS.iter().filter_map(|other| answer.pointer(other))).chain(also_for);
    for warning in used.filter_map(|used| used["warnings"].as_array()).flatten() {
        output::note(&format!("warning: {}", output::cell(Some(warning))));
    }
}

/// Reads at most 1 MiB from a file; '-' is standard input.
pub fn read_message(path: &Path) -> Result<Vec<u8>, Error> {
    const MAX: u64 = 1024 * 1024;
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        std::io::stdin().take(MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX + 1).read_to_end(&mut bytes))
    };
    result.map_err(|source| Error { exit: Exit::Usage, ..Error::fault(&format!("could not read {}", path.display()), source) })?;
    if bytes.len() as u64 > MAX {
        return Err(Error::usage(format!("{} is larger than 1 MiB", path.display()))
            .hint("for more than that: freehold sign --stream, or freehold encrypt"));
    }
    Ok(bytes)
}
