//! What is served over HTTP: [`agents`] on a listener of its own, with mutual TLS.

pub mod agents;
pub mod graphql;
pub mod rate;
pub mod server;
