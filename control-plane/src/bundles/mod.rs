//! Signed statements: what agents are told. Compiled from what the aggregates of a tenant have come to, signed, recorded,
//! served.
//!
//! - [`facts`]: the present of a tenant; [`compile`]: facts to content, pure.
//! - [`signers`]: the pairs that sign, and the first root.

pub mod compile;
pub mod facts;
pub mod signers;
