//! An agent that has enrolled: what it does together with the control plane while it serves. None of it is needed to answer
//! a request.

use std::sync::Arc;

use async_trait::async_trait;
use schema::{
    clock::{Clock, Ids},
    encoding::Base64,
    wire::agent::{Rejected, ReportAnswer},
};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use trust::{
    accept::{AcceptedSet, Identity},
    document::{self, SelfTestReport},
    pair::Pair,
};

use crate::{
    app::{AppError, put_in_force},
    budgets::Budgets,
    config::Config,
    control::{
        carried,
        certificate::{CertificateAdvice, Renewal},
        client::{Connection, ControlClient, Reach},
        contexts::ContextKeys,
        directory::{AgentKeys, ControlDirectory, KeepError, StoredCertificate, StoredIdentity},
        exchange::{Exchange, ExchangeParts},
        lease::LeaseKeeper,
        prekeys::Prekeys,
        ratchet::RatchetKeeper,
        relay::Movement,
        report::{Documents, Reporter, Reporting, Reports, Work},
        sync::{StatementSync, SyncParts},
        time::AgentClock,
        vouch::vouches,
    },
    findings::Findings,
    journal::{
        durable::DurableJournal,
        ship::{Sender, Shipper},
    },
    keys::{
        errands::Errands,
        movement::{Mover, MoverParts},
        reconcile::Reconciler,
    },
    policy::current::Current,
    recovery::{backups::Backups, custody},
    selftest::{SelfTests, Tested},
    vault::Vault,
};
use service::tls::client_roots::ClientRoots;

/// The most characters said of what a self-test found.
const MAX_DETAIL: usize = 300;

/// Who the agent is, with its keys.
pub struct Membership {
    stored: StoredIdentity,
    certificate: StoredCertificate,
    keys: Arc<AgentKeys>,
    prekeys: Prekeys,
}

/// What the agent brings into the conversation.
pub struct ControlParts<'a> {
    /// Its settings.
    pub config: &'a Config,
    /// What it keeps.
    pub directory: ControlDirectory,
    /// The set in force.
    pub current: Arc<Current>,
    /// Whose client certificates are believed.
    pub client_roots: Arc<ClientRoots>,
    /// Its vault.
    pub vault: Arc<dyn Vault>,
    /// Its journal.
    pub journal: Arc<DurableJournal>,
    /// Its budgets.
    pub budgets: Arc<Budgets>,
    /// Agent time.
    pub agent_clock: Arc<AgentClock>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub ids: Arc<dyn Ids>,
    /// What its self-tests found.
    pub tests: Arc<SelfTests>,
    /// Writes its backups.
    pub backups: Arc<Backups>,
    /// What somebody should do about its certificate.
    pub advice: Arc<CertificateAdvice>,
    /// Rung when the vault has something to report.
    pub to_report: Arc<Notify>,
    /// What keeps it from what its site asks.
    pub findings: Arc<Findings>,
    /// What hides encryption contexts in its receipts.
    pub context_keys: Arc<ContextKeys>,
}

impl Membership {
    /// Reads it back; none before the agent has enrolled.
    pub async fn load(directory: &ControlDirectory, vault: &dyn Vault) -> Result<Option<Self>, KeepError> {
        let (Some(stored), Some(certificate)) = (directory.identity()?, directory.certificate()?) else { return Ok(None) };
        let keys = Arc::new(directory.keys(&stored, vault).await?);
        let prekeys = Prekeys::open(directory.clone(), stored.identity.clone(), vault).await?;
        Ok(Some(Self { stored, certificate, keys, prekeys }))
    }

    /// Who the agent is.
    pub fn identity(&self) -> &Identity {
        &self.stored.identity
    }

    /// Its pair.
    pub fn pair(&self) -> Arc<Pair> {
        Arc::new(Pair::from_seeds(&self.keys.pair.to_seeds()))
    }

    /// Puts the kept set in force, then begins: statements, reports, receipts, certificate.
    pub fn join(self, parts: ControlParts<'_>, tasks: &mut JoinSet<()>, stopping: &CancellationToken) -> Result<(), AppError> {
        let Self { stored, certificate, keys, prekeys } = self;
        let ControlParts {
            config,
            directory,
            current,
            client_roots,
            vault,
            journal,
            budgets,
            agent_clock,
            clock,
            ids,
            tests,
            backups,
            advice,
            to_report,
            findings,
            context_keys,
        } = parts;
        let control = &config.control_plane;
        let authorities = directory.authorities()?;
        let reach = Reach {
            url: control.url.as_deref(),
            outgoing: &control.outgoing,
            authorities: authorities.as_ref(),
            clock: agent_clock.clone(),
        };
        let client = ControlClient::enrolled(&stored, &certificate, &keys, &reach)?;
        let apart = control.by_file.unwrap_or(stored.apart);
        let connection = if apart { Connection::apart(client) } else { Connection::new(client) };
        let mut prekeys = prekeys;
        if apart {
            prekeys.last_long();
        }

        let ratchet = RatchetKeeper::open(directory.clone(), ids.clone())?;
        let ring = to_report.clone();
        let (in_force, noted, cut, clock_of_rejections) = (current.clone(), current.clone(), current.clone(), clock.clone());
        let sync = StatementSync::start(SyncParts {
            connection: connection.clone(),
            directory: directory.clone(),
            identity: stored.identity.clone(),
            clock: agent_clock.clone(),
            ids: ids.clone(),
            put_in_force: Box::new(move |set| match put_in_force(&in_force, &client_roots, set) {
                Ok(_) => Ok(()),
                Err(error) => {
                    Err(Rejected { code: "policies_unusable".to_owned(), detail: error.to_string(), at: clock_of_rejections.now() })
                }
            }),
            note_rejection: Box::new(move |rejected| {
                // The control plane is told soon when it is another one.
                if noted.rejection().is_none_or(|before| before.code != rejected.code) {
                    ring.notify_one();
                }
                noted.reject(Some(rejected));
            }),
            note_cut_off: Box::new(move |is| cut.cut_off(is)),
            ratchet: ratchet.clone(),
            carried: carried::folder(&config.data_dir),
        })?;

        let pair = Arc::new(Pair::from_seeds(&keys.pair.to_seeds()));
        let leases = LeaseKeeper {
            connection: connection.clone(),
            accepted: sync.follow(),
            current: current.clone(),
            budgets,
            identity: stored.identity.clone(),
            pair: pair.clone(),
            clock: agent_clock.clone(),
            ids: ids.clone(),
        };
        let arrived = watch::Sender::new(0);
        let (pair_of_mover, clock_of_mover) = (pair.clone(), agent_clock.clone());
        let mover = MoverParts {
            vault: vault.clone(),
            pair: pair_of_mover,
            clock: clock_of_mover,
            ids: ids.clone(),
            prekeys,
            context_keys: Some(context_keys),
            findings: findings.clone(),
            arrived: arrived.clone(),
        };
        let errands = Errands::open(&config.data_dir, agent_clock.clone(), journal.clone(), current.clone());
        let (enforced, rejections) = (current.clone(), current.clone());
        let reports: Arc<dyn Reporting> = Arc::new(Reports {
            accepted: sync.follow(),
            enforced: Box::new(move || enforced.load().map(|set| (set.heartbeat_serial, set.state_serial))),
            rejection: Box::new(move || rejections.rejection()),
            vault: vault.description().kind.to_owned(),
            work: Mutex::new(ReportWork {
                current,
                vault,
                identity: stored.identity.clone(),
                pair: pair.clone(),
                clock: clock.clone(),
                reconciler: Reconciler::knowing(directory.ended()?),
                directory: directory.clone(),
                accepted: sync.follow(),
                tests: tests.clone(),
                backups,
                findings,
                said: None,
            }),
            ratchet: ratchet.clone(),
            host: host_name(),
            started: clock.now(),
        });
        let reporter = Reporter {
            connection: connection.clone(),
            accepted: sync.follow(),
            reports: reports.clone(),
            tested: tests.follow(),
            arrived: arrived.subscribe(),
            to_report,
            ids: ids.clone(),
        };
        let Identity { tenant, site, agent, .. } = stored.identity;
        let shipper = || Shipper::new(journal.clone(), Sender { tenant, site, agent }, pair.clone(), connection.clone());
        let exchange = ExchangeParts {
            directory: directory.clone(),
            carried: carried::folder(&config.data_dir),
            stored: stored.clone(),
            keys: keys.clone(),
            apart,
            accepted: sync.follow(),
            clocks: (agent_clock.clone(), clock.clone()),
            ids: ids.clone(),
            reports,
            ratchet,
            leases: leases.clone(),
        };
        let movement = Movement {
            accepted: sync.follow(),
            connection: connection.clone(),
            mover: Mover::new(mover),
            errands: errands.with_exchange(Exchange::new(exchange, shipper())),
        };
        let shipper = shipper();
        let renewal = Renewal {
            connection,
            directory,
            identity: stored,
            keys,
            url: control.url.clone(),
            outgoing: control.outgoing.clone(),
            clock,
            agent_clock,
            accepted: sync.follow(),
            authorities,
            ids,
            advice,
        };
        tasks.spawn(sync.run(stopping.clone()));
        tasks.spawn(reporter.run(stopping.clone()));
        tasks.spawn(movement.run(stopping.clone()));
        tasks.spawn(leases.run(stopping.clone()));
        // By file receipts are sent, and certificates renewed, with what else is said.
        if !apart {
            tasks.spawn(shipper.run(stopping.clone()));
            tasks.spawn(renewal.run(certificate, stopping.clone()));
        }
        tracing::info!(%agent, %site, %tenant, by_file = apart, "the agent belongs to its site");
        Ok(())
    }
}

/// The name of this host, for people.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Brings the vault to what the set in force asks for, and signs what there is to say.
struct ReportWork {
    current: Arc<Current>,
    vault: Arc<dyn Vault>,
    identity: Identity,
    pair: Arc<Pair>,
    clock: Arc<dyn Clock>,
    reconciler: Reconciler,
    directory: ControlDirectory,
    accepted: watch::Receiver<Option<Arc<AcceptedSet>>>,
    tests: Arc<SelfTests>,
    backups: Arc<Backups>,
    findings: Arc<Findings>,
    /// What was signed of the last round of self-tests.
    said: Option<(Arc<Tested>, Base64)>,
}

impl ReportWork {
    fn self_tests(&mut self) -> Base64 {
        let tested = self.tests.latest();
        if let Some((_, said)) = self.said.as_ref().filter(|(of, _)| Arc::ptr_eq(of, &tested)) {
            return said.clone();
        }
        let detail = |text: &str| text.chars().take(MAX_DETAIL).collect();
        let Identity { tenant, site, agent, .. } = self.identity;
        let report = SelfTestReport {
            tenant,
            site,
            agent,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            tested: tested.at,
            passed: tested.enabled.iter().map(|algorithm| algorithm.name().to_owned()).collect(),
            failed: tested.failures().map(|(algorithm, failure)| (algorithm.name().to_owned(), detail(&failure.detail))).collect(),
            issued: self.clock.now(),
        };
        let signed = document::sign(&report, &self.pair);
        self.said = Some((tested, signed.clone()));
        signed
    }

    fn keep_ended(&self) {
        if let Err(error) = self.directory.keep_ended(self.reconciler.ended()) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "which versions were destroyed here cannot be kept: should one come back, that is not said");
        }
    }

    /// The recovery key that was made here, as long as the site does not tell of it.
    fn recovery_key(&self) -> Option<Base64> {
        let set = self.accepted.borrow().clone()?;
        match self.directory.made_recovery_key() {
            Ok(made) => custody::document(&set, &made?, &self.identity, &self.pair, self.clock.now()),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the recovery key that was made here cannot be read");
                None
            }
        }
    }

    /// What there is to say for newcomers that a person here confirmed.
    fn vouches(&self) -> Vec<Base64> {
        let Some(set) = self.accepted.borrow().clone() else { return Vec::new() };
        match self.directory.confirmed() {
            Ok(confirmed) => vouches(&set, &confirmed, &self.identity, &self.pair, self.clock.now()),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "what a person here confirmed cannot be read");
                Vec::new()
            }
        }
    }
}

#[async_trait]
impl Work for ReportWork {
    async fn documents(&mut self) -> Documents {
        let documents = match self.current.load() {
            Some(in_force) => {
                let (pair, clock, backups, findings) = (&self.pair, &*self.clock, &self.backups, &*self.findings);
                let ended = self.reconciler.ended().len();
                let documents = self.reconciler.run(&in_force, &*self.vault, pair, clock, backups, findings).await;
                if self.reconciler.ended().len() != ended {
                    self.keep_ended();
                }
                documents
            }
            None => Documents::default(),
        };
        let (vouches, recovery_key) = (self.vouches(), self.recovery_key());
        Documents { vouches, recovery_key, self_tests: Some(self.self_tests()), findings: self.findings.all(), ..documents }
    }

    fn delivered(&mut self, holder_reports: &[Base64], answer: &ReportAnswer) {
        if answer.refused.is_empty() {
            self.reconciler.delivered(holder_reports);
        }
    }
}
