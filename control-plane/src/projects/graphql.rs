//! Projects in GraphQL.

use async_graphql::{ComplexObject, Context, Enum, ID, InputObject, Object, Result, SimpleObject};

use super::{Project, ProjectCommand};
use crate::{
    access::permit::Question,
    callers::{Caller, graphql::CallerNode},
    graphql::{
        api::{Api, Filter, Seen, Shown},
        page::{List, cost, page},
        payload::{Common, CommonNew, field, optional, payloads},
        scalar::{Timestamp, UInt64},
    },
    keys::{Key, graphql::KeyNode},
    naming,
};

/// Whether the keys of a project may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub enum ProjectState {
    /// They may, each as far as its own state allows.
    Active,
    /// None may.
    Suspended,
}

/// A group of keys and callers.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Project", complex)]
pub struct ProjectNode {
    /// `prj_…`
    pub id: ID,
    /// Its name in the tenant; never changes.
    pub name: String,
    /// What people call it.
    pub display_name: Option<String>,
    /// Whether its keys may be used.
    pub state: ProjectState,
    /// When it was created.
    pub created_at: Timestamp,
    /// Rises with every change.
    pub revision: UInt64,
    #[graphql(skip)]
    as_of: Option<Timestamp>,
}

impl Shown for Project {
    type Node = ProjectNode;

    fn node(seen: Seen<Self>) -> Option<ProjectNode> {
        let fixed = seen.state.fixed.as_ref()?;
        Some(ProjectNode {
            id: seen.id.to_string().into(),
            name: fixed.name.to_string(),
            display_name: seen.state.display_name.as_ref().map(ToString::to_string),
            state: if seen.state.suspended.is_some() { ProjectState::Suspended } else { ProjectState::Active },
            created_at: Timestamp(fixed.created),
            revision: UInt64(seen.revision),
            as_of: seen.as_of,
        })
    }
}

#[ComplexObject]
impl ProjectNode {
    /// Its keys.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    async fn keys(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
    ) -> Result<List<KeyNode>> {
        let filter = Filter::within(&*self.id);
        Api::of(ctx)?.list::<Key>(filter, page(first, after, last, before)?, self.as_of).await
    }

    /// Its callers.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    async fn callers(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
    ) -> Result<List<CallerNode>> {
        let filter = Filter::within(&*self.id);
        Api::of(ctx)?.list::<Caller>(filter, page(first, after, last, before)?, self.as_of).await
    }
}

/// A project to create.
#[derive(InputObject)]
pub struct CreateProjectInput {
    /// 1 to 63 characters of a-z, 0-9, `-` and `.`, starting with a letter. Never personal; never changes.
    name: String,
    /// What people call it.
    display_name: Option<String>,
    #[graphql(flatten)]
    common: CommonNew,
}

/// What people call a project from now on.
#[derive(InputObject)]
pub struct RenameProjectInput {
    /// Id or name.
    project: ID,
    /// What people call it; absent: by its name.
    display_name: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// A project whose keys shall stand still.
#[derive(InputObject)]
pub struct SuspendProjectInput {
    /// Id or name.
    project: ID,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// A project whose keys may be used again.
#[derive(InputObject)]
pub struct ResumeProjectInput {
    /// Id or name.
    project: ID,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

payloads!(project: ProjectNode => CreateProjectPayload, RenameProjectPayload, SuspendProjectPayload, ResumeProjectPayload);

/// Reading projects.
#[derive(Default)]
pub struct ProjectQuery;

#[Object]
impl ProjectQuery {
    /// One project, by id or name.
    async fn project(
        &self,
        ctx: &Context<'_>,
        reference: String,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<Option<ProjectNode>> {
        let api = Api::reading(ctx, position).await?;
        api.view::<Project>(api.project_reference(&reference), as_of).await
    }

    /// The projects of the tenant, in the order of their ids.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    #[allow(clippy::too_many_arguments, reason = "arguments of a connection")]
    async fn projects(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        #[graphql(desc = "Part of a name.")] search: Option<String>,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<List<ProjectNode>> {
        let filter = Filter::all().search(search);
        Api::reading(ctx, position).await?.list::<Project>(filter, page(first, after, last, before)?, as_of).await
    }
}

/// Changing projects.
#[derive(Default)]
pub struct ProjectMutation;

#[Object]
impl ProjectMutation {
    /// Begins a project.
    async fn create_project(&self, ctx: &Context<'_>, input: CreateProjectInput) -> Result<CreateProjectPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let name = field("name", &input.name)?;
            let id = naming::project_id(&api.keys, &name);
            let display_name = optional("displayName", input.display_name.as_deref())?;
            let question = Question::new("createProject", "Project", id);
            api.run::<Project>(id, ProjectCommand::Create { name, display_name }, question, input.common).await
        };
        CreateProjectPayload::of(attempt.await)
    }

    /// Calls a project something else.
    async fn rename_project(&self, ctx: &Context<'_>, input: RenameProjectInput) -> Result<RenameProjectPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.project("project", &input.project)?;
            let display_name = optional("displayName", input.display_name.as_deref())?;
            let question = Question::new("renameProject", "Project", id);
            api.run::<Project>(id, ProjectCommand::Rename { display_name }, question, input.common).await
        };
        RenameProjectPayload::of(attempt.await)
    }

    /// No key of it may be used until it is resumed.
    async fn suspend_project(&self, ctx: &Context<'_>, input: SuspendProjectInput) -> Result<SuspendProjectPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.project("project", &input.project)?;
            let command = ProjectCommand::SetSuspended { suspended: true, reason: optional("reason", input.reason.as_deref())? };
            api.run::<Project>(id, command, Question::new("suspendProject", "Project", id), input.common).await
        };
        SuspendProjectPayload::of(attempt.await)
    }

    /// Its keys may be used again.
    async fn resume_project(&self, ctx: &Context<'_>, input: ResumeProjectInput) -> Result<ResumeProjectPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.project("project", &input.project)?;
            let command = ProjectCommand::SetSuspended { suspended: false, reason: optional("reason", input.reason.as_deref())? };
            api.run::<Project>(id, command, Question::new("resumeProject", "Project", id), input.common).await
        };
        ResumeProjectPayload::of(attempt.await)
    }
}
