//! What both Freehold servers share, so that they behave alike at their edges.
//!
//! In the order in which a process needs it:
//!
//! - [`config`]: one TOML file, environment and flags, parsed once.
//! - [`log`]: structured logs, request ids, the middleware that writes a line per request.
//! - [`telemetry`]: traces and metrics for an OpenTelemetry collector.
//! - [`files`]: atomic writes, secret files, the lock on a data directory.
//! - [`tls`]: TLS 1.3 with X25519MLKEM768 first; development certificates; certificates that reload.
//! - [`listen`]: sockets, with errors that say what to do; who is at the other end.
//! - [`outgoing`]: the HTTP client, with proxy, private authority and client certificate.
//! - [`problem`]: every error over HTTP.
//! - [`health`], [`metrics`]: `/livez`, `/readyz`, `/metrics`.
//! - [`shutdown`]: signals, cancellation, draining.
//! - [`explain`]: the last words of a program that cannot go on.

pub mod config;
pub mod explain;
pub mod files;
pub mod health;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod outgoing;
pub mod problem;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
