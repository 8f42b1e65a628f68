//! Given, when, then: how an aggregate is tested, without store, clock or randomness.
//!
//! ```no_run
//! # use control_plane::eventing::{aggregate::Aggregate, scenario::Scenario};
//! # fn example<A: Aggregate>(id: A::Id, created: A::Event, create: A::Command, rename: A::Command, renamed: A::Event) {
//! Scenario::<A>::of(id).when(&create).then([created.clone()]);
//! Scenario::<A>::of(id).given([created]).when(&rename).then([renamed]).when(&rename).then_refused("already_renamed");
//! # }
//! ```

use std::time::Duration;

use schema::{
    clock::{ManualIds, Timestamp, new_id},
    event::{Event, StreamId},
    id::TenantId,
};

use super::aggregate::{Aggregate, Deciding, EventMeta, Refusal};

/// One stream in the making.
#[derive(Debug, Clone)]
pub struct Scenario<A: Aggregate> {
    state: A,
    tenant: TenantId,
    stream: StreamId,
    revision: u64,
    now: Timestamp,
    actor: String,
    ids: ManualIds,
}

/// What was decided, to be compared.
#[derive(Debug)]
pub struct Decided<A: Aggregate> {
    before: Scenario<A>,
    outcome: Result<Vec<A::Event>, A::Refusal>,
}

impl<A: Aggregate> Scenario<A> {
    /// The stream of this id, with no event yet. It is 2026-01-01T00:00:00Z; each given event comes a second later.
    pub fn of(id: A::Id) -> Self {
        Self {
            state: A::default(),
            tenant: TenantId::from_bits(1),
            stream: StreamId::of(id),
            revision: 0,
            now: Timestamp::from_micros(1_767_225_600_000_000),
            actor: "mem_00000000000000000000000001".to_owned(),
            ids: ManualIds::seeded(1),
        }
    }

    /// These events have happened.
    #[must_use]
    pub fn given(mut self, events: impl IntoIterator<Item = A::Event>) -> Self {
        for event in events {
            self.now = self.now.plus(Duration::from_secs(1));
            self.evolve(&event);
        }
        self
    }

    /// From now on somebody else acts.
    #[must_use]
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.actor = actor.into();
        self
    }

    /// It is now this time.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        self.now = now;
        self
    }

    /// This much later.
    #[must_use]
    pub fn later(mut self, by: Duration) -> Self {
        self.now = self.now.plus(by);
        self
    }

    /// Somebody asks for this.
    pub fn when(self, command: &A::Command) -> Decided<A> {
        let outcome = self.state.decide(command, &Deciding { now: self.now, ids: &self.ids });
        Decided { before: self, outcome }
    }

    /// The state so far.
    pub fn state(&self) -> &A {
        &self.state
    }

    /// The time it is.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    fn evolve(&mut self, event: &A::Event) {
        self.revision += 1;
        // Written and read back, so that a scenario also shows that its events survive their JSON.
        let data = event.data().expect("an event has a JSON form");
        let event = A::Event::parse(event.type_name(), data).expect("an event is read back from its JSON");
        let meta = EventMeta {
            id: new_id(&self.ids, self.now),
            tenant: self.tenant,
            stream: self.stream.clone(),
            revision: self.revision,
            time: self.now,
            actor: self.actor.clone(),
        };
        self.state.evolve(&event, &meta);
    }
}

impl<A: Aggregate> Decided<A> {
    /// Exactly these events follow; the scenario goes on after them.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = A::Event>) -> Scenario<A> {
        let expected: Vec<_> = expected.into_iter().collect();
        match self.outcome {
            Ok(events) => assert_eq!(events, expected, "other events than expected"),
            Err(refusal) => panic!("refused with {}: {refusal}", refusal.code()),
        }
        let mut scenario = self.before;
        expected.iter().for_each(|event| scenario.evolve(event));
        scenario
    }

    /// It is accepted, whatever the events are; the scenario goes on after them.
    #[track_caller]
    pub fn then_accepted(self) -> (Scenario<A>, Vec<A::Event>) {
        let events = match self.outcome {
            Ok(events) => events,
            Err(refusal) => panic!("refused with {}: {refusal}", refusal.code()),
        };
        let mut scenario = self.before;
        events.iter().for_each(|event| scenario.evolve(event));
        (scenario, events)
    }

    /// It is turned down with this code; the scenario goes on as if nothing had been asked.
    #[track_caller]
    pub fn then_refused(self, code: &str) -> Scenario<A> {
        match self.outcome {
            Ok(events) => panic!("accepted, with {events:?}, where {code} was expected"),
            Err(refusal) => assert_eq!(refusal.code(), code, "another refusal than expected: {refusal}"),
        }
        self.before
    }

    /// The outcome itself.
    pub fn outcome(self) -> Result<Vec<A::Event>, A::Refusal> {
        self.outcome
    }
}
