//! The certificate authorities of agents in GraphQL. Operators only.

use async_graphql::{Context, Enum, InputObject, Object, Result, SimpleObject};
use schema::event::authority::RetirementReason;

use super::{
    Known, Stage,
    keeper::{AuthorityError, Rotation},
};
use crate::{
    access::context::DEPLOYMENT,
    graphql::{
        api::{Api, stop},
        fault::fault,
        payload::{Outcome, Stop, UserError},
        scalar::Timestamp,
    },
};

/// Where a certificate authority of agents is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub enum AgentAuthorityState {
    /// Agents are told of it; it certifies nothing yet.
    Next,
    /// It certifies.
    InForce,
    /// What it certified is still believed.
    Former,
    /// It is believed no more.
    Retired,
    /// It is believed no more: its key may be known to others.
    Compromised,
}

/// A certificate authority of agents.
#[derive(Debug, Clone, SimpleObject)]
pub struct AgentAuthority {
    /// SHA-256 of its certificate, base64url.
    sha256: String,
    /// Where it is in its life.
    state: AgentAuthorityState,
    /// When it was made.
    made_at: Timestamp,
    /// When its certificate ends.
    expires_at: Timestamp,
    /// Of the next one: when it takes over. Of the one in force: since when. Of a former one: until when it is believed. Of a
    /// retired one: since when not.
    state_at: Timestamp,
}

impl From<&Known> for AgentAuthority {
    fn from(known: &Known) -> Self {
        let (state, at) = match known.stage {
            Stage::Next { not_before } => (AgentAuthorityState::Next, not_before),
            Stage::InForce { since } => (AgentAuthorityState::InForce, since),
            Stage::Former { until } => (AgentAuthorityState::Former, until),
            Stage::Retired { since, reason: RetirementReason::Ended } => (AgentAuthorityState::Retired, since),
            Stage::Retired { since, reason: RetirementReason::Compromised } => (AgentAuthorityState::Compromised, since),
        };
        Self {
            sha256: known.sha256.to_string(),
            state,
            made_at: Timestamp(known.made),
            expires_at: Timestamp(known.expires),
            state_at: Timestamp(at),
        }
    }
}

/// How the authority is rotated.
#[derive(InputObject)]
pub struct RotateAgentAuthorityInput {
    /// The next one takes over at once, not when agents were told of it for two weeks. Agents that do not know it yet come back by
    /// themselves.
    now: Option<bool>,
    /// The key of an authority may be known to others: a new one takes over at once and no other is believed any more.
    compromised: Option<bool>,
}

/// What came of it.
#[derive(SimpleObject)]
pub struct RotateAgentAuthorityPayload {
    /// Every authority, oldest first; empty when the command was refused.
    authorities: Vec<AgentAuthority>,
    #[graphql(flatten)]
    outcome: Outcome,
}

/// Reading the authorities.
#[derive(Default)]
pub struct AuthorityQuery;

#[Object]
impl AuthorityQuery {
    /// The certificate authorities of agents, oldest first. Operators only.
    #[graphql(complexity = "20 * child_complexity")]
    async fn agent_authorities(&self, ctx: &Context<'_>) -> Result<Vec<AgentAuthority>> {
        let api = Api::asking(ctx, "readAgentAuthorities", None).await?;
        Ok(api.services.authorities.current().all.known.iter().map(Into::into).collect())
    }
}

/// Rotating the authorities.
#[derive(Default)]
pub struct AuthorityMutation;

#[Object]
impl AuthorityMutation {
    /// Makes the next certificate authority of agents, or lets it take over. Operators only.
    async fn rotate_agent_authority(&self, ctx: &Context<'_>, input: RotateAgentAuthorityInput) -> Result<RotateAgentAuthorityPayload> {
        match rotate(Api::of(ctx)?, &input).await {
            Ok(payload) => Ok(payload),
            Err(stop) => Ok(RotateAgentAuthorityPayload { authorities: Vec::new(), outcome: stop.refused()? }),
        }
    }
}

async fn rotate(api: &Api, input: &RotateAgentAuthorityInput) -> Result<RotateAgentAuthorityPayload, Stop> {
    if api.ctx.tenant != DEPLOYMENT {
        let message = "only an operator rotates the certificate authority of agents; use the operator token of the deployment";
        return Err(UserError::new("forbidden", message).into());
    }
    let rotation = match (input.compromised.unwrap_or_default(), input.now.unwrap_or_default()) {
        (true, _) => Rotation::Compromised,
        (false, true) => Rotation::Now,
        (false, false) => Rotation::Announced,
    };
    match api.services.authorities.rotate(&api.ctx, rotation).await {
        Ok(current) => {
            Ok(RotateAgentAuthorityPayload { authorities: current.all.known.iter().map(Into::into).collect(), outcome: Outcome::default() })
        }
        Err(AuthorityError::Command(error)) => Err(stop(error)),
        Err(error) => Err(fault("rotating the certificate authority of agents", &error).into()),
    }
}
