//! A project: a group of keys and callers inside a tenant.
//!
//! Its name is fixed and unique in the tenant. While it is suspended none of its keys may be used. It refuses to be
//! suspended twice, and to be resumed when it is not suspended.

mod aggregate;
mod command;
pub mod graphql;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{Fixed, Project};
pub use command::ProjectCommand;
pub use refusal::ProjectRefusal;
