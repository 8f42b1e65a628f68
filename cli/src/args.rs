//! Every command there is: nouns and verbs.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueHint};

use crate::{commands, output::Format, profile::Profile};

const AFTER_HELP: &str = "\
Secrets never stand in arguments: tokens are read from files (--token-file, --caller-token-file; '-' is standard input).

Exit codes:
  0  done
  1  something broke
  2  the command was not understood, or an input was wrong
  3  refused by a rule, by policy, or for want of a right
  4  it does not exist, or is not yours to see
  5  the token or certificate was not accepted
  6  the server could not be reached
  7  a signature, message or file did not verify

Start with:
  freehold profile set me --server https://127.0.0.1:7400 --ca-file ca.pem --token-file admin.token
  freehold key list
  freehold encrypt --key payments/files --context purpose=backup < plain > sealed";

/// Policy from the cloud, keys at home: administer a Freehold control plane and use its agents.
#[derive(Debug, Parser)]
#[command(name = "freehold", version, after_help = AFTER_HELP, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// How to print the answer
    #[arg(short, long, global = true, value_enum, default_value_t, env = "FREEHOLD_OUTPUT")]
    pub output: Format,
    /// The profile to use [default: the current one]
    #[arg(long, global = true, env = "FREEHOLD_PROFILE", value_name = "NAME")]
    pub profile: Option<String>,
    /// The configuration file
    #[arg(long, global = true, env = "FREEHOLD_CONFIG", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// URL of the control plane, e.g. https://127.0.0.1:7400
    #[arg(long, global = true, env = "FREEHOLD_SERVER", value_name = "URL", help_heading = "Connection")]
    pub server: Option<String>,
    /// File with the certificate authority of the control plane, PEM
    #[arg(long, global = true, env = "FREEHOLD_CA_FILE", value_name = "FILE", help_heading = "Connection")]
    pub ca_file: Option<PathBuf>,
    /// HTTP or HTTPS proxy to the control plane, e.g. http://proxy:3128 [default: as HTTPS_PROXY says]
    #[arg(long, global = true, env = "FREEHOLD_PROXY", value_name = "URL", help_heading = "Connection")]
    pub proxy: Option<url::Url>,
    /// File with the API token
    #[arg(long, global = true, env = "FREEHOLD_TOKEN_FILE", value_name = "FILE", help_heading = "Connection")]
    pub token_file: Option<PathBuf>,
    /// URL of the agent, e.g. https://127.0.0.1:7410; may be repeated: when one is not there, the next is asked
    #[arg(long, global = true, env = "FREEHOLD_AGENT", value_name = "URL", value_delimiter = ',', help_heading = "Connection")]
    pub agent: Vec<String>,
    /// File with the certificate authority of the agent, PEM
    #[arg(long, global = true, env = "FREEHOLD_AGENT_CA_FILE", value_name = "FILE", help_heading = "Connection")]
    pub agent_ca_file: Option<PathBuf>,
    /// File with the caller token
    #[arg(long, global = true, env = "FREEHOLD_CALLER_TOKEN_FILE", value_name = "FILE", help_heading = "Connection")]
    pub caller_token_file: Option<PathBuf>,
}

impl Global {
    /// What flags and environment say of the connection.
    pub fn connection(&self) -> Profile {
        Profile {
            server: self.server.clone(),
            ca_file: self.ca_file.clone(),
            proxy: self.proxy.clone(),
            token_file: self.token_file.clone(),
            agent: self.agent.clone(),
            agent_ca_file: self.agent_ca_file.clone(),
            caller_token_file: self.caller_token_file.clone(),
        }
    }
}

/// Nouns of the control plane, then verbs of an agent.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "a process has one of these")]
pub enum Command {
    /// Connections: where servers stand and which files prove who you are
    #[command(subcommand)]
    Profile(commands::profile::Profile),
    /// Who am I, as the control plane sees it
    Whoami,
    /// Tenants (operators only)
    #[command(subcommand)]
    Tenant(commands::tenant::Tenant),
    /// Certificate authorities of agents (operators only)
    #[command(subcommand)]
    Authority(commands::authority::Authority),
    /// Projects: groups of keys and callers
    #[command(subcommand)]
    Project(commands::project::Project),
    /// Sites: groups of agents that share one set of statements
    #[command(subcommand)]
    Site(commands::site::Site),
    /// Agents: what does the cryptography at a site
    #[command(subcommand)]
    Agent(commands::agents::Agents),
    /// Callers: applications that use agents
    #[command(subcommand)]
    Caller(commands::caller::Caller),
    /// Keys and their versions
    #[command(subcommand)]
    Key(commands::key::Key),
    /// Composites: a classical and a post-quantum key under one name
    #[command(subcommand)]
    Composite(commands::composite::Composite),
    /// Policies: who may do what with which key
    #[command(subcommand)]
    Policy(commands::policy::Policy),
    /// Signers: pairs of yours that sign root and policy
    #[command(subcommand)]
    Signer(commands::signer::Signer),
    /// The root: who signs what
    #[command(subcommand)]
    Root(commands::root::Root),
    /// After the control plane was restored from an older backup
    #[command(subcommand)]
    Recovery(commands::recovery::Recovery),
    /// API tokens of the control plane
    #[command(subcommand)]
    Token(commands::token::Token),
    /// Persons: whose data can be erased
    #[command(subcommand)]
    Person(commands::erasure::Person),
    /// What was recorded
    #[command(subcommand)]
    Event(commands::audit::Event),
    /// What agents say they did
    #[command(subcommand)]
    Receipt(commands::audit::Receipt),
    /// Seal standard input or a file of any size for a key
    Encrypt(commands::files::Encrypt),
    /// Open what 'encrypt' sealed
    Decrypt(commands::files::Decrypt),
    /// Sign standard input or a file; prints a JWS
    Sign(commands::messages::Sign),
    /// Verify what 'sign' signed
    Verify(commands::messages::Verify),
    /// Make a data key: sealed, and in clear into a file
    DataKey(commands::messages::DataKey),
    /// Open and verify what old programs made as CMS (PKCS#7)
    #[command(subcommand)]
    Cms(commands::cms::Cms),
    /// Open what the transit engine of Vault or OpenBao sealed
    #[command(subcommand)]
    Transit(commands::material::Transit),
    /// Move a message, a sealed file or a wrapped key to the newest version of its key
    Rewrap(commands::anew::Rewrap),
    /// Seal for other keys what 'encrypt' sealed, without opening it here
    ReEncrypt(commands::files::ReEncrypt),
    /// Seal a message (a JWE) under another key, without opening it here
    ReEncryptMessage(commands::anew::ReEncryptMessage),
    /// Verify a detached JWS and sign the same with another key
    ReSign(commands::anew::ReSign),
    /// Authenticate standard input or a file with a shared key; prints the tag
    Mac(commands::bare::Mac),
    /// Check the tag of standard input or a file
    VerifyMac(commands::bare::VerifyMac),
    /// Sign a ready digest
    SignDigest(commands::bare::SignDigest),
    /// Verify a signature over a ready digest
    VerifyDigest(commands::bare::VerifyDigest),
    /// Wrap a bare key; prints it wrapped
    Wrap(commands::bare::Wrap),
    /// Unwrap a bare key into a file
    Unwrap(commands::bare::Unwrap),
    /// Agree on a secret with the holder of another key
    Agree(commands::bare::Agree),
    /// Make a secret for the holder of a key: a file, and the same encapsulated
    Encapsulate(commands::bare::Encapsulate),
    /// Take an encapsulated secret out into a file
    Decapsulate(commands::bare::Decapsulate),
    /// Derive a key into a file
    Derive(commands::bare::Derive),
    /// Ask whether a caller may do something, and why not
    Can(commands::decisions::Can),
    /// Keys this caller may use at an agent, and what for
    Keys(commands::decisions::Keys),
    /// Algorithms of an agent
    Algorithms,
    /// Print the public keys this caller may read, as one JSON Web Key Set
    Jwks,
    /// Random bytes from the agent, base64url
    Random(commands::messages::Random),
    /// Print a public key
    PublicKey(commands::messages::PublicKey),
    /// How an agent is: its statements, their age, its health
    Status,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_commands_are_well_formed() {
        super::Cli::command().debug_assert();
    }

    /// base64url has a `-`, and one digest in 64 begins with it.
    #[test]
    fn a_digest_may_begin_with_a_hyphen() {
        let digest = schema::encoding::Digest([0xfb; 32]).to_string();
        assert!(digest.starts_with('-'));
        for arguments in [
            &["root", "show", "--root", &digest][..],
            &["root", "sign", "--signer", "ada.signer", "--root", &digest, "--yes"],
            &["policy", "sign", "--signer", "ada.signer", "--root", &digest],
            &["agent", "vouch", "agt_01m8nndgbkfr2vzsv7qt8sfszz", &digest, "--signer", "ada.signer"],
        ] {
            let parsed = super::Cli::try_parse_from(std::iter::once(&"freehold").chain(arguments));
            assert!(parsed.is_ok(), "{arguments:?}: {}", parsed.err().map(|error| error.to_string()).unwrap_or_default());
        }
    }
}
