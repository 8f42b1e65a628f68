//! Puts the parts together; owns start and shutdown.

mod health;
mod vault;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use actix_web::web;
use rustls_pki_types::CertificateDer;
use schema::{
    clock::{Clock, Ids},
    wire::operation::Freshness,
};
use service::{
    files::{DirectoryLock, FileError, create_private_directory},
    health::Readiness,
    log::RequestIds,
    metrics::Metrics,
    shutdown,
    tls::{TlsError, client_roots::ClientRoots},
};
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use trust::accept::AcceptedSet;

use crate::{
    algorithm,
    budgets::{Budgets, LedgerError},
    config::Config,
    control::{
        certificate::CertificateAdvice,
        client::ClientError,
        contexts::ContextKeys,
        directory::{ControlDirectory, KeepError},
        time::{AgentClock, SystemBootClock},
        vouch,
    },
    findings::Findings,
    host::{self, Acts},
    journal::{
        Journal,
        durable::DurableJournal,
        segment::{Disk, SystemDisk},
    },
    limits::Limits,
    local::LocalToken,
    lock::{self, Locked},
    material::import_keys::ImportKeys,
    membership::{ControlParts, Membership},
    operation::Pipeline,
    policy::{
        current::Current,
        decide::freshness,
        in_force::{Believed, InForce},
        slice::UnusablePolicy,
    },
    recovery::{
        backups::Backups,
        schedule::{BackupHealth, Schedule},
    },
    rest::{
        Shared,
        caller::Callers,
        server::{self, Parts, ServerError, Serving},
        status::About,
        stream::spool::Spool,
        tokens::{Tokens, TokensError},
    },
    selftest::{SelfTests, Serve},
    vault::{Vault, VaultError},
};

pub use self::{
    health::VaultHealth,
    vault::{open_vault, unlock},
};

/// Why an agent does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is locked.
    #[error("this agent is locked since {}: unlock it with the vault's secret (freehold-agent unlock)", .0.at)]
    Locked(Locked),
    /// The vault.
    #[error("the vault cannot be opened")]
    Vault(#[from] VaultError),
    /// The journal.
    #[error("the journal cannot be opened")]
    Journal(#[from] crate::journal::recover::OpenError),
    /// The tokens of callers.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The listeners.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// What is kept of the control plane.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The budgets.
    #[error(transparent)]
    Budgets(#[from] LedgerError),
    /// The connection to the control plane.
    #[error("the control plane cannot be called")]
    Client(#[from] ClientError),
    /// Metrics.
    #[error("metrics cannot be recorded")]
    Metrics(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A part ended for no reason of its own.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
    /// The server failed.
    #[error("the listener failed")]
    Serve(#[source] io::Error),
}

/// How long conversations with the control plane may take to end.
const FAREWELL_LIMIT: Duration = Duration::from_secs(8);

/// An agent: everything from settings to listeners.
pub struct App;

impl App {
    /// Starts an agent. Listeners are open and served when this returns.
    pub async fn start(config: Config, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Running, AppError> {
        Self::start_on(Arc::new(SystemDisk), algorithm::serve, config, clock, ids).await
    }

    /// The same, but the journal is on this disk, and these implementations of algorithms are the ones that are tested.
    pub async fn start_on(
        disk: Arc<dyn Disk>,
        serve: Serve,
        config: Config,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Running, AppError> {
        service::tls::install_provider();
        create_private_directory(&config.data_dir)?;
        let lock = DirectoryLock::take(&config.data_dir)?;
        if let Some(locked) = lock::state(&config.data_dir) {
            return Err(AppError::Locked(locked));
        }
        let metrics = Metrics::install().map_err(|error| AppError::Metrics(Box::new(error)))?;

        let tests = SelfTests::new(serve, clock.clone(), ids.clone());
        let running = tests.clone();
        tokio::task::spawn_blocking(move || running.run()).await.map_err(|_| AppError::Ended("the round of self-tests"))?;
        let vault = open_vault(&config, ids.clone()).await?;
        let vault_health = Arc::new(VaultHealth::default());
        let journal = Arc::new(DurableJournal::open_on(disk, &config.journal_directory(), &config.journal, clock.clone(), &*ids)?);
        host::record_noted(&config.data_dir, &*journal).await;

        let directory = ControlDirectory::open(&config.data_dir)?;
        let membership = Membership::load(&directory, &*vault).await?;
        let agent_clock = AgentClock::new(clock.clone(), Box::new(SystemBootClock::new(&*ids)), directory.time()?.as_ref());
        let identity = membership.as_ref().map(Membership::identity);
        let context_keys = Arc::new(ContextKeys::open(&directory, identity, vault.clone()).await?);
        context_keys.tend(&*ids, agent_clock.now()).await?;
        let budgets = Arc::new(Budgets::open(directory.budgets_file(), agent_clock.clone())?);
        let current = Arc::new(Current::default());
        let client_roots = Arc::new(ClientRoots::optional());
        let stopping = CancellationToken::new();
        let pipeline = Pipeline {
            current: current.clone(),
            journal: journal.clone(),
            time: agent_clock.clone(),
            tests: tests.clone(),
            limits: Limits::new(config.limits.requests_per_second, config.limits.unproved_per_second),
            context_keys: context_keys.clone(),
            budgets: budgets.clone(),
        };
        let to_report = Arc::new(Notify::new());
        let (rung, findings) = (to_report.clone(), Arc::new(Findings::new(clock.clone(), to_report.clone())));
        let tokens = Tokens::open(config.callers_file())?;
        let backups = membership.as_ref().map(|member| {
            Arc::new(Backups {
                directory: config.backup.directory.clone(),
                vault: vault.clone(),
                current: current.clone(),
                identity: member.identity().clone(),
                pair: member.pair(),
                clock: clock.clone(),
                ids: ids.clone(),
                acts: Acts::Journal(journal.clone()),
                writing: tokio::sync::Mutex::default(),
            })
        });
        let shared = web::Data::new(Shared {
            pipeline,
            callers: Callers::new(current.clone(), tokens, clock.clone()),
            vault: vault.clone(),
            import_keys: ImportKeys::new(config.data_dir.join("import-keys.json"), vault.clone(), ids.clone()),
            to_report: to_report.clone(),
            ids: ids.clone(),
            about: About {
                identity: membership.as_ref().map(|member| (member.identity().agent, member.identity().site, member.identity().tenant)),
                vault: vault.description().kind.to_owned(),
                vault_health: vault_health.clone(),
            },
            local: LocalToken::make(&config.data_dir, &*ids)?,
            backups: backups.clone(),
            stream_limit: config.limits.stream.map(|size| size.0),
            spool: Arc::new(Spool::new(config.data_dir.join("spool"), config.limits.spool.map(|size| size.0))),
        });
        let in_flight = shutdown::InFlight::default();
        let advice = Arc::new(CertificateAdvice::default());
        let certificate = advice.clone();
        let vault_state = (vault_health.clone(), vault.description().needed_for_use);
        let ready = readiness(stopping.clone(), current.clone(), agent_clock.clone(), journal.clone(), tests.clone(), vault_state);
        let noted = findings.clone();
        let backup_health = Arc::new(BackupHealth::default());
        let backed_up = backup_health.clone();
        let ready = ready
            .note("certificate", move || certificate.current())
            .note("findings", move || noted.note())
            .note("backups", move || backed_up.note());
        let parts = Parts {
            serving: Serving::Everything(shared),
            readiness: web::Data::new(ready),
            metrics: web::Data::new(metrics.clone()),
            request_ids: web::Data::new(RequestIds::new(clock.clone(), ids.clone())),
            client_roots: client_roots.clone(),
            in_flight: in_flight.clone(),
        };
        let (server, address) = server::bind(&config, parts, clock.now())?;
        let mut conversations = JoinSet::new();
        match membership.zip(backups) {
            Some((membership, backups)) => {
                let schedule = Schedule::new(&config.backup, backups.clone(), clock.clone(), findings.clone(), backup_health);
                if let Some(schedule) = schedule {
                    conversations.spawn(schedule.run(stopping.clone()));
                }
                let parts = ControlParts {
                    config: &config,
                    directory,
                    current: current.clone(),
                    client_roots: client_roots.clone(),
                    vault: vault.clone(),
                    journal: journal.clone(),
                    budgets,
                    agent_clock: agent_clock.clone(),
                    clock,
                    ids,
                    tests: tests.clone(),
                    backups,
                    advice,
                    to_report,
                    findings: findings.clone(),
                    context_keys,
                };
                membership.join(parts, &mut conversations, &stopping)?;
            }
            None => tracing::warn!("this agent has not enrolled: run freehold-agent enrol, then start it again"),
        }
        let server = tokio::spawn(shutdown::serve(server, in_flight, stopping.clone(), config.server.shutdown_notice.0));
        let mut measuring = JoinSet::new();
        measuring.spawn(metrics.keep_folding());
        measuring.spawn(measure(current.clone(), agent_clock, journal.clone()));
        measuring.spawn(vault_health.watch(vault.clone(), findings));
        measuring.spawn(vouch::ring(ControlDirectory::open(&config.data_dir)?, rung));
        tracing::info!(%address, plain_http = config.server.plain_http, vault = %vault.description().place, "the agent serves");
        Ok(Running { address, config, current, client_roots, vault, journal, stopping, server, conversations, measuring, _lock: lock })
    }
}

/// Serves a refusal to everything, with no key in memory, until the lock is gone (true) or `asked` is cancelled (false).
pub async fn run_locked(
    config: &Config,
    locked: Locked,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    asked: &CancellationToken,
) -> Result<bool, AppError> {
    service::tls::install_provider();
    // Whoever sets the lock looks for a moment whether an agent is there.
    let mut attempts = 0;
    let _directory = loop {
        match DirectoryLock::take(&config.data_dir) {
            Ok(lock) => break lock,
            Err(FileError::Locked { .. }) if attempts < 40 => attempts += 1,
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let metrics = Metrics::install().map_err(|error| AppError::Metrics(Box::new(error)))?;
    let stopping = asked.child_token();
    let detail = lock::problem(&locked).detail;
    let in_flight = shutdown::InFlight::default();
    let parts = Parts {
        serving: Serving::Nothing(web::Data::new(locked.clone())),
        readiness: web::Data::new(Readiness::new(stopping.clone()).check("locked", move || Err(detail.clone()))),
        metrics: web::Data::new(metrics),
        request_ids: web::Data::new(RequestIds::new(clock.clone(), ids.clone())),
        client_roots: Arc::new(ClientRoots::optional()),
        in_flight: in_flight.clone(),
    };
    let (server, address) = server::bind(config, parts, clock.now())?;
    let server = tokio::spawn(shutdown::serve(server, in_flight, stopping.clone(), Duration::ZERO));
    lock::obey(&config.data_dir, &locked)?;
    record_lock(config, clock, &*ids).await;
    tracing::warn!(%address, since = %locked.at, "the agent is LOCKED: it holds no key and refuses everything until freehold-agent unlock");
    let unlocked = tokio::select! {
        () = asked.cancelled() => false,
        () = lock::lifted(config.data_dir.clone()) => true,
    };
    stopping.cancel();
    server.await.map_err(|_| AppError::Ended("the listener"))?.map_err(AppError::Serve)?;
    Ok(unlocked)
}

/// That it is locked stands in the journal; where it cannot be written, it is locked all the same.
async fn record_lock(config: &Config, clock: Arc<dyn Clock>, ids: &dyn Ids) {
    match DurableJournal::open(&config.journal_directory(), &config.journal, clock, ids) {
        Ok(journal) => {
            host::record_noted(&config.data_dir, &journal).await;
            journal.close();
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the journal cannot be opened: that the agent is locked does not stand there yet"
            )
        }
    }
}

/// An agent that runs. Dropped without [`Running::stop`] it ends without draining.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its settings.
    pub config: Config,
    current: Arc<Current>,
    client_roots: Arc<ClientRoots>,
    vault: Arc<dyn Vault>,
    journal: Arc<DurableJournal>,
    stopping: CancellationToken,
    server: JoinHandle<io::Result<()>>,
    conversations: JoinSet<()>,
    measuring: JoinSet<()>,
    _lock: DirectoryLock,
}

impl Running {
    /// The set in force.
    pub fn current(&self) -> &Arc<Current> {
        &self.current
    }

    /// The vault.
    pub fn vault(&self) -> &Arc<dyn Vault> {
        &self.vault
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<DurableJournal> {
        &self.journal
    }

    /// Puts an accepted set in force: the next request is decided by it, whole.
    pub fn put_in_force(&self, set: &AcceptedSet) -> Result<Arc<InForce>, UnusablePolicy> {
        put_in_force(&self.current, &self.client_roots, set)
    }

    /// The authority of the development certificate, PEM; none when the agent has its own certificate or speaks plain HTTP.
    pub fn development_authority(&self) -> Option<PathBuf> {
        let path = self.config.tls_directory().join("authority.pem");
        (!self.config.server.plain_http && self.config.server.tls.certificate_file.is_none() && path.exists()).then_some(path)
    }

    /// Stops: requests in flight finish, then the journal is closed.
    pub async fn stop(self) -> Result<(), AppError> {
        self.stopping.cancel();
        self.finished().await
    }

    /// Runs until `asked` is cancelled, then stops.
    pub async fn stop_when(self, asked: CancellationToken) -> Result<(), AppError> {
        let stopping = self.stopping.clone();
        let follow = tokio::spawn(async move {
            asked.cancelled().await;
            stopping.cancel();
        });
        let finished = self.finished().await;
        follow.abort();
        finished
    }

    async fn finished(mut self) -> Result<(), AppError> {
        let served = (&mut self.server).await;
        self.stopping.cancel();
        self.measuring.shutdown().await;
        // The last receipts are on their way; they do not hold the end up for long.
        let farewell = async { while self.conversations.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL_LIMIT, farewell).await.is_err() {
            tracing::warn!("the control plane did not take leave in time");
        }
        self.conversations.shutdown().await;
        self.journal.close();
        served.map_err(|_| AppError::Ended("the listener"))?.map_err(AppError::Serve)
    }
}

/// Compiles an accepted set and swaps it in. Of a set whose policies cannot be used, only what it restricts takes effect.
pub(crate) fn put_in_force(current: &Current, client_roots: &ClientRoots, set: &AcceptedSet) -> Result<Arc<InForce>, UnusablePolicy> {
    match InForce::compile(Believed::of(set)) {
        Ok(in_force) => Ok(swap(current, client_roots, in_force)),
        Err(unusable) => {
            if let Some(former) = current.load() {
                swap(current, client_roots, former.restricted_by(&Believed::of(set)));
            }
            Err(unusable)
        }
    }
}

fn swap(current: &Current, client_roots: &ClientRoots, in_force: InForce) -> Arc<InForce> {
    let in_force = Arc::new(in_force);
    let authorities = in_force.caller_authorities.values().map(|der| CertificateDer::from(der.clone())).collect();
    if let Err(error) = client_roots.set(authorities) {
        let error: &TlsError = &error;
        tracing::error!(error = error as &dyn std::error::Error, "an authority of callers cannot be used: the former ones stay");
    }
    current.swap(in_force.clone());
    in_force
}

fn readiness(
    stopping: CancellationToken,
    current: Arc<Current>,
    time: Arc<AgentClock>,
    journal: Arc<DurableJournal>,
    tests: Arc<SelfTests>,
    (vault, vault_needed): (Arc<VaultHealth>, bool),
) -> Readiness {
    let (clock, alarms, noted) = (time.clone(), journal.clone(), vault.clone());
    let (seen, told) = (current.clone(), time.clone());
    Readiness::new(stopping)
        .note("statements", move || match (freshness(seen.load().as_deref(), told.now()), seen.rejection()) {
            (Freshness::None | Freshness::Expired, _) | (Freshness::Fresh, None) => None,
            (_, Some(rejected)) => {
                Some(format!("the newest statements are not believed ({}), those in force go on: {}", rejected.code, rejected.detail))
            }
            (Freshness::Stale | Freshness::Grace, None) => {
                Some("no newer statements came for a while: the control plane is not reached, or withholds them".to_owned())
            }
        })
        .check("statements", move || match (freshness(current.load().as_deref(), time.now()), current.rejection()) {
            (Freshness::Fresh | Freshness::Stale | Freshness::Grace, _) => Ok(()),
            (Freshness::Expired, _) => {
                let advice = time.advice().map_or_else(String::new, |advice| format!("; {advice}"));
                Err(format!("the policy in force has expired: restore the connection to the control plane{advice}"))
            }
            (Freshness::None, Some(rejected)) => {
                Err(format!("no policy yet; the newest was not accepted ({}): {}", rejected.code, rejected.detail))
            }
            (Freshness::None, None) => {
                Err("no policy yet: enrol the agent (freehold-agent enrol), and see that it reaches the control plane".to_owned())
            }
        })
        .check("journal", move || match journal.status().fault {
            None => Ok(()),
            Some(fault) => Err(fault.to_string()),
        })
        .check("vault", move || match vault.trouble() {
            Some(trouble) if vault_needed => Err(trouble.1),
            _ => Ok(()),
        })
        .note("vault", move || noted.trouble().map(|(_, detail)| detail))
        .note("journal", move || alarms.status().alarm)
        .note("clock", move || clock.advice())
        .note("self_tests", move || {
            let failed = tests.latest().failed();
            let what = "failed its self-test and is switched off: look at the log, and replace the agent";
            (!failed.is_empty()).then(|| format!("{}: {what}", failed.join(", ")))
        })
}

/// Keeps gauges of what is in force.
async fn measure(current: Arc<Current>, time: Arc<AgentClock>, journal: Arc<DurableJournal>) {
    let mut clock_is_off = false;
    loop {
        let in_force = current.load();
        let now = time.now();
        for state in Freshness::ALL {
            let is = if freshness(in_force.as_deref(), now) == *state { 1.0 } else { 0.0 };
            metrics::gauge!("freehold_statements", "freshness" => state.as_str()).set(is);
        }
        if let Some(set) = in_force {
            metrics::gauge!("freehold_heartbeat_age_seconds").set(set.age_seconds(now) as f64);
            metrics::gauge!("freehold_keys").set(set.key_count() as f64);
        }
        let advice = time.advice();
        if let Some(advice) = advice.as_deref().filter(|_| !clock_is_off) {
            tracing::warn!("{advice}");
        }
        clock_is_off = advice.is_some();
        let journal = journal.status();
        metrics::gauge!("freehold_journal_used_bytes").set(journal.used_bytes as f64);
        metrics::gauge!("freehold_journal_limit_bytes").set(journal.limit_bytes as f64);
        metrics::gauge!("freehold_journal_seconds_to_full").set(journal.seconds_to_full.unwrap_or(f64::INFINITY));
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}
