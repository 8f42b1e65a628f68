//! Who may do what, as a table: every action and every scope. The file is committed, so that a change of policy shows in
//! review; `FREEHOLD_BLESS=1 cargo test --workspace --lib -- access::table` writes it anew.

use std::{collections::BTreeSet, fmt::Write, path::Path};

use async_graphql::parser::types::{TypeKind, TypeSystemDefinition};
use schema::{
    id::{AgentId, PrincipalId, ProjectId, RequestId, ServiceAccountId, TenantId},
    token::Scope,
};

use super::{
    authorize::CedarAuthorizer,
    context::OpContext,
    permit::{Authorizer, Question},
};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/access/allowed.txt");

fn context(principal: PrincipalId, scopes: Vec<Scope>) -> OpContext {
    OpContext { tenant: TenantId::from_bits(7), principal, scopes, via: None, request: RequestId::from_bits(1) }
}

/// Everybody there is: the columns of the table.
fn everybody() -> Vec<(String, OpContext)> {
    let service = PrincipalId::Service(ServiceAccountId::from_bits(1));
    let mut everybody: Vec<_> = Scope::ALL.iter().map(|scope| (scope.to_string(), context(service, vec![*scope]))).collect();
    everybody.push(("no-scope".to_owned(), context(service, Vec::new())));
    everybody.push(("agent".to_owned(), context(PrincipalId::Agent(AgentId::from_bits(1)), Vec::new())));
    everybody.push(("system".to_owned(), context(PrincipalId::System("test"), Vec::new())));
    everybody
}

/// An action is asked of every kind of resource that may carry it; the tenant's own kind is always among the kinds.
fn may(authorizer: &CedarAuthorizer, ctx: &OpContext, action: &'static str) -> bool {
    let kinds = [
        "Tenant",
        "Project",
        "Site",
        "Agent",
        "Caller",
        "Key",
        "Alias",
        "Composite",
        "Policy",
        "ApiToken",
        "Statements",
        "Receipts",
        "Authorities",
        "Erasure",
    ];
    kinds.iter().any(|kind| {
        let id = if *kind == "Tenant" { ctx.tenant.to_string() } else { format!("{}_x", kind.to_lowercase()) };
        authorizer.decide(ctx, &Question::new(action, kind, id)).is_ok()
    })
}

fn actions(authorizer: &CedarAuthorizer) -> Vec<&'static str> {
    authorizer.actions().into_iter().map(|action| &*String::leak(action)).collect()
}

fn mutations() -> BTreeSet<String> {
    let document = async_graphql::parser::parse_schema(crate::graphql::sdl()).unwrap();
    let definitions = document.definitions.into_iter().filter_map(|definition| match definition {
        TypeSystemDefinition::Type(definition) if definition.node.name.node == "Mutation" => Some(definition.node.kind),
        _ => None,
    });
    let objects = definitions.filter_map(|kind| match kind {
        TypeKind::Object(object) => Some(object),
        _ => None,
    });
    objects.flat_map(|object| object.fields).map(|field| field.node.name.node.to_string()).collect()
}

#[test]
fn the_table_is_what_policy_says() {
    let authorizer = CedarAuthorizer::new().unwrap();
    let everybody = everybody();
    let mut table = format!("{:<32}", "action");
    for (name, _) in &everybody {
        write!(table, "{name:>15}").unwrap();
    }
    for action in actions(&authorizer) {
        write!(table, "\n{action:<32}").unwrap();
        for (_, ctx) in &everybody {
            write!(table, "{:>15}", if may(&authorizer, ctx, action) { "yes" } else { "-" }).unwrap();
        }
    }
    table.push('\n');
    if std::env::var_os("FREEHOLD_BLESS").is_some() {
        std::fs::write(TABLE, &table).unwrap();
    }
    let committed = std::fs::read_to_string(Path::new(TABLE)).unwrap_or_default();
    assert_eq!(committed, table, "run with FREEHOLD_BLESS=1 and review the difference");
}

#[test]
fn every_mutation_has_an_action_that_somebody_may_and_somebody_may_not() {
    let authorizer = CedarAuthorizer::new().unwrap();
    let actions = actions(&authorizer);
    for mutation in mutations() {
        let action = actions.iter().find(|action| **action == mutation);
        let action = action.unwrap_or_else(|| panic!("the mutation {mutation} has no action in control-plane.cedarschema"));
        let (allowed, denied): (Vec<_>, Vec<_>) = everybody().into_iter().partition(|(_, ctx)| may(&authorizer, ctx, action));
        assert!(!allowed.is_empty(), "nobody may {mutation}");
        assert!(denied.iter().any(|(name, _)| name == "reader"), "a reader may {mutation}");
        assert!(denied.iter().any(|(name, _)| name == "no-scope"), "a token without scopes may {mutation}");
    }
}

#[test]
fn nothing_reaches_into_another_tenant() {
    let authorizer = CedarAuthorizer::new().unwrap();
    let admin = context(PrincipalId::Service(ServiceAccountId::from_bits(1)), vec![Scope::Admin]);
    let denied = authorizer.decide(&admin, &Question::new("renameTenant", "Tenant", TenantId::from_bits(8))).unwrap_err();
    assert_eq!(denied.policies, ["one-tenant"]);
    assert!(authorizer.decide(&admin, &Question::new("renameTenant", "Tenant", admin.tenant)).is_ok());
    let inside = Question::new("createKey", "Key", "key_x").within("Project", ProjectId::from_bits(1));
    assert!(authorizer.decide(&admin, &inside).is_ok());
}

#[test]
fn unknown_actions_are_refused() {
    let authorizer = CedarAuthorizer::new().unwrap();
    let admin = context(PrincipalId::Service(ServiceAccountId::from_bits(1)), vec![Scope::Admin]);
    assert!(authorizer.decide(&admin, &Question::new("doAnything", "Key", "key_x")).is_err());
}
