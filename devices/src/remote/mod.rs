//! Servers that speak the API of Vault and OpenBao: the calls ([`client`]), the token
//! that lets us in ([`token`]), a key of the transit engine that seals ([`transit`]).

pub mod client;
pub mod token;
pub mod transit;
