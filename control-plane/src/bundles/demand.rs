//! Tenants whose root demands ledger proofs: what they were told must not be lost with one server. Where commits of PostgreSQL do
//! not wait for a standby, a failover forgets what agents have seen, so a control plane does not start there for such a tenant,
//! and says so when the server stops waiting later.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use schema::{event::statement::StatementKind, id::TenantId};
use trust::{
    dsse::{Envelope, EnvelopeError},
    statement::{Kind, Scope, root::Root},
};

use super::{
    service::{StatementsError, scope_text},
    stream::{StatementStream, stream_id},
};
use crate::{access::context::DEPLOYMENT, database::Database, eventing::handler::Handler};

/// How often it is looked whether commits wait for a standby.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often roots are read again while none demands it and commits do not wait.
const ASK_EVERY: Duration = Duration::from_secs(600);
/// So many tenants are asked at once.
const AT_ONCE: usize = 8;

/// What somebody should do about it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Unreplicated(Arc<Mutex<Option<String>>>);

impl Unreplicated {
    /// What `/readyz` tells.
    pub fn note(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks again and again.
    pub async fn watch(self, database: Database, handler: Handler) {
        let (mut asked, mut demands) = (None::<Instant>, None);
        loop {
            match database.unreplicated().await {
                Ok(None) => {
                    asked = None;
                    self.tell(None);
                }
                Ok(Some(problem)) => {
                    let due = demands.is_some() || asked.is_none_or(|asked| asked.elapsed() > ASK_EVERY);
                    if due {
                        asked = Some(Instant::now());
                        demands = match demands {
                            // Most often the one that did still does.
                            Some(tenant) if matches!(demanded(&handler, tenant).await, Ok(true)) => Some(tenant),
                            _ => demanding(&handler).await.unwrap_or_else(|error| {
                                tracing::warn!(
                                    error = &error as &dyn std::error::Error,
                                    "it cannot be told whether a root demands a ledger"
                                );
                                demands
                            }),
                        };
                    }
                    self.tell(demands.map(|tenant| told(tenant, &problem)));
                }
                // Whether the database answers is told elsewhere.
                Err(_) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn tell(&self, note: Option<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(note), None) = (&note, &*known) {
            tracing::error!("{note}");
        }
        *known = note;
    }
}

/// What is wrong, and what to do.
pub fn told(tenant: TenantId, problem: &str) -> String {
    format!(
        "the root of tenant {tenant} demands a ledger, so that nothing it was told may be lost with one server, and {problem}: set \
         synchronous_standby_names, and synchronous_commit to on or remote_apply, in PostgreSQL (docs/postgresql.md)"
    )
}

/// The first tenant whose newest root demands ledger proofs, if there is one.
pub async fn demanding(handler: &Handler) -> Result<Option<TenantId>, StatementsError> {
    let tenants = handler.keyring().tenants().await?;
    let ask = |tenant: TenantId| async move { demanded(handler, tenant).await.map(|demands| demands.then_some(tenant)) };
    let mut asked = stream::iter(tenants.into_iter().filter(|tenant| *tenant != DEPLOYMENT)).map(ask).buffered(AT_ONCE);
    while let Some(found) = asked.try_next().await? {
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Whether the newest root of a tenant does.
async fn demanded(handler: &Handler, tenant: TenantId) -> Result<bool, StatementsError> {
    let keys = match handler.keys(tenant).await {
        Err(error) if error.is_erasure() => return Ok(false),
        keys => keys?,
    };
    let id = stream_id(&keys, StatementKind::Root, &scope_text(tenant, Scope::Tenant));
    let state = match handler.load::<StatementStream>(tenant, id).await {
        Err(error) if error.is_erasure() => return Ok(false),
        loaded => loaded.map_err(|error| StatementsError::Record(Box::new(error)))?.state,
    };
    let Some(newest) = state.envelopes.last() else { return Ok(false) };
    let bytes = handler.store().blob(tenant, *newest).await?.ok_or(StatementsError::Missing)?;
    let envelope = Envelope::parse(&bytes, Kind::Root.max_bytes()).map_err(StatementsError::Damaged)?;
    let root: Root = serde_json::from_slice(&envelope.payload).map_err(|error| StatementsError::Damaged(EnvelopeError::Payload(error)))?;
    Ok(root.ledger.required)
}
