//! A decision that was made, as a value. Appending takes a [`Permit`] and spends it; only this folder can make one.

use std::collections::BTreeMap;

use schema::id::{PrincipalId, TenantId};

use super::context::OpContext;

/// The literal question: may this principal do this to that?
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The Cedar action, e.g. `rotateKey`.
    pub action: &'static str,
    /// The resource.
    pub resource: Entity,
    /// What the resource belongs to, nearest first, e.g. its project.
    pub parents: Vec<Entity>,
    /// Facts about the resource that policy may use, by attribute name.
    pub facts: BTreeMap<&'static str, serde_json::Value>,
}

/// A Cedar entity: type and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// The entity type, e.g. `Key`.
    pub kind: &'static str,
    /// The id, as text.
    pub id: String,
}

impl Question {
    /// May this be done to that?
    pub fn new(action: &'static str, kind: &'static str, id: impl ToString) -> Self {
        Self { action, resource: Entity { kind, id: id.to_string() }, parents: Vec::new(), facts: BTreeMap::new() }
    }

    /// The resource belongs to this.
    #[must_use]
    pub fn within(mut self, kind: &'static str, id: impl ToString) -> Self {
        self.parents.push(Entity { kind, id: id.to_string() });
        self
    }

    /// The resource has this attribute.
    #[must_use]
    pub fn fact(mut self, name: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.facts.insert(name, value.into());
        self
    }
}

/// It was asked and allowed: one act of one principal inside one tenant. Spent by appending.
#[derive(Debug)]
#[must_use = "a permit is spent by the act it was given for"]
pub struct Permit {
    tenant: TenantId,
    principal: PrincipalId,
}

impl Permit {
    /// Only what decides may call this.
    pub(in crate::access) fn granted(ctx: &OpContext) -> Self {
        Self { tenant: ctx.tenant, principal: ctx.principal }
    }

    /// Whether it was given to this principal inside this tenant.
    pub(crate) fn is_for(&self, ctx: &OpContext) -> bool {
        self.tenant == ctx.tenant && self.principal == ctx.principal
    }
}

/// It was asked and not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("you may not {action} here: {reason}")]
pub struct Denied {
    /// The action.
    pub action: &'static str,
    /// What forbids it, or that nothing allows it, and what would.
    pub reason: String,
    /// The policies that forbid it, by id.
    pub policies: Vec<String>,
}

/// Answers questions. There is one, built on Cedar; every command handler asks it.
pub trait Authorizer: Send + Sync + 'static {
    /// Decides, and says why not.
    fn decide(&self, ctx: &OpContext, question: &Question) -> Result<Permit, Denied>;
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Says no to one action and yes to everything else.
    pub(crate) struct AllBut(pub(crate) &'static str);

    impl Authorizer for AllBut {
        fn decide(&self, ctx: &OpContext, question: &Question) -> Result<Permit, Denied> {
            if question.action == self.0 {
                return Err(Denied { action: question.action, reason: "the test says so".to_owned(), policies: vec![] });
            }
            Ok(Permit::granted(ctx))
        }
    }
}
