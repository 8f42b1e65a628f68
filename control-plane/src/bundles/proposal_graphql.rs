//! Statements that wait for the tenant's own signers, in GraphQL.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};
use schema::{
    encoding::{Digest, from_base64url},
    event::statement::StatementEvent,
    id::TenantId,
    name::Text,
};
use trust::{
    pair::PublicPair,
    signing::{PART_BYTES, Part},
    statement::{Kind, Scope},
};

use super::{
    proposals::{Act, Needed, NewSigners, WaitingStatement, as_text},
    service::{StatementsError, scope_text},
    stream::{StatementCommand, StatementRefusal, StatementStream, stream_id},
};
use crate::{
    access::permit::Question,
    graphql::{
        api::{Api, options},
        fault::{Fault, fault},
        payload::{Common, CommonNew, Outcome, Stop, UserError, field, optional, refused},
        scalar::{StatementKind, Timestamp, UInt64},
    },
};

/// A root or policy that waits for signatures of the tenant's own signers. What is in force goes on until there are enough.
#[derive(Debug, Clone, SimpleObject)]
pub struct StatementProposal {
    /// Root or policy.
    pub kind: StatementKind,
    /// What it is for: the id of the tenant, a project or a site.
    pub scope: ID,
    /// Begins anew only by recovery.
    pub epoch: UInt64,
    /// One more than what is in force.
    pub serial: UInt64,
    /// The serial of the root whose signers are to sign it; of a root, its own.
    pub root_serial: UInt64,
    /// SHA-256 of the payload, base64url.
    pub sha256: String,
    /// The exact bytes to sign, base64url. Look at these, not at what else is said of them.
    pub payload: String,
    /// The envelope of what is in force, base64url; absent while nothing is.
    pub in_force: Option<String>,
    /// Since when it waits.
    pub proposed_at: Timestamp,
    /// SHA-256 of what it took the place of before that was published.
    pub supersedes: Option<String>,
    /// Whose signatures it needs; every entry must be met.
    pub needs: Vec<SignaturesNeeded>,
}

/// Whose signatures are needed, and whose are there.
#[derive(Debug, Clone, SimpleObject)]
pub struct SignaturesNeeded {
    /// The serial of the root that names them.
    pub root_serial: UInt64,
    /// How many.
    pub threshold: u32,
    /// Key ids of those that count.
    pub signers: Vec<String>,
    /// Key ids of those that signed.
    pub signed: Vec<String>,
}

impl From<Needed> for SignaturesNeeded {
    fn from(Needed { root_serial, need }: Needed) -> Self {
        let texts = |keyids: &[Digest]| keyids.iter().map(ToString::to_string).collect();
        Self { root_serial: UInt64(root_serial), threshold: need.threshold, signers: texts(&need.signers), signed: texts(&need.signed) }
    }
}

fn proposal(tenant: TenantId, waiting: WaitingStatement) -> StatementProposal {
    let WaitingStatement { kind, scope, pending, payload, in_force, needs } = waiting;
    StatementProposal {
        kind: kind.into(),
        scope: scope_text(tenant, scope).into(),
        epoch: UInt64(pending.epoch),
        serial: UInt64(pending.serial),
        root_serial: UInt64(pending.root_serial),
        sha256: pending.sha256.to_string(),
        payload: as_text(&payload),
        in_force: in_force.as_deref().map(as_text),
        proposed_at: Timestamp(pending.since),
        supersedes: pending.supersedes.map(|sha256| sha256.to_string()),
        needs: needs.into_iter().map(Into::into).collect(),
    }
}

/// The public half of a signer.
#[derive(InputObject)]
pub struct SignerInput {
    /// Ed25519 public key, 32 bytes, base64url.
    ed25519: String,
    /// ML-DSA-65 public key, 1952 bytes, base64url.
    ml_dsa_65: String,
}

/// Who shall sign root and policy from now on. The pairs of the control plane count for neither any more.
#[derive(InputObject)]
pub struct ProposeRootInput {
    /// Those who sign the next roots.
    root_signers: Vec<SignerInput>,
    /// How many of them must.
    root_threshold: u32,
    /// Those who sign policies.
    policy_signers: Vec<SignerInput>,
    /// How many of them must.
    policy_threshold: u32,
    #[graphql(flatten)]
    common: CommonNew,
}

/// Root and policy go back to the control plane.
#[derive(InputObject)]
pub struct ReturnRootInput {
    #[graphql(flatten)]
    common: CommonNew,
}

/// Fresh pairs take the place of those with which the control plane signs.
#[derive(InputObject)]
pub struct RotatePairsInput {
    #[graphql(flatten)]
    common: CommonNew,
}

/// A root that shall not wait any more.
#[derive(InputObject)]
pub struct WithdrawRootProposalInput {
    /// SHA-256 of the payload that waits, base64url.
    sha256: String,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// A signer's signatures over a statement that waits.
#[derive(InputObject)]
pub struct SignStatementInput {
    /// Root or policy.
    kind: StatementKind,
    /// What it is for: the id of the tenant, a project or a site.
    scope: ID,
    /// SHA-256 of the payload that was signed, base64url.
    sha256: String,
    /// The key id of the signer's pair, base64url.
    keyid: String,
    /// Its Ed25519 and then its ML-DSA-65 signature, 3373 bytes, base64url.
    signature: String,
    #[graphql(flatten)]
    common: Common,
}

/// What came of it.
#[derive(SimpleObject)]
pub struct StatementProposalPayload {
    /// What waits now; absent when nothing does, or the command was refused.
    pub proposal: Option<StatementProposal>,
    #[graphql(flatten)]
    outcome: Outcome,
}

/// What came of fresh pairs.
#[derive(SimpleObject)]
pub struct RotatePairsPayload {
    /// The root that names them, while it waits for the tenant's signers; absent when it is in force, or the command was refused.
    pub proposal: Option<StatementProposal>,
    /// The serial of the root in force.
    pub root_serial: Option<UInt64>,
    #[graphql(flatten)]
    outcome: Outcome,
}

/// Reading what waits.
#[derive(Default)]
pub struct ProposalQuery;

#[Object]
impl ProposalQuery {
    /// Roots and policies that wait for signatures of the tenant's own signers: a root first, then policies.
    async fn statement_proposals(&self, ctx: &Context<'_>, kind: Option<StatementKind>) -> Result<Vec<StatementProposal>> {
        let api = Api::reading(ctx, None).await?;
        let kind = kind.map(Kind::from);
        let waiting = waiting(api).await?.into_iter().filter(|waiting| kind.is_none_or(|kind| kind == waiting.kind));
        Ok(waiting.map(|waiting| proposal(api.ctx.tenant, waiting)).collect())
    }

    /// The envelopes of every root of the tenant, base64url, the first one first: each says who may sign the next.
    async fn roots(&self, ctx: &Context<'_>) -> Result<Vec<String>> {
        let api = Api::reading(ctx, None).await?;
        let found = api.services.statements.root_envelopes(api.ctx.tenant).await;
        Ok(found.map_err(|error| broken(&error))?.iter().map(|envelope| as_text(envelope)).collect())
    }
}

/// Changing what waits.
#[derive(Default)]
pub struct ProposalMutation;

#[Object]
impl ProposalMutation {
    /// Hands root and policy to signers of the tenant, or changes who they are. It takes effect once enough of the old and of
    /// the new signers have signed it, and enough of the new ones every policy in force.
    async fn propose_root(&self, ctx: &Context<'_>, input: ProposeRootInput) -> Result<StatementProposalPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let signers = NewSigners {
                root: pairs("rootSigners", &input.root_signers)?,
                root_threshold: input.root_threshold,
                policy: pairs("policySigners", &input.policy_signers)?,
                policy_threshold: input.policy_threshold,
            };
            let proposed = api.services.statements.propose_root(api.ctx.tenant, &signers).await.map_err(|error| broken(&error))?;
            let act = proposed.map_err(|rejection| refused(StatementRefusal::RootUnsound { detail: rejection.to_string() }))?;
            act_on(api, "proposeRoot", act, input.common.into()).await
        };
        answer(api, Kind::Root, Scope::Tenant, attempt.await).await
    }

    /// Gives root and policy back to the control plane. It takes effect once enough of the present signers have signed it; from then
    /// on whoever has the control plane can grant use of keys.
    async fn return_root(&self, ctx: &Context<'_>, input: ReturnRootInput) -> Result<StatementProposalPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let proposed = api.services.statements.propose_return(api.ctx.tenant).await.map_err(|error| broken(&error))?;
            let act = proposed.ok_or_else(|| refused(StatementRefusal::NotHandedOver))?;
            act_on(api, "returnRoot", act, input.common.into()).await
        };
        answer(api, Kind::Root, Scope::Tenant, attempt.await).await
    }

    /// Makes fresh pairs for everything that the control plane signs, and the root that names them and the old ones no more: at once
    /// where the control plane signs root, else when enough of the tenant's signers have signed it. Then everything is signed anew,
    /// and the old pairs are erased. For an emergency and as a routine; agents take it without help.
    async fn rotate_pairs(&self, ctx: &Context<'_>, input: RotatePairsInput) -> Result<RotatePairsPayload> {
        let api = Api::of(ctx)?;
        let statements = &api.services.statements;
        let attempt = async {
            let id = stream_id(&api.keys, schema::event::statement::StatementKind::Root, &scope_text(api.ctx.tenant, Scope::Tenant));
            // Who may not makes no pairs.
            if let Err(denied) = api.services.authorizer.decide(&api.ctx, &Question::new("rotatePairs", "Statements", id)) {
                return Err(UserError::new("forbidden", denied).into());
            }
            let proposed = statements.propose_pairs(api.ctx.tenant).await.map_err(|error| broken(&error))?;
            let (act, root) = proposed.map_err(refused)?;
            let done = act_with(api, "rotatePairs", act, input.common.into()).await;
            // Only where it is certain that nothing came of it: after a fault the root may be in force, and has no other pairs.
            if matches!(&done, Ok((_, true)) | Err(Stop::Refused(_))) {
                statements.forget_proposed(api.ctx.tenant, root).await.map_err(|error| broken(&error))?;
            }
            let (outcome, _) = done?;
            statements.bring_up_to_date(api.ctx.tenant).await.map_err(|error| broken(&error))?;
            Ok(outcome)
        };
        match attempt.await {
            Ok(outcome) => {
                let proposal = waiting(api).await?.into_iter().find(|waiting| waiting.kind == Kind::Root);
                let root = statements.root(api.ctx.tenant).await.map_err(|error| broken(&error))?;
                let proposal = proposal.map(|waiting| self::proposal(api.ctx.tenant, waiting));
                Ok(RotatePairsPayload { proposal, root_serial: Some(UInt64(root.serial)), outcome })
            }
            Err(stop) => Ok(RotatePairsPayload { proposal: None, root_serial: None, outcome: Stop::refused(stop)? }),
        }
    }

    /// Lets a root that was proposed wait no more.
    async fn withdraw_root_proposal(&self, ctx: &Context<'_>, input: WithdrawRootProposalInput) -> Result<StatementProposalPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let (sha256, reason) = (field("sha256", &input.sha256)?, optional::<Text>("reason", input.reason.as_deref())?);
            let id = stream_id(&api.keys, schema::event::statement::StatementKind::Root, &scope_text(api.ctx.tenant, Scope::Tenant));
            act_on(api, "withdrawRootProposal", (id, StatementCommand::Withdraw { sha256, reason }, Vec::new()), input.common).await
        };
        answer(api, Kind::Root, Scope::Tenant, attempt.await).await
    }

    /// Adds a signer's signatures to a root or policy that waits. With enough of them it is published by itself.
    async fn sign_statement(&self, ctx: &Context<'_>, input: SignStatementInput) -> Result<StatementProposalPayload> {
        let api = Api::of(ctx)?;
        let kind = Kind::from(input.kind);
        let Some(scope) = scope(api.ctx.tenant, &input.scope) else {
            let stop = UserError::at("scope", "invalid_input", "expected the id of the tenant, a project or a site");
            return answer(api, kind, Scope::Tenant, Err(stop.into())).await;
        };
        let attempt = async {
            if !matches!(kind, Kind::Root | Kind::Policy) {
                return Err(UserError::at("kind", "invalid_input", "only root and policy are signed by the tenant's signers").into());
            }
            let (sha256, keyid) = (field("sha256", &input.sha256)?, field("keyid", &input.keyid)?);
            let bytes = from_base64url(&input.signature).ok().filter(|bytes| bytes.len() == PART_BYTES);
            let bytes =
                bytes.ok_or_else(|| UserError::at("signature", "invalid_input", format!("expected {PART_BYTES} bytes in base64url")))?;
            let act = api.services.statements.sign(api.ctx.tenant, kind, scope, sha256, Part { keyid, bytes }).await;
            act_on(api, "signStatement", act.map_err(|error| broken(&error))?, input.common).await
        };
        answer(api, kind, scope, attempt.await).await
    }
}

async fn act_on(api: &Api, action: &'static str, act: Act, common: Common) -> Result<Outcome, Stop> {
    act_with(api, action, act, common).await.map(|(outcome, _)| outcome)
}

/// Also says whether it was answered before.
async fn act_with(api: &Api, action: &'static str, (id, command, blobs): Act, common: Common) -> Result<(Outcome, bool), Stop> {
    let options = options(common, blobs)?;
    let handled = api.handle::<StatementStream>(&api.ctx, id, command, Question::new(action, "Statements", id), options).await?;
    for event in handled.events.iter().filter(|_| !handled.replayed) {
        // Pairs that were made for a root that will not be are worth nothing.
        let given_up = match event {
            StatementEvent::StatementProposed(event) => event.supersedes,
            StatementEvent::ProposalWithdrawn(event) => Some(event.sha256),
            _ => None,
        };
        if let Some(root) = given_up {
            api.services.statements.forget_proposed(api.ctx.tenant, root).await.map_err(|error| broken(&error))?;
        }
    }
    let readable = api.readable(handled.cursor).await?;
    let outcome = Outcome { user_errors: Vec::new(), position: Some(handled.position), pending: !readable };
    Ok((outcome, handled.replayed))
}

async fn answer(api: &Api, kind: Kind, scope: Scope, attempt: Result<Outcome, Stop>) -> Result<StatementProposalPayload> {
    match attempt {
        Ok(outcome) => {
            let waiting = waiting(api).await?.into_iter().find(|waiting| waiting.kind == kind && waiting.scope == scope);
            Ok(StatementProposalPayload { proposal: waiting.map(|waiting| proposal(api.ctx.tenant, waiting)), outcome })
        }
        Err(stop) => Ok(StatementProposalPayload { proposal: None, outcome: stop.refused()? }),
    }
}

async fn waiting(api: &Api) -> Result<Vec<WaitingStatement>, Fault> {
    api.services.statements.all_waiting(api.ctx.tenant).await.map_err(|error| broken(&error))
}

fn broken(error: &StatementsError) -> Fault {
    fault("reading what waits for signatures", error)
}

fn pairs(name: &'static str, input: &[SignerInput]) -> Result<Vec<PublicPair>, Stop> {
    let invalid = |error: &dyn std::fmt::Display| Stop::from(UserError::at(name, "invalid_input", error));
    let bytes = |text: &str| from_base64url(text).map_err(|error| invalid(&error));
    input
        .iter()
        .map(|signer| PublicPair::parse(&bytes(&signer.ed25519)?, &bytes(&signer.ml_dsa_65)?).map_err(|error| invalid(&error)))
        .collect()
}

/// What a statement is for, from an id.
fn scope(tenant: TenantId, text: &str) -> Option<Scope> {
    if text.parse::<TenantId>().is_ok_and(|id| id == tenant) {
        return Some(Scope::Tenant);
    }
    text.parse().map(Scope::Project).or_else(|_| text.parse().map(Scope::Site)).ok()
}
