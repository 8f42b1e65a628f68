//! State: what has happened to keys, agents and callers of a site. It follows and restricts; it cannot widen.

use std::collections::BTreeMap;

pub use schema::rule::Vouch;
use schema::{
    clock::Timestamp,
    encoding::Base64,
    id::{AgentId, CallerId, KeyId, KeyVersion, ProjectId, SiteId},
    key::{RevocationReason, VersionState},
    name::Name,
};
use serde::{Deserialize, Serialize};

use super::{Head, Kind, Statement, policy::KeyDefinition};

/// What has happened at one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Common head.
    #[serde(flatten)]
    pub head: Head,
    /// Keys made from a template of policy, with the template's name.
    pub templated: BTreeMap<KeyId, TemplatedKey>,
    /// The versions of every key placed at the site.
    pub keys: BTreeMap<KeyId, KeyState>,
    /// The agents of the site.
    pub roster: BTreeMap<AgentId, RosterSlot>,
    /// Other sites of the tenant at which a key of this one is placed too, as far as their agents are concerned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub neighbours: BTreeMap<SiteId, Neighbour>,
    /// How many roster slots were ever used at the site (nonce ceilings count every one).
    pub slots_used: u32,
    /// What was revoked, with the reason. Only grows.
    pub revocations: Vec<Revocation>,
    /// What is suspended. Agents keep the union of all they have seen; only policy lifts one.
    pub suspensions: Vec<Subject>,
}

/// The word by which a state requires that its reader knows of neighbours: one that does not would refuse what they made
/// without saying why.
pub const NEIGHBOUR_SITES: &str = "neighbour-sites";

/// The most neighbours of a site.
pub const MAX_NEIGHBOURS: usize = 64;
/// The most agents of all neighbours of a site together.
pub const MAX_NEIGHBOUR_AGENTS: usize = 512;
/// The most vouches for one of them.
pub const MAX_NEIGHBOUR_VOUCHES: usize = 32;

impl Statement for State {
    const KIND: Kind = Kind::State;
    const UNDERSTOOD: &'static [&'static str] = &[NEIGHBOUR_SITES];

    fn head(&self) -> &Head {
        &self.head
    }
}

/// A key that stands in no policy, but follows a template of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplatedKey {
    /// The template's name.
    pub template: Name,
    /// What it is.
    #[serde(flatten)]
    pub definition: KeyDefinition,
}

/// The versions of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyState {
    /// The version used when none is named; 0 while there is none. Moves forward only.
    pub primary: u32,
    /// Every version ever, by number, without gaps from 1.
    pub versions: BTreeMap<u32, VersionEntry>,
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionEntry {
    /// Its state.
    pub state: VersionState,
    /// When it came to be (was asked for).
    pub created: Timestamp,
    /// When it became active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated: Option<Timestamp>,
    /// Who is to make it, or made it. None until an agent was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<AgentId>,
    /// The generator's signed version record: a DSSE envelope, exact bytes. None until it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Base64>,
    /// Signed ready reports of its holders: DSSE envelopes, exact bytes.
    pub ready: BTreeMap<AgentId, Base64>,
    /// A holder's signed report of a sealed backup (`recovery::BackupReport`): a DSSE envelope, exact bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Base64>,
}

/// An agent of the site, and why it is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterSlot {
    /// The signed roster entry (`document::RosterEntry`): a DSSE envelope by the agent's own pair, exact bytes.
    pub entry: Base64,
    /// Why the entry counts.
    pub vouches: Vec<Vouch>,
}

/// Another site of the tenant that shares a key with this one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its agents, with all that was said for them: there, and here.
    pub roster: BTreeMap<AgentId, RosterSlot>,
}

/// Something that may be suspended or revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Subject {
    /// A caller.
    Caller(CallerId),
    /// An agent.
    Agent(AgentId),
    /// A whole key.
    Key(KeyId),
    /// One version.
    Version(KeyVersion),
    /// Every key of a project.
    Project(ProjectId),
    /// Every agent of a site, and every key there.
    Site(SiteId),
}

/// Something was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// What.
    pub subject: Subject,
    /// Why (RFC 5280).
    pub reason: RevocationReason,
    /// When.
    pub at: Timestamp,
}
