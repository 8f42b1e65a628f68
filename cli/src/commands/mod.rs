//! One file per noun.

pub mod agents;
pub mod anew;
pub mod audit;
pub mod authority;
pub mod bare;
pub mod caller;
pub mod cms;
pub mod composite;
pub mod containment;
pub mod decisions;
pub mod erasure;
pub mod exchange;
pub mod files;
pub mod key;
pub mod material;
pub mod messages;
pub mod policy;
pub mod profile;
pub mod project;
pub mod recovery;
pub mod root;
pub mod signer;
pub mod site;
pub mod tenant;
pub mod token;
pub mod usage;
pub mod vouch;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{
    agent,
    args::{Cli, Command, Global},
    error::Error,
    graphql::{self, documents},
    output::{self, Format},
    profile as profiles,
};

/// What a command needs: where to connect, how to print.
pub struct Session {
    /// How to print.
    pub output: Format,
    /// The connection.
    pub connection: profiles::Profile,
    /// The configuration file.
    pub config: PathBuf,
}

impl Session {
    fn new(global: &Global) -> Result<Self, Error> {
        let config = global.config.clone().unwrap_or_else(profiles::default_path);
        let all = profiles::load(&config)?;
        let stored = match global.profile.as_ref().or(all.current.as_ref()) {
            Some(name) => all.profiles.get(name).cloned().ok_or_else(|| {
                Error::usage(format!("there is no profile '{name}' in {}", config.display())).hint("see 'freehold profile list'")
            })?,
            None => profiles::Profile::default(),
        };
        Ok(Self { output: global.output, connection: global.connection().or(stored), config })
    }

    /// A client of the control plane.
    pub fn control_plane(&self) -> Result<graphql::Client, Error> {
        graphql::Client::new(&self.connection)
    }

    /// A client of the agent.
    pub fn agent(&self) -> Result<agent::Client, Error> {
        agent::Client::new(&self.connection)
    }
}

/// Runs the command.
pub async fn run(cli: Cli) -> Result<(), Error> {
    let global = cli.global;
    let session = match &cli.command {
        Command::Profile(profile) => return profile.run(&global),
        Command::Signer(_) => {
            let Command::Signer(signer) = cli.command else { return Ok(()) };
            return signer.run(global.output);
        }
        Command::Completions { shell } => {
            let mut command = <Cli as clap::CommandFactory>::command();
            clap_complete::generate(*shell, &mut command, "freehold", &mut std::io::stdout());
            return Ok(());
        }
        _ => Session::new(&global)?,
    };
    match cli.command {
        Command::Profile(_) | Command::Signer(_) | Command::Completions { .. } => Ok(()),
        Command::Whoami => whoami(&session).await,
        Command::Tenant(command) => command.run(&session).await,
        Command::Authority(command) => command.run(&session).await,
        Command::Project(command) => command.run(&session).await,
        Command::Site(command) => command.run(&session).await,
        Command::Agent(command) => command.run(&session).await,
        Command::Caller(command) => command.run(&session).await,
        Command::Key(command) => command.run(&session).await,
        Command::Composite(command) => command.run(&session).await,
        Command::Policy(command) => command.run(&session).await,
        Command::Root(command) => command.run(&session).await,
        Command::Recovery(command) => command.run(&session).await,
        Command::Token(command) => command.run(&session).await,
        Command::Person(command) => command.run(&session).await,
        Command::Event(command) => command.run(&session).await,
        Command::Receipt(command) => command.run(&session).await,
        Command::Encrypt(command) => command.run(&session).await,
        Command::Decrypt(command) => command.run(&session).await,
        Command::Sign(command) => command.run(&session).await,
        Command::Verify(command) => command.run(&session).await,
        Command::DataKey(command) => command.run(&session).await,
        Command::Random(command) => command.run(&session).await,
        Command::PublicKey(command) => command.run(&session).await,
        Command::Cms(command) => command.run(&session).await,
        Command::Transit(command) => command.run(&session).await,
        Command::Rewrap(command) => command.run(&session).await,
        Command::ReEncrypt(command) => command.run(&session).await,
        Command::ReEncryptMessage(command) => command.run(&session).await,
        Command::ReSign(command) => command.run(&session).await,
        Command::Mac(command) => command.run(&session).await,
        Command::VerifyMac(command) => command.run(&session).await,
        Command::SignDigest(command) => command.run(&session).await,
        Command::VerifyDigest(command) => command.run(&session).await,
        Command::Wrap(command) => command.run(&session).await,
        Command::Unwrap(command) => command.run(&session).await,
        Command::Agree(command) => command.run(&session).await,
        Command::Encapsulate(command) => command.run(&session).await,
        Command::Decapsulate(command) => command.run(&session).await,
        Command::Derive(command) => command.run(&session).await,
        Command::Can(command) => command.run(&session).await,
        Command::Keys(command) => command.run(&session).await,
        Command::Algorithms => decisions::algorithms(&session).await,
        Command::Jwks => decisions::jwks(&session).await,
        Command::Status => {
            let value = session.agent()?.status().await?;
            output::object(session.output, &status_columns(&value), &value)
        }
    }
}

async fn whoami(session: &Session) -> Result<(), Error> {
    let viewer = session.control_plane()?.one(documents::TENANT, "Viewer", json!({}), "the viewer").await?;
    output::object(
        session.output,
        &[("principal", "/principal"), ("tenant", "/tenant/name"), ("tenant id", "/tenant/id"), ("scopes", "/scopes"), ("token", "/token")],
        &viewer,
    )
}

/// Whatever the agent says of itself, one line each.
fn status_columns(value: &Value) -> Vec<output::Column> {
    const KNOWN: &[output::Column] = &[
        ("agent", "/agent"),
        ("site", "/site"),
        ("tenant", "/tenant"),
        ("version", "/version"),
        ("statements", "/freshness"),
        ("heartbeat", "/heartbeat"),
        ("heartbeat age", "/heartbeat_age_seconds"),
        ("state", "/state"),
        ("root", "/root/sha256"),
        ("policies", "/policies"),
        ("vault", "/vault"),
        ("self tests", "/self_tests"),
        ("journal", "/journal"),
        ("rejection", "/rejection"),
    ];
    KNOWN.iter().copied().filter(|(_, pointer)| value.pointer(pointer).is_some()).collect()
}

/// What keeps an agent from what its site asks of it, in a line.
pub fn finding(finding: &Value) -> String {
    let text = |name: &str| output::cell(finding.get(name));
    let version = if finding["keyVersion"].is_null() { String::new() } else { format!("{}: ", text("keyVersion")) };
    format!("{version}{} ({}, since {})", text("detail"), text("code"), text("since"))
}

/// `name=value` arguments.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Labels as the API takes them.
pub fn labels(pairs: &[(String, String)]) -> Value {
    pairs.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
}

/// A word of the command line (`single-copy`, `keyCompromise`) as the API writes it (`SINGLE_COPY`, `KEY_COMPROMISE`).
pub fn word(text: &str) -> String {
    match text {
        "cACompromise" => "CA_COMPROMISE".to_owned(),
        "aACompromise" => "AA_COMPROMISE".to_owned(),
        _ => text.chars().fold(String::new(), |mut out, character| {
            match character {
                '-' => out.push('_'),
                upper if upper.is_ascii_uppercase() => out.extend(['_', upper]),
                other => out.push(other.to_ascii_uppercase()),
            }
            out
        }),
    }
}

/// Parses one of a fixed set of words, for clap.
pub fn one_of<T: std::str::FromStr<Err = schema::key::UnknownWord>>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|_| word(text)).map_err(|error| error.to_string())
}

/// A span like 90d, 12h, 30m, 45s, in seconds.
pub fn seconds(text: &str) -> Result<u64, String> {
    let error = || "expected a span like 90d, 12h, 30m or 45s".to_owned();
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let factor = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return Err(error()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(error)
}

/// The same, for a person to read: the largest unit that says it exactly.
pub fn span(seconds: u64) -> String {
    let (unit, factor) =
        [("d", 86_400), ("h", 3_600), ("m", 60)].into_iter().find(|(_, of)| seconds > 0 && seconds.is_multiple_of(*of)).unwrap_or(("s", 1));
    format!("{}{unit}", seconds / factor)
}

/// A moment: `2026-01-31`, or RFC 3339.
pub fn moment(text: &str) -> Result<String, String> {
    if let Ok(time) = chrono_like(text) { Ok(time) } else { Err("expected a time like 2026-01-31 or 2026-01-31T09:30:00Z".to_owned()) }
}

fn chrono_like(text: &str) -> Result<String, ()> {
    let full = if text.len() == 10 { format!("{text}T00:00:00.000000Z") } else { text.to_owned() };
    let (head, rest) = full.split_at_checked(19).ok_or(())?;
    let fraction = rest.strip_suffix('Z').ok_or(())?.strip_prefix('.').unwrap_or("");
    if fraction.len() > 6 {
        return Err(());
    }
    let canonical = format!("{head}.{fraction:0<6}Z");
    canonical.parse::<schema::clock::Timestamp>().map(|time| time.to_string()).map_err(|_| ())
}

/// `--limit` of every listing.
#[derive(Debug, clap::Args)]
pub struct Limit {
    /// The most rows to print
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: usize,
}

/// `--idempotency-key` of every change.
#[derive(Debug, Default, clap::Args)]
pub struct Idempotency {
    /// Repeat safely: the same key and the same command give the same answer
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_enum_values() {
        assert_eq!(word("single-copy"), "SINGLE_COPY");
        assert_eq!(word("keyCompromise"), "KEY_COMPROMISE");
        assert_eq!(word("cACompromise"), "CA_COMPROMISE");
        assert_eq!(word("pre-activation"), "PRE_ACTIVATION");
    }

    #[test]
    fn spans_and_moments() {
        for text in ["4d", "36h", "90m", "61s", "0s"] {
            assert_eq!(span(seconds(text).unwrap()), text);
        }
        assert_eq!(seconds("2h"), Ok(7200));
        assert!(seconds("2x").is_err() && seconds("").is_err() && seconds("h").is_err());
        assert_eq!(moment("2026-01-31").as_deref(), Ok("2026-01-31T00:00:00.000000Z"));
        assert_eq!(moment("2026-01-31T09:30:00.5Z").as_deref(), Ok("2026-01-31T09:30:00.500000Z"));
        assert!(moment("yesterday").is_err());
    }
}
