//! A caller: an application that uses agents. Its id derives from kind, issuer and subject.
//!
//! Registered, it may be suspended and resumed, and revoked once and for all. It refuses an issuer that does not fit its
//! kind, and every change after revocation.

mod aggregate;
mod authority;
mod command;
pub mod graphql;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{Caller, CallerState, Fixed, Revoked};
pub use command::CallerCommand;
pub use refusal::CallerRefusal;
