//! What is allowed, and the proof that it was decided.
//!
//! - [`current`]: the set in force; until there is one, nothing is allowed.
//! - [`in_force`]: a set as requests see it; `restricted`: what a newer one takes away whose policies cannot be used.
//! - [`decide`]: whether a request is allowed; gives a [`permit`] or a [`refusal`]. [`once`]: the same for a batch.
//! - [`slice`]: the Cedar policies that could match a request; [`explain`]: why none of them allowed it.
//! - [`movement`]: whether material may leave for another agent's vault.
//! - [`backup`]: whether material may leave for a backup.
//! - `looks`, `kept`: what policies look at in a request, and decisions that need not be made again.

pub mod backup;
pub mod current;
pub mod decide;
#[cfg(test)]
mod examples;
pub mod explain;
pub mod in_force;
mod kept;
mod looks;
pub mod movement;
pub mod once;
pub mod permit;
pub mod refusal;
mod restricted;
pub mod slice;
#[cfg(test)]
pub(crate) mod testing;
