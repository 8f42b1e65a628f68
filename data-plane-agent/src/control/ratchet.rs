//! The agent's end of the ratchet (`trust::ratchet`), kept on disk before anything is sent.

use std::sync::{Arc, Mutex, PoisonError};

use schema::{
    clock::{Ids, random},
    encoding::Digest,
    wire::agent::RatchetClaim,
};
use trust::ratchet::Ratchet;

use super::directory::{ControlDirectory, KeepError};

/// The ratchet of this agent.
pub struct RatchetKeeper {
    directory: ControlDirectory,
    ids: Arc<dyn Ids>,
    ratchet: Mutex<Ratchet>,
}

impl RatchetKeeper {
    /// Goes on from where it was.
    pub fn open(directory: ControlDirectory, ids: Arc<dyn Ids>) -> Result<Arc<Self>, KeepError> {
        let ratchet = Mutex::new(directory.ratchet()?);
        Ok(Arc::new(Self { directory, ids, ratchet }))
    }

    /// What the next report claims: the same again until it was answered.
    pub fn claim(&self) -> Result<RatchetClaim, KeepError> {
        let mut held = self.ratchet.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = held.clone();
        let (claim, changed) = next.claim(random(&*self.ids));
        if changed {
            self.directory.keep_ratchet(&next)?;
            *held = next;
        }
        Ok(claim)
    }

    /// The control plane took the report that claimed this. Whether that can be kept makes no difference: after a crash the
    /// same is claimed again.
    pub fn was_answered(&self, claim: &RatchetClaim) {
        let mut held = self.ratchet.lock().unwrap_or_else(PoisonError::into_inner);
        held.was_answered(claim);
        if let Err(error) = self.directory.keep_ratchet(&held) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the agent's ratchet could not be kept");
        }
    }

    /// Where it is.
    pub fn position(&self) -> Option<(u64, Digest)> {
        self.ratchet.lock().unwrap_or_else(PoisonError::into_inner).position()
    }
}
