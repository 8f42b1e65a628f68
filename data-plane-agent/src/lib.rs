//! The Freehold agent: policy decisions and cryptography next to the customer's vault.

pub mod algorithm;
pub mod journal;
pub mod message;
pub mod policy;
pub mod selftest;
pub mod vault;
