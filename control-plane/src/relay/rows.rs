//! The table of the relay. Exact bytes are sealed; ids and ends stand beside them.

use std::sync::Arc;

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    id::{AgentId, KeyVersion, PrekeyId, SiteId, TenantId},
    wire::relay::{MAX_CONTEXT_KEYS, MAX_TRANSFERS, Waiting},
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};

use crate::{
    database::Database,
    sealing::{Keyring, Place, SealingError},
};

const TABLE: &str = "relay";
/// The most that is told of what waits for others.
const MAX_TOLD: usize = 5_000;

/// The relay could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RelayRowsError {
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
    #[error("sealing or opening what is relayed failed")]
    Sealing(#[from] SealingError),
    /// What is stored does not read.
    #[error("what is stored of the relay is damaged")]
    Damaged,
}

impl RelayRowsError {
    fn during(act: &'static str) -> impl FnOnce(DbErr) -> Self {
        move |source| Self::Database { act, source }
    }
}

/// What kind of document it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A prekey.
    Prekey,
    /// Material of a version, and who sent it.
    Material(AgentId, KeyVersion),
    /// A context key, and who sent it.
    ContextKey(AgentId),
}

impl What {
    fn sender(self) -> Option<AgentId> {
        match self {
            Self::Prekey => None,
            Self::Material(sender, _) | Self::ContextKey(sender) => Some(sender),
        }
    }

    fn version(self) -> Option<KeyVersion> {
        match self {
            Self::Material(_, version) => Some(version),
            Self::Prekey | Self::ContextKey(_) => None,
        }
    }
}

/// One document that waits.
#[derive(Debug, Clone)]
pub struct Relayed {
    /// Whom it is for; of a prekey, whose it is.
    pub recipient: AgentId,
    /// The site of its recipient.
    pub site: SiteId,
    /// The prekey it is, or is sealed to.
    pub prekey: PrekeyId,
    /// What it is.
    pub what: What,
    /// Until when it may be kept.
    pub expires: Timestamp,
    /// Exact bytes.
    pub bytes: Base64,
}

/// The table.
#[derive(Debug, Clone)]
pub struct RelayRows {
    database: Database,
    keyring: Arc<Keyring>,
}

impl RelayRows {
    /// In this database, sealed under these keys.
    pub fn new(database: Database, keyring: Arc<Keyring>) -> Self {
        Self { database, keyring }
    }

    /// Forgets what has come to its end.
    pub async fn sweep(&self, tenant: TenantId, now: Timestamp) -> Result<(), RelayRowsError> {
        let values = vec![tenant.to_string().into(), now.micros().into()];
        self.execute("forgetting what has ended", "DELETE FROM relay WHERE tenant = $1 AND expires < $2", values).await
    }

    /// Forgets what is for this agent but for these prekeys, and what is sealed to these.
    pub async fn keep_only(&self, tenant: TenantId, recipient: AgentId, prekeys: &[PrekeyId]) -> Result<(), RelayRowsError> {
        let mut values: Vec<Value> = vec![tenant.to_string().into(), recipient.to_string().into()];
        let mut sql = "DELETE FROM relay WHERE tenant = $1 AND recipient = $2".to_owned();
        if !prekeys.is_empty() {
            sql.push_str(&format!(" AND prekey NOT IN ({})", places(3, prekeys.len())));
            values.extend(prekeys.iter().map(|prekey| Value::from(prekey.to_string())));
        }
        self.execute("forgetting former prekeys", &sql, values).await
    }

    /// Forgets transfers that were for this agent.
    pub async fn forget(&self, tenant: TenantId, recipient: AgentId, done: &[Digest]) -> Result<(), RelayRowsError> {
        for done in done.chunks(100) {
            let sql = format!(
                "DELETE FROM relay WHERE tenant = $1 AND recipient = $2 AND sender IS NOT NULL AND id IN ({})",
                places(3, done.len())
            );
            let mut values: Vec<Value> = vec![tenant.to_string().into(), recipient.to_string().into()];
            values.extend(done.iter().map(|id| Value::from(id.to_string())));
            self.execute("forgetting what was fetched", &sql, values).await?;
        }
        Ok(())
    }

    /// Keeps a document; the same one again changes nothing.
    pub async fn keep(&self, tenant: TenantId, relayed: &Relayed, now: Timestamp) -> Result<(), RelayRowsError> {
        let keys = self.keyring.tenant(tenant).await?;
        let id = Digest::of(relayed.bytes.as_slice()).to_string();
        let recipient = relayed.recipient.to_string();
        let sealed = keys.seal(Place::Row { table: TABLE, key: &row_key(&recipient, &id) }, relayed.bytes.as_slice())?;
        let sql = "INSERT INTO relay (tenant, recipient, id, site, prekey, sender, version, at, expires, data_key, sealed) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (tenant, recipient, id) DO NOTHING";
        let values = vec![
            tenant.to_string().into(),
            recipient.into(),
            id.into(),
            relayed.site.to_string().into(),
            relayed.prekey.to_string().into(),
            relayed.what.sender().map(|sender| sender.to_string()).into(),
            relayed.what.version().map(|version| version.to_string()).into(),
            now.micros().into(),
            relayed.expires.micros().into(),
            sealed.data_key.to_string().into(),
            sealed.bytes.into(),
        ];
        self.execute("keeping what is relayed", sql, values).await
    }

    /// When a prekey of this agent ends; none when it is not here.
    pub async fn prekey_end(&self, tenant: TenantId, owner: AgentId, prekey: PrekeyId) -> Result<Option<Timestamp>, RelayRowsError> {
        let act = "looking for a prekey";
        let sql = "SELECT expires FROM relay WHERE tenant = $1 AND recipient = $2 AND prekey = $3 AND sender IS NULL";
        let values = vec![tenant.to_string().into(), owner.to_string().into(), prekey.to_string().into()];
        let row = self.database.of(tenant).query_one_raw(self.database.sql(sql, values)).await.map_err(RelayRowsError::during(act))?;
        let expires = row.map(|row| row.try_get_by_index::<i64>(0)).transpose().map_err(RelayRowsError::during(act))?;
        Ok(expires.map(Timestamp::from_micros))
    }

    /// Whether this sender's material of this version waits for this prekey already; and how much waits for the agent.
    pub async fn waits(&self, tenant: TenantId, waiting: Waiting, sender: AgentId) -> Result<(bool, u64), RelayRowsError> {
        let act = "counting what waits";
        let sql = "SELECT COUNT(*), SUM(CASE WHEN prekey = $3 AND version = $4 AND sender = $5 THEN 1 ELSE 0 END) \
                   FROM relay WHERE tenant = $1 AND recipient = $2 AND sender IS NOT NULL";
        let Waiting { recipient, prekey, version } = waiting;
        let values = [tenant.to_string(), recipient.to_string(), prekey.to_string(), version.to_string(), sender.to_string()];
        let values = values.into_iter().map(Value::from).collect();
        let row = self.database.of(tenant).query_one_raw(self.database.sql(sql, values)).await.map_err(RelayRowsError::during(act))?;
        let Some(row) = row else { return Ok((false, 0)) };
        let read = |row: &QueryResult| Ok::<_, DbErr>((row.try_get_by_index::<i64>(0)?, row.try_get_by_index::<Option<i64>>(1)?));
        let (all, same) = read(&row).map_err(RelayRowsError::during(act))?;
        Ok((same.unwrap_or_default() > 0, all.unsigned_abs()))
    }

    /// The prekeys of the other agents of these sites.
    pub async fn prekeys(&self, tenant: TenantId, sites: &[SiteId], but: AgentId) -> Result<Vec<Base64>, RelayRowsError> {
        let condition = format!("recipient <> $2 AND sender IS NULL AND site IN ({}) ORDER BY at, id", places(3, sites.len()));
        self.documents(tenant, &condition, beside(but, sites).collect()).await
    }

    /// Transfers for an agent, the oldest first.
    pub async fn transfers(&self, tenant: TenantId, recipient: AgentId) -> Result<Vec<Base64>, RelayRowsError> {
        let condition = format!("recipient = $2 AND version IS NOT NULL ORDER BY at, id LIMIT {MAX_TRANSFERS}");
        self.documents(tenant, &condition, vec![recipient.to_string().into()]).await
    }

    /// Context keys for an agent, the oldest first.
    pub async fn context_keys(&self, tenant: TenantId, recipient: AgentId) -> Result<Vec<Base64>, RelayRowsError> {
        let condition = format!("recipient = $2 AND sender IS NOT NULL AND version IS NULL ORDER BY at, id LIMIT {MAX_CONTEXT_KEYS}");
        self.documents(tenant, &condition, vec![recipient.to_string().into()]).await
    }

    /// How many context keys of this sender wait for this agent.
    pub async fn context_keys_of(&self, tenant: TenantId, recipient: AgentId, sender: AgentId) -> Result<u64, RelayRowsError> {
        let act = "counting context keys";
        let sql = "SELECT COUNT(*) FROM relay WHERE tenant = $1 AND recipient = $2 AND sender = $3 AND version IS NULL";
        let values = [tenant.to_string(), recipient.to_string(), sender.to_string()].into_iter().map(Value::from).collect();
        let row = self.database.of(tenant).query_one_raw(self.database.sql(sql, values)).await.map_err(RelayRowsError::during(act))?;
        let count = row.map(|row| row.try_get_by_index::<i64>(0)).transpose().map_err(RelayRowsError::during(act))?;
        Ok(count.unwrap_or_default().unsigned_abs())
    }

    /// What waits for the other agents of these sites.
    pub async fn waiting(&self, tenant: TenantId, sites: &[SiteId], but: AgentId) -> Result<Vec<Waiting>, RelayRowsError> {
        let act = "reading what waits";
        let sql = format!(
            "SELECT DISTINCT recipient, prekey, version FROM relay \
             WHERE tenant = $1 AND recipient <> $2 AND version IS NOT NULL AND site IN ({}) LIMIT {MAX_TOLD}",
            places(3, sites.len())
        );
        let values = std::iter::once(Value::from(tenant.to_string())).chain(beside(but, sites)).collect();
        let rows = self.database.of(tenant).query_all_raw(self.database.sql(sql, values)).await.map_err(RelayRowsError::during(act))?;
        let read = |row: &QueryResult| -> Result<(String, String, String), DbErr> {
            Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?))
        };
        rows.iter()
            .map(|row| {
                let (recipient, prekey, version) = read(row).map_err(RelayRowsError::during(act))?;
                let parsed = (recipient.parse().ok(), prekey.parse().ok(), version.parse().ok());
                let (Some(recipient), Some(prekey), Some(version)) = parsed else { return Err(RelayRowsError::Damaged) };
                Ok(Waiting { recipient, prekey, version })
            })
            .collect()
    }

    async fn documents(&self, tenant: TenantId, condition: &str, more: Vec<Value>) -> Result<Vec<Base64>, RelayRowsError> {
        let act = "reading what is relayed";
        let sql = format!("SELECT recipient, id, data_key, sealed FROM relay WHERE tenant = $1 AND {condition}");
        let values = std::iter::once(Value::from(tenant.to_string())).chain(more).collect();
        let rows = self.database.of(tenant).query_all_raw(self.database.sql(sql, values)).await.map_err(RelayRowsError::during(act))?;
        let mut documents = Vec::with_capacity(rows.len());
        for row in rows {
            let read = |row: &QueryResult| -> Result<(String, String, String, Vec<u8>), DbErr> {
                Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?, row.try_get_by_index(3)?))
            };
            let (recipient, id, data_key, sealed) = read(&row).map_err(RelayRowsError::during(act))?;
            let data_key = data_key.parse().map_err(|_| RelayRowsError::Damaged)?;
            let place = Place::Row { table: TABLE, key: &row_key(&recipient, &id) };
            documents.push(Base64(self.keyring.open_sealed(tenant, place, data_key, &sealed).await?));
        }
        Ok(documents)
    }

    async fn execute(&self, act: &'static str, sql: &str, values: Vec<Value>) -> Result<(), RelayRowsError> {
        let done = self.database.write().execute_raw(self.database.sql(sql, values)).await;
        done.map(drop).map_err(RelayRowsError::during(act))
    }
}

fn row_key(recipient: &str, id: &str) -> String {
    format!("{recipient}/{id}")
}

/// The values of a question about other agents of these sites.
fn beside(but: AgentId, sites: &[SiteId]) -> impl Iterator<Item = Value> {
    std::iter::once(Value::from(but.to_string())).chain(sites.iter().map(|site| Value::from(site.to_string())))
}

/// `$3, $4, …`
fn places(first: usize, count: usize) -> String {
    (first..first + count).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ")
}
