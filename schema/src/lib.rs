//! The shared language of Freehold: ids, names, catalogue, events, wire types. No I/O.
//!
//! Most of what the two servers and the command line say to each other is defined here once:
//!
//! - [`id`]: one type per identifier; [`name`]: text that has been parsed.
//! - [`clock`]: time, randomness and ids as arguments.
//! - [`catalogue`]: every algorithm, in one table; [`key`]: what is fixed about a key; [`composite`]: keys that work
//!   together under one name; [`rule`]: rules of policies.
//! - [`public_key`]: public keys as others bring them, JWK and PEM.
//! - [`ranges`]: sets of numbers, as budgets are handed out.
//! - [`context`]: the encryption context and its canonical bytes; [`obligation`]: what a permit may demand.
//! - [`event`]: the record that is kept for ever, and what each domain records.
//! - [`wire`]: requests and answers between agent, control plane and applications.
//! - [`encoding`], [`token`]: base64url, 64-bit numbers as strings, secrets with a checksum.

pub mod calendar;
pub mod catalogue;
pub mod clock;
pub mod composite;
pub mod context;
pub mod encoding;
pub mod event;
pub mod id;
pub mod key;
pub mod name;
pub mod obligation;
pub mod personal;
pub mod public_key;
pub mod ranges;
pub mod rule;
pub mod token;
pub mod wire;
