//! Keys in GraphQL: what they are. What can be done with them stands in [`super::mutations`].

use async_graphql::{ComplexObject, Context, Enum, ID, InputObject, Object, Result, SimpleObject};
use schema::key;

use super::{Backup, Destruction, Gone, Holder, Key, Version};
use crate::{
    agents::{
        AgentState,
        graphql::{AgentFinding, AgentNode},
    },
    graphql::{
        algorithms::AlgorithmNode,
        api::{Api, Filter, Seen, Shown},
        fault::only_now,
        page::{List, cost, empty, page},
        payload::{Stop, optional},
        scalar::{
            self, Durability, KeyOrigin, KeyProtection, KeyPurpose, Label, LabelInput, RevocationReason, Timestamp, UInt64, VersionState,
        },
    },
    leases::graphql::{BudgetNode, budgets},
    projects::graphql::ProjectNode,
    receipts::{
        graphql::{KeyUse, last_use},
        usage::Used,
    },
    sites::graphql::SiteNode,
};

/// The state of a key as a whole: that of its primary version, unless the key is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "super::KeyState")]
pub enum KeyState {
    /// No version is active yet.
    Pending,
    /// It is in use.
    Active,
    /// It does nothing until it is resumed.
    Suspended,
    /// It only opens and verifies.
    Deactivated,
    /// It only opens and verifies, and is known or feared to be in other hands.
    Compromised,
    /// Its material is gone, or on its way there.
    Destroyed,
}

/// What a holder has, or should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub enum HolderState {
    /// Nothing, or nothing yet. Desired of agents that were revoked: what they still have is out of reach.
    Absent,
    /// The material, tested.
    Ready,
    /// A tombstone.
    Destroyed,
    /// It will never report; somebody attested why.
    Lost,
}

/// A named thing with exactly one algorithm and one purpose, and numbered versions.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Key", complex)]
pub struct KeyNode {
    /// `key_…`
    pub id: ID,
    /// The project it belongs to.
    pub project_id: ID,
    /// Its name in the project; never changes.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The state of the key as a whole.
    pub state: KeyState,
    /// Its one algorithm.
    pub algorithm: AlgorithmNode,
    /// Its one purpose.
    pub purpose: KeyPurpose,
    /// How many homes a version needs.
    pub durability: Durability,
    /// How well a vault must guard its material.
    pub protection: KeyProtection,
    /// Whether material may leave the vault, wrapped.
    pub exportable: bool,
    /// Where its material is made.
    pub origin: KeyOrigin,
    /// The template of policy it follows.
    pub template: Option<String>,
    /// Labels, given to policy.
    pub labels: Vec<Label>,
    /// Whether it is protected from destruction.
    pub deletion_protection: bool,
    /// The number of the version used when none is named; 0 while there is none.
    pub primary_version: u32,
    /// Every version, by number.
    pub versions: Vec<KeyVersionNode>,
    /// How new versions may come about.
    pub rotation: RotationRule,
    /// Soft and hard limits on the use of a version.
    pub limits: UseLimits,
    /// The lowest versions that may still be used.
    pub minimum_versions: MinimumVersions,
    /// When it was created.
    pub created_at: Timestamp,
    /// Rises with every change.
    pub revision: UInt64,
    #[graphql(skip)]
    successor: Option<schema::id::KeyId>,
    #[graphql(skip)]
    pub(crate) key: schema::id::KeyId,
    #[graphql(skip)]
    pub(crate) placement: Vec<schema::id::SiteId>,
    #[graphql(skip)]
    pub(crate) eligible_generators: Vec<schema::id::AgentId>,
    #[graphql(skip)]
    project: schema::id::ProjectId,
    #[graphql(skip)]
    as_of: Option<Timestamp>,
}

impl Shown for Key {
    type Node = KeyNode;

    fn node(seen: Seen<Self>) -> Option<KeyNode> {
        let Seen { id, revision, state, as_of } = seen;
        let whole = state.state().into();
        let fixed = state.fixed.clone()?;
        let versions = state.versions.iter().map(|(number, version)| KeyVersionNode::of(id, *number, version, (&state, as_of))).collect();
        Some(KeyNode {
            id: id.to_string().into(),
            project_id: fixed.project.to_string().into(),
            name: fixed.name.to_string(),
            description: state.description.as_ref().map(ToString::to_string),
            state: whole,
            algorithm: fixed.algorithm.into(),
            purpose: fixed.purpose.into(),
            durability: fixed.durability.into(),
            protection: fixed.protection.into(),
            exportable: fixed.exportable,
            origin: fixed.origin.into(),
            template: fixed.template.as_ref().map(ToString::to_string),
            labels: scalar::labels(&state.labels),
            deletion_protection: state.deletion_protection,
            primary_version: state.primary,
            versions,
            rotation: (&state.rotation).into(),
            limits: (&state.limits).into(),
            minimum_versions: MinimumVersions { process: state.minimum_versions.process, protect: state.minimum_versions.protect },
            created_at: Timestamp(fixed.created),
            revision: UInt64(revision),
            successor: state.successor,
            key: id,
            placement: fixed.placement,
            eligible_generators: fixed.eligible_generators,
            project: fixed.project,
            as_of,
        })
    }
}

#[ComplexObject]
impl KeyNode {
    /// The project it belongs to.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<ProjectNode>> {
        Api::of(ctx)?.load_project(self.project, self.as_of).await
    }

    /// Where its material may be.
    #[graphql(complexity = "5 * child_complexity")]
    async fn placement(&self, ctx: &Context<'_>) -> Result<Vec<SiteNode>> {
        Api::of(ctx)?.load_sites(&self.placement, self.as_of).await
    }

    /// Agents that may make its material; empty: any rostered agent of its sites.
    #[graphql(complexity = "5 * child_complexity")]
    async fn eligible_generators(&self, ctx: &Context<'_>) -> Result<Vec<AgentNode>> {
        Api::of(ctx)?.load_agents(&self.eligible_generators, self.as_of).await
    }

    /// The key that takes its place.
    async fn successor(&self, ctx: &Context<'_>) -> Result<Option<KeyNode>> {
        match self.successor {
            Some(successor) => Api::of(ctx)?.load_key(successor, self.as_of).await,
            None => Ok(None),
        }
    }

    /// The keys whose place it takes.
    #[graphql(complexity = "5 * child_complexity")]
    async fn predecessors(&self, ctx: &Context<'_>) -> Result<Vec<KeyNode>> {
        let api = Api::of(ctx)?;
        only_now(self.as_of, "whose place a key takes")?;
        let found = api.every::<Key>(Filter::all().term("successor", Some(self.key.to_string()))).await?;
        let ids: Vec<_> = found.iter().filter_map(|key| key.fixed.as_ref().map(|fixed| fixed.id)).collect();
        let mut keys = Vec::with_capacity(ids.len());
        for id in ids {
            keys.extend(api.load_key(id, None).await?);
        }
        Ok(keys)
    }

    /// The last time that something was done with it, as agents have said; absent when never, or when you may not read receipts.
    #[graphql(complexity = "5 * child_complexity")]
    async fn last_use(&self, ctx: &Context<'_>) -> Result<Option<KeyUse>> {
        last_use(Api::of(ctx)?, Used::Key(self.key)).await
    }

    /// Other names of the key in its project.
    async fn aliases(&self, ctx: &Context<'_>) -> Result<Vec<String>> {
        Api::of(ctx)?.aliases_of(self.key, self.as_of).await
    }
}

/// One version of a key.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "KeyVersion", complex)]
pub struct KeyVersionNode {
    /// `key_…/3`
    pub id: ID,
    /// From 1, without gaps.
    pub number: u32,
    /// What the control plane wants and agents follow.
    pub state: VersionState,
    /// Identifies the material, base64url; absent until it was made.
    pub fingerprint: Option<String>,
    /// The public key as the algorithm's standard encodes it, base64url.
    pub public_key: Option<String>,
    /// The sealed backups it is in.
    pub backups: Vec<KeyBackup>,
    /// Why it was revoked.
    pub revocation_reason: Option<RevocationReason>,
    /// It will be deactivated then, by date or rotation rule, unless somebody says otherwise.
    pub deactivation_due_at: Option<Timestamp>,
    /// The record of its end; absent while none is planned.
    pub destruction: Option<KeyDestruction>,
    /// It will be destroyed, not before this, unless somebody cancels it.
    pub destruction_due_at: Option<Timestamp>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it became active.
    pub activated_at: Option<Timestamp>,
    #[graphql(skip)]
    version: schema::id::KeyVersion,
    #[graphql(skip)]
    limits: key::Limits,
    #[graphql(skip)]
    generator: Option<schema::id::AgentId>,
    #[graphql(skip)]
    holders: std::collections::BTreeMap<schema::id::AgentId, Holder>,
    #[graphql(skip)]
    destroyed: bool,
    /// Where every agent at work should have it; empty of a partner's key.
    #[graphql(skip)]
    homes: Vec<schema::id::SiteId>,
    #[graphql(skip)]
    as_of: Option<Timestamp>,
}

impl KeyVersionNode {
    fn of(key: schema::id::KeyId, number: u32, version: &Version, (whole, as_of): (&Key, Option<Timestamp>)) -> Self {
        Self {
            id: schema::id::KeyVersion::new(key, number).to_string().into(),
            number,
            state: version.state.into(),
            fingerprint: version.made.as_ref().map(|made| made.fingerprint.to_string()),
            public_key: version.made.as_ref().and_then(|made| made.public_key.as_ref()).map(ToString::to_string),
            backups: version.backups.iter().map(|(agent, backup)| KeyBackup::of(*agent, backup)).collect(),
            revocation_reason: version.revoked.as_ref().map(|revoked| revoked.reason.into()),
            deactivation_due_at: whole.deactivation_due(number).map(Timestamp),
            destruction: version.destruction.as_ref().map(|destruction| KeyDestruction::of(destruction, version, as_of)),
            destruction_due_at: version.destruction.as_ref().map(|destruction| Timestamp(destruction.due)),
            created_at: Timestamp(version.requested),
            activated_at: version.activated.map(Timestamp),
            version: schema::id::KeyVersion::new(key, number),
            limits: whole.limits.clone(),
            generator: version.generator,
            holders: version.holders.clone(),
            destroyed: version.state == key::VersionState::Destroyed,
            homes: whole
                .fixed
                .iter()
                .filter(|fixed| fixed.origin != key::Origin::External)
                .flat_map(|fixed| fixed.placement.clone())
                .collect(),
            as_of,
        }
    }
}

#[ComplexObject]
impl KeyVersionNode {
    /// What every holder should have, and what it has reported: whoever has or had it, and every agent at work at the key's
    /// sites.
    async fn holders(&self, ctx: &Context<'_>) -> Result<Vec<KeyHolder>> {
        let of_sites: std::collections::BTreeMap<_, _> = Api::of(ctx)?.agents_at(&self.homes, self.as_of).await?.into_iter().collect();
        let desired = |agent: &schema::id::AgentId| match of_sites.get(agent) {
            _ if self.destroyed => HolderState::Destroyed,
            Some(AgentState::Revoked) => HolderState::Absent,
            _ => HolderState::Ready,
        };
        let mut agents: std::collections::BTreeSet<_> = self.holders.keys().copied().collect();
        if !self.destroyed {
            // The generator is to have it from the moment it was chosen.
            agents.extend(self.generator);
            agents.extend(of_sites.iter().filter(|(_, state)| **state == AgentState::Rostered).map(|(agent, _)| *agent));
        }
        Ok(agents
            .into_iter()
            .map(|agent| KeyHolder::of((agent, self.version), self.holders.get(&agent), desired(&agent), self.as_of))
            .collect())
    }

    /// How far its limits on uses and bytes are used up; empty when it has none.
    #[graphql(complexity = "2 * child_complexity")]
    async fn budgets(&self, ctx: &Context<'_>) -> Result<Vec<BudgetNode>> {
        if !self.limits.are_counted() {
            return Ok(Vec::new());
        }
        let budget = Api::of(ctx)?.budget(self.version.key, self.as_of).await?;
        Ok(budgets(&self.limits, &budget, self.version.number))
    }

    /// The last time that something was done with it, as agents have said; absent when never, or when you may not read receipts.
    #[graphql(complexity = "5 * child_complexity")]
    async fn last_use(&self, ctx: &Context<'_>) -> Result<Option<KeyUse>> {
        last_use(Api::of(ctx)?, Used::Version(self.version)).await
    }

    /// The agent that is to make it, or made it.
    async fn generator(&self, ctx: &Context<'_>) -> Result<Option<AgentNode>> {
        match self.generator {
            Some(agent) => Api::of(ctx)?.load_agent(agent, self.as_of).await,
            None => Ok(None),
        }
    }
}

/// A sealed backup that a version is in.
#[derive(Debug, Clone, SimpleObject)]
pub struct KeyBackup {
    /// The agent that wrote it.
    pub agent_id: ID,
    /// The key id of the recovery key that opens it.
    pub recovery_key: String,
    /// SHA-256 of the backup, base64url.
    pub sha256: String,
    /// When it was reported.
    pub reported_at: Timestamp,
}

impl KeyBackup {
    fn of(agent: schema::id::AgentId, backup: &Backup) -> Self {
        Self {
            agent_id: agent.to_string().into(),
            recovery_key: backup.recovery_key.to_string(),
            sha256: backup.backup.to_string(),
            reported_at: Timestamp(backup.at),
        }
    }
}

/// How a version ends: planned, begun, and done when every holder has said so.
#[derive(Debug, Clone, SimpleObject)]
pub struct KeyDestruction {
    /// Not before this; until then it can be cancelled.
    pub due_at: Timestamp,
    /// Why.
    pub reason: Option<String>,
    /// When holders were told; absent while it can be cancelled.
    pub begun_at: Option<Timestamp>,
    /// When the last holder had reported it gone, or was attested lost.
    pub completed_at: Option<Timestamp>,
    /// Whether every holder has itself reported that it destroyed the version. A holder that is attested lost has not.
    pub proven: bool,
    /// Each holder, and what is known of its end.
    pub holders: Vec<KeyDestructionHolder>,
    /// Until when backups that hold it may exist, as whoever planned this has stated; absent: nobody has.
    pub backups_expire_at: Option<Timestamp>,
}

/// What is known of the end of a version in one vault.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub struct KeyDestructionHolder {
    /// The agent.
    pub agent_id: ID,
    /// `DESTROYED`: it has reported so, signed. `LOST`: it will never report; somebody attests why. `READY`: it has said nothing
    /// yet.
    pub said: HolderState,
    /// When.
    pub at: Option<Timestamp>,
    /// What is attested of a vault that is lost.
    pub attestation: Option<String>,
    #[graphql(skip)]
    holder: schema::id::AgentId,
    #[graphql(skip)]
    as_of: Option<Timestamp>,
}

#[ComplexObject]
impl KeyDestructionHolder {
    /// The agent.
    async fn agent(&self, ctx: &Context<'_>) -> Result<Option<AgentNode>> {
        Api::of(ctx)?.load_agent(self.holder, self.as_of).await
    }
}

impl KeyDestruction {
    fn of(destruction: &Destruction, version: &Version, as_of: Option<Timestamp>) -> Self {
        let holder = |(agent, holder): (&schema::id::AgentId, &Holder)| {
            let (said, at, attestation) = match &holder.gone {
                Some(Gone::Destroyed { at, .. }) => (HolderState::Destroyed, Some(*at), None),
                Some(Gone::AttestedLost { at, attestation }) => (HolderState::Lost, Some(*at), Some(attestation.to_string())),
                None => (HolderState::Ready, None, None),
            };
            KeyDestructionHolder { agent_id: agent.to_string().into(), said, at: at.map(Timestamp), attestation, holder: *agent, as_of }
        };
        let proven = |holder: &Holder| matches!(holder.gone, Some(Gone::Destroyed { .. }));
        Self {
            due_at: Timestamp(destruction.due),
            reason: destruction.reason.as_ref().map(ToString::to_string),
            begun_at: destruction.begun.map(Timestamp),
            completed_at: destruction.completed.map(Timestamp),
            proven: destruction.completed.is_some() && version.holders.values().all(proven),
            holders: version.holders.iter().map(holder).collect(),
            backups_expire_at: destruction.backups_expire.map(Timestamp),
        }
    }
}

/// What one agent should have of a version, and what it has reported.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub struct KeyHolder {
    /// The agent.
    pub agent_id: ID,
    /// What it should have.
    pub desired: HolderState,
    /// What it last reported.
    pub reported: HolderState,
    /// When it reported that.
    pub reported_at: Option<Timestamp>,
    /// The vault that has it, `vlt_…`: agents that share one are one home. Absent until it was reported ready.
    pub vault_id: Option<ID>,
    /// How well its vault guards it; absent where it has not said.
    pub protection: Option<KeyProtection>,
    #[graphql(skip)]
    holder: schema::id::AgentId,
    #[graphql(skip)]
    version: schema::id::KeyVersion,
    #[graphql(skip)]
    as_of: Option<Timestamp>,
}

impl KeyHolder {
    fn of(
        (agent, version): (schema::id::AgentId, schema::id::KeyVersion),
        holder: Option<&Holder>,
        desired: HolderState,
        as_of: Option<Timestamp>,
    ) -> Self {
        let (reported, at) = match holder {
            Some(Holder { gone: Some(Gone::Destroyed { at, .. }), .. }) => (HolderState::Destroyed, Some(*at)),
            Some(Holder { gone: Some(Gone::AttestedLost { at, .. }), .. }) => (HolderState::Lost, Some(*at)),
            Some(Holder { ready: Some(ready), .. }) => (HolderState::Ready, Some(ready.at)),
            _ => (HolderState::Absent, None),
        };
        Self {
            agent_id: agent.to_string().into(),
            desired,
            reported,
            reported_at: at.map(Timestamp),
            vault_id: holder.and_then(|holder| holder.ready.as_ref()).map(|ready| ready.vault.to_string().into()),
            protection: holder.and_then(|holder| holder.ready.as_ref()).and_then(|ready| ready.protection).map(Into::into),
            holder: agent,
            version,
            as_of,
        }
    }
}

#[ComplexObject]
impl KeyHolder {
    /// What keeps it from what it should have, as of its last report: for example `protection_not_met`.
    async fn findings(&self, ctx: &Context<'_>) -> Result<Vec<AgentFinding>> {
        let Some(agent) = Api::of(ctx)?.load_agent(self.holder, self.as_of).await? else { return Ok(Vec::new()) };
        let found = agent.found(ctx).await?;
        Ok(found.iter().filter(|finding| finding.key_version == Some(self.version)).map(AgentFinding::from).collect())
    }

    /// The agent.
    async fn agent(&self, ctx: &Context<'_>) -> Result<Option<AgentNode>> {
        Api::of(ctx)?.load_agent(self.holder, self.as_of).await
    }
}

/// How new versions may come about.
#[derive(Debug, Clone, SimpleObject)]
pub struct RotationRule {
    /// Rotate when the primary version is this old; absent: only by hand.
    pub every_seconds: Option<UInt64>,
    /// The least time between two versions.
    pub min_interval_seconds: Option<UInt64>,
    /// Rotate at these times, if the primary version is older: minute, hour, day, month, weekday, as cron has them, in UTC.
    pub calendar: Option<String>,
    /// Rotate when agents have said that they used the primary version so often.
    pub after_uses: Option<UInt64>,
    /// Deactivate a version this long after a newer one became primary; absent: only by hand.
    pub deactivate_after_seconds: Option<UInt64>,
    /// Destroy a version that a newer one replaced, this long after it was deactivated; absent: only by hand.
    pub destroy_after_seconds: Option<UInt64>,
}

impl From<&key::RotationRule> for RotationRule {
    fn from(rule: &key::RotationRule) -> Self {
        Self {
            every_seconds: rule.every_seconds.map(UInt64),
            min_interval_seconds: rule.min_interval_seconds.map(UInt64),
            calendar: rule.calendar.as_ref().map(ToString::to_string),
            after_uses: rule.after_uses.map(UInt64),
            deactivate_after_seconds: rule.deactivate_after_seconds.map(UInt64),
            destroy_after_seconds: rule.destroy_after_seconds.map(UInt64),
        }
    }
}

/// How new versions may come about.
#[derive(Debug, Clone, Default, InputObject)]
pub struct RotationRuleInput {
    /// Rotate when the primary version is this old; absent: only by hand.
    every_seconds: Option<UInt64>,
    /// The least time between two versions.
    min_interval_seconds: Option<UInt64>,
    /// Rotate at these times, if the primary version is older: minute, hour, day, month, weekday, as cron has them, in UTC.
    calendar: Option<String>,
    /// Rotate when agents have said that they used the primary version so often. Needs a limit on uses, not below this.
    after_uses: Option<UInt64>,
    /// Deactivate a version this long after a newer one became primary, once every site has the newer one; absent: only by hand.
    deactivate_after_seconds: Option<UInt64>,
    /// Destroy a version that a newer one replaced, this long after it was deactivated: 3600 to 31 622 400, in which it can be
    /// cancelled; absent: only by hand.
    destroy_after_seconds: Option<UInt64>,
}

impl RotationRuleInput {
    /// Parsed; `at` is the field of the input it stands in.
    pub fn parse(self, at: &'static str) -> Result<key::RotationRule, Stop> {
        Ok(key::RotationRule {
            every_seconds: self.every_seconds.map(|n| n.0),
            min_interval_seconds: self.min_interval_seconds.map(|n| n.0),
            calendar: optional(at, self.calendar.as_deref())?,
            after_uses: self.after_uses.map(|n| n.0),
            deactivate_after_seconds: self.deactivate_after_seconds.map(|n| n.0),
            destroy_after_seconds: self.destroy_after_seconds.map(|n| n.0),
        })
    }
}

/// Limits on the use of one version; absent means no limit. Soft limits warn, hard limits refuse.
#[derive(Debug, Clone, SimpleObject)]
pub struct UseLimits {
    /// Warn after this many uses that protect data.
    pub soft_uses: Option<UInt64>,
    /// Refuse after this many uses that protect data.
    pub hard_uses: Option<UInt64>,
    /// Warn after this many bytes of plaintext protected.
    pub soft_bytes: Option<UInt64>,
    /// Refuse after this many bytes of plaintext protected.
    pub hard_bytes: Option<UInt64>,
    /// Warn when a version has been active for this long.
    pub soft_seconds: Option<UInt64>,
    /// Refuse to protect new data when a version has been active for this long.
    pub hard_seconds: Option<UInt64>,
}

impl From<&key::Limits> for UseLimits {
    fn from(limits: &key::Limits) -> Self {
        Self {
            soft_uses: limits.soft_uses.map(UInt64),
            hard_uses: limits.hard_uses.map(UInt64),
            soft_bytes: limits.soft_bytes.map(UInt64),
            hard_bytes: limits.hard_bytes.map(UInt64),
            soft_seconds: limits.soft_seconds.map(UInt64),
            hard_seconds: limits.hard_seconds.map(UInt64),
        }
    }
}

/// Limits on the use of one version; absent means no limit. Soft limits warn, hard limits refuse.
#[derive(Debug, Clone, Default, InputObject)]
pub struct UseLimitsInput {
    /// Warn after this many uses that protect data.
    soft_uses: Option<UInt64>,
    /// Refuse after this many uses that protect data.
    hard_uses: Option<UInt64>,
    /// Warn after this many bytes of plaintext protected.
    soft_bytes: Option<UInt64>,
    /// Refuse after this many bytes of plaintext protected.
    hard_bytes: Option<UInt64>,
    /// Warn when a version has been active for this long.
    soft_seconds: Option<UInt64>,
    /// Refuse to protect new data when a version has been active for this long.
    hard_seconds: Option<UInt64>,
}

impl From<UseLimitsInput> for key::Limits {
    fn from(input: UseLimitsInput) -> Self {
        Self {
            soft_uses: input.soft_uses.map(|n| n.0),
            hard_uses: input.hard_uses.map(|n| n.0),
            soft_bytes: input.soft_bytes.map(|n| n.0),
            hard_bytes: input.hard_bytes.map(|n| n.0),
            soft_seconds: input.soft_seconds.map(|n| n.0),
            hard_seconds: input.hard_seconds.map(|n| n.0),
        }
    }
}

/// The lowest version numbers that may still be used; 0 means no minimum.
#[derive(Debug, Clone, SimpleObject)]
pub struct MinimumVersions {
    /// To decrypt, verify or unwrap.
    pub process: u32,
    /// To encrypt, sign or wrap.
    pub protect: u32,
}

/// The lowest version numbers that may still be used; 0 means no minimum.
#[derive(Debug, Clone, InputObject)]
pub struct MinimumVersionsInput {
    /// To decrypt, verify or unwrap.
    #[graphql(default)]
    process: u32,
    /// To encrypt, sign or wrap.
    #[graphql(default)]
    protect: u32,
}

impl From<MinimumVersionsInput> for key::MinimumVersions {
    fn from(input: MinimumVersionsInput) -> Self {
        Self { process: input.process, protect: input.protect }
    }
}

/// Reading keys.
#[derive(Default)]
pub struct KeyQuery;

#[Object]
impl KeyQuery {
    /// One key, by id, `project/name` or `project/alias`, as it is now or was.
    async fn key(
        &self,
        ctx: &Context<'_>,
        reference: String,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<Option<KeyNode>> {
        let api = Api::reading(ctx, position).await?;
        api.view::<Key>(api.key_reference(&reference).await?, as_of).await
    }

    /// The keys of the tenant, in the order of their ids.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    #[allow(clippy::too_many_arguments, reason = "arguments of a connection")]
    async fn keys(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        #[graphql(desc = "Id or name.")] project: Option<String>,
        #[graphql(desc = "The state of its primary version, or `SUSPENDED` when the key is.")] state: Option<VersionState>,
        #[graphql(desc = "A name of the catalogue, e.g. `ML-DSA-65`.")] algorithm: Option<String>,
        purpose: Option<KeyPurpose>,
        label: Option<LabelInput>,
        #[graphql(desc = "Id or name of a site where its material may be.")] site: Option<String>,
        #[graphql(desc = "Part of a name.")] search: Option<String>,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<List<KeyNode>> {
        let api = Api::reading(ctx, position).await?;
        let page = page(first, after, last, before)?;
        let site = match site.as_deref().map(|site| api.site_reference(site)) {
            Some(None) => return Ok(empty()),
            Some(Some(site)) => Some(site.to_string()),
            None => None,
        };
        let Some(filter) = api.in_project(project.as_deref()) else { return Ok(empty()) };
        let filter: Filter = filter
            .state(state.map(whole))
            .term("algorithm", algorithm)
            .term("purpose", purpose.map(|purpose| key::Purpose::from(purpose).to_string()))
            .term("site", site)
            .label(label)
            .search(search);
        api.list::<Key>(filter, page, as_of).await
    }
}

/// The state of a key whose primary version has this one.
fn whole(state: VersionState) -> &'static str {
    let state = match key::VersionState::from(state) {
        key::VersionState::PreActivation => super::KeyState::Pending,
        key::VersionState::Active => super::KeyState::Active,
        key::VersionState::Suspended => super::KeyState::Suspended,
        key::VersionState::Deactivated => super::KeyState::Deactivated,
        key::VersionState::Compromised => super::KeyState::Compromised,
        key::VersionState::Destroyed => super::KeyState::Destroyed,
    };
    state.as_str()
}
