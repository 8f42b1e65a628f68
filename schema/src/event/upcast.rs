//! Lifts the data of old event versions to the present one when it is read. The stored bytes never change.

use serde_json::Value;

use super::{Envelope, Event};

/// A type or version this program does not know.
#[derive(Debug, thiserror::Error)]
pub enum UnknownEvent {
    /// Written by a newer version.
    #[error("event {event} is a {event_type} of schema version {found}; this program reads up to {known}")]
    Newer {
        /// The event's id.
        event: String,
        /// Its type.
        event_type: String,
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// The data does not have the shape of its type.
    #[error("event {event} is not a readable {event_type}")]
    Unreadable {
        /// The event's id.
        event: String,
        /// Its type.
        event_type: String,
        /// What did not fit.
        #[source]
        source: serde_json::Error,
    },
}

/// One step: the data of version `from` of a type becomes that of version `from + 1`.
type Step = (&'static str, u32, fn(Value) -> Value);

/// Every step there is, in order. A new version of an event adds one.
const STEPS: &[Step] = &[];

/// Reads an envelope's data as an event of the present version.
pub fn lift<E: Event>(envelope: &Envelope) -> Result<E, UnknownEvent> {
    lift_with(envelope, STEPS)
}

fn lift_with<E: Event>(envelope: &Envelope, steps: &[Step]) -> Result<E, UnknownEvent> {
    let known = E::schema_version(&envelope.event_type);
    if envelope.schema > known {
        return Err(UnknownEvent::Newer {
            event: envelope.id.to_string(),
            event_type: envelope.event_type.clone(),
            found: envelope.schema,
            known,
        });
    }
    let data = (envelope.schema..known).fold(envelope.data.clone(), |data, version| {
        match steps.iter().find(|(name, from, _)| *name == envelope.event_type && *from == version) {
            Some((_, _, step)) => step(data),
            None => data,
        }
    });
    E::parse(&envelope.event_type, data).map_err(|source| UnknownEvent::Unreadable {
        event: envelope.id.to_string(),
        event_type: envelope.event_type.clone(),
        source,
    })
}
