//! The Freehold control plane: events, GraphQL, signed statements.
//!
//! In the order in which data flows:
//!
//! ```text
//! HTTP / GraphQL -> command -> aggregate decides -> events -> store -> projections -> queries
//! ```

// One future resolves the fields of all domains: it nests once for each.
#![recursion_limit = "256"]

pub mod access;
pub mod app;
pub mod backup;
mod bounded;
pub mod bundles;
pub mod config;
pub mod database;
pub mod deployment;
pub mod eventing;
pub mod graphql;
pub mod http;
pub mod moving;
pub mod naming;
pub mod pki;
pub mod preparing;
pub mod receipts;
pub mod relay;
pub mod sealing;
pub mod verify;
pub mod waking;

// The domains, each in the same shape: command, refusal, aggregate.
pub mod agents;
pub mod aliases;
pub mod authorities;
pub mod callers;
pub mod composites;
pub mod erasures;
pub mod keys;
pub mod leases;
pub mod policies;
pub mod projects;
pub mod sites;
pub mod tenants;
pub mod tokens;
