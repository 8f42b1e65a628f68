//! Servers that speak the API of Vault and OpenBao: the calls ([`client`]), a key of the transit engine that seals ([`transit`]).

pub mod client;
pub mod transit;
