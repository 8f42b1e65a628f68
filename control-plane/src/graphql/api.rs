//! What resolvers work with: one principal inside one tenant, for the length of one request.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_graphql::{Context, OutputType, dataloader::DataLoader};
use schema::{
    clock::{Clock, Ids},
    id::{AgentId, CallerId, Id, KeyId, PolicyId, ProjectId, SiteId},
    key::KeyReference,
    name::Name,
    rule::Scope,
};

use super::{
    fault::{Fault, bad_request, fault, scan_limit},
    page::{self, List},
    payload::{Common, Outcome, Stop, UserError},
    scalar::{LabelInput, Timestamp},
};
use crate::{
    access::{
        context::OpContext,
        permit::{Authorizer, Question},
    },
    agents::{
        Agent, AgentState,
        enrolment::Enrolment,
        graphql::AgentNode,
        report::{LastReport, ReportError, Reports},
    },
    aliases::Alias,
    authorities::keeper::Keeper,
    bundles::service::Statements,
    callers::Caller,
    eventing::{
        aggregate::Aggregate,
        handler::{CommandError, Handled, Handler, IdempotencyKey, Options},
        store::Cursor,
        view::{self, Page, QueryError, View, Views},
    },
    keys::{Key, graphql::KeyNode},
    leases::Budget,
    naming,
    projects::{Project, graphql::ProjectNode},
    receipts::rows::ReceiptRows,
    sealing::TenantKeys,
    sites::{Site, graphql::SiteNode},
};

/// What serves every request.
pub struct Services {
    /// Takes commands.
    pub handler: Handler,
    /// Answers queries.
    pub views: Views,
    /// Decides.
    pub authorizer: Arc<dyn Authorizer>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Makes secrets and ids.
    pub ids: Arc<dyn Ids>,
    /// How long a mutation, or a query with a position, waits for the read model.
    pub read_your_writes: Duration,
    /// The most records one query reads for a page.
    pub scan_limit: usize,
    /// Publishes statements.
    pub statements: Statements,
    /// Lets agents in.
    pub enrolment: Enrolment,
    /// The certificate authorities of agents.
    pub authorities: Keeper,
    /// What agents say of themselves.
    pub reports: Reports,
    /// What agents say of every operation.
    pub receipts: ReceiptRows,
}

/// An aggregate that can be shown.
pub trait Shown: Aggregate {
    /// Its GraphQL type.
    type Node: OutputType;

    /// How it is shown; nothing when there is no such thing.
    fn node(seen: Seen<Self>) -> Option<Self::Node>;
}

/// An aggregate at a revision.
#[derive(Debug, Clone)]
pub struct Seen<A: Aggregate> {
    /// Its id.
    pub id: A::Id,
    /// The revision of its stream.
    pub revision: u64,
    /// Its state.
    pub state: A,
    /// The time it was asked as of; none: now. What it leads to is shown as of the same time.
    pub as_of: Option<Timestamp>,
}

impl<A: Aggregate> Seen<A> {
    fn of(view: View<A>, as_of: Option<Timestamp>) -> Self {
        Self { id: view.id, revision: view.revision, state: view.state, as_of }
    }
}

/// What came of a command.
pub struct Done<N> {
    /// What it is now.
    pub node: Option<N>,
    /// Position and whether it can be read.
    pub outcome: Outcome,
    /// Whether this is the answer to an earlier, identical request.
    pub replayed: bool,
}

/// Which things a listing shows.
#[derive(Debug, Clone, Default)]
pub struct Filter(view::Filter);

impl Filter {
    /// All of the tenant.
    pub fn all() -> Self {
        Self::default()
    }

    /// Those that belong to this.
    pub fn within(parent: impl ToString) -> Self {
        Self(view::Filter { parent: Some(parent.to_string()), ..view::Filter::default() })
    }

    /// Those in this state.
    #[must_use]
    pub fn state(mut self, state: Option<&'static str>) -> Self {
        self.0.states.extend(state.map(str::to_owned));
        self
    }

    /// Those with this term.
    #[must_use]
    pub fn term(mut self, term: &str, value: Option<String>) -> Self {
        self.0.terms.extend(value.map(|value| (term.to_owned(), value)));
        self
    }

    /// Those with this label.
    #[must_use]
    pub fn label(self, label: Option<LabelInput>) -> Self {
        match label {
            Some(label) => self.term(&format!("label.{}", label.name), Some(label.value)),
            None => self,
        }
    }

    /// Those whose name contains this.
    #[must_use]
    pub fn search(mut self, part: Option<String>) -> Self {
        self.0.name_contains = part.filter(|part| !part.is_empty());
        self
    }
}

/// One principal inside one tenant, for the length of one request.
pub struct Api {
    /// Who is asking.
    pub ctx: OpContext,
    /// The tenant's keys: derived ids.
    pub keys: Arc<TenantKeys>,
    /// What serves every request.
    pub services: Arc<Services>,
    loader: DataLoader<Loader>,
}

impl Api {
    /// For one request.
    pub fn new(ctx: OpContext, keys: Arc<TenantKeys>, services: Arc<Services>) -> Self {
        let loader = Loader { ctx: ctx.clone(), views: services.views.clone(), reports: services.reports.clone() };
        Self { ctx, keys, services, loader: DataLoader::new(loader, tokio::spawn) }
    }

    /// Of the request that is being answered. For mutations, which ask their own question, and for fields of what was
    /// read already.
    pub fn of<'a>(ctx: &Context<'a>) -> Result<&'a Self, Fault> {
        ctx.data::<Self>()
    }

    /// For a query: the principal may read, and what it has written can be read.
    pub async fn reading<'a>(ctx: &Context<'a>, position: Option<String>) -> Result<&'a Self, Fault> {
        Self::asking(ctx, "read", position).await
    }

    /// As [`Api::reading`], for things that need another right.
    pub async fn asking<'a>(ctx: &Context<'a>, action: &'static str, position: Option<String>) -> Result<&'a Self, Fault> {
        let api = Self::of(ctx)?;
        let question = Question::new(action, "Tenant", api.ctx.tenant);
        // Nothing is appended: asking is all, and the permit ends here.
        match api.services.authorizer.decide(&api.ctx, &question) {
            Ok(_permit) => {}
            Err(denied) => return Err(bad_request("forbidden", denied.to_string())),
        }
        if let Some(position) = position {
            let waited = api.services.views.wait_for_token(api.ctx.tenant, &position, api.services.read_your_writes).await;
            match waited {
                Ok(true) => {}
                Ok(false) => return Err(bad_request("not_yet_readable", "this replica has not come that far yet; try again shortly")),
                Err(QueryError::InvalidCursor) => return Err(bad_request("invalid_position", "this is not a position of this tenant")),
                Err(error) => return Err(fault("waiting for the read model", &error)),
            }
        }
        Ok(api)
    }

    /// One thing, as it is now or was; nothing when the reference was none.
    pub async fn view<A: Shown>(&self, id: Option<A::Id>, as_of: Option<Timestamp>) -> Result<Option<A::Node>, Fault> {
        let Some(id) = id else { return Ok(None) };
        Ok(self.state::<A>(id, as_of).await?.and_then(|view| A::node(Seen::of(view, as_of))))
    }

    /// The state of one thing, as it is now or was.
    pub async fn state<A: Aggregate>(&self, id: A::Id, as_of: Option<Timestamp>) -> Result<Option<View<A>>, Fault> {
        let found = self.services.views.by_id::<A>(self.ctx.tenant, id, as_of.map(|time| time.0)).await;
        found.map_err(|error| fault("reading the read model", &error))
    }

    /// A page of things, as they are now or were.
    pub async fn list<A: Shown>(&self, filter: Filter, page: Page, as_of: Option<Timestamp>) -> Result<List<A::Node>, Fault> {
        let filter = view::Filter { as_of: as_of.map(|time| time.0), ..filter.0 };
        shown(self.services.views.page::<A>(self.ctx.tenant, &filter, &page).await, as_of)
    }

    /// A page of things that also pass a test of what only stands inside.
    pub async fn list_where<A: Shown>(&self, filter: Filter, page: Page, fits: impl Fn(&A) -> bool + Sync) -> Result<List<A::Node>, Fault> {
        shown(self.services.views.page_where::<A>(self.ctx.tenant, &filter.0, &page, &fits).await, None)
    }

    /// Everything that passes a filter.
    pub async fn every<A: Aggregate>(&self, filter: Filter) -> Result<Vec<A>, Fault> {
        let found = self.services.views.every_of::<A>(self.ctx.tenant, &filter.0).await;
        found.map_err(|error| fault("listing from the read model", &error))
    }

    /// Hands a command to the handler, and waits, bounded, until what it did can be read.
    pub async fn run<A: Shown>(
        &self,
        id: A::Id,
        command: A::Command,
        question: Question,
        common: impl Into<Common>,
    ) -> Result<Done<A::Node>, Stop> {
        let options = options(common.into(), Vec::new())?;
        self.run_with::<A>(id, command, question, options).await
    }

    /// As [`Api::run`], with all options.
    pub async fn run_with<A: Shown>(
        &self,
        id: A::Id,
        command: A::Command,
        question: Question,
        options: Options,
    ) -> Result<Done<A::Node>, Stop> {
        let handled = self.handle::<A>(&self.ctx, id, command, question, options).await?;
        self.done(id, handled).await
    }

    /// Hands a command to the handler as this principal.
    pub async fn handle<A: Aggregate>(
        &self,
        ctx: &OpContext,
        id: A::Id,
        command: A::Command,
        question: Question,
        options: Options,
    ) -> Result<Handled<A>, Stop> {
        self.services.handler.handle::<A>(ctx, question, id, options, command).await.map_err(stop)
    }

    /// Waits, bounded, and shows what came of a command.
    pub async fn done<A: Shown>(&self, id: A::Id, handled: Handled<A>) -> Result<Done<A::Node>, Stop> {
        let readable = self.readable(handled.cursor).await?;
        let node = A::node(Seen { id, revision: handled.revision, state: handled.state, as_of: None });
        let outcome = Outcome { user_errors: Vec::new(), position: Some(handled.position), pending: !readable };
        Ok(Done { node, outcome, replayed: handled.replayed })
    }

    /// Waits, bounded, until the read model has come this far.
    pub async fn readable(&self, cursor: Cursor) -> Result<bool, Fault> {
        let waited = self.services.views.wait_for(cursor, self.services.read_your_writes).await;
        waited.map_err(|error| fault("waiting for the read model", &error))
    }

    /// How many pass a filter.
    pub async fn count<A: Aggregate>(&self, filter: Filter) -> Result<u64, Fault> {
        self.services.views.count::<A>(self.ctx.tenant, &filter.0).await.map_err(|error| fault("counting in the read model", &error))
    }

    /// The id of a project, from an id or a name.
    pub fn project_reference(&self, text: &str) -> Option<ProjectId> {
        text.parse().ok().or_else(|| text.parse::<Name>().ok().map(|name| naming::project_id(&self.keys, &name)))
    }

    /// The id of a site, from an id or a name.
    pub fn site_reference(&self, text: &str) -> Option<SiteId> {
        text.parse().ok().or_else(|| text.parse::<Name>().ok().map(|name| naming::site_id(&self.keys, &name)))
    }

    /// The id of a key, from an id, `project/name` or `project/alias`.
    pub async fn key_reference(&self, text: &str) -> Result<Option<KeyId>, Fault> {
        let (project, name) = match text.parse() {
            Ok(KeyReference::Id(id)) => return Ok(Some(id)),
            Ok(KeyReference::Version(version)) => return Ok(Some(version.key)),
            Ok(KeyReference::Composite(_)) => return Ok(None),
            Ok(KeyReference::Named { project, name }) => (naming::project_id(&self.keys, &project), name),
            Err(_) => match text.split_once('/').map(|(project, name)| (project.parse(), name.parse::<Name>())) {
                Some((Ok(project), Ok(name))) => (project, name),
                _ => return Ok(None),
            },
        };
        let id = naming::key_id(&self.keys, project, &name);
        if self.state::<Key>(id, None).await?.is_some() {
            return Ok(Some(id));
        }
        let alias = self.state::<Alias>(naming::alias_id(&self.keys, project, &name), None).await?;
        Ok(alias.and_then(|alias| alias.state.key))
    }

    /// The id of a caller, from an id or `project/name`.
    pub async fn caller_reference(&self, text: &str) -> Result<Option<CallerId>, Fault> {
        if let Ok(id) = text.parse() {
            return Ok(Some(id));
        }
        let Some((project, name)) = text.split_once('/') else { return Ok(None) };
        let Some(project) = self.project_reference(project) else { return Ok(None) };
        let found = self.services.views.by_name::<Caller>(self.ctx.tenant, Some(&project.to_string()), name, None).await;
        Ok(found.map_err(|error| fault("looking up a caller", &error))?.map(|view| view.id))
    }

    /// The id of a policy, from an id, a name (of the tenant's own) or `project/name`.
    pub fn policy_reference(&self, text: &str) -> Option<PolicyId> {
        if let Ok(id) = text.parse() {
            return Some(id);
        }
        match text.split_once('/') {
            None => Some(naming::policy_id(&self.keys, Scope::Tenant, &text.parse().ok()?)),
            Some((project, name)) => {
                Some(naming::policy_id(&self.keys, Scope::Project(self.project_reference(project)?), &name.parse().ok()?))
            }
        }
    }

    /// A filter for what lies in a project, when one is named; nothing when the reference is none.
    pub fn in_project(&self, reference: Option<&str>) -> Option<Filter> {
        match reference {
            None => Some(Filter::all()),
            Some(text) => self.project_reference(text).map(Filter::within),
        }
    }

    /// As [`Api::project_reference`], for the input of a mutation.
    pub fn project(&self, field: &'static str, text: &str) -> Result<ProjectId, Stop> {
        self.project_reference(text).ok_or_else(|| not_a_reference(field, "an id, prj_…, or a project's name"))
    }

    /// As [`Api::site_reference`], for the input of a mutation.
    pub fn site(&self, field: &'static str, text: &str) -> Result<SiteId, Stop> {
        self.site_reference(text).ok_or_else(|| not_a_reference(field, "an id, site_…, or a site's name"))
    }

    /// As [`Api::policy_reference`], for the input of a mutation.
    pub fn policy(&self, field: &'static str, text: &str) -> Result<PolicyId, Stop> {
        self.policy_reference(text).ok_or_else(|| not_a_reference(field, "an id, pol_…, a name, or project/name"))
    }

    /// An agent's id, for the input of a mutation.
    pub fn agent(&self, field: &'static str, text: &str) -> Result<AgentId, Stop> {
        text.parse().map_err(|_| not_a_reference(field, "an agent's id, agt_…"))
    }

    /// As [`Api::key_reference`], for the input of a mutation.
    pub async fn key(&self, field: &'static str, text: &str) -> Result<KeyId, Stop> {
        self.key_reference(text).await?.ok_or_else(|| no_such(field, "key"))
    }

    /// As [`Api::caller_reference`], for the input of a mutation.
    pub async fn caller(&self, field: &'static str, text: &str) -> Result<CallerId, Stop> {
        self.caller_reference(text).await?.ok_or_else(|| no_such(field, "caller"))
    }

    /// A project that there is.
    pub async fn existing_project(&self, field: &'static str, text: &str) -> Result<ProjectId, Stop> {
        let id = self.project(field, text)?;
        self.state::<Project>(id, None).await?.map(|_| id).ok_or_else(|| no_such(field, "project"))
    }

    /// A site that there is.
    pub async fn existing_site(&self, field: &'static str, text: &str) -> Result<SiteId, Stop> {
        let id = self.site(field, text)?;
        self.state::<Site>(id, None).await?.map(|_| id).ok_or_else(|| no_such(field, "site"))
    }

    /// A project; many at once are one query.
    pub async fn load_project(&self, id: ProjectId, as_of: Option<Timestamp>) -> Result<Option<ProjectNode>, Fault> {
        Ok(self.load::<Project>(&[id], as_of).await?.pop())
    }

    /// A key; many at once are one query.
    pub async fn load_key(&self, id: KeyId, as_of: Option<Timestamp>) -> Result<Option<KeyNode>, Fault> {
        Ok(self.load::<Key>(&[id], as_of).await?.pop())
    }

    /// Sites; many at once are one query.
    pub async fn load_sites(&self, ids: &[SiteId], as_of: Option<Timestamp>) -> Result<Vec<SiteNode>, Fault> {
        self.load::<Site>(ids, as_of).await
    }

    /// An agent; many at once are one query.
    pub async fn load_agent(&self, id: AgentId, as_of: Option<Timestamp>) -> Result<Option<AgentNode>, Fault> {
        Ok(self.load::<Agent>(&[id], as_of).await?.pop())
    }

    /// Agents; many at once are one query.
    pub async fn load_agents(&self, ids: &[AgentId], as_of: Option<Timestamp>) -> Result<Vec<AgentNode>, Fault> {
        self.load::<Agent>(ids, as_of).await
    }

    /// The agents of these sites and how far each is; those of many keys are one query.
    pub async fn agents_at(&self, sites: &[SiteId], as_of: Option<Timestamp>) -> Result<Vec<(AgentId, AgentState)>, Fault> {
        let wanted = sites.iter().map(|site| AgentsOf { site: *site, as_of }).collect::<Vec<_>>();
        let found = self.loader.load_many(wanted).await.map_err(|error| fault("loading from the read model", &*error))?;
        Ok(found.into_values().flatten().collect())
    }

    async fn load<A: Shown>(&self, ids: &[A::Id], as_of: Option<Timestamp>) -> Result<Vec<A::Node>, Fault>
    where
        Loader: async_graphql::dataloader::Loader<Wanted<A>, Value = Seen<A>, Error = Arc<QueryError>>,
    {
        let wanted = |id: &A::Id| Wanted { id: *id, as_of };
        let found = self.loader.load_many(ids.iter().map(wanted).collect::<Vec<Wanted<A>>>()).await;
        let mut found = found.map_err(|error| fault("loading from the read model", &*error))?;
        Ok(ids.iter().filter_map(|id| found.remove(&wanted(id)).and_then(A::node)).collect())
    }

    /// What an agent last said of itself; the reports of a site are read at once.
    pub async fn last_report(&self, site: SiteId, agent: AgentId) -> Result<Option<LastReport>, Fault> {
        let reports = self.loader.load_one(ReportsOf(site)).await.map_err(|error| fault("reading reports of agents", &*error))?;
        Ok(reports.and_then(|reports| reports.get(&agent).cloned()))
    }

    /// The agents that were heard of lately.
    pub async fn heard_of(&self, within: Duration) -> Result<BTreeSet<AgentId>, Fault> {
        let since = self.services.clock.now().minus(within);
        self.services.reports.heard(self.ctx.tenant, since).await.map_err(|error| fault("reading reports of agents", &error))
    }

    /// The budgets of a key, as agents share them.
    pub async fn budget(&self, key: KeyId, as_of: Option<Timestamp>) -> Result<Budget, Fault> {
        let found = self.state::<Budget>(Budget::id(&self.keys, key), as_of).await?;
        Ok(found.map(|view| view.state).unwrap_or_default())
    }

    /// The aliases of a key; those of many at once are one query.
    pub async fn aliases_of(&self, key: KeyId, as_of: Option<Timestamp>) -> Result<Vec<String>, Fault> {
        let found = self.loader.load_one(AliasesOf { key, as_of }).await;
        Ok(found.map_err(|error| fault("loading from the read model", &*error))?.unwrap_or_default())
    }
}

/// A page as it is shown.
fn shown<A: Shown>(slice: Result<view::Slice<A>, QueryError>, as_of: Option<Timestamp>) -> Result<List<A::Node>, Fault> {
    let slice = match slice {
        Ok(slice) => slice,
        Err(QueryError::InvalidCursor) => return Err(bad_request("invalid_cursor", "this is not a cursor of this list")),
        Err(QueryError::NothingSoFar { cursor }) => return Err(scan_limit(&cursor)),
        Err(error) => return Err(fault("listing from the read model", &error)),
    };
    let entries = slice.items.into_iter().filter_map(|(cursor, view)| A::node(Seen::of(view, as_of)).map(|node| (cursor, node)));
    Ok(page::list(entries, slice.has_previous, slice.has_next))
}

/// Reads the common part of an input.
pub fn options(common: Common, blobs: Vec<Vec<u8>>) -> Result<Options, Stop> {
    let idempotency_key = common.idempotency_key.map(|key| key.parse::<IdempotencyKey>()).transpose();
    let idempotency_key = idempotency_key.map_err(|error| UserError::at("idempotencyKey", "invalid_input", error))?;
    Ok(Options { idempotency_key, expected_revision: common.expected_revision.map(|revision| revision.0), blobs, ..Options::default() })
}

/// Refusals are shown, faults are logged.
pub fn stop<R: crate::eventing::aggregate::Refusal>(error: CommandError<R>) -> Stop {
    match error.code() {
        Some(code) => {
            Stop::Refused(vec![UserError { code: code.to_owned(), field: error.field().map(str::to_owned), message: error.to_string() }])
        }
        None => Stop::Fault(fault("handling a command", &error)),
    }
}

fn not_a_reference(field: &'static str, expected: &str) -> Stop {
    UserError::at(field, "invalid_input", format!("expected {expected}")).into()
}

/// The input names something that is not there (or is another tenant's, which is the same from outside).
pub fn no_such(field: &'static str, kind: &'static str) -> Stop {
    UserError::at(field, "not_found", format!("there is no such {kind}")).into()
}

/// What a loader is asked for.
pub struct Wanted<A: Aggregate> {
    id: A::Id,
    as_of: Option<Timestamp>,
}

impl<A: Aggregate> Clone for Wanted<A> {
    fn clone(&self) -> Self {
        Self { id: self.id, as_of: self.as_of }
    }
}

impl<A: Aggregate> PartialEq for Wanted<A> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.as_of == other.as_of
    }
}

impl<A: Aggregate> Eq for Wanted<A> {}

impl<A: Aggregate> std::hash::Hash for Wanted<A> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id.bits().hash(state);
    }
}

/// Reads many things of one kind at once.
pub struct Loader {
    ctx: OpContext,
    views: Views,
    reports: Reports,
}

/// The reports of the agents of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ReportsOf(SiteId);

impl async_graphql::dataloader::Loader<ReportsOf> for Loader {
    type Value = Arc<BTreeMap<AgentId, LastReport>>;
    type Error = Arc<ReportError>;

    async fn load(&self, sites: &[ReportsOf]) -> Result<HashMap<ReportsOf, Self::Value>, Self::Error> {
        let mut found = HashMap::new();
        for site in sites {
            found.insert(*site, Arc::new(self.reports.of_site(self.ctx.tenant, site.0).await.map_err(Arc::new)?));
        }
        Ok(found)
    }
}

/// The agents of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct AgentsOf {
    site: SiteId,
    as_of: Option<Timestamp>,
}

impl async_graphql::dataloader::Loader<AgentsOf> for Loader {
    type Value = Vec<(AgentId, AgentState)>;
    type Error = Arc<QueryError>;

    async fn load(&self, wanted: &[AgentsOf]) -> Result<HashMap<AgentsOf, Self::Value>, Self::Error> {
        let mut found: HashMap<AgentsOf, Self::Value> = HashMap::new();
        for (as_of, wanted) in by_time(wanted, |wanted| wanted.as_of) {
            let sites: Vec<_> = wanted.iter().map(|wanted| wanted.site.to_string()).collect();
            let views = self.views.by_term::<Agent>(self.ctx.tenant, "site", &sites, as_of.map(|time| time.0)).await.map_err(Arc::new)?;
            for agent in views.into_iter().map(|view| view.state) {
                if let (Some(state), Some(fixed)) = (agent.state(), &agent.fixed) {
                    found.entry(AgentsOf { site: fixed.site, as_of }).or_default().push((fixed.id, state));
                }
            }
        }
        Ok(found)
    }
}

/// The aliases of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct AliasesOf {
    key: KeyId,
    as_of: Option<Timestamp>,
}

impl async_graphql::dataloader::Loader<AliasesOf> for Loader {
    type Value = Vec<String>;
    type Error = Arc<QueryError>;

    async fn load(&self, wanted: &[AliasesOf]) -> Result<HashMap<AliasesOf, Vec<String>>, Self::Error> {
        let mut found: HashMap<AliasesOf, Vec<String>> = HashMap::new();
        for (as_of, wanted) in by_time(wanted, |wanted| wanted.as_of) {
            let keys: Vec<_> = wanted.iter().map(|wanted| wanted.key.to_string()).collect();
            let views = self.views.by_term::<Alias>(self.ctx.tenant, "key", &keys, as_of.map(|time| time.0)).await.map_err(Arc::new)?;
            for Alias { fixed, key, .. } in views.into_iter().map(|view| view.state) {
                if let (Some(fixed), Some(key)) = (fixed, key) {
                    found.entry(AliasesOf { key, as_of }).or_default().push(fixed.name.to_string());
                }
            }
        }
        Ok(found)
    }
}

impl<A: Aggregate> async_graphql::dataloader::Loader<Wanted<A>> for Loader {
    type Value = Seen<A>;
    type Error = Arc<QueryError>;

    async fn load(&self, wanted: &[Wanted<A>]) -> Result<HashMap<Wanted<A>, Seen<A>>, Self::Error> {
        let mut found = HashMap::new();
        for (as_of, wanted) in by_time(wanted, |wanted| wanted.as_of) {
            let ids: Vec<_> = wanted.iter().map(|wanted| wanted.id).collect();
            let views = self.views.by_ids::<A>(self.ctx.tenant, &ids, as_of.map(|time| time.0)).await.map_err(Arc::new)?;
            found.extend(views.into_iter().map(|view| (Wanted { id: view.id, as_of }, Seen::of(view, as_of))));
        }
        Ok(found)
    }
}

/// What is wanted of each time: one query for each.
fn by_time<W>(wanted: &[W], as_of: impl Fn(&W) -> Option<Timestamp>) -> HashMap<Option<Timestamp>, Vec<&W>> {
    let mut times: HashMap<_, Vec<_>> = HashMap::new();
    for wanted in wanted {
        times.entry(as_of(wanted)).or_default().push(wanted);
    }
    times
}
