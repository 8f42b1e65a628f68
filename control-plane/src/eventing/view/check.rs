//! Compares the read model with what the records give, row by row. Reads only, beside whatever else happens.
//!
//! The records are gone through once, in their order, and every row is asked for by its key. Rows that nothing gives are found by
//! going through the tables afterwards. What was written after the walk began is left to the next one.

use std::collections::{BTreeSet, HashMap, HashSet};

use schema::{
    clock::Timestamp,
    encoding::Digest,
    event::{Record, StreamId},
    id::{DataKeyId, TenantId},
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};

use super::{
    projector::Kinds,
    writing::{SERVED, number},
};
use crate::{
    database::Database,
    eventing::{aggregate::Index, store::Cursor},
    sealing::{Keyring, Place},
};

/// Rows asked for at once, and read at once.
const KEYS: usize = 64;
const PAGE: usize = 1000;

/// Something that is not as the records give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is called.
    pub kind: DifferenceKind,
    /// Which row.
    pub place: String,
    /// What about it.
    pub what: String,
}

/// What a difference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DifferenceKind {
    /// A row is not there.
    Missing,
    /// A row is there that nothing gives.
    Extra,
    /// A row says something else.
    Other,
    /// A row does not open.
    Sealed,
}

/// How much was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// Rows of aggregates.
    pub rows: u64,
    /// Rows of terms.
    pub terms: u64,
    /// Rows of handles.
    pub handles: u64,
}

/// One stream, as far as its records were read.
struct Known {
    kind: &'static str,
    state: Vec<u8>,
    revision: u64,
    valid_from: Timestamp,
    /// What its newest row says of its end.
    ends: Option<i64>,
    /// Whether its newest row is there at all.
    there: bool,
    /// Over all its terms.
    terms: [u8; 16],
}

struct Expected {
    tenant: TenantId,
    kind: &'static str,
    stream: StreamId,
    revision: u64,
    position: u64,
    valid_from: Timestamp,
    index: Index,
    state: Vec<u8>,
}

/// Tenant, kind, id and revision.
type RowKey = (String, String, String, u64);

struct Row {
    position: i64,
    valid_from: i64,
    valid_to: Option<i64>,
    parent: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    state: Option<String>,
    data_key: String,
    sealed: Vec<u8>,
}

/// Compares while the records go by.
pub struct Checker {
    database: Database,
    kinds: Kinds,
    /// Records up to here are in the read model.
    upto: Cursor,
    streams: HashMap<(TenantId, StreamId), Known>,
    /// Streams of which a record could not be read: nothing more can be said of them.
    unread: HashSet<(TenantId, StreamId)>,
    handles: HashMap<String, (TenantId, &'static str, StreamId)>,
    compared: Compared,
}

impl Checker {
    /// Begins. Records up to the read model's own checkpoint are compared.
    pub async fn begin(database: Database, kinds: Kinds) -> Result<Self, DbErr> {
        let upto = super::query::checkpoint(&database, SERVED.checkpoint).await?;
        let (streams, unread, handles) = Default::default();
        Ok(Self { database, kinds, upto, streams, unread, handles, compared: Compared::default() })
    }

    /// How far the read model is.
    pub fn upto(&self) -> Cursor {
        self.upto
    }

    /// A record of this stream could not be read.
    pub fn skip(&mut self, tenant: TenantId, stream: &StreamId) {
        self.unread.insert((tenant, stream.clone()));
    }

    /// Compares what the next records give. None of them is of a tenant without keys.
    pub async fn look(&mut self, records: &[(Cursor, Record)], keyring: &Keyring, found: &mut Vec<Difference>) -> Result<(), DbErr> {
        let mut expected = Vec::with_capacity(records.len());
        for (cursor, record) in records.iter().filter(|(cursor, _)| *cursor <= self.upto) {
            let envelope = record.envelope();
            let Some(kind) = self.kinds.of(envelope.stream.prefix()) else { continue };
            let key = (envelope.tenant, envelope.stream.clone());
            let known = self.streams.get(&key);
            if self.unread.contains(&key) || envelope.revision != known.map_or(0, |known| known.revision) + 1 {
                // A missing revision is told of by whoever reads the log.
                self.unread.insert(key);
                continue;
            }
            let (state, index) = match kind.evolve(known.map(|known| known.state.as_slice()), record) {
                Ok(evolved) => evolved,
                Err(error) => {
                    let what = with_cause(&error);
                    found.push(Difference {
                        kind: DifferenceKind::Other,
                        place: place(envelope.tenant, kind.name(), &key.1, envelope.revision),
                        what,
                    });
                    self.unread.insert(key);
                    continue;
                }
            };
            let valid_from = known.map_or(envelope.time, |known| known.valid_from.max(envelope.time));
            for handle in &index.handles {
                self.handles.entry(handle.to_string()).or_insert_with(|| (envelope.tenant, kind.name(), envelope.stream.clone()));
            }
            let terms = known.map_or([0; 16], |known| known.terms);
            let (ends, there) = known.map_or((None, true), |known| (known.ends, known.there));
            let known = Known { kind: kind.name(), state: state.clone(), revision: envelope.revision, valid_from, ends, there, terms };
            self.streams.insert(key, known);
            expected.push(Expected {
                tenant: envelope.tenant,
                kind: kind.name(),
                stream: envelope.stream.clone(),
                revision: envelope.revision,
                position: cursor.position(),
                valid_from,
                index,
                state,
            });
        }
        for expected in expected.chunks(KEYS) {
            let rows = self.rows(expected).await?;
            for expected in expected {
                let row =
                    rows.get(&(expected.tenant.to_string(), expected.kind.to_owned(), expected.stream.to_string(), expected.revision));
                self.compare(expected, row, keyring, found).await;
            }
        }
        Ok(())
    }

    async fn compare(&mut self, expected: &Expected, row: Option<&Row>, keyring: &Keyring, found: &mut Vec<Difference>) {
        let Expected { tenant, kind, stream, revision, .. } = expected;
        let place = place(*tenant, kind, stream, *revision);
        let mut tell = |kind, what: &str| found.push(Difference { kind, place: place.clone(), what: what.to_owned() });
        self.compared.rows += 1;
        let Ok(keys) = keyring.tenant(*tenant).await else { return };
        let blinded: BTreeSet<_> =
            expected.index.terms.iter().map(|(term, value)| keys.blind("view_terms.term", &[kind, term, value])).collect();
        if let Some(known) = self.streams.get_mut(&(*tenant, stream.clone())) {
            for term in blinded {
                fold(&mut known.terms, &term, *revision);
                self.compared.terms += 1;
            }
            // The row before this one ends where this one begins.
            if *revision > 1 && known.there && known.ends != Some(expected.valid_from.micros()) {
                tell(DifferenceKind::Other, "the row before it does not end where this one begins");
            }
            (known.ends, known.there) = (row.and_then(|row| row.valid_to), row.is_some());
        }
        let Some(row) = row else { return tell(DifferenceKind::Missing, "the row is not there") };
        let parent = expected.index.parent.as_deref().map(|parent| keys.blind("views.parent", &[kind, parent]));
        let name = expected.index.name.as_deref().map(|name| keys.blind("views.name", &[kind, name]));
        let columns = [
            (row.position == number(expected.position), "position"),
            (row.valid_from == expected.valid_from.micros(), "valid_from"),
            (row.parent == parent, "parent"),
            (row.name == name, "name"),
            (row.state == expected.index.state, "state"),
        ];
        let others: Vec<_> = columns.iter().filter(|(same, _)| !same).map(|(_, column)| *column).collect();
        if !others.is_empty() {
            tell(DifferenceKind::Other, &format!("the records give another {}", others.join(", ")));
        }
        let at = Place::View { kind, id: stream.as_str(), revision: *revision };
        let opened = match row.data_key.parse::<DataKeyId>() {
            Ok(data_key) => keyring.open_sealed(*tenant, at, data_key, &row.sealed).await.map_err(|error| with_cause(&error)),
            Err(_) => Err("the id of its data key is none".to_owned()),
        };
        match opened {
            Err(what) => tell(DifferenceKind::Sealed, &what),
            Ok(state) => {
                let state = match super::personal::opened(keyring, *tenant, &state).await {
                    Ok(opened) => opened.and_then(|opened| serde_json::to_vec(&opened).ok()).unwrap_or(state),
                    Err(error) => return tell(DifferenceKind::Sealed, &with_cause(&error)),
                };
                let state = self.kinds.of(stream.prefix()).and_then(|kind| kind.rewritten(&state));
                if state.as_deref() != Some(&expected.state) {
                    tell(DifferenceKind::Other, "the records give another state");
                }
            }
        }
    }

    /// Everything was looked at: looks for what is there and should not be.
    pub async fn finish(mut self, tenants: &HashSet<TenantId>, found: &mut Vec<Difference>) -> Result<Compared, DbErr> {
        self.open_ends(found).await?;
        self.extra_rows(tenants, found).await?;
        self.terms(tenants, found).await?;
        self.handles(tenants, found).await?;
        Ok(self.compared)
    }

    /// Newest rows have no end, unless there is something newer by now.
    async fn open_ends(&self, found: &mut Vec<Difference>) -> Result<(), DbErr> {
        for ((tenant, stream), known) in &self.streams {
            if known.ends.is_some()
                && !self.unread.contains(&(*tenant, stream.clone()))
                && !self.is_recorded(&tenant.to_string(), stream.as_str(), known.revision + 1).await?
            {
                let what = "it has an end, and nothing follows it".to_owned();
                found.push(Difference { kind: DifferenceKind::Other, place: place(*tenant, known.kind, stream, known.revision), what });
            }
        }
        Ok(())
    }

    async fn extra_rows(&self, tenants: &HashSet<TenantId>, found: &mut Vec<Difference>) -> Result<(), DbErr> {
        let mut pages = Pages::of("views", &["tenant", "kind", "id", "revision"], "tenant, kind, id, revision");
        while let Some(page) = pages.next(&self.database, 3).await? {
            for row in page {
                let (tenant, kind, id): (String, String, String) =
                    (row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?);
                let revision = row.try_get_by_index::<i64>(3)?.unsigned_abs();
                if self.is_extra(tenants, &tenant, &kind, &id, revision).await? {
                    let place = format!("views {tenant} {kind} {id} revision {revision}");
                    found.push(Difference { kind: DifferenceKind::Extra, place, what: "no record gives this row".to_owned() });
                }
            }
        }
        Ok(())
    }

    async fn terms(&self, tenants: &HashSet<TenantId>, found: &mut Vec<Difference>) -> Result<(), DbErr> {
        let mut there: HashMap<(TenantId, StreamId), [u8; 16]> = HashMap::new();
        let mut extra = BTreeSet::new();
        let mut pages = Pages::of("view_terms", &["tenant", "kind", "term", "id", "revision"], "tenant, kind, term, id, revision");
        while let Some(page) = pages.next(&self.database, 4).await? {
            for row in page {
                let (tenant, kind): (String, String) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
                let (term, id): (Vec<u8>, String) = (row.try_get_by_index(2)?, row.try_get_by_index(3)?);
                let revision = row.try_get_by_index::<i64>(4)?.unsigned_abs();
                let parsed = tenant.parse::<TenantId>().ok().zip(id.parse::<StreamId>().ok());
                let known =
                    parsed.as_ref().and_then(|key| self.streams.get(key)).filter(|known| known.kind == kind && revision <= known.revision);
                match (parsed, known) {
                    (Some(key), Some(_)) => fold(there.entry(key).or_default(), &term, revision),
                    _ if self.is_extra(tenants, &tenant, &kind, &id, revision).await? => {
                        extra.insert(format!("view_terms {tenant} {kind} {id} revision {revision}"));
                    }
                    _ => {}
                }
            }
        }
        for place in extra {
            found.push(Difference { kind: DifferenceKind::Extra, place, what: "no record gives this row".to_owned() });
        }
        for (key, known) in self.streams.iter().filter(|(key, _)| !self.unread.contains(*key)) {
            if there.get(key).copied().unwrap_or_default() != known.terms {
                let place = format!("view_terms {} {} {}", key.0, known.kind, key.1);
                found.push(Difference { kind: DifferenceKind::Other, place, what: "the records give other terms".to_owned() });
            }
        }
        Ok(())
    }

    async fn handles(&mut self, tenants: &HashSet<TenantId>, found: &mut Vec<Difference>) -> Result<(), DbErr> {
        let mut seen = HashSet::new();
        let mut pages = Pages::of("view_handles", &["handle"], "handle, tenant, kind, id");
        while let Some(page) = pages.next(&self.database, 0).await? {
            for row in page {
                let handle: String = row.try_get_by_index(0)?;
                let (tenant, kind, id): (String, String, String) =
                    (row.try_get_by_index(1)?, row.try_get_by_index(2)?, row.try_get_by_index(3)?);
                self.compared.handles += 1;
                let whose = format!("view_handles {tenant} {kind} {id}");
                match self.handles.get(&handle) {
                    Some(known) if (known.0.to_string(), known.1, known.2.as_str()) == (tenant, kind.as_str(), id.as_str()) => {}
                    Some(_) => found.push(Difference {
                        kind: DifferenceKind::Other,
                        place: whose,
                        what: "the records give it to another".to_owned(),
                    }),
                    None => {
                        let known = row.try_get_by_index::<String>(1)?.parse().ok().zip(id.parse::<StreamId>().ok());
                        let newer = match &known {
                            Some(key) if self.unread.contains(key) => true,
                            Some((tenant, stream)) => {
                                let after = self.streams.get(&(*tenant, stream.clone())).map_or(1, |known| known.revision + 1);
                                !tenants.contains(tenant) || self.is_recorded(&tenant.to_string(), stream.as_str(), after).await?
                            }
                            None => false,
                        };
                        if !newer {
                            found.push(Difference {
                                kind: DifferenceKind::Extra,
                                place: whose,
                                what: "no record gives this row".to_owned(),
                            });
                        }
                    }
                }
                seen.insert(handle);
            }
        }
        for (handle, (tenant, kind, stream)) in self.handles.iter().filter(|(handle, _)| !seen.contains(*handle)) {
            let place = format!("view_handles {tenant} {kind} {stream}");
            let what = format!("the row of the handle that begins with {} is not there", handle.get(..6).unwrap_or(handle));
            found.push(Difference { kind: DifferenceKind::Missing, place, what });
        }
        Ok(())
    }

    /// Whether no record gives a row: neither one that was read, nor one that came since. Of tenants that were erased nothing can
    /// be said, nor of streams that could not be read.
    async fn is_extra(&self, tenants: &HashSet<TenantId>, tenant: &str, kind: &str, id: &str, revision: u64) -> Result<bool, DbErr> {
        let Some((owner, stream)) = tenant.parse::<TenantId>().ok().zip(id.parse::<StreamId>().ok()) else { return Ok(true) };
        let key = (owner, stream);
        if self.unread.contains(&key) || (self.is_known(tenant).await? && !tenants.contains(&owner)) {
            return Ok(false);
        }
        match self.streams.get(&key) {
            Some(known) if known.kind == kind && revision <= known.revision => Ok(false),
            Some(known) if known.kind != kind => Ok(true),
            _ => Ok(!self.is_recorded(tenant, id, revision).await?),
        }
    }

    async fn is_known(&self, tenant: &str) -> Result<bool, DbErr> {
        let sql = "SELECT 1 FROM tenant_keys WHERE tenant = $1 LIMIT 1";
        Ok(self.database.read().query_one_raw(self.database.sql(sql, vec![tenant.into()])).await?.is_some())
    }

    /// Whether the read model may know this revision by now. Where the log is not in SQL, the read model's own place tells.
    async fn is_recorded(&self, tenant: &str, stream: &str, revision: u64) -> Result<bool, DbErr> {
        let sql = "SELECT 1 FROM records WHERE tenant = $1 AND stream = $2 AND revision = $3 \
                   UNION ALL SELECT 1 FROM ledger_index WHERE tenant = $1 AND position > $4 AND NOT EXISTS (SELECT 1 FROM records) LIMIT 1";
        let values: Vec<Value> = vec![tenant.into(), stream.into(), number(revision).into(), number(self.upto.position()).into()];
        Ok(self.database.read().query_one_raw(self.database.sql(sql, values)).await?.is_some())
    }

    async fn rows(&self, expected: &[Expected]) -> Result<HashMap<RowKey, Row>, DbErr> {
        let (mut conditions, mut values): (Vec<String>, Vec<Value>) = Default::default();
        for expected in expected {
            let n = values.len();
            conditions.push(format!("(tenant = ${} AND kind = ${} AND id = ${} AND revision = ${})", n + 1, n + 2, n + 3, n + 4));
            values.extend([
                Value::from(expected.tenant.to_string()),
                expected.kind.into(),
                expected.stream.as_str().into(),
                number(expected.revision).into(),
            ]);
        }
        let sql = format!(
            "SELECT tenant, kind, id, revision, position, valid_from, valid_to, parent, name, state, data_key, sealed FROM views WHERE {}",
            conditions.join(" OR ")
        );
        let found = self.database.read().query_all_raw(self.database.sql(sql, values)).await?;
        found.iter().map(read_row).collect()
    }
}

fn read_row(row: &QueryResult) -> Result<(RowKey, Row), DbErr> {
    let revision = row.try_get_by_index::<i64>(3)?.unsigned_abs();
    let key = (row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?, revision);
    let row = Row {
        position: row.try_get_by_index(4)?,
        valid_from: row.try_get_by_index(5)?,
        valid_to: row.try_get_by_index(6)?,
        parent: row.try_get_by_index(7)?,
        name: row.try_get_by_index(8)?,
        state: row.try_get_by_index(9)?,
        data_key: row.try_get_by_index(10)?,
        sealed: row.try_get_by_index(11)?,
    };
    Ok((key, row))
}

/// A table in the order of its key, page after page.
pub struct Pages {
    table: &'static str,
    key: &'static [&'static str],
    columns: &'static str,
    last: Option<Vec<Value>>,
    done: bool,
}

impl Pages {
    /// The key's columns come first among the columns.
    pub fn of(table: &'static str, key: &'static [&'static str], columns: &'static str) -> Self {
        Self { table, key, columns, last: None, done: false }
    }

    /// The next page; none at the end. Columns of the key are text, but the one at the place `number`, when it is above 0, which
    /// is a number, and those named `term` or `name`, which are bytes.
    pub async fn next(&mut self, database: &Database, number: usize) -> Result<Option<Vec<QueryResult>>, DbErr> {
        if self.done {
            return Ok(None);
        }
        let (table, columns, key) = (self.table, self.columns, self.key.join(", "));
        let beyond = match &self.last {
            Some(last) => {
                let places: Vec<_> = (1..=last.len()).map(|place| format!("${place}")).collect();
                format!(" WHERE ({key}) > ({})", places.join(", "))
            }
            None => String::new(),
        };
        let sql = format!("SELECT {columns} FROM {table}{beyond} ORDER BY {key} LIMIT {PAGE}");
        let rows = database.read().query_all_raw(database.sql(sql, self.last.clone().unwrap_or_default())).await?;
        self.done = rows.len() < PAGE;
        if let Some(row) = rows.last() {
            let mut last = Vec::with_capacity(self.key.len());
            for (place, column) in self.key.iter().enumerate() {
                last.push(match *column {
                    "term" | "name" => Value::from(row.try_get_by_index::<Vec<u8>>(place)?),
                    _ if place == number && number > 0 => row.try_get_by_index::<i64>(place)?.into(),
                    _ => row.try_get_by_index::<String>(place)?.into(),
                });
            }
            self.last = Some(last);
        }
        Ok(Some(rows))
    }
}

/// Terms of a stream, added up in any order.
fn fold(sum: &mut [u8; 16], term: &[u8], revision: u64) {
    let hash = Digest::labelled("freehold-verify-term-v1", &[term, &revision.to_be_bytes()]);
    sum.iter_mut().zip(hash.0).for_each(|(sum, byte)| *sum ^= byte);
}

fn place(tenant: TenantId, kind: &str, stream: &StreamId, revision: u64) -> String {
    format!("views {tenant} {kind} {stream} revision {revision}")
}

/// An error and its causes, in one line.
pub(crate) fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_cause(source)),
        None => error.to_string(),
    }
}
