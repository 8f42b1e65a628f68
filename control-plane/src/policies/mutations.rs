//! What can be done with policy documents through GraphQL.

use std::collections::BTreeMap;

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};
use schema::{
    event::policy::PolicyContent,
    id::PolicyId,
    name::{Name, Text},
    rule::{KeyTemplate, Scope},
};

use super::{
    Checked, Policy, PolicyCommand,
    graphql::{PolicyContentInput, PolicyNode, PolicyProblem, content, problems, text},
};
use crate::{
    access::permit::Question,
    bundles::{
        facts::PolicyFacts,
        gather::{Aggregates, facts},
        templates::{self, Outside},
    },
    graphql::{
        api::{Api, Done, Filter, no_such, options},
        fault::{bad_request, fault},
        payload::{Common, CommonNew, Outcome, Stop, UserError, field, optional, payloads},
    },
    naming,
};

payloads!(policy: PolicyNode => CreatePolicyPayload, DiscardPolicyDraftPayload, RollbackPolicyPayload);

/// A policy document to begin.
#[derive(InputObject)]
pub struct CreatePolicyInput {
    /// Its name in its scope; never changes.
    name: String,
    /// The project it reaches, id or name; neither project nor site: the whole tenant.
    project: Option<ID>,
    /// The site it is for, id or name.
    site: Option<ID>,
    #[graphql(flatten)]
    common: CommonNew,
}

/// A draft to keep.
#[derive(InputObject)]
pub struct SavePolicyDraftInput {
    /// Id, name or `project/name`.
    policy: ID,
    /// What it says.
    content: PolicyContentInput,
    /// The number of the draft it was made from (0: there was none); absent: whatever there is, is replaced.
    base: Option<u32>,
    /// What was changed and why.
    note: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// A draft to throw away.
#[derive(InputObject)]
pub struct DiscardPolicyDraftInput {
    /// Id, name or `project/name`.
    policy: ID,
    #[graphql(flatten)]
    common: Common,
}

/// A draft to publish.
#[derive(InputObject)]
pub struct PublishPolicyInput {
    /// Id, name or `project/name`.
    policy: ID,
    /// The number of the draft: refused when there is a newer one; absent: the present one.
    draft: Option<u32>,
    /// What was changed and why; absent: the draft's note.
    note: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// An older version to publish again.
#[derive(InputObject)]
pub struct RollbackPolicyInput {
    /// Id, name or `project/name`.
    policy: ID,
    /// The older version.
    version: u32,
    /// Why.
    note: Option<String>,
    #[graphql(flatten)]
    common: Common,
}

/// Defines payloads that also say what is wrong with the text.
macro_rules! payloads_with_problems {
    ($($name:ident),*) => {$(
        /// What came of it.
        #[derive(SimpleObject)]
        pub struct $name {
            /// What it is now; absent when the command was refused.
            policy: Option<PolicyNode>,
            /// What is wrong with the Cedar text, by line and column; warnings too.
            problems: Vec<PolicyProblem>,
            #[graphql(flatten)]
            outcome: Outcome,
        }

        impl $name {
            fn of(attempt: Result<Done<PolicyNode>, Stop>, problems: Vec<PolicyProblem>) -> Result<Self> {
                match attempt {
                    Ok(done) => Ok(Self { policy: done.node, problems, outcome: done.outcome }),
                    Err(stop) => Ok(Self { policy: None, problems, outcome: stop.refused()? }),
                }
            }
        }
    )*};
}

payloads_with_problems!(SavePolicyDraftPayload, PublishPolicyPayload);

/// Changing policies.
#[derive(Default)]
pub struct PolicyMutation;

#[Object]
impl PolicyMutation {
    /// Begins a policy document. It says nothing until a draft of it is published.
    async fn create_policy(&self, ctx: &Context<'_>, input: CreatePolicyInput) -> Result<CreatePolicyPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let name: Name = field("name", &input.name)?;
            let scope = match (&input.project, &input.site) {
                (None, None) => Scope::Tenant,
                (Some(project), None) => Scope::Project(api.existing_project("project", project).await?),
                (None, Some(site)) => Scope::Site(api.existing_site("site", site).await?),
                (Some(_), Some(_)) => {
                    return Err(UserError::at("site", "invalid_input", "a policy is for a project or for a site, not for both").into());
                }
            };
            let id = naming::policy_id(&api.keys, scope, &name);
            let question = question("createPolicy", id, Some(scope));
            api.run::<Policy>(id, PolicyCommand::Create { name, scope }, question, input.common).await
        };
        CreatePolicyPayload::of(attempt.await)
    }

    /// Keeps a draft. It may have errors, which are answered by line and column; it cannot be published then.
    #[graphql(complexity = "50 + child_complexity")]
    async fn save_policy_draft(&self, ctx: &Context<'_>, input: SavePolicyDraftInput) -> Result<SavePolicyDraftPayload> {
        let api = Api::of(ctx)?;
        let problems = problems(&input.content.cedar).into_problems();
        let attempt = async {
            let id = api.policy("policy", &input.policy)?;
            let note: Option<Text> = optional("note", input.note.as_deref())?;
            let (content, cedar) = content(api, input.content).await?;
            let command = PolicyCommand::SaveDraft { content, base: input.base, note };
            let options = options(input.common, vec![cedar.into_bytes()])?;
            let question = question("savePolicyDraft", id, scope_of(api, id).await?);
            api.run_with::<Policy>(id, command, question, options).await
        };
        SavePolicyDraftPayload::of(attempt.await, problems)
    }

    /// Throws the draft away.
    async fn discard_policy_draft(&self, ctx: &Context<'_>, input: DiscardPolicyDraftInput) -> Result<DiscardPolicyDraftPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.policy("policy", &input.policy)?;
            let question = question("discardPolicyDraft", id, scope_of(api, id).await?);
            api.run::<Policy>(id, PolicyCommand::DiscardDraft, question, input.common).await
        };
        DiscardPolicyDraftPayload::of(attempt.await)
    }

    /// Publishes the draft: it is signed and sent to agents.
    #[graphql(complexity = "50 + child_complexity")]
    async fn publish_policy(&self, ctx: &Context<'_>, input: PublishPolicyInput) -> Result<PublishPolicyPayload> {
        let api = Api::of(ctx)?;
        let mut found = Vec::new();
        let attempt = async {
            let id = api.policy("policy", &input.policy)?;
            let state = present(api, id).await?;
            let checked = match &state.draft {
                Some(draft) => {
                    let text = text(api, draft.content.cedar).await?;
                    found = problems(&text).into_problems();
                    checked(api, id, &state, &draft.content, &text).await?
                }
                None => Checked::text(""),
            };
            let command = PolicyCommand::Publish { draft: input.draft, note: optional("note", input.note.as_deref())?, checked };
            let question = question("publishPolicy", id, state.fixed.map(|fixed| fixed.scope));
            api.run::<Policy>(id, command, question, input.common).await
        };
        let attempt = attempt.await;
        PublishPolicyPayload::of(attempt, found)
    }

    /// Publishes what an older version said again, under a new number.
    #[graphql(complexity = "50 + child_complexity")]
    async fn rollback_policy(&self, ctx: &Context<'_>, input: RollbackPolicyInput) -> Result<RollbackPolicyPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.policy("policy", &input.policy)?;
            let state = present(api, id).await?;
            let checked = match state.versions.get(&input.version) {
                Some(version) => checked(api, id, &state, &version.content, &text(api, version.content.cedar).await?).await?,
                None => Checked::text(""),
            };
            let note = optional("note", input.note.as_deref())?;
            let command = PolicyCommand::Rollback { version: input.version, note, checked };
            let question = question("rollbackPolicy", id, state.fixed.map(|fixed| fixed.scope));
            api.run::<Policy>(id, command, question, input.common).await
        };
        RollbackPolicyPayload::of(attempt.await)
    }
}

/// As the stream has it: a draft may be published right after it was saved.
async fn present(api: &Api, id: PolicyId) -> Result<Policy, Stop> {
    let loaded = api.services.handler.load::<Policy>(api.ctx.tenant, id).await;
    let loaded = loaded.map_err(|error| fault("reading a policy", &error))?;
    if loaded.revision == 0 { Err(no_such("policy", "policy")) } else { Ok(loaded.state) }
}

/// Checks what is to be published instead of the version in force.
async fn checked(api: &Api, id: PolicyId, document: &Policy, content: &PolicyContent, text: &str) -> Result<Checked, Stop> {
    let published = document.published().map(|(_, version)| &version.content.templates);
    let left_outside = match &document.fixed {
        // Most changes are of Cedar alone, and then no key need be looked at.
        Some(fixed) if published.map_or(!content.templates.is_empty(), |published| *published != content.templates) => {
            left_outside(api, id, fixed.scope, &content.templates).await?
        }
        _ => Vec::new(),
    };
    Ok(Checked { templates: content.templates.clone(), left_outside, ..Checked::text(text) })
}

/// The keys that these templates of a document would leave outside.
async fn left_outside(api: &Api, id: PolicyId, scope: Scope, templates: &BTreeMap<Name, KeyTemplate>) -> Result<Vec<Outside>, Stop> {
    let head = api.services.handler.store().head().await.map_err(|error| fault("reading the log", &error))?;
    if !api.readable(head).await? {
        return Err(bad_request("not_yet_readable", "this replica has not come that far yet; try again shortly").into());
    }
    let (projects, keys) = (api.every(Filter::all()).await?, api.every(Filter::all()).await?);
    let documents: Vec<Policy> = api.every(Filter::all()).await?;
    let facts_of = |scope, templates: &BTreeMap<Name, KeyTemplate>| PolicyFacts {
        scope,
        cedar: BTreeMap::new(),
        templates: templates.clone(),
        vouching: None,
        offline: None,
    };
    let in_force = |document: &Policy| {
        Some((document.fixed.as_ref()?.id, facts_of(document.fixed.as_ref()?.scope, &document.published()?.1.content.templates)))
    };
    // In the order of ids, as statements are compiled: of two documents with one template, the last counts.
    let mut policies: BTreeMap<PolicyId, PolicyFacts> = documents.iter().filter_map(in_force).collect();
    let before = Aggregates { projects, keys, policies: policies.values().cloned().collect(), ..Aggregates::default() };
    policies.insert(id, facts_of(scope, templates));
    let after = Aggregates { policies: policies.into_values().collect(), ..before.clone() };
    let tenant = api.ctx.tenant;
    Ok(templates::left_outside(&facts(tenant, before), &facts(tenant, after)))
}

async fn scope_of(api: &Api, id: PolicyId) -> Result<Option<Scope>, Stop> {
    Ok(present(api, id).await?.fixed.map(|fixed| fixed.scope))
}

fn question(action: &'static str, id: PolicyId, scope: Option<Scope>) -> Question {
    let question = Question::new(action, "Policy", id);
    match scope {
        Some(Scope::Project(project)) => question.within("Project", project),
        Some(Scope::Site(site)) => question.within("Site", site),
        _ => question,
    }
}
