//! Receipts in GraphQL.

use async_graphql::{ComplexObject, Context, Enum, ID, Object, Result, SimpleObject};
use schema::{
    encoding::{base64url, from_base64url},
    id::{AgentId, ReceiptId},
};

use super::query::{Page as RowPage, Position, ReceiptFilter, ReceiptView};
use crate::{
    agents::graphql::AgentNode,
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

/// Reading receipts.
#[derive(Default)]
pub struct ReceiptQuery;

#[Object]
impl ReceiptQuery {
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
