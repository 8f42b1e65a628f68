//! The schema: every domain's part, merged; and how one request is executed.

use std::sync::Arc;

use async_graphql::{EmptySubscription, MergedObject, Request, Response, Schema};

use super::{
    algorithms::AlgorithmQuery,
    api::{Api, Services},
    fault::{complete, fault},
    limits::{AliasLimit, MAX_COMPLEXITY, MAX_DEPTH, MAX_DIRECTIVES},
    node::{Node, NodeQuery},
};
use crate::{
    access::context::OpContext,
    agents::graphql::{AgentMutation, AgentQuery},
    aliases::graphql::AliasMutation,
    callers::graphql::{CallerMutation, CallerQuery},
    keys::{graphql::KeyQuery, mutations::KeyMutation},
    policies::{graphql::PolicyQuery, mutations::PolicyMutation},
    projects::graphql::{ProjectMutation, ProjectQuery},
    sites::graphql::{SiteMutation, SiteQuery},
    tenants::graphql::{TenantMutation, TenantQuery},
    tokens::graphql::{TokenMutation, TokenQuery},
};

/// Lists page with `first` or `last` (1 to 100, default 20) and opaque cursors. `position` is the token a mutation answered
/// with: the query waits, bounded, until this replica has read that far. A reference is an id or a name; of what lives in
/// a project, `project/name`.
#[derive(MergedObject, Default)]
pub struct Query(
    NodeQuery,
    TenantQuery,
    AlgorithmQuery,
    ProjectQuery,
    SiteQuery,
    AgentQuery,
    CallerQuery,
    KeyQuery,
    PolicyQuery,
    TokenQuery,
);

/// Every command there is. Expected outcomes are data: `userErrors` says why nothing was done.
#[derive(MergedObject, Default)]
pub struct Mutation(
    TenantMutation,
    ProjectMutation,
    SiteMutation,
    AgentMutation,
    CallerMutation,
    KeyMutation,
    AliasMutation,
    PolicyMutation,
    TokenMutation,
);

/// The executable schema.
pub type ApiSchema = Schema<Query, Mutation, EmptySubscription>;

/// Makes the schema, with its limits.
pub fn schema() -> ApiSchema {
    Schema::build(Query::default(), Mutation::default(), EmptySubscription)
        .register_output_type::<Node>()
        .limit_depth(MAX_DEPTH)
        .limit_complexity(MAX_COMPLEXITY)
        .limit_directives(MAX_DIRECTIVES)
        .extension(AliasLimit)
        .finish()
}

/// The committed contract, `schema/contracts/control-plane.graphql`.
pub fn sdl() -> String {
    let text = schema().sdl_with_options(async_graphql::SDLExportOptions::new().use_space_ident().prefer_single_line_descriptions());
    format!("{}\n", text.trim())
}

/// Executes one request of one principal.
pub async fn execute(schema: &ApiSchema, services: Arc<Services>, ctx: OpContext, query: Request) -> Response {
    let request = ctx.request;
    let response = match services.handler.keys(ctx.tenant).await {
        Ok(keys) => schema.execute(query.data(Api::new(ctx, keys, services))).await,
        Err(error) => {
            Response::from_errors(vec![fault("opening the tenant's keys", &error).into_server_error(async_graphql::Pos::default())])
        }
    };
    complete(response, request)
}
