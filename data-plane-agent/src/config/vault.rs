//! Which vault, and what opens it.

use std::path::PathBuf;

use devices::remote::{
    is_a_path, is_a_segment,
    login::{AppRole, Login},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::config::{OutgoingConfig, Period};
use url::Url;

use crate::vault::{
    pkcs11::{Pkcs11Settings, device::TokenSettings},
    remote::{RemoteSettings, client::ServerSettings},
};

/// Which vault, and what opens it. A file vault is opened by exactly one of `passphrase_file`, `key_file` and `unlock`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// What it is.
    pub kind: VaultKind,
    /// The directory of a file vault; absent: `vault` in the data directory.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// A file with the passphrase (one line), readable by its owner only.
    #[serde(default)]
    pub passphrase_file: Option<PathBuf>,
    /// A file with 32 random bytes, readable by its owner only; systemd credentials work.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// What holds the key that opens a file vault, when that is neither a passphrase nor a file.
    #[serde(default)]
    pub unlock: Option<UnlockKind>,
    /// A token of a PKCS#11 module.
    #[serde(default)]
    pub pkcs11: Option<Pkcs11Config>,
    /// A server that speaks the API of Vault and OpenBao.
    #[serde(default)]
    pub remote: Option<RemoteConfig>,
}

/// What a vault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VaultKind {
    /// A directory of sealed files.
    File,
    /// A token of a PKCS#11 module.
    Pkcs11,
    /// The KV and transit engines of a server that speaks the API of Vault and OpenBao.
    Remote,
}

/// What holds the key that opens a file vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnlockKind {
    /// The token of `vault.pkcs11`: an AES key that never leaves it.
    Pkcs11,
    /// The server of `vault.remote`: a key of its transit engine.
    Remote,
}

/// A token of a PKCS#11 module.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11Config {
    /// The library, an absolute path.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The token's serial number, where several have the label.
    #[serde(default)]
    pub serial: Option<String>,
    /// A file with the user's PIN on one line, readable by its owner only; systemd credentials work.
    pub pin_file: PathBuf,
    /// What the names of our objects begin with; agents of one site that share the token have the same.
    #[serde(default = "freehold")]
    pub namespace: String,
    /// Whether the token guards its keys by hardware; absent: what its module says.
    #[serde(default)]
    pub hardware: Option<bool>,
    /// The most sessions that work at once.
    #[serde(default = "sessions")]
    pub sessions: usize,
    /// The most time of one call.
    #[serde(default = "device_call")]
    pub call_timeout: Period,
}

/// A server that speaks the API of Vault and OpenBao.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoteConfig {
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
    /// Where its KV engine (version 2) is mounted.
    #[serde(default = "secret")]
    pub kv_mount: String,
    /// The path in it below which keys are kept; agents of one site that share it have the same.
    #[serde(default = "freehold")]
    pub kv_path: String,
    /// Where its transit engine is mounted.
    #[serde(default = "transit")]
    pub transit_mount: String,
    /// The transit key that seals what is kept.
    #[serde(default = "freehold")]
    pub transit_key: String,
    /// Proxy and private authorities.
    #[serde(default)]
    pub outgoing: OutgoingConfig,
    /// The most time of one call.
    #[serde(default = "server_call")]
    pub call_timeout: Period,
}

fn freehold() -> String {
    "freehold".to_owned()
}

fn secret() -> String {
    "secret".to_owned()
}

fn transit() -> String {
    "transit".to_owned()
}

fn sessions() -> usize {
    8
}

fn device_call() -> Period {
    Period(std::time::Duration::from_secs(10))
}

fn server_call() -> Period {
    Period(std::time::Duration::from_secs(5))
}

impl VaultConfig {
    /// What types cannot say.
    pub(super) fn check(&self, problems: &mut Vec<String>) {
        let secrets = [self.passphrase_file.is_some(), self.key_file.is_some(), self.unlock.is_some()];
        match (self.kind, secrets.iter().filter(|set| **set).count()) {
            (VaultKind::File, 0) => problems.push(
                "setting vault.passphrase_file or vault.key_file is missing: name the file that opens the vault (for a key file: \
                 head -c 32 /dev/urandom > FILE; chmod 600 FILE), or set vault.unlock"
                    .to_owned(),
            ),
            (VaultKind::File, 1) | (VaultKind::Pkcs11 | VaultKind::Remote, 0) => {}
            (VaultKind::File, _) => problems.push("set only one of vault.passphrase_file, vault.key_file and vault.unlock".to_owned()),
            (_, _) => problems
                .push("vault.passphrase_file, vault.key_file and vault.unlock open a file vault, and the vault is another".to_owned()),
        }
        let (token, server) = match self.kind {
            VaultKind::File => (self.unlock == Some(UnlockKind::Pkcs11), self.unlock == Some(UnlockKind::Remote)),
            VaultKind::Pkcs11 => (true, false),
            VaultKind::Remote => (false, true),
        };
        if token && self.pkcs11.is_none() {
            problems.push("the section [vault.pkcs11] is missing: it names module, token and pin_file".to_owned());
        }
        if server && self.remote.is_none() {
            problems.push("the section [vault.remote] is missing: it names url, and token_file or app_role".to_owned());
        }
        if let Some(token) = &self.pkcs11 {
            token.check(problems);
        }
        if let Some(server) = &self.remote {
            server.check(problems);
        }
    }
}

impl Pkcs11Config {
    fn check(&self, problems: &mut Vec<String>) {
        if !self.module.is_absolute() {
            problems.push("vault.pkcs11.module must be an absolute path: it is a program that the agent runs".to_owned());
        }
        if !(1..=64).contains(&self.sessions) {
            problems.push("vault.pkcs11.sessions must be between 1 and 64".to_owned());
        }
        if !is_a_segment(&self.namespace) {
            problems.push("vault.pkcs11.namespace must be 1 to 63 letters, digits, - and _".to_owned());
        }
    }

    /// As the vault takes it.
    pub fn settings(&self) -> Pkcs11Settings {
        Pkcs11Settings {
            token: TokenSettings {
                module: self.module.clone(),
                token: self.token.clone(),
                serial: self.serial.clone(),
                pin_file: self.pin_file.clone(),
                sessions: self.sessions,
            },
            namespace: self.namespace.clone(),
            hardware: self.hardware,
            call: self.call_timeout.0,
        }
    }
}

impl RemoteConfig {
    fn check(&self, problems: &mut Vec<String>) {
        problems.extend(Login::problems("vault.remote", self.token_file.as_ref(), self.app_role.as_ref()));
        let local = matches!(self.url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if self.url.scheme() != "https" && !(self.url.scheme() == "http" && local) {
            problems.push("vault.remote.url must begin with https:// (http:// only on this host)".to_owned());
        }
        for (setting, path) in [
            ("kv_mount", &self.kv_mount),
            ("kv_path", &self.kv_path),
            ("transit_mount", &self.transit_mount),
            ("transit_key", &self.transit_key),
        ] {
            if !is_a_path(path) {
                problems.push(format!("vault.remote.{setting} must be made of letters, digits, - and _, with single slashes between"));
            }
        }
    }

    /// As the vault takes it.
    pub fn settings(&self) -> RemoteSettings {
        RemoteSettings {
            server: ServerSettings {
                url: self.url.clone(),
                // Settings without either are refused; an empty path opens nothing.
                login: Login::of(self.token_file.as_ref(), self.app_role.as_ref()).unwrap_or_else(|| Login::Token(PathBuf::new())),
                namespace: self.namespace.clone(),
                outgoing: self.outgoing.clone(),
                call: self.call_timeout.0,
            },
            kv_mount: self.kv_mount.clone(),
            kv_path: self.kv_path.clone(),
            transit_mount: self.transit_mount.clone(),
            transit_key: self.transit_key.clone(),
        }
    }
}
