//! What is said to one agent as a file: the newest set of its site, and a signature over the rest.

use std::time::Duration;

use schema::{
    id::{SiteId, TenantId},
    wire::{agent::StatementSet, exchange::Inbox},
};
use trust::{
    dsse::sign_document,
    statement::{Kind, Scope, policy::Policy},
};

use super::{
    heartbeat::Member,
    serve::Served,
    service::{Statements, StatementsError},
    signers::life,
};

impl Statements {
    /// The set of a site after everything that is recorded now, with a new heartbeat: whoever carries it cannot come again soon.
    /// None while nothing was published for the site.
    pub async fn newest(&self, tenant: TenantId, site: SiteId) -> Result<Option<StatementSet>, StatementsError> {
        self.facts().caught_up().await;
        self.bring_up_to_date(tenant).await?;
        let Some(life) = self.carried_life(tenant, site).await? else { return Ok(None) };
        self.beat_lasting(tenant, site, life).await?;
        let Some(served) = self.set(tenant, site).await? else { return Ok(None) };
        serde_json::from_slice(&served.body).map(Some).map_err(|_| StatementsError::Missing)
    }

    /// As [`Self::set`], for somebody to carry.
    pub async fn set_to_carry(&self, tenant: TenantId, site: SiteId) -> Result<Option<Served>, StatementsError> {
        if let Some(life) = self.carried_life(tenant, site).await?.filter(|found| *found > life(Kind::Heartbeat)) {
            self.beat_lasting(tenant, site, life).await?;
        }
        self.set(tenant, site).await
    }

    /// How long a heartbeat may be on its way to a site: until it would be stale on arrival, as the policy in force has it. None while
    /// nothing was published for the site.
    async fn carried_life(&self, tenant: TenantId, site: SiteId) -> Result<Option<Duration>, StatementsError> {
        let Some(current) = self.in_force(tenant, site).await? else { return Ok(None) };
        let mut rule = None;
        for scope in [Scope::Tenant, Scope::Site(site)] {
            let of_scope = |member: &&Member| member.kind == Kind::Policy && member.scope == scope;
            let Some(member) = current.members.iter().find(of_scope) else { continue };
            let (policy, _) = self.open::<Policy>(tenant, member.scope, member.envelope).await?;
            rule = policy.offline.or(rule);
        }
        Ok(Some(Duration::from_secs(rule.unwrap_or_default().stale_seconds)))
    }

    /// Signs what is answered to an outbox, as leases are signed.
    pub async fn sign_inbox(&self, inbox: &Inbox) -> Result<Vec<u8>, StatementsError> {
        let (authority, _) = self.authorities(inbox.tenant).await?;
        let signers = self.signers_under(inbox.tenant, &authority).await?;
        Ok(sign_document(inbox, &[&signers.pair(Kind::Lease)]))
    }
}
