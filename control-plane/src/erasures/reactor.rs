//! Destroys the keys of whoever an event says was erased: also when the process that recorded it ended before it could.

use std::sync::Arc;

use async_trait::async_trait;
use schema::event::{Event as _, erasure::ErasureEvent, lift};

use crate::{
    access::context::DEPLOYMENT,
    eventing::{
        reactor::{Fault, Reactor},
        store::Stored,
    },
    sealing::Keyring,
};

/// Erases.
pub struct Erasing {
    keyring: Arc<Keyring>,
}

impl Erasing {
    /// With these keys.
    pub fn new(keyring: Arc<Keyring>) -> Self {
        Self { keyring }
    }
}

#[async_trait]
impl Reactor for Erasing {
    fn name(&self) -> &'static str {
        "erasing"
    }

    async fn react(&self, records: &[Stored]) -> Result<(), Fault> {
        for stored in records {
            let envelope = stored.record.envelope();
            if !ErasureEvent::TYPES.iter().any(|(name, _)| *name == envelope.event_type) {
                continue;
            }
            match lift::<ErasureEvent>(envelope)? {
                ErasureEvent::PersonErased(event) if !self.keyring.is_buried(envelope.tenant, Some(event.person)).await? => {
                    self.keyring.erase_person(envelope.tenant, event.person).await?;
                }
                // Again, when it was done: what is left of it goes, too.
                ErasureEvent::TenantErased(event) if envelope.tenant == DEPLOYMENT => self.keyring.erase(event.tenant).await?,
                _ => {}
            }
        }
        Ok(())
    }
}
