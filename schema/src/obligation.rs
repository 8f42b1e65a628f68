//! Obligations: what a policy demands of the requests it permits, written as annotations.
//!
//! ```cedar
//! @id("billing-opens")
//! @require_context("purpose, ticket")
//! @max_bytes("65536")
//! @mask("keep-last-4")
//! permit (principal, action == Action::"decrypt", resource);
//! ```
//!
//! Those of every policy that permits a request add up: the strictest holds. A policy with an annotation that is neither an
//! obligation nor documentation cannot be published, and an agent that does not know it lets the policy permit nothing.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{composite::VerificationRule, encoding::opt_u64_string};

/// Annotations that oblige to nothing.
const DOCUMENTATION: &[&str] = &["id", "description", "advice"];
/// The most characters that a mask may leave readable.
const MAX_KEPT: u8 = 16;

/// What every permitting policy demands, together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Obligations {
    /// Pairs that the encryption context must have, by name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub require_context: BTreeSet<String>,
    /// The most bytes of plaintext or ciphertext.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// How much of an opened text may be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Mask>,
    /// Which kinds of signatures must be genuine, whatever the rule of a composite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_signatures: Option<VerificationRule>,
}

/// Why annotations are not obligations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidObligation {
    /// Nobody knows it.
    #[error(
        "@{0} is not an annotation that agents know; there are @id, @description, @advice, @require_context, @max_bytes, @mask and @require_signatures"
    )]
    Unknown(String),
    /// Its value is not one.
    #[error("@{name} needs {expected}")]
    Value {
        /// The annotation.
        name: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// It stands on a policy that permits nothing.
    #[error("@{0} stands on a policy that forbids; obligations belong to permits")]
    Forbids(String),
}

impl Obligations {
    /// Reads the annotations of one policy.
    pub fn read<'a>(permits: bool, annotations: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, InvalidObligation> {
        let mut found = Self::default();
        for (name, value) in annotations.filter(|(name, _)| !DOCUMENTATION.contains(name)) {
            found.add(Self::read_one(name, value)?);
            if !permits {
                return Err(InvalidObligation::Forbids(name.to_owned()));
            }
        }
        Ok(found)
    }

    fn read_one(name: &str, value: &str) -> Result<Self, InvalidObligation> {
        let wrong = |name, expected| InvalidObligation::Value { name, expected };
        match name {
            "require_context" => {
                let names: BTreeSet<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
                if names.contains("") {
                    return Err(wrong("require_context", "names of context pairs, separated by commas: \"purpose, ticket\""));
                }
                Ok(Self { require_context: names, ..Self::default() })
            }
            "max_bytes" => {
                let bytes = value.parse().map_err(|_| wrong("max_bytes", "a number of bytes: \"1048576\""))?;
                Ok(Self { max_bytes: Some(bytes), ..Self::default() })
            }
            "mask" => {
                let mask =
                    value.parse().map_err(|()| wrong("mask", "\"all\", or \"keep-last-\" and a number from 1 to 16: \"keep-last-4\""))?;
                Ok(Self { mask: Some(mask), ..Self::default() })
            }
            "require_signatures" => {
                let expected = "\"all\", \"any\", \"classical-required\" or \"pq-required\"";
                let rule = value.parse().map_err(|_| wrong("require_signatures", expected))?;
                Ok(Self { require_signatures: Some(rule), ..Self::default() })
            }
            other => Err(InvalidObligation::Unknown(other.to_owned())),
        }
    }

    /// Adds those of another policy: the strictest of each holds.
    pub fn add(&mut self, other: Self) {
        self.require_context.extend(other.require_context);
        self.max_bytes = [self.max_bytes, other.max_bytes].into_iter().flatten().min();
        self.mask = [self.mask, other.mask].into_iter().flatten().min();
        self.require_signatures = [self.require_signatures, other.require_signatures].into_iter().flatten().reduce(VerificationRule::and);
    }

    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.require_context.is_empty() && self.max_bytes.is_none() && self.mask.is_none() && self.require_signatures.is_none()
    }
}

/// Hides a text but for its last characters. The fewer it keeps, the stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mask {
    keep_last: u8,
}

impl Mask {
    /// The text with `*` for every hidden character. A text of no more characters than would be kept is hidden whole. Bytes that
    /// are not UTF-8 are not text: each counts as a character, and none is kept.
    pub fn apply(self, bytes: &[u8]) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(bytes) else { return vec![b'*'; bytes.len()] };
        let length = text.chars().count();
        let kept = if length > usize::from(self.keep_last) { usize::from(self.keep_last) } else { 0 };
        let hidden = length - kept;
        let rest = text.char_indices().nth(hidden).map_or("", |(at, _)| &text[at..]);
        // Exactly as long as it will be: a vector that grows leaves copies of what it held.
        let mut masked = Vec::with_capacity(hidden + rest.len());
        masked.resize(hidden, b'*');
        masked.extend_from_slice(rest.as_bytes());
        masked
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.keep_last {
            0 => f.write_str("all"),
            kept => write!(f, "keep-last-{kept}"),
        }
    }
}

impl FromStr for Mask {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "all" {
            return Ok(Self { keep_last: 0 });
        }
        let kept = text.strip_prefix("keep-last-").filter(|number| !number.starts_with(['0', '+'])).ok_or(())?;
        let keep_last = kept.parse().map_err(|_| ())?;
        if keep_last > MAX_KEPT { Err(()) } else { Ok(Self { keep_last }) }
    }
}

impl Serialize for Mask {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mask {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom("expected all, or keep-last- and a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> Result<Obligations, InvalidObligation> {
        Obligations::read(true, annotations.iter().copied())
    }

    #[test]
    fn annotations_are_read_and_the_strictest_holds() {
        let mut first =
            read(&[("id", "a"), ("require_context", "purpose, ticket"), ("max_bytes", "100"), ("mask", "keep-last-4")]).unwrap();
        first.add(read(&[("require_context", "tenant"), ("max_bytes", "50"), ("mask", "keep-last-2")]).unwrap());
        first.add(read(&[("require_signatures", "pq-required")]).unwrap());
        first.add(read(&[("require_signatures", "classical-required")]).unwrap());
        first.add(read(&[("require_signatures", "any")]).unwrap());
        first.add(read(&[("description", "whatever")]).unwrap());
        let expected =
            r#"{"require_context":["purpose","tenant","ticket"],"max_bytes":"50","mask":"keep-last-2","require_signatures":"all"}"#;
        assert_eq!(serde_json::to_string(&first).unwrap(), expected);
        assert_eq!(serde_json::from_str::<Obligations>(expected).unwrap(), first);
        assert!(read(&[("id", "a")]).unwrap().is_empty());
    }

    #[test]
    fn what_is_none_is_refused() {
        for (name, value) in [
            ("max_byte", "5"),
            ("max_bytes", "many"),
            ("max_bytes", ""),
            ("require_context", "a,,b"),
            ("require_context", ""),
            ("mask", "keep-last-0"),
            ("mask", "keep-last-17"),
            ("mask", "keep-last-04"),
            ("mask", ""),
            ("require_signatures", "both"),
            ("require_signatures", ""),
        ] {
            assert!(read(&[(name, value)]).is_err(), "@{name}({value:?})");
        }
        let forbids = Obligations::read(false, [("max_bytes", "5")].into_iter());
        assert!(matches!(forbids, Err(InvalidObligation::Forbids(_))));
    }

    #[test]
    fn masks_keep_the_end_and_never_everything() {
        let mask = |text: &str, bytes: &[u8]| String::from_utf8(text.parse::<Mask>().unwrap().apply(bytes)).unwrap();
        assert_eq!(mask("keep-last-4", b"4111111111111111"), "************1111");
        assert_eq!(mask("keep-last-4", b"1111"), "****");
        assert_eq!(mask("keep-last-2", "größe".as_bytes()), "***ße");
        assert_eq!(mask("all", b"secret"), "******");
        assert_eq!(mask("keep-last-4", &[0xff; 6]), "******");
        assert_eq!(mask("keep-last-4", b""), "");
    }
}
