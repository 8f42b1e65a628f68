//! The agent's settings: one TOML file, the environment, and flags (`service::config`).

mod vault;

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use schema::calendar::Calendar;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::{
    config::{ConfigError, LogConfig, OutgoingConfig, Period, Size, TlsConfig},
    telemetry::TelemetryConfig,
};

pub use self::vault::{Pkcs11Config, RemoteConfig, UnlockKind, VaultConfig, VaultKind};
use crate::journal::durable::JournalConfig;

/// Everything that can be set. Unknown settings are errors.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the agent keeps its identity, statements, journal and, unless set otherwise, its vault.
    pub data_dir: PathBuf,
    /// How applications reach it.
    #[serde(default)]
    pub server: ServerConfig,
    /// Where key material is.
    pub vault: VaultConfig,
    /// How the control plane is reached.
    #[serde(default)]
    pub control_plane: ControlPlaneConfig,
    /// What is remembered of every operation.
    #[serde(default)]
    pub journal: JournalConfig,
    /// How much one request or caller may take.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Where backups of the vault go.
    #[serde(default)]
    pub backup: BackupConfig,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
    /// Traces and metrics for an OpenTelemetry collector.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// How applications reach the agent.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where applications reach it, `host:port`.
    pub listen: String,
    /// Plain HTTP instead of TLS; only on a loopback address.
    pub plain_http: bool,
    /// A unix socket for applications of this host, beside `listen`. Only its owner and group may connect.
    pub unix_socket: Option<PathBuf>,
    /// Threads that answer requests; absent: one for each processor.
    pub workers: Option<usize>,
    /// The listener's certificate.
    pub tls: TlsConfig,
    /// Names and addresses that a development certificate is made for, beside localhost.
    pub names: Vec<String>,
    /// How long the agent goes on serving after it was asked to stop, while `/readyz` says no: as long as load balancers take
    /// to notice. Clients that list several agents need none.
    pub shutdown_notice: Period,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7410".to_owned(),
            plain_http: false,
            unix_socket: None,
            workers: None,
            tls: TlsConfig::default(),
            names: Vec::new(),
            shutdown_notice: Period(std::time::Duration::ZERO),
        }
    }
}

/// How the control plane is reached. Where it is stands in the enrolment file.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ControlPlaneConfig {
    /// Another address than the one the agent enrolled at, `https://host:port`.
    pub url: Option<String>,
    /// Whether this agent is connected to nothing, so that what it says and hears travels as files (`freehold-agent exchange`).
    /// Absent: as it joined.
    pub by_file: Option<bool>,
    /// Proxy and private authorities.
    pub outgoing: OutgoingConfig,
}

/// Where backups of the vault go, sealed to the site's recovery key.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// A directory on other storage than the vault's: what is lost with the host is no backup. Several agents may share it. Absent:
    /// nothing is backed up, and keys whose durability is a sealed backup wait.
    pub directory: Option<PathBuf>,
    /// When the whole vault is backed up, as cron has it, in UTC: `0 3 * * *` is each night at three. What was missed is made up for.
    #[schemars(with = "Option<String>")]
    pub at: Option<Calendar>,
    /// How often the whole vault is backed up; instead of `at`. Without either, only `freehold-agent backup create` does it.
    pub every: Option<Period>,
    /// How many good backups of the whole vault, by this agent, are kept at least; older ones are removed after a newer one was
    /// written and read back. Absent: all, unless `keep_for` is set.
    pub keep: Option<NonZeroU32>,
    /// How long such a backup is kept at least. The newest good one is never removed. Absent: as `keep` says.
    pub keep_for: Option<Period>,
}

/// The least time between two backups of the whole vault.
const MIN_BACKUP_INTERVAL: Duration = Duration::from_secs(60);

impl BackupConfig {
    fn check(&self, problems: &mut Vec<String>) {
        let scheduled = self.at.is_some() || self.every.is_some();
        if let Some(Err(error)) = self.at.as_ref().map(|at| at.to_string().parse::<Calendar>()) {
            problems.push(format!("backup.at: {error}"));
        }
        if self.at.is_some() && self.every.is_some() {
            problems.push("backup.at and backup.every contradict each other: remove one".to_owned());
        }
        if self.directory.is_none() && (scheduled || self.keep.is_some() || self.keep_for.is_some()) {
            problems.push("backup.directory is missing: say where scheduled backups go".to_owned());
        }
        if self.every.is_some_and(|every| every.0 < MIN_BACKUP_INTERVAL) {
            problems.push(format!("backup.every must be at least {} seconds", MIN_BACKUP_INTERVAL.as_secs()));
        }
    }
}

/// How much one request or caller may take.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The largest JSON body.
    pub body: Size,
    /// The largest streamed file; absent: any.
    pub stream: Option<Size>,
    /// The most bytes on disk, sealed, of files that are to be released only when they were found genuine; absent: there is no
    /// such mode.
    pub spool: Option<Size>,
    /// The most requests a second of one caller; absent: any.
    pub requests_per_second: Option<std::num::NonZeroU32>,
    /// The most requests a second from one address that prove no caller.
    pub unproved_per_second: std::num::NonZeroU32,
    /// The most connections at once.
    pub connections: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            body: Size(4 << 20),
            stream: None,
            spool: None,
            requests_per_second: None,
            unproved_per_second: std::num::NonZeroU32::new(20).unwrap_or(std::num::NonZeroU32::MIN),
            connections: 4096,
        }
    }
}

/// Settings that can be given as flags.
#[derive(Debug, Clone, Default, Serialize, clap::Args)]
pub struct Flags {
    /// Where the agent keeps its identity, statements, journal and vault.
    #[arg(long, global = true, env = "FREEHOLD_AGENT_DATA_DIR", value_name = "DIRECTORY")]
    pub data_dir: Option<PathBuf>,
    /// How applications reach it.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Settings of the listener that can be given as flags.
#[derive(Debug, Clone, Default, Serialize, clap::Args)]
pub struct ServerFlags {
    /// Where applications reach it, `host:port`.
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Plain HTTP instead of TLS; only on a loopback address.
    #[arg(long, global = true, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub plain_http: Option<bool>,
}

impl Config {
    /// Reads settings; flags win over environment, environment over file.
    pub fn load(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>, flags: &Flags) -> Result<Self, ConfigError> {
        let config: Self = service::config::load(file, environment, flags)?;
        config.check()?;
        Ok(config)
    }

    /// What types cannot say.
    fn check(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.server.tls.files()?;
        self.vault.check(&mut problems);
        self.backup.check(&mut problems);
        if self.server.plain_http && self.server.tls.certificate_file.is_some() {
            problems.push("server.plain_http and server.tls.certificate_file contradict each other: remove one".to_owned());
        }
        if self.server.workers == Some(0) {
            problems.push("server.workers must be at least 1".to_owned());
        }
        if self
            .backup
            .directory
            .as_ref()
            .is_some_and(|directory| directory.starts_with(&self.data_dir) || directory.starts_with(self.vault_directory()))
        {
            problems.push(
                "backup.directory is inside the data directory or the vault and would be lost with it: name one on other storage"
                    .to_owned(),
            );
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid { problems }) }
    }

    /// Where the vault is.
    pub fn vault_directory(&self) -> PathBuf {
        self.vault.directory.clone().unwrap_or_else(|| self.data_dir.join("vault"))
    }

    /// Where the journal is.
    pub fn journal_directory(&self) -> PathBuf {
        self.journal.directory.clone().unwrap_or_else(|| self.data_dir.join("journal"))
    }

    /// Where development certificates are made.
    pub fn tls_directory(&self) -> PathBuf {
        self.data_dir.join("tls")
    }

    /// Where the digests of callers' tokens are.
    pub fn callers_file(&self) -> PathBuf {
        self.data_dir.join("callers.json")
    }

    /// An annotated example: what `freehold-agent check-config --example` prints.
    pub const EXAMPLE: &str = include_str!("example.toml");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), [], &Flags::default())
    }

    #[test]
    fn the_example_is_a_configuration() {
        let config = load(Config::EXAMPLE).unwrap();
        assert_eq!(config.server.listen, "127.0.0.1:7410");
        assert_eq!(config.vault_directory(), config.data_dir.join("vault"));
    }

    #[test]
    fn wrong_settings_say_what_to_do() {
        let cases = [
            ("data_dir = \"/d\"\n[vault]\nkind = \"file\"\n", "vault.passphrase_file or vault.key_file"),
            ("data_dir = \"/d\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\n[backup]\ndirectory = \"/d/backups\"\n", "lost with it"),
            ("data_dir = \"/d\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\npassphrase_file = \"b\"\n", "only one"),
            ("data_dir = \"/d\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\nunlock = \"remote\"\n", "only one"),
            ("data_dir = \"/d\"\n[vault]\nkind = \"file\"\nunlock = \"pkcs11\"\n", "[vault.pkcs11]"),
            ("data_dir = \"/d\"\n[vault]\nkind = \"remote\"\n", "[vault.remote]"),
            ("data_dir = \"/d\"\n[vault]\nkind = \"pkcs11\"\nkey_file = \"a\"\n", "vault.key_file"),
            (
                "data_dir = \"/d\"\n[vault]\nkind = \"pkcs11\"\n[vault.pkcs11]\nmodule = \"p11.so\"\ntoken = \"t\"\npin_file = \"p\"\n",
                "absolute",
            ),
            (
                "data_dir = \"/d\"\n[vault]\nkind = \"pkcs11\"\n[vault.pkcs11]\nmodule = \"/p11.so\"\ntoken = \"t\"\npin_file = \"p\"\nsessions = 0\n",
                "sessions",
            ),
            ("data_dir = \"/d\"\n[vault]\nkind = \"remote\"\n[vault.remote]\nurl = \"http://bao:8200\"\ntoken_file = \"t\"\n", "https://"),
            (
                "data_dir = \"/d\"\n[vault]\nkind = \"remote\"\n[vault.remote]\nurl = \"https://bao:8200\"\ntoken_file = \"t\"\nkv_path = \"a/../b\"\n",
                "vault.remote.kv_path",
            ),
            ("data_dir = \"/d\"\n[vault]\nkind = \"remote\"\n[vault.remote]\nurl = \"https://bao:8200\"\n", "[vault.remote.app_role]"),
            (
                "data_dir = \"/d\"\n[vault]\nkind = \"remote\"\n[vault.remote]\nurl = \"https://bao:8200\"\ntoken_file = \"t\"\n\
                 [vault.remote.app_role]\nrole_id_file = \"r\"\nsecret_id_file = \"s\"\n",
                "set one of vault.remote.token_file",
            ),
            (
                "data_dir = \"/d\"\n[vault]\nkind = \"remote\"\n[vault.remote]\nurl = \"https://bao:8200\"\n\
                 [vault.remote.app_role]\nmount = \"../sys\"\nrole_id_file = \"r\"\nsecret_id_file = \"s\"\n",
                "vault.remote.app_role.mount",
            ),
            ("data_dir = \"/d\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\n[backup]\nevery = \"1d\"\n", "backup.directory is missing"),
            (
                "data_dir = \"/d\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\n[backup]\ndirectory = \"/b\"\nevery = \"1d\"\nat = \"0 3 * * *\"\n",
                "remove one",
            ),
            (
                "data_dir = \"/d\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\n[backup]\ndirectory = \"/b\"\nevery = \"5s\"\n",
                "at least 60 seconds",
            ),
            (
                "data_dir = \"/d\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\n[backup]\ndirectory = \"/b\"\nat = \"nightly\"\n",
                "five fields of cron",
            ),
            ("data_dir = \"/d\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\n[backup]\ndirectory = \"/b\"\nkeep = 0\n", "keep"),
            ("data_dir = \"/d\"\n[server]\nworkers = 0\n[vault]\nkind = \"file\"\nkey_file = \"a\"\n", "workers"),
            ("[vault]\nkind = \"file\"\nkey_file = \"a\"\n", "data_dir"),
            ("data_dir = \"/d\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\nkeyfile = \"b\"\n", "vault.keyfile"),
            ("data_dir = \"/d\"\nlisen = \"x\"\n[vault]\nkind = \"file\"\nkey_file = \"a\"\n", "lisen"),
        ];
        for (text, expected) in cases {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn devices_and_remote_vaults_can_be_named() {
        let token = "[vault.pkcs11]\nmodule = \"/p11.so\"\ntoken = \"t\"\npin_file = \"p\"\n";
        let server = "[vault.remote]\nurl = \"http://127.0.0.1:8200\"\ntoken_file = \"t\"\n";
        let role =
            "[vault.remote]\nurl = \"http://127.0.0.1:8200\"\n[vault.remote.app_role]\nrole_id_file = \"r\"\nsecret_id_file = \"s\"\n";
        for (kind, unlock, table) in [
            ("pkcs11", "", token),
            ("remote", "", server),
            ("file", "unlock = \"pkcs11\"\n", token),
            ("file", "unlock = \"remote\"\n", server),
            ("remote", "", role),
        ] {
            load(&format!("data_dir = \"/d\"\n[vault]\nkind = \"{kind}\"\n{unlock}{table}")).unwrap();
        }
    }

    #[test]
    fn flags_win() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, Config::EXAMPLE).unwrap();
        let flags = Flags { data_dir: None, server: ServerFlags { listen: Some("127.0.0.1:0".to_owned()), plain_http: Some(true) } };
        let environment = [("FREEHOLD_LIMITS__BODY".to_owned(), "1MiB".to_owned())];
        let config = Config::load(Some(&path), environment, &flags).unwrap();
        assert_eq!((config.server.listen.as_str(), config.server.plain_http, config.limits.body), ("127.0.0.1:0", true, Size(1 << 20)));
    }
}
