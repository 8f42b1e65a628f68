//! `freehold-agent vault`: what an operator does with the vault itself, on its host.

use std::{io::Write as _, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use data_plane_agent::{
    app::{open_vault, unlock},
    config::{Config, UnlockKind, VaultConfig, VaultKind},
    vault::{Vault as _, VaultError, file::FileVault},
};
use schema::{clock::SystemIds, key::Protection};

/// What can be done with the vault.
#[derive(Subcommand)]
pub enum VaultCommand {
    /// Say what the vault is, how well it guards keys, and what it holds. A file vault is read while its agent is stopped.
    Show,
    /// Let something else open a file vault from now on: another passphrase, key file, token or remote vault.
    ///
    /// The agent must be stopped. The settings still name what opened the vault before: change them afterwards as this
    /// command says. The keys themselves are not written again: whoever has a copy of the vault and what opened it before
    /// can read them all the same. Use `rekey` against that.
    ChangeSecret(NewSecret),
    /// Make another root key of a file vault, and seal every key again under it.
    ///
    /// The agent must be stopped. What is cut off goes on when the vault is opened next. Backups that were made before
    /// need what opened them then.
    Rekey,
}

/// What is to open a file vault: exactly one.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct NewSecret {
    /// A file with the new passphrase on one line, readable by its owner only.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// A file with 32 random bytes, readable by its owner only.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The token of [vault.pkcs11] in the settings: a key that never leaves it.
    #[arg(long)]
    pkcs11: bool,
    /// The server of [vault.remote] in the settings: a key of its transit engine.
    #[arg(long)]
    remote: bool,
}

impl VaultCommand {
    /// Runs the command.
    pub async fn run(self, config: &Config) -> anyhow::Result<()> {
        service::tls::install_provider();
        match self {
            Self::Show => show(config).await,
            Self::ChangeSecret(new) => {
                let mut wanted = config.vault.clone();
                let setting = new.set(&mut wanted);
                let vault = open_file_vault(config).await?;
                let unlock = tokio::task::spawn_blocking(move || unlock(&wanted, true)).await??;
                vault.change_secret(unlock).await?;
                say(&format!(
                    "The vault is opened by something else now. In the section [vault] of the settings, in place of what opened it:\n\n    {setting}\n\nThen start the agent.\n"
                ))
            }
            Self::Rekey => {
                let vault = open_file_vault(config).await?;
                let wanted = config.vault.clone();
                let unlock = tokio::task::spawn_blocking(move || unlock(&wanted, false)).await??;
                vault.rekey(unlock).await?;
                let held = vault.versions().await?.len();
                say(&format!(
                    "The vault has another root key; {held} key versions are sealed under it. Make a backup now: what was backed up before opens with the former root key only.\n"
                ))
            }
        }
    }
}

impl NewSecret {
    /// Puts it into the settings, and gives the line that says the same in the file.
    fn set(self, vault: &mut VaultConfig) -> String {
        (vault.passphrase_file, vault.key_file, vault.unlock) = (None, None, None);
        match (self.passphrase_file, self.key_file, self.pkcs11) {
            (Some(path), _, _) => {
                let line = format!("passphrase_file = {:?}", path.display().to_string());
                vault.passphrase_file = Some(path);
                line
            }
            (None, Some(path), _) => {
                let line = format!("key_file = {:?}", path.display().to_string());
                vault.key_file = Some(path);
                line
            }
            (None, None, true) => {
                vault.unlock = Some(UnlockKind::Pkcs11);
                "unlock = \"pkcs11\"".to_owned()
            }
            (None, None, false) => {
                vault.unlock = Some(UnlockKind::Remote);
                "unlock = \"remote\"".to_owned()
            }
        }
    }
}

async fn open_file_vault(config: &Config) -> anyhow::Result<FileVault> {
    if config.vault.kind != VaultKind::File {
        bail!("only a file vault has a root key: a token and a remote vault have keys of their own, which are changed there");
    }
    let (vault, directory) = (config.vault.clone(), config.vault_directory());
    let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<FileVault> {
        Ok(FileVault::open(&directory, &unlock(&vault, false)?, Arc::new(SystemIds))?)
    });
    opened.await.context("opening the vault ended unexpectedly")?
}

async fn show(config: &Config) -> anyhow::Result<()> {
    // Looking must not make a vault where there is none.
    if config.vault.kind == VaultKind::File && !FileVault::is_at(&config.vault_directory()) {
        return Err(VaultError::Missing(config.vault_directory()).into());
    }
    let vault = open_vault(config, Arc::new(SystemIds)).await?;
    vault.check().await?;
    let description = vault.description();
    let (held, gone) = (vault.versions().await?, vault.tombstones().await?);
    let mut text = format!("kind\t{}\nplace\t{}\n", description.kind, description.place);
    for level in Protection::ALL {
        let names: Vec<&str> =
            description.algorithms.iter().filter(|(_, of)| *of == level).map(|(algorithm, _)| algorithm.name()).collect();
        if !names.is_empty() {
            text += &format!("{level}\t{}\n", names.join(", "));
        }
    }
    text += &format!("holds\t{} key versions, and remembers {} that were destroyed\n", held.len(), gone.len());
    for held in held {
        text += &format!("{}\t{}\t{}\n", held.version, held.algorithm, held.protection);
    }
    say(&text)
}

fn say(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever read us has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}
