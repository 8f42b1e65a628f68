//! Composites in GraphQL.

use std::collections::BTreeMap;

use async_graphql::{ComplexObject, Context, Enum, ID, InputObject, Object, Result, SimpleObject};
use schema::{
    composite::Member,
    id::{CompositeId, KeyId, ProjectId},
    name::Name,
};

use super::{Composite, CompositeCommand, CreateComposite, Found};
use crate::{
    access::permit::Question,
    aliases::Alias,
    graphql::{
        api::{Api, Done, Seen, Shown, no_such},
        page::{List, cost, empty, page},
        payload::{Common, CommonNew, Stop, field, optional, payloads},
        scalar::{Timestamp, UInt64, VerificationRule},
    },
    keys::{Key, KeyState, graphql::KeyNode},
    naming,
    projects::graphql::ProjectNode,
};

/// Whether a composite can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "super::CompositeState")]
pub enum CompositeState {
    /// It can.
    Active,
    /// Never again.
    Retired,
}

/// One name for a classical and a post-quantum key that sign together, and for a hybrid key that is sealed to.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Composite", complex)]
pub struct CompositeNode {
    /// `cmp_…`
    pub id: ID,
    /// The project it belongs to.
    pub project_id: ID,
    /// Its name in the project; never changes.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Whether it can be used.
    pub state: CompositeState,
    /// Which of its signatures must be genuine; policies may demand more.
    pub rule: VerificationRule,
    /// When it was created.
    pub created_at: Timestamp,
    /// Rises with every change.
    pub revision: UInt64,
    #[graphql(skip)]
    project: ProjectId,
    #[graphql(skip)]
    members: [Option<KeyId>; 3],
    #[graphql(skip)]
    as_of: Option<Timestamp>,
}

impl Shown for Composite {
    type Node = CompositeNode;

    fn node(seen: Seen<Self>) -> Option<CompositeNode> {
        let Seen { id, revision, state, as_of } = seen;
        let whole = state.state().into();
        let (fixed, rule) = (state.fixed?, state.rule?);
        Some(CompositeNode {
            id: id.to_string().into(),
            project_id: fixed.project.to_string().into(),
            name: fixed.name.to_string(),
            description: state.description.as_ref().map(ToString::to_string),
            state: whole,
            rule: rule.into(),
            created_at: Timestamp(fixed.created),
            revision: UInt64(revision),
            project: fixed.project,
            members: [Some(fixed.classical), Some(fixed.post_quantum), fixed.encryption],
            as_of,
        })
    }
}

#[ComplexObject]
impl CompositeNode {
    /// The project it belongs to.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<ProjectNode>> {
        Api::of(ctx)?.load_project(self.project, self.as_of).await
    }

    /// The key that signs classically.
    async fn classical(&self, ctx: &Context<'_>) -> Result<Option<KeyNode>> {
        self.member(ctx, 0).await
    }

    /// The key that signs so that quantum computers do not help to forge.
    async fn post_quantum(&self, ctx: &Context<'_>) -> Result<Option<KeyNode>> {
        self.member(ctx, 1).await
    }

    /// The hybrid key for what is sealed to it.
    async fn encryption(&self, ctx: &Context<'_>) -> Result<Option<KeyNode>> {
        self.member(ctx, 2).await
    }
}

impl CompositeNode {
    async fn member(&self, ctx: &Context<'_>, place: usize) -> Result<Option<KeyNode>> {
        match self.members.get(place).copied().flatten() {
            Some(key) => Api::of(ctx)?.load_key(key, self.as_of).await,
            None => Ok(None),
        }
    }
}

/// A composite to create. Its keys never change.
#[derive(InputObject)]
pub struct CreateCompositeInput {
    /// Id or name.
    project: ID,
    /// 1 to 63 characters of a-z, 0-9, `-` and `.`, starting with a letter; not the name of a key or an alias. Never changes.
    name: String,
    /// The key that signs classically, e.g. with Ed25519: id or `project/name`.
    classical: ID,
    /// The key that signs post-quantum, e.g. with ML-DSA-65: id or `project/name`.
    post_quantum: ID,
    /// The hybrid key for what is sealed to the composite (`HPKE-9-KE` or `HPKE-9`): id or `project/name`.
    encryption: Option<ID>,
    /// Which of its signatures must be genuine.
    #[graphql(default_with = "VerificationRule::All")]
    rule: VerificationRule,
    /// In words.
    description: Option<String>,
    #[graphql(flatten)]
    common: CommonNew,
}

/// A composite that shall be described otherwise.
#[derive(InputObject)]
pub struct DescribeCompositeInput {
    /// Id, or `project/name`.
    composite: ID,
    /// In words; absent: none.
    description: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// A composite that shall accept fewer signatures.
#[derive(InputObject)]
pub struct TightenCompositeRuleInput {
    /// Id, or `project/name`.
    composite: ID,
    /// A rule that accepts nothing that the present one does not.
    rule: VerificationRule,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// A composite that shall accept signatures it does not accept now.
#[derive(InputObject)]
pub struct LoosenCompositeRuleInput {
    /// Id, or `project/name`.
    composite: ID,
    /// The rule.
    rule: VerificationRule,
    /// Why.
    reason: String,
    #[graphql(flatten)]
    common: Common,
}

/// A composite that shall be no more. Its keys stay as they are.
#[derive(InputObject)]
pub struct RetireCompositeInput {
    /// Id, or `project/name`.
    composite: ID,
    /// Why.
    reason: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

payloads!(composite: CompositeNode =>
    CreateCompositePayload, DescribeCompositePayload, TightenCompositeRulePayload, LoosenCompositeRulePayload, RetireCompositePayload);

/// Reading composites.
#[derive(Default)]
pub struct CompositeQuery;

#[Object]
impl CompositeQuery {
    /// One composite, by id or `project/name`, as it is now or was.
    async fn composite(
        &self,
        ctx: &Context<'_>,
        reference: String,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<Option<CompositeNode>> {
        let api = Api::reading(ctx, position).await?;
        api.view::<Composite>(composite_reference(api, &reference), as_of).await
    }

    /// The composites of the tenant, in the order of their ids.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    #[allow(clippy::too_many_arguments, reason = "arguments of a connection")]
    async fn composites(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        #[graphql(desc = "Id or name.")] project: Option<String>,
        state: Option<CompositeState>,
        rule: Option<VerificationRule>,
        #[graphql(desc = "A key that is one of its members: id or `project/name`.")] key: Option<String>,
        #[graphql(desc = "Part of a name.")] search: Option<String>,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<List<CompositeNode>> {
        let api = Api::reading(ctx, position).await?;
        let page = page(first, after, last, before)?;
        let key = match key {
            Some(key) => match api.key_reference(&key).await? {
                Some(key) => Some(key.to_string()),
                None => return Ok(empty()),
            },
            None => None,
        };
        let Some(filter) = api.in_project(project.as_deref()) else { return Ok(empty()) };
        let filter = filter
            .state(state.map(|state| super::CompositeState::from(state).as_str()))
            .term("rule", rule.map(|rule| schema::composite::VerificationRule::from(rule).to_string()))
            .term("key", key)
            .search(search);
        api.list::<Composite>(filter, page, as_of).await
    }
}

/// Changing composites.
#[derive(Default)]
pub struct CompositeMutation;

#[Object]
impl CompositeMutation {
    /// Gives a classical and a post-quantum key one name under which they sign together.
    async fn create_composite(&self, ctx: &Context<'_>, input: CreateCompositeInput) -> Result<CreateCompositePayload> {
        CreateCompositePayload::of(create(Api::of(ctx)?, input).await)
    }

    /// Says what a composite is for.
    async fn describe_composite(&self, ctx: &Context<'_>, input: DescribeCompositeInput) -> Result<DescribeCompositePayload> {
        let attempt = async {
            let command = CompositeCommand::Describe { description: optional("description", input.description.as_deref())? };
            on_composite(Api::of(ctx)?, "describeComposite", &input.composite, command, input.common).await
        };
        DescribeCompositePayload::of(attempt.await)
    }

    /// A composite accepts fewer signatures from now on.
    async fn tighten_composite_rule(&self, ctx: &Context<'_>, input: TightenCompositeRuleInput) -> Result<TightenCompositeRulePayload> {
        let attempt = async {
            let command = CompositeCommand::Tighten { rule: input.rule.into(), reason: optional("reason", input.reason.as_deref())? };
            on_composite(Api::of(ctx)?, "tightenCompositeRule", &input.composite, command, input.common).await
        };
        TightenCompositeRulePayload::of(attempt.await)
    }

    /// A composite accepts signatures from now on that it did not.
    async fn loosen_composite_rule(&self, ctx: &Context<'_>, input: LoosenCompositeRuleInput) -> Result<LoosenCompositeRulePayload> {
        let attempt = async {
            let command = CompositeCommand::Loosen { rule: input.rule.into(), reason: field("reason", &input.reason)? };
            on_composite(Api::of(ctx)?, "loosenCompositeRule", &input.composite, command, input.common).await
        };
        LoosenCompositeRulePayload::of(attempt.await)
    }

    /// A composite is no more. Final; its keys stay as they are.
    async fn retire_composite(&self, ctx: &Context<'_>, input: RetireCompositeInput) -> Result<RetireCompositePayload> {
        let attempt = async {
            let command = CompositeCommand::Retire { reason: optional("reason", input.reason.as_deref())? };
            on_composite(Api::of(ctx)?, "retireComposite", &input.composite, command, input.common).await
        };
        RetireCompositePayload::of(attempt.await)
    }
}

async fn create(api: &Api, input: CreateCompositeInput) -> Result<Done<CompositeNode>, Stop> {
    let project = api.existing_project("project", &input.project).await?;
    let name: Name = field("name", &input.name)?;
    let (mut members, mut found) = (BTreeMap::new(), BTreeMap::new());
    let named = [
        (Member::Classical, "classical", Some(&input.classical)),
        (Member::PostQuantum, "postQuantum", Some(&input.post_quantum)),
        (Member::Encryption, "encryption", input.encryption.as_ref()),
    ];
    for (member, field, reference) in named {
        let Some(reference) = reference else { continue };
        let key = api.key(field, reference).await?;
        members.insert(member, key);
        found.insert(member, look_up(api, field, key).await?);
    }
    let key = api.state::<Key>(naming::key_id(&api.keys, project, &name), None).await?;
    let alias = api.state::<Alias>(naming::alias_id(&api.keys, project, &name), None).await?;
    let id = naming::composite_id(&api.keys, project, &name);
    let command = CreateComposite {
        project,
        description: optional("description", input.description.as_deref())?,
        members,
        rule: input.rule.into(),
        found,
        name_is_taken: key.is_some() || alias.is_some(),
        name,
    };
    let question = Question::new("createComposite", "Composite", id).within("Project", project);
    api.run::<Composite>(id, CompositeCommand::Create(Box::new(command)), question, input.common).await
}

async fn look_up(api: &Api, field: &'static str, key: KeyId) -> Result<Found, Stop> {
    let key = api.state::<Key>(key, None).await?.map(|view| view.state).ok_or_else(|| no_such(field, "key"))?;
    let destroyed = key.state() == KeyState::Destroyed;
    let fixed = key.fixed.ok_or_else(|| no_such(field, "key"))?;
    Ok(Found {
        project: fixed.project,
        algorithm: fixed.algorithm,
        purpose: fixed.purpose,
        placement: fixed.placement,
        of_template: fixed.template.is_some(),
        destroyed,
    })
}

async fn on_composite(
    api: &Api,
    action: &'static str,
    composite: &str,
    command: CompositeCommand,
    common: Common,
) -> Result<Done<CompositeNode>, Stop> {
    let id = composite_reference(api, composite).ok_or_else(|| no_such("composite", "composite"))?;
    let project = api.state::<Composite>(id, None).await?.and_then(|view| view.state.fixed).map(|fixed| fixed.project);
    let question = Question::new(action, "Composite", id);
    let question = match project {
        Some(project) => question.within("Project", project),
        None => question,
    };
    api.run::<Composite>(id, command, question, common).await
}

/// The id of a composite, from an id or `project/name`.
fn composite_reference(api: &Api, text: &str) -> Option<CompositeId> {
    if let Ok(id) = text.parse() {
        return Some(id);
    }
    let (project, name) = text.split_once('/')?;
    Some(naming::composite_id(&api.keys, api.project_reference(project)?, &name.parse().ok()?))
}
