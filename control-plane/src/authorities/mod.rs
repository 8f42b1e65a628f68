//! The certificate authorities of agents: one for the whole deployment, and while it is rotated several.
//!
//! - The next one is made and told to agents by the heartbeats of their sites, which are signed; it certifies nothing yet.
//! - It takes over: certificates, also that of the agents' listener, are its own from then on. The one before is believed for as
//!   long as what it certified may still renew, and its key is erased at once.
//! - Then it is retired. One whose key may be known to others is retired at once: agents with certificates of it come back by
//!   their pair.
//!
//! It refuses a second next one, to let one take over that agents were not told of long enough (unless asked to), and to keep
//! several that all are compromised.

mod aggregate;
mod command;
pub mod graphql;
pub mod keeper;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{Authorities, Known, Stage};
pub use command::AuthorityCommand;
pub use refusal::AuthorityRefusal;
