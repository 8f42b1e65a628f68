//! What long streams have added up to, kept in memory. Events never change, so a state at a revision stays right for ever:
//! whoever loads it again reads only what came since.

use std::{
    any::Any,
    num::NonZeroUsize,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;
use schema::{event::StreamId, id::TenantId};

/// How many streams are kept: those that were used last.
const STREAMS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

type Kept = LruCache<(TenantId, StreamId), Arc<dyn Any + Send + Sync>>;

/// The streams that were folded last, while the keys they were opened with are what they were.
pub(super) struct Folded(Mutex<(u64, Kept)>);

impl Folded {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Mutex::new((0, LruCache::new(STREAMS))))
    }

    /// What is kept of a stream. What was kept under another generation of keys is forgotten: some of it may have been erased.
    pub(super) fn get<T: Clone + 'static>(&self, generation: u64, tenant: TenantId, stream: &StreamId) -> Option<T> {
        let kept = Arc::clone(self.kept(generation).get(&(tenant, stream.clone()))?);
        kept.downcast_ref().cloned()
    }

    /// Keeps this instead.
    pub(super) fn keep<T: Send + Sync + 'static>(&self, generation: u64, tenant: TenantId, stream: StreamId, folded: T) {
        self.kept(generation).put((tenant, stream), Arc::new(folded));
    }

    fn kept(&self, generation: u64) -> MappedKept<'_> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.0 != generation {
            kept.1.clear();
            kept.0 = generation;
        }
        MappedKept(kept)
    }
}

struct MappedKept<'a>(MutexGuard<'a, (u64, Kept)>);

impl Deref for MappedKept<'_> {
    type Target = Kept;

    fn deref(&self) -> &Kept {
        &self.0.1
    }
}

impl DerefMut for MappedKept<'_> {
    fn deref_mut(&mut self) -> &mut Kept {
        &mut self.0.1
    }
}
