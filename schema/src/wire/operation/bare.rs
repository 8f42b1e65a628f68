//! Bare bytes, without a message around them: tags, signatures over digests, wrapped keys, secrets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{SecretBytes, Used};
use crate::{context::EncryptionContext, encoding::Base64};

/// Authenticate a message of at most 1 MiB.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MacRequest {
    /// The key: `key_…`, `key_…/3` or `project/name`.
    pub key: String,
    /// The message.
    #[schema(value_type = String, format = "base64url")]
    pub payload: SecretBytes,
    /// Seen by policy and kept in receipts; nothing binds it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MacAnswer {
    /// The whole HMAC tag.
    #[schema(value_type = String, format = "base64url")]
    pub tag: Base64,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Check the tag of a message.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyMacRequest {
    /// The key version, `key_…/3`: the `key_version` of the answer that made it. A key without a version means its newest.
    pub key: String,
    /// The message.
    #[schema(value_type = String, format = "base64url")]
    pub payload: SecretBytes,
    /// The tag.
    #[schema(value_type = String, format = "base64url")]
    pub tag: Base64,
    /// Seen by policy and kept in receipts; nothing binds it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// Whether it is genuine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckAnswer {
    /// Whether it is.
    pub valid: bool,
    /// Why it is not: `not_genuine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Sign a ready digest.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignDigestRequest {
    /// The key: `key_…`, `key_…/3` or `project/name`.
    pub key: String,
    /// The digest: as long as the hash of the key's algorithm, or 64 bytes of external mu for ML-DSA.
    #[schema(value_type = String, format = "base64url")]
    pub digest: Base64,
    /// Seen by policy and kept in receipts; nothing binds it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignDigestAnswer {
    /// As the algorithm's standard writes it.
    #[schema(value_type = String, format = "base64url")]
    pub signature: Base64,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Verify a signature over a ready digest.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyDigestRequest {
    /// The key version, `key_…/3`: the `key_version` of the answer that made it. A key without a version means its newest.
    pub key: String,
    /// The digest.
    #[schema(value_type = String, format = "base64url")]
    pub digest: Base64,
    /// The signature.
    #[schema(value_type = String, format = "base64url")]
    pub signature: Base64,
    /// Seen by policy and kept in receipts; nothing binds it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// Wrap a bare key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WrapRequest {
    /// The key: `key_…`, `key_…/3` or `project/name`.
    pub key: String,
    /// The key: at most 64 KiB.
    #[schema(value_type = String, format = "base64url")]
    pub plaintext: SecretBytes,
    /// Seen by policy and kept in receipts; nothing binds it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The wrapped key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WrapAnswer {
    /// Keep it together with `key_version`.
    #[schema(value_type = String, format = "base64url")]
    pub wrapped: Base64,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Unwrap a bare key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnwrapRequest {
    /// The key version, `key_…/3`: the `key_version` of the answer that made it. A key without a version means its newest.
    pub key: String,
    /// The wrapped key.
    #[schema(value_type = String, format = "base64url")]
    pub wrapped: Base64,
    /// Seen by policy and kept in receipts; nothing binds it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnwrapAnswer {
    /// In clear. Use it and forget it.
    #[schema(value_type = String, format = "base64url")]
    pub plaintext: SecretBytes,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Agree on a secret with the holder of another key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AgreeRequest {
    /// The key: `key_…`, `key_…/3` or `project/name`.
    pub key: String,
    /// The other's public key: 32 bytes of X25519, or an uncompressed point (SEC 1) of P-256 and P-384. It comes in one of four
    /// ways: so, or as `jwk`, `pem` or `their_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub public_key: Option<Base64>,
    /// The other's public key as a JSON Web Key (RFC 7517, RFC 8037).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub jwk: Option<serde_json::Value>,
    /// The other's public key as PEM, `-----BEGIN PUBLIC KEY-----` (SubjectPublicKeyInfo).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
    /// A key that policy names, such as one a partner registered: `key_…`, `key_…/3` or `project/name`. Policy must allow
    /// `public-key` on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub their_key: Option<String>,
    /// Seen by policy and kept in receipts; nothing binds it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The shared secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgreeAnswer {
    /// As it comes out of the curve: derive keys from it.
    #[schema(value_type = String, format = "base64url")]
    pub secret: SecretBytes,
    /// How it was decided to read the other's key, when policy names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub their_key: Option<Used>,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Make a secret for the holder of a key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EncapsulateRequest {
    /// The key: `key_…`, `key_…/3` or `project/name`.
    pub key: String,
    /// Seen by policy and kept in receipts; nothing binds it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EncapsulateAnswer {
    /// In clear: 32 bytes.
    #[schema(value_type = String, format = "base64url")]
    pub secret: SecretBytes,
    /// The same, encapsulated: for `decapsulate`.
    #[schema(value_type = String, format = "base64url")]
    pub ciphertext: Base64,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Take an encapsulated secret out.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecapsulateRequest {
    /// The key version, `key_…/3`: the `key_version` of the answer that made it. A key without a version means its newest.
    pub key: String,
    /// The encapsulated secret.
    #[schema(value_type = String, format = "base64url")]
    pub ciphertext: Base64,
    /// Seen by policy and kept in receipts; nothing binds it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecapsulateAnswer {
    /// In clear: 32 bytes.
    #[schema(value_type = String, format = "base64url")]
    pub secret: SecretBytes,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Derive a key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeriveRequest {
    /// The key version, `key_…/3`: the `key_version` of the answer that made it. A key without a version means its newest.
    pub key: String,
    /// The salt; empty when absent.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schema(value_type = String, format = "base64url")]
    pub salt: Base64,
    /// What the derived key is for; empty when absent.
    #[serde(default, skip_serializing_if = "is_empty")]
    #[schema(value_type = String, format = "base64url")]
    pub info: Base64,
    /// How many bytes: 1 to 8160.
    #[schema(minimum = 1, maximum = 8160)]
    pub bytes: u32,
    /// Seen by policy and kept in receipts; nothing binds it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The derived key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeriveAnswer {
    /// Use it and forget it.
    #[schema(value_type = String, format = "base64url")]
    pub derived: SecretBytes,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

fn is_empty(bytes: &Base64) -> bool {
    bytes.0.is_empty()
}
