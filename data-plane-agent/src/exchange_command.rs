//! `freehold-agent exchange`: all that an agent says and hears, as files, by way of the running agent.

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use data_plane_agent::{
    config::Config,
    keys::errands::{self, Answer, Errand},
};
use schema::{
    clock::SystemIds,
    wire::exchange::{InboxFile, read_carried},
};
use service::files::{READABLE, write_atomic};

/// The largest answer that is read.
const MAX_BYTES: u64 = 240 << 20;

/// Both ask the agent that runs on this host.
///
/// Nothing in these files is secret: what the agent says is signed by its pair, material is sealed to whom it is for, and the answer is signed by
/// the control plane. A file that is lost is written again; one that is handed in or taken twice changes nothing.
#[derive(Subcommand)]
pub(crate) enum ExchangeCommand {
    /// Write all that the control plane does not know yet: what was made, is held and was destroyed, receipts, requests for budgets, and
    /// material for other agents.
    ///
    /// `freehold agent exchange FILE --answer FILE`, wherever the control plane can be reached, hands it in.
    Write {
        /// The file to write.
        file: PathBuf,
    },
    /// Take what the control plane answered: statements, material, leases, and how far receipts were taken, whose room is freed.
    Take {
        /// The file that `freehold agent exchange` wrote.
        file: PathBuf,
    },
}

impl ExchangeCommand {
    pub(crate) fn run(&self, config: &Config) -> anyhow::Result<String> {
        let ask = |errand: &Errand| errands::ask(&config.data_dir, errand, &SystemIds);
        match self {
            Self::Write { file: out } => {
                if out.exists() {
                    bail!("{} is there already: name a new file, or move the old one away", out.display());
                }
                let Answer::Outbox { file, more } = ask(&Errand::Outbox)? else {
                    bail!("the agent answered something else: is it of the same version?")
                };
                write_atomic(out, &serde_json::to_vec(&file)?, READABLE)?;
                let left = if more { " More receipts wait: after this one was answered, write another.\n" } else { "" };
                Ok(format!(
                    "{0} holds all that the control plane does not know yet. Where it can be reached:\n  freehold agent exchange {0} --answer FILE\nThen bring the answer here: freehold-agent exchange take FILE\n{left}",
                    out.display()
                ))
            }
            Self::Take { file } => {
                let not_one = || format!("{} is no answer of `freehold agent exchange`", file.display());
                let length = fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?.len();
                if length > MAX_BYTES {
                    bail!("{}: it has {length} bytes, and may have {MAX_BYTES}", not_one());
                }
                let bytes = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
                let InboxFile { answer, .. } = read_carried(&bytes).with_context(not_one)?;
                let Answer::Exchanged(came) = ask(&Errand::Inbox { inbox: answer.inbox, statements: answer.statements })? else {
                    bail!("the agent answered something else: is it of the same version?")
                };
                let mut text = format!("outbox {} was taken\n", came.number);
                text += if came.new_statements { "statements  new ones are in force\n" } else { "statements  nothing new\n" };
                text += &format!("material    {} key version{} came in\n", came.versions, if came.versions == 1 { "" } else { "s" });
                if let Some(to) = came.receipts {
                    text += &format!("receipts    the control plane has all up to {to}\n");
                }
                for (code, detail) in &came.refused {
                    text += &format!("REFUSED     {detail} ({code})\n");
                }
                Ok(text)
            }
        }
    }
}
