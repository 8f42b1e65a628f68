//! Another sealing key in place of the old one, while everything runs: what hangs from it, the keys of tenants, is sealed anew,
//! a few at a time; no record is touched. Broken off anywhere, everything opens, and the same command goes on: until it has
//! ended both keys are kept, and each key of a tenant says which one it hangs from.

use std::collections::HashMap;

use schema::id::{DataKeyId, TenantId};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use serde::Serialize;

use super::{
    Fingerprint, SealingError,
    keyring::{DESTROYED, Keyring, key_place},
};

/// Keys sealed anew in one transaction.
const BATCH: usize = 100;
/// The other keys of tenants: those that do not hang from this sealing key.
const OTHERS: &str = "role <> $1 AND (sealing_key IS NULL OR sealing_key <> $2)";

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rotated {
    /// The sealing key that everything hangs from now.
    pub sealing_key: Fingerprint,
    /// Where it is kept.
    pub source: String,
    /// Whether this went on with a rotation that was broken off, and made no other key.
    pub went_on: bool,
    /// How many keys of tenants were sealed anew.
    pub keys: u64,
}

/// A sealing key, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SealingKeyStatus {
    /// Which.
    pub fingerprint: Fingerprint,
    /// The kind of its source.
    pub source: String,
    /// Whether new keys hang from it.
    pub current: bool,
    /// Keys of tenants that hang from it.
    pub keys: u64,
    /// Why this process cannot open it; none when it can.
    pub problem: Option<String>,
}

impl Keyring {
    /// Makes another sealing key at the preferred source, and has everything hang from it.
    pub async fn rotate_sealing_key(&self) -> Result<Rotated, SealingError> {
        let current = Self::expected(&self.database).await?.ok_or(SealingError::NoDeployment)?;
        let went_on = self.hanging_elsewhere(&current).await? > 0;
        let sealing_key = if went_on { current } else { self.next_sealing_key(current).await? };
        let mut keys = 0;
        loop {
            match self.seal_anew(&sealing_key).await? {
                0 => break,
                some => keys += some,
            }
        }
        let source = self.known().await?.into_iter().find(|known| known.fingerprint == sealing_key);
        Ok(Rotated { sealing_key, source: source.map(|known| known.source).unwrap_or_default(), went_on, keys })
    }

    /// Forgets sealing keys that nothing hangs from; a source that holds them puts them away.
    pub async fn retire_sealing_keys(&self) -> Result<Vec<Fingerprint>, SealingError> {
        let current = Self::expected(&self.database).await?.ok_or(SealingError::NoDeployment)?;
        let left = self.hanging_elsewhere(&current).await?;
        if left > 0 {
            return Err(SealingError::RotationUnfinished { left });
        }
        let mut retired = Vec::new();
        for known in self.known().await? {
            if known.fingerprint == current {
                continue;
            }
            if let Some(source) = self.sources.find(&known.source) {
                source.retire(std::slice::from_ref(&known.fingerprint)).await?;
            }
            let sql = "DELETE FROM sealing_keys WHERE fingerprint = $1 AND NOT EXISTS (SELECT 1 FROM deployment WHERE sealing_key = $1)";
            let outcome = self.database.write().execute_raw(self.database.sql(sql, vec![known.fingerprint.as_str().into()])).await;
            outcome.map_err(|source| SealingError::Database { act: "forgetting an old sealing key", source })?;
            retired.push(known.fingerprint);
        }
        Ok(retired)
    }

    /// Every sealing key the database knows, and whether this process could open it now.
    pub async fn sealing_keys(&self) -> Result<Vec<SealingKeyStatus>, SealingError> {
        let current = Self::expected(&self.database).await?.ok_or(SealingError::NoDeployment)?;
        let mut all = Vec::new();
        for known in self.known().await? {
            let problem = self.cipher(&known.fingerprint).await.err().map(|error| error.to_string());
            let sql = "SELECT COUNT(*) FROM tenant_keys WHERE role <> $1 AND sealing_key = $2";
            let keys = self.count(sql, &known.fingerprint).await?;
            let is_current = known.fingerprint == current;
            all.push(SealingKeyStatus { fingerprint: known.fingerprint, source: known.source, current: is_current, keys, problem });
        }
        Ok(all)
    }

    async fn hanging_elsewhere(&self, current: &Fingerprint) -> Result<u64, SealingError> {
        self.count(&format!("SELECT COUNT(*) FROM tenant_keys WHERE {OTHERS}"), current).await
    }

    async fn count(&self, sql: &str, fingerprint: &Fingerprint) -> Result<u64, SealingError> {
        let ask = async || -> Result<i64, DbErr> {
            let values = vec![DESTROYED.into(), fingerprint.as_str().into()];
            let row = self.database.write().query_one_raw(self.database.sql(sql, values)).await?;
            row.map_or(Ok(0), |row| row.try_get_by_index(0))
        };
        let count = ask().await.map_err(|source| SealingError::Database { act: "counting what hangs from a sealing key", source })?;
        Ok(count.unsigned_abs())
    }

    /// From now on new keys hang from another sealing key, which is kept for good before.
    async fn next_sealing_key(&self, current: Fingerprint) -> Result<Fingerprint, SealingError> {
        let source = self.sources.preferred()?;
        let mut known: Vec<_> = self.known().await?.into_iter().map(|known| known.fingerprint).collect();
        known.retain(|fingerprint| *fingerprint != current);
        known.push(current.clone());
        let made = source.make(&known, &*self.ids).await?;
        let next = made.key.fingerprint();
        self.take(&next, &made.key)?;
        let record = async {
            let transaction = self.database.begin().await?;
            if self.lock(&transaction).await?.as_ref() != Some(&current) {
                transaction.rollback().await?;
                return Ok(false);
            }
            self.keep(&transaction, &next, source.kind(), made.wrapped).await?;
            let sql = "UPDATE deployment SET sealing_key = $1 WHERE id = 1";
            transaction.execute_raw(self.database.sql(sql, vec![next.as_str().into()])).await?;
            transaction.commit().await?;
            Ok(true)
        };
        match record.await.map_err(|source| SealingError::Database { act: "recording the next sealing key", source })? {
            true => Ok(next),
            false => Err(SealingError::RotatedElsewhere),
        }
    }

    /// Seals a few keys of tenants anew; how many, none when all hang from this sealing key.
    async fn seal_anew(&self, sealing_key: &Fingerprint) -> Result<u64, SealingError> {
        let failed = |source| SealingError::Database { act: "sealing keys of tenants anew", source };
        let next = self.cipher(sealing_key).await?;
        // Opened before the transaction: a source may take its time.
        let mut old = HashMap::new();
        for known in self.known().await? {
            // What cannot be opened is told when something turns out to hang from it.
            if let Ok(cipher) = self.cipher(&known.fingerprint).await {
                old.insert(known.fingerprint, cipher);
            }
        }
        let transaction = self.database.begin().await.map_err(failed)?;
        let sql = format!(
            "SELECT tenant, id, role, sealed, sealing_key FROM tenant_keys WHERE {OTHERS} ORDER BY tenant, id LIMIT {BATCH}{}",
            self.database.for_update()
        );
        let values = vec![DESTROYED.into(), sealing_key.as_str().into()];
        let rows = transaction.query_all_raw(self.database.sql(sql, values)).await.map_err(failed)?;
        for row in &rows {
            let row = Row::read(row).map_err(failed)?;
            let place = row.place()?;
            let opened = match &row.sealing_key {
                Some(fingerprint) => match old.get(fingerprint) {
                    Some(cipher) => cipher.open(&place, &row.sealed)?,
                    None => {
                        // For its error; the transaction is given back first.
                        drop(transaction);
                        self.cipher(fingerprint).await?;
                        return Err(SealingError::UnknownSealingKey(fingerprint.clone()));
                    }
                },
                None => old.values().find_map(|cipher| cipher.open(&place, &row.sealed).ok()).ok_or(SealingError::DoesNotOpen)?,
            };
            let sealed = next.seal(&place, &zeroize::Zeroizing::new(opened))?;
            let sql = "UPDATE tenant_keys SET sealed = $1, sealing_key = $2 WHERE tenant = $3 AND id = $4";
            let values = vec![sealed.into(), sealing_key.as_str().into(), row.tenant.into(), row.id.into()];
            transaction.execute_raw(self.database.sql(sql, values)).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(rows.len() as u64)
    }
}

/// A row of `tenant_keys`.
struct Row {
    tenant: String,
    id: String,
    role: String,
    sealed: Vec<u8>,
    sealing_key: Option<Fingerprint>,
}

impl Row {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        Ok(Self {
            tenant: row.try_get_by_index(0)?,
            id: row.try_get_by_index(1)?,
            role: row.try_get_by_index(2)?,
            sealed: row.try_get_by_index(3)?,
            sealing_key: row.try_get_by_index::<Option<String>>(4)?.map(Fingerprint::from_text),
        })
    }

    fn place(&self) -> Result<Vec<u8>, SealingError> {
        let tenant: TenantId = self.tenant.parse().map_err(|_| SealingError::DoesNotOpen)?;
        let id: DataKeyId = self.id.parse().map_err(|_| SealingError::DoesNotOpen)?;
        Ok(key_place(tenant, id, &self.role))
    }
}
