//! Keys that come from elsewhere and keys that leave, certificates of keys, and what a transit engine sealed. Material is wrapped
//! before it leaves this process, and comes back wrapped.

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use schema::{
    encoding::base64url,
    key::Pairs,
    wire::operation::{MaterialFormat, Wrapping},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Session,
    messages::{read_message, warn},
};
use crate::{
    agent,
    error::{Error, Exit},
    graphql::{Client, documents::KEY},
    material::{self, Container, Found, NoKey, transit, wrap},
    output, secret,
};

/// How long is waited for an agent to know of a version, or for a version to be active, and how often it is looked.
const PATIENCE: (usize, Duration) = (300, Duration::from_millis(200));

/// Bring the material of a version.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// The key, created with --origin imported: id, or project/name
    key: String,
    /// The file that holds it; '-' is standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// How the file keeps it: pem, der, pkcs12, jks, jwk, raw, transit [default: by what is in it; raw must be said]
    #[arg(long, value_parser = parse::<Container>, value_name = "FORMAT")]
    format: Option<Container>,
    /// Which of several keys of a key store
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// A file with the password that opens it [default: asked for]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A file with the password of the key, where a Java key store has another one for it
    #[arg(long, value_name = "FILE")]
    key_password_file: Option<PathBuf>,
    /// How to wrap it on its way: hpke, rsa-aes-kwp
    #[arg(long, value_parser = parse::<Wrapping>, default_value = "hpke", value_name = "WRAPPING")]
    wrapping: Wrapping,
    /// The file was wrapped already, elsewhere, under this import key (by rsa-aes-kwp, or as a JWE that names it)
    #[arg(long, value_name = "ID", conflicts_with_all = ["format", "alias", "password_file", "key_password_file", "wrapping"])]
    wrapped_under: Option<String>,
    /// What a file that was wrapped elsewhere has inside: pkcs8, jwk, raw
    #[arg(long, value_parser = parse::<MaterialFormat>, default_value = "pkcs8", value_name = "FORMAT", requires = "wrapped_under")]
    inside: MaterialFormat,
    #[command(flatten)]
    facts: Facts,
    /// Wait until the version is active (asks the control plane)
    #[arg(long)]
    wait: bool,
}

/// Get a key to wrap material under, elsewhere.
#[derive(Debug, clap::Args)]
pub struct ImportKey {
    /// The key, created with --origin imported: id, or project/name
    key: String,
    /// How it will be wrapped: hpke, rsa-aes-kwp
    #[arg(long, value_parser = parse::<Wrapping>, default_value = "rsa-aes-kwp", value_name = "WRAPPING")]
    wrapping: Wrapping,
    /// Where the public key goes: PEM where there is such a form, else a JWK [default: standard output]
    #[arg(long = "out", value_name = "FILE")]
    target: Option<PathBuf>,
    #[command(flatten)]
    facts: Facts,
}

/// Take the material of an exportable key out, wrapped.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The key: id, project/name, or a version (key_.../3)
    key: String,
    /// The public key it is wrapped to: a JWK, or a PEM
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// What it looks like when it is unwrapped: pkcs8, jwk, raw
    #[arg(long, value_parser = parse::<MaterialFormat>, default_value = "jwk", value_name = "FORMAT")]
    format: MaterialFormat,
    /// Wrap as PKCS #11 has it (rsa-aes-kwp), for HSMs and cloud services [default: a JWE]
    #[arg(long, value_parser = parse::<Wrapping>, value_name = "WRAPPING")]
    wrapping: Option<Wrapping>,
    /// Where it goes: a new file that only its owner can read
    #[arg(long = "out", value_name = "FILE")]
    target: PathBuf,
    #[command(flatten)]
    facts: Facts,
}

/// Ask for a certificate of a key, or make one that it signs itself.
#[derive(Debug, clap::Args)]
pub struct Csr {
    /// The key, which signs: id, or project/name
    key: String,
    /// The subject, like CN=pay.example,O=Example
    #[arg(long, default_value = "", hide_default_value = true)]
    subject: String,
    /// A DNS name; may be repeated
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// An IP address; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<std::net::IpAddr>,
    /// An e-mail address; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    email: Vec<String>,
    /// A URI, such as a SPIFFE id; may be repeated
    #[arg(long)]
    uri: Vec<String>,
    /// Make a certificate that the key signs itself: for development
    #[arg(long)]
    self_signed: bool,
    /// How many days such a certificate lives [default: 30]
    #[arg(long, requires = "self_signed")]
    days: Option<u32>,
    /// Where it goes, PEM [default: standard output]
    #[arg(long = "out", value_name = "FILE")]
    target: Option<PathBuf>,
    #[command(flatten)]
    facts: Facts,
}

/// Ciphertexts of the transit engine of Vault and OpenBao.
#[derive(Debug, clap::Subcommand)]
pub enum Transit {
    /// Open what the transit engine sealed, or seal it again under another key
    Open(TransitOpen),
}

/// Open what the transit engine sealed.
#[derive(Debug, clap::Args)]
pub struct TransitOpen {
    /// The key that its key was imported as: id, or project/name
    #[arg(long)]
    key: String,
    /// Seal it again under this key and print that; it is not seen here
    #[arg(long, value_name = "KEY", conflicts_with = "target")]
    seal_with: Option<String>,
    /// A file with the associated data it was sealed with
    #[arg(long, value_name = "FILE")]
    associated_data: Option<PathBuf>,
    /// A file with the context of the engine's key derivation, where its key is a derived one
    #[arg(long, value_name = "FILE")]
    derivation_context: Option<PathBuf>,
    #[command(flatten)]
    facts: Facts,
    /// Where the plaintext goes: a new file that only its owner can read [default: standard output]
    #[arg(long = "out", value_name = "FILE")]
    target: Option<PathBuf>,
    /// The ciphertext, vault:v1:...; '-' is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// An encryption context.
#[derive(Debug, clap::Args)]
pub struct Facts {
    /// Encryption context, for policy; may be repeated
    #[arg(long, value_parser = super::pair, value_name = "NAME=VALUE")]
    context: Vec<(String, String)>,
}

impl Facts {
    fn pairs(&self) -> Pairs {
        self.context.iter().cloned().collect()
    }
}

fn parse<T: std::str::FromStr<Err = schema::key::UnknownWord>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: schema::key::UnknownWord| error.to_string())
}

impl Import {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let agent = session.agent()?;
        if let Some(id) = &self.wrapped_under {
            let answer = agent.post("/v1/import", &self.wrapped_elsewhere(id)?).await?;
            return self.shown(session, answer).await;
        }
        let bytes = Zeroizing::new(read_file(&self.file)?);
        let container = self.format.or_else(|| material::recognise(&bytes)).ok_or_else(|| {
            Error::usage(format!("nothing says what {} is", self.file.display()))
                .hint("say it with --format; the bytes of a key itself are --format raw")
        })?;
        if container == Container::Transit {
            return self.import_versions(session, &agent, &bytes).await;
        }
        let found = self.take_out(&bytes, container)?;
        drop(bytes);
        let offered = self.import_key(&agent).await?;
        let answer = self.send(&agent, &offered, &found).await?;
        self.shown(session, answer).await
    }

    /// What was wrapped elsewhere is sent as it is.
    fn wrapped_elsewhere(&self, id: &str) -> Result<Value, Error> {
        let bytes = read_file(&self.file)?;
        let mut body = json!({ "key": self.key, "format": self.inside, "context": self.facts.pairs() });
        match std::str::from_utf8(&bytes).ok().map(str::trim).filter(|text| text.split('.').count() == 5) {
            Some(jwe) => body["jwe"] = json!(jwe),
            None => {
                body["wrapped"] = json!(base64url(&bytes));
                body["import_key"] = json!(id);
            }
        }
        Ok(body)
    }

    fn take_out(&self, bytes: &[u8], container: Container) -> Result<Found, Error> {
        let mut asked = 0;
        let mut ask = |what: &str| {
            asked += 1;
            let file = if asked > 1 { &self.key_password_file } else { &self.password_file };
            password(file.as_deref(), what, if asked > 1 { "--key-password-file" } else { "--password-file" })
        };
        material::read(bytes, container, self.alias.as_deref(), &mut ask).map_err(|error| no_key(&self.file, &error))
    }

    async fn import_key(&self, agent: &agent::Client) -> Result<Value, Error> {
        agent.post("/v1/import-key", &json!({ "key": self.key, "wrapping": self.wrapping, "context": self.facts.pairs() })).await
    }

    async fn send(&self, agent: &agent::Client, offered: &Value, found: &Found) -> Result<Value, Error> {
        let failed = |error: wrap::NotWrapped| Error::new(Exit::Fault, "not_wrapped", error.to_string());
        // The version that the import key is for, so that nothing else can be meant.
        let mut body = json!({ "key": offered["key_version"], "format": found.format, "context": self.facts.pairs() });
        match self.wrapping {
            Wrapping::Hpke => body["jwe"] = json!(wrap::hpke(&offered["jwk"], &found.bytes).map_err(failed)?),
            Wrapping::RsaAesKwp => {
                body["wrapped"] = json!(base64url(&wrap::rsa_aes_kwp(&offered["jwk"], &found.bytes).map_err(failed)?));
                body["import_key"] = offered["import_key"].clone();
            }
        }
        agent.post("/v1/import", &body).await
    }

    async fn shown(&self, session: &Session, answer: Value) -> Result<(), Error> {
        warn(&answer);
        if self.wait {
            let (key, number) = version_of(&answer)?;
            active(&session.control_plane()?, &key, number).await?;
        }
        let columns =
            [("key version", "/key_version"), ("algorithm", "/algorithm"), ("fingerprint", "/fingerprint"), ("policies", "/policies")];
        output::object(session.output, &columns, &answer)
    }

    /// Every version of a backup of the transit engine, under its own number. What is there already is left alone, so that it can be
    /// run again after it broke off.
    async fn import_versions(&self, session: &Session, agent: &agent::Client, bytes: &[u8]) -> Result<(), Error> {
        let backup = transit::read(bytes).map_err(|error| no_key(&self.file, &error))?;
        let control_plane = session.control_plane()?;
        let mut key = one_key(&control_plane, &self.key).await?;
        let algorithm = key["algorithm"]["name"].as_str().unwrap_or_default().to_owned();
        if !backup.algorithms.contains(&algorithm.as_str()) {
            return Err(Error::usage(format!("{} is a key of {algorithm}, and the backup is one of {}", self.key, backup.kind))
                .hint(format!("create a key of {} with --origin imported", backup.algorithms.join(" or "))));
        }
        let mut rows = Vec::new();
        for (number, found) in &backup.versions {
            if state_of(&key, *number).is_none() {
                let payload = control_plane.mutate(KEY, "RotateKey", json!({ "key": key["id"] })).await?;
                key = payload.get("key").cloned().unwrap_or(Value::Null);
            }
            if state_of(&key, *number).as_deref() != Some("PRE_ACTIVATION") {
                rows.push(json!({ "version": number, "what": "was there already", "fingerprint": null }));
                continue;
            }
            let answer = match self.offered_for(agent, *number).await? {
                Some(offered) => self.send(agent, &offered, found).await?,
                None => json!({}),
            };
            warn(&answer);
            key = active(&control_plane, key["id"].as_str().unwrap_or_default(), (*number).into()).await?;
            rows.push(json!({ "version": number, "what": "imported", "fingerprint": answer["fingerprint"] }));
        }
        output::list(session.output, &[("version", "/version"), ("what", "/what"), ("fingerprint", "/fingerprint")], &rows)
    }

    /// The import key for a version, as soon as the agent knows that it waits; none when it has its material already.
    async fn offered_for(&self, agent: &agent::Client, number: u32) -> Result<Option<Value>, Error> {
        let (tries, pause) = PATIENCE;
        for _ in 0..tries {
            match self.import_key(agent).await {
                Ok(offered) if version_of(&offered)?.1 == u64::from(number) => return Ok(Some(offered)),
                Ok(_) => {}
                Err(error) if matches!(error.code.as_str(), "no_version_awaited" | "key_not_found") => {}
                Err(error) if error.code == "version_already_made" => return Ok(None),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
        }
        Err(Error::new(Exit::Fault, "not_awaited_yet", format!("the agent does not know yet that version {number} waits"))
            .hint("does it reach the control plane? See 'freehold status'; then run the same again"))
    }
}

impl ImportKey {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let body = json!({ "key": self.key, "wrapping": self.wrapping, "context": self.facts.pairs() });
        let answer = session.agent()?.post("/v1/import-key", &body).await?;
        let text = answer["pem"].as_str().map_or_else(|| format!("{:#}\n", answer["jwk"]), str::to_owned);
        let columns = [
            ("import key", "/import_key"),
            ("for version", "/key_version"),
            ("algorithm", "/algorithm"),
            ("wrapping", "/wrapping"),
            ("expires", "/expires"),
        ];
        match &self.target {
            Some(target) => {
                std::fs::write(target, text).map_err(|source| Error::fault(&format!("could not write {}", target.display()), source))?;
                output::object(session.output, &columns, &answer)
            }
            None if session.output != output::Format::Table => output::object(session.output, &[], &answer),
            None => {
                output::note(&format!(
                    "import key {} for {}, until {}",
                    text_of(&answer, "import_key"),
                    text_of(&answer, "key_version"),
                    text_of(&answer, "expires")
                ));
                output::line(text.trim_end())
            }
        }
    }
}

impl Export {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        secret::check_new(&self.target, "the wrapped key")?;
        let public_key = super::key::read_public_key(&self.to)?;
        let mut body = json!({ "key": self.key, "format": self.format, "context": self.facts.pairs() });
        if let Some(wrapping) = self.wrapping {
            body["wrapping"] = json!(wrapping);
        }
        match serde_json::from_str::<Value>(&public_key) {
            Ok(jwk) => body["jwk"] = jwk,
            Err(_) => body["pem"] = json!(public_key),
        }
        let mut answer = session.agent()?.post("/v1/export", &body).await?;
        warn(&answer);
        let taken = |answer: &mut Value, name: &str| answer.as_object_mut().and_then(|map| map.remove(name));
        let (jwe, wrapped) = (taken(&mut answer, "jwe"), taken(&mut answer, "wrapped"));
        let bytes = match (jwe.as_ref().and_then(Value::as_str), wrapped.as_ref().and_then(Value::as_str)) {
            (Some(jwe), None) => format!("{jwe}\n").into_bytes(),
            (None, Some(text)) => schema::encoding::from_base64url(text).map_err(|_| unexpected("wrapped"))?,
            _ => return Err(unexpected("wrapped key")),
        };
        write_new(&self.target, &bytes)?;
        let columns = [
            ("key version", "/key_version"),
            ("algorithm", "/algorithm"),
            ("format", "/format"),
            ("recipient", "/recipient"),
            ("policies", "/policies"),
        ];
        output::object(session.output, &columns, &answer)
    }
}

impl Csr {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let kind = if self.self_signed { "self-signed" } else { "request" };
        let mut body = json!({
            "key": self.key, "kind": kind, "subject": self.subject, "dns": self.dns, "ip": self.ip, "email": self.email, "uri": self.uri,
            "context": self.facts.pairs(),
        });
        if let Some(days) = self.days {
            body["days"] = json!(days);
        }
        let answer = session.agent()?.post("/v1/certify", &body).await?;
        warn(&answer);
        match &self.target {
            Some(target) => {
                let pem = text_of(&answer, "pem");
                std::fs::write(target, pem).map_err(|source| Error::fault(&format!("could not write {}", target.display()), source))?;
                let columns = [("kind", "/kind"), ("key version", "/key_version"), ("algorithm", "/algorithm"), ("policies", "/policies")];
                output::object(session.output, &columns, &answer)
            }
            None if session.output != output::Format::Table => output::object(session.output, &[], &answer),
            None => output::line(text_of(&answer, "pem").trim_end()),
        }
    }
}

impl Transit {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let Self::Open(open) = self;
        open.run(session).await
    }
}

impl TransitOpen {
    async fn run(self, session: &Session) -> Result<(), Error> {
        if let Some(target) = &self.target {
            secret::check_new(target, "the plaintext")?;
        }
        let text = String::from_utf8(read_file(&self.file)?)
            .map_err(|_| Error::usage("a ciphertext of a transit engine is text: vault:v1:..."))?;
        let mut body = json!({ "ciphertext": text.trim(), "key": self.key, "context": self.facts.pairs() });
        if let Some(path) = &self.associated_data {
            body["associated_data"] = json!(base64url(&read_message(path)?));
        }
        if let Some(path) = &self.derivation_context {
            body["derivation_context"] = json!(base64url(&read_message(path)?));
        }
        if let Some(key) = &self.seal_with {
            body["seal_with"] = json!(key);
        }
        let mut answer = session.agent()?.post("/v1/transit/open", &body).await?;
        warn(&answer);
        if self.seal_with.is_some() {
            if session.output != output::Format::Table {
                return output::object(session.output, &[], &answer);
            }
            return output::line(text_of(&answer, "message"));
        }
        let plaintext = answer.as_object_mut().and_then(|map| map.remove("plaintext"));
        let plaintext = plaintext.as_ref().and_then(Value::as_str).and_then(|text| schema::encoding::from_base64url(text).ok());
        let plaintext = plaintext.map(Zeroizing::new).ok_or_else(|| unexpected("plaintext"))?;
        match &self.target {
            Some(target) => {
                write_new(target, &plaintext)?;
                output::object(session.output, &[("key version", "/key_version"), ("policies", "/policies")], &answer)
            }
            None => std::io::stdout().write_all(&plaintext).map_err(|source| Error::fault("could not write", source)),
        }
    }
}

/// The password, from a file or from whoever sits there.
fn password(file: Option<&Path>, what: &str, option: &str) -> Result<Zeroizing<String>, NoKey> {
    if let Some(file) = file {
        return secret::read(file, "the password").map_err(|error| NoKey::Password(error.message));
    }
    if !std::io::stdin().is_terminal() {
        return Err(NoKey::Password(format!(
            "{what} is under a password, and nobody is there to ask: name a file that holds it with {option}"
        )));
    }
    rpassword::prompt_password(format!("Password of {what}: ")).map(Zeroizing::new).map_err(|error| NoKey::Password(error.to_string()))
}

fn no_key(path: &Path, error: &NoKey) -> Error {
    let refused = Error { code: "no_key_found".to_owned(), ..Error::usage(format!("{}: {error}; nothing was sent", path.display())) };
    match error {
        NoKey::WrongPassword => Error { code: "wrong_password".to_owned(), ..refused },
        NoKey::Several(_) => refused.hint("name the one that is meant with --alias"),
        _ => refused,
    }
}

/// At most 4 MiB; '-' is standard input.
fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    let limit = transit::MAX_BYTES as u64;
    let mut bytes = Vec::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().take(limit + 1).read_to_end(&mut bytes),
        false => std::fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|source| Error { exit: Exit::Usage, ..Error::fault(&format!("could not read {}", path.display()), source) })?;
    if bytes.len() as u64 > limit {
        return Err(Error::usage(format!("{} is larger than 4 MiB: it is no key", path.display())));
    }
    Ok(bytes)
}

fn write_new(target: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
    let written = opened.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|source| Error::fault(&format!("could not write {}", target.display()), source))
}

fn text_of<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap_or_default()
}

fn unexpected(field: &str) -> Error {
    Error::new(Exit::Fault, "unexpected_answer", format!("the agent's answer has no {field}"))
}

/// `key_…/3` of an answer.
fn version_of(answer: &Value) -> Result<(String, u64), Error> {
    let parts = text_of(answer, "key_version").split_once('/').and_then(|(key, number)| Some((key.to_owned(), number.parse().ok()?)));
    parts.ok_or_else(|| unexpected("key version"))
}

async fn one_key(client: &Client, key: &str) -> Result<Value, Error> {
    client.one(KEY, "Key", json!({ "reference": key }), &format!("key '{key}'")).await
}

fn state_of(key: &Value, number: u32) -> Option<String> {
    let mut versions = key["versions"].as_array().into_iter().flatten();
    let version = versions.find(|version| version["number"].as_u64() == Some(number.into()))?;
    version["state"].as_str().map(str::to_owned)
}

/// Waits until a version is active.
async fn active(client: &Client, key: &str, number: u64) -> Result<Value, Error> {
    let (tries, pause) = PATIENCE;
    for _ in 0..tries {
        let found = one_key(client, key).await?;
        if super::key::active(&found, number) {
            return Ok(found);
        }
        tokio::time::sleep(pause).await;
    }
    Err(Error::new(Exit::Fault, "not_active_yet", format!("version {number} has its material, and is not active after 60 s"))
        .hint("has it the homes that its durability asks for? See 'freehold key show'"))
}
