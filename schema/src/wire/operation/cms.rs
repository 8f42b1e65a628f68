//! What old programs sealed or signed as CMS (PKCS#7), opened or verified, and turned into JOSE on the way where that is asked for.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Format, SecretBytes, Used};
use crate::{context::EncryptionContext, encoding::Base64};

/// Open enveloped data of CMS.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CmsOpenRequest {
    /// The message: DER or BER.
    #[schema(value_type = String, format = "base64url")]
    pub message: Base64,
    /// The RSA or elliptic-curve key it was sealed to: CMS does not name keys of ours.
    pub key: String,
    /// Which of several recipients the key is, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<usize>,
    /// Seal it again under this key; the plaintext stays in the agent then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal_with: Option<String>,
    /// The encryption context: for policy, and bound to what is sealed again. CMS has none.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
    /// How to write the new message; `compact` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// What was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CmsOpenAnswer {
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
    /// How it was decided. The warning `algorithm_legacy` says what in the old message was weak.
    #[serde(flatten)]
    pub used: Used,
}

/// Verify signed data of CMS.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CmsVerifyRequest {
    /// The message: DER or BER. Certificates in it are not looked at.
    #[schema(value_type = String, format = "base64url")]
    pub message: Base64,
    /// The key that must have signed it.
    pub key: String,
    /// Which of several signatures the key made, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<usize>,
    /// The content, when it travels by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub content: Option<SecretBytes>,
    /// Sign the content again with this key, when the signature is genuine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_with: Option<String>,
    /// The encryption context: for policy, and bound to what is signed again. CMS has none.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
    /// How to write the new signature; `compact` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// Whether it is genuine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CmsVerifyAnswer {
    /// Whether the signature is genuine.
    pub valid: bool,
    /// Why it is not: `not_genuine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was signed, when it is genuine and was attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub payload: Option<SecretBytes>,
    /// The new signature: a JWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// How the use of the key that signed it again was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Used>,
    /// How it was decided. The warning `algorithm_legacy` says what in the old signature is weak.
    #[serde(flatten)]
    pub used: Used,
}
