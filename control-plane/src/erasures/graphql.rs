//! Erasures in GraphQL.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};
use schema::id::{MemberId, TenantId};

use super::{Erasure, ErasureCommand, ErasureRefusal, Subject};
use crate::{
    access::{context::DEPLOYMENT, permit::Question},
    graphql::{
        api::{Api, Done, Filter, Seen, Shown},
        fault::fault,
        page::{List, cost, page},
        payload::{CommonNew, Stop, UserError, field, payloads, refused},
        scalar::{Timestamp, UInt64},
    },
    sealing::SealingError,
};

/// Somebody whose keys were destroyed: what was recorded of them can be read by nobody.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Erasure")]
pub struct ErasureNode {
    /// `era_…`
    pub id: ID,
    /// The person, `mem_…`; absent when it was a tenant.
    pub person: Option<ID>,
    /// The tenant, `ten_…`; absent when it was a person. Only the deployment's operators see these.
    pub tenant: Option<ID>,
    /// When it was ordered.
    pub erased_at: Timestamp,
    /// The principal that ordered it.
    pub erased_by: ID,
    /// Rises with every change.
    pub revision: UInt64,
}

impl Shown for Erasure {
    type Node = ErasureNode;

    fn node(seen: Seen<Self>) -> Option<ErasureNode> {
        let done = seen.state.done.as_ref()?;
        let (person, tenant) = match done.subject {
            Subject::Person(person) => (Some(person.to_string().into()), None),
            Subject::Tenant(tenant) => (None, Some(tenant.to_string().into())),
        };
        Some(ErasureNode {
            id: seen.id.to_string().into(),
            person,
            tenant,
            erased_at: Timestamp(done.at),
            erased_by: done.by.clone().into(),
            revision: UInt64(seen.revision),
        })
    }
}

/// A person to erase.
#[derive(InputObject)]
pub struct ErasePersonInput {
    /// `mem_…`
    person: ID,
    /// The same id again: what is erased can never be read again.
    confirm: ID,
    #[graphql(flatten)]
    common: CommonNew,
}

/// A tenant to erase.
#[derive(InputObject)]
pub struct EraseTenantInput {
    /// `ten_…`
    tenant: ID,
    /// The same id again: what is erased can never be read again.
    confirm: ID,
    #[graphql(flatten)]
    common: CommonNew,
}

payloads!(erasure: ErasureNode => ErasePersonPayload, EraseTenantPayload);

/// Reading erasures.
#[derive(Default)]
pub struct ErasureQuery;

#[Object]
impl ErasureQuery {
    /// Persons of the tenant that were erased; for the deployment's operators, tenants.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    async fn erasures(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        position: Option<String>,
    ) -> Result<List<ErasureNode>> {
        let api = Api::asking(ctx, "readErasures", position).await?;
        api.list::<Erasure>(Filter::all(), page(first, after, last, before)?, None).await
    }
}

/// Erasing.
#[derive(Default)]
pub struct ErasureMutation;

#[Object]
impl ErasureMutation {
    /// Destroys the keys of a person: name and e-mail address can be read nowhere again, in records, listings and backups that are
    /// restored later. That there was somebody, and what was done, stays on record. Final.
    async fn erase_person(&self, ctx: &Context<'_>, input: ErasePersonInput) -> Result<ErasePersonPayload> {
        ErasePersonPayload::of(erase_person(Api::of(ctx)?, input).await)
    }

    /// Destroys the keys of a tenant, and everything it has but its log, which nobody can read any more. Operators only. Final.
    async fn erase_tenant(&self, ctx: &Context<'_>, input: EraseTenantInput) -> Result<EraseTenantPayload> {
        EraseTenantPayload::of(erase_tenant(Api::of(ctx)?, input).await)
    }
}

async fn erase_person(api: &Api, input: ErasePersonInput) -> Result<Done<ErasureNode>, Stop> {
    let person: MemberId = field("person", &input.person)?;
    if input.confirm != input.person {
        return Err(refused(ErasureRefusal::Unconfirmed));
    }
    let keyring = api.services.handler.keyring();
    let known = keyring.knows_person(api.ctx.tenant, person).await.map_err(|error| failed(&error))?;
    let done = erase(api, Subject::Person(person), known, input.common, "erasePerson").await?;
    keyring.erase_person(api.ctx.tenant, person).await.map_err(|error| failed(&error))?;
    Ok(done)
}

async fn erase_tenant(api: &Api, input: EraseTenantInput) -> Result<Done<ErasureNode>, Stop> {
    if api.ctx.tenant != DEPLOYMENT {
        return Err(UserError::new("forbidden", "only an operator erases tenants; use the operator token of the deployment").into());
    }
    let tenant: TenantId = field("tenant", &input.tenant)?;
    if input.confirm != input.tenant {
        return Err(refused(ErasureRefusal::Unconfirmed));
    }
    let keyring = api.services.handler.keyring();
    let known = keyring.knows_tenant(tenant).await.map_err(|error| failed(&error))?;
    let done = erase(api, Subject::Tenant(tenant), known, input.common, "eraseTenant").await?;
    keyring.erase(tenant).await.map_err(|error| failed(&error))?;
    Ok(done)
}

/// Recorded first: what was destroyed without a record would be a loss that nobody can tell from a mishap.
async fn erase(api: &Api, subject: Subject, known: bool, common: CommonNew, action: &'static str) -> Result<Done<ErasureNode>, Stop> {
    let id = Erasure::id(&api.keys, subject);
    let command = ErasureCommand::Erase { subject, known };
    api.run::<Erasure>(id, command, Question::new(action, "Erasure", id), common).await
}

fn failed(error: &SealingError) -> crate::graphql::fault::Fault {
    fault("destroying keys", error)
}
