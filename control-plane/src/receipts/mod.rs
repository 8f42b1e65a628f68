//! Receipts: what agents say of every operation. Rows of their own table, sealed; the hashes of their batches are events.
//!
//! - [`check`]: a batch against the agent's pair and against what is stored; pure.

pub mod check;
