//! Bearer secrets: `fh_<kind>_` + 256 random bits + CRC-32, so that secret scanners can find them. Stored as SHA-256.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    clock::{Ids, random},
    encoding::{Digest, base64url, from_base64url},
    key::words,
};

words! {
    /// What an API token may be used for at most; Cedar has the last word.
    Scope {
        /// Create tenants; nothing inside one.
        Operator = "operator",
        /// Everything inside one tenant.
        Admin = "admin",
        /// Keys and callers, no policy and no tokens.
        KeyManager = "key-manager",
        /// Policies.
        PolicyEditor = "policy-editor",
        /// Read everything inside one tenant.
        Reader = "reader",
    }
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// An API token of the control plane.
    Api,
    /// A single-use token that enrols an agent.
    Enrolment,
    /// An agent-local token of a caller.
    Caller,
}

impl TokenKind {
    /// The word in the token's text.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Enrolment => "enrol",
            Self::Caller => "caller",
        }
    }
}

/// A bearer secret. Does not print; wiped on drop.
#[derive(Clone)]
pub struct Token {
    kind: TokenKind,
    text: Zeroizing<String>,
}

/// The text is not a token of the expected kind, or was mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Another kind, or no token at all.
    #[error("this is not a token of the expected kind (it should begin with fh_{0}_)")]
    Kind(&'static str),
    /// The checksum does not fit.
    #[error("this token is damaged: its checksum does not fit; copy it again")]
    Damaged,
}

impl Token {
    /// Makes a new one.
    pub fn generate(kind: TokenKind, ids: &dyn Ids) -> Self {
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(random(ids));
        let mut bytes = Zeroizing::new(secret.to_vec());
        let checksum = checksum(kind, &*secret);
        bytes.extend_from_slice(&checksum);
        Self { kind, text: Zeroizing::new(format!("fh_{}_{}", kind.word(), base64url(&bytes))) }
    }

    /// Reads one; white space around it is ignored.
    pub fn parse(kind: TokenKind, text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        let rest = text
            .strip_prefix("fh_")
            .and_then(|rest| rest.strip_prefix(kind.word()))
            .and_then(|rest| rest.strip_prefix('_'))
            .ok_or(InvalidToken::Kind(kind.word()))?;
        let bytes = Zeroizing::new(from_base64url(rest).map_err(|_| InvalidToken::Damaged)?);
        match bytes.split_at_checked(32) {
            Some((secret, check)) if check == checksum(kind, secret) => Ok(Self { kind, text: Zeroizing::new(text.to_owned()) }),
            _ => Err(InvalidToken::Damaged),
        }
    }

    /// The text, to hand to its owner once.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What is stored: SHA-256 of the text.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    /// Whether this token has the stored digest; constant time.
    pub fn matches(&self, stored: &Digest) -> bool {
        self.digest().0.ct_eq(&stored.0).into()
    }
}

fn checksum(kind: TokenKind, secret: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(kind.word().as_bytes());
    hasher.update(secret);
    hasher.finalize().to_be_bytes()
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fh_{}_(hidden)", self.kind.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualIds;

    #[test]
    fn tokens_are_read_back_and_do_not_print() {
        let token = Token::generate(TokenKind::Api, &ManualIds::seeded(7));
        let read = Token::parse(TokenKind::Api, &format!(" {}\n", token.reveal())).unwrap();
        assert!(read.matches(&token.digest()));
        assert_eq!(format!("{token:?}"), "fh_api_(hidden)");
    }

    #[test]
    fn damaged_and_foreign_tokens_are_told_apart() {
        let token = Token::generate(TokenKind::Enrolment, &ManualIds::seeded(7));
        let mut text = token.reveal().to_owned();
        assert_eq!(Token::parse(TokenKind::Api, &text).unwrap_err(), InvalidToken::Kind("api"));
        let last = if text.ends_with('A') { 'B' } else { 'A' };
        text.pop();
        text.push(last);
        assert_eq!(Token::parse(TokenKind::Enrolment, &text).unwrap_err(), InvalidToken::Damaged);
    }
}
