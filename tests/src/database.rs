//! Databases for tests: a SQLite file, or a PostgreSQL server that the test starts itself, as an unprivileged user, and
//! that ends with it.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use control_plane::{
    config::{Config, RolesConfig},
    database::{
        Access, Location,
        roles::{Role, Roles},
    },
    eventing::kurrent::KurrentSettings,
};
use schema::clock::{SystemIds, random};
use tempfile::TempDir;

use crate::kurrent::KurrentServer;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A file of its own.
    Sqlite,
    /// A database of its own on a server shared by the tests of this process.
    Postgres,
    /// The same, owned by a user without rights, and used through roles.
    PostgresRoles,
    /// Records in KurrentDB, everything else in PostgreSQL. The server is one of the test's own that speaks the protocol, or
    /// the real one that `FREEHOLD_TEST_KURRENT_URL` names (and a user's password `FREEHOLD_TEST_KURRENT_PASSWORD`), where
    /// every test has a namespace of its own.
    Kurrent,
}

/// An empty database that is gone when this is dropped.
pub struct TestDatabase {
    /// Where it is.
    pub location: Location,
    /// A folder for other files of the test.
    pub folder: TempDir,
    server: Option<Arc<Postgres>>,
    /// Its name on the server, when it is used through roles.
    roles_of: Option<String>,
    kurrent: Option<(KurrentPlace, Option<KurrentServer>)>,
}

/// Where records are, when they are in KurrentDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KurrentPlace {
    /// The connection string.
    pub url: String,
    /// The password of the user that it names.
    pub password: Option<String>,
    /// How names of streams begin.
    pub namespace: String,
}

impl KurrentPlace {
    /// As the event store takes it.
    pub fn settings(&self) -> anyhow::Result<KurrentSettings> {
        Ok(KurrentSettings::parse(&self.url, self.password.as_deref(), &self.namespace)?)
    }

    fn new() -> anyhow::Result<(Self, Option<KurrentServer>)> {
        let namespace = format!("test_{}", hex::encode(random::<8>(&SystemIds)));
        match std::env::var("FREEHOLD_TEST_KURRENT_URL") {
            Ok(url) => Ok((Self { url, password: std::env::var("FREEHOLD_TEST_KURRENT_PASSWORD").ok(), namespace }, None)),
            Err(_) => {
                let server = KurrentServer::start()?;
                Ok((Self { url: server.url(), password: None, namespace }, Some(server)))
            }
        }
    }
}

impl TestDatabase {
    /// A new one.
    pub fn new(engine: Engine) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(match engine {
            Engine::Sqlite => {
                let location = Location::Sqlite(folder.path().join("freehold.db"));
                Self { location, folder, server: None, roles_of: None, kurrent: None }
            }
            Engine::Postgres | Engine::Kurrent => {
                let server = Postgres::shared()?;
                let kurrent = if engine == Engine::Kurrent { Some(KurrentPlace::new()?) } else { None };
                Self { location: Location::Postgres(server.new_database()?), folder, server: Some(server), roles_of: None, kurrent }
            }
            Engine::PostgresRoles => {
                let server = Postgres::shared()?;
                let (name, url) = server.new_database_of_nobody()?;
                Self { location: Location::Postgres(url), folder, server: Some(server), roles_of: Some(name), kurrent: None }
            }
        })
    }

    /// How it is to be used.
    pub fn access(&self) -> Access {
        Access { roles: self.roles_of.as_deref().map(roles_of), ..Access::default() }
    }

    /// The name of the database on its server.
    pub fn name(&self) -> String {
        let Location::Postgres(url) = &self.location else { return String::new() };
        url::Url::parse(url).map(|url| url.path().trim_matches('/').to_owned()).unwrap_or_default()
    }

    /// Runs SQL as somebody who may do anything, and returns what it prints.
    pub fn psql(&self, sql: &str) -> anyhow::Result<String> {
        Ok(self.server.as_ref().context("PostgreSQL")?.psql(&self.name(), sql)?.trim().to_owned())
    }

    /// The server, when there is one.
    pub fn server(&self) -> Option<&Postgres> {
        self.server.as_deref()
    }

    /// Where records are, when they are in KurrentDB.
    pub fn kurrent(&self) -> Option<&KurrentPlace> {
        self.kurrent.as_ref().map(|(place, _)| place)
    }

    /// The KurrentDB of the test's own; none when a real one is used.
    pub fn kurrent_server(&self) -> Option<&KurrentServer> {
        self.kurrent.as_ref().and_then(|(_, server)| server.as_ref())
    }

    /// The folder in which the engine keeps what is stored.
    pub fn files(&self) -> &Path {
        self.server.as_ref().map_or(self.folder.path(), |server| server.folder.path())
    }
}

/// The roles of a database of this name.
pub fn roles_of(database: &str) -> Roles {
    let role = |duty: &str| Role::new(&format!("{database}_{duty}"), None).expect("a plain name");
    Roles { writer: role("writer"), reader: role("reader"), projector: role("projector"), migrate: true }
}

/// When `FREEHOLD_TEST_STORE=postgres-roles` asks for it, a control plane that would keep its data in a file keeps it in a
/// PostgreSQL with roles: all journeys can be made on it. A folder keeps its database for as long as the process lives.
pub fn redirect(config: &mut Config) {
    if config.store.url.is_none() && std::env::var("FREEHOLD_TEST_STORE").is_ok_and(|store| store == "postgres-roles") {
        through_roles(config);
    }
}

/// Keeps the data of a control plane in a PostgreSQL with roles, as long as the process lives.
pub fn through_roles(config: &mut Config) {
    static KEPT: Mutex<Option<HashMap<PathBuf, TestDatabase>>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_default();
    let database = kept.entry(config.data_dir.clone()).or_insert_with(|| TestDatabase::new(Engine::PostgresRoles).expect("a database"));
    let Location::Postgres(url) = &database.location else { return };
    config.store.url = Some(url.clone());
    let roles = roles_of(&database.name());
    config.store.roles = RolesConfig {
        writer: Some(roles.writer.name().to_owned()),
        reader: Some(roles.reader.name().to_owned()),
        projector: Some(roles.projector.name().to_owned()),
        ..RolesConfig::default()
    };
}

/// A PostgreSQL server on a unix socket, with a data folder of its own.
pub struct Postgres {
    folder: TempDir,
    binaries: PathBuf,
    stop: Mutex<Option<mpsc::Sender<()>>>,
    keeper: Mutex<Option<thread::JoinHandle<()>>>,
    databases: Mutex<u32>,
}

static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());

impl Postgres {
    /// The server of this process, started by the first test that asks and stopped after the last.
    pub fn shared() -> anyhow::Result<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// Starts one.
    pub fn start() -> anyhow::Result<Self> {
        let binaries = binaries()?;
        let folder = tempfile::Builder::new().prefix("freehold-pg-").tempdir()?;
        if is_root()? {
            run(Command::new("chown").arg("nobody").arg(folder.path()))?;
        }
        let data = folder.path().join("data");
        run(unprivileged(&binaries.join("initdb"))?
            .args(["-A", "trust", "-U", "freehold", "-E", "UTF8", "--locale=C", "-N", "-D"])
            .arg(&data))?;
        let (stop, stopping) = mpsc::channel();
        let (started, starting) = mpsc::channel();
        let mut server = unprivileged(&binaries.join("postgres"))?;
        server.arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-c", "listen_addresses=", "-c", "max_connections=400"]);
        // The server is to die with the thread that started it, so this thread lives as long as the server shall.
        let keeper = thread::spawn(move || {
            let child = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let (answer, child) = match child {
                Ok(child) => (Ok(()), Some(child)),
                Err(error) => (Err(error), None),
            };
            let _ = started.send(answer);
            if let Some(child) = child {
                let _ = stopping.recv();
                end(child);
            }
        });
        starting.recv()?.context("starting postgres")?;
        let server = Self { folder, binaries, stop: Mutex::new(Some(stop)), keeper: Mutex::new(Some(keeper)), databases: Mutex::new(0) };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !server.psql("postgres", "SELECT 1").is_ok_and(|answer| answer.trim() == "1") {
            ensure!(Instant::now() < deadline, "postgres did not answer within a minute");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Makes an empty database and returns its address.
    pub fn new_database(&self) -> anyhow::Result<String> {
        let name = self.new_name();
        self.psql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(&name, "freehold"))
    }

    /// The same, owned by a user who may do nothing else; with roles that have been given nothing yet.
    pub fn new_database_of_nobody(&self) -> anyhow::Result<(String, String)> {
        let name = self.new_name();
        let owner = format!("{name}_owner");
        self.psql("postgres", &format!("CREATE ROLE {owner} LOGIN"))?;
        self.psql("postgres", &format!("CREATE DATABASE {name} OWNER {owner}"))?;
        let roles = roles_of(&name);
        for role in [&roles.writer, &roles.reader, &roles.projector] {
            self.psql("postgres", &format!("CREATE ROLE {} LOGIN", role.name()))?;
        }
        let url = self.url(&name, &owner);
        Ok((name, url))
    }

    /// The address of a database, for a user.
    pub fn url(&self, database: &str, user: &str) -> String {
        format!("postgres://localhost/{database}?host={}&user={user}", self.folder.path().display())
    }

    fn new_name(&self) -> String {
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        *databases += 1;
        format!("test{databases}")
    }

    /// Runs SQL as the owner and returns what it prints.
    pub fn psql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        run(Command::new(self.binaries.join("psql"))
            .arg("-h")
            .arg(self.folder.path())
            .args(["-U", "freehold", "-d", database, "-Atqc", sql]))
    }

    /// What `pg_dump` gives of the database of this address.
    pub fn dump(&self, url: &str, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let name = url.split('/').nth(3).and_then(|rest| rest.split('?').next()).context("an address names its database")?;
        let output = Command::new(self.binaries.join("pg_dump"))
            .arg("-h")
            .arg(self.folder.path())
            .args(["-U", "freehold"])
            .args(arguments)
            .arg(name)
            .current_dir("/")
            .output()?;
        ensure!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }

    /// Where its programs are.
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(".s.PGSQL.5432")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.stop.get_mut().map(Option::take));
        if let Ok(Some(keeper)) = self.keeper.get_mut().map(Option::take) {
            let _ = keeper.join();
        }
    }
}

/// Asks for a fast shutdown, then insists.
fn end(mut child: Child) {
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    let deadline = Instant::now() + Duration::from_secs(10);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// A command as a user without rights, ended by the kernel when we end.
pub(crate) fn unprivileged(program: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new("setpriv");
    if is_root()? {
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "KILL"]).arg(program);
    Ok(command)
}

pub(crate) fn is_root() -> anyhow::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(fs::metadata("/proc/self")?.uid() == 0)
}

pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.current_dir("/").output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder of the newest installed server.
pub(crate) fn binaries() -> anyhow::Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| folder.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, folder)| folder).context("no PostgreSQL server is installed (Debian and Ubuntu: apt-get install postgresql)")
}
