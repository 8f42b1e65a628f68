//! The programs of others, each behind a script that answers one JSON line for each it reads.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::table::Program;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a program answers.
#[derive(Debug)]
pub enum Answer {
    /// It did it.
    Done(Value),
    /// It does not have the algorithm.
    Unknown,
    /// It found something wrong.
    Refused(String),
}

/// One script.
pub struct Peer {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{error}: {command:?}; make setup-test installs what it needs"));
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, input, output: BufReader::new(output).lines() }
    }

    /// Asks for one thing.
    pub async fn ask(&mut self, request: Value) -> Answer {
        self.input.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await.expect("an answer in time").unwrap();
        let answer: Value = serde_json::from_str(&line.expect("an answer")).unwrap();
        match (answer["ok"].as_bool(), answer["unknown"].as_str(), answer["refused"].as_str()) {
            (Some(true), ..) => Answer::Done(answer),
            (_, Some(_), _) => Answer::Unknown,
            (.., refused) => Answer::Refused(refused.unwrap_or_default().to_owned()),
        }
    }

    /// Asks for something it must be able to do.
    pub async fn must(&mut self, request: Value) -> Value {
        match self.ask(request.clone()).await {
            Answer::Done(answer) => answer,
            other => panic!("{other:?} to {request}"),
        }
    }
}

/// Both scripts.
pub struct Peers {
    pub python: Peer,
    pub javascript: Peer,
}

impl Peers {
    pub async fn start() -> Self {
        let (scripts, installed) = (PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers"), tools().join("peers"));
        let python = Peer::start(Command::new(installed.join("python/bin/python")).args(["-s", "-B"]).arg(scripts.join("python/peer.py")));
        let modules = installed.join("javascript");
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
        let node = modules.join(format!("node_modules/node-linux-{architecture}/bin/node"));
        let script = scripts.join("javascript/peer.mjs");
        let javascript = Peer::start(Command::new(node).arg("--no-warnings").arg(script).env("FREEHOLD_PEER_MODULES", modules));
        Self { python, javascript }
    }

    /// Which version of which library.
    pub async fn versions(&mut self) -> Value {
        let mut versions = self.python.must(json!({ "op": "versions" })).await;
        for (name, version) in self.javascript.must(json!({ "op": "versions" })).await.as_object().unwrap() {
            versions[name] = version.clone();
        }
        versions
    }

    /// Asks a library for something.
    pub async fn ask(&mut self, program: Program, mut request: Value) -> Answer {
        request["with"] = program.library().into();
        match program {
            Program::Cryptography | Program::Jwcrypto => self.python.ask(request).await,
            Program::Jose | Program::Hpke | Program::Noble | Program::Node => self.javascript.ask(request).await,
            Program::OpenSsl => unreachable!("it has no script"),
        }
    }
}

/// Where `make setup-test` keeps what it installs; the same default as in the Makefile.
fn tools() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").unwrap_or_else(|| set("HOME").expect("a home").join(".cache"));
    set("FREEHOLD_TOOLS").unwrap_or_else(|| cache().join("freehold/tools"))
}
