//! The agent's certificate is renewed when two thirds of its life have passed; one that ended during an outage is renewed
//! with possession of its key, as long as the control plane allows.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rcgen::KeyPair;
use schema::{
    clock::{Clock, Ids, Timestamp},
    wire::agent::RenewRequest,
};
use service::config::OutgoingConfig;
use tokio_util::sync::CancellationToken;

use super::{
    Backoff,
    client::{CallError, ClientError, Connection, ControlClient},
    directory::{AgentKeys, ControlDirectory, KeepError, StoredCertificate, StoredIdentity, signing_request},
};

/// How often to look, and the pauses after failures.
const LOOK_EVERY: Duration = Duration::from_secs(600);
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

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
    let lost = ["certificate_expired", "certificate_superseded", "agent_unknown", "agent_revoked", "agent_quarantined"].contains(&code);
    match () {
        () if lost => Some(format!(
            "the control plane does not know this agent by its certificate any more ({code}): enrol this host again, with a new invitation \
             (freehold agent invite): freehold-agent enrol --again --token-file FILE"
        )),
        () if now < expires => None,
        () if now < expires.plus(RENEWABLE) => Some(format!(
            "the agent's certificate ended at {expires}; it renews by itself until {} as soon as the control plane is reached",
            expires.plus(RENEWABLE)
        )),
        () => Some(format!(
            "the agent's certificate ended at {expires}, too long ago to renew: enrol this host again, with a new invitation (freehold agent \
             invite): freehold-agent enrol --again --token-file FILE"
        )),
    }
}

/// Renews the certificate of a connection.
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
    /// Randomness, for pauses.
    pub ids: Arc<dyn Ids>,
    /// Where it is told what somebody should do.
    pub advice: Arc<CertificateAdvice>,
}

impl Renewal {
    /// Renews in time until `stopping` is cancelled.
    pub async fn run(self, mut certificate: StoredCertificate, stopping: CancellationToken) {
        let (first, longest) = PAUSES;
        let mut backoff = Backoff::new(first, longest);
        loop {
            let due = due(&certificate);
            let wait = due.since(self.clock.now()).min(LOOK_EVERY);
            let pause = if wait.is_zero() {
                match self.once().await {
                    Ok(renewed) => {
                        tracing::info!(expires = %renewed.expires, "the agent's certificate was renewed");
                        certificate = renewed;
                        self.advice.set(None);
                        backoff.reset();
                        // A certificate that is due at once does not make a loop of this.
                        first
                    }
                    Err(error) => {
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
                }
            } else {
                wait
            };
            metrics::gauge!("freehold_certificate_seconds_left").set(certificate.expires.since(self.clock.now()).as_secs_f64());
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Renews now: the certificate is kept, then used.
    pub async fn once(&self) -> Result<StoredCertificate, RenewError> {
        let key = KeyPair::from_pem(&self.keys.tls_key_pem).map_err(KeepError::TlsKey)?;
        let csr_pem = signing_request(&key, self.identity.identity.agent)?;
        let answer = self.connection.client().renew(&RenewRequest { csr_pem }).await?;
        let certificate = StoredCertificate {
            certificate_pem: answer.certificate_pem,
            ca_pem: answer.ca_pem,
            received: self.clock.now(),
            expires: answer.certificate_expires,
        };
        let client = ControlClient::enrolled(&self.identity, &certificate, &self.keys, self.url.as_deref(), &self.outgoing)?;
        self.directory.keep_certificate(&certificate)?;
        self.connection.replace(client);
        Ok(certificate)
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
