//! API tokens in GraphQL.

use std::time::Duration;

use async_graphql::{Context, Enum, ID, InputObject, Object, Result, SimpleObject};
use schema::{
    clock::new_id,
    event::token::Holder,
    id::{ServiceAccountId, TokenId},
    personal::Personal,
    token::{Scope, Token, TokenKind},
};

use super::{ApiToken, ApiTokenCommand};
use crate::{
    access::permit::Question,
    graphql::{
        api::{Api, Done, Filter, Seen, Shown, options},
        page::{List, cost, page},
        payload::{Common, CommonNew, Outcome, Stop, UserError, field, optional, payloads},
        scalar::{Timestamp, TokenScope, UInt64},
    },
};

/// How long a token lives when nothing is said.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(90 * 86_400);

/// Whether a token may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "super::TokenState")]
pub enum TokenState {
    /// It may.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// An API token of a program. The token itself is shown once.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "ApiToken", complex)]
pub struct ApiTokenNode {
    /// `tok_…`
    pub id: ID,
    /// What it is called.
    pub name: String,
    /// The program that acts with it, `svc_…`.
    pub principal: ID,
    /// What it may be used for at most.
    pub scopes: Vec<TokenScope>,
    /// The person who holds it, where one does.
    pub holder: Option<TokenHolder>,
    /// When it was made.
    pub created_at: Timestamp,
    /// After this it is worthless.
    pub expires_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Rises with every change.
    pub revision: UInt64,
    #[graphql(skip)]
    token: ApiToken,
}

#[async_graphql::ComplexObject]
impl ApiTokenNode {
    /// Whether it may be used.
    async fn state(&self, ctx: &Context<'_>) -> Result<TokenState> {
        let now = Api::of(ctx)?.services.clock.now();
        Ok(self.token.state(now).unwrap_or(super::TokenState::Revoked).into())
    }
}

impl Shown for ApiToken {
    type Node = ApiTokenNode;

    fn node(seen: Seen<Self>) -> Option<ApiTokenNode> {
        let fixed = seen.state.fixed.as_ref()?;
        Some(ApiTokenNode {
            id: seen.id.to_string().into(),
            name: fixed.name.to_string(),
            principal: fixed.account.to_string().into(),
            scopes: fixed.scopes.iter().copied().map(Into::into).collect(),
            holder: fixed.holder.as_ref().map(TokenHolder::of),
            created_at: Timestamp(fixed.created),
            expires_at: Timestamp(fixed.expires),
            revoked_at: seen.state.revoked.map(Timestamp),
            revision: UInt64(seen.revision),
            token: seen.state.clone(),
        })
    }
}

/// A person who holds a token.
#[derive(Debug, Clone, SimpleObject)]
pub struct TokenHolder {
    /// `mem_…`
    pub person: ID,
    /// What the person is called; absent once the person was erased.
    pub name: Option<String>,
    /// Where the person is reached; absent once the person was erased.
    pub email: Option<String>,
    /// The person was erased: who it was can be read by nobody.
    pub erased: bool,
}

impl TokenHolder {
    fn of(holder: &Personal<Holder>) -> Self {
        let known = holder.value.as_ref();
        Self {
            person: holder.person.to_string().into(),
            name: known.map(|known| known.name.to_string()),
            email: known.and_then(|known| known.email.as_ref()).map(ToString::to_string),
            erased: known.is_none(),
        }
    }
}

/// The person who shall hold a token. What is said here is sealed under a key of that person, who can be erased.
#[derive(InputObject)]
pub struct TokenHolderInput {
    /// `mem_…`, when the person holds another token already; absent: somebody new.
    person: Option<ID>,
    /// What the person is called.
    name: String,
    /// Where the person is reached.
    email: Option<String>,
}

/// A token to make.
#[derive(InputObject)]
pub struct CreateTokenInput {
    /// What it is called.
    name: String,
    /// What it may be used for at most.
    scopes: Vec<TokenScope>,
    /// A minute to 366 days; absent: 90 days.
    lifetime_seconds: Option<UInt64>,
    /// The person who holds it, where one does.
    holder: Option<TokenHolderInput>,
    #[graphql(flatten)]
    common: CommonNew,
}

/// A token that shall be worthless.
#[derive(InputObject)]
pub struct RevokeTokenInput {
    /// `tok_…`
    token: ID,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// What came of it.
#[derive(SimpleObject)]
pub struct CreateTokenPayload {
    /// What it is; absent when the command was refused.
    token: Option<ApiTokenNode>,
    /// The token, shown once: absent when this repeats an earlier request.
    secret: Option<String>,
    #[graphql(flatten)]
    outcome: Outcome,
}

payloads!(token: ApiTokenNode => RevokeTokenPayload);

/// Reading tokens.
#[derive(Default)]
pub struct TokenQuery;

#[Object]
impl TokenQuery {
    /// The API tokens of the tenant; never the tokens themselves.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    #[allow(clippy::too_many_arguments, reason = "arguments of a connection")]
    async fn tokens(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        state: Option<TokenState>,
        #[graphql(desc = "Those that this person holds, `mem_…`.")] person: Option<ID>,
        position: Option<String>,
    ) -> Result<List<ApiTokenNode>> {
        let api = Api::asking(ctx, "readTokens", position).await?;
        let (now, state) = (api.services.clock.now(), state.map(super::TokenState::from));
        // Expiry is a matter of the moment, so no index knows it.
        let fits = |token: &ApiToken| state.is_none_or(|state| token.state(now) == Some(state));
        let held = Filter::all().term("holder", person.map(|person| person.to_string()));
        api.list_where::<ApiToken>(held, page(first, after, last, before)?, fits).await
    }
}

/// Changing tokens.
#[derive(Default)]
pub struct TokenMutation;

#[Object]
impl TokenMutation {
    /// Makes an API token for a program. It is shown once.
    async fn create_token(&self, ctx: &Context<'_>, input: CreateTokenInput) -> Result<CreateTokenPayload> {
        match create(Api::of(ctx)?, input).await {
            Ok((done, secret)) => Ok(CreateTokenPayload { token: done.node, secret, outcome: done.outcome }),
            Err(stop) => Ok(CreateTokenPayload { token: None, secret: None, outcome: stop.refused()? }),
        }
    }

    /// Makes a token worthless, at once.
    async fn revoke_token(&self, ctx: &Context<'_>, input: RevokeTokenInput) -> Result<RevokeTokenPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id: TokenId = field("token", &input.token)?;
            let command = ApiTokenCommand::Revoke { reason: optional("reason", input.reason.as_deref())? };
            api.run::<ApiToken>(id, command, Question::new("revokeToken", "ApiToken", id), input.common).await
        };
        RevokeTokenPayload::of(attempt.await)
    }
}

async fn create(api: &Api, input: CreateTokenInput) -> Result<(Done<ApiTokenNode>, Option<String>), Stop> {
    let scopes: Vec<Scope> = input.scopes.into_iter().map(Into::into).collect();
    if scopes.contains(&Scope::Operator) {
        return Err(UserError::at("scopes", "token_scope_not_for_tenants", "no token of a tenant can be an operator's").into());
    }
    let options = options(input.common.into(), Vec::new())?;
    let now = api.services.clock.now();
    let ids = api.services.handler.ids(&api.ctx, options.idempotency_key.as_ref(), "token").await;
    let ids = ids.map_err(|error| crate::graphql::fault::fault("opening the tenant's keys", &error))?;
    let (id, account): (TokenId, ServiceAccountId) = (new_id(&*ids, now), new_id(&*ids, now));
    let holder = match input.holder {
        Some(holder) => {
            let person = optional("holder.person", holder.person.as_ref().map(|person| person.as_str()))?;
            let held = Holder { name: field("holder.name", &holder.name)?, email: optional("holder.email", holder.email.as_deref())? };
            let person = person.unwrap_or_else(|| new_id(&*ids, now));
            let keyring = api.services.handler.keyring();
            let erased = keyring.is_buried(api.ctx.tenant, Some(person)).await;
            if erased.map_err(|error| crate::graphql::fault::fault("looking for a person", &error))? {
                return Err(
                    UserError::at("holder.person", "person_erased", "this person was erased; leave the id away for somebody new").into()
                );
            }
            Some(Personal::new(person, held))
        }
        None => None,
    };
    let token = Token::generate(TokenKind::Api, &*api.services.ids);
    let lifetime_seconds = input.lifetime_seconds.map(|seconds| seconds.0);
    let lifetime = lifetime_seconds.map_or(DEFAULT_LIFETIME, Duration::from_secs);
    let command = ApiTokenCommand::Issue {
        account,
        name: field("name", &input.name)?,
        digest: token.digest(),
        scopes,
        expires: now.plus(lifetime),
        lifetime_seconds,
        holder,
    };
    let done = api.run_with::<ApiToken>(id, command, Question::new("createToken", "ApiToken", id), options).await?;
    let secret = (!done.replayed).then(|| token.reveal().to_owned());
    Ok((done, secret))
}
