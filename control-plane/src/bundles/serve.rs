//! What agents get. All of a site get the same bytes: whether there is something new is looked up once for everybody who asks at that
//! moment, and what is sent of a set is put together once and shared, however many wait for it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use schema::id::{SiteId, TenantId};
use tokio::sync::watch;

use super::{
    service::{Statements, StatementsError, locked},
    sets::Set,
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
    /// The entity tag of the set without which this one is not whole.
    pub base: Option<String>,
    /// [`schema::wire::agent::StatementSet`] as JSON; over a base, [`schema::wire::delta::StatementDelta`].
    pub body: Bytes,
}

type Place = (TenantId, SiteId);
type Found = Result<Option<Arc<Set>>, Arc<StatementsError>>;

/// What is served.
pub(super) struct Serving {
    feeds: Shared<Place, Feed>,
    sets: Mutex<Bounded<Place, Arc<Set>>>,
}

impl Default for Serving {
    fn default() -> Self {
        Self { feeds: Shared::default(), sets: Mutex::new(Bounded::new(SETS_BYTES)) }
    }
}

#[cfg(test)]
impl Serving {
    /// What is counted for a site's set.
    pub(super) fn weight(&self, tenant: TenantId, site: SiteId) -> Option<usize> {
        let mut sets = locked(&self.sets);
        let weight = sets.get(&(tenant, site)).map(|set| set.weight());
        assert!(weight.is_none_or(|weight| sets.weight() >= weight));
        weight
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
    takes_deltas: bool,
    /// An answer that was looked for before this is too old.
    since: Instant,
}

impl Statements {
    /// The set a site's agents should have now; none while nothing was published for it.
    pub async fn set(&self, tenant: TenantId, site: SiteId) -> Result<Option<Served>, StatementsError> {
        let feed = self.serving().feeds.of((tenant, site));
        match self.look(&feed, (tenant, site), Instant::now()).await? {
            Some(set) => self.served(&set, (tenant, site), None).await.map(Some),
            None => Ok(None),
        }
    }

    /// For who has the set with this tag, or none, and wants another.
    pub fn waiter(&self, tenant: TenantId, site: SiteId, known: Option<&str>) -> Waiter {
        let feed = self.serving().feeds.of((tenant, site));
        let (woken, since) = (feed.woken.subscribe(), Instant::now());
        let known = known.map(str::to_owned);
        Waiter { statements: self.clone(), place: (tenant, site), feed, woken, known, takes_deltas: false, since }
    }

    /// Who waits for this site looks again.
    pub fn wake(&self, tenant: TenantId, site: SiteId) {
        if let Some(feed) = self.serving().feeds.in_use(&(tenant, site)) {
            feed.woken.send_replace(());
        }
    }

    async fn look(&self, feed: &Feed, place: Place, since: Instant) -> Result<Option<Arc<Set>>, StatementsError> {
        let find = |last: Option<Found>| async move { self.find(place, last.and_then(Result::ok).flatten()).await.map_err(Arc::new) };
        feed.last.ask(since, find).await.map_err(StatementsError::Shared)
    }

    async fn find(&self, (tenant, site): Place, last: Option<Arc<Set>>) -> Result<Option<Arc<Set>>, StatementsError> {
        let Some((epoch, serial)) = self.heartbeats().serial(tenant, site).await? else { return Ok(None) };
        let is_it = |set: &Arc<Set>| set.is(epoch, serial);
        let kept = last.filter(is_it).or_else(|| locked(&self.serving().sets).get(&(tenant, site)).filter(|kept| is_it(kept)).cloned());
        if kept.is_some() {
            return Ok(kept);
        }
        let Some(current) = self.heartbeats().current(tenant, site).await? else { return Ok(None) };
        let set = Arc::new(Set::new(tenant, site, current));
        locked(&self.serving().sets).put((tenant, site), Arc::clone(&set), set.weight());
        Ok(Some(set))
    }

    /// What is sent of a set to who has the one with this tag, if they have one.
    async fn served(&self, set: &Arc<Set>, place: Place, known: Option<&str>) -> Result<Served, StatementsError> {
        let weight = set.weight();
        let delta = match known {
            Some(tag) => set.lacked_by(tag, self).await,
            None => None,
        };
        let (base, body) = match delta {
            Some(body) => (known.map(str::to_owned), body),
            None => (None, set.whole(self).await),
        };
        if set.weight() != weight {
            let mut sets = locked(&self.serving().sets);
            if sets.get(&place).is_some_and(|kept| Arc::ptr_eq(kept, set)) {
                sets.put(place, Arc::clone(set), set.weight());
            }
        }
        Ok(Served { etag: set.etag().to_owned(), base, body: body.map_err(StatementsError::Shared)? })
    }
}

impl Waiter {
    /// Who waits can complete a delta to the set that is known.
    #[must_use]
    pub fn taking_deltas(self, takes_deltas: bool) -> Self {
        Self { takes_deltas, ..self }
    }

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
            if let Some(set) = self.statements.look(&self.feed, self.place, self.since).await?
                && self.known.as_deref() != Some(set.etag())
            {
                let known = self.known.as_deref().filter(|_| self.takes_deltas);
                return self.statements.served(&set, self.place, known).await.map(Some);
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
