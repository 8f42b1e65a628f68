//! Callers in GraphQL.

use async_graphql::{ComplexObject, Context, Enum, ID, InputObject, Object, Result, SimpleObject};
use schema::{encoding::Digest, name::Name};

use super::{Caller, CallerCommand, CallerRefusal, authority::authority_der};
use crate::{
    access::permit::Question,
    graphql::{
        api::{Api, Seen, Shown},
        page::{List, cost, empty, page},
        payload::{self, Common, CommonNew, field, optional, payloads, refused},
        scalar::{self, CallerKind, Label, LabelInput, RevocationReason, Timestamp, UInt64},
    },
    naming,
    projects::graphql::ProjectNode,
};

/// Whether a caller may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "super::CallerState")]
pub enum CallerState {
    /// It may, as far as policy allows.
    Active,
    /// Not until it is resumed.
    Suspended,
    /// Never again.
    Revoked,
}

/// An application that uses agents.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Caller", complex)]
pub struct CallerNode {
    /// `clr_…`
    pub id: ID,
    /// The project it belongs to.
    pub project_id: ID,
    /// Its name in the project.
    pub name: String,
    /// How it proves who it is.
    pub kind: CallerKind,
    /// Of a certificate: SHA-256 of its authority, base64url; of a token: the site it is local to.
    pub issuer: String,
    /// Of a certificate: the URI or DNS name in it; of a token: its name again.
    pub subject: String,
    /// Labels, given to policy.
    pub labels: Vec<Label>,
    /// Whether it may act.
    pub state: CallerState,
    /// Why it was revoked.
    pub revocation_reason: Option<RevocationReason>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// Rises with every change.
    pub revision: UInt64,
    #[graphql(skip)]
    project: schema::id::ProjectId,
    #[graphql(skip)]
    as_of: Option<Timestamp>,
}

impl Shown for Caller {
    type Node = CallerNode;

    fn node(seen: Seen<Self>) -> Option<CallerNode> {
        let fixed = seen.state.fixed.as_ref()?;
        Some(CallerNode {
            id: seen.id.to_string().into(),
            project_id: fixed.project.to_string().into(),
            name: fixed.name.to_string(),
            kind: fixed.kind.into(),
            issuer: fixed.issuer.clone(),
            subject: fixed.subject.clone(),
            labels: scalar::labels(&seen.state.labels),
            state: seen.state.state().into(),
            revocation_reason: seen.state.revoked.as_ref().map(|revoked| revoked.reason.into()),
            created_at: Timestamp(fixed.created),
            revision: UInt64(seen.revision),
            project: fixed.project,
            as_of: seen.as_of,
        })
    }
}

#[ComplexObject]
impl CallerNode {
    /// The project it belongs to.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<ProjectNode>> {
        Api::of(ctx)?.load_project(self.project, self.as_of).await
    }
}

/// A caller to register.
#[derive(InputObject)]
pub struct RegisterCallerInput {
    /// Id or name.
    project: ID,
    /// Its name in the project.
    name: String,
    /// How it proves who it is.
    kind: CallerKind,
    /// Of a token: the site it is local to, id or name. Of a certificate: left out, or SHA-256 of its authority, base64url.
    issuer: Option<String>,
    /// Of a certificate: its authority's certificate, PEM. Of a token: left out.
    authority_pem: Option<String>,
    /// Of a certificate: its URI or DNS name. Of a token: left out.
    subject: Option<String>,
    /// Labels, given to policy.
    #[graphql(default)]
    labels: Vec<LabelInput>,
    #[graphql(flatten)]
    common: CommonNew,
}

/// New labels of a caller.
#[derive(InputObject)]
pub struct RelabelCallerInput {
    /// Id, or `project/name`.
    caller: ID,
    /// All labels.
    labels: Vec<LabelInput>,
    #[graphql(flatten)]
    common: Common,
}

/// A caller that may do nothing for now.
#[derive(InputObject)]
pub struct SuspendCallerInput {
    /// Id, or `project/name`.
    caller: ID,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// A caller that may act again.
#[derive(InputObject)]
pub struct ResumeCallerInput {
    /// Id, or `project/name`.
    caller: ID,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// A caller that may never act again.
#[derive(InputObject)]
pub struct RevokeCallerInput {
    /// Id, or `project/name`.
    caller: ID,
    /// Why.
    reason: RevocationReason,
    /// In words.
    comment: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

payloads!(caller: CallerNode =>
    RegisterCallerPayload, RelabelCallerPayload, SuspendCallerPayload, ResumeCallerPayload, RevokeCallerPayload);

/// Reading callers.
#[derive(Default)]
pub struct CallerQuery;

#[Object]
impl CallerQuery {
    /// One caller, by id or `project/name`.
    async fn caller(
        &self,
        ctx: &Context<'_>,
        reference: String,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<Option<CallerNode>> {
        let api = Api::reading(ctx, position).await?;
        api.view::<Caller>(api.caller_reference(&reference).await?, as_of).await
    }

    /// The callers of the tenant, in the order of their ids.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    #[allow(clippy::too_many_arguments, reason = "arguments of a connection")]
    async fn callers(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        #[graphql(desc = "Id or name.")] project: Option<String>,
        state: Option<CallerState>,
        kind: Option<CallerKind>,
        label: Option<LabelInput>,
        #[graphql(desc = "Part of a name.")] search: Option<String>,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<List<CallerNode>> {
        let api = Api::reading(ctx, position).await?;
        let page = page(first, after, last, before)?;
        let Some(filter) = api.in_project(project.as_deref()) else { return Ok(empty()) };
        let filter = filter
            .state(state.map(|state| super::CallerState::from(state).as_str()))
            .term("kind", kind.map(|kind| schema::rule::CallerKind::from(kind).to_string()))
            .label(label)
            .search(search);
        api.list::<Caller>(filter, page, as_of).await
    }
}

/// Changing callers.
#[derive(Default)]
pub struct CallerMutation;

#[Object]
impl CallerMutation {
    /// Makes an application known. Its secret, if it has one, is made at an agent and stays there.
    async fn register_caller(&self, ctx: &Context<'_>, input: RegisterCallerInput) -> Result<RegisterCallerPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let project = api.existing_project("project", &input.project).await?;
            let name: Name = field("name", &input.name)?;
            let kind: schema::rule::CallerKind = input.kind.into();
            let authority = input.authority_pem.as_deref().map(authority_der).transpose().map_err(refused)?;
            let issuer = match (kind, input.issuer, &authority) {
                (schema::rule::CallerKind::Token, Some(site), _) => api.existing_site("issuer", &site).await?.to_string(),
                (schema::rule::CallerKind::Token, None, _) => return Err(refused(CallerRefusal::IssuerMissing)),
                (schema::rule::CallerKind::Mtls, Some(issuer), _) => issuer,
                (schema::rule::CallerKind::Mtls, None, Some(authority)) => Digest::of(authority.as_slice()).to_string(),
                (schema::rule::CallerKind::Mtls, None, None) => return Err(refused(CallerRefusal::AuthorityMissing)),
            };
            let subject = input.subject.unwrap_or_else(|| name.to_string());
            let labels = payload::labels(&input.labels)?;
            let id = naming::caller_id(&api.keys, kind, &issuer, &subject);
            let question = Question::new("registerCaller", "Caller", id).within("Project", project);
            let command = CallerCommand::Register { project, name, kind, issuer, subject, authority, labels };
            api.run::<Caller>(id, command, question, input.common).await
        };
        RegisterCallerPayload::of(attempt.await)
    }

    /// Replaces all labels of a caller.
    async fn relabel_caller(&self, ctx: &Context<'_>, input: RelabelCallerInput) -> Result<RelabelCallerPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.caller("caller", &input.caller).await?;
            let command = CallerCommand::Relabel { labels: payload::labels(&input.labels)? };
            api.run::<Caller>(id, command, Question::new("relabelCaller", "Caller", id), input.common).await
        };
        RelabelCallerPayload::of(attempt.await)
    }

    /// A caller may do nothing until it is resumed.
    async fn suspend_caller(&self, ctx: &Context<'_>, input: SuspendCallerInput) -> Result<SuspendCallerPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.caller("caller", &input.caller).await?;
            let command = CallerCommand::Suspend { reason: optional("reason", input.reason.as_deref())? };
            api.run::<Caller>(id, command, Question::new("suspendCaller", "Caller", id), input.common).await
        };
        SuspendCallerPayload::of(attempt.await)
    }

    /// A caller may act again.
    async fn resume_caller(&self, ctx: &Context<'_>, input: ResumeCallerInput) -> Result<ResumeCallerPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.caller("caller", &input.caller).await?;
            let command = CallerCommand::Resume { reason: optional("reason", input.reason.as_deref())? };
            api.run::<Caller>(id, command, Question::new("resumeCaller", "Caller", id), input.common).await
        };
        ResumeCallerPayload::of(attempt.await)
    }

    /// A caller may never act again. Final.
    async fn revoke_caller(&self, ctx: &Context<'_>, input: RevokeCallerInput) -> Result<RevokeCallerPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.caller("caller", &input.caller).await?;
            let comment = optional("comment", input.comment.as_deref())?;
            let command = CallerCommand::Revoke { reason: input.reason.into(), comment };
            api.run::<Caller>(id, command, Question::new("revokeCaller", "Caller", id), input.common).await
        };
        RevokeCallerPayload::of(attempt.await)
    }
}
