//! What receipts say of the use of a key: when it was last used and by whom, and who used it for what altogether.

use schema::{
    clock::Timestamp,
    id::{KeyId, KeyVersion, ReceiptId, TenantId},
    key::Operation,
};
use sea_orm::{QueryResult, Value};

use super::{
    query::{Page, ReceiptFilter, ReceiptView},
    rows::{FAILED, REFUSED, ReceiptRows, RowsError},
};

/// The most different uses that are told of one key.
pub const MAX_USES: usize = 500;

/// A key, or one version of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// Every version.
    Key(KeyId),
    /// One.
    Version(KeyVersion),
}

/// All uses of one version by one caller for one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The caller's id.
    pub caller: Option<String>,
    /// What was done.
    pub operation: Operation,
    /// With which version.
    pub version: KeyVersion,
    /// How often.
    pub count: u64,
    /// First.
    pub first: Timestamp,
    /// Last.
    pub last: Timestamp,
}

impl ReceiptRows {
    /// The last time something was done with a key; what was refused or failed was not done.
    pub async fn last_use(&self, tenant: TenantId, used: Used) -> Result<Option<ReceiptView>, RowsError> {
        let filter = match used {
            Used::Key(key) => ReceiptFilter { key: Some(key), done: true, ..ReceiptFilter::default() },
            Used::Version(version) => ReceiptFilter { version: Some(version), done: true, ..ReceiptFilter::default() },
        };
        Ok(self.receipts(tenant, &filter, Page::First(1, None)).await?.0.pop())
    }

    /// Who did what with a key, how often and when; what was used last comes first. At most [`MAX_USES`]: the second is whether there
    /// are more.
    pub async fn usage(
        &self,
        tenant: TenantId,
        used: Used,
        (since, until): (Option<Timestamp>, Option<Timestamp>),
    ) -> Result<(Vec<Usage>, bool), RowsError> {
        let keys = self.keyring.tenant(tenant).await?;
        let (column, blind) = match used {
            Used::Key(key) => ("key", keys.blind("receipts.key", &[&key.to_string()])),
            Used::Version(version) => ("key_version", keys.blind("receipts.key_version", &[&version.to_string()])),
        };
        let bound = |time: Option<Timestamp>, otherwise: i64| Value::from(time.map_or(otherwise, |time| time.micros()));
        let sql = format!(
            "SELECT COUNT(*), MIN(time), MAX(time), MAX(id) FROM receipts WHERE tenant = $1 AND {column} = $2 AND outcome IS NOT NULL \
             AND outcome <> '{REFUSED}' AND outcome <> '{FAILED}' AND time >= $3 AND time < $4 \
             GROUP BY caller, operation, key_version ORDER BY MAX(time) DESC, MAX(id) LIMIT {}",
            MAX_USES + 1
        );
        let values = vec![tenant.to_string().into(), blind.into(), bound(since, i64::MIN), bound(until, i64::MAX)];
        let failed = || RowsError::during("counting the uses of a key");
        let groups = self.database.of(tenant).query_all_raw(self.database.sql(&sql, values)).await.map_err(failed())?;
        let more = groups.len() > MAX_USES;
        let mut uses = Vec::with_capacity(groups.len().min(MAX_USES));
        for group in groups.iter().take(MAX_USES) {
            let read = |row: &QueryResult| {
                let times: (i64, i64, i64) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?);
                Ok((times, row.try_get_by_index::<String>(3)?))
            };
            let ((count, first, last), id) = read(group).map_err(failed())?;
            let id: ReceiptId = id.parse().map_err(|_| RowsError::Damaged)?;
            // What all of a group have in common is sealed; one of them tells it.
            let intent = self.receipt(tenant, id).await?.ok_or(RowsError::Damaged)?.intent;
            uses.push(Usage {
                caller: intent.caller,
                operation: intent.operation,
                version: intent.key_version.ok_or(RowsError::Damaged)?,
                count: count.unsigned_abs(),
                first: Timestamp::from_micros(first),
                last: Timestamp::from_micros(last),
            });
        }
        Ok((uses, more))
    }
}
