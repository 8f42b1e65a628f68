//! Writes the read model anew beside the one that is served, compares both, and puts the new one in its place.
//!
//! The new copy is projected from the first record on into tables of its own, while others go on reading and writing the one that
//! is served. Where the served one stands, both are compared; for the last stretch the checkpoint of the served one is held, so
//! that it stands still. Then the tables change their names in one transaction: whoever asks finds the one or the other, whole.

use std::{collections::BTreeSet, time::Instant};

use schema::{
    event::StreamId,
    id::{DataKeyId, TenantId},
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult, Value};
use serde::Serialize;

use super::{
    projector::{ProjectError, Projector},
    writing::{COPIES, SERVED, Tables, number},
};
use crate::{
    database::Database,
    eventing::store::Cursor,
    sealing::{Place, SealingError},
};

const ANEW: Tables = Tables { views: "views_anew", terms: "view_terms_anew", handles: "view_handles_anew", checkpoint: "views_anew" };
/// Tables that are there while the read model is written anew.
pub(crate) const WORK_TABLES: [&str; 3] = [ANEW.views, ANEW.terms, ANEW.handles];
/// Rows that may change while both are compared; more are a difference.
const SUSPECTS: usize = 10_000;
/// Differences that are told one by one.
const TOLD: usize = 100;
/// Rows opened at once.
const PAGE: usize = 500;
/// Only one at a time: a key of an advisory lock.
const LOCK: i64 = 7_236_837_458_093;

const JOIN: &str = "ON b.tenant = g.tenant AND b.kind = g.kind AND b.id = g.id AND b.revision = g.revision";
const KEY: &str = "COALESCE(b.tenant, g.tenant), COALESCE(b.kind, g.kind), COALESCE(b.id, g.id), COALESCE(b.revision, g.revision)";
/// Everything but what is sealed.
const PLAIN_DIFFERS: &str = "b.tenant IS NULL OR g.tenant IS NULL OR b.position <> g.position OR b.valid_from <> g.valid_from \
    OR b.valid_to IS DISTINCT FROM g.valid_to OR b.parent IS DISTINCT FROM g.parent OR b.name IS DISTINCT FROM g.name \
    OR b.state IS DISTINCT FROM g.state";

/// Why the read model was not written anew. What is served is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The new copy could not be written.
    #[error("writing the read model anew failed")]
    Project(#[from] ProjectError),
    /// Both could not be compared, or not be exchanged.
    #[error("{act} failed")]
    Database {
        /// What was tried.
        act: &'static str,
        /// Why.
        #[source]
        source: DbErr,
    },
    /// A key could not be used.
    #[error("opening rows of the read model failed")]
    Sealing(#[from] SealingError),
    /// Somebody else does the same.
    #[error("the read model is being written anew by another process already; wait for it to end")]
    Busy,
}

fn failed(act: &'static str) -> impl FnOnce(DbErr) -> RebuildError {
    move |source| RebuildError::Database { act, source }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Rows of the new copy.
    pub rows: u64,
    /// How far into the log both were compared.
    pub position: u64,
    /// Milliseconds in which the new copy was written, until it stood where the served one did.
    pub written_ms: u64,
    /// Milliseconds of everything after that: comparing both, and putting the new copy in place.
    pub compared_ms: u64,
    /// Whether the new copy is the one that is served now.
    pub switched: bool,
    /// How many rows differed.
    pub differences: u64,
    /// The first of them.
    pub told: Vec<Differs>,
}

/// A row that is not the same in both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Differs {
    /// `views`, `view_terms` or `view_handles`.
    pub table: &'static str,
    /// Which row.
    pub row: String,
    /// `missing` (only the new copy has it), `extra` (only the one that is served), `other`.
    pub how: &'static str,
}

type Key = (String, String, String, i64);

/// Writes the read model anew and puts it in place of the one that is served, when both are the same or a difference is accepted.
pub async fn rebuild(served: &mut Projector, accept: bool) -> Result<Rebuilt, RebuildError> {
    let database = served.database().clone();
    let alone = database.begin().await.map_err(failed("beginning"))?;
    let postgres = database.backend() == DbBackend::Postgres;
    let guard = if postgres {
        keep_open(&alone).await?;
        let sql = "SELECT pg_try_advisory_xact_lock($1)";
        let row = alone.query_one_raw(database.sql(sql, vec![LOCK.into()])).await.map_err(failed("asking for the lock"))?;
        if row.map(|row| row.try_get_by_index::<bool>(0)).transpose().map_err(failed("asking for the lock"))? != Some(true) {
            return Err(RebuildError::Busy);
        }
        Some(alone)
    } else {
        // The file has one writer, and its lock has told already that nobody else is here.
        alone.rollback().await.map_err(failed("beginning"))?;
        // Nobody else projects; what cannot be projected any more is what the new copy is for.
        if let Err(error) = served.catch_up().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the read model that is served cannot go on");
        }
        None
    };
    let outcome = build(served, accept).await;
    let removed = remove(&database).await;
    if let Some(guard) = guard {
        guard.rollback().await.map_err(failed("ending"))?;
    }
    let rebuilt = outcome?;
    removed?;
    served.forget();
    Ok(rebuilt)
}

async fn build(served: &mut Projector, accept: bool) -> Result<Rebuilt, RebuildError> {
    let database = served.database().clone();
    remove(&database).await?;
    create(&database).await?;
    let mut anew = served.of_copy(ANEW);
    let started = Instant::now();
    // The served one goes on meanwhile: follow it until it is close.
    let mut reached = Cursor::START;
    loop {
        let target = served.checkpoint().await.map_err(failed("reading the checkpoint"))?;
        if target == reached {
            break;
        }
        let far = target.position().saturating_sub(reached.position());
        anew.catch_up_to(target).await?;
        reached = target;
        if far < 1000 {
            break;
        }
    }
    let written_ms = millis(started);
    let started = Instant::now();
    gather_statistics(&database).await?;
    let mut look = Look { served, erased: erased(served).await? };
    let early = look.differences(&Among::UpTo(reached)).await?;
    let certain = early.len() > SUSPECTS;

    // From here on the served one stands still.
    let transaction = if database.backend() == DbBackend::Postgres {
        let transaction = database.begin().await.map_err(failed("holding the checkpoint"))?;
        keep_open(&transaction).await?;
        Some(transaction)
    } else {
        None
    };
    let stands = match &transaction {
        Some(transaction) => served.target().lock_checkpoint(transaction).await.map_err(failed("holding the checkpoint"))?,
        None => reached,
    };
    anew.catch_up_to(stands).await?;
    // Who was erased meanwhile has no rows in the one that is served, and gets none by this.
    look.erased = erased(served).await?;
    let mut found = if certain {
        early
    } else {
        let mut found = look.differences(&Among::Beyond(reached)).await?;
        if !early.is_empty() {
            let keys: BTreeSet<Key> = early.iter().map(|(_, key, _)| key.clone()).collect();
            found.extend(look.differences(&Among::These(keys)).await?);
        }
        found
    };
    found.extend(look.handles().await?);
    without(&database, &look.erased).await?;
    let rows = count(&database, ANEW.views).await?;
    let differences = found.len() as u64;
    let told = found
        .iter()
        .take(TOLD)
        .map(|(table, (tenant, kind, id, revision), how)| Differs { table, row: format!("{tenant} {kind} {id} revision {revision}"), how })
        .collect();
    let switched = differences == 0 || accept;
    match (transaction, switched) {
        (Some(transaction), true) => exchange(&database, transaction).await?,
        (Some(transaction), false) => transaction.rollback().await.map_err(failed("letting go of the checkpoint"))?,
        (None, true) => copy_over(&database).await?,
        (None, false) => {}
    }
    Ok(Rebuilt { rows, position: stands.position(), written_ms, compared_ms: millis(started), switched, differences, told })
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Which rows are compared.
enum Among {
    /// Those that records up to here give; that they end since is no difference yet.
    UpTo(Cursor),
    /// Those that later records give.
    Beyond(Cursor),
    /// These.
    These(BTreeSet<Key>),
}

struct Look<'a> {
    served: &'a Projector,
    /// Tenants of which nobody can read anything.
    erased: Vec<String>,
}

type Found = BTreeSet<(&'static str, Key, &'static str)>;

impl Look<'_> {
    async fn differences(&self, among: &Among) -> Result<Found, RebuildError> {
        let mut found = BTreeSet::new();
        match among {
            Among::UpTo(cursor) => {
                self.compare("COALESCE(b.position, g.position) <= $1", vec![number(cursor.position()).into()], &mut found).await?
            }
            Among::Beyond(cursor) => {
                self.compare("COALESCE(b.position, g.position) > $1", vec![number(cursor.position()).into()], &mut found).await?
            }
            Among::These(keys) => {
                let keys: Vec<&Key> = keys.iter().collect();
                for keys in keys.chunks(50) {
                    let (mut conditions, mut values): (Vec<String>, Vec<Value>) = Default::default();
                    for (tenant, kind, id, revision) in keys {
                        let n = values.len();
                        conditions.push(format!(
                            "(COALESCE(b.tenant, g.tenant) = ${} AND COALESCE(b.kind, g.kind) = ${} AND COALESCE(b.id, g.id) = ${} AND COALESCE(b.revision, g.revision) = ${})",
                            n + 1, n + 2, n + 3, n + 4
                        ));
                        values.extend([Value::from(tenant.clone()), kind.clone().into(), id.clone().into(), (*revision).into()]);
                    }
                    self.compare(&format!("({})", conditions.join(" OR ")), values, &mut found).await?;
                }
            }
        }
        Ok(found)
    }

    async fn compare(&self, which: &str, values: Vec<Value>, found: &mut Found) -> Result<(), RebuildError> {
        let (database, act) = (self.served.database(), "comparing both copies");
        let erased = self.not_erased(values.len());
        let mut values = values;
        values.extend(self.erased.iter().map(|tenant| Value::from(tenant.clone())));
        let how = "CASE WHEN b.tenant IS NULL THEN 'missing' WHEN g.tenant IS NULL THEN 'extra' ELSE 'other' END";
        let (views, anew) = (SERVED.views, ANEW.views);
        let sql = format!(
            "SELECT {KEY}, {how} FROM {views} b FULL OUTER JOIN {anew} g {JOIN} WHERE ({which}) AND ({PLAIN_DIFFERS}){erased} LIMIT {}",
            SUSPECTS + 1
        );
        self.collect(&sql, values.clone(), "views", found).await?;

        // What a rotated data key sealed, or an earlier version wrote, is other bytes and may be the same for all that.
        let mut last: Option<Key> = None;
        loop {
            let mut values = values.clone();
            let beyond = match &last {
                Some((tenant, kind, id, revision)) => {
                    let n = values.len();
                    values.extend([Value::from(tenant.clone()), kind.clone().into(), id.clone().into(), (*revision).into()]);
                    format!(" AND (b.tenant, b.kind, b.id, b.revision) > (${}, ${}, ${}, ${})", n + 1, n + 2, n + 3, n + 4)
                }
                None => String::new(),
            };
            let sql = format!(
                "SELECT b.tenant, b.kind, b.id, b.revision, b.data_key, b.sealed, g.data_key, g.sealed FROM {views} b JOIN {anew} g {JOIN} \
                 WHERE ({which}) AND (b.data_key <> g.data_key OR b.sealed <> g.sealed){erased}{beyond} \
                 ORDER BY b.tenant, b.kind, b.id, b.revision LIMIT {PAGE}"
            );
            let rows = database.read().query_all_raw(database.sql(sql, values)).await.map_err(failed(act))?;
            for row in &rows {
                let key = key(row).map_err(failed(act))?;
                if !self.same_state(&key, row).await.map_err(failed(act))? {
                    found.insert(("views", key.clone(), "other"));
                }
                last = Some(key);
            }
            if rows.len() < PAGE || found.len() > SUSPECTS {
                break;
            }
        }
        self.compare_terms(which, values, found).await
    }

    /// Terms of the rows that are compared, and those that have no row.
    async fn compare_terms(&self, which: &str, values: Vec<Value>, found: &mut Found) -> Result<(), RebuildError> {
        let erased = self.not_erased(values.len() - self.erased.len()).replace("COALESCE(b.tenant, g.tenant)", "t.tenant");
        for (ours, theirs, our_rows, how) in
            [(SERVED.terms, ANEW.terms, SERVED.views, "extra"), (ANEW.terms, SERVED.terms, ANEW.views, "missing")]
        {
            // `b` and `g` are the same row here, so that the condition on rows can be used as it is.
            let sql = format!(
                "SELECT t.tenant, t.kind, t.id, t.revision, '{how}' FROM {ours} t LEFT JOIN {our_rows} b \
                 ON b.tenant = t.tenant AND b.kind = t.kind AND b.id = t.id AND b.revision = t.revision \
                 LEFT JOIN {our_rows} g ON g.tenant = t.tenant AND g.kind = t.kind AND g.id = t.id AND g.revision = t.revision \
                 WHERE (({which}) OR b.tenant IS NULL) AND NOT EXISTS (SELECT 1 FROM {theirs} o WHERE o.tenant = t.tenant AND o.kind = t.kind \
                 AND o.term = t.term AND o.id = t.id AND o.revision = t.revision){erased} LIMIT {}",
                SUSPECTS + 1
            );
            self.collect(&sql, values.clone(), "view_terms", found).await?;
        }
        Ok(())
    }

    async fn handles(&self) -> Result<Found, RebuildError> {
        let mut found = BTreeSet::new();
        for (ours, theirs, how) in [(SERVED.handles, ANEW.handles, "extra"), (ANEW.handles, SERVED.handles, "missing")] {
            let sql = format!(
                "SELECT b.tenant, b.kind, b.id, CAST(0 AS BIGINT), '{how}' FROM {ours} b WHERE NOT EXISTS (SELECT 1 FROM {theirs} o WHERE o.handle = b.handle \
                 AND o.tenant = b.tenant AND o.kind = b.kind AND o.id = b.id){} LIMIT {}",
                self.not_erased(0).replace("COALESCE(b.tenant, g.tenant)", "b.tenant"),
                SUSPECTS + 1
            );
            let values = self.erased.iter().map(|tenant| Value::from(tenant.clone())).collect();
            self.collect(&sql, values, "view_handles", &mut found).await?;
        }
        Ok(found)
    }

    async fn collect(&self, sql: &str, values: Vec<Value>, table: &'static str, found: &mut Found) -> Result<(), RebuildError> {
        let (database, act) = (self.served.database(), "comparing both copies");
        for row in database.read().query_all_raw(database.sql(sql, values)).await.map_err(failed(act))? {
            let how: String = row.try_get_by_index(4).map_err(failed(act))?;
            let how = ["missing", "extra"].into_iter().find(|word| *word == how).unwrap_or("other");
            found.insert((table, key(&row).map_err(failed(act))?, how));
        }
        Ok(())
    }

    fn not_erased(&self, after: usize) -> String {
        if self.erased.is_empty() {
            return String::new();
        }
        let places: Vec<_> = (1..=self.erased.len()).map(|n| format!("${}", after + n)).collect();
        format!(" AND COALESCE(b.tenant, g.tenant) NOT IN ({})", places.join(", "))
    }

    /// Whether both rows say the same of the state, whatever they are sealed under and whichever version wrote them.
    async fn same_state(&self, (tenant, kind, id, revision): &Key, row: &QueryResult) -> Result<bool, DbErr> {
        let (Ok(tenant), Ok(stream)) = (tenant.parse::<TenantId>(), id.parse::<StreamId>()) else { return Ok(false) };
        let Some(known) = self.served.kind(stream.prefix()).filter(|known| known.name() == kind) else { return Ok(false) };
        let mut states = Vec::with_capacity(2);
        for column in [4, 6] {
            let (data_key, sealed): (String, Vec<u8>) = (row.try_get_by_index(column)?, row.try_get_by_index(column + 1)?);
            let Ok(data_key) = data_key.parse::<DataKeyId>() else { return Ok(false) };
            let place = Place::View { kind, id, revision: revision.unsigned_abs() };
            let Ok(state) = self.served.keyring().open_sealed(tenant, place, data_key, &sealed).await else { return Ok(false) };
            let Ok(opened) = super::personal::opened(self.served.keyring(), tenant, &state).await else { return Ok(false) };
            let state = opened.and_then(|opened| serde_json::to_vec(&opened).ok()).unwrap_or(state);
            states.push(known.rewritten(&state));
        }
        Ok(states[0].is_some() && states[0] == states[1])
    }
}

fn key(row: &QueryResult) -> Result<Key, DbErr> {
    Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?, row.try_get_by_index(3)?))
}

/// A transaction that waits while other connections work is not to be ended by the server, which ends what stands still.
async fn keep_open(transaction: &DatabaseTransaction) -> Result<(), RebuildError> {
    let sql = "SET LOCAL idle_in_transaction_session_timeout = 0";
    transaction.execute_unprepared(sql).await.map(drop).map_err(failed("beginning"))
}

/// On PostgreSQL: tables that were just filled have no statistics, and without them both copies are compared row by row, each time
/// through the other one whole. The served one's questions need them as well from the exchange on.
async fn gather_statistics(database: &Database) -> Result<(), RebuildError> {
    if database.backend() == DbBackend::Postgres {
        for table in pairs().into_iter().flat_map(|(served, anew)| [served, anew]) {
            database.write().execute_unprepared(&format!("ANALYZE {table}")).await.map_err(failed("gathering statistics"))?;
        }
    }
    Ok(())
}

/// Takes rows of erased tenants out of the new copy, which were written before they were erased.
async fn without(database: &Database, erased: &[String]) -> Result<(), RebuildError> {
    let act = "leaving out who was erased";
    for tenant in erased {
        for (_, anew) in pairs() {
            let sql = format!("DELETE FROM {anew} WHERE tenant = $1");
            database.write().execute_raw(database.sql(sql, vec![tenant.as_str().into()])).await.map_err(failed(act))?;
        }
    }
    Ok(())
}

/// Tenants whose keys were destroyed.
async fn erased(served: &Projector) -> Result<Vec<String>, RebuildError> {
    let (database, act) = (served.database(), "listing erased tenants");
    // Another process may have erased one whose keys are still in our memory.
    let sql = "SELECT tenant, CAST(1 AS BIGINT) FROM tombstones WHERE person = '' \
               UNION SELECT v.tenant, CAST(0 AS BIGINT) FROM views v JOIN tenant_keys k ON k.tenant = v.tenant";
    let mut erased = BTreeSet::new();
    for row in database.read().query_all_raw(database.sql(sql, vec![])).await.map_err(failed(act))? {
        let text: String = row.try_get_by_index(0).map_err(failed(act))?;
        let buried = row.try_get_by_index::<i64>(1).map_err(failed(act))? == 1;
        let destroyed = match text.parse() {
            Ok(tenant) if !buried => matches!(served.keyring().tenant(tenant).await, Err(SealingError::TenantErased(_))),
            _ => buried,
        };
        if destroyed {
            erased.insert(text);
        }
    }
    Ok(erased.into_iter().collect())
}

async fn count(database: &Database, table: &str) -> Result<u64, RebuildError> {
    let act = "counting rows";
    let row = database.read().query_one_raw(database.sql(format!("SELECT COUNT(*) FROM {table}"), vec![])).await.map_err(failed(act))?;
    let rows: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose().map_err(failed(act))?;
    Ok(rows.unwrap_or(0).unsigned_abs())
}

fn pairs() -> [(&'static str, &'static str); 3] {
    [(SERVED.views, ANEW.views), (SERVED.terms, ANEW.terms), (SERVED.handles, ANEW.handles)]
}

/// Takes the work tables away, also those of a run that was broken off.
async fn remove(database: &Database) -> Result<(), RebuildError> {
    let act = "removing the tables of the new copy";
    for (_, anew) in pairs() {
        database.write().execute_unprepared(&format!("DROP TABLE IF EXISTS {anew}")).await.map_err(failed(act))?;
    }
    let sql = "DELETE FROM checkpoints WHERE name = $1";
    database.write().execute_raw(database.sql(sql, vec![ANEW.checkpoint.into()])).await.map(drop).map_err(failed(act))
}

/// Makes tables like those that are served, empty.
async fn create(database: &Database) -> Result<(), RebuildError> {
    let act = "making the tables of the new copy (the role needs the right to make tables)";
    for (served, anew) in pairs() {
        match database.backend() {
            DbBackend::Postgres => create_like(database, served, anew).await.map_err(failed(act))?,
            _ => {
                let sql = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = $1";
                let row = database.write().query_one_raw(database.sql(sql, vec![served.into()])).await.map_err(failed(act))?;
                let made: Option<String> = row.map(|row| row.try_get_by_index(0)).transpose().map_err(failed(act))?;
                let made = made.unwrap_or_default().replacen(served, anew, 1);
                database.write().execute_unprepared(&made).await.map_err(failed(act))?;
            }
        }
    }
    if database.backend() != DbBackend::Postgres {
        let sql = "CREATE UNIQUE INDEX views_anew_present ON views_anew (tenant, kind, id) WHERE valid_to IS NULL";
        database.write().execute_unprepared(sql).await.map_err(failed(act))?;
    }
    Ok(())
}

/// On PostgreSQL: columns, indexes, owner, grants and row-level security of another table.
async fn create_like(database: &Database, served: &str, anew: &str) -> Result<(), DbErr> {
    let run = async |sql: String| database.write().execute_unprepared(&sql).await.map(drop);
    run(format!("CREATE TABLE {anew} (LIKE {served} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)")).await?;
    for (name, definition, primary) in indexes(database, served).await? {
        let (_, rest) = definition.split_once(" USING ").unwrap_or_default();
        let unique = if definition.starts_with("CREATE UNIQUE") { "UNIQUE " } else { "" };
        run(format!("CREATE {unique}INDEX \"{name}_anew\" ON {anew} USING {rest}")).await?;
        if primary {
            run(format!("ALTER TABLE {anew} ADD CONSTRAINT \"{name}_anew\" PRIMARY KEY USING INDEX \"{name}_anew\"")).await?;
        }
    }
    // Statements that give to the new table what the old one has; written by the database, which knows how to quote.
    let same = [
        "SELECT format('ALTER TABLE %I OWNER TO %I', $2::text, r.rolname) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner \
         WHERE c.oid = to_regclass($1::text) AND r.rolname <> current_user",
        "SELECT format('GRANT %s ON %I TO %s%s', a.privilege_type, $2::text, COALESCE(quote_ident(r.rolname), 'PUBLIC'), \
         CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
         FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE c.oid = to_regclass($1::text)",
        "SELECT format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', $2::text) FROM pg_class WHERE oid = to_regclass($1::text) AND relrowsecurity",
        "SELECT format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', $2::text) FROM pg_class WHERE oid = to_regclass($1::text) AND relforcerowsecurity",
        "SELECT format('CREATE POLICY %I ON %I AS %s FOR %s TO %s', p.policyname, $2::text, p.permissive, p.cmd, \
         (SELECT string_agg(CASE WHEN role = 'public' THEN 'PUBLIC' ELSE quote_ident(role) END, ', ') FROM unnest(p.roles::text[]) role)) \
         || COALESCE(' USING (' || p.qual || ')', '') || COALESCE(' WITH CHECK (' || p.with_check || ')', '') \
         FROM pg_policies p WHERE p.schemaname = current_schema() AND p.tablename = $1::text",
    ];
    for sql in same {
        let rows = database.write().query_all_raw(database.sql(sql, vec![served.into(), anew.into()])).await?;
        for row in rows {
            run(row.try_get_by_index(0)?).await?;
        }
    }
    Ok(())
}

/// Name and definition of every index of a table, and whether it is that of the primary key.
async fn indexes(database: &Database, table: &str) -> Result<Vec<(String, String, bool)>, DbErr> {
    let sql = "SELECT c.relname::text, pg_get_indexdef(i.indexrelid)::text, i.indisprimary FROM pg_index i \
               JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass($1::text) ORDER BY 1";
    let rows = database.write().query_all_raw(database.sql(sql, vec![table.into()])).await?;
    rows.iter().map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?))).collect()
}

/// On PostgreSQL, in the transaction that holds the checkpoint: the tables change their names.
async fn exchange(database: &Database, transaction: DatabaseTransaction) -> Result<(), RebuildError> {
    let act = "putting the new copy in place";
    let run = async |sql: String| transaction.execute_unprepared(&sql).await.map(drop).map_err(failed(act));
    // Whoever waits for us, or we for them, waits in one order: that in which questions name the tables.
    run("SET LOCAL lock_timeout = '30s'".to_owned()).await?;
    run(format!("LOCK TABLE {}, {}, {} IN ACCESS EXCLUSIVE MODE", SERVED.views, SERVED.terms, SERVED.handles)).await?;
    for (served, anew) in pairs() {
        let names = indexes(database, anew).await.map_err(failed(act))?;
        run(format!("DROP TABLE {served}")).await?;
        run(format!("ALTER TABLE {anew} RENAME TO {served}")).await?;
        for (name, ..) in names {
            if let Some(former) = name.strip_suffix("_anew") {
                run(format!("ALTER INDEX \"{name}\" RENAME TO \"{former}\"")).await?;
            }
        }
    }
    // Projectors that remember rows of the former copy look again.
    let sql =
        "INSERT INTO checkpoints (name, position) VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET position = checkpoints.position + 1";
    transaction.execute_raw(database.sql(sql, vec![COPIES.into()])).await.map_err(failed(act))?;
    transaction.commit().await.map_err(failed(act))
}

/// On SQLite, which nobody else has open: one transaction takes the old rows away and puts the new ones in.
async fn copy_over(database: &Database) -> Result<(), RebuildError> {
    let act = "putting the new copy in place";
    let transaction = database.begin().await.map_err(failed(act))?;
    for (served, anew) in pairs() {
        for sql in [format!("DELETE FROM {served}"), format!("INSERT INTO {served} SELECT * FROM {anew}")] {
            transaction.execute_unprepared(&sql).await.map_err(failed(act))?;
        }
    }
    transaction.commit().await.map_err(failed(act))
}
