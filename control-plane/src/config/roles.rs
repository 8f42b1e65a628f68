//! `[store.roles]`: who the control plane is in PostgreSQL.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::{config::ConfigError, files::read_secret_line};
use zeroize::Zeroizing;

use crate::database::roles::{Duty, Role, Roles};

/// `[store.roles]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolesConfig {
    /// The user that adds records and changes none. All three are named, or none: then everything is done as the user of the URL.
    pub writer: Option<String>,
    /// A file with its password, readable by its owner only.
    pub writer_password_file: Option<PathBuf>,
    /// The user that sees the rows of one tenant at a time.
    pub reader: Option<String>,
    /// A file with its password, readable by its owner only.
    pub reader_password_file: Option<PathBuf>,
    /// The user that writes read models.
    pub projector: Option<String>,
    /// A file with its password, readable by its owner only.
    pub projector_password_file: Option<PathBuf>,
    /// Whether a start brings the schema up to date, as the user of the URL. Off: `freehold-control-plane database migrate` does
    /// it, elsewhere, and this process needs no password of the owner.
    pub migrate: bool,
}

impl Default for RolesConfig {
    fn default() -> Self {
        Self {
            writer: None,
            writer_password_file: None,
            reader: None,
            reader_password_file: None,
            projector: None,
            projector_password_file: None,
            migrate: true,
        }
    }
}

impl RolesConfig {
    fn each(&self) -> [(Duty, Option<&str>, Option<&Path>); 3] {
        [
            (Duty::Writer, self.writer.as_deref(), self.writer_password_file.as_deref()),
            (Duty::Reader, self.reader.as_deref(), self.reader_password_file.as_deref()),
            (Duty::Projector, self.projector.as_deref(), self.projector_password_file.as_deref()),
        ]
    }

    /// Whether any role is named.
    pub fn named(&self) -> bool {
        self.each().iter().any(|(_, name, _)| name.is_some())
    }

    pub(super) fn problems(&self, postgres: bool) -> Vec<String> {
        if *self == Self::default() {
            return Vec::new();
        }
        if !postgres {
            return vec!["setting store.roles: only with PostgreSQL".to_owned()];
        }
        let mut problems = Vec::new();
        let mut names = Vec::new();
        for (duty, name, _) in self.each() {
            match name {
                None => problems.push(format!("setting {}: all three roles are named, or none", duty.setting())),
                Some(name) if Role::new(name, None).is_none() => problems.push(format!(
                    "setting {}: a role is named by up to 55 characters of a-z, 0-9 and '_', not a digit first; found \"{name}\"",
                    duty.setting()
                )),
                Some(name) if names.contains(&name) => {
                    problems.push(format!("setting {}: \"{name}\" is another role already", duty.setting()));
                }
                Some(name) => names.push(name),
            }
        }
        problems
    }

    /// The roles, with their passwords; none when none is named.
    pub fn read(&self) -> Result<Option<Roles>, ConfigError> {
        let [writer, reader, projector] = self.each();
        let role = |(duty, name, file): (Duty, Option<&str>, Option<&Path>)| -> Result<Option<Role>, ConfigError> {
            let invalid = |why: String| ConfigError::Invalid { problems: vec![format!("setting {}_password_file: {why}", duty.setting())] };
            let Some(name) = name else { return Ok(None) };
            let password = file.map(|file| {
                let bytes = read_secret_line(file).map_err(|error| invalid(error.to_string()))?;
                let text = std::str::from_utf8(&bytes).map_err(|_| invalid("a password is text".to_owned()))?;
                Ok(Zeroizing::new(text.to_owned()))
            });
            Ok(Role::new(name, password.transpose()?))
        };
        match (role(writer)?, role(reader)?, role(projector)?) {
            (Some(writer), Some(reader), Some(projector)) => Ok(Some(Roles { writer, reader, projector, migrate: self.migrate })),
            _ => Ok(None),
        }
    }
}
