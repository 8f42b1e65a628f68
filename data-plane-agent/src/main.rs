//! `freehold-agent`: runs an agent, and the few things an operator does beside it on the same host.

mod caller_command;
mod exchange_command;
mod keys_command;
mod lock_command;
mod statements_command;
mod vault_command;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use data_plane_agent::{
    algorithm::serve as serve_algorithm,
    app::{App, open_vault, run_locked},
    config::{Config, Flags},
    control::{
        directory::ControlDirectory,
        enrol::{self, EnrolParts, Enrolled, read_enrolment_file},
        vouch::{self, Whom},
    },
    local, lock,
    membership::host_name,
    recovery::command::{BackupCommand, RecoveryCommand},
    rest::{openapi, self_test},
    selftest::SelfTests,
    vault::secret::harden,
};
use reqwest::Method;
use schema::{
    clock::{SystemClock, SystemIds},
    encoding::Digest,
    id::AgentId,
    wire::{
        health::{SelfTestAnswer, SelfTestResult},
        operation::path,
    },
};
use serde::de::DeserializeOwned;
use service::{config::ConfigError, files::DirectoryLock, telemetry::Service};

use crate::{
    caller_command::{CallerCommand, caller},
    exchange_command::ExchangeCommand,
    keys_command::{KeysCommand, keys},
    lock_command::{lock_agent, unlock_agent},
    statements_command::StatementsCommand,
    vault_command::VaultCommand,
};

/// Where settings are when nothing else is said.
const DEFAULT_CONFIG: &str = "/etc/freehold/agent.toml";

/// The Freehold agent: cryptography next to your keys, as policy allows.
///
/// Settings come from one TOML file (`--config`), the environment (`FREEHOLD_<SECTION>__<KEY>`) and flags; flags win.
/// `freehold-agent check-config --example` prints a file to begin with.
#[derive(Parser)]
#[command(name = "freehold-agent", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    /// The file with the settings [default: /etc/freehold/agent.toml, when it is there].
    #[arg(long, short, global = true, env = "FREEHOLD_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Join a site, once: the agent makes its own keys and proves its right with the enrolment file.
    ///
    /// A host that is connected to nothing joins by two files: `--request FILE` writes what it asks; `freehold agent enrol`, wherever the
    /// control plane can be reached and with a copy of the same enrolment file, hands it in; `--answer FILE` takes what comes back. From then
    /// on the agent says and hears everything by `freehold-agent exchange`.
    Enrol {
        /// The file that `freehold agent invite` wrote: single-use, secret, good for a limited time.
        #[arg(long, value_name = "FILE", required_unless_present = "answer")]
        token_file: Option<PathBuf>,
        /// Call nobody: write what is asked into this file, for somebody to carry. The token is not in it.
        #[arg(long, value_name = "FILE", conflicts_with = "answer")]
        request: Option<PathBuf>,
        /// Take the answer that `freehold agent enrol` wrote.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["token_file", "again"])]
        answer: Option<PathBuf>,
        /// Give up the agent that this host was, and join as a new one that keeps the vault: after a restoration, or when the
        /// former identity was copied, cut off or revoked.
        #[arg(long)]
        again: bool,
    },
    /// Run the agent until SIGINT or SIGTERM.
    Run,
    /// Stop everything the agent on this host does, at once and without the control plane, until it is unlocked.
    ///
    /// Needs nothing but the right to write to the data directory: root has it. The running agent drops every key, every stream
    /// and every connection, and refuses everything with the code agent_locked; started again, it stays locked. Only
    /// `freehold-agent unlock`, with the vault's secret, undoes it.
    Lock {
        /// Why, in words; shown to whoever is refused.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Undo `freehold-agent lock`: whoever unlocks shows that they know the vault's secret.
    Unlock {
        /// A file with the vault's passphrase, the vault's key file, or the PIN or token of what opens it; without it, the passphrase
        /// is asked for (or read from standard input). What the settings name is not taken by itself.
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Vouch for an agent that joins this site, after comparing its join code: this agent, running, tells the others.
    ///
    /// Or for an agent of another site that shares a key with this one. It becomes no agent of this site: what is sent to it, and believed
    /// of it, is of keys that policy places at both.
    Vouch {
        /// The newcomer, or the agent of the other site: `agt_…`.
        agent: AgentId,
        /// The join code that the newcomer's `freehold-agent enrol` printed, told over another channel than the control plane.
        #[arg(allow_hyphen_values = true)]
        join_code: Digest,
    },
    /// Register applications with this agent: their tokens are made here and known nowhere else.
    #[command(subcommand)]
    Caller(CallerCommand),
    /// Say everything to the control plane, and hear its answer, by files: for an agent that is connected to nothing.
    #[command(subcommand)]
    Exchange(ExchangeCommand),
    /// Move key material between agents by hand, for sites that are connected to nothing; connected agents do it by themselves.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Show, export and import statements, and let an epoch begin.
    #[command(subcommand)]
    Statements(StatementsCommand),
    /// Make, keep and try the recovery key of this site.
    #[command(subcommand)]
    Recovery(RecoveryCommand),
    /// Back up the vault, and bring backups back.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Look at the vault, change what opens it, or make another root key.
    #[command(subcommand)]
    Vault(VaultCommand),
    /// Say what the running agent enforces.
    Status,
    /// Test every algorithm now: known answers, pairwise tests, fast against reference implementation.
    ///
    /// The running agent tests itself; what fails there is switched off until it is started again. Exit code 1 when
    /// anything failed.
    SelfTest {
        /// Test this program instead: no agent needs to run.
        #[arg(long)]
        here: bool,
    },
    /// Check the settings without starting anything.
    CheckConfig {
        /// Print an annotated example instead.
        #[arg(long)]
        example: bool,
    },
    /// Print the REST interface as OpenAPI 3.1.
    PrintOpenapi,
    /// Print the JSON Schema of the settings.
    PrintConfigSchema,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let usage = error.downcast_ref::<ConfigError>().is_some();
            let text = service::explain::explain("freehold-agent", error.as_ref());
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let config = || load(cli.config.as_deref(), &cli.flags);
    match cli.command {
        Command::Enrol { answer: Some(answer), .. } => enrol_by_answer(&config()?, &answer),
        Command::Enrol { token_file, request, again, .. } => {
            let token_file = token_file.context("--token-file names the enrolment file")?;
            enrol(&config()?, &token_file, request.as_deref(), again)
        }
        Command::Run => serve(config()?),
        Command::Lock { reason } => lock_agent(&config()?, reason.as_deref()),
        Command::Unlock { secret_file } => unlock_agent(config()?, secret_file),
        Command::Vouch { agent, join_code } => match vouch::confirm(&ControlDirectory::open(&config()?.data_dir)?, agent, join_code)? {
            Whom::Own => say(&format!("{agent} is confirmed. The running agent vouches for it within seconds.\n")),
            Whom::Neighbour(site) => say(&format!(
                "{agent} is an agent of another site, {site}. It is confirmed, and becomes no agent of this one: agents here send it material of keys \
                     that policy places at both sites, take such material from it, and believe the versions of these keys that it makes. It also \
                     vouches here for other agents of its own site. For the way back, let somebody there vouch for this agent.\n"
            )),
        },
        Command::Caller(command) => caller(&config()?, command),
        Command::Exchange(command) => say(&command.run(&config()?)?),
        Command::Keys(command) => keys(&config()?, command),
        Command::Statements(command) => say(&command.run(&config()?)?),
        Command::Recovery(command) => {
            harden();
            say(&command.run(&config()?)?)
        }
        Command::Backup(command) => {
            harden();
            service::tls::install_provider();
            say(&runtime()?.block_on(command.run(&config()?))?)
        }
        Command::Vault(command) => {
            harden();
            let config = config()?;
            runtime()?.block_on(command.run(&config))
        }
        Command::Status => say(&(serde_json::to_string_pretty(&ask::<serde_json::Value>(&config()?, Method::GET, path::STATUS)?)? + "\n")),
        Command::SelfTest { here: true } => {
            told(&self_test::answer(&SelfTests::new(serve_algorithm, Arc::new(SystemClock), Arc::new(SystemIds)).run()))
        }
        Command::SelfTest { here: false } => told(&ask(&config()?, Method::POST, path::SELF_TEST)?),
        Command::CheckConfig { example: true } => say(Config::EXAMPLE),
        Command::CheckConfig { example: false } => {
            let config = config()?;
            say(&format!("The settings are good: data in {}, listening on {}.\n", config.data_dir.display(), config.server.listen))
        }
        Command::PrintOpenapi => say(openapi::COMMITTED),
        Command::PrintConfigSchema => say(&(serde_json::to_string_pretty(&service::config::schema::<Config>())? + "\n")),
    }
}

fn load(file: Option<&Path>, flags: &Flags) -> Result<Config, ConfigError> {
    let fallback = Path::new(DEFAULT_CONFIG);
    let file = file.or_else(|| fallback.exists().then_some(fallback));
    Config::load(file, std::env::vars(), flags)
}

fn serve(config: Config) -> anyhow::Result<()> {
    let hardening = harden();
    runtime()?.block_on(async {
        let service = Service::new("freehold-agent", env!("CARGO_PKG_VERSION"), &SystemIds);
        let telemetry = service::telemetry::start(&config.log, &config.telemetry, &service)?;
        for warning in &hardening.warnings {
            tracing::warn!("{warning}");
        }
        let stopping = service::shutdown::on_signals().context("signals cannot be received")?;
        service::files::create_private_directory(&config.data_dir)?;
        while let Some(locked) = lock::state(&config.data_dir) {
            if !run_locked(&config, locked, Arc::new(SystemClock), Arc::new(SystemIds), &stopping).await? {
                tracing::info!("stopped");
                return Ok(());
            }
            tracing::warn!("the agent was unlocked");
        }
        let data_dir = config.data_dir.clone();
        let running = App::start(config, Arc::new(SystemClock), Arc::new(SystemIds)).await?;
        tokio::spawn(async move {
            lock::set(data_dir).await;
            tracing::warn!("the agent was locked on this host: it starts afresh, without its keys");
            let error = lock::start_afresh();
            tracing::error!(%error, "the agent cannot start afresh, and ends instead; started again, it is locked");
            std::process::exit(1);
        });
        running.stop_when(stopping).await?;
        tracing::info!("stopped");
        telemetry.stop().await;
        Ok(())
    })
}

fn enrol(config: &Config, token_file: &Path, request: Option<&Path>, again: bool) -> anyhow::Result<()> {
    service::log::init(&config.log)?;
    service::tls::install_provider();
    harden();
    let token = read_enrolment_file(token_file)?;
    service::files::create_private_directory(&config.data_dir)?;
    let _lock = DirectoryLock::take(&config.data_dir)?;
    if again {
        enrol::check(&token, &SystemClock)?;
        if let Some(former) = enrol::give_up(&ControlDirectory::open(&config.data_dir)?, &config.journal_directory())? {
            let journal = former.journal.map_or_else(String::new, |path| {
                format!(" Its journal is in {}: what the control plane has not taken of it stays there.", path.display())
            });
            say(&format!("Gave up {}.{journal} The vault stays.\n", former.agent))?;
        }
    }
    match request {
        None => told_enrolled(&enrolling(config, async |parts| Ok(enrol::enrol(&token, parts).await?))?),
        Some(out) => {
            let file = enrolling(config, async |parts| Ok(enrol::request(&token, parts).await?))?;
            service::files::write_atomic(out, &serde_json::to_vec_pretty(&file)?, service::files::READABLE)?;
            say(&format!(
                "{0} asks to join as {1}. Where the control plane can be reached, and with a copy of {2}:\n  freehold agent enrol {0} --enrolment-file {2} --answer FILE\nThen bring the answer here: freehold-agent enrol --answer FILE\n",
                out.display(),
                token.agent,
                token_file.display()
            ))
        }
    }
}

/// The other half of joining by files.
fn enrol_by_answer(config: &Config, answer: &Path) -> anyhow::Result<()> {
    service::log::init(&config.log)?;
    service::tls::install_provider();
    harden();
    let file = enrol::read_answer(answer)?;
    service::files::create_private_directory(&config.data_dir)?;
    let _lock = DirectoryLock::take(&config.data_dir)?;
    told_enrolled(&enrolling(config, async |parts| Ok(enrol::answer(file, parts).await?))?)
}

/// Does it with what enrolling needs.
fn enrolling<T>(config: &Config, work: impl AsyncFnOnce(&EnrolParts<'_>) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let host = host_name();
    runtime()?.block_on(async {
        let vault = open_vault(config, Arc::new(SystemIds)).await?;
        let parts = EnrolParts {
            directory: &ControlDirectory::open(&config.data_dir)?,
            vault: &*vault,
            outgoing: &config.control_plane.outgoing,
            clock: Arc::new(SystemClock),
            ids: &SystemIds,
            host: &host,
        };
        work(&parts).await
    })
}

fn told_enrolled(enrolled: &Enrolled) -> anyhow::Result<()> {
    let next = if enrolled.statements {
        "Its site's statements came and are believed."
    } else {
        "Its site has no statements yet; they come when the agent runs (by file: freehold-agent statements import)."
    };
    say(&format!(
        "Enrolled as {} at {}.\nKey id (join code): {}\nThe certificate is good until {}. {next}\nNow start it: freehold-agent run\n",
        enrolled.agent, enrolled.site, enrolled.keyid, enrolled.certificate_expires
    ))
}

/// Says what self-tests found; an error when anything failed.
fn told(answer: &SelfTestAnswer) -> anyhow::Result<()> {
    let line = |result: &SelfTestResult| match &result.failure {
        None => format!("passed  {} ({} ms)\n", result.algorithm, result.micros.div_ceil(1000)),
        Some(failure) => format!("FAILED  {}: {failure}\n", result.algorithm),
    };
    say(&answer.algorithms.iter().map(line).collect::<String>())?;
    match answer.algorithms.iter().filter(|result| !result.passed).count() {
        0 => Ok(()),
        count => bail!(
            "{count} of {} algorithms failed and are switched off: do not trust this host; run the agent on another one, and keep the log",
            answer.algorithms.len()
        ),
    }
}

/// Asks the agent that runs with these settings.
fn ask<T: DeserializeOwned>(config: &Config, method: Method, path: &str) -> anyhow::Result<T> {
    runtime()?.block_on(local::ask(config, method, path))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("the runtime cannot be started")
}

fn say(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever read us has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{BufRead, BufReader, Read},
        os::unix::fs::{MetadataExt, PermissionsExt},
        process::{Command, Stdio},
        time::Duration,
    };

    use rustix::{
        process::{DumpableBehavior, Resource, dumpable_behavior, geteuid, getrlimit},
        thread::{CapabilitySet, capabilities},
    };

    use super::*;

    const CHILD: &str = "FREEHOLD_TEST_AGENT_PROCESS";

    /// Runs the agent as its program does; does nothing unless the test below started it.
    #[test]
    fn agent_process() {
        let Ok(config) = std::env::var(CHILD) else { return };
        std::thread::spawn(move || run(Cli::parse_from(["freehold-agent", "run", "--config", &config])).unwrap());
        // Looked at only when told to: by then it serves.
        std::io::stdin().read_line(&mut String::new()).unwrap();
        println!("not dumpable: {}", dumpable_behavior() == Ok(DumpableBehavior::NotDumpable));
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        std::process::exit(0);
    }

    #[test]
    fn a_running_agent_leaves_no_core_dump_and_stays_out_of_swap_where_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let (key, config) = (directory.path().join("vault.key"), directory.path().join("agent.toml"));
        fs::write(&key, [7; 32]).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "data_dir = \"{0}/data\"\n[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\n[vault]\nkind = \"file\"\nkey_file = {key:?}\n",
            directory.path().display()
        );
        fs::write(&config, text).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::agent_process", "--nocapture"])
            .env(CHILD, &config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let before: Vec<String> = log.by_ref().take_while(|line| !line.contains("the agent serves")).collect();

        let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
        let core = of("limits").lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
        // Others of the same user may not even look: what is below /proc belongs to root then.
        assert_eq!(fs::metadata(format!("/proc/{}/mem", child.id())).unwrap().uid(), 0);
        assert!(geteuid().is_root() || fs::File::open(format!("/proc/{}/mem", child.id())).is_err());

        let status = of("status");
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        let locked: u64 = locked.trim().trim_end_matches(" kB").parse().unwrap();
        let may = getrlimit(Resource::Memlock).current.is_none()
            || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
        if may {
            assert!(locked > 1024, "only {locked} KiB are locked");
        } else {
            assert!(before.iter().any(|line| line.contains("memory is not kept out of swap")), "{before:?}");
        }

        child.stdin.as_mut().unwrap().write_all(b"look\n").unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(said.any(|line| line == "not dumpable: true"));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    /// A started agent of its own process; killed when dropped.
    struct Child(std::process::Child);

    impl Child {
        fn start(config: &Path) -> Self {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::agent_process", "--nocapture"])
                .env(CHILD, config)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            Self(child.unwrap())
        }
    }

    impl Drop for Child {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// What an agent answers to an operation, as soon as it answers: the code of the problem.
    fn code_of(port: u16) -> String {
        use std::{io::Write, net::TcpStream};
        for _ in 0..600 {
            let answered = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
                let body = "{\"key\":\"a/b\",\"plaintext\":\"\"}";
                let head = "POST /v1/encrypt HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n";
                stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                Ok(answer)
            });
            if let Some((_, body)) = answered.as_ref().ok().and_then(|answer| answer.split_once("\r\n\r\n")) {
                return serde_json::from_str::<serde_json::Value>(body).unwrap()["code"].as_str().unwrap().to_owned();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no agent answers at port {port}");
    }

    #[test]
    fn an_agent_is_locked_on_its_host_stays_so_and_is_unlocked_by_the_vaults_secret_only() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, byte| {
            let path = directory.path().join(name);
            fs::write(&path, [byte; 32]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let (key, wrong, config) = (file("vault.key", 7), file("wrong.key", 8), directory.path().join("agent.toml"));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "data_dir = \"{}/data\"\n[server]\nlisten = \"127.0.0.1:{port}\"\nplain_http = true\nworkers = 1\n[vault]\nkind = \"file\"\nkey_file = {key:?}\n",
            directory.path().display()
        );
        fs::write(&config, text).unwrap();
        let data = directory.path().join("data");
        let run = |arguments: &[&str]| {
            let place = ["freehold-agent", "--config", config.to_str().unwrap()];
            super::run(Cli::parse_from(place.iter().chain(arguments)))
        };
        let unlock = |secret: &Path| run(&["unlock", "--secret-file", secret.to_str().unwrap()]);

        let child = Child::start(&config);
        assert_eq!(code_of(port), "caller_not_proved");
        assert!(unlock(&key).unwrap_err().to_string().contains("not locked"));
        run(&["lock", "--reason", "drill"]).unwrap();
        let locked = lock::state(&data).unwrap();
        assert_eq!(lock::obeyed(&data, &locked).unwrap().process, child.0.id(), "the same process, started afresh");
        assert_eq!(code_of(port), "agent_locked");
        assert!(run(&["lock"]).unwrap_err().to_string().contains("locked already"));
        assert!(unlock(&wrong).is_err());
        assert_eq!(code_of(port), "agent_locked");

        // Whoever starts it again finds it locked; also what is started as a library.
        drop(child);
        let child = Child::start(&config);
        assert_eq!(code_of(port), "agent_locked");
        unlock(&key).unwrap();
        let served = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            code_of(port) == "caller_not_proved"
        });
        assert!(served && lock::state(&data).is_none());

        // No agent runs: the next start is locked.
        drop(child);
        run(&["lock"]).unwrap();
        let started = runtime().unwrap().block_on(App::start(
            load(Some(&config), &Flags::default()).unwrap(),
            Arc::new(SystemClock),
            Arc::new(SystemIds),
        ));
        assert!(started.err().unwrap().to_string().contains("freehold-agent unlock"));
        let _child = Child::start(&config);
        assert_eq!(code_of(port), "agent_locked");
    }

    #[test]
    fn what_failed_is_said_and_is_an_error() {
        let result = |algorithm: &str, failure: Option<&str>| SelfTestResult {
            algorithm: algorithm.to_owned(),
            passed: failure.is_none(),
            micros: 900,
            failure: failure.map(str::to_owned),
            failed_at: None,
        };
        let answer = |algorithms| SelfTestAnswer { at: Default::default(), passed: false, algorithms };
        told(&answer(vec![result("Ed25519", None)])).unwrap();
        let error = told(&answer(vec![result("Ed25519", None), result("ML-DSA-65", Some("other bytes"))])).unwrap_err().to_string();
        assert!(error.starts_with("1 of 2 algorithms failed"), "{error}");
    }
}
