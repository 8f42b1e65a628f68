//! Recovery of a control plane that was restored from an older backup, for administrators of a tenant.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Session;
use crate::{
    error::{Error, Exit},
    graphql::documents::RECOVERY,
    output::{self, Format},
};

/// After the control plane was restored from an older backup: see what agents know better, and begin the next epoch
///
/// Agents never go back. One that is told less than it knows goes on with what it has, and shows it to the control plane, which then
/// publishes nothing for the tenant any more. 'begin' takes back what agents showed, and lets the next epoch begin; a person beside each
/// agent confirms it ('freehold-agent statements confirm-epoch'). See docs/control-plane-recovery.md.
#[derive(Debug, Subcommand)]
pub enum Recovery {
    /// Show whether agents know newer statements than the control plane, and what it has forgotten
    Status,
    /// Show the control plane what an agent holds that is connected to nothing
    Show {
        /// What 'freehold-agent statements export' wrote
        file: PathBuf,
    },
    /// Take back what agents showed, and let the next epoch begin
    ///
    /// Where the control plane signs root, the epoch begins at once. Where the tenant has signers, its root waits for them: each runs
    /// 'freehold root sign --recovery'. Doing it again takes back what was shown since.
    Begin {
        /// The epoch that is to begin; when another one would, nothing is done
        #[arg(long)]
        epoch: Option<u64>,
    },
}

const SITES: &[output::Column] = &[
    ("site", "/site"),
    ("shown by", "/agent"),
    ("at", "/at"),
    ("agents know", "/theirs"),
    ("here", "/ours"),
    ("forgotten here", "/forgotten"),
];
const BEGUN: &[output::Column] = &[
    ("epoch that begins", "/begins"),
    ("statements taken back", "/statements"),
    ("keys taken back", "/keys"),
    ("left", "/left"),
    ("waits for signers", "/recovery/waits"),
    ("publishing stopped", "/recovery/needed"),
];

impl Recovery {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        let client = session.control_plane()?;
        match self {
            Self::Status => {
                let recovery = client.one(RECOVERY, "Recovery", json!({}), "the tenant's recovery").await?;
                print(session, &recovery)
            }
            Self::Show { file } => {
                let failed = |error: std::io::Error| Error::new(Exit::Usage, "unreadable_file", format!("{}: {error}", file.display()));
                let set = std::fs::read_to_string(&file).map_err(failed)?;
                let payload = client.mutate(RECOVERY, "ShowStatements", json!({ "set": set })).await?;
                print(session, &payload["recovery"])
            }
            Self::Begin { epoch } => {
                let payload = client.mutate(RECOVERY, "BeginRecovery", json!({ "epoch": epoch.map(|epoch| epoch.to_string()) })).await?;
                output::object(session.output, BEGUN, &payload)?;
                if session.output == Format::Table {
                    let epoch = payload["begins"].as_str().unwrap_or_default();
                    let next = match payload["recovery"]["waits"].as_bool() {
                        Some(true) => format!(
                            "its root waits: 'freehold root sign --recovery' by enough signers; then beside each agent: freehold-agent statements confirm-epoch {epoch}"
                        ),
                        _ => format!("beside each agent: freehold-agent statements confirm-epoch {epoch}"),
                    };
                    output::note(&next);
                }
                Ok(())
            }
        }
    }
}

fn print(session: &Session, recovery: &Value) -> Result<(), Error> {
    if session.output == Format::Json {
        return output::object(session.output, &[], recovery);
    }
    output::object(
        session.output,
        &[("epoch", "/epoch"), ("publishing stopped", "/needed"), ("root of the next epoch waits", "/waits")],
        recovery,
    )?;
    output::list(session.output, SITES, recovery["sites"].as_array().map_or(&[][..], Vec::as_slice))
}
