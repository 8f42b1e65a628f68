//! The one place where the control plane decides who may do what: Cedar, over the literal question.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Authorizer as Engine, Context, Decision, Effect, Entities, Entity as CedarEntity, EntityId, EntityTypeName, EntityUid, PolicySet,
    Request, RestrictedExpression, Schema, ValidationMode, Validator,
};
use schema::id::PrincipalId;

use super::{
    context::OpContext,
    permit::{Authorizer, Denied, Entity, Permit, Question},
};

const POLICIES: &str = include_str!("control-plane.cedar");
const SCHEMA: &str = include_str!("control-plane.cedarschema");

/// Decides by the Cedar policies that are compiled in.
pub struct CedarAuthorizer {
    engine: Engine,
    policies: PolicySet,
    schema: Schema,
    /// Which action belongs to which group.
    actions: Entities,
}

/// The compiled-in policies are wrong: a fault of the build.
#[derive(Debug, thiserror::Error)]
#[error("the control plane's own authorisation policy is not valid: {0}")]
pub struct InvalidPolicy(String);

impl CedarAuthorizer {
    /// Reads and validates the policies.
    pub fn new() -> Result<Self, InvalidPolicy> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| InvalidPolicy(error.to_string()))?;
        let parsed: PolicySet = POLICIES.parse().map_err(|error: cedar_policy::ParseErrors| InvalidPolicy(error.to_string()))?;
        let named = parsed.policies().map(|policy| match policy.annotation("id") {
            Some(id) => policy.new_id(cedar_policy::PolicyId::new(id)),
            None => policy.clone(),
        });
        let policies = PolicySet::from_policies(named).map_err(|error| InvalidPolicy(error.to_string()))?;
        let result = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
        if let Some(error) = result.validation_errors().next() {
            return Err(InvalidPolicy(error.to_string()));
        }
        let actions = schema.action_entities().map_err(|error| InvalidPolicy(error.to_string()))?;
        Ok(Self { engine: Engine::new(), policies, schema, actions })
    }

    /// Every action there is, sorted; groups left out.
    pub fn actions(&self) -> Vec<String> {
        let groups: HashSet<_> = self.schema.action_groups().collect();
        let mut actions: Vec<_> =
            self.schema.actions().filter(|action| !groups.contains(action)).map(|action| action.id().unescaped().to_owned()).collect();
        actions.sort();
        actions
    }

    fn ask(&self, ctx: &OpContext, question: &Question) -> Result<cedar_policy::Response, String> {
        let tenant = uid("Tenant", &ctx.tenant.to_string())?;
        let principal = uid(principal_kind(ctx.principal), &ctx.principal.to_string())?;
        let resource = entity_uid(&question.resource)?;
        let action = uid("Action", question.action)?;
        let request = Request::new(principal.clone(), action, resource.clone(), Context::empty(), Some(&self.schema))
            .map_err(|error| error.to_string())?;
        let scopes = ctx.scopes.iter().map(|scope| RestrictedExpression::new_string(scope.to_string()));
        let attributes = HashMap::from([
            ("tenant".to_owned(), RestrictedExpression::new_entity_uid(tenant.clone())),
            ("scopes".to_owned(), RestrictedExpression::new_set(scopes)),
        ]);
        let mut entities = vec![CedarEntity::new(principal, attributes, HashSet::new()).map_err(|error| error.to_string())?];
        let mut parents = HashSet::new();
        for parent in &question.parents {
            parents.insert(entity_uid(parent)?);
        }
        // What is asked about lies in the tenant of the one who asks: stores and queries look nowhere else.
        if question.resource.kind != "Tenant" {
            parents.insert(tenant);
        }
        let mut facts = HashMap::new();
        for (name, value) in &question.facts {
            let value = value.to_string().parse::<RestrictedExpression>().map_err(|error| error.to_string())?;
            facts.insert((*name).to_owned(), value);
        }
        entities.push(CedarEntity::new(resource, facts, parents).map_err(|error| error.to_string())?);
        let entities = self.actions.clone().add_entities(entities, None).map_err(|error| error.to_string())?;
        Ok(self.engine.is_authorized(&request, &self.policies, &entities))
    }
}

impl Authorizer for CedarAuthorizer {
    fn decide(&self, ctx: &OpContext, question: &Question) -> Result<Permit, Denied> {
        let deny = |reason: String, policies| Err(Denied { action: question.action, reason, policies });
        let response = match self.ask(ctx, question) {
            Ok(response) => response,
            Err(reason) => {
                tracing::error!(
                    action = question.action,
                    kind = question.resource.kind,
                    reason,
                    "an authorisation question could not be asked"
                );
                return deny("the question could not be decided; this is a fault of the control plane".to_owned(), Vec::new());
            }
        };
        // A policy that fails to evaluate might have been a forbid: then nothing is allowed.
        if response.diagnostics().errors().next().is_some() {
            return deny("a policy could not be evaluated".to_owned(), Vec::new());
        }
        if response.decision() == Decision::Allow {
            return Ok(Permit::granted(ctx));
        }
        let forbidding: Vec<_> = response
            .diagnostics()
            .reason()
            .filter_map(|id| self.policies.policy(id))
            .filter(|policy| policy.effect() == Effect::Forbid)
            .collect();
        match forbidding.first() {
            Some(policy) => {
                let ids = forbidding.iter().map(|policy| policy.id().to_string()).collect();
                deny(policy.annotation("explain").unwrap_or("a policy forbids it").to_owned(), ids)
            }
            None if ctx.scopes.is_empty() => deny("nothing allows it".to_owned(), Vec::new()),
            None => {
                let scopes = ctx.scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                deny(format!("nothing allows it to a token of scope {scopes}"), Vec::new())
            }
        }
    }
}

fn principal_kind(principal: PrincipalId) -> &'static str {
    match principal {
        PrincipalId::Member(_) => "Member",
        PrincipalId::Service(_) => "Service",
        PrincipalId::Agent(_) => "Machine",
        PrincipalId::System(_) => "System",
    }
}

fn entity_uid(entity: &Entity) -> Result<EntityUid, String> {
    uid(entity.kind, &entity.id)
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind: EntityTypeName = kind.parse().map_err(|error: cedar_policy::ParseErrors| error.to_string())?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}
