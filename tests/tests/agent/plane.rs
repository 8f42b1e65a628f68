//! A control plane in a process of its own, so that it can be killed. Whoever talks to it goes through gates that stay where they are
//! when it comes back elsewhere.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use control_plane::app::App;
use freehold_tests::{
    faults::Steps,
    world::{Plane, ShiftedClock, World, plane_config},
};
use schema::clock::SystemIds;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

const DIRECTORY: &str = "FREEHOLD_TEST_PLANE_DIRECTORY";
const AGENTS: &str = "FREEHOLD_TEST_PLANE_AGENTS";

/// An address that leads to whatever is told last; while that is nothing, connections end at once.
struct Gate {
    address: SocketAddr,
    to: watch::Sender<Option<SocketAddr>>,
}

impl Gate {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to, watched) = watch::channel(None);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut watched = watched.clone();
                let Some(to): Option<SocketAddr> = *watched.borrow_and_update() else { continue };
                tokio::spawn(async move {
                    let Ok(mut onward) = TcpStream::connect(to).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut onward) => {}
                        _ = watched.changed() => {}
                    }
                });
            }
        });
        Self { address, to }
    }
}

/// The process, which may be dead.
pub(crate) struct PlaneProcess {
    folder: PathBuf,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    graphql: Gate,
    agents: Gate,
    /// How often it was brought back.
    pub(crate) deaths: usize,
    /// Stands between it and its disk, which it can make full; none in most tests.
    shim: Option<PathBuf>,
}

impl PlaneProcess {
    /// A system over a control plane that goes by this clock; where it is to be so, its disk is one that [`PlaneProcess::fill`] fills.
    pub(crate) async fn start(clock: &ShiftedClock, fillable: bool) -> (Self, World) {
        let folder = tempfile::tempdir().unwrap();
        clock.share_with(folder.path());
        let (graphql, agents) = (Gate::open().await, Gate::open().await);
        let shim = fillable.then(|| shim(folder.path()));
        let (child, input, output) = spawn(folder.path(), agents.address, shim.as_deref());
        let folder_of_it = folder.path().to_owned();
        let mut process = Self { folder: folder_of_it, child, input, output, graphql, agents, deaths: 0, shim };
        let token = process.arrive().unwrap();
        let graphql_url = format!("http://{}{}", process.graphql.address, control_plane::http::graphql::PATH);
        let plane = Plane::Elsewhere { graphql_url, agents: process.agents.address, operator_token_file: token.clone().into() };
        let world = World::over(plane, Path::new(&token), folder, Arc::new(clock.clone())).await;
        (process, world)
    }

    /// Waits until it listens; gives where the operator's token is. None when it ended before.
    fn arrive(&mut self) -> Option<String> {
        let line = self.until("listening ")?;
        let mut parts = line.splitn(3, ' ');
        self.graphql.to.send_replace(parts.next()?.parse().ok());
        self.agents.to.send_replace(parts.next()?.parse().ok());
        parts.next().map(str::to_owned)
    }

    fn until(&mut self, word: &str) -> Option<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line).ok()? > 0 {
            if let Some((_, rest)) = line.trim_end().split_once(word) {
                return Some(rest.to_owned());
            }
            line.clear();
        }
        None
    }

    /// Has it die so many steps from now, as `kill -9` would have it.
    pub(crate) fn die_in(&mut self, steps: u64) {
        self.revive();
        // It may be dead before it can say that it has heard.
        if writeln!(self.input, "die {steps}").is_ok() {
            self.until("armed");
        }
    }

    /// How many steps it has taken since it was started.
    pub(crate) fn steps(&mut self) -> u64 {
        self.ask("steps", "taken ").parse().unwrap()
    }

    /// Asks it something; brings it back first, if it is dead.
    fn ask(&mut self, question: &str, word: &str) -> String {
        loop {
            self.revive();
            if writeln!(self.input, "{question}").is_ok()
                && let Some(answer) = self.until(word)
            {
                return answer;
            }
            self.child.wait().unwrap();
        }
    }

    /// Where something of its public listener is.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.graphql.address)
    }

    /// From now on its disk has no room left.
    pub(crate) fn fill(&self) {
        assert!(self.shim.is_some(), "its disk cannot be filled");
        std::fs::write(self.folder.join(FULL), b"").unwrap();
    }

    /// There is room again.
    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.folder.join(FULL)).unwrap();
    }

    /// Kills it, as nothing can prevent.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Brings it back if it is dead; says whether it was.
    pub(crate) fn revive(&mut self) -> bool {
        if self.child.try_wait().unwrap().is_none() {
            return false;
        }
        self.deaths += 1;
        self.graphql.to.send_replace(None);
        self.agents.to.send_replace(None);
        (self.child, self.input, self.output) = spawn(&self.folder, self.agents.address, self.shim.as_deref());
        self.arrive();
        true
    }
}

impl Drop for PlaneProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file that makes its disk full as long as it is there.
const FULL: &str = "full";

/// What stands between it and its disk, made in this folder.
fn shim(folder: &Path) -> PathBuf {
    let library = folder.join("full.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/agent/full.c");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).args([source, "-ldl"]).status().unwrap();
    assert!(made.success(), "cc did not compile {source}");
    library
}

fn spawn(folder: &Path, agents: SocketAddr, shim: Option<&Path>) -> (Child, ChildStdin, BufReader<ChildStdout>) {
    let mut command = Command::new("sh");
    if let Some(shim) = shim {
        command.env("LD_PRELOAD", shim).env("FREEHOLD_FULL_WHILE", folder.join(FULL));
    }
    let mut child = command
        .args(["-c", "ulimit -c 0; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "plane_process", "--nocapture", "--test-threads", "1"])
        .env(DIRECTORY, folder)
        .env(AGENTS, format!("https://{agents}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(if std::env::var_os("FREEHOLD_TEST_LOG").is_some() { Stdio::inherit() } else { Stdio::null() })
        .spawn()
        .unwrap();
    let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    (child, input, output)
}

/// What a [`PlaneProcess`] runs: what the control plane's program does, on the data in this folder.
#[allow(clippy::print_stdout, reason = "the parent reads it")]
pub(crate) async fn run() {
    let (Some(directory), Ok(agents)) = (std::env::var_os(DIRECTORY), std::env::var(AGENTS)) else { return };
    freehold_tests::world::log();
    let directory = Path::new(&directory);
    let mut config = plane_config(directory);
    config.agents.public_url = Some(agents.parse().unwrap());
    let clock = ShiftedClock::shared(directory).unwrap();
    let steps = Steps::default();
    let plane = App::start(config, steps.clock(Arc::new(clock)), steps.ids(Arc::new(SystemIds))).await.unwrap();
    println!("listening {} {} {}", plane.graphql_address(), plane.agents_address(), plane.operator_token_file().display());
    let (commands, mut asked) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| commands.send(line)));
    while let Some(command) = asked.recv().await {
        match command.split_once(' ') {
            Some(("die", count)) => {
                steps.die_in(count.parse().unwrap());
                println!("armed");
            }
            _ => println!("taken {}", steps.taken()),
        }
    }
    plane.stop().await;
}
