//! `freehold-agent lock` and `unlock`: this host stops, and goes on, without the control plane.

use std::{
    io::IsTerminal,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use data_plane_agent::{
    app::open_vault,
    config::{Config, UnlockKind, VaultKind},
    lock,
    vault::{
        Vault,
        file::{FileVault, Unlock},
        secret::{SecretBytes, harden},
    },
};
use schema::clock::{SystemClock, SystemIds};
use service::files::DirectoryLock;

use crate::{runtime, say};

/// How long to wait until the running agent says that it obeys.
const OBEY_LIMIT: Duration = Duration::from_secs(10);

/// Locks, and waits until the running agent obeys.
pub fn lock_agent(config: &Config, reason: Option<&str>) -> anyhow::Result<()> {
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

/// Unlocks, with what opens the vault.
pub fn unlock_agent(config: Config, secret_file: Option<PathBuf>) -> anyhow::Result<()> {
    let locked = lock::state(&config.data_dir).ok_or(lock::LockError::NotLocked)?;
    harden();
    let stays = "the lock stays: what was given does not open the vault";
    let elsewhere = match (config.vault.kind, config.vault.unlock) {
        (VaultKind::File, unlock) => unlock,
        (VaultKind::Pkcs11, _) => Some(UnlockKind::Pkcs11),
        (VaultKind::Remote, _) => Some(UnlockKind::Remote),
    };
    match (elsewhere, secret_file) {
        (Some(_), None) => bail!("name a file with the token's PIN, or the server's token or secret id, with --secret-file"),
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

/// The vault, opened by a PIN, token or secret id from this file and not by the one that the settings name.
async fn opened_with(mut config: Config, kind: UnlockKind, file: PathBuf) -> anyhow::Result<Arc<dyn Vault>> {
    match kind {
        UnlockKind::Pkcs11 => config.vault.pkcs11.as_mut().context("vault.pkcs11 is not set")?.pin_file = file,
        UnlockKind::Remote => {
            let remote = config.vault.remote.as_mut().context("vault.remote is not set")?;
            match &mut remote.app_role {
                Some(role) => role.secret_id_file = file,
                None => remote.token_file = Some(file),
            }
        }
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
