//! An agent in a process of its own, so that its memory can be looked at and it can be killed.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use data_plane_agent::{app::App, config::Config, vault::secret::harden};
use freehold_tests::{faults::Steps, world::ShiftedClock};
use memchr::memmem;
use schema::{
    clock::{Clock, SystemClock, SystemIds},
    id::KeyVersion,
};
use trust::{accept::restore, testing::World};

use super::super::Site;

const DIRECTORY: &str = "FREEHOLD_TEST_AGENT_DIRECTORY";

/// A process on the data, settings and statements of a [`Site`] whose own agent has stopped.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Where it listens, `http://…`.
    pub(crate) url: String,
}

impl Process {
    /// Starts it, with no more than so many KiB of data where a limit is given (`ulimit -d`: heap, stacks and every other
    /// private memory that can be written).
    pub(crate) fn start(site: &Site, data_limit_kib: Option<u64>) -> Self {
        let mut process = Self::spawn(site, data_limit_kib);
        process.url = process.until("listening ");
        process
    }

    /// Starts an agent that has joined a site, with the settings in this folder.
    pub(crate) fn start_enrolled(directory: &Path) -> Self {
        let mut process = Self::spawn_in(directory, None);
        process.url = process.until("listening ");
        process
    }

    /// The same, without waiting until it listens.
    pub(crate) fn spawn(site: &Site, data_limit_kib: Option<u64>) -> Self {
        assert!(site.agent.is_none(), "stop the site's own agent first");
        let directory = site.directory.path();
        fs::write(directory.join("set.json"), site.set.as_ref().unwrap().to_bytes()).unwrap();
        Self::spawn_in(directory, data_limit_kib)
    }

    fn spawn_in(directory: &Path, data_limit_kib: Option<u64>) -> Self {
        let limit = data_limit_kib.map_or_else(String::new, |kib| format!("ulimit -d {kib} && "));
        let mut child = Command::new("sh")
            .args(["-c", &format!("{limit}exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "agent_process", "--nocapture", "--test-threads", "1"])
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output, url: String::new() }
    }

    /// Kills it, as nothing can prevent (`kill -9`), and waits for its end.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Reads until it says this; gives the rest of that line. (What runs tests writes on the same line.)
    fn until(&mut self, word: &str) -> String {
        self.try_until(word).unwrap_or_else(|| panic!("the agent's process ended before it said: {word}"))
    }

    fn try_until(&mut self, word: &str) -> Option<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.trim_end().split_once(word) {
                return Some(rest.to_owned());
            }
            line.clear();
        }
        None
    }

    /// Has it die so many steps from now, as `kill -9` would have it.
    pub(crate) fn die_in(&mut self, steps: u64) {
        writeln!(self.input, "die {steps}").unwrap();
        // It may be dead before it can say that it has heard.
        self.try_until("armed");
    }

    /// How many steps it has taken.
    pub(crate) fn steps(&mut self) -> u64 {
        writeln!(self.input, "steps").unwrap();
        self.until("taken ").parse().unwrap()
    }

    /// Whether it has ended.
    pub(crate) fn has_died(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Destroys a version in its vault, as its control plane would have it do.
    pub(crate) fn destroy(&mut self, version: KeyVersion) {
        writeln!(self.input, "destroy {version}").unwrap();
        self.until("destroyed");
    }

    /// A figure of `/proc/…/status` in KiB: `VmHWM` is the most memory it ever had.
    pub(crate) fn kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// How much data it may have.
    pub(crate) fn data_limit_kib(&self) -> Option<u64> {
        let limits = fs::read_to_string(self.proc("limits")).unwrap();
        let bytes = limits.lines().find_map(|line| line.strip_prefix("Max data size"))?.split_whitespace().next()?;
        bytes.parse::<u64>().ok().map(|bytes| bytes / 1024)
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.child.id()).into()
    }

    /// Everything it can write, as it stands in memory now. None: the system does not let us look.
    pub(crate) fn image(&self) -> Option<Image> {
        let memory = File::open(self.proc("mem")).ok()?;
        let mut regions = Vec::new();
        for line in fs::read_to_string(self.proc("maps")).ok()?.lines() {
            let mut parts = line.split_whitespace();
            let (range, rights) = (parts.next()?, parts.next()?);
            if !rights.starts_with("rw") {
                continue;
            }
            let (from, to) = range.split_once('-')?;
            let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
            let mut bytes = vec![0; usize::try_from(to - from).ok()?];
            if memory.read_exact_at(&mut bytes, from).is_ok() {
                regions.push((parts.nth(3).unwrap_or("anonymous").to_owned(), bytes));
            }
        }
        (!regions.is_empty()).then_some(Image(regions))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process's memory at one moment.
pub(crate) struct Image(Vec<(String, Vec<u8>)>);

impl Image {
    /// Where these bytes stand: one line for each place.
    pub(crate) fn places(&self, wanted: &[u8]) -> Vec<String> {
        let places = self.0.iter().flat_map(|(name, bytes)| {
            memmem::find_iter(bytes, wanted).map(move |at| format!("{name} of {} KiB, byte {at}", bytes.len() / 1024))
        });
        places.collect()
    }

    /// How much was looked through.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

/// What a [`Process`] runs: what the agent's program does; with statements from a file, where there is one, instead of a control
/// plane.
#[allow(clippy::print_stdout, reason = "the parent reads it")]
pub(crate) async fn run() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    harden();
    let config = Config::load(Some(&directory.join("agent.toml")), [], &Default::default()).unwrap();
    let clock: Arc<dyn Clock> = match ShiftedClock::shared(directory) {
        Some(shifted) => Arc::new(shifted),
        None => Arc::new(SystemClock),
    };
    let steps = Steps::default();
    let agent = App::start(config, steps.clock(clock), steps.ids(Arc::new(SystemIds))).await.unwrap();
    if let Ok(set) = fs::read(directory.join("set.json")) {
        agent.put_in_force(&restore(&set, &World::new().identity()).unwrap()).unwrap();
    }
    println!("listening http://{}", agent.address);
    let (commands, mut asked) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| commands.send(line)));
    while let Some(command) = asked.recv().await {
        match command.split_once(' ') {
            Some(("die", count)) => {
                steps.die_in(count.parse().unwrap());
                println!("armed");
            }
            Some(("destroy", version)) => {
                agent.vault().destroy(version.parse::<KeyVersion>().unwrap()).await.unwrap();
                println!("destroyed");
            }
            _ => println!("taken {}", steps.taken()),
        }
    }
    agent.stop().await.unwrap();
}
