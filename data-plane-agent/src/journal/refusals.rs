//! Repeated refusals of one caller, counted into one entry per interval: whoever is refused a thousand times a second must
//! not fill the journal.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use schema::{key::Operation, wire::agent::Intent};

type Alike = (Option<String>, Operation, String);

/// Refusals that were not written one by one.
pub(super) struct Refusals {
    interval: Duration,
    counted: HashMap<Alike, Counted>,
}

struct Counted {
    since: Instant,
    count: u64,
    /// The latest.
    intent: Intent,
}

impl Refusals {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, counted: HashMap::new() }
    }

    /// Gives the intent back when it is to be written now, because it is the first of its interval.
    pub(super) fn note(&mut self, intent: Intent, code: &str, now: Instant) -> Option<Intent> {
        let alike = (intent.caller.clone(), intent.operation, code.to_owned());
        match self.counted.get_mut(&alike) {
            Some(counted) => {
                counted.count += 1;
                counted.intent = intent;
                None
            }
            None => {
                self.counted.insert(alike, Counted { since: now, count: 0, intent: intent.clone() });
                Some(intent)
            }
        }
    }

    /// Counts one that could not be written now.
    pub(super) fn put_back(&mut self, intent: &Intent, code: &str) {
        if let Some(counted) = self.counted.get_mut(&(intent.caller.clone(), intent.operation, code.to_owned())) {
            counted.count += 1;
        }
    }

    /// What is to be written at the end of an interval, or of everything with `all`. Callers that stopped are forgotten.
    pub(super) fn due(&mut self, now: Instant, all: bool) -> Vec<(Intent, String, u64)> {
        let mut due = Vec::new();
        self.counted.retain(|(_, _, code), counted| {
            if !all && now.saturating_duration_since(counted.since) < self.interval {
                return true;
            }
            let quiet = counted.count == 0;
            if !quiet {
                due.push((counted.intent.clone(), code.clone(), std::mem::take(&mut counted.count)));
                counted.since = now;
            }
            !quiet
        });
        due
    }
}
