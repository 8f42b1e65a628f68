//! Commands about backups of the control plane.

use std::{error::Error, path::PathBuf, sync::Arc};

use clap::{Args, Subcommand};
use control_plane::{
    backup::{drill, key, make, restore},
    config::Config,
};
use schema::clock::{Clock as _, SystemClock, SystemIds};
use serde_json::json;

use crate::{
    Settings,
    store_command::{Found, Output, print_json, print_report},
};

/// Make, list, restore and try backups of the control plane's database.
///
/// A backup is a copy as of one moment, made while control planes serve, sealed to a backup key whose private half is kept
/// elsewhere, and read back at once. It does not hold the sealing key: keep that, the private half of the backup key, and the
/// backups in three places; whoever has all three has everything. docs/control-plane-recovery.md says what to do on the day.
#[derive(Subcommand)]
#[command(after_help = "\
Examples:
  freehold-control-plane backup keygen --secret-file /media/safe/backup.key --public-file /etc/freehold/backup.pub
  freehold-control-plane backup create --config control-plane.toml
  freehold-control-plane backup list --config control-plane.toml
  freehold-control-plane backup drill --config control-plane.toml --secret-file /media/safe/backup.key
  freehold-control-plane backup restore /mnt/backups/freehold-20261130T030000-1f2e3d4c.fhcb --config new.toml --secret-file backup.key
")]
pub(crate) enum BackupCommand {
    /// Make a backup key: the private half opens backups, the public half (backup.recipient_file) makes them.
    Keygen(Keygen),
    /// Make a backup now. PostgreSQL: beside control planes that serve. SQLite: while its control plane is stopped; one that
    /// serves makes them by backup.schedule.
    Create(Create),
    /// Show the backups in backup.directory, and files there that do not read as one.
    List(List),
    /// Restore a backup into the store that settings name, which must be empty.
    Restore(Restore),
    /// Prove a backup: restore it to a place of its own, walk through all of it as verify-store does, and take it away again.
    Drill(Drill),
}

#[derive(Args)]
pub(crate) struct Keygen {
    /// Where the private half goes: onto something that is kept in a safe, never on the control plane's host for long.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// Where the public half goes.
    #[arg(long, value_name = "FILE")]
    public_file: PathBuf,
}

#[derive(Args)]
pub(crate) struct Create {
    #[command(flatten)]
    settings: Settings,
    /// Remove backups afterwards that backup.keep and backup.keep_for do not keep.
    #[arg(long)]
    prune: bool,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    settings: Settings,
    /// How the listing is printed.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Restore {
    /// The backup.
    backup: PathBuf,
    #[command(flatten)]
    settings: Settings,
    /// The private half of the backup key.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// What was erased since, an `erased.jsonl`: it is erased again at the next start. The list that lies beside the backup is
    /// found by itself.
    #[arg(long, value_name = "FILE")]
    erased: Option<PathBuf>,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Drill {
    /// The backup [default: the newest in backup.directory].
    backup: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// The private half of the backup key.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// Where the files of the drill are meanwhile [default: the folder for temporary files].
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// For a backup of PostgreSQL: a server on which a database is made and dropped again [default: that of store.url]. Without a
    /// password: PGPASSFILE names a file with it.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// How the report is printed.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

impl BackupCommand {
    pub(crate) async fn run(&self) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Keygen(command) => command.run(),
            Self::Create(command) => command.run().await,
            Self::List(command) => command.run(),
            Self::Restore(command) => command.run().await,
            Self::Drill(command) => command.run().await,
        }
    }
}

fn settings(settings: &Settings) -> Result<Config, Box<dyn Error>> {
    let config = settings.read()?;
    service::log::init(&config.log)?;
    Ok(config)
}

fn directory(config: &Config) -> Result<PathBuf, Box<dyn Error>> {
    config.backup.directory.clone().ok_or_else(|| "setting backup.directory: name the folder with the backups".into())
}

impl Keygen {
    #[allow(clippy::print_stdout, reason = "this command prints its result")]
    fn run(&self) -> Result<(), Box<dyn Error>> {
        let recipient = key::generate(&self.secret_file, &self.public_file, &SystemIds)?;
        println!("backup key {}", recipient.keyid());
        println!("private half: {} (keep it in a safe, away from backups and from the sealing key)", self.secret_file.display());
        println!("public half:  {} (backup.recipient_file)", self.public_file.display());
        Ok(())
    }
}

impl Create {
    #[allow(clippy::print_stdout, reason = "this command prints its result")]
    async fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = settings(&self.settings)?;
        let made = make::make(&config, Arc::new(SystemClock), Arc::new(SystemIds)).await?;
        let keep_for = config.backup.keep_for.map(|period| period.0);
        let removed = match self.prune {
            true => make::prune(&directory(&config)?, &made.deployment, config.backup.keep, keep_for, SystemClock.now())?,
            false => Vec::new(),
        };
        if self.output == Output::Json {
            print_json(&json!({ "made": made, "removed": removed }))?;
        } else {
            println!("{} ({} bytes, records up to position {}), read back and whole", made.path.display(), made.bytes, made.position);
            removed.iter().for_each(|path| println!("removed {}", path.display()));
        }
        Ok(())
    }
}

impl List {
    #[allow(clippy::print_stdout, reason = "this command prints its result")]
    fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = settings(&self.settings)?;
        let listing = make::list(&directory(&config)?)?;
        if self.output == Output::Json {
            return Ok(print_json(&listing)?);
        }
        for made in &listing.backups {
            println!(
                "{}  {:>14} bytes  position {:<10} key {}  {}",
                made.created,
                made.bytes,
                made.position,
                made.recipient,
                made.path.display()
            );
        }
        for (path, why) in &listing.unreadable {
            println!("does not read: {} ({why})", path.display());
        }
        println!("{} backups", listing.backups.len());
        Ok(())
    }
}

impl Restore {
    #[allow(clippy::print_stdout, reason = "this command prints its result")]
    async fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = settings(&self.settings)?;
        let secret = key::read_secret(&self.secret_file)?;
        let erased = self.erased.as_deref();
        let restored = restore::restore(&config, &self.backup, &secret, erased, Arc::new(SystemClock), Arc::new(SystemIds)).await?;
        if self.output == Output::Json {
            return Ok(print_json(&restored)?);
        }
        println!("{} is restored to {}, as of {}, up to position {}", restored.id, restored.place, restored.created, restored.position);
        if !restored.sealing_key_is_there {
            println!("the sealing key with the fingerprint {} is not where settings look for it: bring it there", restored.sealing_key);
        }
        if !restored.erasures_are_known {
            println!(
                "No list of erasures lay beside the backup: put the newest erased.jsonl there is to {}.",
                config.erasures_file().display()
            );
        }
        println!("Next: verify-store, then serve. docs/control-plane-recovery.md says what agents make of it.");
        Ok(())
    }
}

impl Drill {
    #[allow(clippy::print_stdout, reason = "this command prints its result")]
    async fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = settings(&self.settings)?;
        let secret = key::read_secret(&self.secret_file)?;
        let newest = || -> Result<PathBuf, Box<dyn Error>> {
            let newest = make::list(&directory(&config)?)?.backups.pop();
            newest.map(|made| made.path).ok_or_else(|| "there is no backup in backup.directory".into())
        };
        let backup = match &self.backup {
            Some(backup) => backup.clone(),
            None => newest()?,
        };
        let scratch = self.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let (clock, ids) = (Arc::new(SystemClock), Arc::new(SystemIds));
        let drilled = drill::drill(&config, &backup, &secret, &scratch, self.server.as_deref(), clock, ids).await?;
        if self.output == Output::Json {
            print_json(&drilled)?;
        } else {
            println!("{}, of {}: restored and walked through", drilled.backup.path.display(), drilled.backup.created);
            print_report(&drilled.report);
        }
        if drilled.report.is_sound() { Ok(()) } else { Err(Found.into()) }
    }
}
