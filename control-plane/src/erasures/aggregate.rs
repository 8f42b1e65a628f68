//! What an erasure is, and how it decides.

use schema::{
    clock::Timestamp,
    event::erasure::{ErasureEvent, PersonErased, TenantErased},
    id::{ErasureId, MemberId, TenantId},
};
use serde::{Deserialize, Serialize};

use super::{ErasureCommand, ErasureRefusal};
use crate::{
    eventing::aggregate::{Aggregate, Deciding, EventMeta, Index},
    sealing::TenantKeys,
};

/// Who is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A person of the tenant that records it.
    Person(MemberId),
    /// A tenant; the deployment records it.
    Tenant(TenantId),
}

/// An erasure; nothing in `done` means there was none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Erasure {
    /// What was erased.
    pub done: Option<Done>,
}

/// What was erased, when and by whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Its id.
    pub id: ErasureId,
    /// Who.
    pub subject: Subject,
    /// When.
    pub at: Timestamp,
    /// The principal that ordered it.
    pub by: String,
}

impl Erasure {
    /// The one erasure there can be of somebody, under the keys of whoever records it.
    pub fn id(keys: &TenantKeys, subject: Subject) -> ErasureId {
        match subject {
            Subject::Person(person) => keys.derived_id("erasure", &["person", &person.to_string()]),
            Subject::Tenant(tenant) => keys.derived_id("erasure", &["tenant", &tenant.to_string()]),
        }
    }
}

impl Aggregate for Erasure {
    type Id = ErasureId;
    type Command = ErasureCommand;
    type Event = ErasureEvent;
    type Refusal = ErasureRefusal;
    const KIND: &'static str = "erasure";

    fn decide(&self, command: &ErasureCommand, _: &Deciding<'_>) -> Result<Vec<ErasureEvent>, ErasureRefusal> {
        let ErasureCommand::Erase { subject, known } = *command;
        match (&self.done, known) {
            (Some(_), _) => Err(ErasureRefusal::Erased),
            (None, false) => Err(ErasureRefusal::Unknown),
            (None, true) => Ok(vec![match subject {
                Subject::Person(person) => PersonErased { person }.into(),
                Subject::Tenant(tenant) => TenantErased { tenant }.into(),
            }]),
        }
    }

    fn evolve(&mut self, event: &ErasureEvent, meta: &EventMeta) {
        let subject = match event {
            ErasureEvent::PersonErased(event) => Subject::Person(event.person),
            ErasureEvent::TenantErased(event) => Subject::Tenant(event.tenant),
        };
        self.done = meta.stream.id().map(|id| Done { id, subject, at: meta.time, by: meta.actor.clone() });
    }

    fn index(&self) -> Index {
        Index { state: Some("done".to_owned()), ..Index::default() }
    }
}
