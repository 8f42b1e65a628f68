//! What was erased, kept also outside of the database: a backup from before brings keys back, and this destroys them again. Ids
//! and times only.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schema::{
    clock::Timestamp,
    id::{MemberId, TenantId},
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr};
use serde::{Deserialize, Serialize};
use service::files::{FileError, OWNER_ONLY, write_atomic};
use tokio_util::sync::CancellationToken;

use super::{Keyring, SealingError, keyring::DESTROYED};
use crate::{access::context::DEPLOYMENT, database::Database};

/// What belongs to a tenant beside its log and the bodies that it names: of no use without its keys.
pub const OF_A_TENANT: [&str; 8] =
    ["heartbeats", "agent_reports", "agent_ratchets", "receipts", "relay", "recovery_evidence", "secrets", "person_keys"];
/// Its read model: a rebuild would not make it again.
pub const READ_MODEL: [&str; 3] = ["views", "view_terms", "view_handles"];

/// A tenant, or a person in one, that was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The tenant.
    pub tenant: TenantId,
    /// The person; none: the whole tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<MemberId>,
    /// When.
    pub erased: Timestamp,
}

/// Why the list was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum TombstoneError {
    /// The file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file could not be read.
    #[error("reading the list of erasures {} failed", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is none of ours.
    #[error("line {line} of the list of erasures {} cannot be read; mend or remove it, and start again", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        line: usize,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// Keys could not be destroyed.
    #[error("erasing again what was erased failed")]
    Sealing(#[from] SealingError),
}

impl Keyring {
    /// Everything that was erased.
    pub async fn tombstones(&self) -> Result<Vec<Tombstone>, SealingError> {
        all(&self.database).await
    }

    /// Destroys again what this list says was erased and this database does not: an older backup brought it back. How much.
    pub async fn erase_again(&self, list: &[Tombstone]) -> Result<u64, SealingError> {
        let mut again = 0;
        for tombstone in list {
            if self.is_buried(tombstone.tenant, tombstone.person).await? {
                continue;
            }
            tracing::warn!(tenant = %tombstone.tenant, person = ?tombstone.person, "erasing again what an older backup brought back");
            match tombstone.person {
                Some(person) => self.erase_person(tombstone.tenant, person).await?,
                None => self.erase(tombstone.tenant).await?,
            }
            again += 1;
        }
        Ok(again)
    }

    /// Destroys the tenant's keys: nothing it stored can be read again, by anybody. It never gets new ones. Its log stays, and
    /// what proves it; everything else it had goes.
    pub async fn erase(&self, tenant: TenantId) -> Result<(), SealingError> {
        let destroy = async {
            let transaction = self.database.begin().await?;
            let sql = "UPDATE tenant_keys SET role = $1, sealed = $2, sealing_key = NULL WHERE tenant = $3";
            let values = vec![DESTROYED.into(), Vec::<u8>::new().into(), tenant.to_string().into()];
            transaction.execute_raw(self.database.sql(sql, values)).await?;
            self.bury(&transaction, tenant, None, self.clock.now()).await?;
            self.tell(&transaction).await?;
            transaction.commit().await
        };
        destroy.await.map_err(|source| SealingError::Database { act: "destroying a tenant's keys", source })?;
        self.forget(tenant);
        let removed = async {
            remove(&self.database, &OF_A_TENANT, tenant).await?;
            remove(&self.database.projecting(), &READ_MODEL, tenant).await
        };
        removed.await.map_err(|source| SealingError::Database { act: "removing what an erased tenant had", source })?;
        self.wipe().await;
        Ok(())
    }

    pub(super) async fn bury(
        &self,
        transaction: &DatabaseTransaction,
        tenant: TenantId,
        person: Option<MemberId>,
        at: Timestamp,
    ) -> Result<(), DbErr> {
        let sql = "INSERT INTO tombstones (tenant, person, erased) VALUES ($1, $2, $3) ON CONFLICT (tenant, person) DO NOTHING";
        let values = vec![tenant.to_string().into(), text(person).into(), at.micros().into()];
        transaction.execute_raw(self.database.sql(sql, values)).await.map(drop)
    }

    /// Whether a person, or with none the tenant, was erased.
    pub async fn is_buried(&self, tenant: TenantId, person: Option<MemberId>) -> Result<bool, SealingError> {
        let sql = "SELECT 1 FROM tombstones WHERE tenant = $1 AND person IN ($2, '')";
        let values = vec![tenant.to_string().into(), text(person).into()];
        let found = self.database.write().query_one_raw(self.database.sql(sql, values)).await;
        found.map(|row| row.is_some()).map_err(|source| SealingError::Database { act: "reading what was erased", source })
    }

    /// Whether there is a tenant of this id that was not erased.
    pub async fn knows_tenant(&self, tenant: TenantId) -> Result<bool, SealingError> {
        let sql = "SELECT 1 FROM tenant_keys WHERE tenant = $1 AND role = 'index'";
        let found = self.database.write().query_one_raw(self.database.sql(sql, vec![tenant.to_string().into()])).await;
        let known = found.map(|row| row.is_some()).map_err(|source| SealingError::Database { act: "looking for a tenant", source })?;
        Ok(known && tenant != DEPLOYMENT)
    }

    /// Every tenant that has keys, the deployment's own among them.
    pub async fn tenants(&self) -> Result<Vec<TenantId>, SealingError> {
        let failed = |source| SealingError::Database { act: "listing tenants that have keys", source };
        let sql = "SELECT tenant FROM tenant_keys WHERE role = 'index' ORDER BY tenant";
        let rows = self.database.write().query_all_raw(self.database.sql(sql, vec![])).await.map_err(failed)?;
        let read = |row: &sea_orm::QueryResult| {
            let tenant: String = row.try_get_by_index(0).map_err(failed)?;
            tenant.parse().map_err(|_| SealingError::DoesNotOpen)
        };
        rows.iter().map(read).collect()
    }

    /// Has the database forget what rows were: keys that were destroyed stand in its files for a while.
    pub(super) async fn wipe(&self) {
        let statements: &[&str] = match self.database.backend() {
            DbBackend::Sqlite => &["PRAGMA wal_checkpoint(TRUNCATE)"],
            _ => &["VACUUM tenant_keys", "VACUUM person_keys", "VACUUM secrets"],
        };
        for statement in statements {
            if let Err(error) = self.database.write().execute_unprepared(statement).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "keys that were destroyed may stand in the database's files for a while longer"
                );
            }
        }
    }
}

/// Everything that a database says was erased.
pub async fn all(database: &Database) -> Result<Vec<Tombstone>, SealingError> {
    let failed = |source| SealingError::Database { act: "reading what was erased", source };
    let sql = "SELECT tenant, person, erased FROM tombstones ORDER BY tenant, person";
    let rows = database.write().query_all_raw(database.sql(sql, vec![])).await.map_err(failed)?;
    let mut all = Vec::with_capacity(rows.len());
    for row in &rows {
        let (tenant, person): (String, String) = (row.try_get_by_index(0).map_err(failed)?, row.try_get_by_index(1).map_err(failed)?);
        let erased: i64 = row.try_get_by_index(2).map_err(failed)?;
        let tenant = tenant.parse().map_err(|_| SealingError::DoesNotOpen)?;
        let person = if person.is_empty() { None } else { Some(person.parse().map_err(|_| SealingError::DoesNotOpen)?) };
        all.push(Tombstone { tenant, person, erased: Timestamp::from_micros(erased) });
    }
    Ok(all)
}

async fn remove(database: &Database, tables: &[&str], tenant: TenantId) -> Result<(), DbErr> {
    let transaction = database.begin().await?;
    for table in tables {
        let sql = format!("DELETE FROM {table} WHERE tenant = $1");
        transaction.execute_raw(database.sql(sql, vec![tenant.to_string().into()])).await?;
    }
    transaction.commit().await
}

fn text(person: Option<MemberId>) -> String {
    person.map(|person| person.to_string()).unwrap_or_default()
}

/// The list in a file; empty when there is none.
pub fn read(path: &Path) -> Result<Vec<Tombstone>, TombstoneError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(TombstoneError::Read { path: path.to_owned(), source }),
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|source| TombstoneError::Line { path: path.to_owned(), line: at + 1, source })
    };
    lines.map(parse).collect()
}

/// Brings file and database together: what either says was erased is erased, and stands in both.
pub async fn reconcile(keyring: &Keyring, path: &Path) -> Result<u64, TombstoneError> {
    let listed = read(path)?;
    let again = keyring.erase_again(&listed).await?;
    add(path, &listed, keyring.tombstones().await?)?;
    Ok(again)
}

/// Adds to the list in a file what it does not say yet.
pub fn add(path: &Path, listed: &[Tombstone], more: impl IntoIterator<Item = Tombstone>) -> Result<(), TombstoneError> {
    let mut all = BTreeMap::new();
    // The earlier time stands.
    for tombstone in more.into_iter().chain(listed.iter().copied()) {
        all.insert((tombstone.tenant, tombstone.person), tombstone);
    }
    if all.len() != listed.len() {
        let lines = all.values().filter_map(|tombstone| serde_json::to_string(tombstone).ok());
        let text: String = lines.map(|line| line + "\n").collect();
        write_atomic(path, text.as_bytes(), OWNER_ONLY)?;
    }
    Ok(())
}

/// Keeps the file as the database is, until told to stop.
pub async fn keep(keyring: std::sync::Arc<Keyring>, path: PathBuf, stop: CancellationToken) {
    let mut changes = keyring.changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        if let Err(error) = reconcile(&keyring, &path).await {
            tracing::error!(error = &error as &dyn std::error::Error, file = %path.display(), "keeping the list of erasures failed");
        }
    }
}
