//! A control plane as a user would run it, over PostgreSQL.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use control_plane::{
    database::{Database, Location},
    eventing::sql::SqlStore,
    sealing::{Keyring, SealingKey},
};
use freehold_tests::database::{Engine, TestDatabase};
use schema::clock::{SystemClock, SystemIds};
use serde_json::{Value, json};

/// A running control plane; it ends with this value.
pub struct Plane {
    child: Child,
    http: reqwest::Client,
    port: u16,
    config: PathBuf,
    folder: tempfile::TempDir,
    database: TestDatabase,
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn spawn(config: &Path, log: &Path) -> anyhow::Result<Child> {
    let bin = PathBuf::from(std::env::var("FREEHOLD_BIN").context("set FREEHOLD_BIN to the folder with the programs")?);
    let log = std::fs::File::create(log)?;
    Command::new(bin.join("freehold-control-plane"))
        .args(["serve", "--config"])
        .arg(config)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("could not start freehold-control-plane")
}

impl Plane {
    /// Starts one with nothing in it.
    pub async fn start() -> anyhow::Result<Self> {
        let database = TestDatabase::new(Engine::Postgres)?;
        let Location::Postgres(url) = &database.location else { bail!("it was asked for PostgreSQL") };
        let folder = tempfile::Builder::new().prefix("freehold-bench").tempdir()?;
        let (port, agents) = (free_port()?, free_port()?);
        let (config, data) = (folder.path().join("control-plane.toml"), folder.path().join("data"));
        std::fs::write(
            &config,
            format!(
                "data_dir = {data:?}\ndevelopment = true\n[store]\nurl = {url:?}\n\
                 [server]\nlisten = \"127.0.0.1:{port}\"\nplain_http = true\n[agents]\nlisten = \"127.0.0.1:{agents}\"\n\
                 [limits]\ntenant_per_minute = 100000000\ntoken_per_minute = 100000000\naddress_per_minute = 100000000\nenrolments_per_minute = 100000000\n"
            ),
        )?;
        let child = spawn(&config, &folder.path().join("log"))?;
        let plane = Self { child, http: reqwest::Client::builder().no_proxy().build()?, port, config, folder, database };
        plane.ready().await?;
        Ok(plane)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(600);
        loop {
            let answer = self.http.get(format!("http://127.0.0.1:{}/readyz", self.port)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            ensure!(Instant::now() < end, "the control plane does not become ready\n{}", log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops it.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        ensure!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?.success(), "kill failed");
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again; milliseconds until it is ready.
    pub async fn start_again(&mut self) -> anyhow::Result<f64> {
        let started = Instant::now();
        self.child = spawn(&self.config, &self.folder.path().join("log"))?;
        self.ready().await?;
        Ok((started.elapsed().as_secs_f64() * 1000.0).round())
    }

    /// Its store, for what no client could do in time. It must not run.
    pub async fn open_store(&self) -> anyhow::Result<SqlStore> {
        let key = SealingKey::read(&self.folder.path().join("data/sealing.key"))?;
        let database = Database::open(&self.database.location).await?;
        let keyring = Keyring::open(database.clone(), &key, std::sync::Arc::new(SystemClock), std::sync::Arc::new(SystemIds)).await?;
        Ok(SqlStore::open(database, std::sync::Arc::new(keyring)).await?)
    }

    /// The operator's token.
    pub fn operator(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.folder.path().join("data/operator.token"))?.trim().to_owned())
    }

    /// A new tenant: the token of its administrator.
    pub async fn tenant(&self, name: &str) -> anyhow::Result<String> {
        let made = self.mutate(&self.operator()?, "createTenant", json!({ "name": name }), "adminToken").await?;
        Ok(made["adminToken"].as_str().context("no token")?.to_owned())
    }

    /// A query.
    pub async fn query(&self, token: &str, query: &str, variables: Value) -> anyhow::Result<Value> {
        let body = json!({ "query": query, "variables": variables });
        let url = format!("http://127.0.0.1:{}{}", self.port, control_plane::http::graphql::PATH);
        let mut answer: Value = self.http.post(url).bearer_auth(token).json(&body).send().await?.json().await?;
        ensure!(answer["errors"].is_null(), "{query}: {answer}");
        Ok(answer["data"].take())
    }

    /// A mutation that is not refused.
    pub async fn mutate(&self, token: &str, name: &str, input: Value, fields: &str) -> anyhow::Result<Value> {
        let kind = format!("{}{}Input", name[..1].to_uppercase(), &name[1..]);
        let query = format!("mutation($input: {kind}!) {{ {name}(input: $input) {{ {fields} userErrors {{ code message }} }} }}");
        let answer = self.query(token, &query, json!({ "input": input })).await?[name].take();
        ensure!(answer["userErrors"] == json!([]), "{name}: {answer}");
        Ok(answer)
    }

    /// Milliseconds a query takes, the median of 20.
    pub async fn time(&self, token: &str, query: &str, variables: Value) -> anyhow::Result<f64> {
        let mut times = Vec::new();
        for _ in 0..20 {
            let started = Instant::now();
            self.query(token, query, variables.clone()).await?;
            times.push(started.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        Ok((times[10] * 100.0).round() / 100.0)
    }

    /// Resident memory, MiB.
    pub fn rss_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) / 1024
    }

    /// Processor time it has taken so far, seconds (of a hundredth).
    pub fn processor_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }
}
