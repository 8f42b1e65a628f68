//! Recovery in GraphQL: how far the tenant is behind its agents, and beginning the next epoch.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};
use schema::wire::agent::StatementSet;
use trust::accept::Order;

use super::{
    recovery::{RecoveryStatus, SiteStatus},
    service::{StatementsError, scope_text},
    stream::stream_id,
};
use crate::{
    access::permit::Question,
    graphql::{
        api::Api,
        fault::{Fault, fault},
        payload::UserError,
        scalar::{Timestamp, UInt64},
    },
};

/// How far the tenant is behind what its agents know: after the control plane was restored from an older backup.
#[derive(SimpleObject)]
pub struct Recovery {
    /// The present epoch.
    pub epoch: UInt64,
    /// Whether agents know this epoch further: nothing is published until the next one begins.
    pub needed: bool,
    /// Whether the root of the next epoch waits for the tenant's signers (`statementProposals`).
    pub waits: bool,
    /// Sites with an agent that showed that it knows better.
    pub sites: Vec<RecoverySite>,
}

/// What an agent of a site holds that this control plane does not know.
#[derive(SimpleObject)]
pub struct RecoverySite {
    /// The site.
    pub site: ID,
    /// The agent that showed it; absent when it came as a file.
    pub agent: Option<ID>,
    /// When.
    pub at: Timestamp,
    /// The heartbeat it holds: `epoch.serial`.
    pub theirs: String,
    /// The heartbeat this control plane has for the site.
    pub ours: Option<String>,
    /// What is in there and unknown here: projects, keys, versions, callers, agents, suspensions, revocations.
    pub forgotten: Vec<String>,
}

impl From<SiteStatus> for RecoverySite {
    fn from(status: SiteStatus) -> Self {
        Self {
            site: status.site.to_string().into(),
            agent: status.agent.map(|agent| agent.to_string().into()),
            at: Timestamp(status.at),
            theirs: status.theirs.to_string(),
            ours: status.ours.as_ref().map(Order::to_string),
            forgotten: status.forgotten,
        }
    }
}

impl From<RecoveryStatus> for Recovery {
    fn from(status: RecoveryStatus) -> Self {
        let sites = status.sites.into_iter().map(Into::into).collect();
        Self { epoch: UInt64(status.epoch), needed: status.needed, waits: status.waits, sites }
    }
}

/// Begin the next epoch.
#[derive(InputObject)]
pub struct BeginRecoveryInput {
    /// The epoch that is to begin; when another one would, nothing is done. Repeating it is harmless.
    epoch: Option<UInt64>,
}

/// Show what an agent holds.
#[derive(InputObject)]
pub struct ShowStatementsInput {
    /// What `freehold-agent statements export` wrote.
    set: String,
}

/// What came of it.
#[derive(SimpleObject, Default)]
pub struct RecoveryPayload {
    /// How the tenant stands now.
    pub recovery: Option<Recovery>,
    /// The epoch that begins, or has begun.
    pub begins: Option<UInt64>,
    /// Statements that were taken back.
    pub statements: u32,
    /// Keys that came further.
    pub keys: Vec<ID>,
    /// Keys that could not be taken back, and why.
    pub left: Vec<String>,
    /// Why nothing was done.
    pub user_errors: Vec<UserError>,
}

/// Reading.
#[derive(Default)]
pub struct RecoveryQuery;

#[Object]
impl RecoveryQuery {
    /// How far the tenant is behind what its agents know.
    async fn recovery(&self, ctx: &Context<'_>) -> Result<Recovery> {
        let api = Api::reading(ctx, None).await?;
        status(api).await
    }

    /// Every statement a site's agents should have now, as one set to carry to agents that are connected to nothing
    /// (`freehold-agent statements import`); absent while nothing was published.
    async fn site_statement_set(&self, ctx: &Context<'_>, site: ID) -> Result<Option<String>> {
        let api = Api::reading(ctx, None).await?;
        let Ok(site) = site.parse() else { return Ok(None) };
        let served = api.services.statements.set_to_carry(api.ctx.tenant, site).await.map_err(|error| broken(&error))?;
        Ok(served.map(|served| String::from_utf8_lossy(&served.body).into_owned()))
    }
}

/// Changing.
#[derive(Default)]
pub struct RecoveryMutation;

#[Object]
impl RecoveryMutation {
    /// Takes back what agents showed, and begins the next epoch: at once where the control plane signs root, and when enough of the
    /// tenant's signers have signed its root where they do. Doing it again takes back what was shown since.
    async fn begin_recovery(&self, ctx: &Context<'_>, input: BeginRecoveryInput) -> Result<RecoveryPayload> {
        let api = Api::of(ctx)?;
        if let Some(denied) = denied(api, "beginRecovery") {
            return Ok(denied);
        }
        let tenant = api.ctx.tenant;
        let refused = |error| RecoveryPayload { user_errors: vec![error], ..Default::default() };
        let begins = api.services.statements.recovers_to(tenant).await.map_err(|error| broken(&error))?;
        if let (Some(begins), Some(wanted)) = (begins, input.epoch)
            && begins != wanted.0
        {
            let text = format!("the epoch that would begin is {begins}");
            return Ok(refused(UserError::at("epoch", "recovery_of_other_epoch", text)));
        }
        let begun = api.services.statements.begin_recovery(tenant).await.map_err(|error| broken(&error))?;
        let Some(begun) = begun else {
            let text = "no agent has shown that it knows newer statements: nothing is to be recovered";
            return Ok(refused(UserError::new("recovery_not_needed", text)));
        };
        tracing::warn!(%tenant, principal = %api.ctx.principal, epoch = begun.epoch, "a recovery was begun");
        Ok(RecoveryPayload {
            recovery: Some(status(api).await?),
            begins: Some(UInt64(begun.epoch)),
            statements: begun.statements,
            keys: begun.keys.iter().map(|key| key.to_string().into()).collect(),
            left: begun.left.iter().map(|(key, why)| format!("{key}: {why}")).collect(),
            user_errors: Vec::new(),
        })
    }

    /// Shows what an agent holds that is connected to nothing: as if it had reported it itself.
    async fn show_statements(&self, ctx: &Context<'_>, input: ShowStatementsInput) -> Result<RecoveryPayload> {
        let api = Api::of(ctx)?;
        if let Some(denied) = denied(api, "showStatements") {
            return Ok(denied);
        }
        let wrong = |text: String| RecoveryPayload { user_errors: vec![UserError::at("set", "invalid_input", text)], ..Default::default() };
        let set: StatementSet = match serde_json::from_str(&input.set) {
            Ok(set) => set,
            Err(error) => return Ok(wrong(format!("this is no set of statements: {error}"))),
        };
        match api.services.statements.learn(api.ctx.tenant, None, None, &set).await.map_err(|error| broken(&error))? {
            Ok(_) => Ok(RecoveryPayload { recovery: Some(status(api).await?), ..Default::default() }),
            Err(rejection) => Ok(wrong(format!("the set does not prove itself ({}): {rejection}", rejection.code()))),
        }
    }
}

/// Only who may hand over the root may begin another epoch.
fn denied(api: &Api, action: &'static str) -> Option<RecoveryPayload> {
    let scope = scope_text(api.ctx.tenant, trust::statement::Scope::Tenant);
    let id = stream_id(&api.keys, schema::event::statement::StatementKind::Root, &scope);
    let denied = api.services.authorizer.decide(&api.ctx, &Question::new(action, "Statements", id)).err()?;
    Some(RecoveryPayload { user_errors: vec![UserError::new("forbidden", denied)], ..Default::default() })
}

async fn status(api: &Api) -> std::result::Result<Recovery, Fault> {
    Ok(api.services.statements.recovery_status(api.ctx.tenant).await.map_err(|error| broken(&error))?.into())
}

fn broken(error: &StatementsError) -> Fault {
    fault("recovering a tenant", error)
}
