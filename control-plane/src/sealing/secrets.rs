//! Secrets of the control plane itself: signing pairs of statements, keys of certificate authorities. Sealed under their
//! tenant's data key; the deployment's own belong to [`crate::access::context::DEPLOYMENT`].

use std::{fmt, sync::Arc};

use schema::{
    clock::Clock,
    id::{DataKeyId, TenantId},
};
use sea_orm::ConnectionTrait;
use zeroize::Zeroizing;

use super::{Keyring, Place, SealingError};
use crate::database::Database;

/// Bytes that do not print and are wiped on drop.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes bytes in.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Keeps secrets by tenant and name.
#[derive(Clone)]
pub struct Secrets {
    database: Database,
    keyring: Arc<Keyring>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// Keeps them in this database.
    pub fn new(database: Database, keyring: Arc<Keyring>, clock: Arc<dyn Clock>) -> Self {
        Self { database, keyring, clock }
    }

    /// The secret of this name.
    pub async fn secret(&self, tenant: TenantId, name: &str) -> Result<Option<Secret>, SealingError> {
        let failed = |source| SealingError::Database { act: "reading a secret", source };
        let keys = self.keyring.tenant(tenant).await?;
        let sql = "SELECT data_key, sealed FROM secrets WHERE tenant = $1 AND name = $2";
        let values = vec![tenant.to_string().into(), keys.blind("secrets.name", &[name]).into()];
        let Some(row) = self.database.write().query_one_raw(self.database.sql(sql, values)).await.map_err(failed)? else { return Ok(None) };
        let data_key: String = row.try_get_by_index(0).map_err(failed)?;
        let data_key: DataKeyId = data_key.parse().map_err(|_| SealingError::DoesNotOpen)?;
        let sealed: Vec<u8> = row.try_get_by_index(1).map_err(failed)?;
        self.keyring.open_sealed(tenant, Place::Secret(name), data_key, &sealed).await.map(|bytes| Some(Secret::new(bytes)))
    }

    /// Keeps a secret unless there is one of this name, and returns the one that is kept: of several replicas that make
    /// the same thing at once, one wins and all use it.
    pub async fn keep_first(&self, tenant: TenantId, name: &str, secret: &Secret) -> Result<Secret, SealingError> {
        self.insert(tenant, name, secret, "DO NOTHING").await?;
        self.secret(tenant, name).await?.ok_or(SealingError::DoesNotOpen)
    }

    /// Keeps a secret, in place of any of this name.
    pub async fn put_secret(&self, tenant: TenantId, name: &str, secret: &Secret) -> Result<(), SealingError> {
        self.insert(
            tenant,
            name,
            secret,
            "DO UPDATE SET data_key = excluded.data_key, sealed = excluded.sealed, created = excluded.created",
        )
        .await
    }

    /// Erases the secret of this name.
    pub async fn forget(&self, tenant: TenantId, name: &str) -> Result<(), SealingError> {
        let keys = self.keyring.tenant(tenant).await?;
        let values = vec![tenant.to_string().into(), keys.blind("secrets.name", &[name]).into()];
        let sql = self.database.sql("DELETE FROM secrets WHERE tenant = $1 AND name = $2", values);
        let outcome = self.database.write().execute_raw(sql).await;
        outcome.map(drop).map_err(|source| SealingError::Database { act: "erasing a secret", source })
    }

    /// Erases the secret of this name, and has the database forget what the row was.
    pub async fn destroy(&self, tenant: TenantId, name: &str) -> Result<(), SealingError> {
        self.forget(tenant, name).await?;
        self.keyring.wipe().await;
        Ok(())
    }

    async fn insert(&self, tenant: TenantId, name: &str, secret: &Secret, on_conflict: &str) -> Result<(), SealingError> {
        let keys = self.keyring.tenant(tenant).await?;
        let sealed = keys.seal(Place::Secret(name), secret.reveal())?;
        let sql = format!(
            "INSERT INTO secrets (tenant, name, data_key, sealed, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, name) {on_conflict}"
        );
        let values = vec![
            tenant.to_string().into(),
            keys.blind("secrets.name", &[name]).into(),
            sealed.data_key.to_string().into(),
            sealed.bytes.into(),
            self.clock.now().micros().into(),
        ];
        let outcome = self.database.write().execute_raw(self.database.sql(&sql, values)).await;
        outcome.map(drop).map_err(|source| SealingError::Database { act: "keeping a secret", source })
    }
}
