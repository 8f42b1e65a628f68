//! The schema: every domain's part, merged; and how one request is executed.

use std::sync::Arc;

use async_graphql::{MergedObject, Response, Schema};

use super::{
    algorithms::AlgorithmQuery,
    api::{Api, Services},
    fault::{complete, fault},
    limits::{MAX_COMPLEXITY, MAX_DEPTH, MAX_DIRECTIVES, Parsed},
    node::{Node, NodeQuery},
};
use crate::{
    access::context::OpContext,
    agents::graphql::{AgentMutation, AgentQuery},
    aliases::graphql::AliasMutation,
    authorities::graphql::{AuthorityMutation, AuthorityQuery},
    bundles::{
        containment::ContainmentQuery,
        proposal_graphql::{ProposalMutation, ProposalQuery},
        recovery_graphql::{RecoveryMutation, RecoveryQuery},
    },
    callers::graphql::{CallerMutation, CallerQuery},
    composites::graphql::{CompositeMutation, CompositeQuery},
    erasures::graphql::{ErasureMutation, ErasureQuery},
    eventing::{graphql::EventQuery, subscription::EventSubscription},
    keys::{graphql::KeyQuery, mutations::KeyMutation},
    policies::{graphql::PolicyQuery, mutations::PolicyMutation},
    projects::graphql::{ProjectMutation, ProjectQuery},
    receipts::graphql::ReceiptQuery,
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
    AuthorityQuery,
    CallerQuery,
    KeyQuery,
    CompositeQuery,
    PolicyQuery,
    ProposalQuery,
    TokenQuery,
    EventQuery,
    ReceiptQuery,
    ContainmentQuery,
    ErasureQuery,
    RecoveryQuery,
);

/// Every command there is. Expected outcomes are data: `userErrors` says why nothing was done.
#[derive(MergedObject, Default)]
pub struct Mutation(
    TenantMutation,
    ProjectMutation,
    SiteMutation,
    AgentMutation,
    AuthorityMutation,
    CallerMutation,
    KeyMutation,
    AliasMutation,
    CompositeMutation,
    PolicyMutation,
    ProposalMutation,
    RecoveryMutation,
    TokenMutation,
    ErasureMutation,
);

/// The executable schema.
pub type ApiSchema = Schema<Query, Mutation, EventSubscription>;

/// Makes the schema, with its limits.
pub fn schema() -> ApiSchema {
    Schema::build(Query::default(), Mutation::default(), EventSubscription)
        .register_output_type::<Node>()
        .limit_depth(MAX_DEPTH)
        .limit_complexity(MAX_COMPLEXITY)
        .limit_directives(MAX_DIRECTIVES)
        .finish()
}

/// The committed contract, `schema/contracts/control-plane.graphql`.
pub fn sdl() -> String {
    let text = schema().sdl_with_options(async_graphql::SDLExportOptions::new().use_space_ident().prefer_single_line_descriptions());
    format!("{}\n", text.trim())
}

/// Executes one request of one principal.
pub async fn execute(schema: &ApiSchema, services: Arc<Services>, ctx: OpContext, query: Parsed) -> Response {
    let request = ctx.request;
    let response = match services.handler.keys(ctx.tenant).await {
        Ok(keys) => schema.execute(query.request.data(Api::new(ctx, keys, services))).await,
        Err(error) => {
            Response::from_errors(vec![fault("opening the tenant's keys", &error).into_server_error(async_graphql::Pos::default())])
        }
    };
    complete(response, request)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/contracts/control-plane.graphql");

    #[test]
    fn the_committed_contract_is_what_the_code_prints() {
        let printed = sdl();
        if std::env::var_os("FREEHOLD_BLESS").is_some() {
            std::fs::write(SDL, &printed).unwrap();
        }
        let committed = std::fs::read_to_string(SDL).unwrap();
        assert!(committed == printed, "the GraphQL contract drifted: run with FREEHOLD_BLESS=1 and review the difference");
    }

    #[test]
    fn the_contract_is_a_valid_schema() {
        let checked = apollo_compiler::Schema::parse_and_validate(sdl(), "control-plane.graphql");
        assert!(checked.is_ok(), "{}", checked.err().map(|error| error.to_string()).unwrap_or_default());
    }

    #[test]
    fn what_the_command_line_asks_fits_the_contract() {
        let contract = apollo_compiler::Schema::parse_and_validate(sdl(), "control-plane.graphql").unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../cli/src/queries");
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let checked = apollo_compiler::ExecutableDocument::parse_and_validate(&contract, text, &path);
            assert!(checked.is_ok(), "{}", checked.err().map(|error| error.to_string()).unwrap_or_default());
        }
    }
}
