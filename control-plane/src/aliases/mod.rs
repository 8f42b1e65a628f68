//! An alias: another name of a key inside its project. It owns the link; the key's side is projected.
//!
//! It refuses a key of another project and a name that a key of the project already has. A retired alias may be
//! pointed at a key again.

mod aggregate;
mod command;
pub mod graphql;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{Alias, Fixed};
pub use command::AliasCommand;
pub use refusal::AliasRefusal;
