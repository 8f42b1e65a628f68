//! Tokens of PKCS#11 modules: login, sessions and their loss ([`device`]), a key of a token that seals ([`sealing`]), one that signs ([`ed25519`]).

pub mod device;
pub mod ed25519;
pub mod sealing;
