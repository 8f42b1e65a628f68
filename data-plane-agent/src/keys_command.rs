//! `freehold-agent keys`: material that travels as files, by way of the running agent.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Subcommand;
use data_plane_agent::{
    config::Config,
    keys::errands::{self, Answer, Errand, MovementFile},
};
use schema::{clock::SystemIds, id::AgentId};
use service::files::OWNER_ONLY;

use crate::say;

/// All of these ask the agent that runs on this host.
#[derive(Subcommand)]
pub enum KeysCommand {
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

/// Does it.
pub fn keys(config: &Config, command: KeysCommand) -> anyhow::Result<()> {
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
