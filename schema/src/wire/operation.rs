//! What applications ask an agent: encrypt, decrypt, sign, verify, data keys, random bytes, public keys; and its answers.
//!
//! Keys are named by id (`key_…`), by id and version (`key_…/3`), or as `project/name`, where the name may be an alias.
//! Where one is sealed to, signs or verifies, a composite (`cmp_…` or `project/name`) may stand as well.
//! Bytes are base64url without padding. Unknown fields are refused, so that a mistyped `context` is never ignored.

mod anew;
mod bare;
mod batch;
mod certify;
mod cms;
mod composite;
mod decision;
mod transfer;
mod transit;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::{
    context::EncryptionContext,
    encoding::{Base64, Digest, base64url, from_base64url, opt_u64_string, u64_string},
    id::{AgentId, KeyVersion, SiteId, TenantId},
    key::words,
};

pub use self::{anew::*, bare::*, batch::*, certify::*, cms::*, composite::*, decision::*, transfer::*, transit::*};

/// Where the operations stand.
pub mod path {
    /// `POST /v1/<operation>`, and `POST /v1/batch/<operation>` with a [`super::Batch`] of the same requests, for every
    /// operation: [`crate::key::Operation`] has their names.
    pub const BATCH: &str = "/v1/batch";
    /// `POST` [`super::CmsOpenRequest`] -> [`super::CmsOpenAnswer`]; also in batches.
    pub const CMS_OPEN: &str = "/v1/cms/open";
    /// `POST` [`super::CmsVerifyRequest`] -> [`super::CmsVerifyAnswer`]; also in batches.
    pub const CMS_VERIFY: &str = "/v1/cms/verify";
    /// `POST` [`super::ImportKeyRequest`] -> [`super::ImportKeyAnswer`]; also in batches.
    pub const IMPORT_KEY: &str = "/v1/import-key";
    /// `POST` [`super::TransitOpenRequest`] -> [`super::TransitOpenAnswer`]; also in batches.
    pub const TRANSIT_OPEN: &str = "/v1/transit/open";
    /// `POST` [`super::RandomRequest`] -> [`super::RandomAnswer`]; also in batches.
    pub const RANDOM: &str = "/v1/random";
    /// `POST` bytes -> a sealed file; `?key=` names the key.
    pub const STREAM_ENCRYPT: &str = "/v1/stream/encrypt";
    /// `POST` a sealed file -> its bytes.
    pub const STREAM_DECRYPT: &str = "/v1/stream/decrypt";
    /// `POST` a sealed file -> the same under the keys of `?key=`.
    pub const STREAM_RE_ENCRYPT: &str = "/v1/stream/re-encrypt";
    /// `POST` bytes -> [`super::StreamSignAnswer`]; `?key=` names the key.
    pub const STREAM_SIGN: &str = "/v1/stream/sign";
    /// `POST` bytes -> [`super::VerifyAnswer`]; the signature stands in a header.
    pub const STREAM_VERIFY: &str = "/v1/stream/verify";
    /// `POST` bytes -> [`super::StreamReSignAnswer`]; the signature stands in a header, and `?key=` names the key that signs.
    pub const STREAM_RE_SIGN: &str = "/v1/stream/re-sign";
    /// `POST` [`super::CanRequest`] -> [`super::CanAnswer`].
    pub const CAN: &str = "/v1/can";
    /// `GET` -> [`super::KeysAnswer`].
    pub const KEYS: &str = "/v1/keys";
    /// `GET` -> [`super::AlgorithmsAnswer`].
    pub const ALGORITHMS: &str = "/v1/algorithms";
    /// `GET` -> a JSON Web Key Set.
    pub const JWKS: &str = "/v1/jwks";
    /// `GET` -> [`super::AgentStatus`].
    pub const STATUS: &str = "/v1/status";
    /// `POST` -> [`crate::wire::health::SelfTestAnswer`].
    pub const SELF_TEST: &str = "/v1/self-test";
    /// `POST` -> [`crate::wire::recovery::BackupAnswer`].
    pub const BACKUP: &str = "/v1/backup";
}

/// Headers of requests and answers.
pub mod header {
    /// The encryption context of a stream: base64url of a JSON map of strings.
    pub const CONTEXT: &str = "freehold-context";
    /// Another encryption context, for what is protected anew.
    pub const NEW_CONTEXT: &str = "freehold-new-context";
    /// The signature of a stream: a JWS over its manifest.
    pub const SIGNATURE: &str = "freehold-signature";
    /// The key version a file was opened with that is sealed again.
    pub const SOURCE_KEY_VERSION: &str = "freehold-source-key-version";
    /// A warning about the key that was used, one header each.
    pub const WARNING: &str = "freehold-warning";
    /// The key version a stream was sealed under or opened with.
    pub const KEY_VERSION: &str = "freehold-key-version";
    /// The algorithm a stream was sealed under or opened with.
    pub const ALGORITHM: &str = "freehold-algorithm";
    /// The policies that allowed a stream, separated by commas.
    pub const POLICIES: &str = "freehold-policies";
}

/// Secret bytes in a request or an answer: base64url text in JSON, never printed, wiped on drop.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretBytes(pub Zeroizing<Vec<u8>>);

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<Zeroizing<Vec<u8>>> for SecretBytes {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(base64url(&self.0)))
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = SecretBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64url without padding (RFC 4648, section 5)")
            }

            // Neither error repeats the text: it may hold a secret.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                from_base64url(text).map(SecretBytes::from).map_err(E::custom)
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
                self.visit_str(&Zeroizing::new(text))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

words! {
    /// How a message is written.
    #[derive(ToSchema)]
    Format {
        /// JOSE compact serialisation.
        Compact = "compact",
        /// JOSE JSON serialisation.
        Json = "json",
    }
}

/// Seal a message of at most 1 MiB.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EncryptRequest {
    /// The key: `key_…`, `key_…/3` or `project/name`.
    #[schema(example = "billing/cards")]
    pub key: String,
    /// More keys: whoever may use any of them can open the message. It proves no origin, and is JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_for: Vec<String>,
    /// The plaintext.
    #[schema(value_type = String, format = "base64url")]
    pub plaintext: SecretBytes,
    /// The encryption context: the same map is needed to open the message.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
    /// How to write the message; `compact` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// What every answer says of the decision behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Used {
    /// The key or key version that was asked for.
    #[schema(example = "billing/cards")]
    pub asked_for: String,
    /// The key version that was used.
    #[schema(value_type = String, example = "key_01h2xcejqtf2nbrexx3vqjhp41/3")]
    pub key_version: KeyVersion,
    /// Its algorithm.
    #[schema(example = "A256KW+A256GCM")]
    pub algorithm: String,
    /// The Cedar policies that allowed it.
    pub policies: Vec<String>,
    /// What should be looked at soon.
    pub warnings: Vec<Warning>,
}

/// Something to look at soon: the request was served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// A stable code: `statements_stale`, `statements_grace`, `soft_limit_time`, `deactivation_ahead`, `older_version`,
    /// `algorithm_draft`, `algorithm_legacy`.
    #[schema(example = "statements_stale")]
    pub code: String,
    /// What it is and what to do.
    pub detail: String,
}

/// The sealed message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EncryptAnswer {
    /// A JWE, compact or JSON.
    pub message: String,
    /// How it was decided for the other keys, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_for: Vec<Used>,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Open a message.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecryptRequest {
    /// A JWE, compact or JSON.
    pub message: String,
    /// The encryption context it was sealed with.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
}

/// The opened message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecryptAnswer {
    /// The plaintext.
    #[schema(value_type = String, format = "base64url")]
    pub plaintext: SecretBytes,
    /// How policy had it masked, when it did: it is not the whole plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<String>,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Sign a message of at most 1 MiB.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignRequest {
    /// The key: `key_…`, `key_…/3` or `project/name`; or a composite, whose two keys sign.
    #[schema(example = "billing/invoices")]
    pub key: String,
    /// What to sign.
    #[schema(value_type = String, format = "base64url")]
    pub payload: SecretBytes,
    /// The encryption context, when the signature is to be bound to one: the same map is needed to verify it.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
    /// Leave the payload out of the signature (RFC 7515, appendix F); of one key, compact only.
    #[serde(default)]
    pub detached: bool,
    /// How to write the signature; `compact` when absent. A composite's is JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// The signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignAnswer {
    /// A JWS, compact or JSON.
    pub signature: String,
    /// How it was decided for the composite's post-quantum key; the rest is about its classical one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<Used>,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// The signature of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamSignAnswer {
    /// A JWS of type `freehold-manifest+jws`, compact or a composite's in JSON; its payload is a manifest of the two digests and
    /// the length.
    pub signature: String,
    /// How it was decided for the composite's post-quantum key; the rest is about its classical one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<Used>,
    /// SHA-256 of the stream.
    #[schema(value_type = String, format = "base64url")]
    pub sha256: Base64,
    /// SHA-512 of the stream.
    #[schema(value_type = String, format = "base64url")]
    pub sha512: Base64,
    /// Its bytes.
    #[serde(with = "u64_string")]
    #[schema(value_type = String)]
    pub length: u64,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// The new signature of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamReSignAnswer {
    /// A JWS of type `freehold-manifest+jws`, compact or a composite's in JSON.
    pub signature: String,
    /// What was found of each signature that was read, when a composite's rule was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub composite: Option<CompositeVerdict>,
    /// How it was decided for the post-quantum key of the composite that signs; the rest is about its classical one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<Used>,
    /// SHA-256 of the stream.
    #[schema(value_type = String, format = "base64url")]
    pub sha256: Base64,
    /// SHA-512 of the stream.
    #[schema(value_type = String, format = "base64url")]
    pub sha512: Base64,
    /// Its bytes.
    #[serde(with = "u64_string")]
    #[schema(value_type = String)]
    pub length: u64,
    /// How the use of the key that was read was decided.
    pub source: Used,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Verify a signature.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
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
    pub key: Option<String>,
}

/// Whether it is genuine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyAnswer {
    /// Whether the signature is genuine; of a composite: whether its rule is met.
    pub valid: bool,
    /// Why it is not: `not_genuine`, `context_mismatch`, or `signature_missing` when a composite lacks one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was signed, when it is genuine and was attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub payload: Option<SecretBytes>,
    /// What was found of each signature, when a composite's rule was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub composite: Option<CompositeVerdict>,
    /// How it was decided; of a composite, for its classical key.
    #[serde(flatten)]
    pub used: Used,
}

/// Make a data key: 256 random bits, in clear and sealed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DataKeyRequest {
    /// The key that seals it: `key_…`, `key_…/3` or `project/name`.
    pub key: String,
    /// The encryption context: the same map is needed to open it again.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub context: EncryptionContext,
    /// Give it only sealed: for whoever makes keys that others will open.
    #[serde(default)]
    pub without_plaintext: bool,
}

/// A new data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DataKeyAnswer {
    /// The data key: 32 bytes. Use it and forget it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "base64url")]
    pub plaintext: Option<SecretBytes>,
    /// The sealed data key (a JWE of type `freehold-data-key`): keep it, and open it with `decrypt`.
    pub message: String,
    /// How it was decided.
    #[serde(flatten)]
    pub used: Used,
}

/// Ask for random bytes.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RandomRequest {
    /// How many: 1 to 65 536.
    #[schema(minimum = 1, maximum = 65536)]
    pub bytes: u32,
}

/// Random bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RandomAnswer {
    /// The bytes.
    #[schema(value_type = String, format = "base64url")]
    pub random: SecretBytes,
    /// The Cedar policies that allowed it.
    pub policies: Vec<String>,
    /// What should be looked at soon.
    pub warnings: Vec<Warning>,
}

/// The root in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootInForce {
    /// The serial.
    #[serde(with = "u64_string")]
    #[schema(value_type = String)]
    pub serial: u64,
    /// SHA-256 of its payload, base64url.
    #[schema(value_type = String)]
    pub sha256: Digest,
}

/// One policy statement in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatementSerial {
    /// `tenant`, `project` or `site`, with the id of the latter two.
    pub scope: String,
    /// The serial.
    #[serde(with = "u64_string")]
    #[schema(value_type = String)]
    pub serial: u64,
}

words! {
    /// How old an agent's statements are.
    #[derive(ToSchema)]
    Freshness {
        /// Young enough.
        Fresh = "fresh",
        /// Older than they should be: everything works, with a warning.
        Stale = "stale",
        /// Only what policy allows offline.
        Grace = "grace",
        /// Nothing.
        Expired = "expired",
        /// There are none: nothing.
        None = "none",
    }
}

/// What an agent enforces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentStatus {
    /// The version of the agent program.
    pub agent_version: String,
    /// The agent, once enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// Its site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub site: Option<SiteId>,
    /// Its tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantId>,
    /// How old its statements are.
    pub freshness: Freshness,
    /// The age of the heartbeat in force, in seconds.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub heartbeat_age_seconds: Option<u64>,
    /// The heartbeat in force.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub heartbeat: Option<u64>,
    /// The state in force.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub state: Option<u64>,
    /// The root in force: who signs what. People compare it before they sign for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootInForce>,
    /// The policies in force.
    pub policies: Vec<StatementSerial>,
    /// How many keys are in force.
    pub keys: usize,
    /// How many callers are in force.
    pub callers: usize,
    /// How many Cedar policies are in force.
    pub cedar_policies: usize,
    /// Why the newest statements were not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub rejection: Option<super::agent::Rejected>,
    /// What the vault is.
    pub vault: String,
    /// Why the vault cannot be used, if so. Keys that are used in the agent's memory may work all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_fault: Option<super::health::VaultFault>,
    /// Algorithms that passed every round of self-tests, and are served.
    pub algorithms: Vec<String>,
    /// What the last round of self-tests found.
    pub self_tests: super::health::SelfTestAnswer,
    /// How the journal is doing.
    pub journal: super::health::JournalHealth,
}
