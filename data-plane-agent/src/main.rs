//! `freehold-agent`: runs an agent, and the few things an operator does beside it on the same host.

mod vault_command;

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use data_plane_agent::{
    algorithm::serve as serve_algorithm,
    app::{App, open_vault, run_locked},
    config::{Config, Flags, UnlockKind, VaultKind},
    control::{
        directory::ControlDirectory,
        enrol::{self, EnrolParts, read_enrolment_file},
        vouch,
    },
    keys::errands::{self, Answer, Errand, MovementFile},
    local, lock,
    membership::host_name,
    recovery::command::{BackupCommand, RecoveryCommand},
    rest::{
        openapi, self_test,
        tokens::{self, CallerReference},
    },
    selftest::SelfTests,
    vault::{
        Vault,
        file::{FileVault, Unlock},
        secret::{SecretBytes, harden},
    },
};
use reqwest::Method;
use schema::{
    clock::{SystemClock, SystemIds},
    encoding::Digest,
    id::AgentId,
    token::{Token, TokenKind},
    wire::{
        health::{SelfTestAnswer, SelfTestResult},
        operation::path,
    },
};
use serde::de::DeserializeOwned;
use service::{
    config::ConfigError,
    files::{DirectoryLock, OWNER_ONLY},
    telemetry::Service,
};

use crate::vault_command::VaultCommand;

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
    Enrol {
        /// The file that `freehold agent invite` wrote: single-use, secret, good for a limited time.
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
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
    Vouch {
        /// The newcomer: `agt_…`.
        agent: AgentId,
        /// The join code that the newcomer's `freehold-agent enrol` printed, told over another channel than the control plane.
        #[arg(allow_hyphen_values = true)]
        join_code: Digest,
    },
    /// Register applications with this agent: their tokens are made here and known nowhere else.
    #[command(subcommand)]
    Caller(CallerCommand),
    /// Move key material between agents by hand, for sites that are connected to nothing; connected agents do it by themselves.
    #[command(subcommand)]
    Keys(KeysCommand),
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

#[derive(Subcommand)]
enum CallerCommand {
    /// Make a token for a caller that is registered at the control plane. A caller may have several.
    Add {
        /// The caller: `clr_…`, or `project/name`.
        caller: CallerReference,
        /// Where to write the token, readable by its owner only; the file must not be there yet.
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
    },
    /// Let a caller use here the token that another agent of the site made for it, so that it may use either agent.
    Accept {
        /// The caller: `clr_…`, or `project/name`.
        caller: CallerReference,
        /// The file with the token, readable by its owner only.
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
    },
    /// List the callers that have tokens here. Tokens themselves are not kept.
    List,
    /// Forget the tokens of a caller: they stop working within a second.
    Remove(RemoveCaller),
}

/// All of these ask the agent that runs on this host.
#[derive(Subcommand)]
enum KeysCommand {
    /// Write a prekey into a file: other agents of the site seal to it what this one lacks. It is good for a week.
    Request {
        /// The file to write; it holds nothing secret, but must reach the other agent unchanged (which it will check).
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Seal everything that another agent of the site lacks and this vault has, into a file for it alone.
    Export {
        /// The agent that the file is for: `agt_…`.
        #[arg(long, value_name = "AGENT")]
        to: AgentId,
        /// The file that `freehold-agent keys request` wrote there.
        #[arg(long, value_name = "FILE")]
        prekey: PathBuf,
        /// The file to write: nobody else can open it.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Take what another agent sealed for this one. What is not believed is refused, and said.
    Import {
        /// The file that `freehold-agent keys export` wrote.
        file: PathBuf,
    },
}

#[derive(Args)]
struct RemoveCaller {
    /// The caller, as it was added.
    caller: CallerReference,
    /// Only this token: the name that `caller list` shows.
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    token: Option<String>,
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
        Command::Enrol { token_file, again } => enrol(&config()?, &token_file, again),
        Command::Run => serve(config()?),
        Command::Lock { reason } => lock_agent(&config()?, reason.as_deref()),
        Command::Unlock { secret_file } => unlock_agent(config()?, secret_file),
        Command::Vouch { agent, join_code } => {
            vouch::confirm(&ControlDirectory::open(&config()?.data_dir)?, agent, join_code)?;
            say(&format!("{agent} is confirmed. The running agent vouches for it within seconds.\n"))
        }
        Command::Caller(command) => caller(&config()?, command),
        Command::Keys(command) => keys(&config()?, command),
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
        Command::PrintOpenapi => say(&openapi::text()?),
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

/// How long to wait until the running agent says that it obeys.
const OBEY_LIMIT: Duration = Duration::from_secs(10);

fn lock_agent(config: &Config, reason: Option<&str>) -> anyhow::Result<()> {
    let began = Instant::now();
    let locked = lock::lock(&config.data_dir, reason, &SystemClock)?;
    loop {
        if let Some(obeyed) = lock::obeyed(&config.data_dir, &locked) {
            let took = began.elapsed().as_secs_f64();
            return say(&format!(
                "Locked. The agent (process {}) holds no key any more and refuses everything; it took {took:.2} s.\n{UNDO}",
                obeyed.process
            ));
        }
        // Between the old process and the fresh one nobody holds the directory for a moment.
        let nobody = DirectoryLock::take(&config.data_dir).is_ok();
        std::thread::sleep(Duration::from_millis(if nobody { 300 } else { 20 }));
        if nobody && DirectoryLock::take(&config.data_dir).is_ok() && lock::obeyed(&config.data_dir, &locked).is_none() {
            return say(&format!("Locked. No agent runs here; one that is started refuses everything.\n{UNDO}"));
        }
        if began.elapsed() > OBEY_LIMIT {
            bail!(
                "the lock is set, but the running agent has not said within {} s that it obeys: end it (systemctl kill freehold-agent); \
                 started again it is locked",
                OBEY_LIMIT.as_secs()
            );
        }
    }
}

const UNDO: &str = "To undo it: freehold-agent unlock, with the vault's passphrase or key file.\n";

fn unlock_agent(config: Config, secret_file: Option<PathBuf>) -> anyhow::Result<()> {
    let locked = lock::state(&config.data_dir).ok_or(lock::LockError::NotLocked)?;
    harden();
    let stays = "the lock stays: what was given does not open the vault";
    let elsewhere = match (config.vault.kind, config.vault.unlock) {
        (VaultKind::File, unlock) => unlock,
        (VaultKind::Pkcs11, _) => Some(UnlockKind::Pkcs11),
        (VaultKind::Remote, _) => Some(UnlockKind::Remote),
    };
    match (elsewhere, secret_file) {
        (Some(_), None) => bail!("name a file with the token's PIN, or the server's token, with --secret-file"),
        (Some(kind), Some(file)) => drop(runtime()?.block_on(opened_with(config.clone(), kind, file)).context(stays)?),
        (None, file) => {
            let unlock = match (file, &config.vault.passphrase_file, &config.vault.key_file) {
                (Some(file), _, Some(_)) => Unlock::KeyFile(file),
                (Some(file), _, None) => Unlock::Passphrase(SecretBytes::new(service::files::read_secret_line(&file)?.to_vec())),
                (None, Some(_), _) => Unlock::Passphrase(asked_for()?),
                (None, None, _) => bail!("this vault is opened by a key file: name it with --secret-file"),
            };
            drop(FileVault::open(&config.vault_directory(), &unlock, Arc::new(SystemIds)).context(stays)?);
        }
    }
    lock::unlock(&config.data_dir, &SystemClock)?;
    say(&format!("Unlocked; it was locked since {}. A running agent serves again in a moment.\n", locked.at))
}

/// The vault, opened by a PIN or token from this file and not by the one that the settings name.
async fn opened_with(mut config: Config, kind: UnlockKind, file: PathBuf) -> anyhow::Result<Arc<dyn Vault>> {
    match kind {
        UnlockKind::Pkcs11 => config.vault.pkcs11.as_mut().context("vault.pkcs11 is not set")?.pin_file = file,
        UnlockKind::Remote => config.vault.remote.as_mut().context("vault.remote is not set")?.token_file = file,
    }
    Ok(open_vault(&config, Arc::new(SystemIds)).await?)
}

/// A passphrase from the terminal, or one line of standard input.
fn asked_for() -> anyhow::Result<SecretBytes> {
    let line = if std::io::stdin().is_terminal() {
        rpassword::prompt_password("The vault's passphrase: ").context("the passphrase cannot be read")?
    } else {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).context("the passphrase cannot be read")?;
        line
    };
    Ok(SecretBytes::new(line.trim_end_matches(['\r', '\n']).as_bytes().to_vec()))
}

fn enrol(config: &Config, token_file: &Path, again: bool) -> anyhow::Result<()> {
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
    let host = host_name();
    let enrolled = runtime()?.block_on(async {
        let vault = open_vault(config, Arc::new(SystemIds)).await?;
        let parts = EnrolParts {
            directory: &ControlDirectory::open(&config.data_dir)?,
            vault: &*vault,
            outgoing: &config.control_plane.outgoing,
            clock: Arc::new(SystemClock),
            ids: &SystemIds,
            host: &host,
        };
        anyhow::Ok(enrol::enrol(&token, &parts).await?)
    })?;
    let next = if enrolled.statements {
        "Its site's statements were fetched and are believed."
    } else {
        "Its site has no statements yet; they are fetched when the agent runs."
    };
    say(&format!(
        "Enrolled as {} at {}.\nKey id (join code): {}\nThe certificate is good until {}. {next}\nNow start it: freehold-agent run\n",
        enrolled.agent, enrolled.site, enrolled.keyid, enrolled.certificate_expires
    ))
}

fn caller(config: &Config, command: CallerCommand) -> anyhow::Result<()> {
    service::files::create_private_directory(&config.data_dir)?;
    let file = config.callers_file();
    match command {
        CallerCommand::Add { caller, token_file } => {
            if token_file.exists() {
                bail!("{} is there already: name a new file, or move the old one away", token_file.display());
            }
            let token = tokens::add(&file, caller.clone(), &SystemClock, &SystemIds)?;
            if let Err(error) = service::files::write_atomic(&token_file, format!("{}\n", token.reveal()).as_bytes(), OWNER_ONLY) {
                let short = token.digest().to_string().chars().take(12).collect::<String>();
                tokens::remove(&file, &caller, Some(&short))?;
                return Err(error.into());
            }
            say(&format!(
                "The token of {caller} is in {}; hand it to the application. This agent keeps its digest only.\n",
                token_file.display()
            ))
        }
        CallerCommand::Accept { caller, token_file } => {
            let text = service::files::read_secret_line(&token_file)?;
            let token = std::str::from_utf8(&text).ok().and_then(|text| Token::parse(TokenKind::Caller, text).ok());
            let Some(token) = token else {
                bail!("{} holds no token of a caller: see freehold-agent caller add", token_file.display());
            };
            tokens::accept(&file, caller.clone(), &token, &SystemClock)?;
            say(&format!("{caller} may use the same token here; this agent keeps its digest only.\n"))
        }
        CallerCommand::List => {
            let entries = tokens::list(&file)?;
            if entries.is_empty() && std::io::stdout().is_terminal() {
                return say("No caller has a token here: freehold-agent caller add --help\n");
            }
            let line = |entry: &tokens::Entry| format!("{}\t{}\t{}\n", entry.caller, entry.short(), entry.added);
            say(&entries.iter().map(line).collect::<String>())
        }
        CallerCommand::Remove(RemoveCaller { caller, token }) => match tokens::remove(&file, &caller, token.as_deref())? {
            0 => bail!("{caller} has no such token here: see freehold-agent caller list"),
            count => say(&format!("{count} token{} of {caller} forgotten.\n", if count == 1 { "" } else { "s" })),
        },
    }
}

fn keys(config: &Config, command: KeysCommand) -> anyhow::Result<()> {
    let ask = |errand: &Errand| errands::ask(&config.data_dir, errand, &SystemIds);
    let write = |out: &Path, errand: &Errand| -> anyhow::Result<MovementFile> {
        if out.exists() {
            bail!("{} is there already: name a new file, or move the old one away", out.display());
        }
        let Answer::File { file } = ask(errand)? else { bail!("the agent answered something else: is it of the same version?") };
        service::files::write_atomic(out, &serde_json::to_vec_pretty(&file)?, OWNER_ONLY)?;
        Ok(file)
    };
    match command {
        KeysCommand::Request { out } => {
            write(&out, &Errand::Prekey)?;
            say(&format!("{} is good for a week: take it to an agent that has what is missing here.\n", out.display()))
        }
        KeysCommand::Export { to, prekey, out } => {
            let prekeys = MovementFile::read(&prekey)?.prekeys;
            let file = write(&out, &Errand::Seal { recipient: to, prekeys })?;
            let count = file.transfers.len();
            say(&format!(
                "{count} key version{} for {to} in {}; nobody else can open it.\n",
                if count == 1 { "" } else { "s" },
                out.display()
            ))
        }
        KeysCommand::Import { file } => {
            let transfers = MovementFile::read(&file)?.transfers;
            let Answer::Taken { versions, refused } = ask(&Errand::Take { transfers })? else {
                bail!("the agent answered something else: is it of the same version?")
            };
            say(&versions.iter().map(|version| format!("taken    {version}\n")).collect::<String>())?;
            say(&refused.iter().map(|(code, detail)| format!("REFUSED  {detail} ({code})\n")).collect::<String>())?;
            match refused.len() {
                0 => Ok(()),
                count => bail!("{count} of {} were refused", count + versions.len()),
            }
        }
    }
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
