//! PostgreSQL servers that a test starts, crashes, restarts, copies and promotes.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::database::{binaries, is_root, run, unprivileged};

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Sessions are broken off, what is in memory is written.
    Fast,
    /// Nothing more is written, as if the machine had lost its power.
    Immediate,
    /// Every one of its processes is killed (`kill -9`).
    Killed,
}

/// One server, with a folder of its own. It ends with the process.
pub struct Server {
    folder: TempDir,
    binaries: PathBuf,
    settings: Vec<String>,
    port: u16,
    running: Mutex<Option<(mpsc::Sender<End>, thread::JoinHandle<()>)>>,
}

impl Server {
    /// An empty one that runs, with these settings (`name=value`).
    pub fn start(settings: &[&str]) -> anyhow::Result<Self> {
        let server = Self::new(settings)?;
        server.run()?;
        Ok(server)
    }

    /// The same, not yet running.
    pub fn new(settings: &[&str]) -> anyhow::Result<Self> {
        let server = Self::prepare(settings)?;
        run(unprivileged(&server.binaries.join("initdb"))?
            .args(["-A", "trust", "-U", "freehold", "-E", "UTF8", "--locale=C", "-N", "-D"])
            .arg(server.data()))?;
        Ok(server)
    }

    /// A standby that follows this one, and runs.
    pub fn standby(&self, settings: &[&str]) -> anyhow::Result<Self> {
        let standby = Self::prepare(settings)?;
        run(unprivileged(&standby.binaries.join("pg_basebackup"))?
            .args(["-X", "stream", "-c", "fast", "-R", "-U", "freehold", "-h"])
            .arg(self.folder.path())
            .args(["-p", &self.port.to_string()])
            .arg("-D")
            .arg(standby.data()))?;
        standby.run()?;
        Ok(standby)
    }

    fn prepare(settings: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("freehold-pg-").tempdir()?;
        if is_root()? {
            run(Command::new("chown").arg("nobody").arg(folder.path()))?;
        }
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        // Free now; nobody else asks the system for this one by number.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self { folder, binaries: binaries()?, settings, port, running: Mutex::new(None) })
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A folder that the server can read.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Gives a file to the user that the server runs as, for its eyes only.
    pub fn give(&self, file: &Path) -> anyhow::Result<()> {
        run(Command::new("chmod").arg("0600").arg(file))?;
        if is_root()? {
            run(Command::new("chown").arg("nobody").arg(file))?;
        }
        Ok(())
    }

    /// Starts it again.
    pub fn run(&self) -> anyhow::Result<()> {
        self.run_with(&[])
    }

    /// Starts it again, with further settings this time.
    pub fn run_with(&self, more: &[&str]) -> anyhow::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(running.is_none(), "it runs already");
        let mut server = unprivileged(&self.binaries.join("postgres"))?;
        server.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path()).args(["-p", &self.port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "max_connections=100"]
            .into_iter()
            .chain(self.settings.iter().map(String::as_str))
            .chain(more.iter().copied())
        {
            server.args(["-c", setting]);
        }
        let (stop, stopping) = mpsc::channel();
        let (started, starting) = mpsc::channel();
        // It is to die with the thread that started it, so this thread lives as long as it shall.
        let keeper = thread::spawn(move || {
            let child = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let (answer, child) = match child {
                Ok(child) => (Ok(()), Some(child)),
                Err(error) => (Err(error), None),
            };
            let _ = started.send(answer);
            if let Some(mut child) = child {
                let end = stopping.recv().unwrap_or(End::Immediate);
                signal(end, child.id());
                let deadline = Instant::now() + Duration::from_secs(20);
                while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(5));
                }
                let _ = child.kill();
                let _ = child.wait();
            }
        });
        starting.recv()?.context("starting postgres")?;
        *running = Some((stop, keeper));
        drop(running);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.psql("postgres", "SELECT 1").is_ok_and(|answer| answer == "1") {
            ensure!(Instant::now() < deadline, "postgres did not answer within a minute");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends it, and waits until it has.
    pub fn end(&self, how: End) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, keeper)) = running {
            let _ = stop.send(how);
            let _ = keeper.join();
        }
    }

    /// Makes a standby the server that is written to.
    pub fn promote(&self) -> anyhow::Result<()> {
        let promoted = self.psql("postgres", "SELECT pg_promote(true, 30)")?;
        ensure!(promoted == "t", "the standby was not promoted");
        Ok(())
    }

    /// Runs SQL as the first user and returns what it prints.
    pub fn psql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let program = self.binaries.join("psql");
        let told = run(Command::new(program).arg("-h").arg(self.folder.path()).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "freehold",
            "-d",
            database,
            "-Atqc",
            sql,
        ]))?;
        Ok(told.trim().to_owned())
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(format!(".s.PGSQL.{}", self.port))
    }

    /// The address of a database, through the unix socket.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://localhost:{}/{database}?host={}&user=freehold", self.port, self.folder.path().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(End::Immediate);
    }
}

fn signal(end: End, pid: u32) {
    let send = |signal: &str, pid: u32| drop(Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status());
    match end {
        End::Fast => send("-INT", pid),
        End::Immediate => send("-QUIT", pid),
        End::Killed => {
            // Its children notice the loss of their parent only when they have nothing to do.
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            send("-KILL", pid);
            children.split_whitespace().filter_map(|child| child.parse().ok()).for_each(|child| send("-KILL", child));
        }
    }
}
