//! Settings: one section per part, parsed once. Unknown ones are errors; `freehold-control-plane print-config-schema`
//! prints their JSON Schema.

mod roles;
mod sealing;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use schema::calendar::Calendar;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::{
    config::{ConfigError, LogConfig, Period, Size, TlsConfig},
    telemetry::TelemetryConfig,
};
use url::Url;

pub use sealing::{EnvironmentConfig, SealingConfig, SourceKind, TokenConfig, TransitConfig};

use crate::eventing::kurrent::KurrentSettings;

pub use roles::RolesConfig;

/// The control plane's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where files are kept: the database, the sealing key, the operator token, development certificates.
    pub data_dir: PathBuf,
    /// The name of this deployment. It stands in the origin of every tenant's ledger: do not change it later.
    pub deployment: String,
    /// Development mode: GraphiQL is served, and the agent listener names itself by its address when `agents.public_url`
    /// is absent.
    pub development: bool,
    /// GraphQL, for people and automation.
    pub server: ServerConfig,
    /// The agents' listener, with mutual TLS.
    pub agents: AgentsConfig,
    /// The event store and the read models.
    pub store: StoreConfig,
    /// What storage is encrypted under.
    pub sealing: SealingConfig,
    /// The certificate of `server.listen`; development certificates are made when absent.
    pub tls: TlsConfig,
    /// Backups of the database.
    pub backup: BackupConfig,
    /// Limits on requests.
    pub limits: LimitsConfig,
    /// Logs.
    pub log: LogConfig,
    /// Traces and metrics for an OpenTelemetry collector.
    pub telemetry: TelemetryConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("freehold-data"),
            deployment: "freehold".to_owned(),
            development: false,
            server: ServerConfig::default(),
            agents: AgentsConfig::default(),
            store: StoreConfig::default(),
            sealing: SealingConfig::default(),
            tls: TlsConfig::default(),
            backup: BackupConfig::default(),
            limits: LimitsConfig::default(),
            log: LogConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address and port of GraphQL; port 0 takes a free one.
    pub listen: String,
    /// Plain HTTP instead of TLS. Only on loopback.
    pub plain_http: bool,
    /// How many threads serve requests; absent: one per core, at most 8.
    pub workers: Option<usize>,
    /// How long running requests may take to end when the process is asked to stop.
    pub shutdown_timeout: Period,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7400".to_owned(),
            plain_http: false,
            workers: None,
            shutdown_timeout: Period(std::time::Duration::from_secs(20)),
        }
    }
}

/// `[agents]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgentsConfig {
    /// Address and port of the agents' listener; port 0 takes a free one.
    pub listen: String,
    /// Where agents find it, e.g. `https://agents.example.org:7401`; absent: `https://` and the address listened on.
    #[schemars(with = "Option<String>")]
    pub public_url: Option<Url>,
    /// The listener's own certificate; absent: one of the authority that also certifies agents, made anew every day.
    pub tls: TlsConfig,
    /// The authority of that certificate, PEM: agents are given it when they enrol and with every renewal, and believe it
    /// beside the one they know. Absent: with an own certificate, agents believe their systems' authorities.
    pub ca_file: Option<PathBuf>,
}

impl Default for AgentsConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7401".to_owned(), public_url: None, tls: TlsConfig::default(), ca_file: None }
    }
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `sqlite://<path>`, `postgres://user@host/database` or `kurrentdb://user@host:2113` (also a list of hosts, and
    /// `esdb://`; options of the connection follow as `?name=value`); absent: `freehold.db` in the data directory. A password
    /// does not belong here: see `password_file`.
    pub url: Option<String>,
    /// A file with the password of `url`, readable by its owner only.
    pub password_file: Option<PathBuf>,
    /// With KurrentDB, which keeps the records: where everything else is, `sqlite://<path>` or
    /// `postgres://user@host/database`; absent: `freehold.db` in the data directory.
    pub read_models: Option<String>,
    /// A file with the password of `read_models`, readable by its owner only.
    pub read_models_password_file: Option<PathBuf>,
    /// With KurrentDB: how the names of all streams of this deployment begin. Do not change it later.
    pub namespace: String,
    /// With PostgreSQL: refuse a server whose commits do not wait for a standby. What was acknowledged is then still there when
    /// the server is lost and the standby takes its place.
    pub synchronous_standby: bool,
    /// With PostgreSQL: the users to be, instead of the one that the URL names, who owns the tables.
    pub roles: RolesConfig,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            read_models: None,
            read_models_password_file: None,
            namespace: "freehold".to_owned(),
            synchronous_standby: false,
            roles: RolesConfig::default(),
        }
    }
}

impl StoreConfig {
    /// The URL of KurrentDB, when it keeps the records.
    pub fn kurrent_url(&self) -> Option<&str> {
        self.url.as_deref().filter(|url| KurrentSettings::names(url))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let is_sql = |url: &str| ["sqlite://", "postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        match &self.url {
            Some(url) if KurrentSettings::names(url) => {}
            Some(url) if !is_sql(url) => problems.push(
                "setting store.url: expected sqlite://<path>, postgres://user@host/database or kurrentdb://user@host:2113".to_owned(),
            ),
            _ if self.read_models.is_some() || self.read_models_password_file.is_some() => problems.push(
                "setting store.read_models: only with KurrentDB in store.url; SQLite and PostgreSQL keep everything in one place"
                    .to_owned(),
            ),
            _ => {}
        }
        if self.read_models.as_ref().is_some_and(|url| !is_sql(url)) {
            problems.push("setting store.read_models: expected sqlite://<path> or postgres://user@host/database".to_owned());
        }
        let sql = if self.kurrent_url().is_some() { &self.read_models } else { &self.url };
        let postgres = sql.as_ref().is_some_and(|url| url.starts_with("postgres"));
        if self.synchronous_standby && !postgres {
            problems.push("setting store.synchronous_standby: only with PostgreSQL".to_owned());
        }
        problems.extend(self.roles.problems(postgres));
        problems
    }
}

/// `[backup]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// Where backups are put: a folder on other storage than the database's.
    pub directory: Option<PathBuf>,
    /// The public half of the key that they are sealed to, as `freehold-control-plane backup keygen` wrote it. The private half
    /// does not belong on this host.
    pub recipient_file: Option<PathBuf>,
    /// When one is made by itself: five fields of cron (minute, hour, day, month, weekday), in UTC. Absent: never.
    pub schedule: Option<String>,
    /// How many of the newest are kept.
    pub keep: Option<u32>,
    /// How long one is kept beyond that. Absent, with `keep` also absent: for ever.
    #[schemars(with = "Option<String>")]
    pub keep_for: Option<Period>,
    /// Where `pg_dump` and `pg_restore` are; absent: wherever programs are looked for.
    pub postgres_tools: Option<PathBuf>,
}

impl BackupConfig {
    /// When one is made by itself.
    pub fn calendar(&self) -> Option<Calendar> {
        self.schedule.as_deref().and_then(|schedule| schedule.parse().ok())
    }

    fn problems(&self, data_dir: &Path) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(Err(error)) = self.schedule.as_deref().map(str::parse::<Calendar>) {
            problems.push(format!("setting backup.schedule: {error}"));
        }
        if self.schedule.is_some() && (self.directory.is_none() || self.recipient_file.is_none()) {
            problems.push("setting backup.schedule: needs backup.directory and backup.recipient_file".to_owned());
        }
        if self.directory.as_ref().is_some_and(|directory| directory.starts_with(data_dir)) {
            problems.push("setting backup.directory: not inside the data directory, which is lost when the disk is".to_owned());
        }
        if self.keep == Some(0) {
            problems.push("setting backup.keep: at least 1".to_owned());
        }
        problems
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The largest body of a request.
    pub body: Size,
    /// How long a request may take.
    pub request_timeout: Period,
    /// Requests a minute of one tenant.
    pub tenant_per_minute: u32,
    /// Requests a minute of one token.
    pub token_per_minute: u32,
    /// Requests a minute of one address, also without a valid token.
    pub address_per_minute: u32,
    /// Enrolments a minute of one address; more where many agents come from behind one.
    pub enrolments_per_minute: u32,
    /// How long a mutation waits until what it did can be read.
    pub read_your_writes: Period,
    /// How many records or rows a query opens at most for one page, when it filters by what only stands inside.
    pub scan: u32,
    /// How many connections may follow events at once.
    pub followers: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            body: Size(1 << 20),
            request_timeout: Period(std::time::Duration::from_secs(30)),
            tenant_per_minute: 6_000,
            token_per_minute: 3_000,
            address_per_minute: 6_000,
            enrolments_per_minute: 60,
            read_your_writes: Period(std::time::Duration::from_secs(2)),
            scan: 10_000,
            followers: 1_000,
        }
    }
}

impl Config {
    /// Reads settings: flags over environment over file.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &impl Serialize,
    ) -> Result<Self, ConfigError> {
        let config: Self = service::config::load(file, environment, flags)?;
        config.check()?;
        Ok(config)
    }

    /// What single settings cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        for (name, address) in [("server.listen", &self.server.listen), ("agents.listen", &self.agents.listen)] {
            if address.parse::<SocketAddr>().is_err()
                && !address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            {
                problems.push(format!("setting {name}: expected host:port, found \"{address}\""));
            }
        }
        let origin = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/');
        if self.deployment.is_empty() || self.deployment.len() > 100 || !self.deployment.chars().all(origin) {
            problems.push("setting deployment: 1 to 100 characters of A-Z, a-z, 0-9, '-', '.' and '/'".to_owned());
        }
        let limits = &self.limits;
        let numbers =
            [limits.scan, limits.tenant_per_minute, limits.token_per_minute, limits.address_per_minute, limits.enrolments_per_minute];
        if numbers.contains(&0) || self.limits.body.0 == 0 {
            problems.push("settings of [limits] are at least 1".to_owned());
        }
        if self.agents.public_url.as_ref().is_some_and(|url| url.scheme() != "https" || url.host().is_none()) {
            problems.push("setting agents.public_url: expected https://host:port".to_owned());
        }
        problems.extend(self.store.problems());
        problems.extend(self.sealing.problems());
        problems.extend(self.backup.problems(&self.data_dir));
        if self.backup.schedule.is_some() && self.store.roles.named() && !self.store.roles.migrate {
            problems.push(
                "setting backup.schedule: who dumps the database owns its tables, and with store.roles.migrate = false the owner's password \
                 is not here; run `freehold-control-plane backup create` where it is"
                    .to_owned(),
            );
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid { problems }) }
    }

    /// The URL of the SQL database, without a password, and the file with its password: of everything, or of all but the
    /// records.
    pub fn database_url(&self) -> (String, Option<&Path>) {
        let default = || format!("sqlite://{}", self.data_dir.join("freehold.db").display());
        let StoreConfig { url, password_file, read_models, read_models_password_file, .. } = &self.store;
        match (url, self.store.kurrent_url()) {
            (_, Some(_)) => (read_models.clone().unwrap_or_else(default), read_models_password_file.as_deref()),
            (url, None) => (url.clone().unwrap_or_else(default), password_file.as_deref()),
        }
    }

    /// Where the sealing key is.
    pub fn sealing_key_file(&self) -> PathBuf {
        self.sealing.key_file.clone().unwrap_or_else(|| self.data_dir.join("sealing.key"))
    }

    /// The list of what was erased: it is erased again where an older backup brings it back. Ids only.
    pub fn erasures_file(&self) -> PathBuf {
        self.data_dir.join("erased.jsonl")
    }

    /// Where the first operator token is written.
    pub fn operator_token_file(&self) -> PathBuf {
        self.data_dir.join("operator.token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control-plane.toml");
        std::fs::write(&path, file).unwrap();
        Config::load(Some(&path), [], &())
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(read("").unwrap(), Config::default());
    }

    #[test]
    fn wrong_settings_are_named() {
        for (file, name) in [
            ("[server]\nlistn = \"127.0.0.1:1\"", "server.listn"),
            ("[server]\nlisten = \"nowhere\"", "server.listen"),
            ("[agents]\npublic_url = \"http://a\"", "agents.public_url"),
            ("[store]\nurl = \"mysql://a\"", "store.url"),
            ("[store]\nread_models = \"postgres://a/b\"", "store.read_models"),
            ("[store]\nurl = \"esdb://a\"\nread_models = \"esdb://b\"", "store.read_models"),
            ("[sealing]\nsource = \"pkcs11\"", "[sealing.pkcs11]"),
            ("[sealing]\nsource = \"remote\"", "[sealing.remote]"),
            ("[sealing]\nsource = \"paper\"", "sealing.source"),
            ("[sealing.remote]\nurl = \"http://vault.example.org\"\ntoken_file = \"t\"", "sealing.remote.url"),
            ("[sealing.remote]\nurl = \"https://vault.example.org\"", "[sealing.remote.app_role]"),
            ("[sealing.pkcs11]\nmodule = \"x.so\"\ntoken = \"t\"\npin_file = \"p\"", "sealing.pkcs11.module"),
            ("[sealing.environment]\ncredential = \"../x\"", "sealing.environment.credential"),
            ("[store]\nsynchronous_standby = true", "store.synchronous_standby"),
            ("[store.roles]\nwriter = \"w\"\nreader = \"r\"\nprojector = \"p\"", "store.roles"),
            ("[store]\nurl = \"postgres://a/b\"\n[store.roles]\nwriter = \"w\"\nreader = \"r\"", "store.roles.projector"),
            ("[store]\nurl = \"postgres://a/b\"\n[store.roles]\nwriter = \"w\"\nreader = \"w\"\nprojector = \"p\"", "store.roles.reader"),
            ("[store]\nurl = \"postgres://a/b\"\n[store.roles]\nwriter = \"W;\"\nreader = \"r\"\nprojector = \"p\"", "store.roles.writer"),
            ("[limits]\ntoken_per_minute = 0", "[limits]"),
            ("deployment = \"a b\"", "deployment"),
            ("[backup]\nschedule = \"daily\"", "backup.schedule"),
            ("[backup]\nschedule = \"0 3 * * *\"", "backup.schedule"),
            ("data_dir = \"/a\"\n[backup]\ndirectory = \"/a/b\"", "backup.directory"),
            ("[backup]\nkeep = 0", "backup.keep"),
            (
                "[store]\nurl = \"postgres://a/b\"\n[store.roles]\nwriter = \"w\"\nreader = \"r\"\nprojector = \"p\"\nmigrate = false\n\
                 [backup]\nschedule = \"0 3 * * *\"\ndirectory = \"/b\"\nrecipient_file = \"/p\"",
                "backup.schedule",
            ),
        ] {
            let error = read(file).unwrap_err().to_string();
            assert!(error.contains(name), "{file}: {error}");
        }
    }

    #[test]
    fn beside_kurrentdb_there_is_a_database() {
        let url = |file: &str| read(file).unwrap().database_url().0;
        assert_eq!(url("[store]\nurl = \"kurrentdb://one:2113,two:2113?tls=false\""), "sqlite://freehold-data/freehold.db");
        assert_eq!(url("[store]\nurl = \"esdb://one\"\nread_models = \"postgres://a/b\""), "postgres://a/b");
        assert_eq!(url("[store]\nurl = \"postgres://a/b\""), "postgres://a/b");
    }
}
