//! `node(id)`: anything with an id. The prefix says what it is.

use async_graphql::{Context, ID, Interface, Object, Result};

use super::api::Api;
use crate::{
    agents::{Agent, graphql::AgentNode},
    callers::{Caller, graphql::CallerNode},
    composites::{Composite, graphql::CompositeNode},
    erasures::{Erasure, graphql::ErasureNode},
    eventing::graphql::EventNode,
    keys::{
        Key,
        graphql::{KeyNode, KeyVersionNode},
    },
    policies::{Policy, graphql::PolicyNode},
    projects::{Project, graphql::ProjectNode},
    receipts::graphql::ReceiptNode,
    sites::{Site, graphql::SiteNode},
    tenants::{Tenant, graphql::TenantNode},
    tokens::{ApiToken, graphql::ApiTokenNode},
};

/// Anything with an id. Ids are unique across kinds.
#[derive(Interface)]
#[graphql(field(name = "id", ty = "&ID", desc = "Its id: the prefix says what it is."))]
pub enum Node {
    /// `ten_…`
    Tenant(TenantNode),
    /// `prj_…`
    Project(ProjectNode),
    /// `site_…`
    Site(SiteNode),
    /// `agt_…`
    Agent(AgentNode),
    /// `clr_…`
    Caller(CallerNode),
    /// `key_…`
    Key(KeyNode),
    /// `key_…/3`
    KeyVersion(KeyVersionNode),
    /// `cmp_…`
    Composite(CompositeNode),
    /// `pol_…`
    Policy(PolicyNode),
    /// `tok_…`
    ApiToken(ApiTokenNode),
    /// `evt_…`
    Event(EventNode),
    /// `rcp_…`
    Receipt(ReceiptNode),
    /// `era_…`
    Erasure(ErasureNode),
}

/// Reading anything.
#[derive(Default)]
pub struct NodeQuery;

#[Object]
impl NodeQuery {
    /// Anything of the tenant with this id.
    async fn node(&self, ctx: &Context<'_>, id: ID, position: Option<String>) -> Result<Option<Node>> {
        let prefix = id.split_once('_').map(|(prefix, _)| prefix);
        let action = match prefix {
            Some("tok") => "readTokens",
            Some("evt") => "readEvents",
            Some("rcp") => "readReceipts",
            Some("era") => "readErasures",
            _ => "read",
        };
        let api = Api::asking(ctx, action, position).await?;
        macro_rules! look {
            ($aggregate:ty) => {
                api.view::<$aggregate>(id.parse().ok(), None).await?.map(Node::from)
            };
        }
        Ok(match prefix {
            Some("ten") => look!(Tenant),
            Some("prj") => look!(Project),
            Some("site") => look!(Site),
            Some("agt") => look!(Agent),
            Some("clr") => look!(Caller),
            Some("key") => match id.parse::<schema::id::KeyVersion>() {
                Ok(version) => {
                    let key = api.view::<Key>(Some(version.key), None).await?;
                    let mut versions = key.into_iter().flat_map(|key| key.versions);
                    versions.find(|candidate| candidate.number == version.number).map(Node::from)
                }
                Err(_) => look!(Key),
            },
            Some("cmp") => look!(Composite),
            Some("pol") => look!(Policy),
            Some("tok") => look!(ApiToken),
            Some("era") => look!(Erasure),
            Some("evt") => match id.parse() {
                Ok(id) => EventNode::find(api, id).await?.map(Node::from),
                Err(_) => None,
            },
            Some("rcp") => match id.parse() {
                Ok(id) => ReceiptNode::find(api, id).await?.map(Node::from),
                Err(_) => None,
            },
            _ => None,
        })
    }
}
