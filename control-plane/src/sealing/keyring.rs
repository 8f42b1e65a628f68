//! Makes, keeps and opens the keys of tenants. They are random, and stored sealed under the deployment's sealing key.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, RwLock},
};

use aws_lc_rs::hmac;
use schema::{
    clock::{Clock, Ids, new_id, random},
    id::{DataKeyId, TenantId},
};
use sea_orm::{ConnectionTrait, DbErr};
use zeroize::Zeroizing;

use super::{
    Fingerprint, Place, SealingError, SealingKey, TenantKeys,
    cipher::{Cipher, framed},
};
use crate::database::Database;

const DATA: &str = "data";
const INDEX: &str = "index";
const DESTROYED: &str = "destroyed";

/// The keys of all tenants, opened when first asked for. Does not print.
pub struct Keyring {
    database: Database,
    cipher: Cipher,
    fingerprint: Fingerprint,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    opened: RwLock<HashMap<TenantId, Arc<TenantKeys>>>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({})", self.fingerprint)
    }
}

impl Keyring {
    /// Opens it. The first sealing key a database sees is recorded by its fingerprint; any other is refused.
    pub async fn open(database: Database, key: &SealingKey, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Self, SealingError> {
        let found = key.fingerprint();
        let failed = |source| SealingError::Database { act: "recording the sealing key's fingerprint", source };
        let mut expected = Self::expected(&database).await?;
        if expected.is_none() {
            let sql = "INSERT INTO deployment (id, sealing_key, created) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING";
            let values = vec![found.to_string().into(), clock.now().micros().into()];
            database.write().execute_raw(database.sql(sql, values)).await.map_err(failed)?;
            expected = Self::expected(&database).await?;
        }
        let expected = expected.unwrap_or_else(|| Fingerprint::from_text(String::new()));
        if expected != found {
            return Err(SealingError::WrongSealingKey { expected, found });
        }
        Ok(Self { cipher: key.cipher()?, fingerprint: found, database, clock, ids, opened: RwLock::default() })
    }

    /// The fingerprint of the sealing key that the database was sealed under; none in a new one.
    pub async fn expected(database: &Database) -> Result<Option<Fingerprint>, SealingError> {
        let ask = async || -> Result<Option<String>, DbErr> {
            let row = database.read().query_one_raw(database.sql("SELECT sealing_key FROM deployment WHERE id = 1", vec![])).await?;
            row.map(|row| row.try_get_by_index(0)).transpose()
        };
        let found = ask().await.map_err(|source| SealingError::Database { act: "reading the sealing key's fingerprint", source })?;
        Ok(found.map(Fingerprint::from_text))
    }

    /// Which sealing key this is.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The keys of a tenant, made when it has none yet.
    pub async fn tenant(&self, tenant: TenantId) -> Result<Arc<TenantKeys>, SealingError> {
        if let Some(keys) = self.opened.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&tenant) {
            return Ok(Arc::clone(keys));
        }
        match self.load(tenant).await? {
            Some(keys) => Ok(keys),
            None => {
                self.add(tenant, DataKeyId::from_bits(0), INDEX).await?;
                self.add(tenant, new_id(&*self.ids, self.clock.now()), DATA).await?;
                self.load(tenant).await?.ok_or(SealingError::TenantErased(tenant))
            }
        }
    }

    /// Opens what was sealed in this place, also under a data key another replica has made since.
    pub async fn open_sealed(
        &self,
        tenant: TenantId,
        place: Place<'_>,
        data_key: DataKeyId,
        sealed: &[u8],
    ) -> Result<Vec<u8>, SealingError> {
        match self.tenant(tenant).await?.open(place, data_key, sealed) {
            Err(SealingError::UnknownDataKey(_)) => {
                let keys = self.load(tenant).await?.ok_or(SealingError::UnknownDataKey(data_key))?;
                keys.open(place, data_key, sealed)
            }
            other => other,
        }
    }

    /// From now on this tenant's data is sealed under a new data key; what is sealed stays readable.
    pub async fn rotate_data_key(&self, tenant: TenantId) -> Result<DataKeyId, SealingError> {
        self.tenant(tenant).await?;
        self.add(tenant, new_id(&*self.ids, self.clock.now()), DATA).await?;
        self.load(tenant).await?.map(|keys| keys.current).ok_or(SealingError::TenantErased(tenant))
    }

    /// Destroys the tenant's keys: nothing it stored can be read again, by anybody. It never gets new ones.
    pub async fn erase(&self, tenant: TenantId) -> Result<(), SealingError> {
        let sql = "UPDATE tenant_keys SET role = $1, sealed = $2 WHERE tenant = $3";
        let values = vec![DESTROYED.into(), Vec::<u8>::new().into(), tenant.to_string().into()];
        let outcome = self.database.write().execute_raw(self.database.sql(sql, values)).await;
        outcome.map_err(|source| SealingError::Database { act: "destroying a tenant's keys", source })?;
        self.opened.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&tenant);
        Ok(())
    }

    async fn add(&self, tenant: TenantId, id: DataKeyId, role: &'static str) -> Result<(), SealingError> {
        let key = Zeroizing::new(random::<32>(&*self.ids));
        let sealed = self.cipher.seal(&key_place(tenant, id, role), &*key)?;
        // The first index key of a tenant stays, whoever made it.
        let sql =
            "INSERT INTO tenant_keys (tenant, id, role, sealed, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, id) DO NOTHING";
        let values = vec![tenant.to_string().into(), id.to_string().into(), role.into(), sealed.into(), self.clock.now().micros().into()];
        let outcome = self.database.write().execute_raw(self.database.sql(sql, values)).await;
        outcome.map(drop).map_err(|source| SealingError::Database { act: "keeping a tenant's key", source })
    }

    async fn load(&self, tenant: TenantId) -> Result<Option<Arc<TenantKeys>>, SealingError> {
        let failed = |source| SealingError::Database { act: "reading a tenant's keys", source };
        let sql = "SELECT id, role, sealed FROM tenant_keys WHERE tenant = $1 ORDER BY created, id";
        let rows = self.database.write().query_all_raw(self.database.sql(sql, vec![tenant.to_string().into()])).await.map_err(failed)?;
        let (mut index, mut data, mut current) = (None, HashMap::new(), None);
        for row in rows {
            let id: String = row.try_get_by_index(0).map_err(failed)?;
            let role: String = row.try_get_by_index(1).map_err(failed)?;
            let sealed: Vec<u8> = row.try_get_by_index(2).map_err(failed)?;
            let id: DataKeyId = id.parse().map_err(|_| SealingError::DoesNotOpen)?;
            if role == DESTROYED {
                return Err(SealingError::TenantErased(tenant));
            }
            let key = Zeroizing::new(self.cipher.open(&key_place(tenant, id, &role), &sealed)?);
            let key: &[u8; 32] = key.as_slice().try_into().map_err(|_| SealingError::DoesNotOpen)?;
            if role == INDEX {
                index = Some(hmac::Key::new(hmac::HMAC_SHA256, key));
            } else {
                data.insert(id, Cipher::new(key)?);
                current = Some(id);
            }
        }
        let (Some(index), Some(current)) = (index, current) else { return Ok(None) };
        let keys = Arc::new(TenantKeys { tenant, index, current, data });
        self.opened.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(tenant, Arc::clone(&keys));
        Ok(Some(keys))
    }
}

fn key_place(tenant: TenantId, id: DataKeyId, role: &str) -> Vec<u8> {
    framed("freehold-tenant-key-v1", &[tenant.to_string().as_bytes(), id.to_string().as_bytes(), role.as_bytes()])
}
