//! Policy documents in GraphQL: what they are. What can be done with them stands in [`super::mutations`].

use async_graphql::{ComplexObject, Context, Enum, ID, InputObject, Object, Result, SimpleObject};
use schema::{
    catalogue::Algorithm,
    encoding::Digest,
    event::policy::PolicyContent,
    id::ProjectId,
    name::Name,
    rule::{self, Scope},
};

use super::{
    Policy, Version, cedar,
    diff::{Side, compare},
};
use crate::{
    bundles::templates,
    graphql::{
        api::{Api, Filter, Seen, Shown},
        fault::{Fault, bad_request, fault},
        page::{List, cost, empty, page},
        payload::{self, Stop, UserError, field},
        rules::{OfflineRule, OfflineRuleInput},
        scalar::{self, Durability, KeyProtection, KeyPurpose, Label, LabelInput, Timestamp, UInt64},
    },
    keys::graphql::{RotationRule, RotationRuleInput, UseLimits, UseLimitsInput},
    projects::graphql::ProjectNode,
    sites::graphql::SiteNode,
};

/// A Cedar policy document, with drafts and versions.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Policy", complex)]
pub struct PolicyNode {
    /// `pol_…`
    pub id: ID,
    /// Its name in its scope; never changes.
    pub name: String,
    /// The project it reaches; neither project nor site: the whole tenant.
    pub project_id: Option<ID>,
    /// The site it is for.
    pub site_id: Option<ID>,
    /// What is not published yet.
    pub draft: Option<PolicyDraft>,
    /// The version in force; absent until it was published.
    pub published: Option<PolicyVersion>,
    /// Newest first.
    pub versions: Vec<PolicyVersion>,
    /// When it was begun.
    pub created_at: Timestamp,
    /// Rises with every change.
    pub revision: UInt64,
    #[graphql(skip)]
    scope: Scope,
    #[graphql(skip)]
    as_of: Option<Timestamp>,
}

impl Shown for Policy {
    type Node = PolicyNode;

    fn node(seen: Seen<Self>) -> Option<PolicyNode> {
        let fixed = seen.state.fixed.as_ref()?;
        let (project_id, site_id) = match fixed.scope {
            Scope::Tenant => (None, None),
            Scope::Project(project) => (Some(project.to_string().into()), None),
            Scope::Site(site) => (None, Some(site.to_string().into())),
        };
        let version = |(number, version): (&u32, &Version)| PolicyVersion::of(*number, version);
        Some(PolicyNode {
            id: seen.id.to_string().into(),
            name: fixed.name.to_string(),
            project_id,
            site_id,
            draft: seen.state.draft.as_ref().map(|draft| PolicyDraft {
                number: draft.number,
                saved_at: Timestamp(draft.at),
                saved_by: draft.by.clone(),
                note: draft.note.as_ref().map(ToString::to_string),
                content: PolicyContentNode(draft.content.clone()),
            }),
            published: seen.state.versions.last_key_value().map(version),
            versions: seen.state.versions.iter().rev().map(version).collect(),
            created_at: Timestamp(fixed.created),
            revision: UInt64(seen.revision),
            scope: fixed.scope,
            as_of: seen.as_of,
        })
    }
}

#[ComplexObject]
impl PolicyNode {
    /// The project it reaches.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<ProjectNode>> {
        match self.scope {
            Scope::Project(project) => Api::of(ctx)?.load_project(project, self.as_of).await,
            _ => Ok(None),
        }
    }

    /// The site it is for.
    async fn site(&self, ctx: &Context<'_>) -> Result<Option<SiteNode>> {
        match self.scope {
            Scope::Site(site) => Ok(Api::of(ctx)?.load_sites(&[site], self.as_of).await?.pop()),
            _ => Ok(None),
        }
    }
}

/// What is not published yet.
#[derive(Debug, Clone, SimpleObject)]
pub struct PolicyDraft {
    /// Rises with every saved draft.
    pub number: u32,
    /// When it was saved.
    pub saved_at: Timestamp,
    /// By which principal.
    pub saved_by: String,
    /// What was changed and why.
    pub note: Option<String>,
    /// What it says.
    pub content: PolicyContentNode,
}

/// A published version. It never changes.
#[derive(Debug, Clone, SimpleObject)]
pub struct PolicyVersion {
    /// From 1, without gaps.
    pub number: u32,
    /// When it was published.
    pub published_at: Timestamp,
    /// By which principal.
    pub published_by: String,
    /// The older version it says again.
    pub restored: Option<u32>,
    /// What was changed and why.
    pub note: Option<String>,
    /// The ids of its single policies, as receipts and refusals name them.
    pub policies: Vec<String>,
    /// What it says.
    pub content: PolicyContentNode,
}

impl PolicyVersion {
    fn of(number: u32, version: &Version) -> Self {
        Self {
            number,
            published_at: Timestamp(version.at),
            published_by: version.by.clone(),
            restored: version.restored,
            note: version.note.as_ref().map(ToString::to_string),
            policies: version.policies.clone(),
            content: PolicyContentNode(version.content.clone()),
        }
    }
}

/// What one draft or version says.
#[derive(Debug, Clone)]
pub struct PolicyContentNode(pub PolicyContent);

#[Object(name = "PolicyContent")]
impl PolicyContentNode {
    /// The Cedar text.
    #[graphql(complexity = 10)]
    async fn cedar(&self, ctx: &Context<'_>) -> Result<String> {
        text(Api::of(ctx)?, self.0.cedar).await
    }

    /// SHA-256 of the Cedar text, base64url.
    async fn cedar_sha256(&self) -> String {
        self.0.cedar.to_string()
    }

    /// What keys the control plane may make by itself.
    async fn templates(&self) -> Vec<KeyTemplate> {
        self.0.templates.iter().map(|(name, template)| KeyTemplate::of(name, template)).collect()
    }

    /// What goes on without the control plane.
    async fn offline(&self) -> Option<OfflineRule> {
        self.0.offline.as_ref().map(Into::into)
    }

    /// Who may vouch for agents.
    async fn vouching(&self) -> Option<VouchingRule> {
        let rule = self.0.vouching.as_ref()?;
        Some(VouchingRule { agents: rule.agents, agents_needed: rule.agents_needed, signers: rule.signers })
    }
}

/// The Cedar text of this digest.
pub(super) async fn text(api: &Api, digest: Digest) -> Result<String, Fault> {
    let body = api.services.handler.store().blob(api.ctx.tenant, digest).await;
    let body = body.map_err(|error| fault("reading a policy's text", &error))?;
    body.and_then(|body| String::from_utf8(body).ok()).ok_or_else(|| bad_request("text_missing", "the text of this policy is missing"))
}

/// What keys the control plane may make by itself.
#[derive(Debug, Clone, SimpleObject)]
pub struct KeyTemplate {
    /// Its name.
    pub name: String,
    /// The project.
    pub project: ID,
    /// Algorithms allowed.
    pub algorithms: Vec<&'static str>,
    /// Purposes allowed.
    pub purposes: Vec<KeyPurpose>,
    /// Sites allowed.
    pub placement: Vec<ID>,
    /// Labels every key has, exactly.
    pub labels: Vec<Label>,
    /// Durabilities allowed.
    pub durabilities: Vec<Durability>,
    /// The lowest protection a key may demand.
    pub protection: KeyProtection,
    /// Whether keys may be exportable.
    pub exportable: bool,
    /// The rotation rule every key has.
    pub rotation: RotationRule,
    /// The limits every key has.
    pub limits: UseLimits,
    /// The most keys made from it; absent: no limit.
    pub max_keys: Option<UInt64>,
}

impl KeyTemplate {
    fn of(name: &Name, template: &rule::KeyTemplate) -> Self {
        Self {
            name: name.to_string(),
            project: template.project.to_string().into(),
            algorithms: template.algorithms.iter().map(|algorithm| algorithm.name()).collect(),
            purposes: template.purposes.iter().copied().map(Into::into).collect(),
            placement: template.placement.iter().map(|site| site.to_string().into()).collect(),
            labels: scalar::labels(&template.labels),
            durabilities: template.durabilities.iter().copied().map(Into::into).collect(),
            protection: template.protection.into(),
            exportable: template.exportable,
            rotation: (&template.rotation).into(),
            limits: (&template.limits).into(),
            max_keys: template.max_keys.map(UInt64),
        }
    }
}

/// Who may vouch for an agent that joins a site.
#[derive(Debug, Clone, SimpleObject)]
pub struct VouchingRule {
    /// Whether rostered agents may (whose operator compared the join code).
    pub agents: bool,
    /// How many rostered agents must.
    pub agents_needed: u32,
    /// Whether the tenant's policy signers may.
    pub signers: bool,
}

/// What a draft says.
#[derive(InputObject)]
pub struct PolicyContentInput {
    /// The Cedar text: any number of policies over the published schema.
    pub(super) cedar: String,
    /// What keys the control plane may make by itself.
    #[graphql(default)]
    templates: Vec<KeyTemplateInput>,
    /// What goes on without the control plane (not of a project).
    offline: Option<OfflineRuleInput>,
    /// Who may vouch for agents (not of a project).
    vouching: Option<VouchingRuleInput>,
}

/// What keys the control plane may make by itself.
#[derive(InputObject)]
pub struct KeyTemplateInput {
    /// Its name.
    name: String,
    /// Id or name.
    project: ID,
    /// Algorithms allowed.
    algorithms: Vec<String>,
    /// Purposes allowed.
    purposes: Vec<KeyPurpose>,
    /// Sites allowed, ids or names.
    placement: Vec<ID>,
    /// Labels every key has, exactly.
    #[graphql(default)]
    labels: Vec<LabelInput>,
    /// Durabilities allowed.
    durabilities: Vec<Durability>,
    /// The lowest protection a key may demand.
    #[graphql(default_with = "KeyProtection::Software")]
    protection: KeyProtection,
    /// Whether keys may be exportable.
    #[graphql(default)]
    exportable: bool,
    /// The rotation rule every key has; absent: only by hand.
    rotation: Option<RotationRuleInput>,
    /// The limits every key has; absent: none.
    limits: Option<UseLimitsInput>,
    /// The most keys made from it; absent: no limit.
    max_keys: Option<UInt64>,
}

/// Who may vouch for an agent that joins a site.
#[derive(InputObject)]
pub struct VouchingRuleInput {
    /// Whether rostered agents may (whose operator compared the join code).
    agents: bool,
    /// How many rostered agents must.
    agents_needed: u32,
    /// Whether the tenant's policy signers may.
    signers: bool,
}

/// Parses what a draft says; the Cedar text goes along as a blob.
pub(super) async fn content(api: &Api, input: PolicyContentInput) -> Result<(PolicyContent, String), Stop> {
    let mut templates = std::collections::BTreeMap::new();
    for template in input.templates {
        let name: Name = field("content.templates", &template.name)?;
        let project = api.existing_project("content.templates", &template.project).await?;
        let mut placement = Vec::with_capacity(template.placement.len());
        for site in &template.placement {
            placement.push(api.existing_site("content.templates", site).await?);
        }
        let algorithms = template.algorithms.iter().map(|name| field::<Algorithm>("content.templates", name));
        let rule = rule::KeyTemplate {
            project,
            algorithms: algorithms.collect::<Result<_, _>>()?,
            purposes: template.purposes.into_iter().map(Into::into).collect(),
            placement,
            labels: payload::labels(&template.labels)?,
            durabilities: template.durabilities.into_iter().map(Into::into).collect(),
            protection: template.protection.into(),
            exportable: template.exportable,
            rotation: template.rotation.unwrap_or_default().parse("content.templates")?,
            limits: template.limits.unwrap_or_default().into(),
            max_keys: template.max_keys.map(|number| number.0),
        };
        if templates.insert(name.clone(), rule).is_some() {
            return Err(UserError::at("content.templates", "invalid_input", format!("the template {name} is there twice")).into());
        }
    }
    let content = PolicyContent {
        cedar: Digest::of(input.cedar.as_bytes()),
        cedar_bytes: input.cedar.len() as u64,
        templates,
        vouching: input.vouching.map(|rule| rule::VouchingRule {
            agents: rule.agents,
            agents_needed: rule.agents_needed,
            signers: rule.signers,
        }),
        offline: input.offline.map(Into::into),
    };
    Ok((content, input.cedar))
}

/// The template of this name that is in force for keys of a project.
pub async fn template(api: &Api, project: ProjectId, name: &Name) -> Result<Option<rule::KeyTemplate>, Fault> {
    let documents = api.every::<Policy>(Filter::all()).await?;
    let published = documents.iter().filter_map(|document| Some((document.fixed.as_ref()?.scope, document.published()?.1)));
    let templates = published.map(|(scope, version)| (scope, &version.content.templates));
    Ok(templates::in_force(templates, project, name).cloned())
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "cedar::Severity")]
pub enum PolicySeverity {
    /// It cannot be published.
    Error,
    /// It can, but is likely not what was meant.
    Warning,
}

/// One thing wrong in a Cedar text.
#[derive(Debug, Clone, SimpleObject)]
pub struct PolicyProblem {
    /// How bad it is.
    pub severity: PolicySeverity,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// The single policy it is in.
    pub policy: Option<String>,
    /// Where it begins, from 1.
    pub line: Option<u32>,
    /// Where it begins, from 1, in characters.
    pub column: Option<u32>,
    /// Where it ends.
    pub end_line: Option<u32>,
    /// The column after its end.
    pub end_column: Option<u32>,
}

impl From<cedar::Problem> for PolicyProblem {
    fn from(problem: cedar::Problem) -> Self {
        Self {
            severity: problem.severity.into(),
            message: problem.message,
            help: problem.help,
            policy: problem.policy,
            line: problem.place.map(|place| place.line),
            column: problem.place.map(|place| place.column),
            end_line: problem.place.map(|place| place.end_line),
            end_column: problem.place.map(|place| place.end_column),
        }
    }
}

/// What checking a Cedar text found.
#[derive(SimpleObject)]
pub struct PolicyValidation {
    /// Whether it could be published.
    valid: bool,
    /// What is wrong with it, in the order of the text.
    problems: Vec<PolicyProblem>,
    /// The ids of its single policies.
    policies: Vec<String>,
}

/// Everything wrong with a text, warnings too.
pub(super) fn problems(text: &str) -> PolicyValidation {
    match cedar::check(text) {
        Ok(checked) => PolicyValidation {
            valid: true,
            problems: checked.warnings.into_iter().map(Into::into).collect(),
            policies: checked.policies.into_iter().map(|policy| policy.id).collect(),
        },
        Err(problems) => PolicyValidation { valid: false, problems: problems.into_iter().map(Into::into).collect(), policies: Vec::new() },
    }
}

impl PolicyValidation {
    /// The problems alone.
    pub(super) fn into_problems(self) -> Vec<PolicyProblem> {
        self.problems
    }
}

/// What differs between two versions.
#[derive(SimpleObject)]
pub struct PolicyDiff {
    /// The older version; absent: nothing was published.
    from: Option<u32>,
    /// The newer version; absent: the draft.
    to: Option<u32>,
    /// The Cedar texts as a unified diff; empty when they are the same.
    unified: String,
    /// Which parts differ: `cedar`, `templates`, `vouching`, `offline`.
    changed_sections: Vec<&'static str>,
    /// Whether nothing differs.
    same: bool,
}

/// Reading policies.
#[derive(Default)]
pub struct PolicyQuery;

#[Object]
impl PolicyQuery {
    /// One policy document, by id, by name (of the tenant's own) or `project/name`, as it is now or was.
    async fn policy(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Id, name (of the tenant's own) or `project/name`.")] id: ID,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<Option<PolicyNode>> {
        let api = Api::reading(ctx, position).await?;
        api.view::<Policy>(api.policy_reference(&id), as_of).await
    }

    /// The policy documents of the tenant, in the order of their ids.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    #[allow(clippy::too_many_arguments, reason = "arguments of a connection")]
    async fn policies(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        #[graphql(desc = "Id or name.")] project: Option<String>,
        #[graphql(desc = "Id or name.")] site: Option<String>,
        #[graphql(desc = "Part of a name.")] search: Option<String>,
        as_of: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<List<PolicyNode>> {
        let api = Api::reading(ctx, position).await?;
        let page = page(first, after, last, before)?;
        let Some(filter) = api.in_project(project.as_deref()) else { return Ok(empty()) };
        let filter = match site.as_deref().map(|site| api.site_reference(site)) {
            None => filter,
            Some(Some(site)) => filter.term("site", Some(site.to_string())),
            Some(None) => return Ok(empty()),
        };
        api.list::<Policy>(filter.search(search), page, as_of).await
    }

    /// What is wrong with a Cedar text, without saving it.
    #[graphql(complexity = 50)]
    async fn validate_policy(&self, ctx: &Context<'_>, cedar: String) -> Result<PolicyValidation> {
        Api::reading(ctx, None).await?;
        Ok(problems(&cedar))
    }

    /// What differs between two versions. An absent `from` is the version in force, an absent `to` the draft.
    #[graphql(complexity = 50)]
    async fn policy_diff(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Id, name or `project/name`.")] policy: ID,
        from: Option<u32>,
        to: Option<u32>,
        position: Option<String>,
    ) -> Result<Option<PolicyDiff>> {
        let api = Api::reading(ctx, position).await?;
        let Some(id) = api.policy_reference(&policy) else { return Ok(None) };
        let Some(view) = api.state::<Policy>(id, None).await? else { return Ok(None) };
        let state = view.state;
        let version = |number: u32| match state.versions.get(&number) {
            Some(version) => Ok(&version.content),
            None => Err(bad_request("version_not_found", format!("this policy has no version {number}"))),
        };
        let nothing = PolicyContent {
            cedar: Digest::of(b""),
            cedar_bytes: 0,
            templates: std::collections::BTreeMap::new(),
            vouching: None,
            offline: None,
        };
        let from = from.or(state.published().map(|(number, _)| number));
        let old = from.map(version).transpose()?.unwrap_or(&nothing);
        let new = match (to, &state.draft) {
            (Some(number), _) => version(number)?,
            (None, Some(draft)) => &draft.content,
            (None, None) => return Err(bad_request("no_draft", "this policy has no draft; name a version in `to`")),
        };
        let (old_text, new_text) = (
            if old.cedar_bytes == 0 { String::new() } else { text(api, old.cedar).await? },
            if new.cedar_bytes == 0 { String::new() } else { text(api, new.cedar).await? },
        );
        let old_name = from.map_or("nothing".to_owned(), |number| format!("version {number}"));
        let new_name = to.map_or("draft".to_owned(), |number| format!("version {number}"));
        let difference =
            compare(Side { name: &old_name, cedar: &old_text, content: old }, Side { name: &new_name, cedar: &new_text, content: new });
        let same = difference.is_empty();
        Ok(Some(PolicyDiff { from, to, unified: difference.unified, changed_sections: difference.changed_sections, same }))
    }
}
