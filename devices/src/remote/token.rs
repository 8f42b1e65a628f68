//! The token that lets us into a server: read from its file or given to a role, replaced when somebody wrote another one there or
//! the role can log in again, renewed at half of its life, and told of ahead of time when it ends and cannot be kept.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use serde::Deserialize;
use service::explain::spelt;
use zeroize::Zeroizing;

use super::{
    client::{Answer, Client},
    login::Login,
};
use crate::{Trouble, TroubleKind};

/// The code of what is found when a token ends and cannot be kept.
pub const TOKEN_ENDING: &str = "vault_token_ending";
/// How long before its end it is told of a token that cannot be kept.
const WARN_BEFORE: Duration = Duration::from_secs(86_400);
/// How long after a renewal or a login that failed the next one is tried, at most.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// A token in use.
pub(super) struct Token {
    /// What is sent.
    pub(super) text: Zeroizing<String>,
    lease: Mutex<Lease>,
    /// When it was put to use.
    since: Instant,
    /// Whether its policy does not let it look itself up.
    hides: AtomicBool,
}

impl Token {
    pub(super) fn new(text: Zeroizing<String>, lease: Lease, now: Instant) -> Self {
        Self { text, lease: Mutex::new(lease), since: now, hides: AtomicBool::new(false) }
    }

    /// What is known of its life, to be changed. Calls to the server are made without holding this.
    fn lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of how long a token lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lease {
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
pub(super) struct Until {
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
    /// The token in use; the first time it is read from its file, or the role logs in.
    pub(super) fn token(&self) -> Result<Arc<Token>, Trouble> {
        self.current().map_or_else(|| self.get_in(None, Instant::now()), Ok)
    }

    /// The token in use, if there is one yet.
    pub(super) fn current(&self) -> Option<Arc<Token>> {
        self.token.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another token than this one, which the server turned down: what somebody wrote into the file, or what a role is given.
    pub(super) fn another(&self, refused: &Token) -> Result<Option<Arc<Token>>, Trouble> {
        let now = Instant::now();
        if matches!(self.settings.login, Login::Token(_)) {
            return self.written(refused, now);
        }
        // What is refused to a token that lives is refused to the next one of the role too.
        let hides = refused.hides.load(Ordering::Relaxed);
        if if hides { now < refused.since + AGAIN_AFTER } else { !self.is_turned_down(refused) } {
            return Ok(None);
        }
        let token = self.get_in(Some(refused), now)?;
        let hides = self.is_turned_down(&token);
        token.hides.store(hides, Ordering::Relaxed);
        Ok(Some(token))
    }

    /// The token that somebody wrote into the file instead of this one, if they did.
    fn written(&self, than: &Token, now: Instant) -> Result<Option<Arc<Token>>, Trouble> {
        let Login::Token(file) = &self.settings.login else { return Ok(None) };
        let text = self.read(file, "token")?;
        Ok((*text != *than.text).then(|| self.put_to_use(Token::new(text, Lease::Unknown, now))))
    }

    fn is_turned_down(&self, token: &Token) -> bool {
        let looked = self.once(&Method::GET, "auth/token/lookup-self", None, &token.text);
        looked.is_err_and(|trouble| trouble.kind == TroubleKind::Refused)
    }

    /// Looks after the token: takes another one that was written into its file, learns how long it lives, renews it, and has a role
    /// log in again when it cannot be renewed for long. To be called now and then; what fails is told by [`Client::advice`], as
    /// long as the token still works.
    pub fn tend(&self, now: Instant) {
        let Some(mut token) = self.current() else {
            if self.was_turned_down() {
                // Whoever calls next is told, if it fails again.
                drop(self.get_in(None, now));
            }
            return;
        };
        // A file that cannot be read is not needed yet: the token is in use.
        if let Ok(Some(newer)) = self.written(&token, now) {
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
        let may_log_in = matches!(self.settings.login, Login::AppRole(_));
        if !(until.renewable || may_log_in) || rests || until.end.saturating_duration_since(now) > until.span / 2 {
            return;
        }
        let renewed = if until.renewable { self.renew(&token) } else { Err(self.refused("it cannot be renewed")) };
        // A server that is away is not asked for another token at once.
        let may_log_in = may_log_in && renewed.as_ref().map_or_else(|trouble| trouble.kind.answers(), |granted| *granted < until.span / 2);
        let mut next = match renewed {
            Ok(granted) if granted >= until.span / 2 => {
                Until { end: now + granted, span: granted.max(until.span), tried: None, failed: None, ..until }
            }
            Ok(granted) => {
                let why = "it is near the longest that the server lets it live".to_owned();
                Until { end: now + granted, tried: Some(now), failed: Some(why), ..until }
            }
            Err(trouble) => Until { tried: Some(now), failed: Some(trouble.detail), ..until },
        };
        if may_log_in {
            match self.get_in(Some(&token), now) {
                Ok(_) => return,
                Err(trouble) => next.failed = next.failed.map(|why| format!("{why}, and logging in again failed: {}", trouble.detail)),
            }
        }
        if let (Some(why), false) = (&next.failed, token.lease().has_failed()) {
            tracing::warn!(place = self.place(), "the token for the server cannot be kept: {why}");
        }
        *token.lease() = Lease::Until(next);
    }

    /// What somebody should do about the token before it ends.
    pub fn advice(&self, now: Instant) -> Option<Trouble> {
        let token = self.current()?;
        let known = token.lease().clone();
        let Lease::Until(until) = known else { return None };
        let left = until.end.saturating_duration_since(now);
        let why = match (until.failed, &self.settings.login) {
            (Some(why), _) => why,
            (None, Login::Token(_)) if !until.renewable => "it cannot be renewed".to_owned(),
            (None, _) => return None,
        };
        if left > WARN_BEFORE {
            return None;
        }
        let when = if left.is_zero() { "has ended".to_owned() } else { format!("ends in {}", spelt(left)) };
        let what_to_do = match &self.settings.login {
            Login::Token(file) => format!("; write another one into {}", file.display()),
            // Why its login failed says that already.
            Login::AppRole(_) => String::new(),
        };
        Some(self.refused(format!("our token {when}: {why}{what_to_do}")))
    }

    /// The server turned this token down, and there is no other one: says so when it has ended.
    pub(super) fn ended(&self, token: &Token, now: Instant) -> Option<Trouble> {
        let known = token.lease().clone();
        let (Lease::Until(until), Login::Token(file)) = (known, &self.settings.login) else { return None };
        (until.end <= now).then(|| {
            let file = file.display();
            self.refused(format!("our token has ended: write another one into {file}; it is read again by itself"))
        })
    }

    pub(super) fn refused(&self, detail: impl Into<String>) -> Trouble {
        Trouble::new(TroubleKind::Refused, self.place(), detail)
    }

    pub(super) fn put_to_use(&self, token: Token) -> Arc<Token> {
        let token = Arc::new(token);
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        token
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

    fn renew(&self, token: &Token) -> Result<Duration, Trouble> {
        let act = "renewing the token";
        let bytes = match self.once(&Method::POST, "auth/token/renew-self", Some(&Zeroizing::new("{}".to_owned())), &token.text)? {
            Answer::Invalid(said) => return Err(self.refused(format!("the server does not renew it: {said}"))),
            answer => answer.yes(self, act)?,
        };
        let renewed: Option<Renewed> = serde_json::from_slice(&bytes).ok();
        let granted = renewed.and_then(|renewed| renewed.auth);
        granted.map(|granted| Duration::from_secs(granted.lease_duration)).ok_or_else(|| self.odd(act))
    }
}

impl Lease {
    /// Of a token that lives so many seconds from now on; none: without end.
    pub(super) fn of(seconds: u64, renewable: bool, now: Instant) -> Self {
        if seconds == 0 {
            return Self::Endless;
        }
        let span = Duration::from_secs(seconds);
        Self::Until(Until { end: now + span, span, renewable, tried: None, failed: None })
    }

    fn has_failed(&self) -> bool {
        matches!(self, Self::Until(until) if until.failed.is_some())
    }
}
