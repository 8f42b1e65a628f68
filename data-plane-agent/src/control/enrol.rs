//! How an agent joins its site: it makes its own keys, proves its right with the token, and checks that the control plane
//! serves the tenant whose root the enrolment file names.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use schema::{
    clock::{Clock, Ids, Timestamp},
    encoding::Digest,
    id::{AgentId, SiteId, TenantId},
    wire::{
        agent::{EnrolRequest, EnrolResponse, EnrolmentToken, StatementSet},
        exchange::{EnrolmentAnswerFile, EnrolmentRequest, EnrolmentRequestFile, read_carried},
    },
};
use service::{
    config::OutgoingConfig,
    files::{FileError, read_secret},
    tls::TlsError,
};
use trust::{accept::Rejection, enrolment::seal_request, time::Moment};

use super::{
    certificate::is_of,
    client::{CallError, ClientError, ControlClient, Reach},
    directory::{ControlDirectory, KeepError, NewIdentity, StoredCertificate, StoredIdentity},
};
use crate::vault::Vault;

/// How long to wait for the first statements of the site.
const FIRST_SET_TRIES: u32 = 30;

/// Why an agent did not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The enrolment file cannot be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The enrolment file is not one.
    #[error("{path} is not an enrolment file; make one with `freehold agent invite`")]
    NotAnEnrolmentFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Another version of the file.
    #[error("the enrolment file has version {0}, and this agent reads 1; update the agent")]
    Version(u32),
    /// The token is worthless by now.
    #[error("the enrolment file was good until {expires}, and it is {now} by this host's clock; make a new one, or set the clock")]
    Ended {
        /// Its last moment.
        expires: Timestamp,
        /// The time.
        now: Timestamp,
    },
    /// The agent is somebody already.
    #[error(
        "this data directory belongs to {held} already; use another one, or give that agent up and join as a new one with the same vault: \
         freehold-agent enrol --again"
    )]
    AlreadyEnrolled {
        /// Who it is.
        held: AgentId,
    },
    /// The settings of outgoing connections.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The control plane said no, or nothing.
    #[error("enrolling failed")]
    Call(#[from] CallError),
    /// The answer is for somebody else.
    #[error("the control plane answered for {0}, which is another agent than the enrolment file names")]
    OtherAgent(AgentId),
    /// The statements are not those of the tenant that the enrolment file names.
    #[error("what this control plane serves is not believed; nothing was kept")]
    Rejected(#[source] Rejection),
    /// The certificate is not of an authority that the statements name.
    #[error("the certificate in this file is not of an authority that the site's statements name: it was changed; nothing was kept")]
    ForeignCertificate(#[source] TlsError),
    /// Nobody asked for it here.
    #[error("this host has asked for nothing: run freehold-agent enrol --token-file FILE --request FILE first")]
    NotAsked,
    /// A file is something else.
    #[error("{0} is no answer to a request to join: `freehold agent enrol` writes one")]
    NotAnAnswer(PathBuf),
    /// Keeping or reading files failed.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The journal of the former agent could not be put aside.
    #[error("the journal {path} of the agent that is given up cannot be moved to {to}; move it by hand, then enrol again")]
    Journal {
        /// Where it is.
        path: PathBuf,
        /// Where it should go.
        to: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// An agent that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// Who it was.
    pub agent: AgentId,
    /// Where its journal is now, if it had one: what stands in it is that agent's.
    pub journal: Option<PathBuf>,
}

/// Gives up the agent of a data directory, so that its host can enrol again: the vault stays, and what was seen of the site.
pub fn give_up(directory: &ControlDirectory, journal: &Path) -> Result<Option<GivenUp>, EnrolError> {
    let Some(agent) = directory.identity()?.map(|stored| stored.identity.agent) else { return Ok(None) };
    let mut name = journal.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{agent}"));
    let to = journal.with_file_name(name);
    let moved = match std::fs::rename(journal, &to) {
        Ok(()) => Some(to),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(EnrolError::Journal { path: journal.to_owned(), to, source }),
    };
    directory.give_up_identity()?;
    Ok(Some(GivenUp { agent, journal: moved }))
}

/// An agent that has joined.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The agent.
    pub agent: AgentId,
    /// The key id of its pair: what the operator of another agent compares as join code.
    pub keyid: Digest,
    /// When its certificate ends.
    pub certificate_expires: Timestamp,
    /// Whether the site's statements came and were believed; else they will be fetched when the agent runs.
    pub statements: bool,
}

/// What enrolling needs beside the file.
pub struct EnrolParts<'a> {
    /// Where the agent keeps its identity.
    pub directory: &'a ControlDirectory,
    /// Seals its keys.
    pub vault: &'a dyn Vault,
    /// Proxy and authorities.
    pub outgoing: &'a OutgoingConfig,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub ids: &'a dyn Ids,
    /// The host's name, for people.
    pub host: &'a str,
}

/// Reads an enrolment file. It holds a secret, and so must be closed to others.
pub fn read_enrolment_file(path: &Path) -> Result<EnrolmentToken, EnrolError> {
    let bytes = read_secret(path)?;
    serde_json::from_slice(&bytes).map_err(|source| EnrolError::NotAnEnrolmentFile { path: path.display().to_string(), source })
}

/// The largest answer that is read.
const MAX_ANSWER_BYTES: u64 = 512 << 20;

/// Reads an answer to a request to join.
pub fn read_answer(path: &Path) -> Result<EnrolmentAnswerFile, EnrolError> {
    let not_one = || EnrolError::NotAnAnswer(path.to_owned());
    let length = std::fs::metadata(path).map_err(|_| not_one())?.len();
    let bytes = (length <= MAX_ANSWER_BYTES).then(|| std::fs::read(path).ok()).flatten().ok_or_else(not_one)?;
    read_carried(&bytes).ok_or_else(not_one)
}

/// Whether an enrolment file can be used at all.
pub fn check(token: &EnrolmentToken, clock: &dyn Clock) -> Result<(), EnrolError> {
    let now = clock.now();
    match () {
        () if token.v != 1 => Err(EnrolError::Version(token.v)),
        () if token.expires < now => Err(EnrolError::Ended { expires: token.expires, now }),
        () => Ok(()),
    }
}

/// Joins. May be run again after a lost answer: the same keys are shown again.
pub async fn enrol(token: &EnrolmentToken, parts: &EnrolParts<'_>) -> Result<Enrolled, EnrolError> {
    check(token, &*parts.clock)?;
    let identity = identity(token, parts, false).await?;
    let EnrolmentRequest { csr_pem, roster_entry, agent_version, host } = request_of(&identity, parts);
    let request = EnrolRequest { token: token.token.clone(), csr_pem, roster_entry, agent_version, host };
    let client = ControlClient::unknown(&token.control_plane, token.ca_pem.as_deref(), parts.outgoing, parts.clock.clone())?;
    let certificate = certificate(&identity, client.enrol(&request).await?, &*parts.clock)?;
    remember_former(token, parts.directory)?;
    let keys = parts.directory.keys(&identity, parts.vault).await?;
    let reach = Reach { url: None, outgoing: parts.outgoing, authorities: None, clock: parts.clock.clone() };
    let client = ControlClient::enrolled(&identity, &certificate, &keys, &reach)?;
    let believed = first_set(&client, &identity, parts).await;
    finish(identity, &certificate, believed, parts.directory)
}

/// Makes the keys of an agent that is connected to nothing, and what it asks, for somebody to carry. May be asked again: the keys stay
/// the same.
pub async fn request(token: &EnrolmentToken, parts: &EnrolParts<'_>) -> Result<EnrolmentRequestFile, EnrolError> {
    check(token, &*parts.clock)?;
    let identity = identity(token, parts, true).await?;
    remember_former(token, parts.directory)?;
    Ok(seal_request(&token.token, &request_of(&identity, parts)))
}

/// Takes the answer to [`request`]. It is judged as if the control plane had been called, and its certificate by the authorities that the
/// statements name: no connection says whose it is.
pub async fn answer(file: EnrolmentAnswerFile, parts: &EnrolParts<'_>) -> Result<Enrolled, EnrolError> {
    let identity = parts.directory.identity()?.ok_or(EnrolError::NotAsked)?;
    if parts.directory.certificate()?.is_some() {
        return Err(EnrolError::AlreadyEnrolled { held: identity.identity.agent });
    }
    let certificate = certificate(&identity, file.answer, &*parts.clock)?;
    let believed = match &file.statements {
        Some(statements) => judge(statements, &identity, parts, Some(&certificate)).map(|()| true),
        None => Ok(false),
    };
    finish(identity, &certificate, believed, parts.directory)
}

fn request_of(identity: &StoredIdentity, parts: &EnrolParts<'_>) -> EnrolmentRequest {
    EnrolmentRequest {
        csr_pem: identity.csr_pem.clone(),
        roster_entry: identity.roster_entry.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        host: parts.host.to_owned(),
    }
}

fn certificate(identity: &StoredIdentity, answer: EnrolResponse, clock: &dyn Clock) -> Result<StoredCertificate, EnrolError> {
    if answer.agent != identity.identity.agent {
        return Err(EnrolError::OtherAgent(answer.agent));
    }
    let EnrolResponse { certificate_pem, ca_pem, certificate_expires, .. } = answer;
    Ok(StoredCertificate { certificate_pem, ca_pem, received: clock.now(), expires: certificate_expires })
}

fn remember_former(token: &EnrolmentToken, directory: &ControlDirectory) -> Result<(), KeepError> {
    if token.former.is_empty() {
        return Ok(());
    }
    let mut confirmed = directory.confirmed()?;
    confirmed.former.clone_from(&token.former);
    directory.keep_confirmed(&confirmed)
}

/// Keeps the certificate; over a connection also when the first statements are not believed, unless they are of another tenant.
fn finish(
    identity: StoredIdentity,
    certificate: &StoredCertificate,
    believed: Result<bool, EnrolError>,
    directory: &ControlDirectory,
) -> Result<Enrolled, EnrolError> {
    let statements = match believed {
        Ok(statements) => statements,
        Err(error) => {
            match &error {
                // Statements that took too long are brought again; a file that is not believed leaves nothing here.
                EnrolError::Rejected(Rejection::Expired { .. }) => directory.keep_certificate(certificate)?,
                _ if identity.apart => {}
                EnrolError::Rejected(Rejection::RootNotPinned { .. }) => directory.forget_identity()?,
                _ => directory.keep_certificate(certificate)?,
            }
            return Err(error);
        }
    };
    directory.keep_certificate(certificate)?;
    let trust::accept::Identity { tenant, site, agent, keyid, .. } = identity.identity;
    Ok(Enrolled { tenant, site, agent, keyid, certificate_expires: certificate.expires, statements })
}

/// The keys of this agent: made now, or in an attempt before.
async fn identity(token: &EnrolmentToken, parts: &EnrolParts<'_>, apart: bool) -> Result<StoredIdentity, EnrolError> {
    if let Some(mut held) = parts.directory.identity()? {
        if parts.directory.certificate()?.is_some() {
            return Err(EnrolError::AlreadyEnrolled { held: held.identity.agent });
        }
        if held.identity.agent == token.agent && held.identity.root == token.root {
            parts.directory.keep_apart(&mut held, apart)?;
            return Ok(held);
        }
    }
    let new = NewIdentity {
        tenant: token.tenant,
        site: token.site,
        agent: token.agent,
        root: token.root,
        founder: token.founder,
        control_plane: &token.control_plane,
        ca_pem: token.ca_pem.as_deref(),
        apart,
        now: parts.clock.now(),
    };
    Ok(parts.directory.make_identity(new, parts.vault, parts.ids).await?)
}

/// Fetches the first set and has it judged. A site whose first statements are still being made is waited for.
async fn first_set(client: &ControlClient, identity: &StoredIdentity, parts: &EnrolParts<'_>) -> Result<bool, EnrolError> {
    for _ in 0..FIRST_SET_TRIES {
        match client.statements(None, None, Duration::ZERO, None).await {
            Ok(Some(served)) => return judge(&served.set, identity, parts, None).map(|()| true),
            Ok(None) => {}
            Err(CallError::Refused { status: 503, .. }) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(false)
}

/// Judges the first set, and the certificate by it where nothing else says whose that is.
///
/// A host that enrols again has seen the site before: what it must never forget, it does not.
fn judge(
    statements: &StatementSet,
    identity: &StoredIdentity,
    parts: &EnrolParts<'_>,
    carried: Option<&StoredCertificate>,
) -> Result<(), EnrolError> {
    let held = parts.directory.statements()?.and_then(|bytes| trust::accept::restore(&bytes, &identity.identity).ok());
    let now = Moment { signed: Timestamp::default(), wall: parts.clock.now() };
    let confirmed = parts.directory.confirmed()?;
    let set = trust::accept::accept(held.as_ref(), statements, &identity.identity, &confirmed, now).map_err(EnrolError::Rejected)?;
    if let Some(certificate) = carried {
        is_of(&set.heartbeat().authorities, certificate, parts.clock.now()).map_err(EnrolError::ForeignCertificate)?;
    }
    Ok(parts.directory.keep_statements(&set.to_bytes())?)
}
