//! A tenant: one customer organisation. Nothing crosses from one tenant to another.
//!
//! Its name is fixed; what people call it may change. It refuses to be created twice.

mod aggregate;
mod command;
pub mod graphql;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{Fixed, Tenant};
pub use command::TenantCommand;
pub use refusal::TenantRefusal;
