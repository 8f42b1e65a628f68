//! Dying at any step. A process whose clock and randomness count each look and each draw can be told to end at one of them, at once
//! and with nothing tidied up, as `kill -9` ends it: whatever it does between two of them, some count lies between.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use schema::clock::{Clock, Ids, Timestamp};

/// Counts steps, and ends the process at one.
#[derive(Debug, Clone)]
pub struct Steps(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    taken: AtomicU64,
    last: AtomicU64,
}

impl Default for Steps {
    fn default() -> Self {
        Self(Arc::new(Counts { taken: AtomicU64::new(0), last: AtomicU64::new(u64::MAX) }))
    }
}

impl Steps {
    /// A clock whose looks are steps.
    pub fn clock(&self, clock: Arc<dyn Clock>) -> Arc<dyn Clock> {
        Arc::new(Stepping { inner: clock, steps: self.clone() })
    }

    /// Randomness whose draws are steps.
    pub fn ids(&self, ids: Arc<dyn Ids>) -> Arc<dyn Ids> {
        Arc::new(Stepping { inner: ids, steps: self.clone() })
    }

    /// How many were taken.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::SeqCst)
    }

    /// Ends the process so many steps from now.
    pub fn die_in(&self, steps: u64) {
        self.0.last.store(self.taken() + steps.max(1), Ordering::SeqCst);
    }

    fn step(&self) {
        let taken = self.0.taken.fetch_add(1, Ordering::SeqCst) + 1;
        if taken >= self.0.last.load(Ordering::SeqCst) {
            std::process::abort();
        }
    }
}

struct Stepping<T: ?Sized> {
    steps: Steps,
    inner: Arc<T>,
}

impl Clock for Stepping<dyn Clock> {
    fn now(&self) -> Timestamp {
        self.steps.step();
        self.inner.now()
    }
}

impl Ids for Stepping<dyn Ids> {
    fn fill(&self, bytes: &mut [u8]) {
        self.steps.step();
        self.inner.fill(bytes);
    }
}
