//! A server for tests that keeps to the published API of Vault and OpenBao as far as the remote vault uses it: KV version 2,
//! transit with AES-256-GCM, health; tokens that end and are renewed, roles that log in ([`roles`]); sealing, and slowness on
//! demand. It is written from the documentation, not from the servers: what only a real one can show is tested where one is named (`docs/remote-vault.md`).

mod roles;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::ServerHandle,
    http::{Method, StatusCode},
    web,
};
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

pub use roles::APP_ROLE_MOUNT;

/// Where the engines are mounted, as in a server's development mode.
pub const KV_MOUNT: &str = "secret";
/// The transit engine.
pub const TRANSIT_MOUNT: &str = "transit";

/// How long a token lives, and whether that can be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lease {
    /// From its making, or the last renewal; none: it has no end.
    pub ttl: Option<Duration>,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// The longest it may live in all; none: for ever.
    pub max: Option<Duration>,
    /// Whether its policy forbids it to look itself up and renew itself.
    pub hidden: bool,
}

struct Token {
    lease: Lease,
    made: Instant,
    end: Option<Instant>,
}

impl Token {
    fn new(lease: Lease) -> Self {
        let made = Instant::now();
        let mut token = Self { lease, made, end: None };
        token.extend(made);
        token
    }

    fn extend(&mut self, now: Instant) {
        let latest = self.lease.max.map(|max| self.made + max);
        self.end = self.lease.ttl.map(|ttl| latest.map_or(now + ttl, |latest| latest.min(now + ttl)));
    }

    fn lives(&self, now: Instant) -> bool {
        self.end.is_none_or(|end| now < end)
    }

    /// Whole seconds, as the servers say it.
    fn left(&self, now: Instant) -> u64 {
        self.end.map_or(0, |end| end.saturating_duration_since(now).as_secs())
    }
}

#[derive(Default)]
struct Content {
    tokens: BTreeMap<String, Token>,
    roles: roles::Roles,
    /// Entries with how often each was written; a soft-deleted one has no data.
    entries: BTreeMap<String, (u64, Option<Value>)>,
    keys: BTreeMap<String, [u8; 32]>,
    sealed: bool,
    delay: Duration,
    /// Requests that were answered, by what they asked for.
    asked: Vec<String>,
}

/// A server on a free loopback port. Stopped when dropped.
pub struct VaultServer {
    content: Arc<Mutex<Content>>,
    port: u16,
    handle: ServerHandle,
    _thread: std::thread::JoinHandle<()>,
}

impl VaultServer {
    /// Starts an empty server that lets this token in.
    pub fn start(token: &str) -> std::io::Result<Self> {
        let content = Content { tokens: [(token.to_owned(), Token::new(Lease::default()))].into(), ..Content::default() };
        Self::serve(Arc::new(Mutex::new(content)), 0)
    }

    fn serve(content: Arc<Mutex<Content>>, port: u16) -> std::io::Result<Self> {
        let shared = content.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let started = HttpServer::new(move || {
                App::new()
                    .app_data(web::Data::from(shared.clone()))
                    .app_data(web::PayloadConfig::new(1 << 20))
                    .default_service(web::to(answer))
            })
            .workers(2)
            .disable_signals()
            .shutdown_timeout(0)
            .bind(("127.0.0.1", port));
            match started {
                Ok(server) => {
                    let port = server.addrs().first().map(std::net::SocketAddr::port).unwrap_or_default();
                    let running = actix_web::rt::System::new().block_on(async move {
                        let server = server.run();
                        let _ = sender.send(Ok((port, server.handle())));
                        server.await
                    });
                    drop(running);
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        });
        let gone = |_| std::io::Error::other("the server's thread ended");
        let (port, handle) = receiver.recv().map_err(gone)??;
        Ok(Self { content, port, handle, _thread: thread })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Seals or unseals it.
    pub fn set_sealed(&self, sealed: bool) {
        self.content().sealed = sealed;
    }

    /// Every answer takes so long.
    pub fn set_delay(&self, delay: Duration) {
        self.content().delay = delay;
    }

    /// From now on only this token is let in.
    pub fn set_token(&self, token: &str) {
        self.set_lease(token, Lease::default());
    }

    /// From now on only this token is let in, and it lives like this.
    pub fn set_lease(&self, token: &str, lease: Lease) {
        self.content().tokens = [(token.to_owned(), Token::new(lease))].into();
    }

    /// Forgets a transit key.
    pub fn forget_key(&self, name: &str) {
        self.content().keys.remove(name);
    }

    /// Everything that is kept in the KV engine, as text.
    pub fn everything(&self) -> String {
        format!("{:?}", self.content().entries)
    }

    /// Changes what an entry holds.
    pub fn change(&self, path: &str, record: &[u8]) {
        if let Some((_, Some(data))) = self.content().entries.get_mut(path) {
            *data = json!({ "record": STANDARD.encode(record) });
        }
    }

    /// Puts an entry there, as a restored copy of the server's storage would have it.
    pub fn put(&self, path: &str, record: &[u8]) {
        self.content().entries.insert(path.to_owned(), (1, Some(json!({ "record": STANDARD.encode(record) }))));
    }

    /// What an entry holds.
    pub fn record(&self, path: &str) -> Option<Vec<u8>> {
        let content = self.content();
        let (_, data) = content.entries.get(path)?;
        STANDARD.decode(data.as_ref()?["record"].as_str()?).ok()
    }

    /// What was asked of it since this was last called: method and path.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.content().asked)
    }

    /// Goes away, with everything it keeps, and gives what can bring it back on the same port.
    pub fn go_away(self) -> Gone {
        let gone = Gone { content: self.content.clone(), port: self.port };
        drop(self);
        // The listener ends a moment after it is told to.
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", gone.port)).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        gone
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for VaultServer {
    fn drop(&mut self) {
        // Asks; the thread ends by itself.
        drop(self.handle.stop(false));
    }
}

/// A server that went away.
pub struct Gone {
    content: Arc<Mutex<Content>>,
    port: u16,
}

impl Gone {
    /// The same server again, at the same address.
    pub fn come_back(self) -> std::io::Result<VaultServer> {
        // The port is free a moment after the listener is told to go.
        for _ in 0..100 {
            match VaultServer::serve(self.content.clone(), self.port) {
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => std::thread::sleep(Duration::from_millis(50)),
                started => return started,
            }
        }
        VaultServer::serve(self.content, self.port)
    }
}

async fn answer(request: HttpRequest, body: web::Bytes, content: web::Data<Mutex<Content>>) -> HttpResponse {
    let lock = || content.lock().unwrap_or_else(PoisonError::into_inner);
    let delay = lock().delay;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut content = lock();
    content.asked.push(format!("{} {}", request.method(), request.path()));
    let path = request.path().strip_prefix("/v1/").unwrap_or_default();
    if path == "sys/health" {
        let status = if content.sealed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        return HttpResponse::build(status).json(json!({ "initialized": true, "sealed": content.sealed, "standby": false }));
    }
    if content.sealed {
        return errors(503, &["Vault is sealed"]);
    }
    let token = request.headers().get("X-Vault-Token").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let now = Instant::now();
    content.tokens.retain(|_, token| token.lives(now));
    let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap_or_default() };
    if let Some(answer) = roles::answer(&mut content, request.method(), path, token, &body, now) {
        return answer;
    }
    let Some(ours) = content.tokens.get_mut(token) else { return errors(403, &["permission denied"]) };
    if let Some(act) = path.strip_prefix("auth/token/") {
        return about_itself(ours, request.method(), act, now);
    }
    let parts: Vec<&str> = path.splitn(3, '/').collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, [KV_MOUNT, "metadata", prefix]) if request.query_string() == "list=true" => list(&content, prefix),
        (&Method::GET, [KV_MOUNT, "data", name]) => read(&content, name),
        (&Method::POST, [KV_MOUNT, "data", name]) => write(&mut content, name, &body),
        (&Method::DELETE, [KV_MOUNT, "metadata", name]) => {
            content.entries.remove(*name);
            HttpResponse::NoContent().finish()
        }
        (&Method::GET, [TRANSIT_MOUNT, "keys", name]) => match content.keys.get(*name) {
            Some(_) => HttpResponse::Ok().json(json!({ "data": { "name": name, "type": "aes256-gcm96", "exportable": false } })),
            None => errors(404, &[]),
        },
        (&Method::POST, [TRANSIT_MOUNT, "keys", name]) => {
            let mut key = [0; 32];
            if aws_lc_rs::rand::fill(&mut key).is_err() {
                return errors(500, &["no randomness"]);
            }
            content.keys.entry((*name).to_owned()).or_insert(key);
            HttpResponse::NoContent().finish()
        }
        (&Method::POST, [TRANSIT_MOUNT, "encrypt", name]) => transit(&content, name, &body, encrypt),
        (&Method::POST, [TRANSIT_MOUNT, "decrypt", name]) => transit(&content, name, &body, decrypt),
        _ => errors(404, &["no handler for route"]),
    }
}

/// What a token may ask about itself.
fn about_itself(token: &mut Token, method: &Method, act: &str, now: Instant) -> HttpResponse {
    match (method, act) {
        _ if token.lease.hidden => errors(403, &["permission denied"]),
        (&Method::GET, "lookup-self") => {
            let created = token.lease.ttl.unwrap_or_default().as_secs();
            // The servers say when; readers here only ask whether.
            let expires = token.end.map(|_| "2030-01-01T00:00:00Z");
            HttpResponse::Ok().json(json!({ "auth": null, "data": {
                "ttl": token.left(now), "creation_ttl": created, "expire_time": expires, "renewable": token.lease.renewable, "num_uses": 0,
            } }))
        }
        (&Method::POST, "renew-self") if !token.lease.renewable => errors(400, &["lease is not renewable"]),
        (&Method::POST, "renew-self") => {
            token.extend(now);
            HttpResponse::Ok().json(json!({ "data": null, "auth": {
                "lease_duration": token.left(now), "renewable": true, "token_type": "service",
            } }))
        }
        _ => errors(404, &["no handler for route"]),
    }
}

fn errors(status: u16, errors: &[&str]) -> HttpResponse {
    HttpResponse::build(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)).json(json!({ "errors": errors }))
}

fn list(content: &Content, prefix: &str) -> HttpResponse {
    let below = format!("{}/", prefix.trim_end_matches('/'));
    let names = content.entries.keys().filter_map(|path| path.strip_prefix(&below));
    let mut keys: Vec<String> =
        names.map(|name| name.split_once('/').map_or(name.to_owned(), |(folder, _)| format!("{folder}/"))).collect();
    keys.dedup();
    if keys.is_empty() { errors(404, &[]) } else { HttpResponse::Ok().json(json!({ "data": { "keys": keys } })) }
}

fn read(content: &Content, name: &str) -> HttpResponse {
    match content.entries.get(name) {
        Some((version, Some(data))) => HttpResponse::Ok().json(json!({ "data": { "data": data, "metadata": { "version": version } } })),
        Some((version, None)) => HttpResponse::NotFound().json(json!({ "data": { "data": null, "metadata": { "version": version } } })),
        None => errors(404, &[]),
    }
}

fn write(content: &mut Content, name: &str, body: &Value) -> HttpResponse {
    let Some(data) = body.get("data").filter(|data| data.is_object()) else { return errors(400, &["no data provided"]) };
    let version = content.entries.get(name).map_or(0, |(version, _)| *version);
    if body["options"]["cas"].as_u64().is_some_and(|expected| expected != version) {
        return errors(400, &["check-and-set parameter did not match the current version"]);
    }
    content.entries.insert(name.to_owned(), (version + 1, Some(data.clone())));
    HttpResponse::Ok().json(json!({ "data": { "version": version + 1 } }))
}

fn transit(content: &Content, name: &str, body: &Value, act: fn(&RandomizedNonceKey, &Value, Vec<u8>) -> Option<Value>) -> HttpResponse {
    let Some(key) = content.keys.get(name).and_then(|key| RandomizedNonceKey::new(&AES_256_GCM, key).ok()) else {
        return errors(400, &["encryption key not found"]);
    };
    let Some(associated) = body["associated_data"].as_str().map_or(Some(Vec::new()), |text| STANDARD.decode(text).ok()) else {
        return errors(400, &["failed to decode associated_data"]);
    };
    match act(&key, body, associated) {
        Some(data) => HttpResponse::Ok().json(json!({ "data": data })),
        None => errors(400, &["cipher: message authentication failed"]),
    }
}

fn encrypt(key: &RandomizedNonceKey, body: &Value, associated: Vec<u8>) -> Option<Value> {
    let mut data = STANDARD.decode(body["plaintext"].as_str()?).ok()?;
    let nonce = key.seal_in_place_append_tag(Aad::from(associated), &mut data).ok()?;
    let whole = [nonce.as_ref().as_slice(), &data].concat();
    Some(json!({ "ciphertext": format!("vault:v1:{}", STANDARD.encode(whole)), "key_version": 1 }))
}

fn decrypt(key: &RandomizedNonceKey, body: &Value, associated: Vec<u8>) -> Option<Value> {
    let whole = STANDARD.decode(body["ciphertext"].as_str()?.strip_prefix("vault:v1:")?).ok()?;
    let (nonce, data) = whole.split_first_chunk::<12>()?;
    let mut data = data.to_vec();
    let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(associated), &mut data).ok()?;
    Some(json!({ "plaintext": STANDARD.encode(opened) }))
}
