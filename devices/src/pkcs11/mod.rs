//! Tokens of PKCS#11 modules: login, sessions and their loss ([`device`]), a key of a token that seals ([`sealing`]).

pub mod device;
pub mod sealing;
