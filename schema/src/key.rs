//! What is fixed about a key, and the states of its versions (NIST SP 800-57 part 1, section 7).

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    calendar::Calendar,
    catalogue::Algorithm,
    clock::Timestamp,
    encoding::{Digest, opt_u64_string},
    name::Name,
    ranges::LimitKind,
};

/// The word is not one of those allowed here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of: {expected}")]
pub struct UnknownWord {
    /// The words allowed, separated by commas.
    pub expected: String,
}

/// An enum whose values are words: text, JSON and a list of all of them.
#[macro_export]
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Every value, in the order of the definition.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::key::UnknownWord;

            fn from_str(text: &str) -> Result<Self, $crate::key::UnknownWord> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| $crate::key::UnknownWord {
                    expected: Self::ALL.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}
pub use words;

words! {
    /// What a key may be used for. Purposes do not mix.
    Purpose {
        /// Seal and open messages and files.
        Encrypt = "encrypt",
        /// Sign and verify messages.
        Sign = "sign",
        /// Sign and verify ready digests.
        SignDigest = "sign-digest",
        /// Authenticate messages with a shared key.
        Mac = "mac",
        /// Wrap and unwrap bare keys.
        Wrap = "wrap",
        /// Agree on a secret.
        Agree = "agree",
        /// Derive keys.
        Derive = "derive",
    }
}

words! {
    /// How many homes the material of a version must have before it may be used.
    Durability {
        /// One vault, and no backup: chosen by name, shown in every listing.
        SingleCopy = "single-copy",
        /// Two holders.
        TwoHolders = "two-holders",
        /// A backup sealed to the site's recovery key.
        SealedBackup = "sealed-backup",
        /// None here: a partner alone has the private half.
        Elsewhere = "elsewhere",
    }
}

words! {
    /// How well a vault guards the material of a version, weakest first.
    Protection {
        /// Used in the agent's memory, and kept sealed under a passphrase, a file, or a vault of software.
        Software = "software",
        /// Used in the agent's memory, and kept sealed under a key that never leaves a device.
        SealedByHardware = "sealed-by-hardware",
        /// Used inside a device, which never lets it out.
        Hardware = "hardware",
    }
}

impl Protection {
    /// Whether it is the level that every vault has.
    pub fn is_least(&self) -> bool {
        *self == Self::Software
    }
}

impl Default for Protection {
    /// What every vault has.
    fn default() -> Self {
        Self::Software
    }
}

words! {
    /// Where the material of a key was made.
    Origin {
        /// By an agent of the site, in its vault.
        Generated = "generated",
        /// Elsewhere, and brought in.
        Imported = "imported",
        /// By a partner, who keeps the private half: only the public half is known here.
        External = "external",
    }
}

words! {
    /// The state of one version (SP 800-57).
    VersionState {
        /// Made, or being made; not yet used.
        PreActivation = "pre-activation",
        /// In use for everything the purpose allows.
        Active = "active",
        /// Does nothing until it is resumed.
        Suspended = "suspended",
        /// Only opens and verifies.
        Deactivated = "deactivated",
        /// Only opens and verifies, and is known or feared to be in other hands.
        Compromised = "compromised",
        /// Gone from every holder, or on its way there.
        Destroyed = "destroyed",
    }
}

impl VersionState {
    /// The states this one may change to; suspended versions also go back to the state they were suspended in.
    pub const fn successors(self) -> &'static [Self] {
        use VersionState::*;
        match self {
            PreActivation => &[Active, Suspended, Compromised, Destroyed],
            Active => &[Suspended, Deactivated, Compromised, Destroyed],
            Suspended => &[Active, Deactivated, Compromised, Destroyed],
            Deactivated => &[Suspended, Compromised, Destroyed],
            Compromised => &[Destroyed],
            Destroyed => &[],
        }
    }

    /// Whether a version in this state may protect new data: encrypt, sign, wrap, mac.
    pub const fn may_protect(self) -> bool {
        matches!(self, Self::Active)
    }

    /// Whether a version in this state may process protected data: decrypt, verify, unwrap.
    pub const fn may_process(self) -> bool {
        matches!(self, Self::Active | Self::Deactivated | Self::Compromised)
    }

    /// How far along its life a version is; a later state is never followed by an earlier one, but for resumption.
    pub const fn rank(self) -> u8 {
        match self {
            Self::PreActivation => 0,
            Self::Active => 1,
            Self::Suspended => 2,
            Self::Deactivated => 3,
            Self::Compromised => 4,
            Self::Destroyed => 5,
        }
    }
}

words! {
    /// Why something was revoked (RFC 5280, section 5.3.1).
    RevocationReason {
        /// No reason given.
        Unspecified = "unspecified",
        /// The key is known or feared to be in other hands.
        KeyCompromise = "keyCompromise",
        /// The authority behind it is.
        CaCompromise = "cACompromise",
        /// It belongs to somebody else now.
        AffiliationChanged = "affiliationChanged",
        /// Another one took its place.
        Superseded = "superseded",
        /// It is no longer needed.
        CessationOfOperation = "cessationOfOperation",
        /// Held for now.
        CertificateHold = "certificateHold",
        /// Its right was taken back.
        PrivilegeWithdrawn = "privilegeWithdrawn",
        /// The attribute authority is compromised.
        AaCompromise = "aACompromise",
    }
}

impl RevocationReason {
    /// The state a version takes when it is revoked for this reason.
    pub const fn state(self) -> VersionState {
        match self {
            Self::KeyCompromise | Self::CaCompromise | Self::AaCompromise => VersionState::Compromised,
            Self::CertificateHold => VersionState::Suspended,
            _ => VersionState::Deactivated,
        }
    }
}

words! {
    /// What an application asks an agent to do. Also the action ids of the Cedar schema.
    Operation {
        /// Seal a message or a file.
        Encrypt = "encrypt",
        /// Open a message or a file.
        Decrypt = "decrypt",
        /// Sign a message.
        Sign = "sign",
        /// Verify a signature over a message.
        Verify = "verify",
        /// Make a data key and hand it out sealed, and in clear where that is asked for.
        GenerateDataKey = "generate-data-key",
        /// Sign a ready digest.
        SignDigest = "sign-digest",
        /// Verify a signature over a ready digest.
        VerifyDigest = "verify-digest",
        /// Authenticate a message with a shared key.
        Mac = "mac",
        /// Verify the authentication of a message.
        VerifyMac = "verify-mac",
        /// Wrap a bare key.
        Wrap = "wrap",
        /// Unwrap a bare key.
        Unwrap = "unwrap",
        /// Protect with the newest version of a key what an older version of it protects.
        Rewrap = "rewrap",
        /// Open with this key what another key seals again; asked of the first key, while the other is asked to encrypt.
        ReEncrypt = "re-encrypt",
        /// Verify with this key what another key signs again; asked of the first key, while the other is asked to sign.
        ReSign = "re-sign",
        /// Open what an old program sealed in a way that is weaker than ours.
        DecryptLegacy = "decrypt-legacy",
        /// Verify what was signed in a way that is weaker than ours.
        VerifyLegacy = "verify-legacy",
        /// Agree on a secret with the holder of another key.
        Agree = "agree",
        /// Make a secret and encapsulate it for the holder of the key.
        Encapsulate = "encapsulate",
        /// Take an encapsulated secret out.
        Decapsulate = "decapsulate",
        /// Derive a key.
        Derive = "derive",
        /// Make random bytes.
        Random = "random",
        /// Read a public key.
        PublicKey = "public-key",
        /// Bring the material of a version that was made elsewhere.
        Import = "import",
        /// Take the material of a version out, wrapped.
        Export = "export",
        /// Ask for a certificate of the key, or make one that it signs itself.
        Certify = "certify",
        /// Ask whether another caller may do something with the key, and why.
        Explain = "explain",
    }
}

impl Operation {
    /// Whether it makes newly protected data, so that the version must be active.
    ///
    /// Of `rewrap`, `re-encrypt` and `re-sign` this tells what the version that is read must be; the version that
    /// protects anew must be active. What agreeing and deriving are for, nobody can tell: they are needed to read what is
    /// old, so a deactivated version still does them.
    pub const fn protects(self) -> bool {
        use Operation::{Certify, Encapsulate, Encrypt, GenerateDataKey, Mac, Sign, SignDigest, Wrap};
        matches!(self, Encrypt | Sign | GenerateDataKey | SignDigest | Mac | Wrap | Encapsulate | Certify)
    }

    /// Whether the public half of a key is enough for it.
    pub const fn needs_only_public_half(self) -> bool {
        use Operation::{Encapsulate, Encrypt, Explain, GenerateDataKey, PublicKey, ReSign, Verify, VerifyDigest, VerifyLegacy, Wrap};
        matches!(self, Encrypt | GenerateDataKey | Wrap | Encapsulate | Verify | VerifyDigest | VerifyLegacy | ReSign | PublicKey | Explain)
    }

    /// Whether it names a key.
    pub const fn needs_key(self) -> bool {
        !matches!(self, Self::Random)
    }
}

/// Limits on the use of one version; absent means no limit. Soft limits warn, hard limits refuse.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Limits {
    /// Warn after this many uses that protect data.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub soft_uses: Option<u64>,
    /// Refuse after this many uses that protect data.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub hard_uses: Option<u64>,
    /// Warn after this many bytes of plaintext protected.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub soft_bytes: Option<u64>,
    /// Refuse after this many bytes of plaintext protected.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub hard_bytes: Option<u64>,
    /// Warn when a version has been active for this many seconds.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub soft_seconds: Option<u64>,
    /// Refuse to protect new data when a version has been active for this many seconds.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub hard_seconds: Option<u64>,
}

impl Limits {
    /// Whether every soft limit is at or below its hard limit and no hard limit is zero.
    pub fn is_sound(&self) -> bool {
        let ordered = |soft: Option<u64>, hard: Option<u64>| match (soft, hard) {
            (Some(soft), Some(hard)) => soft <= hard && hard > 0,
            (None, Some(hard)) => hard > 0,
            _ => true,
        };
        ordered(self.soft_uses, self.hard_uses)
            && ordered(self.soft_bytes, self.hard_bytes)
            && ordered(self.soft_seconds, self.hard_seconds)
    }

    /// These limits, and never more uses than the mathematics of the algorithm allows one version.
    pub fn within(&self, algorithm: Algorithm) -> Self {
        let Some(max_uses) = algorithm.entry().max_uses else { return self.clone() };
        Self {
            soft_uses: self.soft_uses.map(|soft| soft.min(max_uses)),
            hard_uses: Some(self.hard_uses.map_or(max_uses, |hard| hard.min(max_uses))),
            ..self.clone()
        }
    }

    /// The soft and the hard limit of what is counted.
    pub const fn of(&self, kind: LimitKind) -> (Option<u64>, Option<u64>) {
        match kind {
            LimitKind::Uses => (self.soft_uses, self.hard_uses),
            LimitKind::Bytes => (self.soft_bytes, self.hard_bytes),
        }
    }

    /// Whether anything is counted at all; time is not, it passes by itself.
    pub const fn are_counted(&self) -> bool {
        self.soft_uses.is_some() || self.hard_uses.is_some() || self.soft_bytes.is_some() || self.hard_bytes.is_some()
    }
}

/// How new versions may come about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct RotationRule {
    /// Rotate when the primary version is this old, in seconds; absent: only by hand.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub every_seconds: Option<u64>,
    /// The least time between two versions, in seconds.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub min_interval_seconds: Option<u64>,
    /// Rotate at these times, if the primary version is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<Calendar>,
    /// Rotate when agents have said that they used the primary version so often.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub after_uses: Option<u64>,
    /// Deactivate a version this long after a newer one became primary, in seconds; absent: only by hand.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub deactivate_after_seconds: Option<u64>,
    /// Destroy a version that a newer one replaced, this long after it was deactivated, in seconds; absent: only by hand.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    pub destroy_after_seconds: Option<u64>,
}

/// The least and the most time between the deactivation of a version and its destruction by rule: in it, somebody can cancel.
pub const DESTROY_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 3_600..=366 * 86_400;

impl RotationRule {
    /// Whether it can be followed: the age to rotate at is above 0 and not below the least time between versions, uses are
    /// above 0, and what is destroyed was deactivated long enough before.
    pub fn is_sound(&self) -> bool {
        self.every_seconds.is_none_or(|every| every > 0 && every >= self.min_interval_seconds.unwrap_or(0))
            && self.after_uses.is_none_or(|uses| uses > 0)
            && self
                .destroy_after_seconds
                .is_none_or(|after| DESTROY_AFTER_SECONDS.contains(&after) && self.deactivate_after_seconds.is_some())
    }

    /// When the rule wants the next version by time, of a version that became active then; none when only by hand or by uses.
    pub fn due_after(&self, activated: Timestamp) -> Option<Timestamp> {
        let by_age = self.every_seconds.map(|every| activated.plus(Duration::from_secs(every)));
        let by_calendar = self.calendar.as_ref().and_then(|calendar| calendar.next_after(activated));
        by_age.into_iter().chain(by_calendar).min()
    }

    /// The least time between two versions.
    pub fn min_interval(&self) -> Duration {
        Duration::from_secs(self.min_interval_seconds.unwrap_or(0))
    }
}

/// The lowest version numbers that may still be used; 0 means no minimum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct MinimumVersions {
    /// To decrypt, verify or unwrap.
    #[serde(default)]
    pub process: u32,
    /// To encrypt, sign or wrap.
    #[serde(default)]
    pub protect: u32,
}

/// Identifies an asymmetric key by its public half, encoded as the algorithm's standard says: SHA-256 over a label, the
/// algorithm and the public key.
pub fn fingerprint(algorithm: Algorithm, public_key: &[u8]) -> Digest {
    Digest::labelled(FINGERPRINT_LABEL, &[algorithm.name().as_bytes(), public_key])
}

/// The label of fingerprints of key material.
pub const FINGERPRINT_LABEL: &str = "freehold-fingerprint-v1";

/// An encryption context or any other map of plain text pairs.
pub type Pairs = BTreeMap<String, String>;

/// A reference to a key, or to a composite of keys, as people write it: an id, or `project/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyReference {
    /// `key_…`
    Id(crate::id::KeyId),
    /// `key_…/3`
    Version(crate::id::KeyVersion),
    /// `cmp_…`: a composite.
    Composite(crate::id::CompositeId),
    /// `project/name`; the name may be an alias, or that of a composite.
    Named {
        /// The project's name.
        project: Name,
        /// The key's name or an alias of it, or the composite's name.
        name: Name,
    },
}

impl FromStr for KeyReference {
    type Err = crate::name::InvalidText;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        if let Ok(version) = text.parse() {
            return Ok(Self::Version(version));
        }
        if let Ok(composite) = text.parse() {
            return Ok(Self::Composite(composite));
        }
        let (project, name) = text.split_once('/').ok_or(crate::name::InvalidText::Reference)?;
        match (project.parse(), name.parse()) {
            (Ok(project), Ok(name)) => Ok(Self::Named { project, name }),
            _ => Err(crate::name::InvalidText::Reference),
        }
    }
}

impl fmt::Display for KeyReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Version(version) => version.fmt(f),
            Self::Composite(composite) => composite.fmt(f),
            Self::Named { project, name } => write!(f, "{project}/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_has_the_last_word_on_uses() {
        let (direct, wrapped): (Algorithm, Algorithm) = ("A256GCM".parse().unwrap(), "A256KW+A256GCM".parse().unwrap());
        let uses = |soft, hard| Limits { soft_uses: soft, hard_uses: hard, soft_seconds: Some(1), ..Limits::default() };
        for (given, wanted) in [
            (uses(None, None), uses(None, Some(1 << 32))),
            (uses(Some(5), Some(10)), uses(Some(5), Some(10))),
            (uses(Some(1 << 40), Some(1 << 41)), uses(Some(1 << 32), Some(1 << 32))),
        ] {
            assert_eq!(given.within(direct), wanted);
            assert!(given.within(direct).is_sound());
            assert_eq!(given.within(wrapped), given);
        }
    }

    #[test]
    fn destroyed_and_compromised_are_one_way() {
        assert!(VersionState::Destroyed.successors().is_empty());
        assert_eq!(VersionState::Compromised.successors(), [VersionState::Destroyed]);
    }

    #[test]
    fn only_active_protects_and_suspended_does_nothing() {
        for state in VersionState::ALL {
            assert_eq!(state.may_protect(), *state == VersionState::Active);
        }
        assert!(!VersionState::Suspended.may_process());
        assert!(VersionState::Compromised.may_process());
    }
}
