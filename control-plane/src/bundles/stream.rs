//! The published statements of one kind for one scope, as a stream of events. Two replicas that sign the same serial at
//! once collide here: one of them is refused and starts over.

use schema::{
    encoding::Digest,
    event::statement::{StatementEvent, StatementKind, StatementPublished},
    id::StatementStreamId,
};
use serde::{Deserialize, Serialize};

use crate::{
    eventing::{
        aggregate::{Aggregate, Deciding, EventMeta, Index},
        refusals,
    },
    sealing::TenantKeys,
};

/// What was published; all zero while nothing was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatementStream {
    /// The epoch of the last one.
    pub epoch: u64,
    /// The serial of the last one.
    pub serial: u64,
    /// SHA-256 of the payload of the last one.
    pub sha256: Option<Digest>,
    /// SHA-256 of the envelopes that are still served: of roots every one, of others the last.
    pub envelopes: Vec<Digest>,
    /// Which kind; as text it is what listings filter by.
    pub kind: Option<StatementKind>,
}

/// What may be asked of a stream of statements.
#[derive(Debug, Clone, Serialize)]
pub enum StatementCommand {
    /// Record one that was signed, before anybody is served it.
    Publish {
        /// Its kind.
        kind: StatementKind,
        /// What it is for: the id of a tenant, project or site, as text.
        scope: String,
        /// Its epoch.
        epoch: u64,
        /// Its serial.
        serial: u64,
        /// SHA-256 of its payload.
        sha256: Digest,
        /// SHA-256 of its envelope.
        envelope_sha256: Digest,
    },
}

refusals! {
    /// Why a statement is not recorded.
    StatementRefusal {
        NotNext { serial: u64, expected: u64 } = "statement_not_next", "statement {serial} does not follow: the next one is {expected}";
        OlderEpoch { epoch: u64, present: u64 } = "statement_of_older_epoch", "epoch {epoch} is over; the present one is {present}";
    }
}

/// The id of the stream of a kind for a scope (the id of a tenant, project or site, as text).
pub fn stream_id(keys: &TenantKeys, kind: StatementKind, scope: &str) -> StatementStreamId {
    keys.derived_id("statements", &[kind.as_str(), scope])
}

impl Aggregate for StatementStream {
    type Id = StatementStreamId;
    type Command = StatementCommand;
    type Event = StatementEvent;
    type Refusal = StatementRefusal;
    const KIND: &'static str = "statements";

    fn decide(&self, command: &StatementCommand, _: &Deciding<'_>) -> Result<Vec<StatementEvent>, StatementRefusal> {
        let StatementCommand::Publish { kind, scope, epoch, serial, sha256, envelope_sha256 } = command.clone();
        if epoch < self.epoch {
            return Err(StatementRefusal::OlderEpoch { epoch, present: self.epoch });
        }
        if serial != self.serial + 1 {
            return Err(StatementRefusal::NotNext { serial, expected: self.serial + 1 });
        }
        Ok(vec![StatementPublished { kind, scope, epoch, serial, sha256, envelope_sha256 }.into()])
    }

    fn evolve(&mut self, event: &StatementEvent, _: &EventMeta) {
        let StatementEvent::StatementPublished(event) = event;
        (self.epoch, self.serial, self.sha256, self.kind) = (event.epoch, event.serial, Some(event.sha256), Some(event.kind));
        if event.kind != StatementKind::Root {
            self.envelopes.clear();
        }
        self.envelopes.push(event.envelope_sha256);
    }

    fn index(&self) -> Index {
        Index { state: self.kind.map(|kind| kind.to_string()), ..Index::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventing::scenario::Scenario;

    fn published(kind: StatementKind, serial: u64) -> StatementEvent {
        let digest = |part: u8| Digest([part; 32]);
        let (sha256, envelope_sha256) = (digest(serial as u8), digest(100 + serial as u8));
        StatementPublished { kind, scope: "ten_x".to_owned(), epoch: 1, serial, sha256, envelope_sha256 }.into()
    }

    fn publish(kind: StatementKind, serial: u64) -> StatementCommand {
        let StatementEvent::StatementPublished(event) = published(kind, serial);
        StatementCommand::Publish {
            kind,
            scope: event.scope,
            epoch: 1,
            serial,
            sha256: event.sha256,
            envelope_sha256: event.envelope_sha256,
        }
    }

    #[test]
    fn serials_follow_one_another() {
        let (state, id) = (StatementKind::State, StatementStreamId::from_bits(1));
        Scenario::<StatementStream>::of(id)
            .when(&publish(state, 2))
            .then_refused("statement_not_next")
            .when(&publish(state, 1))
            .then([published(state, 1)])
            .when(&publish(state, 1))
            .then_refused("statement_not_next")
            .when(&publish(state, 2))
            .then([published(state, 2)]);
    }

    #[test]
    fn every_root_is_kept_and_of_others_the_last() {
        for (kind, kept) in [(StatementKind::Root, 3), (StatementKind::Policy, 1)] {
            let scenario =
                Scenario::<StatementStream>::of(StatementStreamId::from_bits(1)).given((1..=3).map(|serial| published(kind, serial)));
            assert_eq!(scenario.state().envelopes.len(), kept);
            assert_eq!(scenario.state().serial, 3);
        }
    }
}
