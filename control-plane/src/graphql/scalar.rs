//! Scalars and enums: how times, large numbers and words look in GraphQL.

use async_graphql::{Enum, InputValueError, InputValueResult, Scalar, ScalarType, Value};
use schema::clock;

/// A moment in UTC: RFC 3339 with exactly six decimals, e.g. `2026-01-31T09:30:00.000000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timestamp(pub clock::Timestamp);

#[Scalar]
impl ScalarType for Timestamp {
    fn parse(value: Value) -> InputValueResult<Self> {
        match &value {
            Value::String(text) => text.parse().map(Self).map_err(InputValueError::custom),
            _ => Err(InputValueError::expected_type(value)),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

impl From<clock::Timestamp> for Timestamp {
    fn from(time: clock::Timestamp) -> Self {
        Self(time)
    }
}

/// A whole number from 0 to 2^64-1, as a decimal string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UInt64(pub u64);

#[Scalar(name = "UInt64")]
impl ScalarType for UInt64 {
    fn parse(value: Value) -> InputValueResult<Self> {
        match &value {
            Value::String(text) => {
                text.parse().map(Self).map_err(|_| InputValueError::custom("expected a whole number as a decimal string"))
            }
            Value::Number(number) => number.as_u64().map(Self).ok_or_else(|| InputValueError::custom("expected a whole number from 0")),
            _ => Err(InputValueError::expected_type(value)),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

impl From<u64> for UInt64 {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

/// Any JSON value.
#[derive(Debug, Clone)]
pub struct Json(pub serde_json::Value);

#[Scalar(name = "JSON")]
impl ScalarType for Json {
    fn parse(value: Value) -> InputValueResult<Self> {
        Ok(Self(value.into_json()?))
    }

    fn to_value(&self) -> Value {
        Value::from_json(self.0.clone()).unwrap_or_default()
    }
}

/// Mirrors an enum of words as a GraphQL enum.
macro_rules! mirror {
    ($($(#[$doc:meta])* $name:ident = $remote:literal { $($(#[$vdoc:meta])* $variant:ident,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
        #[graphql(remote = $remote)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
    )*};
}

mirror! {
    /// What a key may be used for. Purposes do not mix.
    KeyPurpose = "schema::key::Purpose" {
        /// Seal and open messages and files.
        Encrypt,
        /// Sign and verify messages.
        Sign,
        /// Sign and verify ready digests.
        SignDigest,
        /// Authenticate messages with a shared key.
        Mac,
        /// Wrap and unwrap bare keys.
        Wrap,
        /// Agree on a secret.
        Agree,
        /// Derive keys.
        Derive,
    }
    /// How many homes the material of a version must have before it may be used.
    Durability = "schema::key::Durability" {
        /// One vault and no backup: lose it and everything under the key is lost.
        SingleCopy,
        /// Two agents hold it.
        TwoHolders,
        /// A backup sealed to the site's recovery key.
        SealedBackup,
        /// None here: a partner alone has the private half.
        Elsewhere,
    }
    /// How well a vault guards the material of a version, weakest first.
    KeyProtection = "schema::key::Protection" {
        /// Used in the agent's memory, and kept sealed under a passphrase, a file, or a vault of software.
        Software,
        /// Used in the agent's memory, and kept sealed under a key that never leaves a device.
        SealedByHardware,
        /// Used inside a device, which never lets it out.
        Hardware,
    }
    /// Where the material of a key was made.
    KeyOrigin = "schema::key::Origin" {
        /// By an agent of the site, in its vault.
        Generated,
        /// Elsewhere, and brought in.
        Imported,
        /// By a partner, who keeps the private half: only the public half is known here.
        External,
    }
    /// The state of one version (SP 800-57).
    VersionState = "schema::key::VersionState" {
        /// Made, or being made; not yet used.
        PreActivation,
        /// In use for everything the purpose allows.
        Active,
        /// Does nothing until it is resumed.
        Suspended,
        /// Only opens and verifies.
        Deactivated,
        /// Only opens and verifies, and is known or feared to be in other hands.
        Compromised,
        /// Gone from every holder, or on its way there.
        Destroyed,
    }
    /// Why something was revoked (RFC 5280).
    RevocationReason = "schema::key::RevocationReason" {
        /// No reason given.
        Unspecified,
        /// The key is known or feared to be in other hands.
        KeyCompromise,
        /// The authority behind it is.
        CaCompromise,
        /// It belongs to somebody else now.
        AffiliationChanged,
        /// Another one took its place.
        Superseded,
        /// It is no longer needed.
        CessationOfOperation,
        /// Held for now.
        CertificateHold,
        /// Its right was taken back.
        PrivilegeWithdrawn,
        /// The attribute authority is compromised.
        AaCompromise,
    }
    /// Whether an algorithm should be chosen today.
    AlgorithmStatus = "schema::catalogue::Status" {
        /// Choose it.
        Recommended,
        /// May be chosen.
        Allowed,
        /// Only to open or verify what is old.
        Legacy,
        /// The specification may still change.
        Draft,
    }
    /// What an application asks an agent to do.
    Operation = "schema::key::Operation" {
        /// Seal a message or a file.
        Encrypt,
        /// Open a message or a file.
        Decrypt,
        /// Sign a message.
        Sign,
        /// Verify a signature over a message.
        Verify,
        /// Make a data key and hand it out sealed, and in clear where that is asked for.
        GenerateDataKey,
        /// Sign a ready digest.
        SignDigest,
        /// Verify a signature over a ready digest.
        VerifyDigest,
        /// Authenticate a message with a shared key.
        Mac,
        /// Verify the authentication of a message.
        VerifyMac,
        /// Wrap a bare key.
        Wrap,
        /// Unwrap a bare key.
        Unwrap,
        /// Protect with the newest version of a key what an older version of it protects.
        Rewrap,
        /// Open with this key what another key seals again.
        ReEncrypt,
        /// Verify with this key what another key signs again.
        ReSign,
        /// Open what an old program sealed in a way that is weaker than ours.
        DecryptLegacy,
        /// Verify what was signed in a way that is weaker than ours.
        VerifyLegacy,
        /// Agree on a secret with the holder of another key.
        Agree,
        /// Make a secret and encapsulate it for the holder of the key.
        Encapsulate,
        /// Take an encapsulated secret out.
        Decapsulate,
        /// Derive a key.
        Derive,
        /// Make random bytes.
        Random,
        /// Read a public key.
        PublicKey,
        /// Bring the material of a version that was made elsewhere.
        Import,
        /// Take the material of a version out, wrapped.
        Export,
        /// Ask for a certificate of the key, or make one that it signs itself.
        Certify,
        /// Ask whether another caller may do something with the key, and why.
        Explain,
    }
    /// Which of a composite's signatures must be genuine.
    VerificationRule = "schema::composite::VerificationRule" {
        /// Both.
        All,
        /// At least one.
        Any,
        /// The classical one.
        ClassicalRequired,
        /// The post-quantum one.
        PqRequired,
    }
    /// How a caller proves who it is.
    CallerKind = "trust::statement::policy::CallerKind" {
        /// A token whose hash only the agent has.
        Token,
        /// A client certificate.
        Mtls,
    }
    /// Which kind of statement.
    StatementKind = "trust::statement::Kind" {
        /// Signers and thresholds; one per tenant.
        Root,
        /// What is allowed; per tenant, project or site.
        Policy,
        /// What has happened to keys; per site.
        State,
        /// What is current; per site.
        Heartbeat,
        /// Ranges of budgets; per agent. Reserved.
        Lease,
    }
    /// What a token may do.
    TokenScope = "crate::access::context::Scope" {
        /// Create tenants; nothing inside one.
        Operator,
        /// Everything inside one tenant.
        Admin,
        /// Keys, aliases, composites and callers.
        KeyManager,
        /// Policies.
        PolicyEditor,
        /// Read everything inside one tenant.
        Reader,
    }
}

/// A label.
#[derive(Debug, Clone, PartialEq, Eq, async_graphql::SimpleObject)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A label.
#[derive(Debug, Clone, PartialEq, Eq, async_graphql::InputObject)]
pub struct LabelInput {
    /// 1 to 63 characters of a-z, 0-9, `-` and `.`, starting with a letter.
    pub name: String,
    /// 0 to 63 characters of A-Z, a-z, 0-9, `-`, `_`, `.` and `:`.
    pub value: String,
}

/// Labels as a list, sorted by name.
pub fn labels(labels: &schema::name::Labels) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label { name: name.to_string(), value: value.to_string() }).collect()
}
