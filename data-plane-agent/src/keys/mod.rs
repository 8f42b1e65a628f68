//! Key material at this agent: what should be in the vault, and what is.

pub mod reconcile;
