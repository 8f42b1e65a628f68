//! GraphQL: what every domain's part shares. The parts stand with their domains, in `graphql.rs`.
//!
//! - [`schema`]: merges the parts, executes a request; [`limits`]: what a request may cost; [`socket`]: what may be asked over WebSocket.
//! - [`api`]: what resolvers work with; [`payload`]: what mutations answer; [`fault`]: errors; [`page`]: lists.
//! - [`scalar`], [`rules`], [`algorithms`], [`node`]: types that belong to no single domain.

pub mod algorithms;
pub mod api;
pub mod fault;
pub mod limits;
pub mod node;
pub mod page;
pub mod payload;
pub mod rules;
pub mod scalar;
pub mod schema;
pub mod socket;

pub use limits::parse;
pub use schema::{ApiSchema, execute, schema, sdl};
