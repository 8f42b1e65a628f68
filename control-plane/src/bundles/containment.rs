//! How far a restriction has come: at which sites something is held back, and which of their agents enforce it already.

use async_graphql::{ComplexObject, Context, ID, Object, Result, SimpleObject};
use schema::{
    id::{AgentId, KeyVersion, SiteId},
    key::VersionState,
};
use trust::statement::state::{State, Subject};

use crate::{
    agents::{Agent, graphql::AgentNode},
    graphql::{
        api::{Api, Filter},
        fault::{Fault, bad_request, fault},
        scalar::Timestamp,
    },
    sites::graphql::SiteNode,
};

/// Where something is held back, and by whom already.
#[derive(Debug, Clone, SimpleObject)]
pub struct Containment {
    /// What is held back: its id.
    pub subject: ID,
    /// Whether every agent that is to hold it back does. Not while there is none: nothing holds it back then.
    pub complete: bool,
    /// The agents that are to hold it back.
    pub agents: Vec<ContainmentAgent>,
}

/// Whether one agent holds something back.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub struct ContainmentAgent {
    /// The agent.
    pub agent_id: ID,
    /// Whether it has said that it enforces it.
    pub enforced: bool,
    /// When it last said anything.
    pub last_seen_at: Option<Timestamp>,
    #[graphql(skip)]
    agent: AgentId,
    #[graphql(skip)]
    site: SiteId,
}

#[ComplexObject]
impl ContainmentAgent {
    /// The agent.
    async fn agent(&self, ctx: &Context<'_>) -> Result<Option<AgentNode>> {
        Api::of(ctx)?.load_agent(self.agent, None).await
    }

    /// Its site.
    async fn site(&self, ctx: &Context<'_>) -> Result<Option<SiteNode>> {
        Ok(Api::of(ctx)?.load_sites(&[self.site], None).await?.pop())
    }
}

/// Reading how far restrictions have come.
#[derive(Default)]
pub struct ContainmentQuery;

#[Object]
impl ContainmentQuery {
    /// How far the suspension or revocation of one thing has come. Exactly one argument names it.
    #[allow(clippy::too_many_arguments, reason = "one argument for each kind of thing")]
    async fn containment(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Id or name.")] site: Option<String>,
        #[graphql(desc = "Id or name.")] project: Option<String>,
        #[graphql(desc = "Id, or project/name.")] caller: Option<String>,
        #[graphql(desc = "Id, or project/name.")] key: Option<String>,
        #[graphql(desc = "key_…/3, or project/name/3.")] version: Option<String>,
        #[graphql(desc = "Id.")] agent: Option<String>,
        position: Option<String>,
    ) -> Result<Option<Containment>> {
        let api = Api::reading(ctx, position).await?;
        let subject = match [site, project, caller, key, version, agent] {
            [Some(site), None, None, None, None, None] => api.site_reference(&site).map(Subject::Site),
            [None, Some(project), None, None, None, None] => api.project_reference(&project).map(Subject::Project),
            [None, None, Some(caller), None, None, None] => api.caller_reference(&caller).await?.map(Subject::Caller),
            [None, None, None, Some(key), None, None] => api.key_reference(&key).await?.map(Subject::Key),
            [None, None, None, None, Some(version), None] => version_reference(api, &version).await?.map(Subject::Version),
            [None, None, None, None, None, Some(agent)] => agent.parse().ok().map(Subject::Agent),
            _ => return Err(bad_request("invalid_input", "name exactly one thing: site, project, caller, key, version or agent")),
        };
        match subject {
            Some(subject) => containment(api, subject).await.map(Some),
            None => Ok(None),
        }
    }
}

async fn version_reference(api: &Api, text: &str) -> Result<Option<KeyVersion>, Fault> {
    let Some((key, number)) = text.rsplit_once('/') else { return Ok(None) };
    let Ok(number) = number.parse() else { return Ok(None) };
    Ok(api.key_reference(key).await?.map(|key| KeyVersion::new(key, number)))
}

async fn containment(api: &Api, subject: Subject) -> Result<Containment, Fault> {
    let (statements, reports, tenant) = (&api.services.statements, &api.services.reports, api.ctx.tenant);
    let restricting = statements.restricting(tenant, subject).await.map_err(|error| fault("reading statements", &error))?;
    let mut agents = Vec::new();
    for (site, since) in restricting {
        let last = reports.of_site(tenant, site).await.map_err(|error| fault("reading reports of agents", &error))?;
        for member in api.every::<Agent>(Filter::within(site)).await?.iter().filter(|agent| is_to_obey(agent)) {
            let Some(agent) = member.fixed.as_ref().map(|fixed| fixed.id) else { continue };
            let said = last.get(&agent);
            let enforces = |since: u64| said.and_then(|last| last.report.enforced_heartbeat).is_some_and(|serial| serial >= since);
            agents.push(ContainmentAgent {
                agent_id: agent.to_string().into(),
                enforced: since.is_some_and(enforces),
                last_seen_at: said.map(|last| Timestamp(last.at)),
                agent,
                site,
            });
        }
    }
    let complete = !agents.is_empty() && agents.iter().all(|agent| agent.enforced);
    Ok(Containment { subject: name(subject).into(), complete, agents })
}

/// Whoever may have keys and still learns what holds: also while it is itself suspended. One that was revoked or cut off
/// learns nothing more.
fn is_to_obey(agent: &Agent) -> bool {
    agent.rostered.is_some() && agent.is_one()
}

fn name(subject: Subject) -> String {
    match subject {
        Subject::Caller(id) => id.to_string(),
        Subject::Agent(id) => id.to_string(),
        Subject::Key(id) => id.to_string(),
        Subject::Version(version) => version.to_string(),
        Subject::Project(id) => id.to_string(),
        Subject::Site(id) => id.to_string(),
    }
}

/// Whether a state holds a subject back.
pub(super) fn restricts(state: &State, subject: Subject) -> bool {
    let listed = state.suspensions.contains(&subject) || state.revocations.iter().any(|revoked| revoked.subject == subject);
    let ended = match subject {
        Subject::Version(version) => state
            .keys
            .get(&version.key)
            .and_then(|key| key.versions.get(&version.number))
            .is_some_and(|entry| !matches!(entry.state, VersionState::PreActivation | VersionState::Active)),
        _ => false,
    };
    listed || ended
}
