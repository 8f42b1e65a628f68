//! When statements are compiled and heartbeats signed: after events that statements speak of, and as time passes.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use schema::id::TenantId;

use super::service::Statements;
use crate::eventing::{
    reactor::{Fault, Reactor},
    store::{Cursor, EventStore, Stored},
    view::Views,
};

/// Every type of event after which statements may differ. The one list of what triggers a compilation.
pub const TRIGGERS: &[&str] = &[
    "TenantCreated",
    "ProjectSuspended",
    "ProjectResumed",
    "SiteCreated",
    "SiteOfflineRuleSet",
    "SiteSuspended",
    "SiteResumed",
    "SiteRecoveryKeySet",
    "AgentEnrolled",
    "AgentVouched",
    "AgentSuspended",
    "AgentResumed",
    "AgentQuarantined",
    "AgentRevoked",
    "CallerRegistered",
    "CallerRelabelled",
    "CallerSuspended",
    "CallerResumed",
    "CallerRevoked",
    "KeyCreated",
    "KeyRelabelled",
    "KeyLimitsSet",
    "KeyRotationRuleSet",
    "KeyMinimumVersionsSet",
    "KeySuspended",
    "KeyResumed",
    "VersionRequested",
    "GeneratorAssigned",
    "VersionMade",
    "ExternalVersionRegistered",
    "HolderReady",
    "VersionBackedUp",
    "VersionActivated",
    "PrimaryMoved",
    "VersionSuspended",
    "VersionResumed",
    "VersionDeactivated",
    "VersionCompromised",
    "VersionRevoked",
    "DestructionBegun",
    "HolderDestroyed",
    "HolderAttestedLost",
    "AliasCreated",
    "AliasMoved",
    "AliasRetired",
    "CompositeCreated",
    "CompositeRuleTightened",
    "CompositeRuleLoosened",
    "CompositeRetired",
    "PolicyPublished",
    "PolicyRolledBack",
    "StatementProposed",
    "StatementSigned",
    "ProposalWithdrawn",
];

/// Types of event that no statement speaks of.
pub const NO_TRIGGERS: &[&str] = &[
    "TenantRenamed",
    "ProjectCreated",
    "ProjectRenamed",
    "SiteRenamed",
    "SiteFounded",
    "AgentInvited",
    "InvitationCancelled",
    "AgentVouchSigned",
    "CertificateRenewed",
    "OutboxTaken",
    "KeyDescribed",
    "CompositeDescribed",
    "KeyDeletionProtectionSet",
    "DestructionScheduled",
    "DestructionCancelled",
    "DeactivationScheduled",
    "DeactivationCancelled",
    "KeySuccessorSet",
    "AuthorityMade",
    "AuthorityTookOver",
    "AuthorityRetired",
    "MaterialSent",
    "VersionDestroyed",
    "PolicyCreated",
    "PolicyDraftSaved",
    "PolicyDraftDiscarded",
    "StatementPublished",
    "ReceiptsAccepted",
    "ReceiptsForked",
    "LeaseRequested",
    "BudgetSpent",
    "BudgetReturned",
    "BudgetGranted",
];

/// How long a burst of events is given to end before it is compiled as one.
const BURST: Duration = Duration::from_millis(15);
/// How long the read model is given to catch up.
const PROJECTION_PATIENCE: Duration = Duration::from_secs(10);
/// How often heartbeats are signed that are due.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How old a heartbeat grows before the next one is signed.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(60);

/// The read model did not catch up with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the read model did not catch up with the log in {} s", PROJECTION_PATIENCE.as_secs())]
pub struct ProjectionBehind;

/// Compiles, publishes, beats.
pub struct StatementReactor {
    statements: Statements,
    views: Views,
    store: Arc<dyn EventStore>,
    /// How far into the log each tenant's statements are known to be up to date.
    done: Mutex<HashMap<TenantId, Cursor>>,
}

impl StatementReactor {
    /// Puts the parts together.
    pub fn new(statements: Statements, views: Views, store: Arc<dyn EventStore>) -> Self {
        Self { statements, views, store, done: Mutex::default() }
    }

    /// The tenants whose statements may be behind these records.
    fn stale(&self, records: &[Stored]) -> BTreeSet<TenantId> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = |stored: &&Stored| done.get(&stored.record.envelope().tenant).is_none_or(|done| stored.cursor > *done);
        let triggers = |stored: &&Stored| TRIGGERS.contains(&stored.record.envelope().event_type.as_str());
        records.iter().filter(triggers).filter(newer).map(|stored| stored.record.envelope().tenant).collect()
    }
}

impl StatementReactor {
    /// What is wrong with one tenant keeps no other waiting: it is told, and tried again as time passes. Of an erased one nobody can
    /// know any more what was wrong.
    async fn bring_up_to_date(&self, tenant: TenantId) -> Result<(), Fault> {
        if self.statements.is_erased(tenant).await? {
            self.statements.trouble().cleared(tenant);
            return Ok(());
        }
        match self.statements.bring_up_to_date(tenant).await {
            Err(error) if !error.is_of_tenant() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Waits until the read model shows everything that is in the log now; how far that is.
pub(crate) async fn caught_up(views: &Views, store: &dyn EventStore) -> Result<Cursor, Fault> {
    let head = store.head().await?;
    if views.wait_for(head, PROJECTION_PATIENCE).await? { Ok(head) } else { Err(ProjectionBehind.into()) }
}

#[async_trait]
impl Reactor for StatementReactor {
    fn name(&self) -> &'static str {
        "statements"
    }

    async fn react(&self, records: &[Stored]) -> Result<(), Fault> {
        let stale = self.stale(records);
        if stale.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(BURST).await;
        let head = caught_up(&self.views, &*self.store).await?;
        for tenant in stale {
            self.bring_up_to_date(tenant).await?;
            self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant, head);
        }
        Ok(())
    }

    fn interval(&self) -> Option<Duration> {
        Some(LOOK_EVERY)
    }

    async fn tick(&self) -> Result<(), Fault> {
        for (tenant, site) in self.statements.sites_due(HEARTBEAT_EVERY).await? {
            if self.statements.is_erased(tenant).await? {
                continue;
            }
            let outcome = match self.statements.is_ending(tenant, site).await {
                Ok(true) => self.statements.bring_up_to_date(tenant).await,
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            // One site's trouble keeps no other from its heartbeat.
            let outcome = match outcome {
                Ok(()) => self.statements.beat(tenant, site).await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::error!(%tenant, %site, error = &error as &dyn Error, "signing a heartbeat failed");
            }
        }
        for tenant in self.statements.trouble().due() {
            self.bring_up_to_date(tenant).await?;
        }
        self.statements.ending().measure();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use schema::event::{
        Event, agent::AgentEvent, alias::AliasEvent, authority::AuthorityEvent, budget::BudgetEvent, caller::CallerEvent,
        composite::CompositeEvent, key::KeyEvent, policy::PolicyEvent, project::ProjectEvent, receipt::ReceiptEvent, site::SiteEvent,
        statement::StatementEvent, tenant::TenantEvent,
    };

    use super::*;

    #[test]
    fn every_event_was_thought_about() {
        let types = [
            AgentEvent::TYPES,
            AliasEvent::TYPES,
            AuthorityEvent::TYPES,
            BudgetEvent::TYPES,
            CallerEvent::TYPES,
            CompositeEvent::TYPES,
            KeyEvent::TYPES,
            PolicyEvent::TYPES,
            ProjectEvent::TYPES,
            ReceiptEvent::TYPES,
            SiteEvent::TYPES,
            StatementEvent::TYPES,
            TenantEvent::TYPES,
        ];
        for (name, _) in types.into_iter().flatten() {
            let places = [TRIGGERS, NO_TRIGGERS].iter().filter(|list| list.contains(name)).count();
            assert_eq!(places, 1, "{name} stands in {places} lists");
        }
        let known = |name: &str| types.into_iter().flatten().any(|(known, _)| *known == name);
        assert!(TRIGGERS.iter().chain(NO_TRIGGERS).all(|name| known(name)));
    }
}
