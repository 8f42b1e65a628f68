//! Checks 1 and 2: size before parsing, then known format and nothing required that is not understood.

use schema::{
    encoding::{Base64, Digest},
    wire::agent::{MAX_STATEMENTS, StatementSet},
};

use super::{Rejection, memory::Order};
use crate::{
    dsse::{Envelope, EnvelopeError},
    json,
    statement::{Head, Statement, heartbeat::Heartbeat, policy::Policy, root::Root, state::State},
};

/// A statement that was read; whether it is believed is another matter.
#[derive(Debug, Clone)]
pub(crate) struct Read<T> {
    pub(crate) bytes: Base64,
    pub(crate) envelope: Envelope,
    pub(crate) sha256: Digest,
    pub(crate) payload: T,
}

impl<T: Statement> Read<T> {
    pub(super) fn head(&self) -> &Head {
        self.payload.head()
    }

    pub(super) fn order(&self) -> Order {
        Order { epoch: self.head().epoch, serial: self.head().serial }
    }

    pub(crate) fn new(bytes: &Base64) -> Result<Self, Rejection> {
        let kind = T::KIND;
        let unreadable = |source| Rejection::Unreadable { kind, source };
        let envelope = Envelope::parse(bytes.as_slice(), kind.max_bytes()).map_err(unreadable)?;
        if envelope.payload_type != kind.media_type() {
            let (expected, found) = (kind.media_type(), envelope.payload_type);
            return Err(unreadable(EnvelopeError::PayloadType { expected, found }));
        }
        let payload: T = json::strict(&envelope.payload).map_err(|error| unreadable(EnvelopeError::Payload(error)))?;
        let head = payload.head();
        if head.format != kind.media_type() {
            return Err(Rejection::UnknownFormat { kind, found: head.format.clone() });
        }
        if let Some(word) = head.requires.iter().find(|word| !T::UNDERSTOOD.contains(&word.as_str())) {
            return Err(Rejection::UnknownRequirement { kind, word: word.clone() });
        }
        Ok(Self { bytes: bytes.clone(), sha256: Digest::of(&envelope.payload), envelope, payload })
    }
}

/// Every statement of a set, read.
#[derive(Debug, Clone)]
pub(crate) struct ReadSet {
    pub(crate) roots: Vec<Read<Root>>,
    pub(crate) policies: Vec<Read<Policy>>,
    pub(crate) state: Option<Read<State>>,
    pub(crate) heartbeat: Option<Read<Heartbeat>>,
}

/// Check 1, of one statement.
pub(super) fn size<T: Statement>(bytes: &Base64) -> Result<(), Rejection> {
    let (bytes, max) = (bytes.as_slice().len(), T::KIND.max_bytes());
    if bytes > max { Err(Rejection::Oversized { kind: T::KIND, bytes, max }) } else { Ok(()) }
}

/// Check 1, of the whole set.
pub(crate) fn sizes(set: &StatementSet) -> Result<(), Rejection> {
    let count = set.roots.len() + set.policies.len();
    if count > MAX_STATEMENTS {
        return Err(Rejection::TooMany(count));
    }
    set.roots.iter().try_for_each(size::<Root>)?;
    set.policies.iter().try_for_each(size::<Policy>)?;
    set.state.iter().try_for_each(size::<State>)?;
    set.heartbeat.iter().try_for_each(size::<Heartbeat>)
}

/// Check 2, of the whole set.
pub(crate) fn formats(set: &StatementSet) -> Result<ReadSet, Rejection> {
    Ok(ReadSet {
        roots: set.roots.iter().map(Read::new).collect::<Result<_, _>>()?,
        policies: set.policies.iter().map(Read::new).collect::<Result<_, _>>()?,
        state: set.state.as_ref().map(Read::new).transpose()?,
        heartbeat: set.heartbeat.as_ref().map(Read::new).transpose()?,
    })
}
