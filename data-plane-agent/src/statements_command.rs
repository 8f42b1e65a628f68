//! Statements by hand: shown, carried as files, and the epoch that may begin by recovery.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use data_plane_agent::{
    config::Config,
    control::{
        carried::{self, Taken},
        directory::ControlDirectory,
    },
};
use schema::clock::SystemIds;
use service::files::{READABLE, write_atomic};
use trust::accept::restore;

/// Statements of this agent, for sites that are connected to nothing and for the recovery of the control plane.
#[derive(Subcommand)]
pub(crate) enum StatementsCommand {
    /// Show which statements this agent believes, by epoch and number.
    Show,
    /// Write every statement this agent believes into a file. Nothing in it is secret; everything in it is signed.
    ///
    /// A control plane that was restored from an older backup learns from it what it has forgotten (`freehold recovery show FILE`).
    Export {
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Hand a set of statements (`freehold site statements`) to the running agent, which judges it as if the control plane had
    /// served it.
    Import {
        /// The file.
        file: PathBuf,
    },
    /// Let an epoch begin here: after the control plane was restored from an older backup, and only when whoever runs it says so.
    ///
    /// An epoch begins only by recovery. What this agent knows of revocations, suspensions, ends of versions, fingerprints and numbers
    /// of policies is not lowered by it. Compare the number with what `freehold recovery begin` printed, over another channel.
    ConfirmEpoch {
        /// The epoch: one more than the present one.
        epoch: u64,
    },
}

impl StatementsCommand {
    pub(crate) fn run(&self, config: &Config) -> anyhow::Result<String> {
        let directory = ControlDirectory::open(&config.data_dir)?;
        match self {
            Self::Show => show(&directory),
            Self::Export { out } => {
                write_atomic(out, &carried::export(&directory)?, READABLE)?;
                Ok(format!("every statement this agent believes is in {}\n", out.display()))
            }
            Self::Import { file } => import(config, file),
            Self::ConfirmEpoch { epoch } => {
                carried::confirm_epoch(&directory, *epoch)?;
                Ok(format!("epoch {epoch} may begin here. The running agent takes it with the next statements, within a minute.\n"))
            }
        }
    }
}

fn import(config: &Config, file: &Path) -> anyhow::Result<String> {
    match carried::import(&config.data_dir, file, &SystemIds)? {
        Taken::InForce { new: true } => Ok("believed, and in force\n".to_owned()),
        Taken::InForce { new: false } => Ok("this set is in force already\n".to_owned()),
        Taken::Refused(rejected) => bail!("the agent does not believe it ({}): {}", rejected.code, rejected.detail),
        Taken::Failed { detail } => bail!("the agent could not keep it: {detail}"),
    }
}

fn show(directory: &ControlDirectory) -> anyhow::Result<String> {
    let identity = directory.identity()?.context("this agent has not joined a site: run freehold-agent enrol first")?.identity;
    let bytes = directory.statements()?.context("this agent has believed no statements yet")?;
    let set = restore(&bytes, &identity).context("the kept statements do not hold")?;
    Ok(format!(
        "epoch      {}\nstatements {}\nconfirmed  {}\n",
        set.root().head.epoch,
        set.serials(),
        match directory.confirmed()?.epoch {
            Some(epoch) => format!("epoch {epoch} may begin"),
            None => "no other epoch may begin".to_owned(),
        }
    ))
}
