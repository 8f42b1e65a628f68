//! Tenants in GraphQL. Operators make them; what is inside belongs to the tenant alone.

use std::time::Duration;

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};
use schema::{
    clock::new_id,
    id::{PrincipalId, ServiceAccountId, TokenId},
    name::Name,
    token::{Scope, Token, TokenKind},
};

use super::{Tenant, TenantCommand, TenantRefusal};
use crate::{
    access::{
        context::{DEPLOYMENT, OpContext},
        permit::Question,
    },
    graphql::{
        api::{Api, Seen, Shown, options},
        fault::fault,
        page::{self, List, cost, page},
        payload::{Common, CommonNew, Outcome, Stop, UserError, field, optional, payloads, refused},
        scalar::{Timestamp, TokenScope, UInt64},
    },
    naming,
    tokens::{
        ApiToken, ApiTokenCommand,
        graphql::{ApiTokenNode, DEFAULT_LIFETIME},
    },
};

/// One customer organisation.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Tenant")]
pub struct TenantNode {
    /// `ten_…`
    pub id: ID,
    /// Its name in the deployment; never changes.
    pub name: String,
    /// What people call it.
    pub display_name: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Rises with every change.
    pub revision: UInt64,
}

impl Shown for Tenant {
    type Node = TenantNode;

    fn node(seen: Seen<Self>) -> Option<TenantNode> {
        let fixed = seen.state.fixed.as_ref()?;
        Some(TenantNode {
            id: seen.id.to_string().into(),
            name: fixed.name.to_string(),
            display_name: seen.state.display_name.as_ref().map(ToString::to_string),
            created_at: Timestamp(fixed.created),
            revision: UInt64(seen.revision),
        })
    }
}

/// All an operator sees of a tenant.
#[derive(Debug, Clone, SimpleObject)]
pub struct TenantEntry {
    /// `ten_…`
    pub id: ID,
}

/// Who is asking.
#[derive(SimpleObject)]
#[graphql(complex)]
pub struct Viewer {
    /// The principal, e.g. `svc_…`.
    principal: ID,
    /// What its token may be used for at most.
    scopes: Vec<TokenScope>,
    /// The token it came with, `tok_…`.
    token: Option<ID>,
}

#[async_graphql::ComplexObject]
impl Viewer {
    /// Its tenant; an operator has none.
    async fn tenant(&self, ctx: &Context<'_>) -> Result<Option<TenantNode>> {
        let api = Api::of(ctx)?;
        api.view::<Tenant>(Some(api.ctx.tenant), None).await
    }
}

/// A tenant to create.
#[derive(InputObject)]
pub struct CreateTenantInput {
    /// 1 to 63 characters of a-z, 0-9, `-` and `.`, starting with a letter. Never changes.
    name: String,
    /// What people call it.
    display_name: Option<String>,
    /// How long the first admin token lives: a minute to 366 days; absent: 90 days.
    token_lifetime_seconds: Option<UInt64>,
    #[graphql(flatten)]
    common: CommonNew,
}

/// What people call the tenant from now on.
#[derive(InputObject)]
pub struct RenameTenantInput {
    /// What people call it; absent: by its name.
    display_name: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// What came of it.
#[derive(SimpleObject)]
pub struct CreateTenantPayload {
    /// What it is; absent when the command was refused.
    tenant: Option<TenantNode>,
    /// The first admin token of the tenant, shown once: absent when this repeats an earlier request.
    admin_token: Option<String>,
    /// What is known of that token.
    token: Option<ApiTokenNode>,
    #[graphql(flatten)]
    outcome: Outcome,
}

payloads!(tenant: TenantNode => RenameTenantPayload);

/// Reading tenants.
#[derive(Default)]
pub struct TenantQuery;

#[Object]
impl TenantQuery {
    /// Who is asking, as the token says.
    async fn viewer(&self, ctx: &Context<'_>) -> Result<Viewer> {
        let api = Api::of(ctx)?;
        Ok(Viewer {
            principal: api.ctx.principal.to_string().into(),
            scopes: api.ctx.scopes.iter().copied().map(Into::into).collect(),
            token: api.ctx.via.map(|token| token.to_string().into()),
        })
    }

    /// The ids of all tenants. Operators only.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    async fn tenants(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
    ) -> Result<List<TenantEntry>> {
        let api = Api::asking(ctx, "readTenants", None).await?;
        let page = page(first, after, last, before)?;
        let found = api.services.views.tenants(&page).await.map_err(|error| fault("listing tenants", &error))?;
        let entries = found.items.into_iter().map(|id| (id.to_string(), TenantEntry { id: id.to_string().into() }));
        Ok(page::list(entries, found.has_previous, found.has_next))
    }
}

/// Changing tenants.
#[derive(Default)]
pub struct TenantMutation;

#[Object]
impl TenantMutation {
    /// Creates a tenant, its signers and its first root, and its first admin token, shown once. Operators only.
    async fn create_tenant(&self, ctx: &Context<'_>, input: CreateTenantInput) -> Result<CreateTenantPayload> {
        match create(Api::of(ctx)?, input).await {
            Ok(payload) => Ok(payload),
            Err(stop) => Ok(CreateTenantPayload { tenant: None, admin_token: None, token: None, outcome: stop.refused()? }),
        }
    }

    /// Calls the token's own tenant something else.
    async fn rename_tenant(&self, ctx: &Context<'_>, input: RenameTenantInput) -> Result<RenameTenantPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.ctx.tenant;
            let command = TenantCommand::Rename { display_name: optional("displayName", input.display_name.as_deref())? };
            api.run::<Tenant>(id, command, Question::new("renameTenant", "Tenant", id), input.common).await
        };
        RenameTenantPayload::of(attempt.await)
    }
}

async fn create(api: &Api, input: CreateTenantInput) -> Result<CreateTenantPayload, Stop> {
    if api.ctx.tenant != DEPLOYMENT {
        return Err(UserError::new("forbidden", "only an operator creates tenants; use the operator token of the deployment").into());
    }
    let name: Name = field("name", &input.name)?;
    let lifetime_seconds = input.token_lifetime_seconds.map(|seconds| seconds.0);
    let lifetime = lifetime_seconds.map_or(DEFAULT_LIFETIME, Duration::from_secs);
    if lifetime < crate::tokens::MIN_LIFETIME || lifetime > crate::tokens::MAX_LIFETIME {
        let message = "a token lives from one minute to 366 days; choose a lifetime in between";
        return Err(UserError::at("tokenLifetimeSeconds", "token_lifetime_out_of_range", message).into());
    }
    let options = options(input.common.into(), Vec::new())?;
    let key = options.idempotency_key.clone();
    let id = naming::tenant_id(&api.keys, &name);
    // The name of a tenant that was erased is not given again.
    let erased = api.services.handler.keyring().is_buried(id, None).await;
    if erased.map_err(|error| fault("looking for a tenant", &error))? {
        return Err(refused(TenantRefusal::Exists));
    }
    // The operator acts inside the tenant that is about to be: policy lets it do this one thing there.
    let ctx = OpContext { tenant: id, ..api.ctx.clone() };
    let display_name = optional("displayName", input.display_name.as_deref())?;
    let command = TenantCommand::Create { name, display_name, creator: ctx.principal.to_string() };
    let created = api.handle::<Tenant>(&ctx, id, command, Question::new("createTenant", "Tenant", id), options).await?;
    api.services.statements.root(id).await.map_err(|error| fault("making the tenant's signers and first root", &error))?;

    let ids = api.services.handler.ids(&ctx, key.as_ref(), "first-token").await;
    let ids = ids.map_err(|error| fault("opening the tenant's keys", &error))?;
    let now = api.services.clock.now();
    let (token_id, account): (TokenId, ServiceAccountId) = (new_id(&*ids, now), new_id(&*ids, now));
    let token = Token::generate(TokenKind::Api, &*api.services.ids);
    let command = ApiTokenCommand::Issue {
        account,
        name: field("name", "first-admin")?,
        digest: token.digest(),
        scopes: vec![Scope::Admin],
        expires: now.plus(lifetime),
        lifetime_seconds,
        holder: None,
    };
    let system = OpContext { principal: PrincipalId::System("tenant-setup"), scopes: Vec::new(), via: None, ..ctx };
    let question = Question::new("issueFirstToken", "ApiToken", token_id);
    let first_key = key.map(|key| format!("first-token/{key}")).filter(|key| key.len() <= 128);
    let first_options = self::options(Common { idempotency_key: first_key, expected_revision: None }, Vec::new())?;
    let issued = api.handle::<ApiToken>(&system, token_id, command, question, first_options).await?;

    let pending = !api.readable(issued.cursor.max(created.cursor)).await?;
    let admin_token = (!issued.replayed).then(|| token.reveal().to_owned());
    let seen = Seen { id: token_id, revision: issued.revision, state: issued.state, as_of: None };
    Ok(CreateTenantPayload {
        tenant: Tenant::node(Seen { id, revision: created.revision, state: created.state, as_of: None }),
        admin_token,
        token: ApiToken::node(seen),
        outcome: Outcome { user_errors: Vec::new(), position: Some(issued.position), pending },
    })
}
