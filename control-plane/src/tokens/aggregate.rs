//! What an API token is, and how it decides.

use std::time::Duration;

use schema::{
    clock::Timestamp,
    encoding::Digest,
    event::token::{ApiTokenEvent, ApiTokenIssued, ApiTokenRevoked, Holder},
    id::{MemberId, ServiceAccountId, TokenId},
    key::words,
    name::Name,
    personal::Personal,
    token::Scope,
};
use serde::{Deserialize, Serialize};

use super::{ApiTokenCommand, ApiTokenRefusal};
use crate::eventing::aggregate::{Aggregate, Deciding, EventMeta, Index};

/// The shortest life of a token.
pub const MIN_LIFETIME: Duration = Duration::from_secs(60);
/// The longest life of a token.
pub const MAX_LIFETIME: Duration = Duration::from_secs(366 * 86_400);

words! {
    /// Whether a token may be used.
    TokenState {
        /// It may.
        Active = "active",
        /// Its time is over.
        Expired = "expired",
        /// It was revoked.
        Revoked = "revoked",
    }
}

/// An API token; nothing in `fixed` means it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ApiToken {
    /// What never changes.
    pub fixed: Option<Fixed>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

/// What never changes about a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its id.
    pub id: TokenId,
    /// The program that acts with it.
    pub account: ServiceAccountId,
    /// What it is called.
    pub name: Name,
    /// SHA-256 of its text.
    pub digest: Digest,
    /// What it may be used for at most. Sorted, each once.
    pub scopes: Vec<Scope>,
    /// After this it is worthless.
    pub expires: Timestamp,
    /// The person who holds it, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Personal<Holder>>,
    /// When it was made.
    pub created: Timestamp,
}

impl ApiToken {
    /// The person who holds it.
    pub fn holder(&self) -> Option<MemberId> {
        Some(self.fixed.as_ref()?.holder.as_ref()?.person)
    }

    /// Whether it may be used at this time; none when it does not exist.
    pub fn state(&self, now: Timestamp) -> Option<TokenState> {
        let fixed = self.fixed.as_ref()?;
        Some(match self.revoked {
            Some(_) => TokenState::Revoked,
            None if now >= fixed.expires => TokenState::Expired,
            None => TokenState::Active,
        })
    }
}

impl Aggregate for ApiToken {
    type Id = TokenId;
    type Command = ApiTokenCommand;
    type Event = ApiTokenEvent;
    type Refusal = ApiTokenRefusal;
    const KIND: &'static str = "token";

    fn decide(&self, command: &ApiTokenCommand, deciding: &Deciding<'_>) -> Result<Vec<ApiTokenEvent>, ApiTokenRefusal> {
        match (command, &self.fixed) {
            (ApiTokenCommand::Issue { .. }, Some(_)) => Err(ApiTokenRefusal::Exists),
            (ApiTokenCommand::Issue { scopes, .. }, None) if scopes.is_empty() => Err(ApiTokenRefusal::NoScopes),
            (ApiTokenCommand::Issue { account, name, digest, scopes, expires, holder, .. }, None) => {
                let lifetime = expires.since(deciding.now);
                if lifetime < MIN_LIFETIME || lifetime > MAX_LIFETIME {
                    return Err(ApiTokenRefusal::Lifetime);
                }
                let mut scopes = scopes.clone();
                scopes.sort_unstable();
                scopes.dedup();
                let (name, holder) = (name.clone(), holder.clone());
                Ok(vec![ApiTokenIssued { account: *account, name, digest: *digest, scopes, expires: *expires, holder }.into()])
            }
            (ApiTokenCommand::Revoke { .. }, None) => Err(ApiTokenRefusal::NotFound),
            (ApiTokenCommand::Revoke { .. }, Some(_)) if self.revoked.is_some() => Err(ApiTokenRefusal::Revoked),
            (ApiTokenCommand::Revoke { reason }, Some(_)) => Ok(vec![ApiTokenRevoked { reason: reason.clone() }.into()]),
        }
    }

    fn evolve(&mut self, event: &ApiTokenEvent, meta: &EventMeta) {
        match event {
            ApiTokenEvent::ApiTokenIssued(event) => {
                self.fixed = meta.stream.id().map(|id| Fixed {
                    id,
                    account: event.account,
                    name: event.name.clone(),
                    digest: event.digest,
                    scopes: event.scopes.clone(),
                    expires: event.expires,
                    holder: event.holder.clone(),
                    created: meta.time,
                });
            }
            ApiTokenEvent::ApiTokenRevoked(_) => self.revoked = Some(meta.time),
        }
    }

    /// The digest is a handle, so that a request is known by the text of its token.
    fn index(&self) -> Index {
        let state = if self.revoked.is_some() { TokenState::Revoked } else { TokenState::Active };
        Index {
            parent: self.fixed.as_ref().map(|fixed| fixed.account.to_string()),
            name: self.fixed.as_ref().map(|fixed| fixed.name.to_string()),
            state: Some(state.to_string()),
            terms: self.holder().into_iter().map(|person| ("holder".to_owned(), person.to_string())).collect(),
            handles: self.fixed.iter().map(|fixed| fixed.digest).collect(),
        }
    }
}
