//! Following the tenant's own records over WebSocket.

use std::{sync::Arc, time::Duration};

use async_graphql::{Context, ID, Result, SimpleObject, Subscription};
use futures::Stream;

use super::graphql::{EventNode, Wanted, cursor_of, index_of};
use crate::{
    access::authenticate::{Authenticated, Authenticator},
    graphql::{
        api::Api,
        fault::{bad_request, fault},
    },
};

/// Records read at a time.
const SCAN: usize = 200;
/// How often it is looked whether the token still counts.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Who follows, and whether they still may; data of a connection.
pub struct Follower {
    /// Looks tokens up.
    pub authenticator: Authenticator,
    /// What the connection proved.
    pub authenticated: Authenticated,
}

impl Follower {
    /// Ends when the token stops counting. A look that fails says nothing: the next one may.
    async fn no_longer_counts(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Ok(false) = self.authenticator.still_counts(&self.authenticated).await {
                return;
            }
        }
    }
}

/// An event, and where to go on.
#[derive(Debug, Clone, SimpleObject)]
pub struct RecordedEvent {
    /// Hand it in as `after` to go on behind this event; the same as the cursors of `events`.
    pub cursor: String,
    /// What was recorded.
    pub event: EventNode,
}

/// Following records.
#[derive(Default)]
pub struct EventSubscription;

#[Subscription]
impl EventSubscription {
    /// What is recorded in the tenant, in the order of its ledger and without gaps: behind `after`, or from now on. It ends
    /// when the token stops counting.
    async fn event_recorded<'ctx>(
        &self,
        ctx: &Context<'ctx>,
        #[graphql(desc = "A cursor of `events` or of this subscription.")] after: Option<String>,
        #[graphql(desc = "The id of what it happened to.")] stream: Option<ID>,
        #[graphql(name = "type", desc = "E.g. `KeyCreated`.")] event_type: Option<String>,
    ) -> Result<impl Stream<Item = Result<RecordedEvent>> + 'ctx> {
        let api = Api::asking(ctx, "readEvents", None).await?;
        let follower = ctx.data::<Arc<Follower>>()?.clone();
        let stream = stream.map(|stream| stream.parse()).transpose();
        let stream = stream.map_err(|_| bad_request("invalid_stream", "this is not the id of anything"))?;
        let wanted = Wanted { stream, event_type, actor: None, since: None, until: None };
        let (store, tenant) = (Arc::clone(api.services.handler.store()), api.ctx.tenant);
        let mut next = match after.as_deref().map(index_of).transpose()? {
            Some(index) => index.saturating_add(1),
            None => store.tenant_length(tenant).await.map_err(|error| fault("reading records", &error))?,
        };
        Ok(async_stream::try_stream! {
            let mut ended = std::pin::pin!(follower.no_longer_counts());
            loop {
                // Looked at first: what is appended while we read wakes us.
                let head = store.head().await.map_err(|error| fault("reading records", &error))?;
                let records = store.read_tenant(tenant, next, SCAN).await.map_err(|error| fault("reading records", &error))?;
                let whole = records.len() == SCAN;
                for stored in records {
                    let envelope = stored.record.envelope();
                    if wanted.has(envelope) {
                        yield RecordedEvent { cursor: cursor_of(next), event: EventNode::of(next, envelope) };
                    }
                    next += 1;
                }
                let waited = async {
                    if whole { Ok(head) } else { store.follow(head).await }
                };
                let followed = tokio::select! {
                    biased;
                    () = &mut ended => Err(bad_request("invalid_token", "this token was revoked or has expired")),
                    followed = waited => followed.map_err(|error| fault("following records", &error)),
                };
                followed?;
            }
        })
    }
}
