//! What is in force at a site, and which of its agents have said that they enforce it.

use schema::{
    clock::Timestamp,
    encoding::Digest,
    id::{AgentId, SiteId, TenantId},
};
use trust::{
    dsse::Envelope,
    statement::{Kind, Scope},
};

use super::service::{Statements, StatementsError};
use crate::agents::report::{ReportError, Reports};

/// One statement, and who enforces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Its kind.
    pub kind: Kind,
    /// What it is for. Of states and heartbeats, their site.
    pub scope: Scope,
    /// Its epoch.
    pub epoch: u64,
    /// Its serial.
    pub serial: u64,
    /// SHA-256 of its payload.
    pub sha256: Digest,
    /// When it was signed.
    pub issued: Timestamp,
    /// The last moment it may be accepted.
    pub expires: Timestamp,
    /// Agents of the site whose last report says that they enforce a heartbeat that pins it.
    pub enforced_by: Vec<AgentId>,
}

/// Why that could not be said.
#[derive(Debug, thiserror::Error)]
pub enum InForceError {
    /// The statements could not be read.
    #[error(transparent)]
    Statements(#[from] StatementsError),
    /// The reports could not be read.
    #[error(transparent)]
    Reports(#[from] ReportError),
}

/// What the current heartbeat of a site pins, the heartbeat itself first; nothing while there is none.
pub async fn in_force(statements: &Statements, reports: &Reports, tenant: TenantId, site: SiteId) -> Result<Vec<InForce>, InForceError> {
    let Some(current) = statements.in_force(tenant, site).await? else { return Ok(Vec::new()) };
    let enforced: Vec<(AgentId, u64)> = reports
        .of_site(tenant, site)
        .await?
        .into_iter()
        .filter_map(|(agent, last)| Some((agent, last.report.enforced_heartbeat?)))
        .collect();
    let since = |first: u64| enforced.iter().filter(|(_, serial)| *serial >= first).map(|(agent, _)| *agent).collect::<Vec<_>>();
    let sha256 = Envelope::parse(&current.envelope, Kind::Heartbeat.max_bytes()).map(|envelope| Digest::of(&envelope.payload));
    let heartbeat = InForce {
        kind: Kind::Heartbeat,
        scope: Scope::Site(site),
        epoch: current.epoch,
        serial: current.serial,
        sha256: sha256.map_err(StatementsError::Damaged)?,
        issued: current.issued,
        expires: current.issued.plus(super::signers::life(Kind::Heartbeat)),
        enforced_by: since(current.serial),
    };
    let members = current.members.iter().map(|member| InForce {
        kind: member.kind,
        scope: member.scope,
        epoch: member.epoch,
        serial: member.serial,
        sha256: member.sha256,
        issued: member.issued,
        expires: member.expires,
        enforced_by: since(member.since),
    });
    Ok(std::iter::once(heartbeat).chain(members).collect())
}
