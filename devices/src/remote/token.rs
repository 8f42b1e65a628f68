//! The token that lets us into a server: read from its file, read again when somebody wrote another one there, renewed at half of
//! its life, and told of ahead of time when it ends and cannot be kept.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde::Deserialize;
use service::{explain::spelt, files::read_secret_line};
use zeroize::Zeroizing;

use super::client::{Answer, Client};
use crate::{Trouble, TroubleKind};

/// The code of what is found when a token ends and cannot be kept.
pub const TOKEN_ENDING: &str = "vault_token_ending";
/// How long before its end it is told of a token that cannot be kept.
const WARN_BEFORE: Duration = Duration::from_secs(86_400);
/// How long after a renewal that failed the next one is tried, at most.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// A token in use.
pub(super) struct Token {
    /// What is sent.
    pub(super) text: Zeroizing<String>,
    lease: Mutex<Lease>,
}

impl Token {
    /// What is known of its life, to be changed. Calls to the server are made without holding this.
    fn lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of how long a token lives.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lease {
    /// Nobody has asked yet.
    Unknown,
    /// The server does not say.
    Hidden,
    /// It has no end.
    Endless,
    /// It has one.
    Until(Until),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Until {
    end: Instant,
    /// The longest it was ever given.
    span: Duration,
    renewable: bool,
    /// When it was last tried to renew it, in vain.
    tried: Option<Instant>,
    /// Why it cannot be kept, if so.
    failed: Option<String>,
}

#[derive(Deserialize)]
struct LookedUp {
    data: Option<Life>,
}

#[derive(Deserialize)]
struct Life {
    ttl: u64,
    #[serde(default)]
    creation_ttl: u64,
    #[serde(default)]
    expire_time: Option<String>,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct Renewed {
    auth: Option<Granted>,
}

#[derive(Deserialize)]
struct Granted {
    lease_duration: u64,
}

impl Life {
    fn lease(&self, now: Instant) -> Lease {
        // In its last second a token has no whole one left, and an end all the same.
        if self.ttl == 0 && self.expire_time.is_none() {
            return Lease::Endless;
        }
        let left = Duration::from_secs(self.ttl);
        let span = left.max(Duration::from_secs(self.creation_ttl));
        Lease::Until(Until { end: now + left, span, renewable: self.renewable, tried: None, failed: None })
    }
}

impl Client {
    /// The token in use; the first time it is read from its file.
    pub(super) fn token(&self) -> Result<Arc<Token>, Trouble> {
        let known = self.token.read().unwrap_or_else(PoisonError::into_inner).clone();
        known.map_or_else(|| Ok(self.put_to_use(self.read_token()?)), Ok)
    }

    /// The token that somebody wrote into the file instead of this one, if they did.
    pub(super) fn newer(&self, than: &Token) -> Result<Option<Arc<Token>>, Trouble> {
        let text = self.read_token()?;
        Ok((*text != *than.text).then(|| self.put_to_use(text)))
    }

    /// Looks after the token: takes another one that was written into its file, learns how long it lives, and renews it. To be
    /// called now and then; what fails is told by [`Client::advice`], as long as the token still works.
    pub fn tend(&self, now: Instant) {
        let Some(mut token) = self.token.read().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        // A file that cannot be read is not needed yet: the token is in use.
        if let Ok(Some(newer)) = self.newer(&token) {
            tracing::info!(place = self.place(), "another token for the server was found in its file");
            token = newer;
        }
        // Bound first: the guard ends here, and not with the match.
        let known = token.lease().clone();
        let until = match known {
            Lease::Unknown => {
                let lease = self.look_up(&token, now);
                token.lease().clone_from(&lease);
                let Lease::Until(until) = lease else { return };
                until
            }
            Lease::Hidden | Lease::Endless => return,
            Lease::Until(until) => until,
        };
        let again_after = AGAIN_AFTER.min(until.span / 10);
        let rests = until.tried.is_some_and(|tried| now < tried + again_after);
        if !until.renewable || rests || until.end.saturating_duration_since(now) > until.span / 2 {
            return;
        }
        let next = match self.renew(&token) {
            Ok(granted) if granted >= until.span / 2 => {
                Until { end: now + granted, span: granted.max(until.span), tried: None, failed: None, ..until }
            }
            Ok(granted) => {
                let why = "it is near the longest that the server lets it live".to_owned();
                Until { end: now + granted, tried: Some(now), failed: Some(why), ..until }
            }
            Err(why) => Until { tried: Some(now), failed: Some(why), ..until },
        };
        if let (Some(why), false) = (&next.failed, token.lease().has_failed()) {
            tracing::warn!(place = self.place(), "the token for the server cannot be kept: {why}");
        }
        *token.lease() = Lease::Until(next);
    }

    /// What somebody should do about the token before it ends.
    pub fn advice(&self, now: Instant) -> Option<Trouble> {
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let known = token.lease().clone();
        let Lease::Until(until) = known else { return None };
        let left = until.end.saturating_duration_since(now);
        let why = match until.failed {
            Some(why) => why,
            None if until.renewable => return None,
            None => "it cannot be renewed".to_owned(),
        };
        if left > WARN_BEFORE {
            return None;
        }
        let when = if left.is_zero() { "has ended".to_owned() } else { format!("ends in {}", spelt(left)) };
        Some(self.refused(format!("our token {when}: {why}; write another one into {}", self.settings.token_file.display())))
    }

    /// The server turned this token down, and there is no other one: says so when it has ended.
    pub(super) fn ended(&self, token: &Token, now: Instant) -> Option<Trouble> {
        let known = token.lease().clone();
        let Lease::Until(until) = known else { return None };
        (until.end <= now).then(|| {
            let file = self.settings.token_file.display();
            self.refused(format!("our token has ended: write another one into {file}; it is read again by itself"))
        })
    }

    fn refused(&self, detail: String) -> Trouble {
        Trouble::new(TroubleKind::Refused, self.place(), detail)
    }

    fn put_to_use(&self, text: Zeroizing<String>) -> Arc<Token> {
        let token = Arc::new(Token { text, lease: Mutex::new(Lease::Unknown) });
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        token
    }

    fn read_token(&self) -> Result<Zeroizing<String>, Trouble> {
        let file = &self.settings.token_file;
        let locked = |detail: String| Trouble::new(TroubleKind::Locked, self.place(), detail);
        let line = read_secret_line(file).map_err(|error| locked(format!("its token cannot be read: {error}")))?;
        match std::str::from_utf8(&line) {
            Ok("") => Err(locked(format!("{} is empty: write the token into it, on one line", file.display()))),
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(locked(format!("{} is not text", file.display()))),
        }
    }

    fn look_up(&self, token: &Token, now: Instant) -> Lease {
        let looked = self.once(&Method::GET, "auth/token/lookup-self", None, &token.text);
        let life = match looked {
            Ok(Answer::Yes(bytes)) => serde_json::from_slice::<LookedUp>(&bytes).ok().and_then(|looked| looked.data),
            Err(trouble) if trouble.kind != TroubleKind::Refused => return Lease::Unknown,
            _ => None,
        };
        life.map_or_else(
            || {
                tracing::warn!(
                    place = self.place(),
                    "how long the token for the server lives is not known: let its policy read auth/token/lookup-self, and update \
                     auth/token/renew-self"
                );
                Lease::Hidden
            },
            |life| life.lease(now),
        )
    }

    fn renew(&self, token: &Token) -> Result<Duration, String> {
        let act = "renewing the token";
        let renewed = self.once(&Method::POST, "auth/token/renew-self", Some(&Zeroizing::new("{}".to_owned())), &token.text);
        let bytes = match renewed.map_err(|trouble| trouble.detail)? {
            Answer::Invalid(said) => return Err(format!("the server does not renew it: {said}")),
            answer => answer.yes(self, act).map_err(|trouble| trouble.detail)?,
        };
        let renewed: Option<Renewed> = serde_json::from_slice(&bytes).ok();
        let granted = renewed.and_then(|renewed| renewed.auth);
        granted
            .map(|granted| Duration::from_secs(granted.lease_duration))
            .ok_or_else(|| format!("{act}: its answer is not that of its API"))
    }
}

impl Lease {
    fn has_failed(&self) -> bool {
        matches!(self, Self::Until(until) if until.failed.is_some())
    }
}
