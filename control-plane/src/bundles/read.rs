//! Reads the facts of a tenant from the read model.

use schema::id::TenantId;

use super::{
    facts::Facts,
    gather::{Aggregates, facts},
};
use crate::eventing::{
    store::{EventStore, ReadError},
    view::{QueryError, Views},
};

/// Why the facts could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The read model could not be asked.
    #[error("asking the read model failed")]
    Query(#[from] QueryError),
    /// The text of a policy could not be read.
    #[error("reading the text of a policy failed")]
    Read(#[from] ReadError),
}

/// Reads facts.
#[derive(Clone)]
pub struct FactsReader {
    views: Views,
    store: std::sync::Arc<dyn EventStore>,
}

impl FactsReader {
    /// From this read model; texts of policies from this store.
    pub fn new(views: Views, store: std::sync::Arc<dyn EventStore>) -> Self {
        Self { views, store }
    }

    /// What a tenant has come to. Whoever asks has waited until the read model shows what it should.
    pub async fn facts(&self, tenant: TenantId) -> Result<Facts, FactsError> {
        let aggregates = Aggregates {
            projects: self.views.every(tenant).await?,
            sites: self.views.every(tenant).await?,
            agents: self.views.every(tenant).await?,
            callers: self.views.every(tenant).await?,
            keys: self.views.every(tenant).await?,
            aliases: self.views.every(tenant).await?,
            ..Aggregates::default()
        };
        Ok(facts(tenant, aggregates))
    }
}
