//! What is recorded of an API token of a service account. The token itself is shown once and never recorded.

use crate::{
    clock::Timestamp,
    encoding::Digest,
    events,
    id::ServiceAccountId,
    name::{Name, Text},
    token::Scope,
};

events! {
    /// What happens to an API token.
    ApiTokenEvent {
        /// It was made and shown once.
        ApiTokenIssued 1 {
            /// The program that acts with it.
            account: ServiceAccountId,
            /// What it is called.
            name: Name,
            /// SHA-256 of its text.
            digest: Digest,
            /// What it may be used for at most.
            scopes: Vec<Scope>,
            /// After this it is worthless.
            expires: Timestamp,
        },
        /// It is worthless from now on.
        ApiTokenRevoked 1 {
            /// Why.
            reason: Option<Text>,
        },
    }
}
