//! Makes, keeps and opens the keys of tenants. They are random, and stored sealed under the deployment's sealing key.
//!
//! The sealing key can be replaced while this process runs: every key of a tenant says which one it hangs from, and the one that
//! is wanted is asked of its source. What is open stays open.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use aws_lc_rs::hmac;
use schema::{
    clock::{Clock, Ids, new_id, random},
    id::{DataKeyId, TenantId},
};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbErr};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{
    Fingerprint, Place, SealingError, SealingKey, TenantKeys,
    cipher::{Cipher, framed},
    persons::Persons,
    source::{FILE, Sources},
};
use crate::database::Database;

const DATA: &str = "data";
const INDEX: &str = "index";
pub(super) const DESTROYED: &str = "destroyed";
/// Tenants whose keys are kept open.
const MAX_OPEN: usize = 10_000;
/// How often a process looks whether others have replaced or destroyed keys.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How many of those pass between two times that the source is asked whether it would still open the sealing key.
const PROBE_EVERY: u32 = 30;

/// The keys of all tenants, opened when first asked for. Does not print.
pub struct Keyring {
    pub(super) database: Database,
    pub(super) sources: Sources,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn Ids>,
    /// Sealing keys that are open.
    ciphers: RwLock<HashMap<Fingerprint, Arc<Cipher>>>,
    opened: RwLock<HashMap<TenantId, Arc<TenantKeys>>>,
    pub(super) persons: RwLock<Persons>,
    /// Grows when keys were replaced or destroyed: what was opened with them, and is kept, is to be forgotten.
    changed: watch::Sender<u64>,
    /// What somebody should look at: the sealing key was replaced and is not to be had here.
    trouble: Mutex<Option<String>>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}

/// A sealing key as the database knows it.
pub(super) struct Known {
    pub(super) fingerprint: Fingerprint,
    pub(super) source: String,
    pub(super) wrapped: Option<Vec<u8>>,
}

impl Keyring {
    /// Opens it with a key that the caller holds.
    pub async fn open(database: Database, key: &SealingKey, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Self, SealingError> {
        Self::open_from(database, Sources::held(key.clone()), clock, ids).await
    }

    /// Opens it. The first sealing key a database sees is recorded by its fingerprint; any other is refused.
    pub async fn open_from(database: Database, sources: Sources, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Result<Self, SealingError> {
        let keyring = Self {
            database,
            sources,
            clock,
            ids,
            ciphers: RwLock::default(),
            opened: RwLock::default(),
            persons: RwLock::default(),
            changed: watch::Sender::new(0),
            trouble: Mutex::default(),
        };
        let expected = match Self::expected(&keyring.database).await? {
            Some(expected) => expected,
            None => keyring.begin().await?,
        };
        keyring.cipher(&expected).await?;
        Ok(keyring)
    }

    /// The fingerprint of the sealing key that the database is sealed under; none in a new one.
    pub async fn expected(database: &Database) -> Result<Option<Fingerprint>, SealingError> {
        let ask = async || -> Result<Option<String>, DbErr> {
            let row = database.write().query_one_raw(database.sql("SELECT sealing_key FROM deployment WHERE id = 1", vec![])).await?;
            row.map(|row| row.try_get_by_index(0)).transpose()
        };
        let found = ask().await.map_err(|source| SealingError::Database { act: "reading the sealing key's fingerprint", source })?;
        Ok(found.map(Fingerprint::from_text))
    }

    /// Records the first sealing key of a new deployment; of several processes that begin it, one wins.
    async fn begin(&self) -> Result<Fingerprint, SealingError> {
        let source = self.sources.preferred()?;
        let made = source.make(&[], &*self.ids).await?;
        let found = made.key.fingerprint();
        let begin = async {
            let transaction = self.database.begin().await?;
            let sql = "INSERT INTO deployment (id, sealing_key, created) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING";
            let values = vec![found.to_string().into(), self.clock.now().micros().into()];
            if transaction.execute_raw(self.database.sql(sql, values)).await?.rows_affected() > 0 {
                self.keep(&transaction, &found, source.kind(), made.wrapped).await?;
            }
            transaction.commit().await
        };
        begin.await.map_err(|source| SealingError::Database { act: "recording the sealing key's fingerprint", source })?;
        Ok(Self::expected(&self.database).await?.unwrap_or(found))
    }

    /// Keeps what the database knows of a sealing key.
    pub(super) async fn keep(
        &self,
        transaction: &DatabaseTransaction,
        fingerprint: &Fingerprint,
        source: &str,
        wrapped: Option<Vec<u8>>,
    ) -> Result<(), DbErr> {
        let sql = "INSERT INTO sealing_keys (fingerprint, source, wrapped, created) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (fingerprint) DO UPDATE SET source = excluded.source, wrapped = excluded.wrapped";
        let values = vec![fingerprint.as_str().into(), source.into(), wrapped.into(), self.clock.now().micros().into()];
        transaction.execute_raw(self.database.sql(sql, values)).await.map(drop)
    }

    /// Sealing keys that something may hang from, oldest first.
    pub(super) async fn known(&self) -> Result<Vec<Known>, SealingError> {
        let failed = |source| SealingError::Database { act: "reading which sealing keys there are", source };
        let sql = "SELECT fingerprint, source, wrapped FROM sealing_keys ORDER BY created, fingerprint";
        let rows = self.database.write().query_all_raw(self.database.sql(sql, vec![])).await.map_err(failed)?;
        let read = |row: &sea_orm::QueryResult| -> Result<Known, DbErr> {
            Ok(Known {
                fingerprint: Fingerprint::from_text(row.try_get_by_index(0)?),
                source: row.try_get_by_index(1)?,
                wrapped: row.try_get_by_index(2)?,
            })
        };
        rows.iter().map(read).collect::<Result<_, _>>().map_err(failed)
    }

    /// A sealing key, opened when it is not yet.
    pub(super) async fn cipher(&self, fingerprint: &Fingerprint) -> Result<Arc<Cipher>, SealingError> {
        if let Some(cipher) = read(&self.ciphers).get(fingerprint) {
            return Ok(Arc::clone(cipher));
        }
        self.ask(fingerprint).await
    }

    /// Has the source open a sealing key.
    async fn ask(&self, fingerprint: &Fingerprint) -> Result<Arc<Cipher>, SealingError> {
        let known = self.known().await?.into_iter().find(|known| known.fingerprint == *fingerprint);
        // An older program that begins a deployment keeps it in a file, and does not say so.
        let known = known.unwrap_or_else(|| Known { fingerprint: fingerprint.clone(), source: FILE.to_owned(), wrapped: None });
        let not_configured = || SealingError::SourceNotConfigured { fingerprint: fingerprint.clone(), source_kind: known.source.clone() };
        let source = self.sources.find(&known.source).ok_or_else(not_configured)?;
        let key = source.open(fingerprint, known.wrapped.as_deref()).await?;
        self.take(fingerprint, &key)
    }

    /// Keeps a sealing key open, when it is the right one.
    pub(super) fn take(&self, expected: &Fingerprint, key: &SealingKey) -> Result<Arc<Cipher>, SealingError> {
        let found = key.fingerprint();
        if found != *expected {
            return Err(SealingError::WrongSealingKey { expected: expected.clone(), found });
        }
        let cipher = Arc::new(key.cipher()?);
        write(&self.ciphers).insert(found, Arc::clone(&cipher));
        Ok(cipher)
    }

    /// The keys of a tenant, made when it has none yet.
    pub async fn tenant(&self, tenant: TenantId) -> Result<Arc<TenantKeys>, SealingError> {
        if let Some(keys) = read(&self.opened).get(&tenant) {
            return Ok(Arc::clone(keys));
        }
        match self.load(tenant).await? {
            Some(keys) => Ok(keys),
            None => {
                self.add(tenant, DataKeyId::from_bits(0), INDEX, false).await?;
                self.add(tenant, new_id(&*self.ids, self.clock.now()), DATA, false).await?;
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

    /// From now on this tenant's data is sealed under a new data key; what is sealed stays readable. Other processes hear of it
    /// within [`WATCH_INTERVAL`].
    pub async fn rotate_data_key(&self, tenant: TenantId) -> Result<DataKeyId, SealingError> {
        self.tenant(tenant).await?;
        self.add(tenant, new_id(&*self.ids, self.clock.now()), DATA, true).await?;
        self.load(tenant).await?.map(|keys| keys.current).ok_or(SealingError::TenantErased(tenant))
    }

    /// Has other processes read the keys of tenants again.
    pub(super) async fn tell(&self, transaction: &DatabaseTransaction) -> Result<(), DbErr> {
        let sql = "UPDATE deployment SET keys_changed = keys_changed + 1 WHERE id = 1";
        transaction.execute_raw(self.database.sql(sql, vec![])).await.map(drop)
    }

    async fn add(&self, tenant: TenantId, id: DataKeyId, role: &'static str, tell: bool) -> Result<(), SealingError> {
        let key = Zeroizing::new(random::<32>(&*self.ids));
        loop {
            let sealing_key = Self::expected(&self.database).await?.ok_or(SealingError::NoDeployment)?;
            let sealed = self.cipher(&sealing_key).await?.seal(&key_place(tenant, id, role), &*key)?;
            let added = self.add_under(&sealing_key, (tenant, id, role), sealed, tell).await;
            if added.map_err(|source| SealingError::Database { act: "keeping a tenant's key", source })? {
                return Ok(());
            }
        }
    }

    /// False when the sealing key was replaced in between: nothing was added, so that nothing hangs from an old one for ever.
    async fn add_under(
        &self,
        sealing_key: &Fingerprint,
        (tenant, id, role): (TenantId, DataKeyId, &'static str),
        sealed: Vec<u8>,
        tell: bool,
    ) -> Result<bool, DbErr> {
        let transaction = self.database.begin().await?;
        if self.lock(&transaction).await?.as_ref() != Some(sealing_key) {
            transaction.rollback().await?;
            return Ok(false);
        }
        // The newest data key is the current one, whatever the clocks of replicas say. The first index key of a tenant stays,
        // whoever made it, and a tenant that was erased gets nothing.
        let sql = "INSERT INTO tenant_keys (tenant, id, role, sealed, created, sealing_key) \
                   SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), $4, \
                     (SELECT CASE WHEN COALESCE(MAX(created), 0) >= $5 THEN MAX(created) + 1 ELSE $5 END FROM tenant_keys WHERE tenant = $1), \
                     CAST($6 AS TEXT) \
                   WHERE NOT EXISTS (SELECT 1 FROM tenant_keys WHERE tenant = $1 AND role = $7) ON CONFLICT (tenant, id) DO NOTHING";
        let values = vec![
            tenant.to_string().into(),
            id.to_string().into(),
            role.into(),
            sealed.into(),
            self.clock.now().micros().into(),
            sealing_key.as_str().into(),
            DESTROYED.into(),
        ];
        transaction.execute_raw(self.database.sql(sql, values)).await?;
        if tell {
            self.tell(&transaction).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Which sealing key new keys hang from; nobody changes that before the transaction ends.
    pub(super) async fn lock(&self, transaction: &DatabaseTransaction) -> Result<Option<Fingerprint>, DbErr> {
        let sql = format!("SELECT sealing_key FROM deployment WHERE id = 1{}", self.database.for_update());
        let row = transaction.query_one_raw(self.database.sql(sql, vec![])).await?;
        row.map(|row| row.try_get_by_index(0).map(Fingerprint::from_text)).transpose()
    }

    async fn load(&self, tenant: TenantId) -> Result<Option<Arc<TenantKeys>>, SealingError> {
        let failed = |source| SealingError::Database { act: "reading a tenant's keys", source };
        let sql = "SELECT id, role, sealed, sealing_key FROM tenant_keys WHERE tenant = $1 ORDER BY created, id";
        let rows = self.database.write().query_all_raw(self.database.sql(sql, vec![tenant.to_string().into()])).await.map_err(failed)?;
        let (mut index, mut data, mut current) = (None, HashMap::new(), None);
        for row in rows {
            let id: String = row.try_get_by_index(0).map_err(failed)?;
            let role: String = row.try_get_by_index(1).map_err(failed)?;
            let sealed: Vec<u8> = row.try_get_by_index(2).map_err(failed)?;
            let sealing_key: Option<String> = row.try_get_by_index(3).map_err(failed)?;
            let id: DataKeyId = id.parse().map_err(|_| SealingError::DoesNotOpen)?;
            if role == DESTROYED {
                return Err(SealingError::TenantErased(tenant));
            }
            let key = self.open_key(sealing_key.map(Fingerprint::from_text), &key_place(tenant, id, &role), &sealed).await?;
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
        let mut opened = write(&self.opened);
        if opened.len() >= MAX_OPEN {
            opened.clear();
        }
        opened.insert(tenant, Arc::clone(&keys));
        Ok(Some(keys))
    }

    /// Opens a key of a tenant. One that does not say what it hangs from is tried under each sealing key there is.
    pub(super) async fn open_key(
        &self,
        sealing_key: Option<Fingerprint>,
        place: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealingError> {
        if let Some(sealing_key) = sealing_key {
            return self.cipher(&sealing_key).await?.open(place, sealed).map(Zeroizing::new);
        }
        let mut why = SealingError::DoesNotOpen;
        for known in self.known().await?.into_iter().rev() {
            match self.cipher(&known.fingerprint).await {
                Ok(cipher) => match cipher.open(place, sealed) {
                    Ok(key) => return Ok(Zeroizing::new(key)),
                    Err(_) => continue,
                },
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Looks again and again whether another process has replaced or destroyed keys, until told to stop.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let (mut seen, mut changed): (Option<(Fingerprint, i64)>, bool) = (None, false);
        for round in 1_u32.. {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
            // Whatever else goes wrong with the database others tell.
            if let Ok(Some(now)) = self.changes().await {
                let again = std::mem::replace(&mut changed, seen.as_ref().is_none_or(|(_, changes)| *changes != now.1));
                // Twice: who was reading keys while they changed may have kept the old ones.
                if changed || again {
                    write(&self.opened).clear();
                    write(&self.persons).clear();
                    self.forget_generation();
                }
                let replaced = seen.as_ref().is_none_or(|(before, _)| *before != now.0);
                if replaced || round % PROBE_EVERY == 0 || self.note().is_some() {
                    self.probe_key(&now.0).await;
                }
                seen = Some(now);
            }
        }
    }

    /// Tells when keys were replaced or destroyed, here or elsewhere.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How often keys were replaced or destroyed since the start, as far as it is known here.
    pub fn generation(&self) -> u64 {
        *self.changed.borrow()
    }

    pub(super) fn forget_generation(&self) {
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Forgets what is open of a tenant.
    pub(super) fn forget(&self, tenant: TenantId) {
        write(&self.opened).remove(&tenant);
        write(&self.persons).retain(|(of, _), _| *of != tenant);
        self.forget_generation();
    }

    /// What somebody should look at.
    pub fn note(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn changes(&self) -> Result<Option<(Fingerprint, i64)>, DbErr> {
        let sql = "SELECT sealing_key, keys_changed FROM deployment WHERE id = 1";
        let row = self.database.write().query_one_raw(self.database.sql(sql, vec![])).await?;
        row.map(|row| Ok((Fingerprint::from_text(row.try_get_by_index(0)?), row.try_get_by_index(1)?))).transpose()
    }

    /// Asks the source whether it would open the sealing key again, as [`Keyring::watch`] does from time to time.
    pub async fn probe(&self) {
        if let Ok(Some(current)) = Self::expected(&self.database).await {
            self.probe_key(&current).await;
        }
    }

    /// Keeps what is wrong with a sealing key's source for [`Keyring::note`].
    async fn probe_key(&self, current: &Fingerprint) {
        let is_open = read(&self.ciphers).contains_key(current);
        let opened = self.ask(current).await.err().map(|error| {
            let goes_on = match is_open {
                true => "it is open here and everything goes on, but a start would fail",
                false => "what is open goes on, other tenants wait for it",
            };
            format!("the sealing key {current} is not to be had; {goes_on}: {}", told(&error))
        });
        let opened = opened.or_else(|| self.sources.all().find_map(|source| source.advice()));
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = &opened
            && trouble.is_none()
        {
            tracing::error!("{text}");
        }
        if trouble.is_some() && opened.is_none() {
            tracing::info!(fingerprint = %current, "the sealing key is open");
        }
        *trouble = opened;
    }
}

/// An error and what led to it, on one line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Where a key of a tenant belongs; it does not open elsewhere.
pub(super) fn key_place(tenant: TenantId, id: DataKeyId, role: &str) -> Vec<u8> {
    framed("freehold-tenant-key-v1", &[tenant.to_string().as_bytes(), id.to_string().as_bytes(), role.as_bytes()])
}
