//! What is protected already, protected anew.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CompositeVerdict, Format, SecretBytes, Used};
use crate::{context::EncryptionContext, encoding::Base64};

/// Protect anew with the newest version: a message, the header of a file, or a wrapped key and the key version that wrapped it.
/// Of what is for several keys one is replaced, and the others open it as before.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RewrapRequest {
    /// A JWE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The header of a sealed file: its bytes up to the body, magic and padding included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub file_header: Option<Base64>,
    /// A wrapped key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub wrapped: Option<Base64>,
    /// Of a wrapped key: the key version that wrapped it, `key_…/3`. Of what is for several keys: which of them is to move, by
    /// its version, its id or `project/name`; when absent, the first whose key is at this site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The encryption context it was made with.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
    /// How to write the message; `compact` when absent. One for several keys stays JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// Under the newest version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RewrapAnswer {
    /// The message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The header to put in the place of the old one. The body stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub file_header: Option<Base64>,
    /// The wrapped key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub wrapped: Option<Base64>,
    /// How the use of the key that was read was decided.
    pub source: Used,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Seal under another key. In a message for several keys it takes the place of one, and the others open it as before.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReEncryptRequest {
    /// A JWE.
    pub message: String,
    /// Of a message for several keys: which of them is to be replaced, by its version, its id or `project/name`; when absent, the
    /// first whose key is at this site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_key: Option<String>,
    /// The encryption context it was sealed with.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
    /// The key to seal it under: `key_…`, `key_…/3` or `project/name`.
    pub key: String,
    /// The encryption context to bind anew; that of before when absent, and always of a message for several keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    pub new_context: Option<EncryptionContext>,
    /// How to write the message; `compact` when absent. One for several keys stays JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// Under the other key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReEncryptAnswer {
    /// A JWE, compact or JSON.
    pub message: String,
    /// How the use of the key that was read was decided.
    pub source: Used,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Sign with another key what a first key signed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReSignRequest {
    /// A JWS, compact or JSON.
    pub signature: String,
    /// The payload of a detached signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub payload: Option<SecretBytes>,
    /// The encryption context it was made with.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
    /// The key that must have made it, or the composite whose rule it must meet; when absent, what the signature names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// The key to sign with: `key_…`, `key_…/3` or `project/name`; or a composite, whose two keys sign.
    pub key: String,
    /// The encryption context to bind anew; that of before when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    pub new_context: Option<EncryptionContext>,
    /// Leave the payload out of the new signature; compact only.
    #[serde(default)]
    pub detached: bool,
    /// How to write the signature; `compact` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// The new signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReSignAnswer {
    /// A JWS, compact or JSON.
    pub signature: String,
    /// What was found of each signature that was read, when a composite's rule was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub composite: Option<CompositeVerdict>,
    /// How it was decided for the post-quantum key of the composite that signs; the rest is about its classical one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<Used>,
    /// How the use of the key that was read was decided.
    pub source: Used,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}
