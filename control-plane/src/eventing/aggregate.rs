//! What every domain implements: a state that decides and evolves. Pure: no async, no clock, no database.

use std::fmt::Debug;

use schema::{
    clock::{Ids, Timestamp},
    encoding::Digest,
    event::{Event, StreamId},
    id::{EventId, Id, TenantId},
};
use serde::{Serialize, de::DeserializeOwned};

/// Facts of the envelope that states may remember.
#[derive(Debug, Clone, PartialEq)]
pub struct EventMeta {
    /// The event.
    pub id: EventId,
    /// The tenant.
    pub tenant: TenantId,
    /// Its stream.
    pub stream: StreamId,
    /// Its place in the stream, from 1.
    pub revision: u64,
    /// When it was decided.
    pub time: Timestamp,
    /// Who acted.
    pub actor: String,
}

/// What `decide` may know beside state and command.
pub struct Deciding<'a> {
    /// The time of the decision; the events will carry it.
    pub now: Timestamp,
    /// Ids that a retry of the same command makes again.
    pub ids: &'a dyn Ids,
}

/// Why a command is turned down. Part of the domain, shown to the user.
pub trait Refusal: std::error::Error + Send + Sync + 'static {
    /// A stable code in snake case, listed in `docs/errors.md`.
    fn code(&self) -> &'static str;

    /// The field of the input that was wrong, in camel case, where there is one.
    fn field(&self) -> Option<&'static str> {
        None
    }
}

/// One stream of events, and the state they add up to. `Default` is the state before the first event.
///
/// The state is also the read model: it is stored, sealed, as JSON, once per change, so that it can be asked for *as of*
/// a time. It therefore holds what views need, and no secrets.
pub trait Aggregate: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its identifier; the stream is named by it.
    type Id: Id;
    /// A parsed intent. Serialises only to be hashed for idempotency: secrets must not be in it in clear.
    type Command: Debug + Serialize + Send + Sync;
    /// What happens to it.
    type Event: Event;
    /// Why it says no.
    type Refusal: Refusal;
    /// The word for it in singular, e.g. `key`; also the Cedar entity type in lower case and the name of the read model.
    const KIND: &'static str;

    /// State and command give events or a refusal.
    fn decide(&self, command: &Self::Command, deciding: &Deciding<'_>) -> Result<Vec<Self::Event>, Self::Refusal>;

    /// State and event give the next state; cannot fail.
    fn evolve(&mut self, event: &Self::Event, meta: &EventMeta);

    /// What its read model is found by.
    fn index(&self) -> Index;
}

/// What a read model is found by, beside its id. Values are stored as keyed blind indexes, one label per column; nothing
/// here is stored in clear but `state`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// The id of what it belongs to (a key's project), as text.
    pub parent: Option<String>,
    /// The name it is looked up by inside its parent.
    pub name: Option<String>,
    /// A word that listings filter by. Stored in clear: never free text.
    pub state: Option<String>,
    /// Further terms listings filter by, e.g. `("algorithm", "ML-DSA-65")`, `("label.env", "prod")`, `("site", "site_…")`.
    pub terms: Vec<(String, String)>,
    /// SHA-256 of high-entropy secrets it is found by across tenants (API tokens, enrolment tokens), stored as they are.
    pub handles: Vec<Digest>,
}
