//! A control plane that was restored from an older backup: how it learns from its agents what it has forgotten, and how the next
//! epoch begins.
//!
//! An agent that is told less than it knows refuses, and sends what it holds. That proves itself: roots, policies, state and
//! heartbeat are signed by those who may. It is kept, and nothing is published for the tenant any more, because every number that
//! were used now, the agents know otherwise. Then somebody begins the recovery: roots and policies that are missing are taken back
//! as the exact bytes, keys come as far as the states say, and a root of the next epoch, signed at root threshold, lets all numbers
//! of states and heartbeats begin anew. Agents accept it once a person there has confirmed the epoch, and forget nothing by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    event::statement::StatementKind,
    id::{AgentId, KeyId, ProjectId, SiteId, TenantId},
    wire::agent::StatementSet,
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use serde::{Deserialize, Serialize};
use trust::{
    accept::{Order, Rejection},
    dsse::{Envelope, sign_statement},
    evidence::{Evidence, prove},
    statement::{
        Kind, Scope,
        policy::KeyDefinition,
        state::{State, Subject},
    },
};

use super::{
    compile::states,
    facts::Facts,
    heartbeat::HeartbeatError,
    service::{Recorded, Statements, StatementsError, payload_of, scope_text},
    signers::fill,
    stream::{Proposal, StatementCommand, StatementStream, stream_id},
};
use crate::{
    access::{context::OpContext, permit::Question},
    eventing::handler::{CommandError, Options},
    keys::{Key, KeyCommand, KeyRefusal, RecoverKey},
    sealing::Place,
};

const TABLE: &str = "recovery_evidence";
/// How often it is looked what replicas have learned.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What somebody should know. Shared by clones of [`Statements`].
#[derive(Debug, Default)]
pub struct Behind(Mutex<Option<String>>);

/// What an agent of a site holds that this control plane does not know.
#[derive(Debug, Clone)]
pub struct Learned {
    /// The site.
    pub site: SiteId,
    /// Who showed it; none when it came as a file.
    pub agent: Option<AgentId>,
    /// When.
    pub at: Timestamp,
    /// Everything it holds.
    pub evidence: Evidence,
}

/// How far a tenant is behind its agents.
#[derive(Debug, Clone)]
pub struct RecoveryStatus {
    /// The present epoch.
    pub epoch: u64,
    /// Whether nothing is published until the next epoch begins.
    pub needed: bool,
    /// Whether the root of the next epoch waits for the tenant's signers.
    pub waits: bool,
    /// Sites whose agents know better.
    pub sites: Vec<SiteStatus>,
}

/// One site.
#[derive(Debug, Clone)]
pub struct SiteStatus {
    /// The site.
    pub site: SiteId,
    /// Who showed what it holds; none when it came as a file.
    pub agent: Option<AgentId>,
    /// When.
    pub at: Timestamp,
    /// Its heartbeat: epoch and serial.
    pub theirs: Order,
    /// The one this control plane has.
    pub ours: Option<Order>,
    /// What is in there and unknown here, in words.
    pub forgotten: Vec<String>,
}

/// What beginning a recovery did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begun {
    /// The epoch that begins, or has begun.
    pub epoch: u64,
    /// Whether its root waits for signatures of the tenant's signers.
    pub waits: bool,
    /// Statements that were taken back.
    pub statements: u32,
    /// Keys that came further.
    pub keys: Vec<KeyId>,
    /// Keys that could not be taken back, and why.
    pub left: Vec<(KeyId, String)>,
}

/// A row: site, agent, when, data key, and what is sealed.
type Shown = (String, Option<String>, i64, String, Vec<u8>);

#[derive(Serialize, Deserialize)]
struct Kept {
    set: StatementSet,
}

fn asking(act: &'static str) -> impl FnOnce(DbErr) -> StatementsError {
    move |source| HeartbeatError::Database { act, source }.into()
}

impl Statements {
    /// Takes what an agent holds. Gives whether this control plane knows less; what does not prove itself is logged and forgotten.
    pub async fn learn(
        &self,
        tenant: TenantId,
        site: Option<SiteId>,
        agent: Option<AgentId>,
        set: &StatementSet,
    ) -> Result<Result<bool, Rejection>, StatementsError> {
        let evidence = match self.proved(tenant, set).await? {
            Ok(evidence) => evidence,
            Err(rejection) => {
                tracing::error!(%tenant, ?agent, error = &rejection as &dyn std::error::Error, "what an agent says it holds does not prove itself");
                return Ok(Err(rejection));
            }
        };
        let Some(of) = evidence.heartbeat.payload.head.site.filter(|of| site.is_none_or(|site| site == *of)) else {
            return Ok(Err(Rejection::OtherSite(Kind::Heartbeat)));
        };
        if evidence.heartbeat.payload.head.tenant != tenant {
            return Ok(Err(Rejection::OtherTenant(Kind::Heartbeat)));
        }
        if !self.knows_less(tenant, of, &evidence).await? {
            return Ok(Ok(false));
        }
        if self.keep_evidence(tenant, of, agent, set, evidence.heartbeat.order()).await? {
            let theirs = evidence.heartbeat.order();
            tracing::error!(%tenant, site = %of, ?agent, %theirs, "an agent knows newer statements than this control plane: was it restored from an older backup? Nothing is published for this tenant until the next epoch begins (freehold recovery status)");
            self.look_behind().await?;
        }
        Ok(Ok(true))
    }

    async fn proved(&self, tenant: TenantId, set: &StatementSet) -> Result<Result<Evidence, Rejection>, StatementsError> {
        let known: Vec<Base64> = self.root_envelopes(tenant).await?.into_iter().map(Base64).collect();
        let first = known.first().ok_or(StatementsError::Missing)?;
        let pinned = Envelope::parse(first.as_slice(), Kind::Root.max_bytes()).map_err(StatementsError::Damaged)?;
        Ok(prove(&known, set, Digest::of(&pinned.payload)))
    }

    /// Whether something in a set is newer than, or other than, what was recorded here.
    async fn knows_less(&self, tenant: TenantId, site: SiteId, evidence: &Evidence) -> Result<bool, StatementsError> {
        let (authority, _) = self.authorities(tenant).await?;
        let newest = &authority.root().head;
        if evidence.roots.last().is_some_and(|root| root.order() > (Order { epoch: newest.epoch, serial: newest.serial })) {
            return Ok(true);
        }
        for (scope, policy) in &evidence.policies {
            if self.stream(tenant, StatementKind::Policy, &scope_text(tenant, *scope)).await?.serial < policy.order().serial {
                return Ok(true);
            }
        }
        let Some(current) = self.heartbeats().latest(tenant, site).await? else { return Ok(true) };
        let (ours, theirs) = (Order { epoch: current.epoch, serial: current.serial }, evidence.heartbeat.order());
        let same = || {
            Envelope::parse(&current.envelope, Kind::Heartbeat.max_bytes())
                .is_ok_and(|ours| Digest::of(&ours.payload) == evidence.heartbeat.sha256)
        };
        Ok(theirs > ours || (theirs == ours && !same()))
    }

    /// Keeps what is newer than what was kept of a site.
    async fn keep_evidence(
        &self,
        tenant: TenantId,
        site: SiteId,
        agent: Option<AgentId>,
        set: &StatementSet,
        order: Order,
    ) -> Result<bool, StatementsError> {
        let database = self.heartbeats().database();
        let keys = self.handler().keys(tenant).await?;
        let plain = serde_json::to_vec(&Kept { set: set.clone() }).map_err(|_| StatementsError::Missing)?;
        let sealed = keys.seal(Place::Row { table: TABLE, key: &site.to_string() }, &plain)?;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let sql = "INSERT INTO recovery_evidence (tenant, site, agent, at, epoch, serial, data_key, sealed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                   ON CONFLICT (tenant, site) DO UPDATE SET agent = excluded.agent, at = excluded.at, epoch = excluded.epoch, \
                   serial = excluded.serial, data_key = excluded.data_key, sealed = excluded.sealed \
                   WHERE recovery_evidence.epoch < excluded.epoch \
                   OR (recovery_evidence.epoch = excluded.epoch AND recovery_evidence.serial < excluded.serial)";
        let values = vec![
            tenant.to_string().into(),
            site.to_string().into(),
            agent.map(|agent| agent.to_string()).into(),
            self.now().micros().into(),
            number(order.epoch).into(),
            number(order.serial).into(),
            sealed.data_key.to_string().into(),
            sealed.bytes.into(),
        ];
        let done = database.write().execute_raw(database.sql(sql, values)).await.map_err(asking("keeping what an agent holds"))?;
        Ok(done.rows_affected() == 1)
    }

    /// What was learned of a tenant, each read and proved again.
    pub async fn learned(&self, tenant: TenantId) -> Result<Vec<Learned>, StatementsError> {
        let database = self.heartbeats().database();
        let act = "reading what agents hold";
        let sql = "SELECT site, agent, at, data_key, sealed FROM recovery_evidence WHERE tenant = $1 ORDER BY epoch, serial";
        let rows = database.write().query_all_raw(database.sql(sql, vec![tenant.to_string().into()])).await.map_err(asking(act))?;
        let read = |row: &QueryResult| -> Result<Shown, DbErr> {
            Ok((
                row.try_get_by_index(0)?,
                row.try_get_by_index(1)?,
                row.try_get_by_index(2)?,
                row.try_get_by_index(3)?,
                row.try_get_by_index(4)?,
            ))
        };
        let keys = self.handler().keys(tenant).await?;
        let mut learned = Vec::with_capacity(rows.len());
        for row in &rows {
            let (site, agent, at, data_key, sealed) = read(row).map_err(asking(act))?;
            let data_key = data_key.parse().map_err(|_| StatementsError::Missing)?;
            let plain = keys.open(Place::Row { table: TABLE, key: &site }, data_key, &sealed)?;
            let kept: Kept = serde_json::from_slice(&plain).map_err(|_| StatementsError::Missing)?;
            let evidence = self.proved(tenant, &kept.set).await?.map_err(StatementsError::Root)?;
            let site = site.parse().map_err(|_| StatementsError::Missing)?;
            learned.push(Learned { site, agent: agent.and_then(|agent| agent.parse().ok()), at: Timestamp::from_micros(at), evidence });
        }
        Ok(learned)
    }

    /// Whether agents of a tenant know this epoch further than this control plane: nothing is published in it any more.
    pub(super) async fn is_behind(&self, tenant: TenantId, epoch: u64) -> Result<bool, StatementsError> {
        let database = self.heartbeats().database();
        let sql = "SELECT 1 FROM recovery_evidence WHERE tenant = $1 AND epoch >= $2 LIMIT 1";
        let values = vec![tenant.to_string().into(), i64::try_from(epoch).unwrap_or(i64::MAX).into()];
        let row = database.write().query_one_raw(database.sql(sql, values)).await;
        Ok(row.map_err(asking("asking whether agents know better"))?.is_some())
    }

    /// What `/readyz` tells.
    pub fn behind_note(&self) -> Option<String> {
        self.behind().0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks again and again whether tenants are behind their agents, whichever replica learned it.
    pub async fn watch_behind(self) {
        loop {
            if let Err(error) = self.look_behind().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "it cannot be told whether agents know better");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look_behind(&self) -> Result<(), StatementsError> {
        let database = self.heartbeats().database();
        let act = "asking whether agents know better";
        // Behind until a heartbeat of a later epoch is there.
        let sql = "SELECT COUNT(*), COUNT(DISTINCT e.tenant) FROM recovery_evidence e \
                   WHERE NOT EXISTS (SELECT 1 FROM heartbeats h WHERE h.tenant = e.tenant AND h.epoch > e.epoch)";
        let row = database.read().query_one_raw(database.sql(sql, vec![])).await.map_err(asking(act))?;
        let (sites, tenants): (i64, i64) = match row {
            Some(row) => (row.try_get_by_index(0).map_err(asking(act))?, row.try_get_by_index(1).map_err(asking(act))?),
            None => (0, 0),
        };
        metrics::gauge!("freehold_recovery_sites").set(sites as f64);
        let note = (sites > 0).then(|| {
            format!(
                "agents of {sites} sites of {tenants} tenants know newer statements than this control plane, which was restored from an older backup: \
                 nothing is published for them until the next epoch begins; each tenant: freehold recovery status (docs/control-plane-recovery.md)"
            )
        });
        *self.behind().0.lock().unwrap_or_else(PoisonError::into_inner) = note;
        Ok(())
    }

    /// How far a tenant is behind its agents, and what would stay forgotten.
    pub async fn recovery_status(&self, tenant: TenantId) -> Result<RecoveryStatus, StatementsError> {
        let (authority, next) = self.authorities(tenant).await?;
        let epoch = authority.root().head.epoch;
        let facts = self.facts().facts(tenant).await?;
        let told = states(&facts);
        let mut sites = Vec::new();
        for learned in self.learned(tenant).await? {
            let current = self.heartbeats().latest(tenant, learned.site).await?;
            sites.push(SiteStatus {
                site: learned.site,
                agent: learned.agent,
                at: learned.at,
                theirs: learned.evidence.heartbeat.order(),
                ours: current.map(|current| Order { epoch: current.epoch, serial: current.serial }),
                forgotten: forgotten(&facts, told.get(&learned.site), &learned.evidence),
            });
        }
        let needed = self.is_behind(tenant, epoch).await?;
        let waits = next.is_some_and(|next| next.root().head.epoch > epoch);
        Ok(RecoveryStatus { epoch, needed, waits, sites })
    }

    /// The epoch that a recovery lets begin, or has let begin; none when no agent knows better.
    pub async fn recovers_to(&self, tenant: TenantId) -> Result<Option<u64>, StatementsError> {
        let learned = self.learned(tenant).await?;
        let Some(highest) = learned.iter().map(|learned| learned.evidence.heartbeat.order().epoch).max() else { return Ok(None) };
        Ok(Some(self.authorities(tenant).await?.0.root().head.epoch.max(highest + 1)))
    }

    /// Takes back what agents hold, and begins the next epoch; none when no agent knows better. Doing it again takes back what was
    /// learned since.
    pub async fn begin_recovery(&self, tenant: TenantId) -> Result<Option<Begun>, StatementsError> {
        let learned = self.learned(tenant).await?;
        if learned.is_empty() {
            return Ok(None);
        }
        let mut begun = Begun::default();
        for Learned { evidence, .. } in &learned {
            self.take_back(tenant, evidence, &mut begun).await?;
        }
        let highest = learned.iter().map(|learned| learned.evidence.heartbeat.order().epoch).max().unwrap_or_default();
        self.next_epoch(tenant, highest, &mut begun).await?;
        self.facts().caught_up().await;
        // What is published from here on is read anew.
        *self.shelf(tenant).lock().await = None;
        self.bring_up_to_date(tenant).await?;
        self.look_behind().await?;
        Ok(Some(begun))
    }

    async fn take_back(&self, tenant: TenantId, evidence: &Evidence, begun: &mut Begun) -> Result<(), StatementsError> {
        let roots = evidence.roots.iter().map(|root| (StatementKind::Root, Scope::Tenant, root.order(), root.sha256, &root.bytes));
        let policies =
            evidence.policies.iter().map(|(scope, policy)| (StatementKind::Policy, *scope, policy.order(), policy.sha256, &policy.bytes));
        for (kind, scope, order, sha256, bytes) in roots.chain(policies) {
            let text = scope_text(tenant, scope);
            if self.stream(tenant, kind, &text).await?.serial >= order.serial {
                continue;
            }
            let id = stream_id(&*self.handler().keys(tenant).await?, kind, &text);
            let envelope_sha256 = Digest::of(bytes.as_slice());
            let Order { epoch, serial } = order;
            let command = StatementCommand::TakeBack { kind, scope: text, epoch, serial, sha256, envelope_sha256 };
            let options = Options { blobs: vec![bytes.0.clone()], ..Options::default() };
            let question = Question::new("publishStatement", "Statements", id);
            let handled = self.handler().handle::<StatementStream>(&self.context(tenant), question, id, options, command).await;
            handled.map_err(|error| StatementsError::Record(Box::new(error)))?;
            begun.statements += 1;
        }
        let facts = self.facts().facts(tenant).await?;
        let state = &evidence.state.payload;
        for (id, told) in &state.keys {
            let templated = state.templated.get(id);
            let by_policy = evidence.policies.values().find_map(|policy| policy.payload.keys.get(id));
            let definition = by_policy.or(templated.map(|templated| &templated.definition));
            match self
                .recover_key(tenant, *id, definition, templated.map(|templated| templated.template.clone()), told.clone(), &facts)
                .await?
            {
                Ok(true) if !begun.keys.contains(id) => begun.keys.push(*id),
                Ok(_) => {}
                Err(why) => begun.left.push((*id, why)),
            }
        }
        Ok(())
    }

    async fn recover_key(
        &self,
        tenant: TenantId,
        id: KeyId,
        definition: Option<&KeyDefinition>,
        template: Option<schema::name::Name>,
        told: trust::statement::state::KeyState,
        facts: &Facts,
    ) -> Result<Result<bool, String>, StatementsError> {
        let failed = |error: CommandError<KeyRefusal>| StatementsError::Recover(Box::new(error));
        let known = self.handler().load::<Key>(tenant, id).await.map_err(failed)?;
        if known.state.fixed.is_none() {
            let Some(definition) = definition else { return Ok(Err("no policy that the agent holds says what it is".to_owned())) };
            if !facts.projects.contains_key(&definition.project) {
                return Ok(Err(format!(
                    "its project {} is forgotten: create it again under the name {}, then begin again",
                    definition.project, definition.project_name
                )));
            }
        }
        let command = KeyCommand::Recover(Box::new(RecoverKey { definition: definition.cloned(), template, told }));
        let ctx: OpContext = self.context(tenant);
        let question = Question::new("recoverKey", "Key", id);
        match self.handler().handle::<Key>(&ctx, question, id, Options::default(), command).await {
            Ok(handled) => Ok(Ok(handled.revision > known.revision)),
            Err(CommandError::Refused(refusal)) => Ok(Err(refusal.to_string())),
            Err(error) => Err(failed(error)),
        }
    }

    /// Lets the epoch after the highest that agents know begin, unless it has begun or waits for signatures.
    async fn next_epoch(&self, tenant: TenantId, highest: u64, begun: &mut Begun) -> Result<(), StatementsError> {
        let (authority, next) = self.authorities(tenant).await?;
        let present = authority.root();
        if present.head.epoch > highest {
            begun.epoch = present.head.epoch;
            return Ok(());
        }
        if let Some(next) = next.filter(|next| next.root().head.epoch > highest) {
            (begun.epoch, begun.waits) = (next.root().head.epoch, true);
            return Ok(());
        }
        let mut root = present.clone();
        let (epoch, serial) = (present.head.epoch + 1, present.head.serial + 1);
        fill(&mut root.head, Kind::Root, epoch, serial, serial, self.now());
        begun.epoch = epoch;
        if authority.is_tenant_held(Kind::Root) {
            begun.waits = true;
            let payload = payload_of(&root);
            let scope = scope_text(tenant, Scope::Tenant);
            let id = stream_id(&*self.handler().keys(tenant).await?, StatementKind::Root, &scope);
            let proposal = Proposal { kind: StatementKind::Root, scope, epoch, serial, root_serial: serial, sha256: Digest::of(&payload) };
            let options = Options { blobs: vec![payload], ..Options::default() };
            let question = Question::new("proposeStatement", "Statements", id);
            let proposed = self
                .handler()
                .handle::<StatementStream>(&self.context(tenant), question, id, options, StatementCommand::Propose(proposal))
                .await;
            proposed.map(drop).map_err(|error| StatementsError::Record(Box::new(error)))
        } else {
            let signers = self.signers_under(tenant, &authority).await?;
            let (bytes, sha256) = sign_statement(&root, &[&signers.pair(Kind::Root)]);
            let recorded = Recorded { kind: StatementKind::Root, scope: scope_text(tenant, Scope::Tenant), epoch, serial, sha256 };
            self.record(tenant, recorded, bytes).await.map(drop)
        }
    }
}

/// What a set tells of and nobody here knows, in words.
fn forgotten(facts: &Facts, told: Option<&State>, evidence: &Evidence) -> Vec<String> {
    let mut words = Vec::new();
    let projects: BTreeMap<ProjectId, String> = evidence
        .policies
        .values()
        .flat_map(|policy| policy.payload.keys.values())
        .map(|definition| (definition.project, definition.project_name.to_string()))
        .collect();
    let unknown_scopes = evidence.policies.keys().filter_map(|scope| match scope {
        Scope::Project(project) if !facts.projects.contains_key(project) => {
            Some(format!("project {project} {}", projects.get(project).map_or("", String::as_str)))
        }
        _ => None,
    });
    words.extend(unknown_scopes.map(|text| text.trim().to_owned()));
    let state = &evidence.state.payload;
    for (key, told) in &state.keys {
        match facts.keys.get(key) {
            None => words.push(format!("key {key}")),
            Some(known) => {
                let missing = told.versions.keys().filter(|number| !known.state.versions.contains_key(*number));
                words.extend(missing.map(|number| format!("version {key}/{number}")));
            }
        }
    }
    let callers: BTreeSet<_> = evidence.policies.values().flat_map(|policy| policy.payload.callers.keys()).collect();
    words.extend(callers.into_iter().filter(|caller| !facts.callers.contains_key(*caller)).map(|caller| format!("caller {caller}")));
    words.extend(
        state.roster.keys().filter(|agent| !facts.agents.contains_key(*agent)).map(|agent| format!("agent {agent}: let it enrol again")),
    );
    let restricted = |subject: &Subject| {
        told.is_some_and(|told| told.suspensions.contains(subject) || told.revocations.iter().any(|revoked| revoked.subject == *subject))
    };
    let name = |subject: &Subject| match subject {
        Subject::Caller(id) => id.to_string(),
        Subject::Agent(id) => id.to_string(),
        Subject::Key(id) => id.to_string(),
        Subject::Version(id) => id.to_string(),
        Subject::Project(id) => id.to_string(),
        Subject::Site(id) => id.to_string(),
    };
    words.extend(state.suspensions.iter().filter(|subject| !restricted(subject)).map(|subject| format!("suspension of {}", name(subject))));
    words.extend(
        state
            .revocations
            .iter()
            .filter(|revoked| !restricted(&revoked.subject))
            .map(|revoked| format!("revocation of {}", name(&revoked.subject))),
    );
    words
}
