//! Why an API token says no.

use crate::eventing::refusals;

refusals! {
    /// Why a command on an API token is turned down.
    ApiTokenRefusal {
        Exists = "token_exists", "this token was already issued";
        NotFound = "token_not_found", "there is no such token";
        NoScopes = "token_without_scopes" at "scopes", "a token needs at least one scope";
        Lifetime = "token_lifetime_out_of_range" at "lifetimeSeconds", "a token lives from one minute to 366 days; choose a lifetime in between";
        Revoked = "token_already_revoked", "the token is already revoked";
    }
}
