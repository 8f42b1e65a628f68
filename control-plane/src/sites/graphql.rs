//! Sites in GraphQL.

use async_graphql::{ComplexObject, Context, ID, InputObject, Object, Result, SimpleObject};

use super::{Recovery, Site, SiteCommand};
use crate::{
    access::permit::Question,
    agents::{
        Agent,
        graphql::{AgentNode, AgentState},
    },
    bundles::graphql::SiteStatement,
    graphql::{
        api::{Api, Filter, Seen, Shown},
        fault::only_now,
        page::{List, cost, page},
        payload::{Common, CommonNew, field, optional, payloads},
        rules::{OfflineRule, OfflineRuleInput},
        scalar::{Timestamp, UInt64},
    },
    naming,
};

/// A group of agents that share one set of statements.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Site", complex)]
pub struct SiteNode {
    /// `site_…`
    pub id: ID,
    /// Its name in the tenant; never changes.
    pub name: String,
    /// What people call it.
    pub display_name: Option<String>,
    /// What goes on there without the control plane; absent: the tenant's rule, or the defaults.
    pub offline: Option<OfflineRule>,
    /// The key that its backups are sealed to; absent: there is none, and nothing is backed up.
    pub recovery_key: Option<SiteRecoveryKey>,
    /// Since when none of its agents may do anything; absent while they may.
    pub suspended_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Rises with every change.
    pub revision: UInt64,
    #[graphql(skip)]
    pub(crate) site: schema::id::SiteId,
    #[graphql(skip)]
    as_of: Option<Timestamp>,
}

/// The key that backups of a site are sealed to. Its private half is in the shares that were handed out, and nowhere else.
#[derive(Debug, Clone, SimpleObject)]
pub struct SiteRecoveryKey {
    /// Identifies it: what `freehold-agent recovery init` printed.
    pub key_id: String,
    /// Its number at the site, from 1.
    pub number: u32,
    /// How many shares of its private half there are.
    pub shares: u32,
    /// How many of them open a backup.
    pub threshold: u32,
    /// The agent it was made at.
    pub agent_id: ID,
    /// When it was registered.
    pub registered_at: Timestamp,
}

impl SiteRecoveryKey {
    fn of(recovery: &Recovery) -> Self {
        Self {
            key_id: recovery.keyid.to_string(),
            number: recovery.number,
            shares: recovery.shares.into(),
            threshold: recovery.threshold.into(),
            agent_id: recovery.agent.to_string().into(),
            registered_at: Timestamp(recovery.at),
        }
    }
}

impl Shown for Site {
    type Node = SiteNode;

    fn node(seen: Seen<Self>) -> Option<SiteNode> {
        let fixed = seen.state.fixed.as_ref()?;
        Some(SiteNode {
            id: seen.id.to_string().into(),
            name: fixed.name.to_string(),
            display_name: seen.state.display_name.as_ref().map(ToString::to_string),
            offline: seen.state.offline.as_ref().map(Into::into),
            recovery_key: seen.state.recovery.as_ref().map(SiteRecoveryKey::of),
            suspended_at: seen.state.suspended.map(Timestamp),
            created_at: Timestamp(fixed.created),
            revision: UInt64(seen.revision),
            site: seen.id,
            as_of: seen.as_of,
        })
    }
}

#[ComplexObject]
impl SiteNode {
    /// Its agents.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    async fn agents(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        state: Option<AgentState>,
    ) -> Result<List<AgentNode>> {
        let filter = Filter::within(&*self.id).state(state.map(AgentState::word));
        Api::of(ctx)?.list::<Agent>(filter, page(first, after, last, before)?, self.as_of).await
    }

    /// The statements in force at the site now: root, policies, state and heartbeat. Not to be asked for as of a time.
    async fn statements(&self, ctx: &Context<'_>) -> Result<Vec<SiteStatement>> {
        only_now(self.as_of, "what is in force at a site")?;
        crate::bundles::graphql::statements(Api::of(ctx)?, self.site).await
    }
}

/// A site to create.
#[derive(InputObject)]
pub struct CreateSiteInput {
    /// 1 to 63 characters of a-z, 0-9, `-` and `.`, starting with a letter. Never changes.
    name: String,
    /// What people call it.
    display_name: Option<String>,
    #[graphql(flatten)]
    common: CommonNew,
}

/// What people call a site from now on.
#[derive(InputObject)]
pub struct RenameSiteInput {
    /// Id or name.
    site: ID,
    /// What people call it; absent: by its name.
    display_name: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// What goes on at a site without the control plane.
#[derive(InputObject)]
pub struct SetSiteOfflineRuleInput {
    /// Id or name.
    site: ID,
    /// Absent: the tenant's rule, or the defaults.
    offline: Option<OfflineRuleInput>,
    #[graphql(flatten)]
    common: Common,
}

/// A site whose agents shall stand still.
#[derive(InputObject)]
pub struct SuspendSiteInput {
    /// Id or name.
    site: ID,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// A site whose agents may act again.
#[derive(InputObject)]
pub struct ResumeSiteInput {
    /// Id or name.
    site: ID,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

payloads!(site: SiteNode => CreateSitePayload, RenameSitePayload, SetSiteOfflineRulePayload, SuspendSitePayload, ResumeSitePayload);

/// Reading sites.
#[derive(Default)]
pub struct SiteQuery;

#[Object]
impl SiteQuery {
    /// One site, by id or name, as it is now or was.
    async fn site(
        &self,
        ctx: &Context<'_>,
        reference: String,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<Option<SiteNode>> {
        let api = Api::reading(ctx, position).await?;
        api.view::<Site>(api.site_reference(&reference), as_of).await
    }

    /// The sites of the tenant, in the order of their ids.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    #[allow(clippy::too_many_arguments, reason = "arguments of a connection")]
    async fn sites(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        #[graphql(desc = "Part of a name.")] search: Option<String>,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<List<SiteNode>> {
        let filter = Filter::all().search(search);
        Api::reading(ctx, position).await?.list::<Site>(filter, page(first, after, last, before)?, as_of).await
    }
}

/// Changing sites.
#[derive(Default)]
pub struct SiteMutation;

#[Object]
impl SiteMutation {
    /// Begins a site.
    async fn create_site(&self, ctx: &Context<'_>, input: CreateSiteInput) -> Result<CreateSitePayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let name = field("name", &input.name)?;
            let id = naming::site_id(&api.keys, &name);
            let display_name = optional("displayName", input.display_name.as_deref())?;
            let question = Question::new("createSite", "Site", id);
            api.run::<Site>(id, SiteCommand::Create { name, display_name }, question, input.common).await
        };
        CreateSitePayload::of(attempt.await)
    }

    /// Calls a site something else.
    async fn rename_site(&self, ctx: &Context<'_>, input: RenameSiteInput) -> Result<RenameSitePayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.site("site", &input.site)?;
            let display_name = optional("displayName", input.display_name.as_deref())?;
            let question = Question::new("renameSite", "Site", id);
            api.run::<Site>(id, SiteCommand::Rename { display_name }, question, input.common).await
        };
        RenameSitePayload::of(attempt.await)
    }

    /// Says what goes on at a site while the control plane cannot be reached.
    async fn set_site_offline_rule(&self, ctx: &Context<'_>, input: SetSiteOfflineRuleInput) -> Result<SetSiteOfflineRulePayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.site("site", &input.site)?;
            let rule = input.offline.map(Into::into);
            let question = Question::new("setSiteOfflineRule", "Site", id);
            api.run::<Site>(id, SiteCommand::SetOfflineRule { rule }, question, input.common).await
        };
        SetSiteOfflineRulePayload::of(attempt.await)
    }

    /// No agent of it does anything until it is resumed.
    async fn suspend_site(&self, ctx: &Context<'_>, input: SuspendSiteInput) -> Result<SuspendSitePayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.site("site", &input.site)?;
            let command = SiteCommand::SetSuspended { suspended: true, reason: optional("reason", input.reason.as_deref())? };
            api.run::<Site>(id, command, Question::new("suspendSite", "Site", id), input.common).await
        };
        SuspendSitePayload::of(attempt.await)
    }

    /// Its agents may act again.
    async fn resume_site(&self, ctx: &Context<'_>, input: ResumeSiteInput) -> Result<ResumeSitePayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.site("site", &input.site)?;
            let command = SiteCommand::SetSuspended { suspended: false, reason: optional("reason", input.reason.as_deref())? };
            api.run::<Site>(id, command, Question::new("resumeSite", "Site", id), input.common).await
        };
        ResumeSitePayload::of(attempt.await)
    }
}
