//! Agents that were found to be ones, by how far their history had come then. Whoever waits is looked at again and again: as long as
//! nothing was added to an agent's history, one look at its end says that all is as it was.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use schema::{
    encoding::Digest,
    id::{AgentId, SiteId, TenantId},
};

use super::{Agent, AgentRefusal};
use crate::{
    eventing::handler::{CommandError, Handler},
    pki::identity::AgentIdentity,
};

/// Agents remembered: those that came last.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

/// Agents that were ones when they were last looked at.
pub struct Standings(Mutex<LruCache<(TenantId, AgentId), Standing>>);

struct Standing {
    site: SiteId,
    /// SHA-256 of the key that its certificate is for.
    certificate_key: Digest,
    revision: u64,
}

impl Default for Standings {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Standings {
    /// An agent is one of this site, with this key, at this revision of its history.
    pub fn found(&self, identity: &AgentIdentity, certificate_key: Digest, revision: u64) {
        let standing = Standing { site: identity.site, certificate_key, revision };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put((identity.tenant, identity.agent), standing);
    }

    /// Whether that still is so. When not, or when nothing is known of it, its history says what it is.
    pub async fn hold(
        &self,
        handler: &Handler,
        identity: &AgentIdentity,
        certificate_key: Digest,
    ) -> Result<bool, CommandError<AgentRefusal>> {
        let known = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = kept.get(&(identity.tenant, identity.agent));
            known.filter(|known| known.site == identity.site && known.certificate_key == certificate_key).map(|known| known.revision)
        };
        match known {
            Some(revision) => handler.is_at::<Agent>(identity.tenant, identity.agent, revision).await,
            None => Ok(false),
        }
    }
}
