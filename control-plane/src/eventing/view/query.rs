//! Questions to the read model. Every one takes the tenant first and finds nothing of another's.

use std::{sync::Arc, time::Duration};

use schema::{
    clock::Timestamp,
    encoding::{Digest, base64url, from_base64url},
    id::{DataKeyId, Id, TenantId},
};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Value};
use tokio::{sync::watch, time::Instant};

use super::{
    projector::{Kinds, Projector},
    writing::SERVED,
};
use crate::{
    database::Database,
    eventing::{
        aggregate::Aggregate,
        store::{Cursor, EventStore},
    },
    sealing::{Keyring, Place, SealingError, TenantKeys},
};

const POLL_INTERVAL: Duration = Duration::from_millis(25);
/// Rows opened at a time when a listing filters by what only stands inside.
const SCAN: usize = 200;
/// The most ids one statement names.
const MAX_IDS: usize = 500;
/// The most rows opened for one page of such a listing, unless settings say otherwise.
const MAX_LOOKED_AT: usize = 10_000;

/// An aggregate as it is, or was.
#[derive(Debug, Clone, PartialEq)]
pub struct View<A: Aggregate> {
    /// Its id.
    pub id: A::Id,
    /// Its state.
    pub state: A,
    /// The revision of its stream that this shows.
    pub revision: u64,
    /// From when it was so.
    pub valid_from: Timestamp,
    /// Until when; none while it still is.
    pub valid_to: Option<Timestamp>,
}

/// Which ones.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those that belong to this.
    pub parent: Option<String>,
    /// Those in one of these states; all, when empty.
    pub states: Vec<String>,
    /// Those that have all of these terms.
    pub terms: Vec<(String, String)>,
    /// Those whose name contains this. Rows are opened to find them.
    pub name_contains: Option<String>,
    /// As it was at this time.
    pub as_of: Option<Timestamp>,
}

/// Which page of them, after the Relay connection specification.
#[derive(Debug, Clone)]
pub enum Page {
    /// The first so many, after a cursor.
    First {
        /// How many.
        count: usize,
        /// The cursor of an element.
        after: Option<String>,
    },
    /// The last so many, before a cursor.
    Last {
        /// How many.
        count: usize,
        /// The cursor of an element.
        before: Option<String>,
    },
}

/// A page, in ascending order of ids.
#[derive(Debug, Clone)]
pub struct Slice<A: Aggregate> {
    /// Each with its cursor.
    pub items: Vec<(String, View<A>)>,
    /// Whether there are more after these; known when paging forward, else as far as a cursor says.
    pub has_next: bool,
    /// Whether there are more before these.
    pub has_previous: bool,
}

/// A page of tenants, in ascending order of ids; the id is the cursor.
#[derive(Debug, Clone)]
pub struct TenantPage {
    /// Their ids.
    pub items: Vec<TenantId>,
    /// Whether there are more after these.
    pub has_next: bool,
    /// Whether there are more before these.
    pub has_previous: bool,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The cursor is not one of ours.
    #[error("this cursor does not belong to this listing")]
    InvalidCursor,
    /// Nothing fits among as many rows as one request may look at.
    #[error("nothing fits among the entries that one request looks at")]
    NothingSoFar {
        /// Where to go on.
        cursor: String,
    },
    /// A row does not open.
    #[error("opening a row of the read model failed")]
    Sealing(#[from] SealingError),
    /// A row does not have the shape of its kind.
    #[error("a {kind} of the read model is not readable as one; rebuild the read model")]
    State {
        /// The kind.
        kind: &'static str,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// The database could not be asked.
    #[error("asking the read model failed")]
    Database(#[from] DbErr),
}

/// Answers questions from the read model. Clones share it.
#[derive(Clone)]
pub struct Views {
    database: Database,
    keyring: Arc<Keyring>,
    reached: watch::Sender<Cursor>,
    scan_limit: usize,
}

impl Views {
    /// The read model, and what writes it.
    pub fn open(database: Database, keyring: Arc<Keyring>, store: Arc<dyn EventStore>, kinds: Kinds) -> (Self, Projector) {
        let reached = watch::Sender::new(Cursor::START);
        let projector = Projector::new(database.projecting(), Arc::clone(&keyring), store, kinds, reached.clone());
        (Self { database, keyring, reached, scan_limit: MAX_LOOKED_AT }, projector)
    }

    /// Opens at most about this many rows for one page.
    #[must_use]
    pub fn scan_limit(mut self, rows: usize) -> Self {
        self.scan_limit = rows;
        self
    }

    /// The one with this id.
    pub async fn by_id<A: Aggregate>(&self, tenant: TenantId, id: A::Id, as_of: Option<Timestamp>) -> Result<Option<View<A>>, QueryError> {
        Ok(self.by_ids(tenant, &[id], as_of).await?.pop())
    }

    /// Those with these ids that there are, in order of ids: for loaders.
    pub async fn by_ids<A: Aggregate>(
        &self,
        tenant: TenantId,
        ids: &[A::Id],
        as_of: Option<Timestamp>,
    ) -> Result<Vec<View<A>>, QueryError> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MAX_IDS) {
            let mut query = Query::new::<A>(tenant, as_of);
            query.one_of("v.id", ids.iter().map(|id| Value::from(id.to_string())));
            found.extend(self.fetch(tenant, query.sql("ORDER BY v.id"), query.values).await?);
        }
        Ok(found)
    }

    /// The present ones of these ids, each with whether something in it is personal.
    pub(super) async fn opened<A: Aggregate>(&self, tenant: TenantId, ids: &[A::Id]) -> Result<Vec<(View<A>, bool)>, QueryError> {
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MAX_IDS) {
            let mut query = Query::new::<A>(tenant, None);
            query.one_of("v.id", ids.iter().map(|id| Value::from(id.to_string())));
            let rows = self.database.of(tenant).query_all_raw(self.database.sql(query.sql(""), query.values)).await?;
            for row in &rows {
                found.push(self.open_row(tenant, row).await?);
            }
        }
        Ok(found)
    }

    /// Ids and revisions of the present ones, in order of ids, so many of them behind one.
    pub(super) async fn revisions<A: Aggregate>(
        &self,
        tenant: TenantId,
        after: Option<A::Id>,
        count: usize,
    ) -> Result<Vec<(A::Id, u64)>, QueryError> {
        let mut query = Query::new::<A>(tenant, None);
        if let Some(after) = after {
            query.compare("v.id", ">", after.to_string());
        }
        let sql = format!("SELECT v.id, v.revision FROM views v WHERE {} ORDER BY v.id LIMIT {count}", query.conditions);
        let rows = self.database.of(tenant).query_all_raw(self.database.sql(sql, query.values)).await?;
        let read = rows.iter().map(|row| {
            let (id, revision): (String, i64) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            Ok((id.parse().map_err(|_| SealingError::DoesNotOpen)?, revision.unsigned_abs()))
        });
        read.collect()
    }

    /// Those that have a term with one of these values, in order of ids: for loaders.
    pub async fn by_term<A: Aggregate>(
        &self,
        tenant: TenantId,
        term: &str,
        values: &[String],
        as_of: Option<Timestamp>,
    ) -> Result<Vec<View<A>>, QueryError> {
        let keys = self.keyring.tenant(tenant).await?;
        let mut found = Vec::new();
        for values in values.chunks(MAX_IDS) {
            let mut query = Query::new::<A>(tenant, as_of);
            query.has_term_of(values.iter().map(|value| keys.blind("view_terms.term", &[A::KIND, term, value])));
            found.extend(self.fetch(tenant, query.sql("ORDER BY v.id"), query.values).await?);
        }
        Ok(found)
    }

    /// The one of this name inside its parent.
    pub async fn by_name<A: Aggregate>(
        &self,
        tenant: TenantId,
        parent: Option<&str>,
        name: &str,
        as_of: Option<Timestamp>,
    ) -> Result<Option<View<A>>, QueryError> {
        let keys = self.keyring.tenant(tenant).await?;
        let mut query = Query::new::<A>(tenant, as_of);
        match parent {
            Some(parent) => query.equal("v.parent", keys.blind("views.parent", &[A::KIND, parent])),
            None => query.and("v.parent IS NULL"),
        }
        query.equal("v.name", keys.blind("views.name", &[A::KIND, name]));
        Ok(self.fetch(tenant, query.sql("ORDER BY v.id LIMIT 1"), query.values).await?.pop())
    }

    /// Whose secret this is, in the whole deployment: the only question without a tenant, for those who prove who they
    /// are by the secret itself.
    pub async fn by_handle<A: Aggregate>(&self, handle: &Digest) -> Result<Option<(TenantId, View<A>)>, QueryError> {
        let sql = "SELECT tenant, id FROM view_handles WHERE handle = $1 AND kind = $2";
        let values = vec![handle.to_string().into(), A::KIND.into()];
        let Some(row) = self.database.read().query_one_raw(self.database.sql(sql, values)).await? else { return Ok(None) };
        let (tenant, id): (String, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
        let (Ok(tenant), Ok(id)) = (tenant.parse(), id.parse()) else { return Ok(None) };
        Ok(self.by_id(tenant, id, None).await?.map(|view| (tenant, view)))
    }

    /// A page of those that pass the filter.
    pub async fn page<A: Aggregate>(&self, tenant: TenantId, filter: &Filter, page: &Page) -> Result<Slice<A>, QueryError> {
        match &filter.name_contains {
            Some(part) => self.sifted(tenant, filter, page, Some(&|state: &A| named(state, part))).await,
            None => self.sifted(tenant, filter, page, None).await,
        }
    }

    /// As [`Views::page`], of those that also pass a test of what only stands inside. Rows are opened to find them, so a page
    /// may have fewer entries than asked for although there are more: one request looks at a bounded number of rows.
    pub async fn page_where<A: Aggregate>(
        &self,
        tenant: TenantId,
        filter: &Filter,
        page: &Page,
        fits: &(dyn Fn(&A) -> bool + Sync),
    ) -> Result<Slice<A>, QueryError> {
        let part = filter.name_contains.as_deref();
        let both = |state: &A| part.is_none_or(|part| named(state, part)) && fits(state);
        self.sifted(tenant, filter, page, Some(&both)).await
    }

    async fn sifted<A: Aggregate>(
        &self,
        tenant: TenantId,
        filter: &Filter,
        page: &Page,
        fits: Option<&(dyn Fn(&A) -> bool + Sync)>,
    ) -> Result<Slice<A>, QueryError> {
        let keys = self.keyring.tenant(tenant).await?;
        let (count, mut edge, forward) = match page {
            Page::First { count, after } => (*count, after.as_deref().map(id_of::<A>).transpose()?, true),
            Page::Last { count, before } => (*count, before.as_deref().map(id_of::<A>).transpose()?, false),
        };
        let from_edge = edge.is_some();
        let wanted = count.saturating_add(1);
        let mut found: Vec<View<A>> = Vec::new();
        let (mut looked_at, mut cut) = (0, false);
        while found.len() < wanted {
            let mut query = filtered::<A>(&keys, tenant, filter);
            if let Some(edge) = edge {
                query.compare("v.id", if forward { ">" } else { "<" }, edge.to_string());
            }
            let take = if fits.is_some() { SCAN.max(wanted) } else { wanted };
            let order = if forward { "ASC" } else { "DESC" };
            let rows: Vec<View<A>> = self.fetch(tenant, query.sql(&format!("ORDER BY v.id {order} LIMIT {take}")), query.values).await?;
            let exhausted = rows.len() < take;
            edge = rows.last().map(|view| view.id).or(edge);
            looked_at += rows.len();
            found.extend(rows.into_iter().filter(|view| fits.is_none_or(|fits| fits(&view.state))));
            cut = fits.is_some() && !exhausted && looked_at >= self.scan_limit;
            if exhausted || cut {
                break;
            }
        }
        if let (true, true, Some(edge)) = (cut, found.is_empty(), edge) {
            return Err(QueryError::NothingSoFar { cursor: cursor_of::<A>(edge) });
        }
        let more = found.len() > count || cut;
        found.truncate(count);
        if !forward {
            found.reverse();
        }
        let items = found.into_iter().map(|view| (cursor_of::<A>(view.id), view)).collect();
        Ok(Slice { items, has_next: if forward { more } else { from_edge }, has_previous: if forward { from_edge } else { more } })
    }

    /// The ids of all tenants of the deployment, for its operators: ids are all they see of one.
    pub async fn tenants(&self, page: &Page) -> Result<TenantPage, QueryError> {
        let (count, edge, forward) = match page {
            Page::First { count, after } => (*count, after, true),
            Page::Last { count, before } => (*count, before, false),
        };
        let edge = edge.as_deref().map(|text| text.parse::<TenantId>().map_err(|_| QueryError::InvalidCursor)).transpose()?;
        let mut sql = "SELECT id FROM views v WHERE kind = $1 AND valid_to IS NULL".to_owned();
        let mut values: Vec<Value> = vec!["tenant".into()];
        if let Some(edge) = edge {
            sql.push_str(if forward { " AND id > $2" } else { " AND id < $2" });
            values.push(edge.to_string().into());
        }
        let order = if forward { "ASC" } else { "DESC" };
        sql.push_str(&format!(" ORDER BY id {order} LIMIT {}", count.saturating_add(1)));
        let rows = self.database.read().query_all_raw(self.database.sql(sql, values)).await?;
        let more = rows.len() > count;
        let mut items = Vec::with_capacity(count);
        for row in rows.iter().take(count) {
            let id: String = row.try_get_by_index(0)?;
            items.push(id.parse().map_err(|_| QueryError::InvalidCursor)?);
        }
        if !forward {
            items.reverse();
        }
        let from_edge = edge.is_some();
        Ok(TenantPage { items, has_next: if forward { more } else { from_edge }, has_previous: if forward { from_edge } else { more } })
    }

    /// How many pass the filter, whatever they are named.
    pub async fn count<A: Aggregate>(&self, tenant: TenantId, filter: &Filter) -> Result<u64, QueryError> {
        let keys = self.keyring.tenant(tenant).await?;
        let query = filtered::<A>(&keys, tenant, filter);
        let row = self.database.of(tenant).query_one_raw(self.database.sql(query.count(), query.values)).await?;
        let count: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(count.unwrap_or(0).unsigned_abs())
    }

    /// Every state it has been in, oldest first.
    pub async fn history<A: Aggregate>(&self, tenant: TenantId, id: A::Id) -> Result<Vec<View<A>>, QueryError> {
        let mut query = Query::over_time::<A>(tenant);
        query.equal("v.id", id.to_string());
        self.fetch(tenant, query.sql("ORDER BY v.revision"), query.values).await
    }

    /// Waits until the read model has come this far: true, or false when it took longer than `timeout`.
    pub async fn wait_for(&self, cursor: Cursor, timeout: Duration) -> Result<bool, QueryError> {
        let deadline = Instant::now() + timeout;
        let mut reached = self.reached.subscribe();
        loop {
            if *reached.borrow_and_update() >= cursor {
                return Ok(true);
            }
            // Another replica may be the one that projects.
            let shared = self.database.backend() != DbBackend::Sqlite;
            if shared && checkpoint(&self.database, SERVED.checkpoint).await? >= cursor {
                return Ok(true);
            }
            tokio::select! {
                _ = reached.changed() => {}
                () = tokio::time::sleep(POLL_INTERVAL), if shared => {}
                () = tokio::time::sleep_until(deadline) => return Ok(*reached.borrow() >= cursor),
            }
        }
    }

    /// As [`Views::wait_for`], with a token that a command answered with. A token of another tenant, or of none, is
    /// not waited for.
    pub async fn wait_for_token(&self, tenant: TenantId, token: &str, timeout: Duration) -> Result<bool, QueryError> {
        match self.keyring.tenant(tenant).await?.position(token) {
            Some(cursor) => self.wait_for(cursor, timeout).await,
            None => Err(QueryError::InvalidCursor),
        }
    }

    async fn fetch<A: Aggregate>(&self, tenant: TenantId, sql: String, values: Vec<Value>) -> Result<Vec<View<A>>, QueryError> {
        let rows = self.database.of(tenant).query_all_raw(self.database.sql(sql, values)).await?;
        let mut views = Vec::with_capacity(rows.len());
        for row in &rows {
            views.push(self.open_row(tenant, row).await?.0);
        }
        Ok(views)
    }

    /// Also whether something in it is personal.
    async fn open_row<A: Aggregate>(&self, tenant: TenantId, row: &QueryResult) -> Result<(View<A>, bool), QueryError> {
        let id: String = row.try_get_by_index(0)?;
        let (revision, valid_from): (i64, i64) = (row.try_get_by_index(1)?, row.try_get_by_index(2)?);
        let valid_to: Option<i64> = row.try_get_by_index(3)?;
        let data_key: String = row.try_get_by_index(4)?;
        let sealed: Vec<u8> = row.try_get_by_index(5)?;
        let data_key: DataKeyId = data_key.parse().map_err(|_| SealingError::DoesNotOpen)?;
        let place = Place::View { kind: A::KIND, id: &id, revision: revision.unsigned_abs() };
        let state = self.keyring.open_sealed(tenant, place, data_key, &sealed).await?;
        let (state, is_personal) = match super::personal::opened(&self.keyring, tenant, &state).await? {
            Some(opened) => (serde_json::from_value(opened), true),
            None => (serde_json::from_slice(&state), false),
        };
        let view = View {
            id: id.parse().map_err(|_| SealingError::DoesNotOpen)?,
            state: state.map_err(|source| QueryError::State { kind: A::KIND, source })?,
            revision: revision.unsigned_abs(),
            valid_from: Timestamp::from_micros(valid_from),
            valid_to: valid_to.map(Timestamp::from_micros),
        };
        Ok((view, is_personal))
    }
}

/// How far a copy of the read model has come.
pub(super) async fn checkpoint(database: &Database, name: &'static str) -> Result<Cursor, DbErr> {
    let sql = "SELECT position FROM checkpoints WHERE name = $1";
    let row = database.read().query_one_raw(database.sql(sql, vec![name.into()])).await?;
    let position: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
    Ok(Cursor::at(position.unwrap_or(0).unsigned_abs()))
}

fn named<A: Aggregate>(state: &A, part: &str) -> bool {
    state.index().name.is_some_and(|name| name.contains(part))
}

fn cursor_of<A: Aggregate>(id: A::Id) -> String {
    base64url(&id.bits().to_be_bytes())
}

fn id_of<A: Aggregate>(cursor: &str) -> Result<A::Id, QueryError> {
    let bytes = from_base64url(cursor).map_err(|_| QueryError::InvalidCursor)?;
    let bits = bytes.try_into().map_err(|_| QueryError::InvalidCursor)?;
    Ok(A::Id::from_bits(u128::from_be_bytes(bits)))
}

fn filtered<A: Aggregate>(keys: &TenantKeys, tenant: TenantId, filter: &Filter) -> Query {
    let mut query = Query::new::<A>(tenant, filter.as_of);
    if let Some(parent) = &filter.parent {
        query.equal("v.parent", keys.blind("views.parent", &[A::KIND, parent]));
    }
    if !filter.states.is_empty() {
        query.one_of("v.state", filter.states.iter().map(|state| Value::from(state.as_str())));
    }
    for (term, value) in &filter.terms {
        query.has_term_of(std::iter::once(keys.blind("view_terms.term", &[A::KIND, term, value])));
    }
    query
}

/// A statement in the making. It begins with the tenant and the kind.
struct Query {
    conditions: String,
    values: Vec<Value>,
}

impl Query {
    fn over_time<A: Aggregate>(tenant: TenantId) -> Self {
        Self { conditions: "v.tenant = $1 AND v.kind = $2".to_owned(), values: vec![tenant.to_string().into(), A::KIND.into()] }
    }

    fn new<A: Aggregate>(tenant: TenantId, as_of: Option<Timestamp>) -> Self {
        let mut query = Self::over_time::<A>(tenant);
        match as_of {
            None => query.and("v.valid_to IS NULL"),
            Some(time) => {
                let n = query.value(time.micros());
                query.and(&format!("v.valid_from <= ${n} AND (v.valid_to IS NULL OR v.valid_to > ${n})"));
            }
        }
        query
    }

    fn value(&mut self, value: impl Into<Value>) -> usize {
        self.values.push(value.into());
        self.values.len()
    }

    fn and(&mut self, condition: &str) {
        self.conditions.push_str(" AND ");
        self.conditions.push_str(condition);
    }

    fn equal(&mut self, column: &str, value: impl Into<Value>) {
        self.compare(column, "=", value);
    }

    fn compare(&mut self, column: &str, operator: &str, value: impl Into<Value>) {
        let n = self.value(value);
        self.and(&format!("{column} {operator} ${n}"));
    }

    fn one_of(&mut self, column: &str, values: impl Iterator<Item = Value>) {
        let places: Vec<_> = values.map(|value| format!("${}", self.value(value))).collect();
        let places = if places.is_empty() { "NULL".to_owned() } else { places.join(", ") };
        self.and(&format!("{column} IN ({places})"));
    }

    fn has_term_of(&mut self, terms: impl Iterator<Item = Vec<u8>>) {
        let places: Vec<_> = terms.map(|term| format!("${}", self.value(term))).collect();
        let places = places.join(", ");
        self.and(&format!(
            "EXISTS (SELECT 1 FROM view_terms t WHERE t.tenant = v.tenant AND t.kind = v.kind AND t.term IN ({places}) AND t.id = v.id AND t.revision = v.revision)"
        ));
    }

    fn sql(&self, tail: &str) -> String {
        format!("SELECT v.id, v.revision, v.valid_from, v.valid_to, v.data_key, v.sealed FROM views v WHERE {} {tail}", self.conditions)
    }

    fn count(&self) -> String {
        format!("SELECT COUNT(*) FROM views v WHERE {}", self.conditions)
    }
}
