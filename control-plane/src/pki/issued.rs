//! The certificate that the agents' listener has of our own authority: made anew while the listener runs.

use std::{sync::Arc, time::Duration};

use schema::{
    clock::{Clock, Ids, Timestamp},
    encoding::Digest,
};

use super::{
    authority::IssueError,
    listener::{ListenerError, ServerCertificate},
};
use crate::authorities::keeper::Keeper;

/// How long it lives; it is made anew long before.
const LIFE: Duration = Duration::from_secs(30 * 86_400);
/// How often it is made anew.
const RENEWAL: Duration = Duration::from_secs(86_400);
/// How often it is looked whether that is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssuedError {
    /// None was made.
    #[error("the certificate could not be made")]
    Issue(#[from] IssueError),
    /// It cannot be used.
    #[error(transparent)]
    Use(#[from] ListenerError),
}

/// What makes the listener's certificates.
pub struct IssuedCertificate {
    names: Vec<String>,
    authorities: Keeper,
    /// Which of them made the present one, and when.
    made: (Digest, Timestamp),
    current: Arc<ServerCertificate>,
}

impl IssuedCertificate {
    /// Makes the first one, for these names.
    pub fn new(names: Vec<String>, authorities: Keeper, clock: &dyn Clock, ids: &dyn Ids) -> Result<Self, IssuedError> {
        let (issuer, now) = (authorities.current().issuer.clone(), clock.now());
        let (issued, key) = issuer.issue_listener(&names, LIFE, ids, now)?;
        let current = ServerCertificate::new(&issued.chain_pem, &key.serialize_pem())?;
        Ok(Self { names, authorities, made: (issuer.sha256(), now), current })
    }

    /// The one in use, as the listener takes it.
    pub fn current(&self) -> Arc<ServerCertificate> {
        self.current.clone()
    }

    /// Makes it anew each day, and when another authority takes over.
    pub async fn keep_fresh(mut self, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) {
        let mut rotated = self.authorities.follow();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = rotated.changed() => {}
            }
            if let Err(error) = self.renew(&*clock, &*ids) {
                tracing::error!(error = &error as &dyn std::error::Error, "making the agent listener's next certificate failed");
            }
        }
    }

    fn renew(&mut self, clock: &dyn Clock, ids: &dyn Ids) -> Result<(), IssuedError> {
        let (issuer, now) = (self.authorities.current().issuer.clone(), clock.now());
        let (by, at) = self.made;
        if by == issuer.sha256() && now.since(at) < RENEWAL {
            return Ok(());
        }
        let (issued, key) = issuer.issue_listener(&self.names, LIFE, ids, now)?;
        self.current.replace(&issued.chain_pem, &key.serialize_pem())?;
        self.made = (issuer.sha256(), now);
        Ok(())
    }
}
