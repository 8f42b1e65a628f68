//! The agent's certificate is renewed when two thirds of its life have passed; one that ended during an outage is renewed
//! with possession of its key, as long as the control plane allows.
//!
//! Whose certificates the control plane shows, its heartbeats name. An agent that missed so much that it takes the control plane's
//! certificate no more, or whose own is not taken, comes back by its pair: it asks whoever is there, and believes only what the
//! chain of roots from the pinned one proves.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use schema::{
    clock::{Clock, Ids, Timestamp},
    encoding::Digest,
    wire::agent::{ComebackRequest, RenewRequest},
};
use service::{
    config::OutgoingConfig,
    tls::{self, TlsError},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trust::{
    accept::{AcceptedSet, Rejection, authorities},
    document::{self, CertificateAsk},
};

use super::{
    Backoff,
    client::{CallError, ClientError, Connection, ControlClient, Reach},
    directory::{AgentKeys, ControlDirectory, KeepError, StoredAuthorities, StoredCertificate, StoredIdentity, signing_request},
    time::AgentClock,
};

/// How often to look, and the pauses after failures.
const LOOK_EVERY: Duration = Duration::from_secs(600);
const PAUSES: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(120));

/// For how long after its end the control plane still renews a certificate (decision 0033).
const RENEWABLE: Duration = Duration::from_secs(30 * 86_400);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The control plane said no, or nothing.
    #[error("renewing the agent's certificate failed")]
    Call(#[from] CallError),
    /// It could not be kept, or the key not be read.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// It cannot be used.
    #[error("the new certificate cannot be used")]
    Client(#[from] ClientError),
    /// Whoever answered does not prove whose certificates to believe.
    #[error("whoever answers as the control plane does not prove whose certificates to believe")]
    Unproved(#[source] Rejection),
    /// The heartbeat names none, or none that came with it.
    #[error("the control plane names no certificate authority that it also shows; update it")]
    Unnamed,
    /// The certificate that came is not for this agent, or not of an authority that is named.
    #[error("the new certificate is not of an authority that the site's heartbeat names")]
    Foreign(#[source] TlsError),
}

/// What somebody should do about the certificate; nothing while it renews by itself.
#[derive(Debug, Default)]
pub struct CertificateAdvice(Mutex<Option<String>>);

impl CertificateAdvice {
    /// What to do now.
    pub fn current(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, advice: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = advice;
    }
}

/// What to do after a renewal failed: nothing yet while the certificate is good, wait while it can be renewed, and else the one
/// command that brings the host back.
fn advice(error: &RenewError, expires: Timestamp, now: Timestamp) -> Option<String> {
    let code = match error {
        RenewError::Call(CallError::Refused { code, .. }) => code.as_str(),
        _ => "",
    };
    let enrol = "enrol this host again, with a new invitation (freehold agent invite): freehold-agent enrol --again --token-file FILE";
    if let RenewError::Unproved(rejection) = error {
        return Some(match rejection {
            Rejection::Expired { .. } | Rejection::NotYet { .. } | Rejection::FarAhead { .. } => format!(
                "what the control plane says of its certificates is not of this time ({}): see whether this host's clock is right (NTP)",
                rejection.code()
            ),
            _ => format!(
                "whoever answers as the control plane shows a certificate that this agent does not know, and cannot prove it ({}): somebody \
                 stands between, or the control plane was made anew. If that is so, {enrol}",
                rejection.code()
            ),
        });
    }
    let lost = ["certificate_expired", "certificate_superseded", "agent_unknown", "agent_revoked", "agent_quarantined"].contains(&code);
    match () {
        () if lost => Some(format!("the control plane does not know this agent by its certificate any more ({code}): {enrol}")),
        () if now < expires => None,
        () if now < expires.plus(RENEWABLE) => Some(format!(
            "the agent's certificate ended at {expires}; it renews by itself until {} as soon as the control plane is reached",
            expires.plus(RENEWABLE)
        )),
        () => Some(format!("the agent's certificate ended at {expires}, too long ago to renew: {enrol}")),
    }
}

/// Renews the certificate of a connection, and keeps to the authorities that are named.
pub struct Renewal {
    /// The connection that uses it.
    pub connection: Arc<Connection>,
    /// Where it is kept.
    pub directory: ControlDirectory,
    /// Whose it is.
    pub identity: StoredIdentity,
    /// The key it is for.
    pub keys: Arc<AgentKeys>,
    /// Another address than the one the agent enrolled at.
    pub url: Option<String>,
    /// Proxy and authorities.
    pub outgoing: OutgoingConfig,
    /// The wall clock: certificates are judged by it everywhere.
    pub clock: Arc<dyn Clock>,
    /// What is believed of time: statements are judged by it, and the control plane's certificate.
    pub agent_clock: Arc<AgentClock>,
    /// The accepted statements: their heartbeat names authorities.
    pub accepted: watch::Receiver<Option<Arc<AcceptedSet>>>,
    /// The authorities that are kept.
    pub authorities: Option<StoredAuthorities>,
    /// Randomness, for pauses.
    pub ids: Arc<dyn Ids>,
    /// Where it is told what somebody should do.
    pub advice: Arc<CertificateAdvice>,
}

impl Renewal {
    /// Renews in time, and comes back when it must, until `stopping` is cancelled.
    pub async fn run(mut self, mut certificate: StoredCertificate, stopping: CancellationToken) {
        let (first, longest) = PAUSES;
        let mut backoff = Backoff::new(first, longest);
        loop {
            let knows_all = self.learn(&certificate);
            let attempt = match (self.connection.is_troubled() || !matches!(knows_all, Ok(true)), due(&certificate) <= self.clock.now()) {
                (true, _) => Some(self.come_back().await),
                (false, true) => Some(self.once().await),
                (false, false) => None,
            };
            // Whatever was tried, it is not tried again at once.
            let attempted = attempt.is_some();
            let pause = match attempt {
                Some(Ok(renewed)) => {
                    tracing::info!(expires = %renewed.expires, "the agent's certificate was renewed");
                    certificate = renewed;
                    self.advice.set(None);
                    backoff.reset();
                    // A certificate that is due at once does not make a loop of this.
                    first
                }
                Some(Err(error)) => {
                    let expires = certificate.expires;
                    let advice = advice(&error, expires, self.clock.now());
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        %expires,
                        advice = advice.as_deref().unwrap_or("none yet: it is tried again"),
                        "the agent's certificate could not be renewed"
                    );
                    self.advice.set(advice);
                    backoff.pause(&*self.ids)
                }
                None => due(&certificate).since(self.clock.now()).min(LOOK_EVERY),
            };
            metrics::gauge!("freehold_certificate_seconds_left").set(certificate.expires.since(self.clock.now()).as_secs_f64());
            let quiet = tokio::time::sleep(pause);
            tokio::select! {
                () = stopping.cancelled() => return,
                () = quiet => {}
                () = self.connection.troubled(), if !attempted => {}
                changed = self.accepted.changed(), if !attempted => if changed.is_err() { return },
            }
        }
    }

    /// Renews now: the certificate is kept, then used.
    async fn once(&mut self) -> Result<StoredCertificate, RenewError> {
        let csr_pem = self.signing_request()?;
        let answer = self.connection.client().renew(&RenewRequest { csr_pem }).await?;
        let certificate = StoredCertificate {
            certificate_pem: answer.certificate_pem,
            ca_pem: answer.ca_pem,
            received: self.clock.now(),
            expires: answer.certificate_expires,
        };
        self.learn(&certificate)?;
        self.use_now(&certificate)?;
        Ok(certificate)
    }

    /// Comes back by the pair. Whoever answers learns nothing that is secret, and is believed only when the chain of roots proves
    /// what it says.
    async fn come_back(&mut self) -> Result<StoredCertificate, RenewError> {
        let csr_pem = self.signing_request()?;
        let csr = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes()).map(|der| Digest::of(&der)).unwrap_or(Digest([0; 32]));
        let identity = &self.identity.identity;
        let ask =
            CertificateAsk { tenant: identity.tenant, site: identity.site, agent: identity.agent, csr, issued: self.agent_clock.now() };
        let request = ComebackRequest { ask: document::sign(&ask, &self.keys.pair), csr_pem };
        let base = self.url.as_deref().unwrap_or(&self.identity.control_plane);
        // A listener that the system's authorities vouch for is known; ours is not, until the answer has proved itself.
        let client = match self.identity.ca_pem {
            Some(_) => ControlClient::anybody(base, &self.outgoing)?,
            None => ControlClient::unknown(base, None, &self.outgoing, self.agent_clock.clone())?,
        };
        let answer = client.come_back(&request).await?;
        let set = self.accepted.borrow().clone();
        let named = authorities(set.as_deref(), &answer.roots, &answer.heartbeat, identity, self.agent_clock.moment());
        let named = named.map_err(RenewError::Unproved)?;
        let believed = Bundle::of(&answer.ca_pem).only(&named);
        if believed.0.is_empty() {
            return Err(RenewError::Unnamed);
        }
        let chain = tls::certificates_from_pem(answer.certificate_pem.as_bytes(), Path::new("the new certificate"));
        let genuine = chain.and_then(|chain| tls::verify_client(&chain, believed.ders(), self.agent_clock.now()));
        genuine.map_err(RenewError::Foreign)?;
        let certificate = StoredCertificate {
            certificate_pem: answer.certificate_pem,
            ca_pem: answer.ca_pem,
            received: self.clock.now(),
            expires: answer.certificate_expires,
        };
        self.authorities = Some(self.directory.keep_authorities(&believed.pem())?);
        self.use_now(&certificate)?;
        tracing::info!("the control plane's certificate authorities are known again");
        Ok(certificate)
    }

    /// Keeps to the authorities that the accepted heartbeat names. False when it names one that is not known here.
    fn learn(&mut self, certificate: &StoredCertificate) -> Result<bool, RenewError> {
        let Some(enrolled) = &self.identity.ca_pem else { return Ok(true) };
        let named = self.accepted.borrow_and_update().as_ref().map(|set| set.heartbeat().authorities.clone()).unwrap_or_default();
        if named.is_empty() {
            return Ok(true);
        }
        let kept = self.authorities.as_ref().map_or("", |kept| kept.ca_pem.as_str());
        let known = Bundle::of(&[kept, enrolled, &certificate.ca_pem].join("\n")).only(&named);
        if known.0.len() < named.len() {
            return Ok(false);
        }
        if self.authorities.as_ref().is_none_or(|kept| Bundle::of(&kept.ca_pem) != known) {
            self.authorities = Some(self.directory.keep_authorities(&known.pem())?);
            self.use_now(certificate)?;
        }
        Ok(true)
    }

    fn use_now(&self, certificate: &StoredCertificate) -> Result<(), RenewError> {
        let reach = Reach {
            url: self.url.as_deref(),
            outgoing: &self.outgoing,
            authorities: self.authorities.as_ref(),
            clock: self.agent_clock.clone(),
        };
        let client = ControlClient::enrolled(&self.identity, certificate, &self.keys, &reach)?;
        self.directory.keep_certificate(certificate)?;
        self.connection.replace(client);
        Ok(())
    }

    fn signing_request(&self) -> Result<String, KeepError> {
        let key = KeyPair::from_pem(&self.keys.tls_key_pem).map_err(KeepError::TlsKey)?;
        signing_request(&key, self.identity.identity.agent)
    }
}

/// Whether a certificate that was carried here is of an authority that statements name. Where they name none, nothing is known of any.
pub(super) fn is_of(named: &BTreeSet<Digest>, certificate: &StoredCertificate, now: Timestamp) -> Result<(), TlsError> {
    if named.is_empty() {
        return Ok(());
    }
    let believed = Bundle::of(&certificate.ca_pem).only(named);
    let chain = tls::certificates_from_pem(certificate.certificate_pem.as_bytes(), Path::new("the certificate"))?;
    tls::verify_client(&chain, believed.ders(), now)
}

/// Certificates, each once, by SHA-256.
#[derive(Debug, PartialEq, Eq)]
struct Bundle(BTreeMap<Digest, CertificateDer<'static>>);

impl Bundle {
    fn of(pem: &str) -> Self {
        Self(CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).map(|der| (Digest::of(&der), der)).collect())
    }

    fn only(mut self, named: &BTreeSet<Digest>) -> Self {
        self.0.retain(|sha256, _| named.contains(sha256));
        self
    }

    fn ders(&self) -> Vec<CertificateDer<'static>> {
        self.0.values().cloned().collect()
    }

    fn pem(&self) -> String {
        self.0.values().map(|der| tls::to_pem(der)).collect()
    }
}

/// When two thirds of its life have passed.
fn due(certificate: &StoredCertificate) -> Timestamp {
    certificate.received.plus(certificate.expires.since(certificate.received).mul_f64(2.0 / 3.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_come_back_alone_is_told_the_one_command() {
        let ended = Timestamp::from_micros(1_700_000_000_000_000);
        let refused = |code: &str| {
            RenewError::Call(CallError::Refused { status: 403, code: code.to_owned(), detail: String::new(), retry_after: None })
        };
        let later = |days: u64| ended.plus(Duration::from_secs(days * 86_400));
        let command = "freehold-agent enrol --again --token-file";
        assert_eq!(advice(&refused("internal"), ended, ended.minus(Duration::from_secs(1))), None);
        assert!(advice(&refused("internal"), ended, later(29)).unwrap().contains("renews by itself until"));
        assert!(advice(&refused("internal"), ended, later(30)).unwrap().contains(command));
        let unproved = |rejection| advice(&RenewError::Unproved(rejection), ended, ended).unwrap();
        assert!(unproved(Rejection::RootNotPinned { pinned: Digest([0; 32]) }).contains(command));
        let of_another_time = Rejection::FarAhead { told: later(9), now: ended };
        assert!(unproved(of_another_time).contains("clock is right"));
        for code in ["certificate_expired", "agent_quarantined", "agent_revoked", "agent_unknown"] {
            assert!(advice(&refused(code), ended, later(1)).unwrap().contains(command), "{code}");
        }
    }

    #[test]
    fn a_certificate_is_due_after_two_thirds_of_its_life() {
        let received = Timestamp::from_micros(1_700_000_000_000_000);
        let expires = received.plus(Duration::from_secs(30));
        let certificate = StoredCertificate { certificate_pem: String::new(), ca_pem: String::new(), received, expires };
        assert_eq!(due(&certificate), received.plus(Duration::from_secs(20)));
    }
}
