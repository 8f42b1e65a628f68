//! `freehold-agent recovery …` and `freehold-agent backup …`.

use std::{
    fmt::Write as _,
    io::{BufRead, IsTerminal},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use schema::{
    clock::{Clock, SystemClock, SystemIds},
    encoding::Digest,
    id::KeyVersion,
    wire::{agent::HostActKind, operation::path, recovery::BackupAnswer},
};
use service::files::{DirectoryLock, FileError, create_private_directory, read_secret_line};
use trust::{accept::RecoveryMemory, pair::Pair};
use zeroize::Zeroizing;

use super::{
    backups::{self, Backups, answer},
    custody::{self, kept_set},
    drill,
    file::BackupFile,
    restore::{self, believe},
    secret::RecoverySecret,
    share::{self, Share, ShareError},
};
use crate::{
    app::open_vault,
    config::Config,
    control::directory::ControlDirectory,
    host::Acts,
    local::ask_as_owner,
    policy::{
        current::Current,
        in_force::{Believed, InForce},
    },
    vault::Vault,
};

/// The recovery key of this site: what opens its backups when everything else is lost.
#[derive(Subcommand)]
pub enum RecoveryCommand {
    /// Make the recovery key of this site, and split it into shares for people to keep.
    ///
    /// The private half exists only in the shares: this command shows each once, or writes each into a file, and forgets it. The running
    /// agent signs the public half with its next report, and from then on backs up what is to be backed up.
    Init {
        /// How many shares to make.
        #[arg(long, default_value_t = 5, value_name = "NUMBER")]
        shares: u8,
        /// How many of them are needed to open a backup.
        #[arg(long, default_value_t = 3, value_name = "NUMBER")]
        threshold: u8,
        /// Write the shares into this new directory, each into a file of its own, instead of showing them.
        #[arg(long, value_name = "DIRECTORY")]
        out_dir: Option<PathBuf>,
        /// Make another one although there is one. Backups made so far need the shares of the old one.
        #[arg(long)]
        replace: bool,
    },
    /// Say which recovery key this agent seals to, and whether the site tells of another.
    Status,
    /// Seal to the recovery key that the site tells of from now on, after comparing its key id with what its maker was shown.
    Confirm {
        /// The key id, told over another channel than the control plane.
        keyid: Digest,
    },
    /// Try whether the shares at hand would bring the keys back. Changes nothing.
    Drill {
        #[command(flatten)]
        shares: Shares,
        /// The backup to open [default: the newest of this agent in backup.directory].
        #[arg(long, value_name = "FILE")]
        backup: Option<PathBuf>,
    },
}

/// Backups of the vault, sealed to the site's recovery key.
#[derive(Subcommand)]
pub enum BackupCommand {
    /// Back up the whole vault now. The agent may go on running.
    Create,
    /// List the backups in backup.directory, and what is in them.
    List {
        /// Another directory.
        #[arg(long, value_name = "DIRECTORY")]
        directory: Option<PathBuf>,
    },
    /// Check that backups are whole and signed by an agent of this site. (That they open, only a drill can show.)
    Verify {
        /// The backups.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Bring backups into the vault of this agent, which must be enrolled and not running.
    ///
    /// Nothing is changed before all files are read and opened. Versions that were destroyed stay destroyed. May be run again.
    Restore {
        /// The backups; of several, also of several agents, each version once.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        shares: Shares,
    },
}

/// Where shares come from.
#[derive(Args)]
pub struct Shares {
    /// A file with one share; as often as shares are needed [default: asked for, or read from standard input line by line].
    #[arg(long = "share-file", value_name = "FILE")]
    share_files: Vec<PathBuf>,
}

impl RecoveryCommand {
    /// Does it; gives what to say.
    pub fn run(self, config: &Config) -> anyhow::Result<String> {
        let directory = ControlDirectory::open(&config.data_dir)?;
        match self {
            Self::Init { shares, threshold, out_dir, replace } => {
                if config.backup.directory.is_none() {
                    bail!("set backup.directory first: a directory on other storage than the vault's, where this agent puts its backups");
                }
                let prepared = custody::prepare(&directory, (shares, threshold), replace, &SystemClock, &SystemIds)?;
                init(prepared, (shares, threshold), out_dir.as_deref(), &directory)
            }
            Self::Status => status(config, &directory),
            Self::Confirm { keyid } => {
                custody::confirm(&directory, keyid)?;
                Ok(format!("{keyid} is confirmed. The running agent seals to it from the next statements on, within seconds.\n"))
            }
            Self::Drill { shares, backup } => {
                let set = kept_set(&directory)?;
                let file = match backup {
                    Some(path) => Some(BackupFile::read(&path)?),
                    None => newest(config, set.identity().agent)?,
                };
                let secret = shares.combine()?;
                drill::test_box(&set, &secret, &SystemIds)?;
                let mut text = format!("The shares are those of {}. What is sealed to it opens.\n", secret.keyid());
                let Some(file) = file else {
                    text.push_str("There is no backup yet to open: freehold-agent backup create\n");
                    return Ok(text);
                };
                let shown = drill::backup(&set, &secret, &file)?;
                writeln!(text, "{} opens: {}, each with the material its record names.", file.path().display(), count(shown.opened.len()))?;
                if !shown.not_in_it.is_empty() {
                    writeln!(text, "Not in this one, and to be looked for in others: {}", names(&shown.not_in_it))?;
                }
                Ok(text)
            }
        }
    }
}

fn init(
    prepared: custody::Prepared,
    (shares, threshold): (u8, u8),
    out_dir: Option<&Path>,
    directory: &ControlDirectory,
) -> anyhow::Result<String> {
    let keyid = prepared.keyid();
    let mut text = Zeroizing::new(format!("The recovery key {keyid}: {threshold} of {shares} shares open what is sealed to it.\n"));
    match out_dir {
        Some(place) => {
            for path in prepared.write(place)? {
                writeln!(text, "  {}", path.display())?;
            }
            text.push_str("Give each to another person, and remove the files here.\n");
        }
        None => {
            text.push_str("Give each to another person. They are not shown again:\n\n");
            for share in &prepared.shares {
                writeln!(text, "  {}", &*share.reveal())?;
            }
            text.push('\n');
        }
    }
    prepared.register(directory)?;
    text.push_str(
        "Keep the key id with them. The running agent registers the key with its next report, within seconds.\n\
         Then try it: freehold-agent backup create, and with the shares: freehold-agent recovery drill\n",
    );
    Ok(text.to_string())
}

fn status(config: &Config, directory: &ControlDirectory) -> anyhow::Result<String> {
    let set = kept_set(directory)?;
    let told = |key: &RecoveryMemory| {
        format!("{} (number {}, {} of {} shares, made at {})", key.keyid(), key.number, key.threshold, key.shares, key.agent)
    };
    let mut text = match set.recovery_key() {
        Some(key) => format!("This agent seals backups to {}\n", told(key)),
        None => "This agent seals backups to nothing: there is no recovery key that it believes.\n".to_owned(),
    };
    if let Some(waiting) = set.waiting_recovery_key() {
        let keyid = waiting.keyid();
        writeln!(
            text,
            "The site tells of {}, which waits.\nCompare its key id with what its maker was shown, then: freehold-agent recovery confirm {keyid}",
            told(waiting)
        )?;
    }
    let unregistered = directory.made_recovery_key()?.filter(|made| set.told_recovery_key().is_none_or(|told| told.number < made.number));
    if unregistered.is_some() {
        text.push_str("A recovery key was made here that the site does not tell of yet: it is registered while the agent runs.\n");
    }
    match &config.backup.directory {
        Some(place) => writeln!(text, "Backups go to {}", place.display())?,
        None => text.push_str("Backups go nowhere: set backup.directory\n"),
    }
    Ok(text)
}

impl BackupCommand {
    /// Does it; gives what to say.
    pub async fn run(self, config: &Config) -> anyhow::Result<String> {
        match self {
            Self::Create => Ok(told(&create(config).await?)),
            Self::List { directory } => {
                let directory = directory.or_else(|| config.backup.directory.clone());
                list(config, &directory.context("set backup.directory, or name a directory with --directory")?)
            }
            Self::Verify { files } => {
                let set = kept_set(&ControlDirectory::open(&config.data_dir)?)?;
                let mut text = String::new();
                for path in files {
                    let file = BackupFile::read(&path)?;
                    believe(&file, &set)?;
                    let (agent, created) = (file.head.agent, file.head.created);
                    writeln!(text, "{} is whole: {}, by {agent} at {created}", path.display(), count(file.body.versions.len()))?;
                }
                Ok(text)
            }
            Self::Restore { files, shares } => restore_files(config, &files, &shares).await,
        }
    }
}

/// By the running agent, or here when none runs.
async fn create(config: &Config) -> anyhow::Result<BackupAnswer> {
    let _lock = match DirectoryLock::take(&config.data_dir) {
        Ok(lock) => lock,
        Err(FileError::Locked { .. }) => return ask_as_owner(config, Method::POST, path::BACKUP).await,
        Err(error) => return Err(error.into()),
    };
    let directory = ControlDirectory::open(&config.data_dir)?;
    let set = kept_set(&directory)?;
    let stored = directory.identity()?.context("this agent has not joined a site: run freehold-agent enrol first")?;
    let vault = open_vault(config, Arc::new(SystemIds)).await?;
    let keys = directory.keys(&stored, &*vault).await?;
    let current = Arc::new(Current::default());
    current.swap(Arc::new(InForce::compile(Believed::of(&set))?));
    let backups = Backups {
        directory: config.backup.directory.clone(),
        vault,
        current,
        identity: stored.identity,
        pair: Arc::new(Pair::from_seeds(&keys.pair.to_seeds())),
        clock: Arc::new(SystemClock),
        ids: Arc::new(SystemIds),
        acts: Acts::Notes(config.data_dir.clone()),
        writing: tokio::sync::Mutex::default(),
    };
    Ok(backups.whole("asked for on the host").await?)
}

fn told(written: &BackupAnswer) -> String {
    let mut text = format!(
        "{}\n{}, {}; sealed to {}; written and read back (SHA-256 {}).\n",
        written.file,
        count(written.versions.len()),
        tombstones(written.tombstones.len()),
        written.recovery_key,
        written.sha256
    );
    for left in &written.left_out {
        text.push_str(&format!("Not in it: {}: {}\n", left.version, left.reason));
    }
    text
}

fn list(config: &Config, directory: &Path) -> anyhow::Result<String> {
    let set = ControlDirectory::open(&config.data_dir).ok().and_then(|control| kept_set(&control).ok());
    let mut text = String::new();
    for (path, read) in backups::list(directory)? {
        match read {
            Ok(file) => {
                let answer = answer(&file);
                let destroyed =
                    set.as_ref().map_or(0, |set| answer.versions.iter().filter(|version| set.destruction_confirmed(**version)).count());
                let mut line = format!(
                    "{}\t{}\t{}, {}\tsealed to {}",
                    path.display(),
                    file.head.created,
                    count(answer.versions.len()),
                    tombstones(answer.tombstones.len()),
                    backups::short(&answer.recovery_key)
                );
                if destroyed > 0 {
                    line.push_str(&format!("\tstill holds {destroyed} destroyed since: remove it when a newer one is there"));
                }
                writeln!(text, "{line}")?;
            }
            Err(error) => writeln!(text, "{}\tNOT USABLE: {error}", path.display())?,
        }
    }
    if text.is_empty() {
        writeln!(text, "There are no backups in {}", directory.display())?;
    }
    Ok(text)
}

async fn restore_files(config: &Config, files: &[PathBuf], shares: &Shares) -> anyhow::Result<String> {
    create_private_directory(&config.data_dir)?;
    let _lock = DirectoryLock::take(&config.data_dir).context("stop the agent first: its vault is about to change")?;
    let directory = ControlDirectory::open(&config.data_dir)?;
    let set = kept_set(&directory).context(
        "a host that was wiped joins its site first (freehold-agent enrol): which versions are in use and which were destroyed, the site says",
    )?;
    let files = files.iter().map(|path| BackupFile::read(path)).collect::<Result<Vec<_>, _>>()?;
    files.iter().try_for_each(|file| believe(file, &set))?;
    let secret = shares.combine()?;
    let vault = open_vault(config, Arc::new(SystemIds)).await?;
    let vault: &dyn Vault = &*vault;
    let hashes: Vec<String> = files.iter().map(|file| format!("SHA-256 {}", file.sha256)).collect();
    Acts::Notes(config.data_dir.clone()).write(HostActKind::Restored, SystemClock.now(), hashes.join(", "), None).await?;
    let done = restore::restore(&files, &secret, &set, vault).await?;
    let mut text = format!("{} restored.\n", count(done.restored.len()));
    // Whoever has the shares has shown which recovery key is the right one.
    if set.waiting_recovery_key().is_some_and(|waiting| waiting.keyid() == secret.keyid()) {
        custody::remember(&directory, secret.keyid())?;
        writeln!(text, "This agent seals its own backups to {} as well.", secret.keyid())?;
    }
    for (what, versions) in [
        ("In the vault already", &done.present),
        ("Destroyed, and stay so", &done.destroyed),
        ("Left out, because the site's statements do not name them", &done.unknown),
        ("STILL MISSING, and in use at the site: look for other backups or other holders", &done.missing),
    ] {
        if !versions.is_empty() {
            writeln!(text, "{what}: {}", names(versions))?;
        }
    }
    for restore::Unguarded { version, demanded, offered } in &done.unguarded {
        writeln!(
            text,
            "REFUSED (protection_not_met): {version}: its key demands the protection {demanded}, and this vault gives {offered}: restore it \
             where a vault gives that"
        )?;
    }
    text.push_str("Now start the agent: freehold-agent run\n");
    Ok(text)
}

impl Shares {
    /// Reads shares until there are enough, and puts the recovery key together.
    fn combine(&self) -> anyhow::Result<RecoverySecret> {
        let shares = if self.share_files.is_empty() { ask_for_shares()? } else { self.read()? };
        Ok(share::combine(&shares)?)
    }

    fn read(&self) -> anyhow::Result<Vec<Share>> {
        let read = |path: &PathBuf| {
            let line = read_secret_line(path)?;
            let text = std::str::from_utf8(&line).map_err(|_| ShareError::NotAShare);
            anyhow::Ok(text.and_then(Share::parse).with_context(|| path.display().to_string())?)
        };
        self.share_files.iter().map(read).collect()
    }
}

/// At a terminal each person types a share unseen, and is told at once when it is mistyped; else they are lines of standard input.
fn ask_for_shares() -> anyhow::Result<Vec<Share>> {
    let mut shares: Vec<Share> = Vec::new();
    if std::io::stdin().is_terminal() {
        while shares.first().is_none_or(|first| shares.len() < usize::from(first.threshold())) {
            let prompt = format!("Share {} (not shown): ", shares.len() + 1);
            let typed = Zeroizing::new(rpassword::prompt_password(prompt).context("no share was typed")?);
            match Share::parse(&typed) {
                Ok(share) if shares.iter().any(|known| known.number() == share.number()) => tell("That one was typed already.")?,
                Ok(share) => shares.push(share),
                Err(error) => tell(&error.to_string())?,
            }
        }
        return Ok(shares);
    }
    for line in std::io::stdin().lock().lines() {
        let line = Zeroizing::new(line.context("standard input cannot be read")?);
        if !line.trim().is_empty() {
            shares.push(Share::parse(&line)?);
        }
    }
    Ok(shares)
}

fn tell(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    Ok(writeln!(std::io::stderr(), "{text}")?)
}

/// The newest backup of this agent that holds its whole vault, or else the newest there is.
fn newest(config: &Config, agent: schema::id::AgentId) -> anyhow::Result<Option<BackupFile>> {
    let Some(directory) = config.backup.directory.as_ref().filter(|directory| directory.exists()) else { return Ok(None) };
    let mut newest: Option<BackupFile> = None;
    for (path, read) in backups::list(directory)? {
        let Ok(file) = read.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a backup cannot be used")) else {
            continue;
        };
        let order = |file: &BackupFile| (file.head.agent == agent, file.head.created);
        if newest.as_ref().is_none_or(|known| order(known) < order(&file)) {
            newest = Some(file);
        }
    }
    Ok(newest)
}

fn count(versions: usize) -> String {
    if versions == 1 { "1 version".to_owned() } else { format!("{versions} versions") }
}

fn tombstones(tombstones: usize) -> String {
    if tombstones == 1 { "1 tombstone".to_owned() } else { format!("{tombstones} tombstones") }
}

fn names(versions: &[KeyVersion]) -> String {
    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[derive(clap::Parser)]
    enum All {
        #[command(subcommand)]
        Recovery(super::RecoveryCommand),
        #[command(subcommand)]
        Backup(super::BackupCommand),
    }

    #[test]
    fn every_argument_has_a_name_of_its_own() {
        All::command().debug_assert();
    }
}
