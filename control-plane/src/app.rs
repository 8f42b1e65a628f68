//! Wires the parts together, and owns start and shutdown.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actix_web::{App as WebApp, HttpServer, dev::Server, middleware::from_fn, web};
use rustls::server::ResolvesServerCert;
use schema::{
    clock::{Clock, Ids, new_id},
    id::{PrincipalId, RequestId, ServiceAccountId, TokenId},
    token::{Scope, Token, TokenKind},
};
use sea_orm::DbBackend;
use service::{
    config::ConfigError,
    files::{DirectoryLock, FileError, OWNER_ONLY, create_private_directory, read_secret_line, write_atomic},
    health::Readiness,
    listen::{ListenError, bind, bind_plain, keep_peer_certificates},
    log::{RequestIds, requests},
    metrics::Metrics,
    shutdown::{self, InFlight, counted},
    tls::{self, TlsError, certificate::ReloadingCertificate, development::DevelopmentCertificates},
};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{
    access::{
        authenticate::Authenticator,
        authorize::{CedarAuthorizer, InvalidPolicy},
        context::{DEPLOYMENT, OpContext},
        permit::Question,
    },
    agents::{
        Agent,
        enrolment::{DEFAULT_CERTIFICATE_LIFE, Enrolment, EnrolmentSettings, ListenerAuthority},
        report::Reports,
    },
    aliases::Alias,
    authorities::keeper::Keeper,
    backup::{make::Maker, restore::restored, schedule::Schedule},
    bundles::{
        demand::{self, Unreplicated},
        heartbeat::{Heartbeats, Named},
        reactor::StatementReactor,
        read::FactsReader,
        service::Statements,
    },
    callers::Caller,
    composites::Composite,
    config::{Config, RolesConfig},
    database::{Access, Database, Location, OpenError, is_damage},
    deployment,
    erasures::{Erasure, reactor::Erasing},
    eventing::{
        handler::{Handler, Options},
        kurrent::{KurrentSettings, KurrentStore, SealedLog},
        reactor::{Faults, Reactor, Reactors},
        sql::SqlStore,
        store::{Cursor, EventStore, ReadError},
        view::{Kinds, Projector, Views},
    },
    graphql::{self, api::Services},
    http::{
        agents::{self, AgentApi},
        graphql::Edge,
        rate::Rates,
        server::{self, Shared},
    },
    keys::{Key, upkeep::Upkeep},
    leases::{Budget, service::Leases},
    moving::{self, Standstill},
    pki::{
        issued::IssuedCertificate,
        listener::{self, AgentRoots},
    },
    policies::Policy,
    projects::Project,
    receipts::{ingest::Ingest, rows::ReceiptRows},
    relay::{rows::RelayRows, service::Relay},
    sealing::{Keyring, SealingError, Secrets, source::Sources, tombstones},
    sites::Site,
    tenants::Tenant,
    tokens::{ApiToken, ApiTokenCommand, MAX_LIFETIME, TokenState},
    waking,
};

const AGENT_WORKERS: usize = 2;
/// How long a connecting agent is given for its handshake and its first request: as long as agents wait for it themselves. When very
/// many come at once, on a start or after an outage, the last of them are served later and not cut off.
const AGENT_PATIENCE: Duration = Duration::from_secs(10);
/// A connection of an agent that is quiet for so long is asked whether anybody is there, and closed when nobody has answered after as
/// long again. Its long polls take longer than that by far.
const AGENT_KEEP_ALIVE: Duration = Duration::from_secs(30);
const MAX_WORKERS: usize = 8;

/// Why the control plane did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file could not be used, or another process has the data directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The database could not be opened.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The sealing key is missing or the wrong one.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// What was erased could not be told.
    #[error(transparent)]
    Erasures(#[from] tombstones::TombstoneError),
    /// The event store could not be read.
    #[error("opening the event store failed")]
    Store(#[from] ReadError),
    /// The server that keeps the records could not be asked.
    #[error("{told} failed; check that it runs, that the connection may be made (TLS, tlsCaFile) and that the user may read $all")]
    Kurrent {
        /// Which.
        told: String,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// What tenants were told would be lost with the server, and the root of one demands that it is not.
    #[error("{told}")]
    Unreplicated {
        /// What, and what to do.
        told: String,
    },
    /// The database is part of a move.
    #[error(transparent)]
    Moved(#[from] Standstill),
    /// The compiled-in policy is broken.
    #[error(transparent)]
    Policy(#[from] InvalidPolicy),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Something else failed.
    #[error("{act} failed")]
    Other {
        /// What was tried.
        act: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(act: &'static str) -> impl FnOnce(E) -> StartError {
    move |source| StartError::Other { act, source: source.into() }
}

/// The control plane.
pub struct App;

/// A control plane that runs. Dropping it does not stop it: call [`Running::stop`].
pub struct Running {
    graphql: SocketAddr,
    agents: SocketAddr,
    url: String,
    authority: Option<PathBuf>,
    operator_token: PathBuf,
    stopping: CancellationToken,
    serving: Vec<JoinHandle<io::Result<()>>>,
    working: CancellationToken,
    work: Vec<JoinHandle<()>>,
    store: Arc<dyn EventStore>,
    database: Database,
    _lock: DirectoryLock,
}

impl Running {
    /// Where GraphQL listens.
    pub fn graphql_address(&self) -> SocketAddr {
        self.graphql
    }

    /// Where agents are listened to.
    pub fn agents_address(&self) -> SocketAddr {
        self.agents
    }

    /// The URL of GraphQL.
    pub fn graphql_url(&self) -> &str {
        &self.url
    }

    /// The authority of the development certificate, PEM; none when settings name a certificate or plain HTTP.
    pub fn development_authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }

    /// The file with the operator token.
    pub fn operator_token_file(&self) -> &Path {
        &self.operator_token
    }

    /// Lets requests in flight finish, then everything else, then closes the database.
    pub async fn stop(self) {
        self.stopping.cancel();
        for server in self.serving {
            if let Ok(Err(error)) = server.await {
                tracing::error!(error = &error as &dyn std::error::Error, "a listener ended badly");
            }
        }
        self.working.cancel();
        for task in self.work {
            // A task that panicked has said so; the others are still to be waited for.
            let _ = task.await;
        }
        self.store.close().await;
        if let Err(error) = self.database.close().await {
            tracing::error!(error = &error as &dyn std::error::Error, "closing the database failed");
        }
        tracing::info!("stopped");
    }
}

/// What everything else is built on.
struct Ground {
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    database: Database,
    keyring: Arc<Keyring>,
    secrets: Secrets,
    store: Arc<dyn EventStore>,
    handler: Handler,
    views: Views,
    authorizer: Arc<CedarAuthorizer>,
    faults: Faults,
    /// The event store, when it is one of SQL: it is told of what other replicas commit.
    sql: Option<SqlStore>,
}

impl App {
    /// Starts everything, or nothing: the answer comes once requests are served.
    pub async fn start(config: Config, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Running, StartError> {
        config.check()?;
        tls::install_provider();
        create_private_directory(&config.data_dir)?;
        let lock = DirectoryLock::take(&config.data_dir)?;
        let (ground, projector) = ground(&config, clock, ids).await?;
        let graphql_socket = match config.server.plain_http {
            true => bind_plain(&config.server.listen, "server.listen")?,
            false => bind(&config.server.listen, "server.listen")?,
        };
        let agents_socket = bind(&config.agents.listen, "agents.listen")?;
        let graphql = graphql_socket.local_addr().map_err(failed("reading a listener's address"))?;
        let agents = agents_socket.local_addr().map_err(failed("reading a listener's address"))?;

        let stopping = CancellationToken::new();
        let working = CancellationToken::new();
        let mut work = vec![tokio::spawn(projector.run(working.clone())), tokio::spawn(ground.keyring.clone().watch(working.clone()))];
        work.push(tokio::spawn(tombstones::keep(ground.keyring.clone(), config.erasures_file(), working.clone())));
        let operator_token = config.operator_token_file();
        operator(&ground, &operator_token).await?;

        let listener = listener_authority(&config)?;
        let named = Named::default();
        let authorities = authorities(&ground, &listener, named.clone()).await?;
        let settings = EnrolmentSettings {
            public_url: match &config.agents.public_url {
                Some(url) => url.as_str().trim_end_matches('/').to_owned(),
                None => format!("https://{agents}"),
            },
            listener,
            certificate_life: DEFAULT_CERTIFICATE_LIFE,
        };
        let listener = AgentListener::new(&config, agents, &authorities, &ground)?;
        let parts = Parts::new(&ground, (authorities.clone(), named), settings);
        work.push(background(keep_authorities(authorities, listener.agents.clone(), parts.statements.clone()), &working));
        work.extend(parts.reactors(&ground, &working));
        let statements = parts.statements.clone();
        let woken = move |tenant, site| statements.wake(tenant, site);
        work.push(tokio::spawn(waking::listen(ground.database.clone(), ground.sql.clone(), woken, working.clone())));
        work.push(background(parts.statements.clone().watch_behind(), &working));
        let unreplicated = Unreplicated::default();
        if ground.database.backend() != DbBackend::Sqlite {
            work.push(background(unreplicated.clone().watch(ground.database.clone(), ground.handler.clone()), &working));
        }
        let metrics = Metrics::install().map_err(failed("installing metrics"))?;
        let backups = scheduled_backups(&config, &ground)?;
        let backups_told = backups.as_ref().map(Schedule::told).unwrap_or_default();
        work.extend(backups.map(|backups| background(backups.run(), &working)));
        work.push(background(metrics.clone().keep_folding(), &working));

        let request_ids = web::Data::new(RequestIds::new(ground.clock.clone(), ground.ids.clone()));
        let agent_api = web::Data::new(parts.agent_api(&ground, &config, listener.agents.clone(), &stopping));
        let in_flight = [InFlight::default(), InFlight::default()];
        let agent_server = listener
            .server(agents_socket, agent_api, request_ids.clone(), in_flight[1].clone(), &config)
            .map_err(failed("serving agents"))?;
        if let Some(issued) = listener.issued {
            work.push(background(issued.keep_fresh(ground.clock.clone(), ground.ids.clone()), &working));
        }

        let (tls, authority_file) = graphql_tls(&config, graphql, &*ground.clock)?;
        let statements = parts.statements.clone();
        let shared = Shared {
            edge: web::Data::new(parts.edge(&ground, &config)),
            readiness: web::Data::new(
                readiness(&ground, &statements, &stopping)
                    .note("backups", move || backups_told.note())
                    .note("ledger", move || unreplicated.note()),
            ),
            metrics: web::Data::new(metrics),
            request_ids,
            development: config.development,
        };
        let workers = config.server.workers.unwrap_or_else(default_workers).max(1);
        let drain_seconds = config.server.shutdown_timeout.0.as_secs();
        let graphql_server =
            server::server(graphql_socket, tls, workers, drain_seconds, in_flight[0].clone(), shared).map_err(failed("serving GraphQL"))?;
        let serving = [graphql_server, agent_server]
            .into_iter()
            .zip(in_flight)
            .map(|(server, in_flight)| tokio::spawn(shutdown::serve(server, in_flight, stopping.clone(), Duration::ZERO)))
            .collect();

        let scheme = if config.server.plain_http { "http" } else { "https" };
        let url = format!("{scheme}://{graphql}{}", crate::http::graphql::PATH);
        tracing::info!(%url, %agents, data_dir = %config.data_dir.display(), version = env!("CARGO_PKG_VERSION"), "serving");
        if let Some(authority) = &authority_file {
            tracing::info!(authority = %authority.display(), "using a development certificate; clients must be given its authority");
        }
        Ok(Running {
            graphql,
            agents,
            url,
            authority: authority_file,
            operator_token,
            stopping,
            serving,
            working,
            work,
            store: ground.store,
            database: ground.database,
            _lock: lock,
        })
    }
}

async fn ground(config: &Config, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<(Ground, Projector), StartError> {
    let place = location(config)?;
    let database = Database::open_with(&place, &access(config)?).await?;
    moving::refuse_standstill(&database).await?;
    let expected = Keyring::expected(&database).await.map_err(|error| damage_or(error, &place))?;
    let kurrent = kurrent_settings(config)?;
    if let (None, Some(settings)) = (&expected, &kurrent) {
        refuse_foreign_records(settings).await?;
    }
    let sources = Sources::new(config)?;
    let keyring = Arc::new(Keyring::open_from(database.clone(), sources, clock.clone(), ids.clone()).await?);
    let recorded = deployment::recorded(&database, &config.deployment).await.map_err(failed("reading the deployment's name"))?;
    if recorded != config.deployment {
        let problem = format!(
            "setting deployment: the database belongs to the deployment \"{recorded}\", not to \"{}\"; a deployment keeps its name: \
             set it back, or use another database",
            config.deployment
        );
        return Err(ConfigError::Invalid { problems: vec![problem] }.into());
    }
    tombstones::reconcile(&keyring, &config.erasures_file()).await?;
    if let Some(mark) = restored(&database).await.map_err(failed("asking whether the database was restored"))? {
        tracing::warn!(backup_of = %mark.created, restored = %mark.restored, "this store was restored from a backup: agents may know what happened since");
    }
    let secrets = Secrets::new(database.clone(), keyring.clone(), clock.clone());
    let (store, sql): (Arc<dyn EventStore>, _) = match kurrent {
        Some(settings) => {
            let unreachable = unreachable_kurrent(&settings);
            (Arc::new(KurrentStore::open(settings, database.clone(), keyring.clone()).await.map_err(unreachable)?), None)
        }
        None => {
            let sql = SqlStore::open(database.clone(), keyring.clone()).await.map_err(|error| damage_or(error, &place))?;
            (Arc::new(sql.clone()), Some(sql))
        }
    };
    let authorizer = Arc::new(CedarAuthorizer::new()?);
    let handler = Handler::new(store.clone(), keyring.clone(), authorizer.clone(), clock.clone(), ids.clone());
    refuse_unreplicated(&database, &handler).await?;
    let (views, projector) = Views::open(database.clone(), keyring.clone(), store.clone(), kinds());
    let views = views.scan_limit(config.limits.scan as usize);
    let faults = Faults::default();
    Ok((Ground { clock, ids, database, keyring, secrets, store, sql, handler, views, authorizer, faults }, projector))
}

/// A server that may forget what it acknowledged is none for who demands proofs of everything that happened.
async fn refuse_unreplicated(database: &Database, handler: &Handler) -> Result<(), StartError> {
    let act = "asking whether commits wait for a standby";
    let Some(problem) = database.unreplicated().await.map_err(failed(act))? else { return Ok(()) };
    match demand::demanding(handler).await.map_err(failed("asking whether a root demands a ledger"))? {
        Some(tenant) => Err(StartError::Unreplicated { told: demand::told(tenant, &problem) }),
        None => Ok(()),
    }
}

/// The keys that open records are in the SQL database: a new one beside records that are there is the wrong one.
async fn refuse_foreign_records(settings: &KurrentSettings) -> Result<(), StartError> {
    let head = SealedLog::new(settings.clone()).head().await.map_err(unreachable_kurrent(settings))?;
    if head == Cursor::START {
        return Ok(());
    }
    let problem = format!(
        "setting store.read_models: {settings:?}, holds records, and the database beside it is empty, which should hold their keys; name the \
         database that belongs to them, restore it, or begin anew under another store.namespace"
    );
    Err(ConfigError::Invalid { problems: vec![problem] }.into())
}

fn unreachable_kurrent(settings: &KurrentSettings) -> impl FnOnce(ReadError) -> StartError + use<> {
    let told = format!("reaching {settings:?} (store.url)");
    move |source| StartError::Kurrent { told, source }
}

/// Every aggregate with a read model.
pub(crate) fn kinds() -> Kinds {
    Kinds::new()
        .register::<Tenant>()
        .register::<Project>()
        .register::<Site>()
        .register::<Agent>()
        .register::<Caller>()
        .register::<Key>()
        .register::<Budget>()
        .register::<Alias>()
        .register::<Composite>()
        .register::<Policy>()
        .register::<ApiToken>()
        .register::<Erasure>()
}

/// What a damaged SQLite file is reported as, wherever reading found it.
fn damage_or<E: std::error::Error + Into<StartError> + Send + Sync + 'static>(error: E, place: &Location) -> StartError {
    match place {
        Location::Sqlite(path) if is_damage(&error) => OpenError::Damaged { path: path.clone(), source: Box::new(error) }.into(),
        _ => error.into(),
    }
}

/// The SQL database that settings name.
pub(crate) fn location(config: &Config) -> Result<Location, StartError> {
    let (url, password_file) = config.database_url();
    if let Some(path) = url.strip_prefix("sqlite://") {
        return Ok(Location::Sqlite(PathBuf::from(path)));
    }
    let setting = if config.store.kurrent_url().is_some() { "store.read_models" } else { "store.url" };
    let invalid = |what: &str| ConfigError::Invalid { problems: vec![format!("setting {setting}: {what}")] };
    let mut url: url::Url = url.parse().map_err(|_| invalid("expected postgres://user@host/database"))?;
    if url.password().is_some() {
        let file = if setting == "store.url" { "store.password_file" } else { "store.read_models_password_file" };
        return Err(invalid(&format!("a password does not belong here; put it into a file and name that in {file}")).into());
    }
    // Who migrates elsewhere does not have to leave the owner's password here.
    let owner = !config.store.roles.named() || config.store.roles.migrate;
    if let Some(password) = password(password_file.filter(|_| owner))? {
        url.set_password(Some(&password)).map_err(|()| invalid("expected postgres://user@host/database"))?;
    }
    Ok(Location::Postgres(url.into()))
}

/// The SQL database as who owns its tables, which the URL names, also where those who serve are roles: for what changes the
/// schema, or has to see every row.
pub(crate) fn owned(config: &Config) -> Result<(Location, Access), StartError> {
    let mut owning = config.clone();
    owning.store.roles = RolesConfig::default();
    Ok((location(&owning)?, Access { roles: None, synchronous_standby: config.store.synchronous_standby }))
}

/// How settings say that a PostgreSQL is used.
pub(crate) fn access(config: &Config) -> Result<Access, StartError> {
    Ok(Access { roles: config.store.roles.read()?, synchronous_standby: config.store.synchronous_standby })
}

/// The KurrentDB that settings name, when they do.
pub(crate) fn kurrent_settings(config: &Config) -> Result<Option<KurrentSettings>, StartError> {
    let Some(url) = config.store.kurrent_url() else { return Ok(None) };
    let password = password(config.store.password_file.as_deref())?;
    let settings = KurrentSettings::parse(url, password.as_ref().map(|password| password.as_str()), &config.store.namespace);
    let invalid = |error| ConfigError::Invalid { problems: vec![format!("setting store.url: {error}")] };
    Ok(Some(settings.map_err(invalid)?))
}

fn password(file: Option<&Path>) -> Result<Option<Zeroizing<String>>, StartError> {
    let Some(file) = file else { return Ok(None) };
    let bytes = read_secret_line(file)?;
    let text = std::str::from_utf8(&bytes);
    let text = text.map_err(|_| ConfigError::Invalid { problems: vec![format!("{}: a password is text", file.display())] })?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}

/// Makes the first operator token, or the next one when none is good any more: who may read the data directory may start
/// anew anyway.
async fn operator(ground: &Ground, file: &Path) -> Result<(), StartError> {
    let keys = ground.keyring.tenant(DEPLOYMENT).await?;
    let load = failed("looking for the operator token");
    let mut number = 1_u32;
    let id = loop {
        let id: TokenId = keys.derived_id("operator-token", &[&number.to_string()]);
        let loaded = match ground.handler.load::<ApiToken>(DEPLOYMENT, id).await {
            Ok(loaded) => loaded,
            Err(error) => return Err(load(error)),
        };
        match loaded.state.state(ground.clock.now()) {
            None => break id,
            Some(TokenState::Active) => return Ok(()),
            Some(_) => number += 1,
        }
    };
    let token = Token::generate(TokenKind::Api, &*ground.ids);
    let now = ground.clock.now();
    // The file first: a token that nobody has is worse than a file whose token never came to be.
    write_atomic(file, format!("{}\n", token.reveal()).as_bytes(), OWNER_ONLY)?;
    let ctx = OpContext {
        tenant: DEPLOYMENT,
        principal: PrincipalId::System("operator-setup"),
        scopes: Vec::new(),
        via: None,
        request: new_id::<RequestId>(&*ground.ids, now),
    };
    let name = "operator".parse().map_err(failed("naming the operator token"))?;
    let account = new_id::<ServiceAccountId>(&*ground.ids, now);
    let scopes = vec![Scope::Operator];
    let command = ApiTokenCommand::Issue {
        account,
        name,
        digest: token.digest(),
        scopes,
        expires: now.plus(MAX_LIFETIME),
        lifetime_seconds: None,
        holder: None,
    };
    let question = Question::new("issueFirstToken", "ApiToken", id);
    let issued = ground.handler.handle::<ApiToken>(&ctx, question, id, Options::default(), command).await;
    let issued = issued.map_err(failed("making the operator token"))?;
    ground.views.wait_for(issued.cursor, Duration::from_secs(10)).await.map_err(failed("making the operator token"))?;
    tracing::info!(file = %file.display(), "made an operator token; only its file holds it");
    Ok(())
}

/// The authorities that certify agents and the listener they call.
async fn authorities(ground: &Ground, listener: &ListenerAuthority, named: Named) -> Result<Keeper, StartError> {
    let beside = match listener {
        ListenerAuthority::Named(pem) => tls::certificates_from_pem(pem.as_bytes(), Path::new("agents.ca_file"))?,
        ListenerAuthority::Ours | ListenerAuthority::System => Vec::new(),
    };
    let beside = beside.into_iter().map(|der| der.to_vec()).collect();
    let (clock, ids) = (ground.clock.clone(), ground.ids.clone());
    let opened = Keeper::open(ground.handler.clone(), ground.secrets.clone(), (clock, ids), beside, named).await;
    opened.map_err(failed("opening the certificate authorities of agents"))
}

/// Rotates them in time. When others are believed than before, the listener goes by it, and every site is told.
async fn keep_authorities(authorities: Keeper, agents: Arc<AgentRoots>, statements: Statements) {
    let keeper = authorities.clone();
    let changed = || async {
        if let Err(error) = agents.replace(&authorities.current().pem) {
            tracing::error!(error = &error as &dyn std::error::Error, "the agents' listener cannot use the certificate authorities");
        }
        let sites = statements.sites_due(Duration::ZERO).await.unwrap_or_default();
        for (tenant, site) in sites {
            if let Err(error) = statements.beat(tenant, site).await {
                tracing::warn!(error = &error as &dyn std::error::Error, %site, "the site hears of other certificate authorities a minute later");
            }
        }
    };
    keeper.run(changed).await;
}

fn graphql_tls(
    config: &Config,
    address: SocketAddr,
    clock: &dyn Clock,
) -> Result<(Option<rustls::ServerConfig>, Option<PathBuf>), StartError> {
    if config.server.plain_http {
        return Ok((None, None));
    }
    let (certificate, authority) = match config.tls.files()? {
        Some((certificate, key)) => (ReloadingCertificate::open(certificate, key)?, None),
        None => {
            let files = DevelopmentCertificates::ensure(&config.data_dir.join("tls"), &names(&config.server.listen, address), clock.now())?;
            (ReloadingCertificate::open(&files.certificate, &files.key)?, Some(files.authority))
        }
    };
    Ok((Some(tls::server_config(Arc::new(certificate), None)?), authority))
}

/// Whom agents are told to believe.
fn listener_authority(config: &Config) -> Result<ListenerAuthority, StartError> {
    let Some(path) = &config.agents.ca_file else {
        let ours = config.agents.tls.files()?.is_none();
        return Ok(if ours { ListenerAuthority::Ours } else { ListenerAuthority::System });
    };
    tls::certificates_from_file(path)?;
    let pem = std::fs::read_to_string(path).map_err(|source| FileError::Io { act: "read", path: path.clone(), source })?;
    Ok(ListenerAuthority::Named(pem))
}

/// What the agents' listener may be called by.
fn listener_names(config: &Config, address: SocketAddr) -> Vec<String> {
    let mut names = names(&config.agents.listen, address);
    names.extend(config.agents.public_url.as_ref().and_then(|url| url.host_str()).map(|host| host.trim_matches(['[', ']']).to_owned()));
    names
}

/// What a listener may be called by.
fn names(listen: &str, address: SocketAddr) -> Vec<String> {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host).trim_matches(['[', ']']);
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for name in [host.to_owned(), address.ip().to_string()] {
        let anywhere = name == "0.0.0.0" || name == "::";
        if !anywhere && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(MAX_WORKERS)
}

fn background(task: impl Future<Output = ()> + Send + 'static, stop: &CancellationToken) -> JoinHandle<()> {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = task => {}
            () = stop.cancelled() => {}
        }
    })
}

/// Backups by the clock, where settings ask for them.
fn scheduled_backups(config: &Config, ground: &Ground) -> Result<Option<Schedule>, StartError> {
    let Some(calendar) = config.backup.calendar() else { return Ok(None) };
    let Ground { database, clock, ids, .. } = ground;
    let maker = Maker::new(config, database.clone(), clock.clone(), ids.clone()).map_err(failed("preparing scheduled backups"))?;
    let (backup, deployment) = (config.backup.clone(), config.deployment.clone());
    Ok(Some(Schedule::new(backup, calendar, deployment, maker, database.clone(), clock.clone())))
}

fn readiness(ground: &Ground, statements: &Statements, stopping: &CancellationToken) -> Readiness {
    let (store, views, ending, trouble, behind) =
        (ground.store.clone(), ground.views.clone(), statements.clone(), statements.clone(), statements.clone());
    let (faults, keyring, room) = (ground.faults.clone(), ground.keyring.clone(), ground.database.room().clone());
    let readiness = Readiness::new(stopping.clone())
        .note("reactors", move || faults.note())
        .note("statements", move || ending.ending().note())
        .note("held back", move || trouble.trouble().text())
        .note("recovery", move || behind.behind_note())
        .note("storage", move || room.note())
        .note("sealing", move || keyring.note());
    readiness.check_async("read model", move || {
        let (store, views) = (store.clone(), views.clone());
        async move {
            let head = store.head().await.map_err(|_| "the database does not answer".to_owned())?;
            match views.wait_for(head, Duration::from_secs(1)).await {
                Ok(true) => Ok(()),
                Ok(false) => Err("it has not caught up with the log".to_owned()),
                Err(_) => Err("the database does not answer".to_owned()),
            }
        }
    })
}

/// What both listeners and the reactors share.
struct Parts {
    statements: Statements,
    enrolment: Enrolment,
    reports: Reports,
    receipts: ReceiptRows,
    relay: RelayRows,
    heartbeats: Heartbeats,
    authorities: Keeper,
}

impl Parts {
    fn new(ground: &Ground, (authorities, named): (Keeper, Named), settings: EnrolmentSettings) -> Self {
        let Ground { clock, ids, database, keyring, secrets, store, handler, views, .. } = ground;
        let heartbeats = Heartbeats::new(database.clone()).naming(named);
        let facts = FactsReader::new(views.clone(), store.clone());
        let statements = Statements::new(handler.clone(), facts, secrets.clone(), heartbeats.clone(), clock.clone(), ids.clone());
        let enrolment =
            Enrolment::new(handler.clone(), views.clone(), statements.clone(), authorities.clone(), settings, clock.clone(), ids.clone());
        let reports = Reports::new(handler.clone(), database.clone(), keyring.clone(), clock.clone(), ids.clone());
        let receipts = ReceiptRows::new(database.clone(), keyring.clone());
        let relay = RelayRows::new(database.clone(), keyring.clone());
        Self { statements, enrolment, reports, receipts, relay, heartbeats, authorities }
    }

    fn reactors(&self, ground: &Ground, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let statements = StatementReactor::new(self.statements.clone(), ground.views.clone(), ground.store.clone());
        let (clock, ids) = (ground.clock.clone(), ground.ids.clone());
        let upkeep = Upkeep::new(ground.handler.clone(), ground.views.clone(), self.heartbeats.clone(), self.reports.clone(), (clock, ids));
        let erasing = Erasing::new(ground.keyring.clone());
        let all: [Arc<dyn Reactor>; 3] = [Arc::new(statements), Arc::new(upkeep), Arc::new(erasing)];
        let run = |reactor| {
            let reactors = Reactors::new(ground.database.clone(), ground.store.clone(), ground.clock.clone(), &*ground.ids);
            tokio::spawn(reactors.telling(ground.faults.clone()).run(reactor, stop.clone()))
        };
        all.into_iter().map(run).collect()
    }

    fn agent_api(&self, ground: &Ground, config: &Config, roots: Arc<AgentRoots>, stopping: &CancellationToken) -> AgentApi {
        let Ground { handler, clock, ids, .. } = ground;
        let parts = agents::Parts {
            handler: handler.clone(),
            statements: self.statements.clone(),
            enrolment: self.enrolment.clone(),
            reports: self.reports.clone(),
            leases: Leases::new(handler.clone(), self.statements.clone(), clock.clone(), ids.clone()),
            relay: Relay::new(handler.clone(), ground.views.clone(), self.relay.clone(), clock.clone(), ids.clone()),
            ingest: Ingest::new(handler.clone(), self.receipts.clone(), clock.clone(), ids.clone()),
            roots,
            enrolments_per_minute: config.limits.enrolments_per_minute,
        };
        AgentApi::new(parts, (clock.clone(), ids.clone()), stopping.clone())
    }

    fn edge(self, ground: &Ground, config: &Config) -> Edge {
        let services = Services {
            handler: ground.handler.clone(),
            views: ground.views.clone(),
            authorizer: ground.authorizer.clone(),
            clock: ground.clock.clone(),
            ids: ground.ids.clone(),
            read_your_writes: config.limits.read_your_writes.0,
            scan_limit: config.limits.scan as usize,
            statements: self.statements,
            enrolment: self.enrolment,
            authorities: self.authorities,
            reports: self.reports,
            receipts: self.receipts,
        };
        Edge {
            schema: graphql::schema(),
            services: Arc::new(services),
            authenticator: Authenticator::new(ground.views.clone(), ground.clock.clone()),
            rates: Rates::new(&config.limits),
            max_body_bytes: usize::try_from(config.limits.body.0).unwrap_or(usize::MAX),
            timeout: config.limits.request_timeout.0,
            followers: Arc::new(Semaphore::new(config.limits.followers as usize)),
            runtime: tokio::runtime::Handle::current(),
        }
    }
}

/// The agents' listener and its own certificate.
struct AgentListener {
    tls: rustls::ServerConfig,
    /// Whose certificates of agents it takes.
    agents: Arc<AgentRoots>,
    /// What makes the next certificate; none when settings name files.
    issued: Option<IssuedCertificate>,
}

impl AgentListener {
    fn new(config: &Config, address: SocketAddr, authorities: &Keeper, ground: &Ground) -> Result<Self, StartError> {
        let agents = AgentRoots::new(&authorities.current().pem, listener::RENEWAL_WINDOW);
        let agents = agents.map_err(failed("setting up TLS of the agent listener"))?;
        let (certificate, issued): (Arc<dyn ResolvesServerCert>, _) = match config.agents.tls.files()? {
            Some((certificate, key)) => (Arc::new(ReloadingCertificate::open(certificate, key)?), None),
            None => {
                let issued = IssuedCertificate::new(listener_names(config, address), authorities.clone(), &*ground.clock, &*ground.ids)
                    .map_err(failed("making the agent listener's certificate"))?;
                (issued.current(), Some(issued))
            }
        };
        let tls = listener::server_config(certificate, agents.clone(), ground.clock.clone())
            .map_err(failed("setting up TLS of the agent listener"))?;
        Ok(Self { tls, agents, issued })
    }

    fn server(
        &self,
        socket: std::net::TcpListener,
        api: web::Data<AgentApi>,
        request_ids: web::Data<RequestIds>,
        in_flight: InFlight,
        config: &Config,
    ) -> io::Result<Server> {
        let server = HttpServer::new(move || {
            WebApp::new()
                .app_data(api.clone())
                .app_data(request_ids.clone())
                .app_data(web::Data::new(in_flight.clone()))
                .wrap(from_fn(counted))
                .wrap(from_fn(requests))
                .configure(agents::routes)
        });
        let server = server
            .on_connect(keep_peer_certificates)
            .workers(AGENT_WORKERS)
            .tls_handshake_timeout(AGENT_PATIENCE)
            .client_request_timeout(AGENT_PATIENCE)
            .keep_alive(AGENT_KEEP_ALIVE)
            .disable_signals()
            .shutdown_timeout(config.server.shutdown_timeout.0.as_secs())
            .listen_rustls_0_23(socket, self.tls.clone())?;
        Ok(server.run())
    }
}
