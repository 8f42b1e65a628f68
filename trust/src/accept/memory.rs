//! What an agent never forgets, whatever it is shown later.

use std::collections::BTreeMap;

use schema::{
    catalogue::Algorithm,
    encoding::{Base64, Digest, u64_string},
    id::{AgentId, CompositeId, KeyId, KeyVersion, SiteId},
    key::{Origin, Purpose, RevocationReason, VersionState},
};
use serde::{Deserialize, Serialize};

use crate::{
    recovery::recovery_keyid,
    statement::{Scope, state::Subject},
};

/// Everything that outlives the set it was seen in. Only grows, except that policy lifts restrictions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// The highest statement seen, of each.
    #[serde(with = "list")]
    pub seen: BTreeMap<Slot, Seen>,
    /// What is suspended or revoked.
    #[serde(with = "list")]
    pub restrictions: BTreeMap<Subject, Restriction>,
    /// What is fixed about each key, and its highest primary.
    #[serde(with = "list")]
    pub keys: BTreeMap<KeyId, KeyMemory>,
    /// The keys of each composite: they never change. Absent in what was stored before there were any.
    #[serde(default, with = "list", skip_serializing_if = "BTreeMap::is_empty")]
    pub composites: BTreeMap<CompositeId, CompositeMemory>,
    /// Every version ever seen.
    #[serde(with = "list")]
    pub versions: BTreeMap<KeyVersion, VersionMemory>,
    /// Every pair ever believed to be an agent's, by key id.
    #[serde(with = "list")]
    pub pairs: BTreeMap<Digest, PairMemory>,
    /// Pairs of agents that had left before this one came, by key id: believed only as to what they signed.
    #[serde(default, with = "list", skip_serializing_if = "BTreeMap::is_empty")]
    pub former: BTreeMap<Digest, PairMemory>,
    /// Every pair ever believed to be that of an agent of a neighbour, by key id. Apart from those of this site: it is never one of
    /// them. Absent in what was stored before there were any.
    #[serde(default, with = "list", skip_serializing_if = "BTreeMap::is_empty")]
    pub neighbours: BTreeMap<Digest, NeighbourMemory>,
    /// How many roster slots were ever used.
    pub slots_used: u32,
    /// The recovery key that backups are sealed to: replaced only by one that a person here confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryMemory>,
}

/// The recovery key of the site, as it is believed here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryMemory {
    /// Its number at the site.
    pub number: u32,
    /// Its public half, as HPKE with MLKEM768-X25519 encodes it.
    pub public_key: Base64,
    /// How many shares of its private half there are.
    pub shares: u8,
    /// How many of them open a backup.
    pub threshold: u8,
    /// The agent it was made at.
    pub agent: AgentId,
}

impl RecoveryMemory {
    /// Identifies it: what people compare.
    pub fn keyid(&self) -> Digest {
        recovery_keyid(self.public_key.as_slice())
    }
}

/// A place where one statement follows another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The tenant's root.
    Root,
    /// A policy.
    Policy(Scope),
    /// The site's state.
    State,
    /// The site's heartbeat.
    Heartbeat,
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Policy(scope) => write!(f, "policy of {}", scope_name(scope)),
            Self::State => f.write_str("state"),
            Self::Heartbeat => f.write_str("heartbeat"),
        }
    }
}

/// A scope in words.
pub(super) fn scope_name(scope: &Scope) -> String {
    match scope {
        Scope::Tenant => "the tenant".to_owned(),
        Scope::Project(project) => project.to_string(),
        Scope::Site(site) => site.to_string(),
    }
}

/// One statement, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its place in the order.
    #[serde(flatten)]
    pub order: Order,
    /// SHA-256 of its payload.
    pub sha256: Digest,
}

/// The order of statements: epoch, then serial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Order {
    /// The epoch.
    #[serde(with = "u64_string")]
    pub epoch: u64,
    /// The serial.
    #[serde(with = "u64_string")]
    pub serial: u64,
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.serial)
    }
}

/// What holds something back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Restriction {
    /// That it was suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Asked<()>>,
    /// The reason, when it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Asked<RevocationReason>>,
    /// Of a version: the irreversible state that nothing foresaw and policy has not confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<Asked<VersionState>>,
}

/// What a state asked for. Each part of a restriction is lifted by itself: a version that was suspended first and then
/// deactivated is resumed as a deactivated one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked<T> {
    /// What.
    pub what: T,
    /// The last state that asked for it; only a resumption up to this serial, or a later one, lifts it.
    pub last: Order,
}

impl Restriction {
    /// Takes away what was last asked for up to here.
    pub(super) fn lift(&mut self, up_to: Order) {
        self.suspended = self.suspended.filter(|asked| asked.last > up_to);
        self.revoked = self.revoked.filter(|asked| asked.last > up_to);
        self.unsettled = self.unsettled.filter(|asked| asked.last > up_to);
    }

    /// Whether nothing holds back any more.
    pub(super) fn is_empty(&self) -> bool {
        self.suspended.is_none() && self.revoked.is_none() && self.unsettled.is_none()
    }
}

/// What is fixed about a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyMemory {
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Its purpose.
    pub purpose: Purpose,
    /// Whether material may leave.
    pub exportable: bool,
    /// Where its material was made.
    pub origin: Origin,
    /// The highest primary version.
    pub primary: u32,
}

/// The keys of a composite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompositeMemory {
    /// The key that signs classically.
    pub classical: KeyId,
    /// The key that signs beside it.
    pub post_quantum: KeyId,
    /// The key for what is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<KeyId>,
}

/// What is remembered of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionMemory {
    /// The state it can no longer leave backwards: irreversible states only once they were foreseen or confirmed. A destroyed
    /// version is its own tombstone.
    pub settled: VersionState,
    /// The first fingerprint seen; final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Digest>,
}

/// A pair that was believed to be an agent's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairMemory {
    /// Whose.
    pub agent: AgentId,
    /// Ed25519 public key.
    pub ed25519: Base64,
    /// ML-DSA-65 public key.
    pub ml_dsa_65: Base64,
}

/// A pair that was believed to be that of an agent of another site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourMemory {
    /// Of which site.
    pub site: SiteId,
    /// Whose.
    #[serde(flatten)]
    pub pair: PairMemory,
}

/// Maps whose keys are not text, as lists of pairs.
mod list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer, K: Serialize, V: Serialize>(map: &BTreeMap<K, V>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, K: Deserialize<'de> + Ord, V: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<K, V>, D::Error> {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
