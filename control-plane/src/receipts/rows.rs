//! The table of receipts. Exact bytes are sealed; what listings filter by stands beside them as blind indexes.

use std::{collections::HashMap, sync::Arc};

use schema::{
    encoding::Digest,
    id::{IncarnationId, ReceiptId, TenantId},
    wire::agent::{Intent, OutcomeResult, ReceiptBatch, ReceiptBody},
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};

use super::check::{CheckedBatch, CheckedReceipt, Stored};
use crate::{
    database::Database,
    pki::identity::AgentIdentity,
    sealing::{Keyring, Place, SealingError, TenantKeys},
};

/// The most rows of one insert: 16 columns each, far below what either engine binds at once.
const ROWS_AT_ONCE: usize = 100;

pub(super) const TABLE: &str = "receipts";

/// What an intent that nothing has been heard of since is called.
pub(super) const PENDING: &str = "pending";
/// What an operation is called that was tried and came to nothing.
pub(super) const FAILED: &str = "failed";
/// What a refusal is called.
pub(super) const REFUSED: &str = "refused";

/// Receipts could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The database could not be asked.
    #[error("{act} failed")]
    Database {
        /// What was tried.
        act: &'static str,
        /// What the driver said.
        #[source]
        source: DbErr,
    },
    /// Sealing or opening failed.
    #[error("sealing or opening receipts failed")]
    Sealing(#[from] SealingError),
    /// Somebody else stored some of them in the meantime.
    #[error("another batch of the same journal is being stored; send this one again")]
    Busy,
    /// What is stored does not read.
    #[error("a stored receipt is damaged")]
    Damaged,
}

impl RowsError {
    pub(super) fn during(act: &'static str) -> impl FnOnce(DbErr) -> Self {
        move |source| Self::Database { act, source }
    }
}

/// The table.
#[derive(Debug, Clone)]
pub struct ReceiptRows {
    pub(super) database: Database,
    pub(super) keyring: Arc<Keyring>,
}

/// The id of a receipt: derived from where it stands, so that it needs no table of its own.
pub fn receipt_id(from: &AgentIdentity, incarnation: IncarnationId, seq: u64) -> ReceiptId {
    let place = [from.tenant.to_string(), from.agent.to_string(), incarnation.to_string(), seq.to_string()];
    let digest = Digest::labelled("freehold-receipt-id-v1", &place.each_ref().map(|text| text.as_bytes()));
    let mut bits = [0; 16];
    bits.copy_from_slice(&digest.0[..16]);
    ReceiptId::from_bits(u128::from_be_bytes(bits))
}

impl ReceiptRows {
    /// In this database, sealed under these keys.
    pub fn new(database: Database, keyring: Arc<Keyring>) -> Self {
        Self { database, keyring }
    }

    /// What is stored of a journal, as far as a batch touches it.
    pub async fn stored(&self, from: &AgentIdentity, batch: &ReceiptBatch) -> Result<Stored, RowsError> {
        let count = batch.entries.len() as u64;
        let after_batch = batch.first_seq.saturating_add(count).saturating_sub(1);
        let place = [from.tenant.to_string(), from.agent.to_string(), batch.incarnation.to_string()];
        let sql = "SELECT seq, chain FROM receipts WHERE tenant = $1 AND agent = $2 AND incarnation = $3 AND (seq IN ($4, $5) \
                   OR seq = (SELECT MAX(seq) FROM receipts WHERE tenant = $1 AND agent = $2 AND incarnation = $3))";
        let seqs = [batch.first_seq.saturating_sub(1), after_batch].map(|seq| Value::from(i64::try_from(seq).unwrap_or(i64::MAX)));
        let values = place.into_iter().map(Value::from).chain(seqs).collect();
        let failed = || RowsError::during("reading what is stored of a journal");
        let rows = self.database.write().query_all_raw(self.database.sql(sql, values)).await.map_err(failed())?;
        let mut stored = Stored::default();
        for row in rows {
            let seq: i64 = row.try_get_by_index(0).map_err(failed())?;
            let chain: Vec<u8> = row.try_get_by_index(1).map_err(failed())?;
            let (seq, chain) = (seq.unsigned_abs(), Digest(chain.try_into().map_err(|_| RowsError::Damaged)?));
            if seq > stored.last_seq {
                (stored.last_seq, stored.last) = (seq, Some(chain));
            }
            if seq + 1 == batch.first_seq {
                stored.before_batch = Some(chain);
            }
            if seq == after_batch {
                stored.after_batch = Some(chain);
            }
        }
        Ok(stored)
    }

    /// Whether the agents of a site showed that they know better than this control plane, and nothing of this journal has come since.
    pub async fn was_recovered(&self, from: &AgentIdentity, incarnation: IncarnationId) -> Result<bool, RowsError> {
        let sql = "SELECT 1 FROM recovery_evidence e WHERE e.tenant = $1 AND e.site = $2 AND NOT EXISTS (SELECT 1 FROM receipts r \
                   WHERE r.tenant = $1 AND r.agent = $3 AND r.incarnation = $4 AND r.time > e.at)";
        let values = [from.tenant.to_string(), from.site.to_string(), from.agent.to_string(), incarnation.to_string()];
        let values = values.into_iter().map(Value::from).collect();
        let row = self.database.write().query_one_raw(self.database.sql(sql, values)).await;
        Ok(row.map_err(RowsError::during("asking whether this control plane was restored"))?.is_some())
    }

    /// Stores the new receipts of a batch: all of them, or none.
    pub async fn insert(&self, from: &AgentIdentity, batch: &CheckedBatch) -> Result<(), RowsError> {
        let keys = self.keyring.tenant(from.tenant).await?;
        let outcomes: HashMap<u64, (&'static str, u64)> = batch.new.iter().filter_map(outcome).collect();
        let act = "storing receipts";
        let transaction = self.database.begin().await.map_err(RowsError::during(act))?;
        for rows in batch.new.chunks(ROWS_AT_ONCE) {
            let mut values = Vec::with_capacity(rows.len() * 16);
            for entry in rows {
                values.extend(row(&keys, from, batch, entry, &outcomes)?);
            }
            let sql = insert_sql(rows.len());
            if let Err(source) = transaction.execute_raw(self.database.sql(sql, values)).await {
                let taken = matches!(source.sql_err(), Some(sea_orm::SqlErr::UniqueConstraintViolation(_)));
                return Err(if taken { RowsError::Busy } else { RowsError::Database { act, source } });
            }
        }
        let first = batch.new.first().map_or(0, |entry| entry.receipt.seq);
        for (intent, (word, seq)) in outcomes.into_iter().filter(|(intent, _)| *intent < first) {
            let sql = "UPDATE receipts SET outcome = $1, outcome_seq = $2 \
                       WHERE tenant = $3 AND agent = $4 AND incarnation = $5 AND seq = $6 AND outcome = $7";
            let values = vec![
                word.into(),
                number(seq),
                from.tenant.to_string().into(),
                from.agent.to_string().into(),
                batch.head.incarnation.to_string().into(),
                number(intent),
                PENDING.into(),
            ];
            transaction.execute_raw(self.database.sql(sql, values)).await.map_err(RowsError::during(act))?;
        }
        transaction.commit().await.map_err(RowsError::during(act))
    }

    pub(super) async fn open(&self, tenant: TenantId, id: &str, row: &QueryResult, column: usize) -> Result<Vec<u8>, RowsError> {
        let failed = || RowsError::during("reading receipts");
        let data_key: String = row.try_get_by_index(column).map_err(failed())?;
        let sealed: Vec<u8> = row.try_get_by_index(column + 1).map_err(failed())?;
        let data_key = data_key.parse().map_err(|_| RowsError::Damaged)?;
        Ok(self.keyring.open_sealed(tenant, Place::Row { table: TABLE, key: id }, data_key, &sealed).await?)
    }
}

pub(super) fn number(seq: u64) -> Value {
    i64::try_from(seq).unwrap_or(i64::MAX).into()
}

fn insert_sql(rows: usize) -> String {
    let row = |row: usize| {
        let places: Vec<_> = (1..=16).map(|place| format!("${}", row * 16 + place)).collect();
        format!("({})", places.join(", "))
    };
    let rows: Vec<_> = (0..rows).map(row).collect();
    format!(
        "INSERT INTO receipts (tenant, agent, incarnation, seq, id, site, time, chain, caller, key, key_version, operation, outcome, \
         outcome_seq, data_key, sealed) VALUES {}",
        rows.join(", ")
    )
}

fn row(
    keys: &TenantKeys,
    from: &AgentIdentity,
    batch: &CheckedBatch,
    entry: &CheckedReceipt,
    outcomes: &HashMap<u64, (&'static str, u64)>,
) -> Result<[Value; 16], RowsError> {
    let seq = entry.receipt.seq;
    let id = receipt_id(from, batch.head.incarnation, seq).to_string();
    let sealed = keys.seal(Place::Row { table: TABLE, key: &id }, &entry.bytes)?;
    let (intent, outcome, outcome_seq) = match &entry.receipt.body {
        ReceiptBody::Intent(intent) => {
            let known = outcomes.get(&seq);
            (Some(intent), Some(known.map_or(PENDING, |(word, _)| word)), known.map(|(_, seq)| *seq))
        }
        ReceiptBody::Refusal { intent, .. } => (Some(intent), Some(REFUSED), None),
        ReceiptBody::Outcome { .. } | ReceiptBody::Host(_) => (None, None, None),
    };
    let operation = match &entry.receipt.body {
        ReceiptBody::Host(act) => Some(act.act.as_str().to_owned()),
        _ => intent.map(|intent| intent.operation.to_string()),
    };
    let blind = |column: &str, text: Option<String>| Value::from(text.map(|text| keys.blind(column, &[&text])));
    let fact = |fact: fn(&Intent) -> Option<String>| intent.and_then(fact);
    Ok([
        from.tenant.to_string().into(),
        from.agent.to_string().into(),
        batch.head.incarnation.to_string().into(),
        number(seq),
        id.into(),
        from.site.to_string().into(),
        entry.receipt.time.micros().into(),
        entry.chain.0.to_vec().into(),
        blind("receipts.caller", fact(|intent| intent.caller.clone())),
        blind("receipts.key", fact(|intent| intent.key_version.map(|version| version.key.to_string()))),
        blind("receipts.key_version", fact(|intent| intent.key_version.map(|version| version.to_string()))),
        blind("receipts.operation", operation),
        outcome.map(str::to_owned).into(),
        outcome_seq.map(|seq| i64::try_from(seq).unwrap_or(i64::MAX)).into(),
        sealed.data_key.to_string().into(),
        sealed.bytes.into(),
    ])
}

/// Intent, word and own number of an outcome.
fn outcome(entry: &CheckedReceipt) -> Option<(u64, (&'static str, u64))> {
    let ReceiptBody::Outcome { intent, result, .. } = &entry.receipt.body else { return None };
    Some((*intent, (outcome_word(*result), entry.receipt.seq)))
}

pub(super) const fn outcome_word(result: OutcomeResult) -> &'static str {
    match result {
        OutcomeResult::Ok => "ok",
        OutcomeResult::Failed => FAILED,
        OutcomeResult::Aborted => "aborted",
        OutcomeResult::Unknown => "unknown",
    }
}
