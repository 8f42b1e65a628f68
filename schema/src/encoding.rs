//! How bytes and large numbers look in JSON: base64url without padding, and 64-bit numbers as strings.

use std::{fmt, sync::LazyLock};

use base64::{Engine, engine::general_purpose::NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Which instructions a processor has for it is found out while the program runs.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static BASE64URL: LazyLock<base64::engine::simd::Simd> = LazyLock::new(|| base64::engine::simd::Simd::url_safe(NO_PAD));
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static BASE64URL: LazyLock<base64::engine::GeneralPurpose> =
    LazyLock::new(|| base64::engine::GeneralPurpose::new(&base64::alphabet::URL_SAFE, NO_PAD));

/// Encodes bytes as base64url without padding (RFC 4648, section 5).
pub fn base64url(bytes: &[u8]) -> String {
    BASE64URL.encode(bytes)
}

/// The same, behind what stands there already.
pub fn push_base64url(out: &mut String, bytes: &[u8]) {
    BASE64URL.encode_string(bytes, out);
}

/// Decodes base64url without padding; padding and other alphabets are refused.
pub fn from_base64url(text: &str) -> Result<Vec<u8>, InvalidBase64Url> {
    base64url_bytes(text.as_bytes())
}

/// The same of bytes that may be no text.
pub fn base64url_bytes(text: &[u8]) -> Result<Vec<u8>, InvalidBase64Url> {
    BASE64URL.decode(text).map_err(|_| InvalidBase64Url)
}

/// Appends a text as JSON. Most texts of ours need no escape, and whether one does is seen faster for the whole of it than character
/// by character.
pub fn push_json_text(out: &mut Vec<u8>, text: &str) {
    let escapes = text.bytes().fold(false, |found, byte| found | (byte < b' ') | (byte == b'"') | (byte == b'\\'));
    if escapes {
        // Writing text to memory cannot fail.
        let _ = serde_json::to_writer(out, text);
    } else {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }
}

/// The text is not base64url without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not base64url without padding (RFC 4648, section 5)")]
pub struct InvalidBase64Url;

/// Bytes that are base64url text in JSON. Not for secrets: it prints.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Base64(pub Vec<u8>);

impl Base64 {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Base64 {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Base64 {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl<const N: usize> From<[u8; N]> for Base64 {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes.to_vec())
    }
}

impl AsRef<[u8]> for Base64 {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64url(&self.0))
    }
}

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        from_base64url(&text).map(Self).map_err(de::Error::custom)
    }
}

/// A SHA-256 digest; base64url text in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// SHA-256 of these bytes (FIPS 180-4).
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// SHA-256 over a label and length-prefixed parts, so that no two lists of parts hash alike.
    /// Each length is 8 bytes, big-endian.
    pub fn labelled(label: &str, parts: &[&[u8]]) -> Self {
        use sha2::Digest as _;
        let mut hasher = sha2::Sha256::new();
        for part in std::iter::once(&label.as_bytes()).chain(parts) {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64url(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Digest {
    type Err = InvalidBase64Url;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_base64url(text)?.try_into().map(Self).map_err(|_| InvalidBase64Url)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|_| de::Error::custom("a digest is 32 bytes as base64url without padding"))
    }
}

/// `#[serde(with = "u64_string")]`: a 64-bit number as a decimal string.
pub mod u64_string {
    use super::*;

    /// Writes the number as a decimal string.
    pub fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    /// Reads a decimal string.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|_| de::Error::custom("expected a 64-bit number as a decimal string"))
    }
}

/// `#[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]`.
pub mod opt_u64_string {
    use super::*;

    /// Writes the number as a decimal string.
    pub fn serialize<S: Serializer>(number: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match number {
            Some(number) => serializer.collect_str(number),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a decimal string or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(|_| de::Error::custom("expected a 64-bit number as a decimal string"))).transpose()
    }
}
