//! Hears what other replicas over the same PostgreSQL have committed, so that followers and long polls wake at once. Without
//! it they look for themselves after a while, as they do while the connection is lost.

use std::time::Duration;

use schema::id::{SiteId, TenantId};
use sea_orm::DbBackend;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use crate::{
    database::Database,
    eventing::{sql::SqlStore, store::Cursor},
};

/// Channels, as the migration `wake` names them.
const LOG: &str = "freehold_log";
const SITE: &str = "freehold_site";
/// How long to wait before a lost connection is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens until told to stop. `site` is called for every site that has a new heartbeat.
pub async fn listen(database: Database, store: Option<SqlStore>, site: impl Fn(TenantId, SiteId), stop: CancellationToken) {
    if database.backend() != DbBackend::Postgres {
        return;
    }
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = hear(&database, store.as_ref(), &site) => ended,
        };
        if let Some(store) = &store {
            store.listening(false);
        }
        if let Err(error) = ended {
            tracing::warn!(error = &error as &dyn std::error::Error, "what other replicas commit is not heard; looking for it instead");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Ends when the connection is lost.
async fn hear(database: &Database, store: Option<&SqlStore>, site: impl Fn(TenantId, SiteId)) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(database.write().get_postgres_connection_pool()).await?;
    listener.listen_all([LOG, SITE]).await?;
    if let Some(store) = store {
        store.listening(true);
    }
    while let Some(told) = listener.try_recv().await? {
        match told.channel() {
            LOG => {
                if let (Some(store), Ok(position)) = (store, told.payload().parse()) {
                    store.heard(Cursor::at(position));
                }
            }
            SITE => {
                let ids = told.payload().split_once(' ').and_then(|(tenant, site)| Some((tenant.parse().ok()?, site.parse().ok()?)));
                if let Some((tenant, of)) = ids {
                    site(tenant, of);
                }
            }
            _ => {}
        }
    }
    Ok(())
}
