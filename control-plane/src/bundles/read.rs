//! Reads the facts of a tenant from the read model.

use std::sync::{Arc, Mutex};

use schema::{
    id::{PolicyId, TenantId},
    rule::Scope,
};

use super::{
    facts::{Facts, PolicyFacts},
    gather::{Aggregates, facts},
    service::locked,
};
use crate::{
    agents::Agent,
    bounded::Bounded,
    eventing::{
        store::{EventStore, ReadError},
        view::{Known, QueryError, Views},
    },
    keys::{Key, Version},
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

/// What was read of tenants, kept for those that were compiled last, at most so many bytes.
const KNOWN_BYTES: usize = 96 << 20;
/// What an aggregate takes in memory, beside what it has signed by agents.
const AGGREGATE_BYTES: usize = 2 << 10;
/// A signed document of an agent, with what stands around it.
const DOCUMENT_BYTES: usize = 8 << 10;

/// Reads facts. Of agents and keys, which are many, only those that changed since the last time. Clones share what is known.
#[derive(Clone)]
pub struct FactsReader {
    views: Views,
    store: Arc<dyn EventStore>,
    known: Arc<Mutex<Bounded<TenantId, Arc<tokio::sync::Mutex<Many>>>>>,
}

/// Of what a tenant has many.
#[derive(Default)]
struct Many {
    agents: Known<Agent>,
    keys: Known<Key>,
}

impl Many {
    /// About how many bytes of memory it takes.
    fn weight(&self) -> usize {
        let of_agents = self.agents.states().map(|agent| AGGREGATE_BYTES + (2 + agent.vouches.len()) * DOCUMENT_BYTES);
        let of_keys = self.keys.states().map(|key| {
            let reports = |version: &Version| 1 + version.holders.len() + version.backups.len();
            AGGREGATE_BYTES + key.versions.values().map(reports).sum::<usize>() * DOCUMENT_BYTES
        });
        of_agents.chain(of_keys).sum()
    }
}

impl FactsReader {
    /// From this read model; texts of policies from this store.
    pub fn new(views: Views, store: Arc<dyn EventStore>) -> Self {
        Self { views, store, known: Arc::new(Mutex::new(Bounded::new(KNOWN_BYTES))) }
    }

    /// What a tenant has come to. Whoever asks has waited until the read model shows what it should.
    pub async fn facts(&self, tenant: TenantId) -> Result<Facts, FactsError> {
        let (agents, keys) = self.many(tenant).await?;
        let aggregates = Aggregates {
            projects: self.views.every(tenant).await?,
            sites: self.views.every(tenant).await?,
            agents,
            callers: self.views.every(tenant).await?,
            keys,
            aliases: self.views.every(tenant).await?,
            composites: self.views.every(tenant).await?,
            policies: self.policies(tenant).await?,
        };
        Ok(facts(tenant, aggregates))
    }

    async fn many(&self, tenant: TenantId) -> Result<(Vec<Agent>, Vec<Key>), FactsError> {
        let place = locked(&self.known).get(&tenant).cloned().unwrap_or_default();
        let mut many = place.lock().await;
        let read = (self.views.refresh(tenant, &mut many.agents).await?, self.views.refresh(tenant, &mut many.keys).await?);
        tracing::debug!(%tenant, agents = read.0, keys = read.1, "what changed was read");
        let weight = many.weight();
        if weight > KNOWN_BYTES {
            // What is too much to be kept is not there twice either.
            locked(&self.known).remove(&tenant);
            let Many { agents, keys } = std::mem::take(&mut *many);
            return Ok((agents.into_states(), keys.into_states()));
        }
        let all = (many.agents.states().cloned().collect(), many.keys.states().cloned().collect());
        many.agents.rest();
        many.keys.rest();
        locked(&self.known).put(tenant, Arc::clone(&place), weight);
        Ok(all)
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
