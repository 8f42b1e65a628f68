//! A site: a group of agents that share one set of statements. A key is placed at sites.
//!
//! Its name is fixed and unique in the tenant. It refuses an offline rule whose ages are out of order.

mod aggregate;
mod command;
pub mod graphql;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{Fixed, Site};
pub use command::SiteCommand;
pub use refusal::SiteRefusal;
