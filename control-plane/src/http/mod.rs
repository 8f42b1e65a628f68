//! What is served over HTTP: [`agents`] on a listener of its own, with mutual TLS.

pub mod agents;
