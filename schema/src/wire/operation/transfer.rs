//! Material that comes from elsewhere, and material that leaves: always wrapped.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Used;
use crate::{
    clock::Timestamp,
    context::EncryptionContext,
    encoding::{Base64, Digest},
    key::words,
};

words! {
    /// How material is wrapped on its way.
    #[derive(ToSchema)]
    Wrapping {
        /// HPKE with MLKEM768-X25519 (`HPKE-9`), in a compact JWE.
        Hpke = "hpke",
        /// A fresh AES-256 key by RSA-OAEP with SHA-256, and behind it the material by AES-KWP under that key: what PKCS #11 calls
        /// `CKM_RSA_AES_KEY_WRAP`, and what HSMs and cloud services make.
        RsaAesKwp = "rsa-aes-kwp",
    }
}

words! {
    /// What material looks like when it is unwrapped.
    #[derive(ToSchema)]
    MaterialFormat {
        /// As the algorithm keeps it: the bytes of a symmetric key, a seed, or the number that an elliptic-curve key is.
        Raw = "raw",
        /// `PrivateKeyInfo` (RFC 5958), DER.
        Pkcs8 = "pkcs8",
        /// A private JSON Web Key (RFC 7517, RFC 7518, RFC 8037, RFC 9964).
        Jwk = "jwk",
    }
}

/// Ask for a key to wrap material under.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKeyRequest {
    /// The key that was created to be imported: its version that waits for material is meant.
    #[schema(example = "payments/legacy")]
    pub key: String,
    /// How it will be wrapped; `hpke` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapping: Option<Wrapping>,
    /// Seen by policy and kept in receipts.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// A key to wrap material under. It is for this one version, and for one import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportKeyAnswer {
    /// Names it.
    pub import_key: String,
    /// How to wrap.
    pub wrapping: Wrapping,
    /// The public key as a JSON Web Key.
    #[schema(value_type = Object)]
    pub jwk: serde_json::Value,
    /// The public key as PEM, where there is such a form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
    /// Until when material is taken that was wrapped under it.
    #[schema(value_type = String)]
    pub expires: Timestamp,
    /// How it was decided. `key_version` is the version that waits.
    #[serde(flatten)]
    pub used: Used,
}

/// Bring the material of a version. It comes in one of two ways: as `jwe`, or as `wrapped` with `import_key`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// The key that was created to be imported.
    #[schema(example = "payments/legacy")]
    pub key: String,
    /// What the material looks like when it is unwrapped.
    pub format: MaterialFormat,
    /// A compact JWE (`HPKE-9`) whose `kid` names the import key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwe: Option<String>,
    /// What `rsa-aes-kwp` made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub wrapped: Option<Base64>,
    /// The import key that `wrapped` was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_key: Option<String>,
    /// Seen by policy and kept in receipts.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// It is in the vault. The version becomes active once it has the homes that its durability asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportAnswer {
    /// Identifies the material, as the version record does.
    #[schema(value_type = String)]
    pub fingerprint: Digest,
    /// The public half, of an asymmetric key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub jwk: Option<serde_json::Value>,
    /// How it was decided. `key_version` is the version that has its material now.
    #[serde(flatten)]
    pub used: Used,
}

/// Take the material of a version out, wrapped to a public key: `jwk` or `pem`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// The key: `key_…`, `key_…/3` or `project/name`. It was created exportable.
    pub key: String,
    /// What the material looks like when it is unwrapped.
    pub format: MaterialFormat,
    /// How to wrap: a JWE by the recipient's algorithm when absent; `rsa-aes-kwp` for HSMs and cloud services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrapping: Option<Wrapping>,
    /// The recipient's public key: RSA of 3072 or 4096 bits, P-256, P-384, X25519, `HPKE-4`, `HPKE-9` and their `-KE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub jwk: Option<serde_json::Value>,
    /// The recipient's public key as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
    /// Seen by policy and kept in receipts; the agent adds `export-recipient`, which names the recipient's key.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The material, wrapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportAnswer {
    /// A compact JWE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwe: Option<String>,
    /// What `rsa-aes-kwp` made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub wrapped: Option<Base64>,
    /// SHA-256 of the recipient's public key as its standard encodes it: `export-recipient` of the context.
    pub recipient: String,
    /// What the material looks like when it is unwrapped.
    pub format: MaterialFormat,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}
