//! Leases: how the limits of a key's versions are shared out among agents.
//!
//! The budgets of one key are one stream, so that every part of a limit is given to one agent only: an agent says what it
//! has spent and what it gives back, and gets of what nobody holds. It refuses a request that contradicts itself. What an
//! agent held and never accounts for stays its own for ever: it may have been spent.
//!
//! - [`aggregate`](Budget): who holds what. [`service`]: an agent's request to a signed lease. [`graphql`]: for people.

mod aggregate;
mod command;
pub mod graphql;
mod refusal;
pub mod service;
#[cfg(test)]
mod tests;

pub use aggregate::{Budget, LastRequest, Pool, VersionBudget};
pub use command::{BudgetCommand, Part};
pub use refusal::BudgetRefusal;
