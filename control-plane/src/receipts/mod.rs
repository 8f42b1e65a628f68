//! Receipts: what agents say of every operation. Rows of their own table, sealed; the hashes of their batches are events.
//!
//! - [`check`]: a batch against the agent's pair and against what is stored; pure.
//! - [`rows`]: the table; [`aggregate`]: the events of one journal.
//! - [`ingest`]: checks, stores, records, acknowledges.
//! - [`query`]: the receipts of a tenant, by caller, key, operation and time.

pub mod aggregate;
pub mod check;
pub mod graphql;
pub mod ingest;
pub mod query;
pub mod rows;
pub mod usage;
