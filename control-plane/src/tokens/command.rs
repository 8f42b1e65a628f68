//! What may be asked of an API token.

use schema::{
    clock::Timestamp,
    encoding::Digest,
    event::token::Holder,
    id::ServiceAccountId,
    name::{Name, Text},
    personal::Personal,
    token::Scope,
};
use serde::Serialize;

/// A parsed intent.
#[derive(Debug, Clone, Serialize)]
pub enum ApiTokenCommand {
    /// Make it.
    Issue {
        /// The program that acts with it.
        account: ServiceAccountId,
        /// What it is called.
        name: Name,
        /// SHA-256 of its text. A repeated request has another text, so this is no part of the request's hash.
        #[serde(skip)]
        digest: Digest,
        /// What it may be used for at most.
        scopes: Vec<Scope>,
        /// After this it is worthless. Depends on the moment of the request, so it is no part of its hash.
        #[serde(skip)]
        expires: Timestamp,
        /// How long it should live, in seconds, as asked for.
        lifetime_seconds: Option<u64>,
        /// The person who holds it, where one does.
        #[serde(skip_serializing_if = "Option::is_none")]
        holder: Option<Personal<Holder>>,
    },
    /// Make it worthless.
    Revoke {
        /// Why.
        reason: Option<Text>,
    },
}
