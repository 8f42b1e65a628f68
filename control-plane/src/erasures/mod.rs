//! The erasure of a person or of a tenant: recorded, and then done, by destroying keys. What was recorded of them stays, every
//! proof with it, and can be read by nobody.
//!
//! It refuses to erase what is not there, what was erased, and a confirmation that names somebody else.

mod aggregate;
mod command;
pub mod graphql;
pub mod reactor;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{Erasure, Subject};
pub use command::ErasureCommand;
pub use refusal::ErasureRefusal;
