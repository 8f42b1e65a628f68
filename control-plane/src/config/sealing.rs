//! What storage is encrypted under, and where that is kept.

use std::path::PathBuf;

use devices::remote::{
    is_a_path,
    login::{AppRole, Login},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::config::{OutgoingConfig, Period};
use url::Url;

/// `[sealing]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SealingConfig {
    /// Where the sealing key is made: at the first start, and by `freehold-control-plane sealing rotate`. The one in use may be
    /// of another source that is set here too: so a deployment moves from one to another.
    pub source: SourceKind,
    /// With `file`: the sealing key, 32 bytes as base64url, readable by its owner only; more than one line while it is replaced.
    /// Absent: `sealing.key` in the data directory, made on first start. Keep a copy elsewhere: without it nothing in the
    /// database can be read again.
    pub key_file: Option<PathBuf>,
    /// With `environment`: a variable or a credential that holds the key.
    pub environment: Option<EnvironmentConfig>,
    /// With `pkcs11`: a token, one of whose keys wraps the sealing key.
    pub pkcs11: Option<TokenConfig>,
    /// With `remote`: a server, a key of whose transit engine wraps the sealing key.
    pub remote: Option<TransitConfig>,
}

/// Where sealing keys are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A file.
    #[default]
    File,
    /// A variable of the environment, or a credential that systemd hands over.
    Environment,
    /// A token of a PKCS#11 module.
    Pkcs11,
    /// The transit engine of a server that speaks the API of Vault and OpenBao.
    Remote,
}

/// `[sealing.environment]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnvironmentConfig {
    /// The variable that holds the key, 32 bytes as base64url; more than one, the newest last, with white space between, while
    /// it is replaced. It is taken out of the environment at the start.
    pub variable: String,
    /// The name of a credential in `$CREDENTIALS_DIRECTORY` that holds the same, in place of the variable.
    pub credential: Option<String>,
}

impl Default for EnvironmentConfig {
    fn default() -> Self {
        Self { variable: "FREEHOLD_SEALING_KEY".to_owned(), credential: None }
    }
}

/// `[sealing.pkcs11]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The library, an absolute path.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The token's serial number, where several have the label.
    #[serde(default)]
    pub serial: Option<String>,
    /// A file with the user's PIN on one line, readable by its owner only; systemd credentials work.
    pub pin_file: PathBuf,
    /// The label of the AES key that wraps; made when it is first needed.
    #[serde(default = "key_name")]
    pub key: String,
    /// The most time to wait for the token.
    #[serde(default = "device_call")]
    pub call_timeout: Period,
}

/// `[sealing.remote]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransitConfig {
    /// Where it is, `https://host:port`; plain HTTP only on this host.
    #[schemars(with = "String")]
    pub url: Url,
    /// A file with the token on one line, readable by its owner only; another one that is written into it is put to use. Either
    /// this or `app_role`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A role that logs in, instead of a token.
    #[serde(default)]
    pub app_role: Option<AppRole>,
    /// The namespace, where the server has them.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Where its transit engine is mounted.
    #[serde(default = "transit")]
    pub mount: String,
    /// The key that wraps; made when it is first needed and the token may.
    #[serde(default = "key_name")]
    pub key: String,
    /// Proxy and private authorities.
    #[serde(default)]
    pub outgoing: OutgoingConfig,
    /// The most time of one call.
    #[serde(default = "server_call")]
    pub call_timeout: Period,
}

impl TransitConfig {
    /// How to get in. Settings without either are refused; an empty path opens nothing.
    pub fn login(&self) -> Login {
        Login::of(self.token_file.as_ref(), self.app_role.as_ref()).unwrap_or_else(|| Login::Token(PathBuf::new()))
    }
}

fn key_name() -> String {
    "freehold-control-plane".to_owned()
}

fn transit() -> String {
    "transit".to_owned()
}

fn device_call() -> Period {
    Period(std::time::Duration::from_secs(10))
}

fn server_call() -> Period {
    Period(std::time::Duration::from_secs(5))
}

impl SealingConfig {
    /// The section of the environment, when it is used.
    pub fn environment(&self) -> Option<EnvironmentConfig> {
        let used = self.source == SourceKind::Environment;
        self.environment.clone().or_else(|| used.then(EnvironmentConfig::default))
    }

    /// What types cannot say.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.source == SourceKind::Pkcs11 && self.pkcs11.is_none() {
            problems.push("the section [sealing.pkcs11] is missing: it names module, token and pin_file".to_owned());
        }
        if self.source == SourceKind::Remote && self.remote.is_none() {
            problems.push("the section [sealing.remote] is missing: it names url, and token_file or app_role".to_owned());
        }
        if self.pkcs11.as_ref().is_some_and(|token| !token.module.is_absolute()) {
            problems.push("setting sealing.pkcs11.module: an absolute path is needed, it is a program that this one runs".to_owned());
        }
        if let Some(remote) = &self.remote {
            problems.extend(Login::problems("sealing.remote", remote.token_file.as_ref(), remote.app_role.as_ref()));
            let local = matches!(remote.url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
            if remote.url.scheme() != "https" && !(remote.url.scheme() == "http" && local) {
                problems.push("setting sealing.remote.url: it begins with https:// (http:// only on this host)".to_owned());
            }
            for (setting, path) in [("mount", &remote.mount), ("key", &remote.key)] {
                if !is_a_path(path) {
                    problems.push(format!("setting sealing.remote.{setting}: letters, digits, - and _, with single slashes between"));
                }
            }
        }
        let name =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
        if let Some(environment) = &self.environment {
            if !name(&environment.variable) || environment.variable.contains("__") {
                problems.push("setting sealing.environment.variable: the name of a variable that is no setting".to_owned());
            }
            if environment.credential.as_deref().is_some_and(|credential| !name(credential) || credential.starts_with('.')) {
                problems.push("setting sealing.environment.credential: the name of a file in $CREDENTIALS_DIRECTORY".to_owned());
            }
        }
        problems
    }
}
