//! One type per identifier: a prefix, `_`, and 128 bits as 26 characters of Crockford base32.
//!
//! Time-ordered ids hold the bits of a UUIDv7 (RFC 9562); ids of things that must be unique are derived (see
//! [`crate::clock::Ids`] and the control plane's index key). Text is lower case, as in TypeID; upper case is read too.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// What is no digit.
const NONE: u8 = u8::MAX;

/// The value of each digit, in either case.
const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        values[ALPHABET[value].to_ascii_uppercase() as usize] = value as u8;
        value += 1;
    }
    values
};

fn encode(bits: u128, out: &mut [u8; 26]) {
    let mut bits = bits;
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(bits & 31) as usize];
        bits >>= 5;
    }
}

fn decode(text: &[u8]) -> Option<u128> {
    if text.len() != 26 || text[0] > b'7' {
        return None;
    }
    text.iter().try_fold(0u128, |bits, character| match VALUES[usize::from(*character)] {
        NONE => None,
        value => Some((bits << 5) | u128::from(value)),
    })
}

/// The text is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id that looks like {expected}_01h2xcejqtf2nbrexx3vqjhp41")]
pub struct InvalidId {
    /// The prefix that was expected, without `_`.
    pub expected: &'static str,
}

/// What every identifier type can do.
pub trait Id: Copy + Ord + fmt::Debug + fmt::Display + FromStr<Err = InvalidId> + Send + Sync + 'static {
    /// The prefix, without `_`.
    const PREFIX: &'static str;
    /// From 128 bits.
    fn from_bits(bits: u128) -> Self;
    /// The 128 bits.
    fn bits(self) -> u128;
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The prefix, without `_`.
            pub const PREFIX: &'static str = $prefix;

            /// From 128 bits.
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// The 128 bits.
            pub const fn bits(self) -> u128 {
                self.0
            }
        }

        impl Id for $name {
            const PREFIX: &'static str = $prefix;

            fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            fn bits(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; 26];
                encode(self.0, &mut text);
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|rest| decode(rest.as_bytes()))
                    .map(Self)
                    .ok_or(InvalidId { expected: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// One customer organisation.
    TenantId = "ten";
    /// A group of keys and members inside a tenant.
    ProjectId = "prj";
    /// A group of agents that share one set of statements.
    SiteId = "site";
    /// One agent process at a site.
    AgentId = "agt";
    /// A named key with one algorithm and one purpose.
    KeyId = "key";
    /// Another name of a key.
    AliasId = "als";
    /// One name for a classical and a post-quantum key.
    CompositeId = "cmp";
    /// An application that uses agents.
    CallerId = "clr";
    /// A Cedar policy document of a tenant or a project, with drafts and versions.
    PolicyId = "pol";
    /// A person.
    MemberId = "mem";
    /// A program that uses the control plane.
    ServiceAccountId = "svc";
    /// An API token of a member or service account.
    TokenId = "tok";
    /// An approval request.
    ApprovalId = "apr";
    /// A place audit goes to.
    SinkId = "snk";
    /// One event record.
    EventId = "evt";
    /// One receipt.
    ReceiptId = "rcp";
    /// One request, for logs and error answers.
    RequestId = "req";
    /// A data key of the control plane's storage (not a customer's key).
    DataKeyId = "dek";
    /// A stream of signed statements of one kind for one scope.
    StatementStreamId = "stm";
    /// The budgets of one key.
    BudgetId = "bud";
    /// The certificate authorities of agents: one stream for the whole deployment.
    AuthoritiesId = "aut";
    /// One life of an agent's journal: a new one begins when the journal was lost or restored.
    IncarnationId = "inc";
    /// One sealed file.
    FileId = "fil";
    /// One vault: agents that share it say the same.
    VaultId = "vlt";
    /// The erasure of a person or a tenant.
    ErasureId = "era";
    /// One short-lived key of an agent that material is sealed to on its way.
    PrekeyId = "prk";
}

/// A key and one of its numbered versions: `key_…/3`. Also the JOSE `kid`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyVersion {
    /// The key.
    pub key: KeyId,
    /// The version's number, from 1.
    pub number: u32,
}

impl KeyVersion {
    /// Names a version of a key.
    pub const fn new(key: KeyId, number: u32) -> Self {
        Self { key, number }
    }
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key, self.number)
    }
}

impl fmt::Debug for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a key version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a key version that looks like key_01h2xcejqtf2nbrexx3vqjhp41/3")]
pub struct InvalidKeyVersion;

impl FromStr for KeyVersion {
    type Err = InvalidKeyVersion;

    fn from_str(text: &str) -> Result<Self, InvalidKeyVersion> {
        let (key, number) = text.split_once('/').ok_or(InvalidKeyVersion)?;
        let canonical = !number.starts_with(['0', '+']);
        let number = number.parse().ok().filter(|_| canonical).ok_or(InvalidKeyVersion)?;
        Ok(Self { key: key.parse().map_err(|_| InvalidKeyVersion)?, number })
    }
}

impl Serialize for KeyVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Who acts at the control plane, once authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrincipalId {
    /// A person.
    Member(MemberId),
    /// A program.
    Service(ServiceAccountId),
    /// An agent, acting over mutual TLS.
    Agent(AgentId),
    /// A part of the control plane itself (a reactor), by name.
    System(&'static str),
}

impl fmt::Display for PrincipalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(id) => id.fmt(f),
            Self::Service(id) => id.fmt(f),
            Self::Agent(id) => id.fmt(f),
            Self::System(name) => write!(f, "system:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_survive_their_text(bits: u128) {
            let id = KeyId::from_bits(bits);
            let text = id.to_string();
            prop_assert_eq!(text.len(), 4 + 26);
            prop_assert_eq!(text.parse::<KeyId>().unwrap(), id);
            prop_assert_eq!(text.to_uppercase().replace("KEY_", "key_").parse::<KeyId>().unwrap(), id);
            prop_assert!(text.parse::<AgentId>().is_err());
        }

        #[test]
        fn text_order_is_bit_order(a: u128, b: u128) {
            let (a, b) = (EventId::from_bits(a), EventId::from_bits(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn key_versions_survive_their_text(bits: u128, number in 1u32..) {
            let version = KeyVersion::new(KeyId::from_bits(bits), number);
            prop_assert_eq!(version.to_string().parse::<KeyVersion>().unwrap(), version);
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in ["", "key_", "key_81h2xcejqtf2nbrexx3vqjhp41", "key_01h2xcejqtf2nbrexx3vqjhp4", "key_01h2xcejqtf2nbrexx3vqjhp4u"] {
            assert!(text.parse::<KeyId>().is_err(), "{text}");
        }
        for text in [
            "key_01h2xcejqtf2nbrexx3vqjhp41",
            "key_01h2xcejqtf2nbrexx3vqjhp41/0",
            "key_01h2xcejqtf2nbrexx3vqjhp41/+1",
            "key_01h2xcejqtf2nbrexx3vqjhp41/01",
        ] {
            assert!(text.parse::<KeyVersion>().is_err(), "{text}");
        }
    }
}
