//! What the server keeps.

use std::collections::HashMap;

use super::wire::streams as wire;

/// An event as it is kept.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its id.
    pub id: u128,
    /// Its stream.
    pub stream: String,
    /// Its revision, from 0.
    pub revision: u64,
    /// Where it is in `$all`.
    pub position: u64,
    /// Type and kind of content.
    pub metadata: HashMap<String, String>,
    /// What the writer added.
    pub custom_metadata: Vec<u8>,
    /// The event.
    pub data: Vec<u8>,
}

/// What came of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Appended {
        revision: u64,
        position: u64,
    },
    /// The very events were there before.
    There {
        revision: u64,
    },
    /// The stream is elsewhere.
    WrongRevision,
}

/// Every so many appends the server appends something of its own.
const STATISTICS_EVERY: usize = 5;

#[derive(Default)]
pub(super) struct Log {
    events: Vec<Recorded>,
    streams: HashMap<String, Vec<usize>>,
    appends: usize,
}

impl Log {
    pub(super) fn all(&self) -> &[Recorded] {
        &self.events
    }

    pub(super) fn stream(&self, name: &str) -> Option<impl DoubleEndedIterator<Item = &Recorded>> {
        self.streams.get(name).map(|places| places.iter().map(|place| &self.events[*place]))
    }

    /// All of them or none. No expectation: any revision will do.
    pub(super) fn append(&mut self, stream: &str, expected: Option<u64>, events: &[wire::batch_append_req::Proposed]) -> Outcome {
        let has = self.streams.get(stream).map_or(0, Vec::len) as u64;
        let expected = expected.unwrap_or(has);
        if expected != has {
            let there = self.stream(stream).into_iter().flatten().skip(usize::try_from(expected).unwrap_or(usize::MAX));
            let same = there.zip(events).filter(|(there, event)| there.id == id(event.id.as_ref())).count();
            return match same == events.len() {
                true => Outcome::There { revision: expected + events.len() as u64 - 1 },
                false => Outcome::WrongRevision,
            };
        }
        self.appends += 1;
        if self.appends % STATISTICS_EVERY == 1 {
            let event = Recorded {
                id: self.appends as u128,
                stream: String::new(),
                revision: 0,
                position: 0,
                metadata: HashMap::from([("type".to_owned(), "$statsCollected".to_owned())]),
                custom_metadata: Vec::new(),
                data: b"{}".to_vec(),
            };
            self.plant("$stats-127.0.0.1:2113", event);
        }
        let mut outcome = Outcome::WrongRevision;
        for event in events {
            let recorded = Recorded {
                id: id(event.id.as_ref()),
                stream: String::new(),
                revision: 0,
                position: 0,
                metadata: event.metadata.clone(),
                custom_metadata: event.custom_metadata.clone(),
                data: event.data.clone(),
            };
            let (revision, position) = self.plant(stream, recorded);
            outcome = Outcome::Appended { revision, position };
        }
        outcome
    }

    /// Appends one event, whatever is there.
    pub(super) fn plant(&mut self, stream: &str, event: Recorded) -> (u64, u64) {
        // As in a file of records: the position grows by what lies before.
        let position = self.events.last().map_or(311, |last| last.position + 97 + last.data.len() as u64);
        let places = self.streams.entry(stream.to_owned()).or_default();
        let revision = places.len() as u64;
        places.push(self.events.len());
        self.events.push(Recorded { stream: stream.to_owned(), revision, position, ..event });
        (revision, position)
    }
}

/// The bits of an id, in either form.
pub(super) fn id(uuid: Option<&wire::Uuid>) -> u128 {
    match uuid.and_then(|uuid| uuid.value.as_ref()) {
        Some(wire::uuid::Value::Structured(halves)) => {
            (u128::from(halves.most_significant_bits.cast_unsigned()) << 64) | u128::from(halves.least_significant_bits.cast_unsigned())
        }
        Some(wire::uuid::Value::String(text)) => text.parse::<uuid::Uuid>().map_or(0, |uuid| uuid.as_u128()),
        None => 0,
    }
}
