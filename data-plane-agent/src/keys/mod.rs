//! Key material at this agent: what should be in the vault, and what is.
//!
//! - [`reconcile`]: makes and destroys what the set in force asks for, and reports it.
//! - [`movement`]: sends to the other agents of the site what they lack, and takes what this one lacks.
//! - [`errands`]: the same by files, for sites that are connected to nothing.

pub mod errands;
pub mod movement;
pub mod reconcile;
