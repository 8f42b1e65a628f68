//! A policy document of a tenant, a project or a site: Cedar text, and rules beside it.
//!
//! Drafts are saved and thrown away, and may have errors; a draft becomes the next version only when its Cedar text is
//! valid. Versions are numbered without gaps and never change; rolling back publishes what an older one said under a new
//! number. It refuses rules that do not belong to its scope, a draft based on an older one than the present, a text
//! that was not the one checked, and templates that keys made from them no longer fit.

mod aggregate;
pub mod cedar;
mod command;
pub mod diff;
#[cfg(test)]
mod examples;
pub mod graphql;
pub mod mutations;
mod refusal;
#[cfg(test)]
mod tests;

pub use aggregate::{Draft, Fixed, Policy, Version};
pub use command::{Checked, PolicyCommand};
pub use refusal::PolicyRefusal;
