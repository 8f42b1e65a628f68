//! Agents in GraphQL.

use async_graphql::{ComplexObject, Context, Enum, ID, InputObject, Object, Result, SimpleObject};
use schema::{
    clock::new_id,
    encoding::from_base64url,
    id::{AgentId, SiteId},
    rule::{Sighting, Vouch},
    token::{Token, TokenKind},
    wire::agent::Finding,
};

use trust::{
    document::{AgentVouch, RosterEntry},
    dsse::peek_document,
    pair::PublicPair,
    signing::{PART_BYTES, Part, Signable},
    statement::Kind,
};

use super::{Agent, AgentCommand, Invitation, SignVouch, report::LastReport};
use crate::{
    access::permit::Question,
    bundles::stream::Verdict,
    graphql::{
        api::{Api, Done, Filter, Seen, Shown, options},
        fault::{fault, only_now},
        page::{List, cost, empty, page},
        payload::{Common, CommonNew, Outcome, Stop, UserError, field, optional, payloads},
        scalar::{RevocationReason, Timestamp, UInt64},
    },
    receipts::graphql::{HostAct, host_acts},
    sites::graphql::SiteNode,
};

/// The most acts on a host that are told.
const MAX_HOST_ACTS: usize = 20;
/// How long an invitation is good when nothing is said.
const DEFAULT_INVITATION_SECONDS: u64 = 3_600;

/// How far an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "super::AgentState")]
pub enum AgentState {
    /// Its token was made. (Whether it is still good depends on the time.)
    Invited,
    /// Its invitation was taken back.
    Cancelled,
    /// It came; nobody has vouched for it.
    Enrolled,
    /// It came, and somebody vouched for it.
    Rostered,
    /// It may do nothing until it is resumed.
    Suspended,
    /// Two processes came with its identity: it is cut off for good.
    Quarantined,
    /// It is no longer an agent of the site.
    Revoked,
}

impl AgentState {
    /// The word it is listed by.
    pub fn word(self) -> &'static str {
        super::AgentState::from(self).as_str()
    }
}

/// One agent process at a site.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Agent", complex)]
pub struct AgentNode {
    /// `agt_…`
    pub id: ID,
    /// The site it belongs to.
    pub site_id: ID,
    /// What people call it.
    pub display_name: Option<String>,
    /// How far it is.
    pub state: AgentState,
    /// The name of its host, when it enrolled.
    pub host: Option<String>,
    /// Key id of its signing pair, base64url: the join code to compare.
    pub key_id: Option<String>,
    /// Its roster entry, signed by its own pair: a DSSE envelope, base64url. What signers who vouch for it read.
    pub roster_entry: Option<String>,
    /// Agents that vouch for it: of its own site, and of sites that share a key with it.
    pub vouched_by: Vec<ID>,
    /// Key ids of signers of the tenant who vouch for it.
    pub vouch_signed_by: Vec<String>,
    /// When its certificate ends.
    pub certificate_expires_at: Option<Timestamp>,
    /// Since when its roster entry counts.
    pub rostered_at: Option<Timestamp>,
    /// After this its invitation is worthless.
    pub invitation_expires_at: Option<Timestamp>,
    /// The two processes that came with its identity, when it is cut off for that.
    pub quarantine: Option<AgentQuarantine>,
    /// Why it was revoked.
    pub revocation_reason: Option<RevocationReason>,
    /// When it was invited.
    pub created_at: Timestamp,
    /// Rises with every change.
    pub revision: UInt64,
    #[graphql(skip)]
    agent: AgentId,
    #[graphql(skip)]
    site: SiteId,
    #[graphql(skip)]
    enrolled_version: Option<String>,
    #[graphql(skip)]
    as_of: Option<Timestamp>,
}

impl Shown for Agent {
    type Node = AgentNode;

    fn node(seen: Seen<Self>) -> Option<AgentNode> {
        let fixed = seen.state.fixed.as_ref()?;
        let enrolment = seen.state.enrolment.as_ref();
        Some(AgentNode {
            id: seen.id.to_string().into(),
            site_id: fixed.site.to_string().into(),
            display_name: seen.state.display_name.as_ref().map(ToString::to_string),
            state: seen.state.state()?.into(),
            host: enrolment.map(|enrolment| enrolment.host.clone()),
            key_id: enrolment.map(|enrolment| enrolment.keyid.to_string()),
            roster_entry: enrolment.map(|enrolment| enrolment.roster_entry.to_string()),
            vouched_by: seen.state.vouches.iter().filter_map(by_agent).collect(),
            vouch_signed_by: seen.state.signed.keys().map(ToString::to_string).collect(),
            certificate_expires_at: seen.state.certificate.as_ref().map(|certificate| Timestamp(certificate.expires)),
            rostered_at: seen.state.rostered.map(Timestamp),
            invitation_expires_at: seen.state.invitation.as_ref().map(|invitation| Timestamp(invitation.expires)),
            quarantine: seen.state.quarantined.as_ref().map(|quarantined| AgentQuarantine {
                at: Timestamp(quarantined.at),
                known: (&quarantined.known).into(),
                other: (&quarantined.other).into(),
            }),
            revocation_reason: seen.state.revoked.as_ref().map(|revoked| revoked.reason.into()),
            created_at: Timestamp(fixed.created),
            revision: UInt64(seen.revision),
            agent: seen.id,
            site: fixed.site,
            enrolled_version: enrolment.map(|enrolment| enrolment.agent_version.clone()),
            as_of: seen.as_of,
        })
    }
}

#[ComplexObject]
impl AgentNode {
    /// The site it belongs to.
    async fn site(&self, ctx: &Context<'_>) -> Result<Option<SiteNode>> {
        Ok(Api::of(ctx)?.load_sites(&[self.site], self.as_of).await?.pop())
    }

    /// The version of the agent program, as last reported.
    async fn agent_version(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        let report = self.report(ctx).await?;
        Ok(report.map(|last| last.report.agent_version).or_else(|| self.enrolled_version.clone()))
    }

    /// What its vault is: `file`, …
    async fn vault(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        Ok(self.report(ctx).await?.map(|last| last.report.vault))
    }

    /// The heartbeat it enforces.
    async fn enforced_heartbeat(&self, ctx: &Context<'_>) -> Result<Option<UInt64>> {
        Ok(self.report(ctx).await?.and_then(|last| last.report.enforced_heartbeat).map(UInt64))
    }

    /// The state it enforces.
    async fn enforced_state(&self, ctx: &Context<'_>) -> Result<Option<UInt64>> {
        Ok(self.report(ctx).await?.and_then(|last| last.report.enforced_state).map(UInt64))
    }

    /// Why it did not accept the newest statements.
    async fn rejection(&self, ctx: &Context<'_>) -> Result<Option<AgentRejection>> {
        let rejection = self.report(ctx).await?.and_then(|last| last.report.rejection);
        Ok(rejection.map(|rejection| AgentRejection { code: rejection.code, detail: rejection.detail, at: Timestamp(rejection.at) }))
    }

    /// Names of self-tests that failed; empty when all passed, or nothing was reported yet.
    async fn failed_self_tests(&self, ctx: &Context<'_>) -> Result<Vec<String>> {
        let tests = self.report(ctx).await?.and_then(|last| last.self_tests());
        Ok(tests.map(|tests| tests.failed.into_keys().collect()).unwrap_or_default())
    }

    /// What people did on its host beside its callers, such as locking it: as its receipts tell, newest first, at most 20.
    async fn host_acts(&self, ctx: &Context<'_>) -> Result<Vec<HostAct>> {
        host_acts(Api::of(ctx)?, self.agent, MAX_HOST_ACTS).await
    }

    /// What keeps it from what its site asks of it, as of its last report.
    async fn findings(&self, ctx: &Context<'_>) -> Result<Vec<AgentFinding>> {
        Ok(self.found(ctx).await?.iter().map(AgentFinding::from).collect())
    }

    /// When it last reported.
    async fn last_seen_at(&self, ctx: &Context<'_>) -> Result<Option<Timestamp>> {
        Ok(self.report(ctx).await?.map(|last| Timestamp(last.at)))
    }
}

impl AgentNode {
    /// What it found, as of its last report.
    pub(crate) async fn found(&self, ctx: &Context<'_>) -> Result<Vec<Finding>> {
        Ok(self.report(ctx).await?.map(|last| last.report.findings).unwrap_or_default())
    }

    async fn report(&self, ctx: &Context<'_>) -> Result<Option<LastReport>> {
        only_now(self.as_of, "what agents report")?;
        Api::of(ctx)?.last_report(self.site, self.agent).await
    }
}

/// Two processes that came with one identity. Which of them is the right one, nobody can tell from here.
#[derive(Debug, Clone, SimpleObject)]
pub struct AgentQuarantine {
    /// When the second was seen.
    pub at: Timestamp,
    /// The one that was known.
    pub known: AgentSighting,
    /// The one that came beside it.
    pub other: AgentSighting,
}

/// A process that came with an agent's identity.
#[derive(Debug, Clone, SimpleObject)]
pub struct AgentSighting {
    /// The name of its host, as it said itself.
    pub host: String,
    /// The address it came from.
    pub address: String,
    /// When it began, by its own clock.
    pub started_at: Option<Timestamp>,
    /// When it was last heard.
    pub heard_at: Timestamp,
}

impl From<&Sighting> for AgentSighting {
    fn from(sighting: &Sighting) -> Self {
        Self {
            host: sighting.host.clone(),
            address: sighting.address.clone(),
            started_at: sighting.started.map(Timestamp),
            heard_at: Timestamp(sighting.at),
        }
    }
}

/// A set of statements that an agent would not believe.
#[derive(Debug, Clone, SimpleObject)]
pub struct AgentRejection {
    /// The code of the rejection.
    pub code: String,
    /// What was wrong.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}

/// Something that keeps an agent from what its site asks of it. It says so itself; nothing is decided by it.
#[derive(Debug, Clone, SimpleObject)]
pub struct AgentFinding {
    /// A stable code.
    pub code: String,
    /// What is wrong, and what to do.
    pub detail: String,
    /// Since when.
    pub since: Timestamp,
    /// The version it concerns, `key_…/3`, if it is one.
    pub key_version: Option<String>,
}

impl From<&Finding> for AgentFinding {
    fn from(finding: &Finding) -> Self {
        Self {
            code: finding.code.clone(),
            detail: finding.detail.clone(),
            since: Timestamp(finding.since),
            key_version: finding.key_version.map(|version| version.to_string()),
        }
    }
}

/// An agent to let in.
#[derive(InputObject)]
pub struct InviteAgentInput {
    /// Id or name.
    site: ID,
    /// What people call it.
    display_name: Option<String>,
    /// 60 to 604 800; absent: 3600.
    lifetime_seconds: Option<UInt64>,
    #[graphql(flatten)]
    common: CommonNew,
}

/// An invitation to take back.
#[derive(InputObject)]
pub struct CancelInvitationInput {
    /// `agt_…`
    agent: ID,
    #[graphql(flatten)]
    common: Common,
}

/// An agent that shall do nothing for now.
#[derive(InputObject)]
pub struct SuspendAgentInput {
    /// `agt_…`
    agent: ID,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// A signer of the tenant vouches for an agent.
#[derive(InputObject)]
pub struct SignAgentVouchInput {
    /// `agt_…`
    agent: ID,
    /// The join code that was compared: the key id of the agent's pair, base64url.
    key_id: String,
    /// The key id of the signer's pair, base64url.
    signer: String,
    /// Its Ed25519 and then its ML-DSA-65 signature over the vouch, 3373 bytes, base64url.
    signature: String,
    #[graphql(flatten)]
    common: Common,
}

/// An agent that may act again.
#[derive(InputObject)]
pub struct ResumeAgentInput {
    /// `agt_…`
    agent: ID,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// An agent to take out of its site for good.
#[derive(InputObject)]
pub struct RevokeAgentInput {
    /// `agt_…`
    agent: ID,
    /// Why.
    reason: RevocationReason,
    /// In words.
    comment: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// What came of it.
#[derive(SimpleObject)]
pub struct InviteAgentPayload {
    /// What it is; absent when the command was refused.
    agent: Option<AgentNode>,
    /// The enrolment file, JSON, for `freehold-agent enrol`. It holds the single-use token and is shown once: absent when
    /// this repeats an earlier request.
    enrolment: Option<String>,
    #[graphql(flatten)]
    outcome: Outcome,
}

payloads!(agent: AgentNode => CancelInvitationPayload, SuspendAgentPayload, ResumeAgentPayload, RevokeAgentPayload, SignAgentVouchPayload);

/// Reading agents.
#[derive(Default)]
pub struct AgentQuery;

#[Object]
impl AgentQuery {
    /// One agent.
    async fn agent(&self, ctx: &Context<'_>, id: ID, as_of: Option<Timestamp>, position: Option<String>) -> Result<Option<AgentNode>> {
        let api = Api::reading(ctx, position).await?;
        api.view::<Agent>(id.parse().ok(), as_of).await
    }

    /// The agents of the tenant, in the order of their ids.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    #[allow(clippy::too_many_arguments, reason = "arguments of a connection")]
    async fn agents(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        #[graphql(desc = "Id or name.")] site: Option<String>,
        state: Option<AgentState>,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<List<AgentNode>> {
        let api = Api::reading(ctx, position).await?;
        let page = page(first, after, last, before)?;
        let filter = match site.as_deref().map(|site| api.site_reference(site)) {
            None => Filter::all(),
            Some(Some(site)) => Filter::within(site),
            Some(None) => return Ok(empty()),
        };
        api.list::<Agent>(filter.state(state.map(AgentState::word)), page, as_of).await
    }
}

/// Changing agents.
#[derive(Default)]
pub struct AgentMutation;

#[Object]
impl AgentMutation {
    /// Makes a single-use enrolment token with which one agent may join a site.
    async fn invite_agent(&self, ctx: &Context<'_>, input: InviteAgentInput) -> Result<InviteAgentPayload> {
        match invite(Api::of(ctx)?, input).await {
            Ok((done, enrolment)) => Ok(InviteAgentPayload { agent: done.node, enrolment, outcome: done.outcome }),
            Err(stop) => Ok(InviteAgentPayload { agent: None, enrolment: None, outcome: stop.refused()? }),
        }
    }

    /// Takes an unused invitation back.
    async fn cancel_invitation(&self, ctx: &Context<'_>, input: CancelInvitationInput) -> Result<CancelInvitationPayload> {
        let api = Api::of(ctx)?;
        let attempt = on_agent(api, "cancelInvitation", &input.agent, AgentCommand::CancelInvitation, input.common);
        CancelInvitationPayload::of(attempt.await)
    }

    /// An agent may do nothing until it is resumed.
    async fn suspend_agent(&self, ctx: &Context<'_>, input: SuspendAgentInput) -> Result<SuspendAgentPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let command = AgentCommand::Suspend { reason: optional("reason", input.reason.as_deref())? };
            on_agent(api, "suspendAgent", &input.agent, command, input.common).await
        };
        SuspendAgentPayload::of(attempt.await)
    }

    /// An agent may act again.
    async fn resume_agent(&self, ctx: &Context<'_>, input: ResumeAgentInput) -> Result<ResumeAgentPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let command = AgentCommand::Resume { reason: optional("reason", input.reason.as_deref())? };
            on_agent(api, "resumeAgent", &input.agent, command, input.common).await
        };
        ResumeAgentPayload::of(attempt.await)
    }

    /// A signer of the tenant vouches for an agent. With as many of them as sign policies, the agent is believed.
    async fn sign_agent_vouch(&self, ctx: &Context<'_>, input: SignAgentVouchInput) -> Result<SignAgentVouchPayload> {
        let api = Api::of(ctx)?;
        SignAgentVouchPayload::of(sign_vouch(api, input).await)
    }

    /// Takes an agent out of its site. Final.
    async fn revoke_agent(&self, ctx: &Context<'_>, input: RevokeAgentInput) -> Result<RevokeAgentPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let comment = optional("comment", input.comment.as_deref())?;
            let command = AgentCommand::Revoke { reason: input.reason.into(), comment };
            on_agent(api, "revokeAgent", &input.agent, command, input.common).await
        };
        RevokeAgentPayload::of(attempt.await)
    }
}

fn by_agent(vouch: &Vouch) -> Option<ID> {
    match vouch {
        Vouch::Agent { agent, .. } => Some(agent.to_string().into()),
        Vouch::Enrolment | Vouch::Signers { .. } | Vouch::Previous { .. } => None,
    }
}

async fn on_agent(api: &Api, action: &'static str, agent: &str, command: AgentCommand, common: Common) -> Result<Done<AgentNode>, Stop> {
    let id = api.agent("agent", agent)?;
    api.run::<Agent>(id, command, Question::new(action, "Agent", id), common).await
}

async fn sign_vouch(api: &Api, input: SignAgentVouchInput) -> Result<Done<AgentNode>, Stop> {
    let (keyid, signer) = (field("keyId", &input.key_id)?, field("signer", &input.signer)?);
    let bytes = from_base64url(&input.signature).ok().filter(|bytes| bytes.len() == PART_BYTES);
    let bytes = bytes.ok_or_else(|| UserError::at("signature", "invalid_input", format!("expected {PART_BYTES} bytes in base64url")))?;
    let id = api.agent("agent", &input.agent)?;
    let agent = api.state::<Agent>(id, None).await?;
    let entry = agent.and_then(|agent| agent.state.enrolment).and_then(|enrolment| peek_document(enrolment.roster_entry.as_slice()).ok());
    let payload = entry.map(|entry: RosterEntry| AgentVouch::of_entry(&entry, keyid).payload()).unwrap_or_default();
    let authorities = api.services.statements.authorities(api.ctx.tenant).await;
    let (authority, _) = authorities.map_err(|error| fault("reading who signs for the tenant", &error))?;
    let role = authority.role(Kind::Policy).ok().filter(|role| role.tenant_held);
    let part = Part { keyid: signer, bytes };
    let verdict = match role.and_then(|role| role.signers.find(&signer)) {
        None => Verdict::Stranger,
        Some(pair) if part.is_genuine_as(Signable::document::<AgentVouch>(), &payload, pair) => Verdict::Genuine,
        Some(_) => Verdict::NotGenuine,
    };
    let sign = SignVouch {
        keyid,
        signer,
        signatures: part.bytes.into(),
        verdict,
        payload,
        counting: role.into_iter().flat_map(|role| role.signers.iter().map(PublicPair::keyid)).collect(),
        threshold: role.map_or(0, |role| role.threshold),
    };
    on_agent(api, "signAgentVouch", &input.agent, AgentCommand::SignVouch(Box::new(sign)), input.common).await
}

async fn invite(api: &Api, input: InviteAgentInput) -> Result<(Done<AgentNode>, Option<String>), Stop> {
    let site = api.existing_site("site", &input.site).await?;
    let display_name = optional("displayName", input.display_name.as_deref())?;
    let options = options(input.common.into(), Vec::new())?;
    let now = api.services.clock.now();
    let ids = api.services.handler.ids(&api.ctx, options.idempotency_key.as_ref(), "agent").await;
    let ids = ids.map_err(|error| fault("opening the tenant's keys", &error))?;
    let id: AgentId = new_id(&*ids, now);
    let token = Token::generate(TokenKind::Enrolment, &*api.services.ids);
    let welcome = api.services.enrolment.welcome(api.ctx.tenant, site).await;
    let welcome = welcome.map_err(|error| fault("preparing an invitation", &error))?;
    let lifetime_seconds = input.lifetime_seconds.map_or(DEFAULT_INVITATION_SECONDS, |seconds| seconds.0);
    let (digest, root, founder) = (token.digest(), welcome.root, welcome.founder);
    let command = AgentCommand::Invite { site, display_name, lifetime_seconds, token: digest, root, founder };
    let question = Question::new("inviteAgent", "Agent", id).within("Site", site);
    let handled = api.handle::<Agent>(&api.ctx, id, command, question, options).await?;
    let invitation = handled.state.invitation.clone().filter(|_| !handled.replayed);
    let done = api.done(id, handled).await?;
    let Some(Invitation { expires, .. }) = invitation else { return Ok((done, None)) };
    let file = api.services.enrolment.file(api.ctx.tenant, site, id, &welcome, &token, expires);
    let file = serde_json::to_string_pretty(&file).map_err(|error| fault("writing an enrolment file", &error))?;
    Ok((done, Some(file)))
}
