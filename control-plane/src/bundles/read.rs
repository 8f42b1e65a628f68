//! Reads the facts of a tenant from the read model.

use std::sync::Arc;

use schema::{
    id::{PolicyId, TenantId},
    rule::Scope,
};

use super::{
    facts::{Facts, PolicyFacts},
    gather::{Aggregates, facts},
};
use crate::{
    eventing::{
        store::{EventStore, ReadError},
        view::{QueryError, Views},
    },
    policies::{Policy, cedar},
    projects::Project,
    sites::Site,
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
    /// The text of a published policy is missing, or no longer what was published.
    #[error("the text of the published policy {0} is missing or damaged")]
    Text(PolicyId),
}

/// Reads facts.
#[derive(Clone)]
pub struct FactsReader {
    views: Views,
    store: Arc<dyn EventStore>,
}

impl FactsReader {
    /// From this read model; texts of policies from this store.
    pub fn new(views: Views, store: Arc<dyn EventStore>) -> Self {
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
            composites: self.views.every(tenant).await?,
            policies: self.policies(tenant).await?,
        };
        Ok(facts(tenant, aggregates))
    }

    /// Waits until the read model shows everything that is in the log now.
    pub(super) async fn caught_up(&self) {
        if let Err(error) = super::reactor::caught_up(&self.views, &*self.store).await {
            tracing::warn!(error = &*error as &dyn std::error::Error, "what was just recorded is published later");
        }
    }

    /// Everything a policy may be for: the tenant, its projects, its sites.
    pub async fn scopes(&self, tenant: TenantId) -> Result<Vec<Scope>, FactsError> {
        let (projects, sites): (Vec<Project>, Vec<Site>) = (self.views.every(tenant).await?, self.views.every(tenant).await?);
        let projects = projects.into_iter().filter_map(|project| Some(Scope::Project(project.fixed?.id)));
        let sites = sites.into_iter().filter_map(|site| Some(Scope::Site(site.fixed?.id)));
        Ok(std::iter::once(Scope::Tenant).chain(projects).chain(sites).collect())
    }

    /// What is published, in order of ids.
    async fn policies(&self, tenant: TenantId) -> Result<Vec<PolicyFacts>, FactsError> {
        let documents: Vec<Policy> = self.views.every(tenant).await?;
        let mut found = Vec::new();
        for document in &documents {
            let (Some(fixed), Some((_, version))) = (&document.fixed, document.published()) else { continue };
            let content = &version.content;
            let text = self.store.blob(tenant, content.cedar).await?.ok_or(FactsError::Text(fixed.id))?;
            let text = String::from_utf8(text).map_err(|_| FactsError::Text(fixed.id))?;
            let checked = cedar::check(&text).map_err(|_| FactsError::Text(fixed.id))?;
            found.push(PolicyFacts {
                scope: fixed.scope,
                cedar: checked.policies.into_iter().map(|single| (format!("{}/{}", fixed.id, single.id), single.text)).collect(),
                templates: content.templates.clone(),
                vouching: content.vouching.clone(),
                offline: content.offline.clone(),
            });
        }
        Ok(found)
    }
}
