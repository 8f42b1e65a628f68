//! What agents get. All of a site get the same bytes: whether there is something new is looked up once for everybody who asks at that
//! moment, and a set is put together once and shared, however many wait for it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use schema::{
    encoding::Base64,
    id::{SiteId, TenantId},
    wire::agent::StatementSet,
};
use tokio::sync::watch;
use trust::{dsse::EnvelopeError, statement::Kind};

use super::{
    heartbeat::Current,
    service::{Statements, StatementsError, locked},
    together::{Shared, Together},
};
use crate::bounded::Bounded;

/// How often a site that somebody waits for is looked at, for what other replicas publish.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Sets kept beside those of sites where somebody waits, at most so many bytes.
const SETS_BYTES: usize = 32 << 20;

/// The set an agent gets, and its entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The entity tag, quotes included.
    pub etag: String,
    /// [`StatementSet`] as JSON.
    pub body: Bytes,
}

type Place = (TenantId, SiteId);
type Found = Result<Option<Served>, Arc<StatementsError>>;

/// What is served.
pub(super) struct Serving {
    feeds: Shared<Place, Feed>,
    sets: Mutex<Bounded<Place, Served>>,
}

impl Default for Serving {
    fn default() -> Self {
        Self { feeds: Shared::default(), sets: Mutex::new(Bounded::new(SETS_BYTES)) }
    }
}

/// One site, as long as somebody asks for its set or waits for another.
#[derive(Default)]
struct Feed {
    woken: watch::Sender<()>,
    last: Together<Found>,
}

/// Somebody who waits for another set than one they have.
pub struct Waiter {
    statements: Statements,
    place: Place,
    feed: Arc<Feed>,
    woken: watch::Receiver<()>,
    known: Option<String>,
    /// An answer that was looked for before this is too old.
    since: Instant,
}

impl Statements {
    /// The set a site's agents should have now; none while nothing was published for it.
    pub async fn set(&self, tenant: TenantId, site: SiteId) -> Result<Option<Served>, StatementsError> {
        let feed = self.serving().feeds.of((tenant, site));
        self.look(&feed, (tenant, site), Instant::now()).await
    }

    /// For who has the set with this tag, or none, and wants another.
    pub fn waiter(&self, tenant: TenantId, site: SiteId, known: Option<&str>) -> Waiter {
        let feed = self.serving().feeds.of((tenant, site));
        let (woken, since) = (feed.woken.subscribe(), Instant::now());
        Waiter { statements: self.clone(), place: (tenant, site), feed, woken, known: known.map(str::to_owned), since }
    }

    /// Who waits for this site looks again.
    pub fn wake(&self, tenant: TenantId, site: SiteId) {
        if let Some(feed) = self.serving().feeds.in_use(&(tenant, site)) {
            feed.woken.send_replace(());
        }
    }

    async fn look(&self, feed: &Feed, place: Place, since: Instant) -> Result<Option<Served>, StatementsError> {
        let find = |last: Option<Found>| async move { self.find(place, last.and_then(Result::ok).flatten()).await.map_err(Arc::new) };
        feed.last.ask(since, find).await.map_err(StatementsError::Shared)
    }

    async fn find(&self, (tenant, site): Place, last: Option<Served>) -> Result<Option<Served>, StatementsError> {
        let Some((epoch, serial)) = self.heartbeats().serial(tenant, site).await? else { return Ok(None) };
        let etag = Current::tag(epoch, serial);
        let is_it = |served: &Served| served.etag == etag;
        let kept = last.filter(is_it).or_else(|| locked(&self.serving().sets).get(&(tenant, site)).filter(|kept| is_it(kept)).cloned());
        if kept.is_some() {
            return Ok(kept);
        }
        let Some(current) = self.heartbeats().current(tenant, site).await? else { return Ok(None) };
        let served = Served { etag: current.etag(), body: self.body(tenant, current).await? };
        locked(&self.serving().sets).put((tenant, site), served.clone(), served.body.len());
        Ok(Some(served))
    }

    async fn body(&self, tenant: TenantId, current: Current) -> Result<Bytes, StatementsError> {
        let mut set = StatementSet { heartbeat: Some(current.envelope.into()), ..StatementSet::default() };
        for member in &current.members {
            let envelope = Base64(self.envelope(tenant, member.envelope).await?.to_vec());
            match member.kind {
                Kind::Root => set.roots.push(envelope),
                Kind::Policy => set.policies.push(envelope),
                Kind::State => set.state = Some(envelope),
                Kind::Heartbeat | Kind::Lease => {}
            }
        }
        serde_json::to_vec(&set).map(Bytes::from).map_err(|error| StatementsError::Damaged(EnvelopeError::Malformed(error)))
    }
}

impl Waiter {
    /// Whether there is a set at all. Nothing older than this waiter is believed.
    pub async fn is_served(&self) -> Result<bool, StatementsError> {
        Ok(self.statements.look(&self.feed, self.place, self.since).await?.is_some())
    }

    /// Believes nothing any more that was found before now.
    pub fn look_again(&mut self) {
        self.since = Instant::now();
    }

    /// Another set than the one that is known, as soon as there is one; none when there was none for so long.
    pub async fn newer(&mut self, patience: Duration) -> Result<Option<Served>, StatementsError> {
        let until = Instant::now() + patience;
        loop {
            // Who is woken while this looks is woken again below, and looks once more.
            if let Some(served) = self.statements.look(&self.feed, self.place, self.since).await?
                && self.known.as_deref() != Some(served.etag.as_str())
            {
                return Ok(Some(served));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            tokio::select! {
                _ = self.woken.changed() => self.since = Instant::now(),
                () = tokio::time::sleep(left.min(LOOK_EVERY)) => {
                    // What another has found meanwhile is recent enough.
                    self.since = self.since.max(Instant::now().checked_sub(LOOK_EVERY).unwrap_or(self.since));
                }
            }
        }
    }
}
