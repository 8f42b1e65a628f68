//! Servers that speak the API of Vault and OpenBao: the calls ([`client`]), how we get in ([`login`]), the token
//! that lets us in ([`token`]), a key of the transit engine that seals ([`transit`]).

pub mod client;
pub mod login;
pub mod token;
pub mod transit;

/// Whether it can stand between two slashes of a path of such a server, and is told from none.
pub fn is_a_segment(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Whether it is made of such segments.
pub fn is_a_path(text: &str) -> bool {
    text.split('/').all(is_a_segment)
}
