//! Certificates of agents, and of the listener they call.
//!
//! - [`authority`]: the deployment's certificate authority; checks signing requests and issues.
//! - [`identity`]: who an agent's certificate says it is, as a SPIFFE id.
//! - [`issued`]: the certificate of the listener they call.
//! - [`listener`]: TLS of the agent listener, renewed without a restart.

pub mod authority;
pub mod identity;
pub mod issued;
pub mod listener;
