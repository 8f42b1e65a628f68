//! Where to connect and with what: profiles in one TOML file, overridden by environment and flags.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The file: which profile is used, and all of them.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// The profile used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Every profile, by name.
    #[serde(default)]
    pub profiles: BTreeMap<String, Profile>,
}

/// Where one set of servers stands, and the files that prove who you are. It names secrets' files, never secrets.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// URL of the control plane, e.g. https://127.0.0.1:7400
    #[arg(long, env = "FREEHOLD_SERVER", value_name = "URL")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// File with the certificate authority of the control plane, PEM
    #[arg(long, env = "FREEHOLD_CA_FILE", value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// HTTP or HTTPS proxy to the control plane, e.g. http://proxy:3128 [default: as HTTPS_PROXY says]
    #[arg(long, env = "FREEHOLD_PROXY", value_name = "URL")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<url::Url>,
    /// File with the API token
    #[arg(long, env = "FREEHOLD_TOKEN_FILE", value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// URL of the agent, e.g. https://127.0.0.1:7410; may be repeated: when one is not there, the next is asked
    #[arg(long, env = "FREEHOLD_AGENT", value_name = "URL", value_delimiter = ',')]
    #[serde(default, with = "one_or_more", skip_serializing_if = "Vec::is_empty")]
    pub agent: Vec<String>,
    /// File with the certificate authority of the agent, PEM
    #[arg(long, env = "FREEHOLD_AGENT_CA_FILE", value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_ca_file: Option<PathBuf>,
    /// File with the caller token
    #[arg(long, env = "FREEHOLD_CALLER_TOKEN_FILE", value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_token_file: Option<PathBuf>,
}

/// One text as it is, several as a list.
mod one_or_more {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        Ok(match OneOrMore::deserialize(deserializer)? {
            OneOrMore::One(one) => vec![one],
            OneOrMore::More(more) => more,
        })
    }

    pub(super) fn serialize<S: Serializer>(texts: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        match texts {
            [one] => one.serialize(serializer),
            more => more.serialize(serializer),
        }
    }
}

impl Profile {
    /// This profile where it says something, else the other.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            server: self.server.or(other.server),
            ca_file: self.ca_file.or(other.ca_file),
            proxy: self.proxy.or(other.proxy),
            token_file: self.token_file.or(other.token_file),
            agent: if self.agent.is_empty() { other.agent } else { self.agent },
            agent_ca_file: self.agent_ca_file.or(other.agent_ca_file),
            caller_token_file: self.caller_token_file.or(other.caller_token_file),
        }
    }

    /// Paths made absolute, so that the profile works from any folder.
    pub fn absolute(mut self) -> Result<Self, Error> {
        for path in [&mut self.ca_file, &mut self.token_file, &mut self.agent_ca_file, &mut self.caller_token_file].into_iter().flatten() {
            *path = std::path::absolute(&*path).map_err(|source| Error::fault("could not make a path absolute", source))?;
        }
        Ok(self)
    }
}

/// The configuration file: `$FREEHOLD_CONFIG`, else `freehold/config.toml` in the user's configuration folder.
pub fn default_path() -> PathBuf {
    let folder = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))
        .unwrap_or_default();
    folder.join("freehold").join("config.toml")
}

/// Reads the file; a missing one is empty.
pub fn load(path: &Path) -> Result<Profiles, Error> {
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|source| {
            Error::usage(format!("{} is not a valid configuration: {source}", path.display())).hint("mend the file, or move it away")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Profiles::default()),
        Err(source) => Err(Error::fault(&format!("could not read {}", path.display()), source)),
    }
}

/// Writes the file in one step.
pub fn save(path: &Path, profiles: &Profiles) -> Result<(), Error> {
    let text = toml::to_string(profiles).map_err(|source| Error::fault("could not write the configuration", source))?;
    let act = format!("could not write {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|source| Error::fault(&act, source))?;
    }
    let beside = path.with_extension("toml.new");
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|source| Error::fault(&act, source))
}
