//! The calls to a server that speaks the API of Vault and OpenBao: JSON over HTTPS, a token in a header. Every call ends in
//! bounded time, and says in one of a few kinds what went wrong.

use std::{
    sync::{Arc, Mutex, RwLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;
use service::{
    config::OutgoingConfig,
    outgoing::{self, Trust},
};
use tokio::runtime::Handle;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::{
    login::{Login, Logins},
    token::Token,
};
use crate::{Trouble, TroubleKind};

/// The most bytes of an answer: a listing of many keys.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// The most characters told of what the server said.
const MAX_SAID: usize = 300;

/// Which server, and how to get in.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Where it is.
    pub url: Url,
    /// How to get in.
    pub login: Login,
    /// The namespace, where the server has them.
    pub namespace: Option<String>,
    /// Proxy and private authorities.
    pub outgoing: OutgoingConfig,
    /// The most time of one call.
    pub call: Duration,
}

/// Calls the server. The methods block, and must not be called from async code: they wait on the runtime that was current
/// when the client was made.
pub struct Client {
    pub(super) settings: ServerSettings,
    place: String,
    http: reqwest::Client,
    runtime: Handle,
    pub(super) token: RwLock<Option<Arc<Token>>>,
    pub(super) logins: Mutex<Logins>,
}

/// What the server said.
pub enum Answer {
    /// Yes, with this; nothing where there is nothing to say. Wiped on drop: it may hold a secret.
    Yes(Zeroizing<Vec<u8>>),
    /// There is no such thing.
    NotFound,
    /// It cannot do that with what it was given, and why.
    Invalid(String),
}

impl Client {
    /// A client. Must be called inside a runtime.
    pub fn new(settings: ServerSettings) -> Result<Self, Trouble> {
        let place = format!("the vault at {}", settings.url);
        let wrong = |detail: String| Trouble::new(TroubleKind::Failed, &place, detail);
        let local = match settings.url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        match settings.url.scheme() {
            "https" => {}
            "http" if local => {}
            _ => return Err(wrong("its address must begin with https:// (plain http:// only on this host)".to_owned())),
        }
        let http = outgoing::client(&settings.outgoing, &Trust::System, None).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { settings, place, http, runtime: Handle::current(), token: RwLock::default(), logins: Mutex::default() })
    }

    /// Where it is, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The most time of one call.
    pub fn limit(&self) -> Duration {
        self.settings.call
    }

    /// One call with a body of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer, Trouble> {
        self.call(Method::POST, path, Some(&Zeroizing::new(body.to_string())))
    }

    /// One call. A token that is turned down is replaced once, where there is another: in its file, or by logging in again.
    pub fn call(&self, method: Method, path: &str, body: Option<&Zeroizing<String>>) -> Result<Answer, Trouble> {
        let token = self.token()?;
        match self.once(&method, path, body, &token.text) {
            Err(trouble) if trouble.kind == TroubleKind::Refused => match self.another(&token)? {
                Some(another) => self.once(&method, path, body, &another.text),
                None => Err(self.ended(&token, Instant::now()).unwrap_or(trouble)),
            },
            answer => answer,
        }
    }

    /// Whether it is there and unsealed; needs no token, and looks after the one there is.
    pub fn check(&self) -> Result<(), Trouble> {
        // A standby that forwards is as good as the active node.
        self.once(&Method::GET, "sys/health?standbyok=true&perfstandbyok=true", None, "")?;
        self.tend(Instant::now());
        Ok(())
    }

    pub(super) fn once(&self, method: &Method, path: &str, body: Option<&Zeroizing<String>>, token: &str) -> Result<Answer, Trouble> {
        let url = format!("{}/v1/{path}", self.settings.url.as_str().trim_end_matches('/'));
        let mut request = self.http.request(method.clone(), url).timeout(self.settings.call).header("X-Vault-Request", "true");
        if !token.is_empty() {
            request = request.header("X-Vault-Token", token);
        }
        if let Some(namespace) = &self.settings.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(body) = body {
            // Wiped when it was sent.
            let body = Bytes::from_owner(Zeroizing::new(body.as_bytes().to_vec()));
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let answered = self.runtime.block_on(async {
            let mut response = request.send().await?;
            let mut bytes = Zeroizing::new(Vec::new());
            while let Some(chunk) = response.chunk().await? {
                if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                    return Ok((response.status(), None));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok::<_, reqwest::Error>((response.status(), Some(bytes)))
        });
        let (status, bytes) = answered.map_err(|error| self.unreachable(&error))?;
        let bytes = bytes
            .ok_or_else(|| Trouble::new(TroubleKind::Failed, &self.place, format!("its answer is longer than {MAX_ANSWER_BYTES} bytes")))?;
        self.judge(status, bytes)
    }

    fn judge(&self, status: StatusCode, bytes: Zeroizing<Vec<u8>>) -> Result<Answer, Trouble> {
        if status == StatusCode::OK || status == StatusCode::NO_CONTENT {
            return Ok(Answer::Yes(bytes));
        }
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let errors = body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let said: String = errors.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ").chars().take(MAX_SAID).collect();
        let trouble =
            |kind, what: &str| Trouble::new(kind, &self.place, if said.is_empty() { what.to_owned() } else { format!("{what}: {said}") });
        match status.as_u16() {
            404 => Ok(Answer::NotFound),
            400 => Ok(Answer::Invalid(said)),
            403 => Err(trouble(TroubleKind::Refused, "it refused our token; see that the token lives and its policy allows this")),
            429 => Err(trouble(TroubleKind::Slow, "it is too busy")),
            // Sealed, or not initialised.
            501 | 503 => Err(trouble(TroubleKind::Locked, "it is sealed: unseal it")),
            status => Err(trouble(TroubleKind::Failed, &format!("it answered with status {status}"))),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Trouble {
        if error.is_timeout() {
            return Trouble::slow(&self.place, "an answer", self.settings.call);
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Trouble::new(TroubleKind::Gone, &self.place, format!("it cannot be reached: {cause}"))
    }
}

impl Answer {
    /// The `data` of a yes, null where there is none; otherwise what went wrong with `act`.
    pub fn data(self, client: &Client, act: &str) -> Result<Value, Trouble> {
        let bytes = self.yes(client, act)?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        let body = serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object);
        let other = || Trouble::new(TroubleKind::Failed, client.place(), format!("{act}: its answer is not that of its API"));
        Ok(body.ok_or_else(other)?["data"].take())
    }

    /// The whole body of a yes.
    pub fn yes(self, client: &Client, act: &str) -> Result<Zeroizing<Vec<u8>>, Trouble> {
        let failed = |what: &str| Err(Trouble::new(TroubleKind::Failed, client.place(), format!("{act}: {what}")));
        match self {
            Self::Yes(bytes) => Ok(bytes),
            Self::NotFound => failed("there is nothing at this path; is the engine mounted?"),
            Self::Invalid(said) => failed(&said),
        }
    }
}
