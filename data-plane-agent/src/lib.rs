//! The Freehold agent: policy decisions and cryptography next to the customer's vault.

pub mod journal;
pub mod policy;
