//! A composite: one name for a classical and a post-quantum key that sign together, a rule that says which of their
//! signatures must be genuine, and, where it has one, a hybrid key for what is sealed to the same name.
//!
//! Its keys are of one project, at the same sites, and never change; what else a key can do, it goes on doing by its own
//! name. It refuses keys that cannot do what their places ask, keys of templates (policy, which names the composite, does not
//! name those), a name that is taken, a rule that is called tighter and is not, and every change after it was retired.

mod aggregate;
mod command;
pub mod graphql;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{Composite, CompositeState, Fixed, Retired};
pub use command::{CompositeCommand, CreateComposite, Found};
pub use refusal::CompositeRefusal;
