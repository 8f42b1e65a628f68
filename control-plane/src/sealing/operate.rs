//! What an operator's commands do with keys, beside whoever serves the deployment: on its database, in a process of their own.

use std::sync::Arc;

use schema::{
    clock::{Clock, Ids, Timestamp},
    id::{DataKeyId, MemberId, TenantId},
};
use sea_orm::{ConnectionTrait, DbErr};
use serde::Serialize;

use super::{
    Fingerprint, Keyring, SealingError,
    rotation::{Rotated, SealingKeyStatus},
    source::Sources,
};
use crate::{
    app::{StartError, location},
    config::Config,
    database::Database,
};

/// What there is at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Sealing keys that something may hang from, oldest first.
    pub sealing_keys: Vec<SealingKeyStatus>,
    /// Tenants that have keys; the deployment itself is one.
    pub tenants: u64,
    /// Data keys of all tenants together.
    pub data_keys: u64,
    /// When the tenant whose current data key is the oldest was given it.
    pub oldest_current_data_key: Option<Timestamp>,
    /// Tenants that were erased.
    pub erased_tenants: u64,
}

/// Another data key of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewDataKey {
    /// Whose.
    pub tenant: TenantId,
    /// What new things are sealed under.
    pub data_key: DataKeyId,
}

/// The keys of the deployment that settings name.
pub struct Operator {
    keyring: Keyring,
    database: Database,
}

impl Operator {
    /// Opens them; the deployment must have been started once.
    pub async fn open(config: &Config, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Self, StartError> {
        service::tls::install_provider();
        let database = Database::beside(&location(config)?).await?;
        Keyring::expected(&database).await?.ok_or(SealingError::NoDeployment)?;
        let keyring = Keyring::open_from(database.clone(), Sources::new(config)?, clock, ids).await?;
        Ok(Self { keyring, database })
    }

    /// What there is.
    pub async fn status(&self) -> Result<Status, SealingError> {
        let sealing_keys = self.keyring.sealing_keys().await?;
        let failed = |source| SealingError::Database { act: "counting keys of tenants", source };
        let count = async |sql: &str| -> Result<u64, DbErr> {
            let row = self.database.write().query_one_raw(self.database.sql(sql, vec![])).await?;
            let count: Option<i64> = row.map(|row| row.try_get_by_index::<Option<i64>>(0)).transpose()?.flatten();
            Ok(count.unwrap_or(0).unsigned_abs())
        };
        let oldest = "SELECT MIN(newest) FROM (SELECT MAX(created) AS newest FROM tenant_keys WHERE role = 'data' GROUP BY tenant) AS keys";
        let oldest = count(oldest).await.map_err(failed)?;
        Ok(Status {
            sealing_keys,
            tenants: count("SELECT COUNT(*) FROM tenant_keys WHERE role = 'index'").await.map_err(failed)?,
            data_keys: count("SELECT COUNT(*) FROM tenant_keys WHERE role = 'data'").await.map_err(failed)?,
            oldest_current_data_key: (oldest > 0).then(|| Timestamp::from_micros(i64::try_from(oldest).unwrap_or(i64::MAX))),
            erased_tenants: count("SELECT COUNT(DISTINCT tenant) FROM tenant_keys WHERE role = 'destroyed'").await.map_err(failed)?,
        })
    }

    /// Another sealing key, and everything hanging from it.
    pub async fn rotate(&self) -> Result<Rotated, SealingError> {
        self.keyring.rotate_sealing_key().await
    }

    /// Forgets sealing keys that nothing hangs from.
    pub async fn retire(&self) -> Result<Vec<Fingerprint>, SealingError> {
        self.keyring.retire_sealing_keys().await
    }

    /// Another data key for each of these tenants, or for every one.
    pub async fn rotate_data_keys(&self, tenants: Option<&[TenantId]>) -> Result<Vec<NewDataKey>, SealingError> {
        let all = match tenants {
            Some(tenants) => {
                let known = self.keyring.tenants().await?;
                if let Some(unknown) = tenants.iter().find(|tenant| !known.contains(tenant)) {
                    return Err(SealingError::UnknownTenant(*unknown));
                }
                tenants.to_vec()
            }
            None => self.keyring.tenants().await?,
        };
        let mut rotated = Vec::with_capacity(all.len());
        for tenant in all {
            rotated.push(NewDataKey { tenant, data_key: self.keyring.rotate_data_key(tenant).await? });
        }
        Ok(rotated)
    }

    /// Another key for a person of a tenant.
    pub async fn rotate_person_key(&self, tenant: TenantId, person: MemberId) -> Result<NewDataKey, SealingError> {
        Ok(NewDataKey { tenant, data_key: self.keyring.rotate_person_key(tenant, person).await? })
    }

    /// Ends its connections.
    pub async fn close(self) -> Result<(), SealingError> {
        self.database.close().await.map_err(|source| SealingError::Database { act: "closing the database", source })
    }
}
