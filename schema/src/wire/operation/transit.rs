//! What the transit engine of Vault or OpenBao sealed: opened, and turned into JOSE on the way where that is asked for.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Format, SecretBytes, Used};
use crate::{context::EncryptionContext, encoding::Base64};

/// Open what the transit engine sealed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransitOpenRequest {
    /// `vault:v1:…`
    #[schema(example = "vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zoCmHnSeDX9vyf7w==")]
    pub ciphertext: String,
    /// The key that its key was imported as: the number in the ciphertext is that of the version, unless a version is named
    /// (`key_…/3`).
    #[schema(example = "payments/legacy")]
    pub key: String,
    /// The associated data that it was sealed with, if there was some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub associated_data: Option<Base64>,
    /// The context of the engine's key derivation, where its key is a derived one: as it was given there, but base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub derivation_context: Option<Base64>,
    /// Seal it again under this key; the plaintext stays in the agent then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal_with: Option<String>,
    /// The encryption context: for policy, and bound to what is sealed again. What the transit engine sealed has none.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
    /// How to write the new message; `compact` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// What was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransitOpenAnswer {
    /// The plaintext, unless it was sealed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub plaintext: Option<SecretBytes>,
    /// The new message: a JWE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How the use of the key that sealed it again was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<Used>,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}
