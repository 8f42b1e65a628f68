//! Why either side of Freehold believes the other: statements, signatures, acceptance. No I/O.
//!
//! - [`statement`]: what is said: root, policy, state, heartbeat, lease; one file each.
//! - [`document`]: small signed documents of agents: roster entries, vouches, version records, ready reports.

pub mod document;
pub mod statement;
