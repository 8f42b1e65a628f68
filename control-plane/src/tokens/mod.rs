//! An API token of a service account: scoped, expiring, revocable, shown once. Only the SHA-256 of its text is kept.
//!
//! It refuses no scopes, a life that is too short or too long, and to be revoked twice.

mod aggregate;
mod command;
pub mod graphql;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{ApiToken, Fixed, MAX_LIFETIME, MIN_LIFETIME, TokenState};
pub use command::ApiTokenCommand;
pub use refusal::ApiTokenRefusal;
