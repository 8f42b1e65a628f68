//! The receipts of one tenant, newest first: intents and refusals, each with what came of it.

use std::str::FromStr;

use schema::{
    clock::Timestamp,
    id::{AgentId, IncarnationId, KeyId, KeyVersion, ReceiptId, SiteId, TenantId},
    key::{Operation, words},
    wire::agent::{HostAct, HostActKind, Intent, Receipt, ReceiptBody},
};
use sea_orm::{QueryResult, Value};

use super::rows::{FAILED, REFUSED, ReceiptRows, RowsError, receipt_id};
use crate::pki::identity::AgentIdentity;

words! {
    /// What came of an operation.
    ReceiptOutcome {
        /// It was done.
        Ok = "ok",
        /// It was not.
        Failed = "failed",
        /// The caller went away or the stream broke.
        Aborted = "aborted",
        /// Nobody knows: the agent stopped in between.
        Unknown = "unknown",
        /// It was not allowed.
        Refused = "refused",
        /// Nothing has been heard of it yet.
        Pending = "pending",
    }
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptView {
    /// Its id.
    pub id: ReceiptId,
    /// The agent.
    pub agent: AgentId,
    /// The agent's site.
    pub site: SiteId,
    /// The journal's life.
    pub incarnation: IncarnationId,
    /// Its number in the journal.
    pub seq: u64,
    /// When, by the agent's wall clock.
    pub time: Timestamp,
    /// Who asked for what, and why it was decided so.
    pub intent: Intent,
    /// What came of it.
    pub outcome: ReceiptOutcome,
    /// A stable code, of a refusal or failure.
    pub code: Option<String>,
    /// Bytes of plaintext processed, or announced.
    pub size: Option<u64>,
    /// How many refusals like it this entry counts; else 1.
    pub count: u64,
}

impl ReceiptView {
    /// Its place in a listing.
    pub fn position(&self) -> Position {
        Position { time: self.time, id: self.id }
    }
}

/// A place in a listing: opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    time: Timestamp,
    id: ReceiptId,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.time.micros(), self.id)
    }
}

/// The text is not a place in a listing of receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor of a listing of receipts")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (time, id) = text.split_once('.').ok_or(InvalidPosition)?;
        Ok(Self { time: Timestamp::from_micros(time.parse().map_err(|_| InvalidPosition)?), id: id.parse().map_err(|_| InvalidPosition)? })
    }
}

/// Which receipts. Everything that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReceiptFilter {
    /// The caller's id.
    pub caller: Option<String>,
    /// The key.
    pub key: Option<KeyId>,
    /// The version.
    pub version: Option<KeyVersion>,
    /// What was asked.
    pub operation: Option<Operation>,
    /// The agent.
    pub agent: Option<AgentId>,
    /// What came of it.
    pub outcome: Option<ReceiptOutcome>,
    /// Only what was done, or may have been: not what was refused or failed.
    pub done: bool,
    /// Not before this.
    pub since: Option<Timestamp>,
    /// Before this.
    pub until: Option<Timestamp>,
}

/// Which part of the listing, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// So many, older than a place or from the newest.
    First(usize, Option<Position>),
    /// So many, just newer than a place or up to the oldest.
    Last(usize, Option<Position>),
}

const COLUMNS: &str = "r.id, r.agent, r.site, r.incarnation, r.seq, r.outcome, r.data_key, r.sealed, o.id, o.data_key, o.sealed";
const FROM: &str = "FROM receipts r LEFT JOIN receipts o \
                    ON o.tenant = r.tenant AND o.agent = r.agent AND o.incarnation = r.incarnation AND o.seq = r.outcome_seq";

impl ReceiptRows {
    /// Receipts, newest first, and whether there are more beyond the page in its direction.
    pub async fn receipts(&self, tenant: TenantId, filter: &ReceiptFilter, page: Page) -> Result<(Vec<ReceiptView>, bool), RowsError> {
        let keys = self.keyring.tenant(tenant).await?;
        let mut values: Vec<Value> = vec![tenant.to_string().into()];
        let mut conditions = vec!["r.tenant = $1".to_owned(), "r.outcome IS NOT NULL".to_owned()];
        let mut condition = |text: &str, value: Value| {
            values.push(value);
            conditions.push(text.replace('?', &format!("${}", values.len())));
        };
        let blind = |column: &str, text: String| Value::from(keys.blind(column, &[&text]));
        if let Some(caller) = &filter.caller {
            condition("r.caller = ?", blind("receipts.caller", caller.clone()));
        }
        if let Some(key) = filter.key {
            condition("r.key = ?", blind("receipts.key", key.to_string()));
        }
        if let Some(version) = filter.version {
            condition("r.key_version = ?", blind("receipts.key_version", version.to_string()));
        }
        if let Some(operation) = filter.operation {
            condition("r.operation = ?", blind("receipts.operation", operation.to_string()));
        }
        if let Some(agent) = filter.agent {
            condition("r.agent = ?", agent.to_string().into());
        }
        if let Some(outcome) = filter.outcome {
            condition("r.outcome = ?", outcome.as_str().into());
        }
        if filter.done {
            conditions.push(format!("r.outcome <> '{REFUSED}' AND r.outcome <> '{FAILED}'"));
        }
        let mut condition = |text: &str, value: Value| {
            values.push(value);
            conditions.push(text.replace('?', &format!("${}", values.len())));
        };
        if let Some(since) = filter.since {
            condition("r.time >= ?", since.micros().into());
        }
        if let Some(until) = filter.until {
            condition("r.time < ?", until.micros().into());
        }
        let (count, place, older) = match page {
            Page::First(count, place) => (count, place, true),
            Page::Last(count, place) => (count, place, false),
        };
        let (compare, order) = if older { ("<", "DESC") } else { (">", "ASC") };
        if let Some(place) = place {
            let time = place.time.micros();
            condition(&format!("(r.time {compare} {time} OR (r.time = {time} AND r.id {compare} ?))"), place.id.to_string().into());
        }
        let sql = format!(
            "SELECT {COLUMNS} {FROM} WHERE {} ORDER BY r.time {order}, r.id {order} LIMIT {}",
            conditions.join(" AND "),
            count.saturating_add(1)
        );
        let found = self.database.of(tenant).query_all_raw(self.database.sql(sql, values)).await;
        let found = found.map_err(RowsError::during("listing receipts"))?;
        let mut views = Vec::with_capacity(found.len());
        for row in found.iter().take(count) {
            views.push(self.view(tenant, row).await?);
        }
        if !older {
            views.reverse();
        }
        Ok((views, found.len() > count))
    }

    /// What people did on an agent's host, newest first.
    pub async fn host_acts(&self, tenant: TenantId, agent: AgentId, most: usize) -> Result<Vec<HostAct>, RowsError> {
        let keys = self.keyring.tenant(tenant).await?;
        let kinds = HostActKind::ALL.iter().map(|kind| Value::from(keys.blind("receipts.operation", &[kind.as_str()])));
        let values = [tenant.to_string().into(), agent.to_string().into()].into_iter().chain(kinds).collect();
        let sql = format!(
            "SELECT id, data_key, sealed FROM receipts WHERE tenant = $1 AND agent = $2 AND operation IN ({}) AND outcome IS NULL \
             ORDER BY time DESC, id DESC LIMIT {most}",
            (3..3 + HostActKind::ALL.len()).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ")
        );
        let failed = || RowsError::during("listing what was done on a host");
        let rows = self.database.of(tenant).query_all_raw(self.database.sql(sql, values)).await.map_err(failed())?;
        let mut acts = Vec::with_capacity(rows.len());
        for row in rows {
            let id: String = row.try_get_by_index(0).map_err(failed())?;
            match read(&self.open(tenant, &id, &row, 1).await?)?.body {
                ReceiptBody::Host(act) => acts.push(act),
                _ => return Err(RowsError::Damaged),
            }
        }
        Ok(acts)
    }

    /// One receipt.
    pub async fn receipt(&self, tenant: TenantId, id: ReceiptId) -> Result<Option<ReceiptView>, RowsError> {
        let sql = format!("SELECT {COLUMNS} {FROM} WHERE r.tenant = $1 AND r.id = $2 AND r.outcome IS NOT NULL");
        let values = vec![tenant.to_string().into(), id.to_string().into()];
        let row = self.database.of(tenant).query_one_raw(self.database.sql(sql, values)).await;
        match row.map_err(RowsError::during("reading a receipt"))? {
            Some(row) => self.view(tenant, &row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn view(&self, tenant: TenantId, row: &QueryResult) -> Result<ReceiptView, RowsError> {
        let text = |column: usize| row.try_get_by_index::<String>(column).map_err(RowsError::during("reading receipts"));
        let id = text(0)?;
        let seq: i64 = row.try_get_by_index(4).map_err(RowsError::during("reading receipts"))?;
        let receipt = read(&self.open(tenant, &id, row, 6).await?)?;
        let told: Option<String> = row.try_get_by_index(8).map_err(RowsError::during("reading receipts"))?;
        let told = match told {
            Some(told) => Some(read(&self.open(tenant, &told, row, 9).await?)?),
            None => None,
        };
        let (intent, mut code, count) = match receipt.body {
            ReceiptBody::Intent(intent) => (intent, None, 1),
            ReceiptBody::Refusal { intent, code, count } => (intent, Some(code), count),
            ReceiptBody::Outcome { .. } | ReceiptBody::Host(_) => return Err(RowsError::Damaged),
        };
        let mut size = intent.size;
        if let Some(Receipt { body: ReceiptBody::Outcome { code: failed, size: processed, .. }, .. }) = told {
            (code, size) = (failed, processed.or(size));
        }
        let parsed = (text(1)?.parse(), text(2)?.parse(), text(3)?.parse(), text(5)?.parse());
        let (Ok(agent), Ok(site), Ok(incarnation), Ok(outcome)) = parsed else { return Err(RowsError::Damaged) };
        let seq = seq.unsigned_abs();
        let id = receipt_id(&AgentIdentity { tenant, site, agent }, incarnation, seq);
        Ok(ReceiptView { id, agent, site, incarnation, seq, time: receipt.time, intent, outcome, code, size, count })
    }
}

fn read(bytes: &[u8]) -> Result<Receipt, RowsError> {
    serde_json::from_slice(bytes).map_err(|_| RowsError::Damaged)
}
