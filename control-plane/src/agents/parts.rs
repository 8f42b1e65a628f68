//! Everything that agents talk to, put together: statements, enrolment, reports, receipts, and what runs beside them.

use std::{net::TcpListener, sync::Arc, time::Duration};

use actix_web::{App, HttpServer, dev::Server, middleware::from_fn, web::Data};
use rustls::server::ResolvesServerCert;
use schema::clock::{Clock, Ids};
use service::{listen::keep_peer_certificates, log};
use tokio_util::sync::CancellationToken;

use super::{
    enrolment::{DEFAULT_CERTIFICATE_LIFE, Enrolment, EnrolmentSettings},
    report::Reports,
};
use crate::{
    bundles::{heartbeat::Heartbeats, reactor::StatementReactor, read::FactsReader, service::Statements},
    database::Database,
    eventing::{handler::Handler, reactor::Reactor, view::Views},
    http::agents::{AgentApi, routes},
    keys::upkeep::Upkeep,
    pki::{
        authority::Authority,
        deployment::{self, DeploymentPkiError, RENEW_EVERY},
        listener::{ServerCertificate, server_config},
    },
    receipts::{ingest::Ingest, rows::ReceiptRows},
    sealing::{Keyring, Secrets},
};

/// For how long after its end a certificate can still be renewed.
const RENEWAL_WINDOW: Duration = Duration::from_secs(30 * 86_400);
/// The longest that a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What these parts are built from.
#[derive(Clone)]
pub struct Foundation {
    /// Where everything is stored.
    pub database: Database,
    /// The keys of tenants.
    pub keyring: Arc<Keyring>,
    /// The control plane's own secrets.
    pub secrets: Secrets,
    /// Handles commands.
    pub handler: Handler,
    /// The read model.
    pub views: Views,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub ids: Arc<dyn Ids>,
}

/// Where the agents' listener is found, and what it shows.
#[derive(Clone)]
pub struct AgentListenerSettings {
    /// Where agents find it, `https://host:port`.
    pub public_url: String,
    /// Names and addresses in its certificate, when the deployment's own authority makes that.
    pub names: Vec<String>,
    /// A certificate of the operator's, and its authority, PEM; none of the latter: the systems' own authorities.
    pub own: Option<(Arc<dyn ResolvesServerCert>, Option<String>)>,
}

/// Everything that agents talk to.
#[derive(Clone)]
pub struct AgentParts {
    /// Publishes and serves statements.
    pub statements: Statements,
    /// Lets agents in; makes enrolment files.
    pub enrolment: Enrolment,
    /// The last reports of agents.
    pub reports: Reports,
    /// Receipts, to be queried.
    pub receipts: ReceiptRows,
    /// The certificate authority of agents.
    pub authority: Arc<Authority>,
    foundation: Foundation,
    api: Arc<AgentApi>,
    certificate: Arc<dyn ResolvesServerCert>,
    /// What has to be replaced as time passes: the certificate our own authority made.
    renewed: Option<(Arc<ServerCertificate>, Vec<String>)>,
}

impl AgentParts {
    /// Puts the parts together; on the first start of a deployment its authority of agents is made.
    pub async fn new(foundation: Foundation, settings: AgentListenerSettings) -> Result<Self, DeploymentPkiError> {
        let Foundation { database, keyring, secrets, handler, views, clock, ids } = foundation.clone();
        let authority = deployment::authority(&secrets, &*clock, &*ids).await?;
        let (certificate, listener_authority_pem, renewed): (Arc<dyn ResolvesServerCert>, _, _) = match settings.own {
            Some((certificate, authority_pem)) => (certificate, authority_pem, None),
            None => {
                let made = deployment::listener_certificate(&authority, &settings.names, &*clock, &*ids)?;
                (made.clone(), Some(authority.certificate_pem().to_owned()), Some((made, settings.names)))
            }
        };
        let facts = FactsReader::new(views.clone(), Arc::clone(handler.store()));
        let heartbeats = Heartbeats::new(database.clone());
        let statements = Statements::new(handler.clone(), facts, secrets, heartbeats, Arc::clone(&clock), Arc::clone(&ids));
        let enrolment_settings =
            EnrolmentSettings { public_url: settings.public_url, listener_authority_pem, certificate_life: DEFAULT_CERTIFICATE_LIFE };
        let enrolment = Enrolment::new(
            handler.clone(),
            views,
            statements.clone(),
            Arc::clone(&authority),
            enrolment_settings,
            Arc::clone(&clock),
            Arc::clone(&ids),
        );
        let reports = Reports::new(handler.clone(), database.clone(), Arc::clone(&keyring), Arc::clone(&clock), Arc::clone(&ids));
        let receipts = ReceiptRows::new(database, keyring);
        let ingest = Ingest::new(handler.clone(), receipts.clone(), Arc::clone(&clock), ids);
        let api = Arc::new(AgentApi::new(handler, statements.clone(), enrolment.clone(), reports.clone(), ingest, clock));
        Ok(Self { statements, enrolment, reports, receipts, authority, foundation, api, certificate, renewed })
    }

    /// What follows the log: the statement compiler, and what looks after keys.
    pub fn reactors(&self) -> Vec<Arc<dyn Reactor>> {
        let Foundation { handler, views, clock, ids, database, .. } = self.foundation.clone();
        let store = Arc::clone(handler.store());
        vec![
            Arc::new(StatementReactor::new(self.statements.clone(), views.clone(), store)),
            Arc::new(Upkeep::new(handler, views, Heartbeats::new(database), clock, ids)),
        ]
    }

    /// The server of the agents' listener; runs when it is awaited, leaves signals alone.
    pub fn server(&self, listener: TcpListener, workers: usize, shutdown_seconds: u64) -> Result<Server, AgentServerError> {
        let clock = Arc::clone(&self.foundation.clock);
        let tls = server_config(Arc::clone(&self.certificate), self.authority.certificate_pem(), RENEWAL_WINDOW, Arc::clone(&clock))
            .map_err(DeploymentPkiError::from)?;
        let api = Data::from(Arc::clone(&self.api));
        let request_ids = Data::new(log::RequestIds::new(clock, Arc::clone(&self.foundation.ids)));
        let server = HttpServer::new(move || {
            App::new().app_data(api.clone()).app_data(request_ids.clone()).wrap(from_fn(log::requests)).configure(routes)
        })
        .on_connect(keep_peer_certificates)
        .workers(workers)
        .client_request_timeout(HEAD_TIMEOUT)
        .shutdown_timeout(shutdown_seconds)
        .disable_signals()
        .listen_rustls_0_23(listener, tls)
        .map_err(AgentServerError::Listen)?;
        Ok(server.run())
    }

    /// Replaces the certificate our own authority made, day by day, until told to stop.
    pub async fn keep_certificate_fresh(self, stop: CancellationToken) {
        let Some((certificate, names)) = self.renewed else { return };
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEW_EVERY) => {}
                () = stop.cancelled() => return,
            }
            let Foundation { clock, ids, .. } = &self.foundation;
            if let Err(error) = deployment::renew_listener_certificate(&certificate, &self.authority, &names, &**clock, &**ids) {
                tracing::error!(error = &error as &dyn std::error::Error, "replacing the agent listener's certificate failed");
            }
        }
    }
}

/// The agents' listener could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AgentServerError {
    /// Its TLS could not be set up.
    #[error("TLS of the agents' listener could not be set up")]
    Tls(#[from] DeploymentPkiError),
    /// The socket cannot be used.
    #[error("the agents' listener could not be started")]
    Listen(#[source] std::io::Error),
}
