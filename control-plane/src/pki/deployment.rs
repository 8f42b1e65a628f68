//! The deployment's own authority and the certificate of its agent listener.

use std::{sync::Arc, time::Duration};

use schema::clock::{Clock, Ids};

use super::{
    authority::{Authority, InvalidAuthority, IssueError},
    listener::{ListenerError, ServerCertificate},
};
use crate::{
    access::context::DEPLOYMENT,
    sealing::{SealingError, Secret, Secrets},
};

/// The name of the sealed secret that holds the authority.
const SECRET: &str = "agent-authority";
/// How long a certificate of the listener lives; it is replaced long before.
const LISTENER_LIFE: Duration = Duration::from_secs(30 * 86_400);
/// How often the listener's certificate is replaced.
pub const RENEW_EVERY: Duration = Duration::from_secs(86_400);

/// Why there is no authority, or no certificate of the listener.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentPkiError {
    /// The sealed secret could not be read or kept.
    #[error("the agent authority could not be read or kept")]
    Sealing(#[from] SealingError),
    /// What was sealed is no authority.
    #[error("the sealed agent authority cannot be used")]
    Invalid(#[from] InvalidAuthority),
    /// No key or certificate could be made.
    #[error("the agent authority could not make a certificate")]
    Issue(#[from] IssueError),
    /// The listener cannot use it.
    #[error("the agent listener cannot use its certificate")]
    Listener(#[from] ListenerError),
}

/// The authority of agents: made on first start, sealed, the same for every replica.
pub async fn authority(secrets: &Secrets, clock: &dyn Clock, ids: &dyn Ids) -> Result<Arc<Authority>, DeploymentPkiError> {
    let secret = match secrets.secret(DEPLOYMENT, SECRET).await? {
        Some(secret) => secret,
        None => {
            let made = Authority::generate(ids, clock.now())?.to_secret()?;
            secrets.keep_first(DEPLOYMENT, SECRET, &Secret::new(made.to_vec())).await?
        }
    };
    Ok(Arc::new(Authority::from_secret(secret.reveal())?))
}

/// A certificate of the agent listener for these names (DNS names or addresses), by the deployment's authority.
pub fn listener_certificate(
    authority: &Authority,
    names: &[String],
    clock: &dyn Clock,
    ids: &dyn Ids,
) -> Result<Arc<ServerCertificate>, DeploymentPkiError> {
    let (issued, key) = authority.issue_listener(names, LISTENER_LIFE, ids, clock.now())?;
    Ok(ServerCertificate::new(&issued.chain_pem, &zeroize::Zeroizing::new(key.serialize_pem()))?)
}

/// Replaces the listener's certificate by a fresh one, from the next connection on.
pub fn renew_listener_certificate(
    certificate: &ServerCertificate,
    authority: &Authority,
    names: &[String],
    clock: &dyn Clock,
    ids: &dyn Ids,
) -> Result<(), DeploymentPkiError> {
    let (issued, key) = authority.issue_listener(names, LISTENER_LIFE, ids, clock.now())?;
    Ok(certificate.replace(&issued.chain_pem, &zeroize::Zeroizing::new(key.serialize_pem()))?)
}
