//! Receipts in GraphQL.

use async_graphql::{ComplexObject, Context, Enum, ID, Object, Result, SimpleObject};
use schema::{
    encoding::{base64url, from_base64url},
    id::{AgentId, KeyVersion, ReceiptId},
    wire::agent,
};

use super::{
    query::{Page as RowPage, Position, ReceiptFilter, ReceiptView},
    usage::{Usage, Used},
};
use crate::{
    access::permit::Question,
    agents::graphql::AgentNode,
    callers::{Caller, graphql::CallerNode},
    eventing::view::Page,
    graphql::{
        api::Api,
        fault::{Fault, bad_request, fault},
        page::{List, cost, empty, list, page},
        scalar::{Operation, Timestamp, UInt64},
    },
};

/// What came of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "super::query::ReceiptOutcome")]
pub enum ReceiptOutcome {
    /// It was done.
    Ok,
    /// It was not.
    Failed,
    /// The caller went away or the stream broke.
    Aborted,
    /// Nobody knows: the agent stopped in between.
    Unknown,
    /// It was not allowed.
    Refused,
    /// Nothing has been heard of it yet.
    Pending,
}

/// What an agent says of one operation: who asked for what, why it was decided so, what came of it.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Receipt", complex)]
pub struct ReceiptNode {
    /// `rcp_…`
    pub id: ID,
    /// The agent.
    pub agent_id: ID,
    /// The agent's site.
    pub site_id: ID,
    /// The journal's life.
    pub incarnation: ID,
    /// Its number in the journal.
    pub sequence: UInt64,
    /// When, by the agent's wall clock.
    pub time: Timestamp,
    /// The caller's id; absent when it did not prove who it is.
    pub caller: Option<String>,
    /// What was asked.
    pub operation: Operation,
    /// `key_…/3`
    pub key_version: Option<ID>,
    /// The algorithm.
    pub algorithm: Option<String>,
    /// Bytes of plaintext.
    pub size: Option<UInt64>,
    /// The serials of the statements in force.
    pub statements: String,
    /// The deciding Cedar policies.
    pub policies: Vec<String>,
    /// The request at the agent.
    pub request: String,
    /// What came of it.
    pub outcome: ReceiptOutcome,
    /// The stable code of a refusal or failure.
    pub code: Option<String>,
    /// How many refusals like it this entry counts; else 1.
    pub count: UInt64,
    #[graphql(skip)]
    agent: AgentId,
}

impl From<ReceiptView> for ReceiptNode {
    fn from(view: ReceiptView) -> Self {
        Self {
            id: view.id.to_string().into(),
            agent_id: view.agent.to_string().into(),
            site_id: view.site.to_string().into(),
            incarnation: view.incarnation.to_string().into(),
            sequence: UInt64(view.seq),
            time: Timestamp(view.time),
            caller: view.intent.caller,
            operation: view.intent.operation.into(),
            key_version: view.intent.key_version.map(|version| version.to_string().into()),
            algorithm: view.intent.algorithm,
            size: view.size.map(UInt64),
            statements: view.intent.statements,
            policies: view.intent.policies,
            request: view.intent.request,
            outcome: view.outcome.into(),
            code: view.code,
            count: UInt64(view.count),
            agent: view.agent,
        }
    }
}

impl ReceiptNode {
    /// The receipt of this id.
    pub async fn find(api: &Api, id: ReceiptId) -> Result<Option<Self>, Fault> {
        let found = api.services.receipts.receipt(api.ctx.tenant, id).await;
        Ok(found.map_err(|error| fault("reading a receipt", &error))?.map(Into::into))
    }
}

#[ComplexObject]
impl ReceiptNode {
    /// The agent.
    async fn agent(&self, ctx: &Context<'_>) -> Result<Option<AgentNode>> {
        Api::of(ctx)?.load_agent(self.agent, None).await
    }
}

/// One use of a key.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub struct KeyUse {
    /// When, by the agent's wall clock.
    pub at: Timestamp,
    /// The caller's id.
    pub caller_id: Option<ID>,
    /// What was done.
    pub operation: Operation,
    /// `key_…/3`
    pub key_version: Option<ID>,
    /// The agent that did it.
    pub agent_id: ID,
    #[graphql(skip)]
    agent: AgentId,
}

#[ComplexObject]
impl KeyUse {
    /// The caller.
    async fn caller(&self, ctx: &Context<'_>) -> Result<Option<CallerNode>> {
        caller(Api::of(ctx)?, self.caller_id.as_ref()).await
    }

    /// The agent.
    async fn agent(&self, ctx: &Context<'_>) -> Result<Option<AgentNode>> {
        Api::of(ctx)?.load_agent(self.agent, None).await
    }
}

async fn caller(api: &Api, id: Option<&ID>) -> Result<Option<CallerNode>> {
    match id.and_then(|id| id.parse().ok()) {
        Some(id) => api.view::<Caller>(Some(id), None).await,
        None => Ok(None),
    }
}

/// The last use of a key or version; nothing for who may not read receipts.
pub async fn last_use(api: &Api, used: Used) -> Result<Option<KeyUse>> {
    let question = Question::new("readReceipts", "Tenant", api.ctx.tenant);
    if api.services.authorizer.decide(&api.ctx, &question).is_err() {
        return Ok(None);
    }
    let found =
        api.services.receipts.last_use(api.ctx.tenant, used).await.map_err(|error| fault("reading the last use of a key", &error))?;
    Ok(found.map(|view| KeyUse {
        at: Timestamp(view.time),
        caller_id: view.intent.caller.map(Into::into),
        operation: view.intent.operation.into(),
        key_version: view.intent.key_version.map(|version| version.to_string().into()),
        agent_id: view.agent.to_string().into(),
        agent: view.agent,
    }))
}

/// What can be done on an agent's host that receipts tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub enum HostActKind {
    /// The agent was locked.
    Locked,
    /// It was unlocked.
    Unlocked,
    /// Its vault, or a version in it, was backed up.
    BackedUp,
    /// Backups were to be restored into its vault; what it holds since tells whether they were.
    Restored,
}

/// What somebody did on an agent's host, as its receipts tell.
#[derive(Debug, Clone, SimpleObject)]
pub struct HostAct {
    /// What.
    pub act: HostActKind,
    /// When, by the host's clock.
    pub at: Timestamp,
    /// The user of the host, by number.
    pub user: UInt64,
    /// To what, in words: a file, by its hash, and what is in it.
    pub what: Option<String>,
    /// Why, in words.
    pub reason: Option<String>,
}

impl From<agent::HostAct> for HostAct {
    fn from(act: agent::HostAct) -> Self {
        let kind = match act.act {
            agent::HostActKind::Locked => HostActKind::Locked,
            agent::HostActKind::Unlocked => HostActKind::Unlocked,
            agent::HostActKind::BackedUp => HostActKind::BackedUp,
            agent::HostActKind::Restored => HostActKind::Restored,
        };
        Self { act: kind, at: Timestamp(act.done), user: UInt64(act.user.into()), what: act.what, reason: act.reason }
    }
}

/// What was done on an agent's host, newest first; nothing for who may not read receipts.
pub async fn host_acts(api: &Api, agent: AgentId, most: usize) -> Result<Vec<HostAct>> {
    let question = Question::new("readReceipts", "Tenant", api.ctx.tenant);
    if api.services.authorizer.decide(&api.ctx, &question).is_err() {
        return Ok(Vec::new());
    }
    let found = api.services.receipts.host_acts(api.ctx.tenant, agent, most).await;
    Ok(found.map_err(|error| fault("reading what was done on a host", &error))?.into_iter().map(Into::into).collect())
}

/// Everything that one caller did with one version by one operation.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub struct KeyUsage {
    /// The caller's id.
    pub caller_id: Option<ID>,
    /// What was done.
    pub operation: Operation,
    /// Whether that protects new data, so that it makes more that depends on the key.
    pub protects: bool,
    /// `key_…/3`
    pub key_version: ID,
    /// How often.
    pub count: UInt64,
    /// First, by the agents' wall clocks.
    pub first_at: Timestamp,
    /// Last.
    pub last_at: Timestamp,
}

#[ComplexObject]
impl KeyUsage {
    /// The caller.
    async fn caller(&self, ctx: &Context<'_>) -> Result<Option<CallerNode>> {
        caller(Api::of(ctx)?, self.caller_id.as_ref()).await
    }
}

impl From<Usage> for KeyUsage {
    fn from(usage: Usage) -> Self {
        Self {
            caller_id: usage.caller.map(Into::into),
            operation: usage.operation.into(),
            protects: usage.operation.protects(),
            key_version: usage.version.to_string().into(),
            count: UInt64(usage.count),
            first_at: Timestamp(usage.first),
            last_at: Timestamp(usage.last),
        }
    }
}

/// What a key was used for.
#[derive(Debug, Clone, SimpleObject)]
pub struct KeyUsageReport {
    /// What was used last comes first.
    pub uses: Vec<KeyUsage>,
    /// Whether there is more than is shown: ask for a version, or a time.
    pub more: bool,
}

/// Reading receipts.
#[derive(Default)]
pub struct ReceiptQuery;

#[Object]
impl ReceiptQuery {
    /// Who did what with a key or version, as agents have said: what depends on it, and who still uses it. What was refused or
    /// failed is not counted.
    #[graphql(complexity = "20 * child_complexity")]
    async fn key_usage(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Id, `project/name`, `project/alias`, `key_…/3` or `project/name/3`.")] key: String,
        #[graphql(desc = "Not before this.")] since: Option<Timestamp>,
        #[graphql(desc = "Before this.")] until: Option<Timestamp>,
    ) -> Result<Option<KeyUsageReport>> {
        let api = Api::asking(ctx, "readReceipts", None).await?;
        let used = match key.parse() {
            Ok(version) => Used::Version(version),
            Err(_) => match api.key_reference(&key).await? {
                Some(id) => Used::Key(id),
                None => match key.rsplit_once('/') {
                    Some((key, number)) => match (api.key_reference(key).await?, number.parse()) {
                        (Some(id), Ok(number)) => Used::Version(KeyVersion::new(id, number)),
                        _ => return Ok(None),
                    },
                    None => return Ok(None),
                },
            },
        };
        let times = (since.map(|time| time.0), until.map(|time| time.0));
        let found = api.services.receipts.usage(api.ctx.tenant, used, times).await;
        let (uses, more) = found.map_err(|error| fault("counting the uses of a key", &error))?;
        Ok(Some(KeyUsageReport { uses: uses.into_iter().map(Into::into).collect(), more }))
    }

    /// The receipts of the tenant's agents, oldest first: `last` shows the newest.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    #[allow(clippy::too_many_arguments, reason = "arguments of a connection")]
    async fn receipts(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        #[graphql(desc = "Id, or `project/name`.")] caller: Option<ID>,
        #[graphql(desc = "Id, `project/name`, `project/alias`, or a version's id.")] key: Option<String>,
        operation: Option<Operation>,
        agent: Option<ID>,
        outcome: Option<ReceiptOutcome>,
        #[graphql(desc = "Not before this.")] since: Option<Timestamp>,
        #[graphql(desc = "Before this.")] until: Option<Timestamp>,
    ) -> Result<List<ReceiptNode>> {
        let api = Api::asking(ctx, "readReceipts", None).await?;
        let page = page(first, after, last, before)?;
        let mut filter = ReceiptFilter {
            operation: operation.map(Into::into),
            outcome: outcome.map(Into::into),
            since: since.map(|time| time.0),
            until: until.map(|time| time.0),
            ..ReceiptFilter::default()
        };
        if let Some(caller) = caller {
            let Some(id) = api.caller_reference(&caller).await? else { return Ok(empty()) };
            filter.caller = Some(id.to_string());
        }
        if let Some(agent) = agent {
            let Ok(id) = agent.parse() else { return Ok(empty()) };
            filter.agent = Some(id);
        }
        if let Some(key) = key {
            match key.parse() {
                Ok(version) => filter.version = Some(version),
                Err(_) => match api.key_reference(&key).await? {
                    Some(id) => filter.key = Some(id),
                    None => return Ok(empty()),
                },
            }
        }
        // The rows come newest first; this list is oldest first, so its pages run the other way.
        let (rows, forward, started) = match page {
            Page::First { count, after } => {
                let place = after.as_deref().map(place_of).transpose()?;
                (RowPage::Last(count, place), true, place.is_some())
            }
            Page::Last { count, before } => {
                let place = before.as_deref().map(place_of).transpose()?;
                (RowPage::First(count, place), false, place.is_some())
            }
        };
        let found = api.services.receipts.receipts(api.ctx.tenant, &filter, rows).await;
        let (views, more) = found.map_err(|error| fault("listing receipts", &error))?;
        let entries = views.into_iter().rev().map(|view| (base64url(view.position().to_string().as_bytes()), view.into()));
        let (previous, next) = if forward { (started, more) } else { (more, started) };
        Ok(list(entries, previous, next))
    }
}

fn place_of(cursor: &str) -> Result<Position, Fault> {
    let text = from_base64url(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| bad_request("invalid_cursor", "this is not a cursor of this list"))
}
