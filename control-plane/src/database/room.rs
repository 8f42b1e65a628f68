//! Whether the database has room: as the last append told, for health.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What engines say when their disk is full: SQLite (result code 13), PostgreSQL (53100).
const SAYINGS: [&str; 3] = ["database or disk is full", "No space left on device", "could not extend file"];

/// What to do.
pub const ADVICE: &str = "the database has no room on its disk: nothing can be changed; make room there, and everything goes on by itself";

/// Whether the last append found room. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Room(Arc<AtomicBool>);

impl Room {
    /// An append failed for want of room.
    pub fn lost(&self) {
        if !self.0.swap(true, Ordering::SeqCst) {
            tracing::error!("{ADVICE}");
        }
    }

    /// An append was kept.
    pub fn found(&self) {
        if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::SeqCst) {
            tracing::info!("the database has room again");
        }
    }

    /// What somebody should do.
    pub fn note(&self) -> Option<String> {
        self.0.load(Ordering::SeqCst).then(|| ADVICE.to_owned())
    }
}

/// Whether this failed because a disk is full.
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let said = error.to_string();
        if SAYINGS.iter().any(|saying| said.contains(saying)) {
            return true;
        }
        next = error.source();
    }
    false
}
