//! What happens to keys by itself: a generator is chosen as soon as there is one, keys rotate when their rule says so,
//! scheduled destructions begin when they are due. Acts through commands, as a principal of its own.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use schema::{
    clock::{Clock, Ids, Timestamp, new_id},
    id::{AgentId, PrincipalId, TenantId},
};

use super::{
    Key, KeyCommand,
    placement::{HEARD_WITHIN, choose_generator},
};
use crate::{
    access::{context::OpContext, permit::Question},
    agents::{
        Agent,
        report::{ReportError, Reports},
    },
    bundles::{heartbeat::Heartbeats, reactor::caught_up},
    eventing::{
        handler::{CommandError, Handler, Options},
        reactor::{Fault, Reactor},
        store::Stored,
        view::{QueryError, Views},
    },
};

const PRINCIPAL: PrincipalId = PrincipalId::System("upkeep");

/// Events after which something may be due, at once or later.
const TRIGGERS: &[&str] = &[
    "AgentEnrolled",
    "AgentVouched",
    "AgentSuspended",
    "AgentResumed",
    "AgentRevoked",
    "KeyCreated",
    "KeyRotationRuleSet",
    "KeyResumed",
    "VersionRequested",
    "VersionActivated",
    "VersionResumed",
    "DestructionScheduled",
];

/// How often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks after the keys of every tenant.
pub struct Upkeep {
    handler: Handler,
    views: Views,
    heartbeats: Heartbeats,
    reports: Reports,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    /// When something will be due next in each tenant.
    next: Mutex<HashMap<TenantId, Option<Timestamp>>>,
}

/// Why the keys of a tenant were not looked after.
#[derive(Debug, thiserror::Error)]
pub enum TendError {
    /// The read model.
    #[error("reading keys and agents failed")]
    Views(#[from] QueryError),
    /// The reports of agents.
    #[error("reading when agents reported failed")]
    Reports(#[from] ReportError),
}

/// One thing that is due.
#[derive(Debug, Clone, PartialEq)]
struct Due {
    action: &'static str,
    command: KeyCommandKind,
}

/// The commands that upkeep gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyCommandKind {
    Assign { number: u32, generator: (schema::id::AgentId, schema::id::SiteId) },
    Rotate { generator: Option<(schema::id::AgentId, schema::id::SiteId)> },
    BeginDestruction { number: u32 },
}

impl Upkeep {
    /// Puts the parts together.
    pub fn new(
        handler: Handler,
        views: Views,
        heartbeats: Heartbeats,
        reports: Reports,
        (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>),
    ) -> Self {
        Self { handler, views, heartbeats, reports, clock, ids, next: Mutex::default() }
    }

    /// Does what is due in a tenant; says when the next thing will be.
    pub async fn tend(&self, tenant: TenantId) -> Result<Option<Timestamp>, TendError> {
        let now = self.clock.now();
        let agents: Vec<Agent> = self.views.every(tenant).await?;
        let heard = self.reports.heard(tenant, now.minus(HEARD_WITHIN)).await?;
        let keys: Vec<Key> = self.views.every(tenant).await?;
        let ctx = OpContext { tenant, principal: PRINCIPAL, scopes: Vec::new(), via: None, request: new_id(&*self.ids, now) };
        for key in &keys {
            let Some(fixed) = &key.fixed else { continue };
            for Due { action, command } in due(key, (&agents, &heard), now) {
                let question = Question::new(action, "Key", fixed.id);
                match self.handler.handle::<Key>(&ctx, question, fixed.id, Options::default(), command.into()).await {
                    Ok(handled) if handled.events.is_empty() => {}
                    Ok(_) => tracing::info!(%tenant, key = %fixed.id, action, "upkeep acted on a key"),
                    // Somebody acted in between, or it is no longer due.
                    Err(CommandError::Refused(refusal)) => {
                        tracing::debug!(%tenant, key = %fixed.id, action, %refusal, "upkeep had nothing to do")
                    }
                    Err(error) => {
                        tracing::error!(%tenant, key = %fixed.id, action, error = &error as &dyn std::error::Error, "upkeep failed")
                    }
                }
            }
        }
        Ok(keys.iter().flat_map(|key| next_due(key, now)).min())
    }
}

#[async_trait]
impl Reactor for Upkeep {
    fn name(&self) -> &'static str {
        "upkeep"
    }

    async fn react(&self, records: &[Stored]) -> Result<(), Fault> {
        let envelopes = records.iter().map(|stored| stored.record.envelope());
        let touched: BTreeSet<_> =
            envelopes.filter(|envelope| TRIGGERS.contains(&envelope.event_type.as_str())).map(|envelope| envelope.tenant).collect();
        if touched.is_empty() {
            return Ok(());
        }
        caught_up(&self.views, &**self.handler.store()).await?;
        for tenant in touched {
            self.tend_and_note(tenant).await?;
        }
        Ok(())
    }

    fn interval(&self) -> Option<Duration> {
        Some(LOOK_EVERY)
    }

    async fn tick(&self) -> Result<(), Fault> {
        let now = self.clock.now();
        if self.next().is_empty() {
            // Just begun: nothing is known yet of what is due. Tenants without a site have nothing to look after.
            let sites = self.heartbeats.older_than(now.plus(Duration::from_secs(1))).await?;
            self.next().extend(sites.into_iter().map(|(tenant, _)| (tenant, Some(now))));
        }
        let due: Vec<_> = self.next().iter().filter(|(_, next)| next.is_some_and(|next| next <= now)).map(|(tenant, _)| *tenant).collect();
        for tenant in due {
            if let Err(error) = self.tend_and_note(tenant).await {
                tracing::error!(%tenant, error = &error as &dyn Error, "looking after the keys of a tenant failed");
            }
        }
        Ok(())
    }
}

impl Upkeep {
    fn next(&self) -> std::sync::MutexGuard<'_, HashMap<TenantId, Option<Timestamp>>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tend_and_note(&self, tenant: TenantId) -> Result<(), TendError> {
        let next = self.tend(tenant).await?;
        self.next().insert(tenant, next);
        Ok(())
    }
}

impl From<KeyCommandKind> for KeyCommand {
    fn from(kind: KeyCommandKind) -> Self {
        match kind {
            KeyCommandKind::Assign { number, generator: (generator, site) } => Self::AssignGenerator { number, generator, site },
            KeyCommandKind::Rotate { generator } => Self::Rotate { generator },
            KeyCommandKind::BeginDestruction { number } => Self::BeginDestruction { number },
        }
    }
}

/// What is due for one key.
fn due(key: &Key, (agents, heard): (&[Agent], &BTreeSet<AgentId>), now: Timestamp) -> Vec<Due> {
    let Some(fixed) = &key.fixed else { return Vec::new() };
    let generator = || choose_generator(&fixed.placement, &fixed.eligible_generators, agents, heard);
    let at_work = |id| agents.iter().any(|agent| agent.is_at_work() && agent.fixed.as_ref().is_some_and(|fixed| fixed.id == id));
    let mut due = Vec::new();
    for (number, version) in &key.versions {
        // A generator that left before it made anything is replaced.
        let unmade = version.is_pending() && version.made.is_none() && !version.generator.is_some_and(at_work);
        if let Some(generator) = generator().filter(|_| unmade) {
            due.push(Due { action: "assignGenerator", command: KeyCommandKind::Assign { number: *number, generator } });
        }
        let destruction = version.destruction.as_ref().filter(|_| version.is_scheduled_for_destruction());
        if destruction.is_some_and(|destruction| destruction.due <= now) {
            due.push(Due { action: "beginDestruction", command: KeyCommandKind::BeginDestruction { number: *number } });
        }
    }
    if key.rotation_due().is_some_and(|time| time <= now) {
        due.push(Due { action: "requestVersion", command: KeyCommandKind::Rotate { generator: generator() } });
    }
    due
}

/// When something will be due next, beyond now.
fn next_due(key: &Key, now: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
    let destructions = key.versions.values().filter(|version| version.is_scheduled_for_destruction());
    let destructions = destructions.filter_map(|version| version.destruction.as_ref().map(|destruction| destruction.due));
    destructions.chain(key.rotation_due()).filter(move |time| *time > now)
}
