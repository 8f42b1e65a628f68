//! Statements and reports of agents in GraphQL: what is in force at a site, and who enforces it.

use async_graphql::{ComplexObject, Context, ID, Result, SimpleObject};
use schema::id::{AgentId, SiteId};
use trust::statement::{Kind, Scope};

use super::{
    ending::warning,
    in_force::{InForce, in_force},
};
use crate::{
    agents::graphql::AgentNode,
    graphql::{
        api::Api,
        fault::{Fault, fault},
        scalar::{StatementKind, Timestamp, UInt64},
    },
};

/// A statement in force at a site.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub struct SiteStatement {
    /// Its kind.
    pub kind: StatementKind,
    /// The project a policy is for; absent for the tenant's and the site's own.
    pub project: Option<ID>,
    /// The site it is for; absent for the tenant's and a project's.
    pub site: Option<ID>,
    /// Begins anew only by recovery.
    pub epoch: UInt64,
    /// Rises by one with each statement of this kind for this scope.
    pub serial: UInt64,
    /// SHA-256 of the payload, base64url.
    pub sha256: String,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// The last moment it may be accepted.
    pub expires_at: Timestamp,
    /// That it ends soon and only the tenant's signers can renew it, and what to do.
    pub warning: Option<String>,
    #[graphql(skip)]
    agents: Vec<AgentId>,
}

#[ComplexObject]
impl SiteStatement {
    /// Agents of the site that have reported that they enforce it.
    #[graphql(complexity = "5 * child_complexity")]
    async fn enforced_by(&self, ctx: &Context<'_>) -> Result<Vec<AgentNode>> {
        Api::of(ctx)?.load_agents(&self.agents, None).await
    }
}

impl SiteStatement {
    fn of(statement: InForce, now: schema::clock::Timestamp) -> Self {
        let (project, site) = match statement.scope {
            Scope::Tenant => (None, None),
            Scope::Project(project) => (Some(project.to_string().into()), None),
            Scope::Site(site) => (None, Some(site.to_string().into())),
        };
        Self {
            kind: statement.kind.into(),
            project,
            site: site.filter(|_| statement.kind != Kind::Root),
            epoch: UInt64(statement.epoch),
            serial: UInt64(statement.serial),
            sha256: statement.sha256.to_string(),
            issued_at: Timestamp(statement.issued),
            expires_at: Timestamp(statement.expires),
            warning: warning(statement.kind, statement.expires, now),
            agents: statement.enforced_by,
        }
    }
}

/// The statements in force at a site.
pub async fn statements(api: &Api, site: SiteId) -> Result<Vec<SiteStatement>, Fault> {
    let found = in_force(&api.services.statements, &api.services.reports, api.ctx.tenant, site).await;
    let now = api.services.clock.now();
    let found = found.map_err(|error| fault("reading statements", &error))?;
    let newest = found.iter().filter(|statement| statement.kind == Kind::Root).map(|root| root.serial).max();
    let shown = found.into_iter().map(|statement| {
        let is_past = statement.kind == Kind::Root && Some(statement.serial) != newest;
        let shown = SiteStatement::of(statement, now);
        // Roots that others followed are kept for agents that missed some; they may end.
        if is_past { SiteStatement { warning: None, ..shown } } else { shown }
    });
    Ok(shown.collect())
}
