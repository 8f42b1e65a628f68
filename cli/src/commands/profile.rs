//! Connections.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    args::Global,
    error::Error,
    output,
    profile::{self, Profiles},
};

/// Connections: where servers stand and which files prove who you are.
#[derive(Debug, Subcommand)]
pub enum Profile {
    /// Make or change a profile from the connection flags, and use it
    Set {
        /// Its name
        name: String,
    },
    /// List the profiles
    List,
    /// Use a profile from now on
    Use {
        /// Its name
        name: String,
    },
    /// Show what is used now
    Show,
    /// Forget a profile (its files stay)
    Remove {
        /// Its name
        name: String,
    },
}

const COLUMNS: &[output::Column] = &[
    ("server", "/server"),
    ("ca file", "/ca_file"),
    ("proxy", "/proxy"),
    ("token file", "/token_file"),
    ("agent", "/agent"),
    ("agent ca file", "/agent_ca_file"),
    ("caller token file", "/caller_token_file"),
];

impl Profile {
    /// Runs the command.
    pub fn run(&self, global: &Global) -> Result<(), Error> {
        let path = global.config.clone().unwrap_or_else(profile::default_path);
        let mut all = profile::load(&path)?;
        match self {
            Self::Set { name } => {
                let old = all.profiles.remove(name).unwrap_or_default();
                all.profiles.insert(name.clone(), global.connection().absolute()?.or(old));
                all.current = Some(name.clone());
                profile::save(&path, &all)?;
                output::line(&format!("profile '{name}' is in use, kept in {}", path.display()))
            }
            Self::Use { name } => {
                known(&all, name)?;
                all.current = Some(name.clone());
                profile::save(&path, &all)?;
                output::line(&format!("profile '{name}' is in use"))
            }
            Self::Remove { name } => {
                known(&all, name)?;
                all.profiles.remove(name);
                all.current = all.current.filter(|current| current != name);
                profile::save(&path, &all)?;
                output::line(&format!("profile '{name}' is forgotten"))
            }
            Self::List => {
                let rows: Vec<Value> =
                    all.profiles.iter().map(|(name, profile)| row(name, profile, all.current.as_ref() == Some(name))).collect();
                let columns = [("name", "/id"), ("current", "/current"), ("server", "/server"), ("agent", "/agent")];
                output::list(global.output, &columns, &rows)
            }
            Self::Show => {
                let name = global.profile.as_ref().or(all.current.as_ref());
                let stored = name.and_then(|name| all.profiles.get(name)).cloned().unwrap_or_default();
                let mut value = serde_json::to_value(global.connection().or(stored))
                    .map_err(|source| Error::fault("could not show the profile", source))?;
                if let Some(agents) = value["agent"].as_array().filter(|_| global.output == output::Format::Table) {
                    value["agent"] = json!(agents.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
                }
                output::object(global.output, COLUMNS, &value)
            }
        }
    }
}

fn known(all: &Profiles, name: &str) -> Result<(), Error> {
    if all.profiles.contains_key(name) {
        Ok(())
    } else {
        Err(Error::usage(format!("there is no profile '{name}'")).hint("see 'freehold profile list'"))
    }
}

fn row(name: &str, profile: &profile::Profile, current: bool) -> Value {
    json!({ "id": name, "current": current, "server": profile.server, "agent": profile.agent.join(", ") })
}
