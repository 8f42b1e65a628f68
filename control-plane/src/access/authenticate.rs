//! Who is asking? An API token says: its SHA-256 leads to its tenant and stream, and that stream says whether it counts.

use std::sync::Arc;

use schema::{
    clock::Clock,
    id::{PrincipalId, RequestId, TokenId},
    token::{InvalidToken, Token, TokenKind},
};

use super::context::OpContext;
use crate::{
    eventing::view::{QueryError, Views},
    tokens::{ApiToken, TokenState},
};

/// Tells who is asking.
#[derive(Clone)]
pub struct Authenticator {
    views: Views,
    clock: Arc<dyn Clock>,
}

/// A token that counts.
#[derive(Debug)]
pub struct Authenticated {
    /// Who asks, for which tenant.
    pub ctx: OpContext,
    /// Through which token.
    pub token: TokenId,
}

/// Nobody we know.
#[derive(Debug, thiserror::Error)]
pub enum Unauthenticated {
    /// Not a token at all, or mistyped.
    #[error(transparent)]
    Malformed(InvalidToken),
    /// Unknown, expired or revoked: from outside all the same.
    #[error("this token is unknown, expired or revoked")]
    Unknown,
    /// It could not be found out.
    #[error("looking up a token failed")]
    Fault(#[source] QueryError),
}

impl Authenticator {
    /// Looks tokens up in the read model.
    pub fn new(views: Views, clock: Arc<dyn Clock>) -> Self {
        Self { views, clock }
    }

    /// Who holds this token?
    pub async fn authenticate(&self, text: &str, request: RequestId) -> Result<Authenticated, Unauthenticated> {
        let token = Token::parse(TokenKind::Api, text).map_err(Unauthenticated::Malformed)?;
        let found = match self.views.by_handle::<ApiToken>(&token.digest()).await {
            // Its tenant was erased: there is nobody it could speak for.
            Err(QueryError::Sealing(error)) if error.is_erasure() => None,
            found => found.map_err(Unauthenticated::Fault)?,
        };
        let (tenant, view) = found.ok_or(Unauthenticated::Unknown)?;
        let usable = view.state.state(self.clock.now()) == Some(TokenState::Active);
        let fixed = view.state.fixed.filter(|fixed| usable && token.matches(&fixed.digest)).ok_or(Unauthenticated::Unknown)?;
        let principal = PrincipalId::Service(fixed.account);
        let ctx = OpContext { tenant, principal, scopes: fixed.scopes, via: Some(fixed.id), request };
        Ok(Authenticated { ctx, token: fixed.id })
    }

    /// Whether the token still counts.
    pub async fn still_counts(&self, authenticated: &Authenticated) -> Result<bool, QueryError> {
        let found = self.views.by_id::<ApiToken>(authenticated.ctx.tenant, authenticated.token, None).await?;
        Ok(found.and_then(|view| view.state.state(self.clock.now())) == Some(TokenState::Active))
    }
}
