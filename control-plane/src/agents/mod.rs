//! An agent of a site, from its invitation on.
//!
//! An invitation holds the digest of a single-use token with a time limit. Who comes with that token, a pair and a
//! certificate request of its own is enrolled; once somebody vouches for its roster entry it is rostered. It refuses a
//! wrong, used, late or cancelled token, a roster entry that names another agent, site or root, a renewal for another
//! certificate key, and everything after revocation. Two processes that come with one identity are both cut off
//! ([`ratchet`]). [`standing`] remembers who was found to be one, for those who are looked at again and again.

mod aggregate;
mod command;
pub mod enrolment;
pub mod graphql;
pub mod ratchet;
mod refusal;
pub mod report;
pub mod standing;
#[cfg(test)]
mod tests;

pub use aggregate::{Agent, AgentState, Certificate, Enrolment, Fixed, Invitation, MAX_INVITATION, MIN_INVITATION, Quarantined, Revoked};
pub use command::{AgentCommand, Enrol, SignVouch};
pub use refusal::AgentRefusal;
