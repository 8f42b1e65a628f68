//! `freehold-agent caller`: the tokens of callers that this agent takes.

use std::{io::IsTerminal, path::PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};
use data_plane_agent::{
    config::Config,
    rest::tokens::{self, CallerReference},
};
use schema::{
    clock::{SystemClock, SystemIds},
    token::{Token, TokenKind},
};
use service::files::OWNER_ONLY;

use crate::say;

/// What can be done with tokens of callers.
#[derive(Subcommand)]
pub enum CallerCommand {
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

/// Whose tokens are forgotten.
#[derive(Args)]
pub struct RemoveCaller {
    /// The caller, as it was added.
    caller: CallerReference,
    /// Only this token: the name that `caller list` shows.
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    token: Option<String>,
}

/// Does it.
pub fn caller(config: &Config, command: CallerCommand) -> anyhow::Result<()> {
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
