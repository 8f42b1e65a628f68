//! `freehold-control-plane sealing`: the keys that storage is encrypted under.

use std::{error::Error, sync::Arc};

use clap::{Args, Subcommand};
use control_plane::sealing::operate::Operator;
use schema::{
    clock::{SystemClock, SystemIds},
    id::{MemberId, TenantId},
};
use serde::Serialize;

use crate::Settings;

/// Look at and replace the keys that storage is encrypted under, while control planes serve.
///
/// Run it as the user that serves, with its settings. On SQLite run it on the same host. What was done is printed as JSON.
#[derive(Args)]
#[command(after_help = HELP)]
pub struct Sealing {
    #[command(subcommand)]
    act: Act,
}

const HELP: &str = "\
Examples:
  freehold-control-plane sealing status --data-dir ./data
  freehold-control-plane sealing rotate --config control-plane.toml     # then copy the key file to other hosts and to its backup
  freehold-control-plane sealing retire --config control-plane.toml
  freehold-control-plane sealing rotate-data-keys --all --config control-plane.toml
";

#[derive(Subcommand)]
enum Act {
    /// Show which sealing keys there are, what hangs from them, and whether they are to be had here.
    Status(Settings),
    /// Make another sealing key, and seal the keys of all tenants under it. Broken off, the same command goes on.
    Rotate(Settings),
    /// Put away sealing keys that nothing hangs from any more. Older backups still need them.
    Retire(Settings),
    /// Give tenants another data key: what is new is sealed under it, what is there stays readable.
    RotateDataKeys(RotateDataKeys),
}

#[derive(Args)]
struct RotateDataKeys {
    /// The tenants, `ten_…`.
    #[arg(value_name = "TENANT", required_unless_present = "all", conflicts_with = "all")]
    tenants: Vec<TenantId>,
    /// A person of the one tenant, `mem_…`: that person's key is replaced, not the tenant's.
    #[arg(long, value_name = "PERSON", conflicts_with = "all")]
    person: Option<MemberId>,
    /// Every tenant, and the deployment itself.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Act {
    fn settings(&self) -> &Settings {
        match self {
            Self::Status(settings) | Self::Rotate(settings) | Self::Retire(settings) => settings,
            Self::RotateDataKeys(command) => &command.settings,
        }
    }
}

impl Sealing {
    /// What to print.
    pub async fn run(&self) -> Result<String, Box<dyn Error>> {
        let config = self.act.settings().read()?;
        service::log::init(&config.log)?;
        let operator = Operator::open(&config, Arc::new(SystemClock), Arc::new(SystemIds)).await?;
        let said = match &self.act {
            Act::Status(_) => json(&operator.status().await?),
            Act::Rotate(_) => json(&operator.rotate().await?),
            Act::Retire(_) => json(&operator.retire().await?),
            Act::RotateDataKeys(RotateDataKeys { tenants, person: Some(person), .. }) if tenants.len() == 1 => {
                json(&operator.rotate_person_key(tenants[0], *person).await?)
            }
            Act::RotateDataKeys(RotateDataKeys { person: Some(_), .. }) => Err("a person belongs to one tenant: name that one".into()),
            Act::RotateDataKeys(command) => json(&operator.rotate_data_keys((!command.all).then_some(&command.tenants)).await?),
        };
        operator.close().await?;
        said
    }
}

fn json(value: &impl Serialize) -> Result<String, Box<dyn Error>> {
    Ok(serde_json::to_string_pretty(value)?)
}
