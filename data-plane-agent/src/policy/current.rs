//! The set in force. Until one was accepted there is none, and nothing is allowed.

use std::sync::{Arc, RwLock};

use schema::wire::agent::Rejected;
use tokio::sync::watch;

use super::in_force::InForce;

/// Holds the set in force. Swapping it takes effect for the next request, whole.
#[derive(Default)]
pub struct Current {
    in_force: RwLock<Option<Arc<InForce>>>,
    rejection: RwLock<Option<Rejected>>,
    swaps: watch::Sender<u64>,
}

impl Current {
    /// The set in force.
    pub fn load(&self) -> Option<Arc<InForce>> {
        self.in_force.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Puts a set in force. Requests that began before keep the one they have.
    pub fn swap(&self, next: Arc<InForce>) {
        *self.in_force.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(next);
        self.reject(None);
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
