//! Certificates of keys in the vault: what an authority is asked with, and certificates for development.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Used;
use crate::{context::EncryptionContext, encoding::Base64, key::words};

words! {
    /// What is made.
    #[derive(ToSchema)]
    CertificateKind {
        /// A request that an authority answers with a certificate (PKCS #10, RFC 2986).
        Request = "request",
        /// A certificate that the key signs itself: for development.
        SelfSigned = "self-signed",
    }
}

/// Ask for a certificate of a key, or make one that it signs itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertifyRequest {
    /// The key: `key_…`, `key_…/3` or `project/name`. It signs.
    #[schema(example = "payments/tls")]
    pub key: String,
    /// What to make; a request when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<CertificateKind>,
    /// The subject's name (RFC 4514): `CN=pay.example,O=Example`. May be empty when there are other names.
    #[serde(default)]
    #[schema(example = "CN=pay.example,O=Example")]
    pub subject: String,
    /// DNS names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// IP addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub ip: Vec<std::net::IpAddr>,
    /// E-mail addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub email: Vec<String>,
    /// URIs, such as a SPIFFE id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uri: Vec<String>,
    /// How many days a self-signed certificate lives: 1 to 398; 30 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// Seen by policy and kept in receipts; the agent adds `certificate-kind`, `certificate-subject` and `certificate-names`.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The request, or the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertifyAnswer {
    /// What it is.
    pub kind: CertificateKind,
    /// `-----BEGIN CERTIFICATE REQUEST-----` or `-----BEGIN CERTIFICATE-----`.
    pub pem: String,
    /// The same, DER.
    #[schema(value_type = String, format = "base64url")]
    pub der: Base64,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}
