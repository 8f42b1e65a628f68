//! The encryption context: associated data as a map of strings, and its canonical bytes (`docs/formats.md`).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::encoding::{base64url, from_base64url};

const LABEL: &[u8] = b"freehold-context-v1";
const MAX_PAIRS: usize = 32;
const MAX_BYTES: usize = 8 * 1024;

/// Associated data: 0 to 32 pairs of UTF-8 strings, at most 8 KiB of canonical bytes. Not secret, but never stored in
/// clear by Freehold. Empty and absent are the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct EncryptionContext(BTreeMap<String, String>);

/// Why a map is not an encryption context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidContext {
    /// Too many pairs.
    #[error("an encryption context has at most {MAX_PAIRS} pairs")]
    TooManyPairs,
    /// Too many bytes.
    #[error("an encryption context has at most {MAX_BYTES} bytes")]
    TooLong,
    /// A key without text.
    #[error("the keys of an encryption context are not empty")]
    EmptyKey,
}

impl EncryptionContext {
    /// Checks the size.
    pub fn new(pairs: BTreeMap<String, String>) -> Result<Self, InvalidContext> {
        if pairs.len() > MAX_PAIRS {
            return Err(InvalidContext::TooManyPairs);
        }
        if pairs.keys().any(String::is_empty) {
            return Err(InvalidContext::EmptyKey);
        }
        let bytes: usize = pairs.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
        if LABEL.len() + bytes > MAX_BYTES {
            return Err(InvalidContext::TooLong);
        }
        Ok(Self(pairs))
    }

    /// The pairs, sorted by key bytes.
    pub fn pairs(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The label, then the pairs sorted by key bytes, each key and value prefixed by its length as 4 bytes big-endian.
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = LABEL.to_vec();
        for text in self.0.iter().flat_map(|(key, value)| [key, value]) {
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    /// The `ctx` header parameter: base64url(salt ‖ SHA-256(salt ‖ canonical)); none for the empty context.
    pub fn commit(&self, salt: [u8; 16]) -> Option<String> {
        (!self.is_empty()).then(|| base64url(&self.commitment(salt)))
    }

    /// Whether a message's `ctx` (or its absence) was made for this context.
    pub fn matches(&self, ctx: Option<&str>) -> bool {
        use subtle::ConstantTimeEq;
        let Some(ctx) = ctx else { return self.is_empty() };
        let Ok(bytes) = from_base64url(ctx) else { return false };
        let Some(salt) = bytes.first_chunk::<16>() else { return false };
        !self.is_empty() && bool::from(self.commitment(*salt).ct_eq(&bytes))
    }

    fn commitment(&self, salt: [u8; 16]) -> Vec<u8> {
        use sha2::Digest;
        let hash = sha2::Sha256::new().chain_update(salt).chain_update(self.canonical()).finalize();
        [salt.as_slice(), hash.as_slice()].concat()
    }
}

impl<'de> Deserialize<'de> for EncryptionContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = EncryptionContext;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if pairs.insert(key, value).is_some() {
                        return Err(de::Error::custom("a key of the encryption context stands twice"));
                    }
                    if pairs.len() > MAX_PAIRS {
                        return Err(de::Error::custom(InvalidContext::TooManyPairs));
                    }
                }
                EncryptionContext::new(pairs).map_err(de::Error::custom)
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(EncryptionContext::default())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
        EncryptionContext::new(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()).unwrap()
    }

    #[test]
    fn canonical_bytes_are_fixed() {
        let bytes = context(&[("b", "2"), ("a", "1")]).canonical();
        assert_eq!(bytes, b"freehold-context-v1\x00\x00\x00\x01a\x00\x00\x00\x011\x00\x00\x00\x01b\x00\x00\x00\x012");
    }

    proptest! {
        #[test]
        fn a_commitment_matches_its_own_context_only(a in proptest::collection::btree_map("[a-z]{1,4}", ".{0,8}", 0..4), b in proptest::collection::btree_map("[a-z]{1,4}", ".{0,8}", 0..4), salt: [u8; 16]) {
            let (a, b) = (EncryptionContext::new(a).unwrap(), EncryptionContext::new(b).unwrap());
            let ctx = a.commit(salt);
            prop_assert!(a.matches(ctx.as_deref()));
            prop_assert_eq!(b.matches(ctx.as_deref()), a == b);
        }
    }

    #[test]
    fn junk_matches_nothing() {
        for junk in ["", "AA", "!!!", &base64url(&[0; 48])] {
            assert!(!context(&[("a", "1")]).matches(Some(junk)));
            assert!(!EncryptionContext::default().matches(Some(junk)));
        }
    }

    #[test]
    fn limits_and_doubles_are_refused() {
        assert_eq!(EncryptionContext::new((0..33).map(|i| (i.to_string(), String::new())).collect()), Err(InvalidContext::TooManyPairs));
        assert_eq!(EncryptionContext::new([("a".to_owned(), "x".repeat(9000))].into()), Err(InvalidContext::TooLong));
        assert!(serde_json::from_str::<EncryptionContext>(r#"{"a":"1","a":"2"}"#).is_err());
        assert!(serde_json::from_str::<EncryptionContext>(r#"{"a":1}"#).is_err());
        let many: Vec<_> = (0..33).map(|n| format!("\"{n}\":\"\"")).collect();
        // It is not read to its end: what follows the pair too many is no JSON.
        let error = serde_json::from_str::<EncryptionContext>(&format!("{{{},!", many.join(","))).unwrap_err();
        assert!(error.to_string().starts_with("an encryption context has at most 32 pairs"), "{error}");
    }
}
