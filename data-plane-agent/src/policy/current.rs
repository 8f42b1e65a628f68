//! The set in force. Until one was accepted there is none, and nothing is allowed.

use std::sync::{Arc, RwLock};

use schema::wire::agent::Rejected;
use tokio::sync::watch;
use trust::statement::state::Subject;

use super::in_force::InForce;

/// The set that was put in force, and what it means while this agent is cut off.
#[derive(Default)]
struct Slot {
    put: Option<Arc<InForce>>,
    cut_off: bool,
    meant: Option<Arc<InForce>>,
}

impl Slot {
    fn mean(&mut self) {
        self.meant = match &self.put {
            Some(put) if self.cut_off => Some(Arc::new(put.without(Subject::Agent(put.agent)))),
            put => put.clone(),
        };
    }
}

/// Holds the set in force. Swapping it takes effect for the next request, whole.
#[derive(Default)]
pub struct Current {
    in_force: RwLock<Slot>,
    rejection: RwLock<Option<Rejected>>,
    swaps: watch::Sender<u64>,
}

impl Current {
    /// The set in force.
    pub fn load(&self) -> Option<Arc<InForce>> {
        self.in_force.read().unwrap_or_else(|poisoned| poisoned.into_inner()).meant.clone()
    }

    /// Puts a set in force. Requests that began before keep the one they have.
    pub fn swap(&self, next: Arc<InForce>) {
        self.change(|slot| slot.put = Some(next));
        self.reject(None);
    }

    /// From now on this agent does nothing, or what the set allows again.
    pub fn cut_off(&self, is: bool) {
        self.change(|slot| slot.cut_off = is);
    }

    fn change(&self, change: impl FnOnce(&mut Slot)) {
        let mut slot = self.in_force.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        change(&mut slot);
        slot.mean();
        drop(slot);
        self.swaps.send_modify(|count| *count += 1);
    }

    /// Notes why the newest set was not accepted, or that it was.
    pub fn reject(&self, rejection: Option<Rejected>) {
        *self.rejection.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = rejection;
    }

    /// Why the newest set was not accepted.
    pub fn rejection(&self) -> Option<Rejected> {
        self.rejection.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Counts the swaps, to wait for the next.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.swaps.subscribe()
    }
}
