//! One set of a site, as it is sent: the whole of it, and for those who have an earlier one what they lack. Each is put together once,
//! when somebody first asks for it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use schema::{
    encoding::Base64,
    id::{SiteId, TenantId},
    wire::delta::{Part, StatementDelta},
};
use trust::{dsse::EnvelopeError, statement::Kind};

use super::{
    heartbeat::{Current, Member},
    service::{Statements, StatementsError, locked},
    together::Together,
};

/// How many different deltas to one set there are; who would need another one gets the whole set.
const MAX_DELTAS: usize = 4;
/// About what a set takes beside its bytes, and each of its members.
const SET_BYTES: usize = 512;
const MEMBER_BYTES: usize = 256;

type Built = Result<Bytes, Arc<StatementsError>>;

/// What a site's agents should have, from one heartbeat to the next.
pub(super) struct Set {
    tenant: TenantId,
    site: SiteId,
    etag: String,
    current: Current,
    whole: Together<Built>,
    /// By the newest of the statements that are left out.
    deltas: Mutex<BTreeMap<u64, Arc<Together<Built>>>>,
    /// Of all that was put together.
    bytes: AtomicUsize,
}

impl Set {
    pub(super) fn new(tenant: TenantId, site: SiteId, current: Current) -> Self {
        let etag = current.etag(site);
        Self { tenant, site, etag, current, whole: Together::default(), deltas: Mutex::default(), bytes: AtomicUsize::new(0) }
    }

    /// Its entity tag, quotes included.
    pub(super) fn etag(&self) -> &str {
        &self.etag
    }

    /// Whether it is the one with this heartbeat.
    pub(super) fn is(&self, epoch: u64, serial: u64) -> bool {
        (self.current.epoch, self.current.serial) == (epoch, serial)
    }

    /// About how many bytes of memory it takes now.
    pub(super) fn weight(&self) -> usize {
        SET_BYTES + self.current.envelope.len() + self.current.members.len() * MEMBER_BYTES + self.bytes.load(Ordering::Relaxed)
    }

    /// All of it.
    pub(super) async fn whole(&self, statements: &Statements) -> Built {
        self.put_together(&self.whole, None, statements).await
    }

    /// What who has the set with this tag lacks. None when that is no earlier set of this site, or has nothing in common with it.
    ///
    /// Every member knows the first heartbeat that pinned it, and has been pinned by all since: so an earlier set need not be remembered,
    /// and it does not matter which replica served it. All who lack the same share the same bytes.
    pub(super) async fn lacked_by(&self, tag: &str, statements: &Statements) -> Option<Built> {
        let base = self.current.earlier(self.site, tag)?;
        let newest_held = self.current.members.iter().map(|member| member.since).filter(|since| *since <= base).max()?;
        let delta = {
            let mut deltas = locked(&self.deltas);
            let has_room = deltas.len() < MAX_DELTAS;
            match deltas.entry(newest_held) {
                Entry::Occupied(entry) => Arc::clone(entry.get()),
                Entry::Vacant(entry) if has_room => Arc::clone(entry.insert(Arc::default())),
                Entry::Vacant(_) => return None,
            }
        };
        Some(self.put_together(&delta, Some(newest_held), statements).await)
    }

    async fn put_together(&self, place: &Together<Built>, held: Option<u64>, statements: &Statements) -> Built {
        let build = async |last: Option<Built>| {
            if let Some(Ok(bytes)) = last {
                return Ok(bytes);
            }
            let bytes = self.body(held, statements).await.map_err(Arc::new)?;
            self.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
            Ok(bytes)
        };
        place.ask(Instant::now(), build).await
    }

    /// The set as JSON; statements that were pinned first by the heartbeat `held`, or before, are only named.
    async fn body(&self, held: Option<u64>, statements: &Statements) -> Result<Bytes, StatementsError> {
        let heartbeat = Part::Written(self.current.envelope.clone().into());
        let mut set = StatementDelta { heartbeat: Some(heartbeat), ..StatementDelta::default() };
        for member in &self.current.members {
            let part = self.part(member, held, statements).await?;
            match member.kind {
                Kind::Root => set.roots.push(part),
                Kind::Policy => set.policies.push(part),
                Kind::State => set.state = Some(part),
                Kind::Heartbeat | Kind::Lease => {}
            }
        }
        serde_json::to_vec(&set).map(Bytes::from).map_err(|error| StatementsError::Damaged(EnvelopeError::Malformed(error)))
    }

    async fn part(&self, member: &Member, held: Option<u64>, statements: &Statements) -> Result<Part, StatementsError> {
        if held.is_some_and(|held| member.since <= held) {
            return Ok(Part::Held { held: member.envelope });
        }
        Ok(Part::Written(Base64(statements.envelope(self.tenant, member.envelope).await?.to_vec())))
    }
}
