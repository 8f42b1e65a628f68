//! `node(id)`: anything with an id. The prefix says what it is.

use async_graphql::{Context, ID, Interface, Object, Result};

use super::api::Api;
use crate::{
    agents::{Agent, graphql::AgentNode},
    callers::{Caller, graphql::CallerNode},
    keys::{Key, graphql::KeyNode},
    policies::{Policy, graphql::PolicyNode},
    projects::{Project, graphql::ProjectNode},
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
    /// `pol_…`
    Policy(PolicyNode),
    /// `tok_…`
    ApiToken(ApiTokenNode),
}

/// Reading anything.
#[derive(Default)]
pub struct NodeQuery;

#[Object]
impl NodeQuery {
    /// Anything of the tenant with this id.
    async fn node(&self, ctx: &Context<'_>, id: ID, position: Option<String>) -> Result<Option<Node>> {
        let action = if id.starts_with("tok_") { "readTokens" } else { "read" };
        let api = Api::asking(ctx, action, position).await?;
        macro_rules! look {
            ($aggregate:ty) => {
                match id.parse() {
                    Ok(id) => api.view::<$aggregate>(id, None).await?.map(Node::from),
                    Err(_) => None,
                }
            };
        }
        Ok(match id.split_once('_').map(|(prefix, _)| prefix) {
            Some("ten") => look!(Tenant),
            Some("prj") => look!(Project),
            Some("site") => look!(Site),
            Some("agt") => look!(Agent),
            Some("clr") => look!(Caller),
            Some("key") => look!(Key),
            Some("pol") => look!(Policy),
            Some("tok") => look!(ApiToken),
            _ => None,
        })
    }
}
