//! How we get into a server: by a token that stands in a file, or by a role that logs in (the AppRole method) with a secret id,
//! which may be wrapped.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reqwest::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service::files::read_secret_line;
use zeroize::Zeroizing;

use super::{
    client::{Answer, Client},
    is_a_path,
    token::{Lease, Token},
};
use crate::{Trouble, TroubleKind};

/// How long after a role id and a secret id were turned down the same two are tried again. Servers lock a role out that tries too
/// often within a quarter of an hour.
const SAME_AGAIN_AFTER: Duration = Duration::from_secs(16 * 60);

/// How to get in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// By a token, which stands on one line of a file. Another one that is written into it is put to use.
    Token(PathBuf),
    /// By a role and its secret.
    AppRole(AppRole),
}

/// A role of the AppRole method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppRole {
    /// Where the method is mounted.
    #[serde(default = "approle")]
    pub mount: String,
    /// A file with the role id on one line, readable by its owner only.
    pub role_id_file: PathBuf,
    /// A file with the secret id on one line, readable by its owner only; read again for each login.
    pub secret_id_file: PathBuf,
    /// Whether `secret_id_file` holds a response-wrapping token instead: it is unwrapped once, and what was in it is kept in memory.
    #[serde(default)]
    pub wrapped: bool,
}

fn approle() -> String {
    "approle".to_owned()
}

impl Login {
    /// What settings name: exactly one of the two.
    pub fn of(token_file: Option<&PathBuf>, app_role: Option<&AppRole>) -> Option<Self> {
        match (token_file, app_role) {
            (Some(file), None) => Some(Self::Token(file.clone())),
            (None, Some(role)) => Some(Self::AppRole(role.clone())),
            _ => None,
        }
    }

    /// What is wrong with settings of this section.
    pub fn problems(section: &str, token_file: Option<&PathBuf>, app_role: Option<&AppRole>) -> Vec<String> {
        let mut problems = Vec::new();
        if Self::of(token_file, app_role).is_none() {
            problems.push(format!(
                "set one of {section}.token_file and [{section}.app_role] (role_id_file, secret_id_file): it is how to get into the server"
            ));
        }
        if app_role.is_some_and(|role| !is_a_path(&role.mount)) {
            problems.push(format!("setting {section}.app_role.mount: letters, digits, - and _, with single slashes between"));
        }
        problems
    }
}

/// What is remembered from one login to the next.
#[derive(Default)]
pub(super) struct Logins {
    /// A wrapping token, and the secret id that was in it.
    unwrapped: Option<(Zeroizing<String>, Zeroizing<String>)>,
    turned_down: Option<TurnedDown>,
}

/// What the server did not let in.
struct TurnedDown {
    role_id: Zeroizing<String>,
    /// The secret id or the wrapping token, as the file has it.
    secret: Zeroizing<String>,
    at: Instant,
    trouble: Trouble,
}

#[derive(Deserialize)]
struct LoggedIn {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Secret,
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct Unwrapped {
    data: Option<SecretId>,
}

#[derive(Deserialize)]
struct SecretId {
    secret_id: Secret,
}

#[derive(Deserialize)]
struct LookedAt {
    data: Option<Wrapping>,
}

#[derive(Deserialize)]
struct Wrapping {
    creation_path: String,
}

/// Text that is wiped when it is no longer needed.
struct Secret(Zeroizing<String>);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl Client {
    /// A token to use in place of this one, or the first one. One thread at a time logs in: a secret id may be good for one use.
    pub(super) fn get_in(&self, instead_of: Option<&Token>, now: Instant) -> Result<Arc<Token>, Trouble> {
        let role = match &self.settings.login {
            Login::Token(file) => return Ok(self.put_to_use(Token::new(self.read(file, "token")?, Lease::Unknown, now))),
            Login::AppRole(role) => role,
        };
        let mut logins = self.logins();
        if let Some(token) = self.current()
            && instead_of.is_none_or(|refused| refused.text != token.text)
        {
            return Ok(token);
        }
        self.log_in(role, &mut logins, now).map(|token| self.put_to_use(token))
    }

    /// Whether the last login failed, so that there may be no token to look after, and another try is worth while.
    pub(super) fn was_turned_down(&self) -> bool {
        self.logins().turned_down.is_some()
    }

    fn logins(&self) -> MutexGuard<'_, Logins> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_in(&self, role: &AppRole, logins: &mut Logins, now: Instant) -> Result<Token, Trouble> {
        let role_id = self.read(&role.role_id_file, "role id")?;
        let secret = self.read(&role.secret_id_file, if role.wrapped { "wrapping token" } else { "secret id" })?;
        if let Some(last) = &logins.turned_down
            && (&last.role_id, &last.secret) == (&role_id, &secret)
            && now < last.at + SAME_AGAIN_AFTER
        {
            return Err(last.trouble.clone());
        }
        logins.turned_down = None;
        let tried = self.secret_id(role, &secret, logins).and_then(|secret_id| self.present(role, &role_id, &secret_id, now));
        if let Err(trouble) = &tried
            && trouble.kind == TroubleKind::Refused
        {
            logins.turned_down = Some(TurnedDown { role_id, secret, at: now, trouble: trouble.clone() });
        }
        tried
    }

    fn present(&self, role: &AppRole, role_id: &str, secret_id: &Zeroizing<String>, now: Instant) -> Result<Token, Trouble> {
        let act = "logging in with the role";
        let body = Zeroizing::new(format!(r#"{{"role_id":{},"secret_id":{}}}"#, *quoted(role_id), *quoted(secret_id)));
        let refused = |said: &str| {
            // Some answers say the secret id back.
            let said = said.replace(secret_id.as_str(), "…");
            let (role_id, secret_id) = (role.role_id_file.display(), role.secret_id_file.display());
            self.refused(format!(
                "it did not let the role in: {said}; see that the role is there, that {role_id} names it, and write another {} into \
                 {secret_id}; it is read again by itself",
                role.what()
            ))
        };
        let bytes = match self.once(&Method::POST, &format!("auth/{}/login", role.mount), Some(&body), "") {
            Ok(Answer::Invalid(said)) => return Err(refused(&said)),
            Ok(Answer::NotFound) => return Err(refused(&format!("no AppRole method is mounted at {:?}", role.mount))),
            // What nobody may do without a token: nothing is mounted there, or the role is locked out for a while.
            Err(trouble) if trouble.kind == TroubleKind::Refused => {
                return Err(refused(&format!(
                    "auth/{}/login is forbidden: the method is not mounted there, or the role is locked out",
                    role.mount
                )));
            }
            answer => answer?.yes(self, act)?,
        };
        let auth = serde_json::from_slice::<LoggedIn>(&bytes).ok().and_then(|answer| answer.auth).ok_or_else(|| self.odd(act))?;
        Ok(Token::new(auth.client_token.0, Lease::of(auth.lease_duration, auth.renewable, now), now))
    }

    /// The secret id: what stands in the file, or what was wrapped under it.
    fn secret_id(&self, role: &AppRole, secret: &Zeroizing<String>, logins: &mut Logins) -> Result<Zeroizing<String>, Trouble> {
        if !role.wrapped {
            return Ok(secret.clone());
        }
        if let Some((wrapping, secret_id)) = &logins.unwrapped
            && wrapping == secret
        {
            return Ok(secret_id.clone());
        }
        let secret_id = self.unwrap(role, secret)?;
        logins.unwrapped = Some((secret.clone(), secret_id.clone()));
        Ok(secret_id)
    }

    /// Opens what is wrapped, once it is known to be a secret id of this method: anybody can wrap something else and put it there.
    fn unwrap(&self, role: &AppRole, wrapping: &Zeroizing<String>) -> Result<Zeroizing<String>, Trouble> {
        let file = role.secret_id_file.display();
        let used = |said: &str| {
            let said = said.replace(wrapping.as_str(), "…");
            self.refused(format!(
                "the wrapping token in {file} does not open: {said}; it is good for one use and a limited time: if no start here has \
                 used it, somebody else may have, so destroy that secret id; write another wrapping token into the file"
            ))
        };
        let ask = |path: &str, act: &str| {
            let nothing = Zeroizing::new("{}".to_owned());
            match self.once(&Method::POST, path, Some(&nothing), wrapping) {
                Ok(Answer::Invalid(said)) => Err(used(&said)),
                Err(trouble) if trouble.kind == TroubleKind::Refused => Err(used(&trouble.detail)),
                answer => answer?.yes(self, act),
            }
        };
        let act = "looking at what is wrapped";
        let bytes = ask("sys/wrapping/lookup", act)?;
        let looked: LookedAt = serde_json::from_slice(&bytes).map_err(|_| self.odd(act))?;
        let from = looked.data.ok_or_else(|| self.odd(act))?.creation_path;
        let ours = from.strip_prefix(&format!("auth/{}/role/", role.mount));
        if !ours.is_some_and(|rest| rest.ends_with("/secret-id") || rest.ends_with("/custom-secret-id")) {
            return Err(self.refused(format!(
                "the wrapping token in {file} is of {from}, and not of a secret id of auth/{}: somebody may have put it there; it was \
                 not opened",
                role.mount
            )));
        }
        let act = "unwrapping the secret id";
        let opened: Unwrapped = serde_json::from_slice(&ask("sys/wrapping/unwrap", act)?).map_err(|_| self.odd(act))?;
        Ok(opened.data.ok_or_else(|| self.odd(act))?.secret_id.0)
    }

    /// One line of a file.
    pub(super) fn read(&self, file: &Path, what: &str) -> Result<Zeroizing<String>, Trouble> {
        let locked = |detail: String| Trouble::new(TroubleKind::Locked, self.place(), detail);
        let line = read_secret_line(file).map_err(|error| locked(format!("its {what} cannot be read: {error}")))?;
        match std::str::from_utf8(&line) {
            Ok("") => Err(locked(format!("{} is empty: write the {what} into it, on one line", file.display()))),
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(locked(format!("{} is not text", file.display()))),
        }
    }

    pub(super) fn odd(&self, act: &str) -> Trouble {
        Trouble::new(TroubleKind::Failed, self.place(), format!("{act}: its answer is not that of its API"))
    }
}

impl AppRole {
    /// What its second file holds.
    fn what(&self) -> &'static str {
        if self.wrapped { "wrapped secret id" } else { "secret id" }
    }
}

/// A string of JSON.
fn quoted(text: &str) -> Zeroizing<String> {
    Zeroizing::new(serde_json::Value::from(text).to_string())
}
