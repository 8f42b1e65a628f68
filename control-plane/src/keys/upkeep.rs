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
    id::{AgentId, KeyId, PrincipalId, SiteId, TenantId},
    key::VersionState,
    name::Text,
    ranges::LimitKind,
};

use super::{
    Key, KeyCommand, MIN_WAIT,
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
        view::{Filter, Page, QueryError, Views},
    },
    leases::Budget,
    sealing::SealingError,
};

const PRINCIPAL: PrincipalId = PrincipalId::System("upkeep");

/// Events after which something may be due, at once or later.
const TRIGGERS: &[&str] = &[
    "AgentEnrolled",
    "AgentVouched",
    "AgentSuspended",
    "AgentResumed",
    "AgentQuarantined",
    "AgentRevoked",
    "KeyCreated",
    "KeyRotationRuleSet",
    "KeyResumed",
    "VersionRequested",
    "VersionActivated",
    "VersionResumed",
    "HolderReady",
    "VersionDeactivated",
    "VersionRevoked",
    "DeactivationScheduled",
    "DestructionScheduled",
];

/// How often it is looked at how far versions are used up.
const LOOK_AT_USES_EVERY: Duration = Duration::from_secs(30);

/// The least wait of a destruction by rule: what a person must leave, and a minute for the way to the decision.
const LEAST_WAIT: Duration = MIN_WAIT.saturating_add(Duration::from_secs(60));

/// Keys read at a time.
const PAGE: usize = 500;

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
    /// The tenant's keys.
    #[error("opening the tenant's keys failed")]
    Keys(#[from] SealingError),
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
    Assign { number: u32, generator: (AgentId, SiteId) },
    Rotate { generator: Option<(AgentId, SiteId)> },
    BeginDestruction { number: u32 },
    Deactivate { number: u32 },
    ScheduleDestruction { number: u32, due: Timestamp },
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
        let ctx = OpContext { tenant, principal: PRINCIPAL, scopes: Vec::new(), via: None, request: new_id(&*self.ids, now) };
        let (mut next, mut after) = (None, None);
        // Page by page: a tenant may have more keys than should be in memory at once.
        loop {
            let keys = self.views.page::<Key>(tenant, &Filter::default(), &Page::First { count: PAGE, after }).await?;
            for (_, view) in &keys.items {
                self.tend_key(&ctx, &view.state, (&agents, &heard), now).await?;
                next = next.into_iter().chain(next_due(&view.state, now)).min();
            }
            after = keys.items.last().map(|(cursor, _)| cursor.clone());
            if !keys.has_next {
                return Ok(next);
            }
        }
    }

    async fn tend_key(&self, ctx: &OpContext, key: &Key, agents: (&[Agent], &BTreeSet<AgentId>), now: Timestamp) -> Result<(), TendError> {
        let Some(fixed) = &key.fixed else { return Ok(()) };
        let tenant = ctx.tenant;
        let used = if key.rotation.after_uses.is_some() { self.used(tenant, fixed.id, key.primary).await? } else { 0 };
        for Due { action, command } in due(key, agents, used, now) {
            let question = Question::new(action, "Key", fixed.id);
            match self.handler.handle::<Key>(ctx, question, fixed.id, Options::default(), command.into()).await {
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
        Ok(())
    }

    /// How often agents have said that they used a version.
    async fn used(&self, tenant: TenantId, key: KeyId, version: u32) -> Result<u64, TendError> {
        let keys = self.handler.keys(tenant).await?;
        let found = self.views.by_id::<Budget>(tenant, Budget::id(&keys, key), None).await?;
        Ok(found.and_then(|view| view.state.pool(version, LimitKind::Uses).map(|pool| pool.spent)).unwrap_or(0))
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
            if self.handler.keyring().is_buried(tenant, None).await? {
                self.next().remove(&tenant);
                continue;
            }
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
            KeyCommandKind::Deactivate { number } => Self::DeactivateVersion { number, reason: by_rule() },
            KeyCommandKind::ScheduleDestruction { number, due } => {
                Self::ScheduleDestruction { number, wait_seconds: None, due: Some(due), reason: by_rule(), backups_expire: None }
            }
        }
    }
}

/// Why, when nobody asked for it in person.
fn by_rule() -> Option<Text> {
    "By date or rotation rule.".parse().ok()
}

/// Whether every site that has an old version has the primary one too: else deactivating the old one would stop the site.
fn is_replaced_everywhere(key: &Key, number: u32, agents: &[Agent]) -> bool {
    let site_of =
        |id: &AgentId| agents.iter().find_map(|agent| agent.fixed.as_ref().filter(|fixed| fixed.id == *id).map(|fixed| fixed.site));
    let sites = |number: u32| -> BTreeSet<SiteId> {
        let holders = key.versions.get(&number).into_iter().flat_map(|version| &version.holders);
        holders.filter(|(_, holder)| holder.ready.is_some() && holder.gone.is_none()).filter_map(|(agent, _)| site_of(agent)).collect()
    };
    sites(number).is_subset(&sites(key.primary))
}

/// What is due for one key.
fn due(key: &Key, (agents, heard): (&[Agent], &BTreeSet<AgentId>), used: u64, now: Timestamp) -> Vec<Due> {
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
    for number in key.versions.keys().copied() {
        let by_date = key.versions[&number].deactivation.as_ref().is_some_and(|deactivation| deactivation.due <= now);
        let by_rule = key.deactivation_by_rule(number).is_some_and(|time| time <= now) && is_replaced_everywhere(key, number, agents);
        if key.versions[&number].state == VersionState::Active && (by_date || by_rule) {
            due.push(Due { action: "deactivateVersion", command: KeyCommandKind::Deactivate { number } });
        }
        if let Some(time) = key.destruction_by_rule(number) {
            let due_at = time.max(now.plus(LEAST_WAIT));
            due.push(Due { action: "scheduleDestruction", command: KeyCommandKind::ScheduleDestruction { number, due: due_at } });
        }
    }
    if key.rotation_due().into_iter().chain(key.rotation_due_by_uses(used)).any(|time| time <= now) {
        due.push(Due { action: "requestVersion", command: KeyCommandKind::Rotate { generator: generator() } });
    }
    due
}

/// When something will be due next, beyond now.
fn next_due(key: &Key, now: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
    let destructions = key.versions.values().filter(|version| version.is_scheduled_for_destruction());
    let destructions = destructions.filter_map(|version| version.destruction.as_ref().map(|destruction| destruction.due));
    let deactivations = key.versions.keys().filter_map(|number| key.deactivation_due(*number));
    let uses = key.rotation.after_uses.map(|_| now.plus(LOOK_AT_USES_EVERY));
    destructions.chain(deactivations).chain(key.rotation_due()).chain(uses).filter(move |time| *time > now)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schema::{
        encoding::Base64,
        key::{Durability, Origin, Purpose, RotationRule},
    };

    use super::*;
    use crate::{
        agents,
        keys::{Fixed, Holder, Ready, Version},
    };

    const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
    const SITES: [SiteId; 2] = [SiteId::from_bits(1), SiteId::from_bits(2)];

    fn agent(number: u128, site: SiteId) -> Agent {
        let fixed = agents::Fixed { id: AgentId::from_bits(number), site, created: START };
        Agent { fixed: Some(fixed), rostered: Some(START), ..Agent::default() }
    }

    fn version(holders: &[u128], activated: Timestamp) -> Version {
        let ready = |agent: u128| Holder {
            ready: Some(Ready { vault: schema::id::VaultId::from_bits(agent), protection: None, report: Base64(vec![1]), at: START }),
            gone: None,
        };
        Version {
            state: VersionState::Active,
            activated: Some(activated),
            holders: holders.iter().map(|agent| (AgentId::from_bits(*agent), ready(*agent))).collect(),
            ..Version::requested(None, START)
        }
    }

    /// A key at two sites, each with an agent, with two versions; the second has come to these agents.
    fn key(rotation: RotationRule, second: &[u128]) -> (Key, Vec<Agent>) {
        let fixed = Fixed {
            id: KeyId::from_bits(1),
            project: schema::id::ProjectId::from_bits(1),
            name: "cards".parse().unwrap(),
            algorithm: "A256KW+A256GCM".parse().unwrap(),
            purpose: Purpose::Encrypt,
            placement: SITES.to_vec(),
            protection: Default::default(),
            durability: Durability::SingleCopy,
            exportable: false,
            origin: Origin::Generated,
            eligible_generators: Vec::new(),
            template: None,
            created: START,
        };
        let later = START.plus(Duration::from_secs(100));
        let versions = BTreeMap::from([(1, version(&[1, 2], START)), (2, version(second, later))]);
        let key = Key { fixed: Some(fixed), rotation, primary: 2, versions, ..Key::default() };
        (key, vec![agent(1, SITES[0]), agent(2, SITES[1])])
    }

    fn actions(key: &Key, agents: &[Agent], used: u64, seconds: u64) -> Vec<&'static str> {
        due(key, (agents, &BTreeSet::new()), used, START.plus(Duration::from_secs(seconds))).into_iter().map(|due| due.action).collect()
    }

    #[test]
    fn a_rule_deactivates_what_was_replaced_once_every_site_has_the_new_version() {
        let rule = RotationRule { deactivate_after_seconds: Some(50), ..RotationRule::default() };
        let (key_, agents) = key(rule.clone(), &[1, 2]);
        assert!(actions(&key_, &agents, 0, 149).is_empty());
        assert_eq!(actions(&key_, &agents, 0, 150), ["deactivateVersion"]);
        assert_eq!(next_due(&key_, START).min(), Some(START.plus(Duration::from_secs(150))));
        // The new version has not come to the second site: there, the old one is all there is.
        let (key_, agents) = key(rule, &[1]);
        assert!(actions(&key_, &agents, 0, 1_000).is_empty());
        // Without a rule nothing ends by itself.
        let (key_, agents) = key(RotationRule::default(), &[1, 2]);
        assert!(actions(&key_, &agents, 0, 1_000_000_000).is_empty());
    }

    #[test]
    fn what_is_deactivated_is_scheduled_for_destruction_with_time_to_cancel() {
        let rule = RotationRule { deactivate_after_seconds: Some(50), destroy_after_seconds: Some(7_200), ..RotationRule::default() };
        let (mut key, agents) = key(rule, &[1, 2]);
        let old = key.versions.get_mut(&1).unwrap();
        (old.state, old.deactivated) = (VersionState::Deactivated, Some(START.plus(Duration::from_secs(150))));
        let first = &due(&key, (&agents, &BTreeSet::new()), 0, START.plus(Duration::from_secs(151)))[0];
        let promised = START.plus(Duration::from_secs(7_350));
        assert_eq!(
            (first.action, first.command),
            ("scheduleDestruction", KeyCommandKind::ScheduleDestruction { number: 1, due: promised })
        );
        // After a long outage there is still an hour to cancel.
        let late = START.plus(Duration::from_secs(100_000));
        let first = &due(&key, (&agents, &BTreeSet::new()), 0, late)[0];
        assert_eq!(first.command, KeyCommandKind::ScheduleDestruction { number: 1, due: late.plus(LEAST_WAIT) });
    }

    #[test]
    fn uses_that_agents_told_of_call_for_the_next_version() {
        let rule = RotationRule { after_uses: Some(10), ..RotationRule::default() };
        let (key, agents) = key(rule, &[1, 2]);
        assert!(actions(&key, &agents, 9, 200).is_empty());
        assert_eq!(actions(&key, &agents, 10, 200), ["requestVersion"]);
        assert!(next_due(&key, START).min().is_some(), "it is looked at again");
    }
}
