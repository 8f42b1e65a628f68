//! A site: a group of agents that share one set of statements. A key is placed at sites.
//!
//! Its name is fixed and unique in the tenant. It refuses an offline rule whose ages are out of order, and a recovery key that
//! does not follow the one before. Suspended, none of its agents does anything for anybody.

mod aggregate;
mod command;
pub mod graphql;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{Fixed, Recovery, Site};
pub use command::SiteCommand;
pub use refusal::SiteRefusal;
