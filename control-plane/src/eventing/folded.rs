//! What long streams have added up to, kept in memory. Events never change, so a state at a revision stays right for ever:
//! whoever loads it again reads only what came since.

use std::{
    any::Any,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;
use schema::{event::StreamId, id::TenantId};

/// How many streams are kept: those that were used last.
const STREAMS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

type Kept = LruCache<(TenantId, StreamId), Arc<dyn Any + Send + Sync>>;

/// The streams that were folded last.
pub(super) struct Folded(Mutex<Kept>);

impl Folded {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(STREAMS)))
    }

    /// What is kept of a stream.
    pub(super) fn get<T: Clone + 'static>(&self, tenant: TenantId, stream: &StreamId) -> Option<T> {
        let kept = Arc::clone(self.kept().get(&(tenant, stream.clone()))?);
        kept.downcast_ref().cloned()
    }

    /// Keeps this instead.
    pub(super) fn keep<T: Send + Sync + 'static>(&self, tenant: TenantId, stream: StreamId, folded: T) {
        self.kept().put((tenant, stream), Arc::new(folded));
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
