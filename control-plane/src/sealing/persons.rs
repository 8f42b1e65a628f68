//! Keys of persons: what is personal in a record or a read model is sealed under one of them first. They hang from their tenant's
//! data keys, so that erasing a tenant erases them too.

use std::{collections::HashMap, sync::Arc};

use aws_lc_rs::aead::NONCE_LEN;
use schema::{
    clock::{new_id, random},
    encoding::{base64url, from_base64url},
    id::{DataKeyId, MemberId, TenantId},
    personal::{self, MARK},
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{
    Keyring, Place, SealingError,
    cipher::{Cipher, framed},
};

/// The keys of a person, by id; new things are sealed under the current one.
pub(super) struct PersonKeys {
    current: DataKeyId,
    all: HashMap<DataKeyId, Cipher>,
}

/// Of a person who was erased there are no keys.
pub(super) type Persons = HashMap<(TenantId, MemberId), Option<Arc<PersonKeys>>>;

/// Persons whose keys are kept open.
const MAX_OPEN: usize = 10_000;

impl Keyring {
    /// Seals what is personal in this JSON under each person's key, made where there is none. Of who was erased, nothing is kept.
    pub async fn seal_personal(&self, tenant: TenantId, data: &mut Value) -> Result<(), SealingError> {
        let keys = self.persons(tenant, data, true).await?;
        if keys.is_empty() {
            return Ok(());
        }
        personal::each_place(data, &mut |person, place| {
            let Some(value) = place.get("value") else { return Ok(()) };
            match keys.get(&person).cloned().flatten() {
                Some(keys) => {
                    let plain = Zeroizing::new(serde_json::to_vec(value).map_err(|_| SealingError::DoesNotOpen)?);
                    let cipher = keys.all.get(&keys.current).ok_or(SealingError::UnknownDataKey(keys.current))?;
                    let sealed = cipher.seal(&bound(tenant, person), &plain)?;
                    *place = object(json!({ MARK: person, "key": keys.current, "sealed": base64url(&sealed) }));
                }
                None => *place = object(erased(person)),
            }
            Ok(())
        })
    }

    /// Opens what is personal in this JSON; of who was erased, it says so.
    pub async fn open_personal(&self, tenant: TenantId, data: &mut Value) -> Result<(), SealingError> {
        let mut keys = self.persons(tenant, data, false).await?;
        if keys.is_empty() {
            return Ok(());
        }
        let mut newer = Vec::new();
        personal::each_place(data, &mut |person, place| {
            if let (Some(Some(known)), Some(Ok(key))) = (keys.get(&person), place.get("key").map(key_of))
                && !known.all.contains_key(&key)
            {
                newer.push(person);
            }
            Ok::<_, SealingError>(())
        })?;
        // Another replica has made them since.
        for person in newer {
            keys.insert(person, self.load_person(tenant, person).await?);
        }
        personal::each_place(data, &mut |person, place| {
            let Some(sealed) = place.get("sealed") else { return Ok(()) };
            let Some(keys) = keys.get(&person).cloned().flatten() else {
                *place = object(erased(person));
                return Ok(());
            };
            let key = place.get("key").map_or(Err(SealingError::DoesNotOpen), key_of)?;
            let cipher = keys.all.get(&key).ok_or(SealingError::UnknownDataKey(key))?;
            let sealed = sealed.as_str().and_then(|text| from_base64url(text).ok()).filter(|sealed| sealed.len() > NONCE_LEN);
            let plain = Zeroizing::new(cipher.open(&bound(tenant, person), &sealed.ok_or(SealingError::DoesNotOpen)?)?);
            let value: Value = serde_json::from_slice(&plain).map_err(|_| SealingError::DoesNotOpen)?;
            *place = object(json!({ MARK: person, "value": value }));
            Ok(())
        })
    }

    /// Whether anything was ever sealed for this person, and it was not erased.
    pub async fn knows_person(&self, tenant: TenantId, person: MemberId) -> Result<bool, SealingError> {
        match self.load_person(tenant, person).await {
            Ok(keys) => Ok(keys.is_some()),
            Err(SealingError::UnknownPerson(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// From now on a person's data is sealed under another key; what is sealed stays readable.
    pub async fn rotate_person_key(&self, tenant: TenantId, person: MemberId) -> Result<DataKeyId, SealingError> {
        let known = self.load_person(tenant, person).await?;
        if known.is_none() {
            return Err(SealingError::PersonErased(person));
        }
        self.add_person_key(tenant, person, true).await?;
        let keys = self.load_person(tenant, person).await?.ok_or(SealingError::PersonErased(person))?;
        Ok(keys.current)
    }

    /// Destroys a person's keys: what was sealed under them can be read by nobody again. The person never gets new ones.
    pub async fn erase_person(&self, tenant: TenantId, person: MemberId) -> Result<(), SealingError> {
        let destroy = async {
            let transaction = self.database.begin().await?;
            let sql = "DELETE FROM person_keys WHERE tenant = $1 AND person = $2";
            let values = vec![tenant.to_string().into(), person.to_string().into()];
            transaction.execute_raw(self.database.sql(sql, values)).await?;
            self.bury(&transaction, tenant, Some(person), self.clock.now()).await?;
            self.tell(&transaction).await?;
            transaction.commit().await
        };
        destroy.await.map_err(|source| SealingError::Database { act: "destroying a person's keys", source })?;
        self.keep_person(tenant, person, None);
        self.forget_generation();
        self.wipe().await;
        Ok(())
    }

    /// The keys of everybody whose data stands in this JSON.
    async fn persons(
        &self,
        tenant: TenantId,
        data: &Value,
        make: bool,
    ) -> Result<HashMap<MemberId, Option<Arc<PersonKeys>>>, SealingError> {
        let mut keys = HashMap::new();
        for person in personal::persons(data) {
            let kept = self.kept_person(tenant, person);
            let found = match kept {
                Some(kept) => kept,
                None => match self.load_person(tenant, person).await {
                    Err(SealingError::UnknownPerson(_)) if make => {
                        self.add_person_key(tenant, person, false).await?;
                        self.load_person(tenant, person).await?
                    }
                    // Nothing is to be opened.
                    Err(SealingError::UnknownPerson(_)) if !is_sealed(data) => None,
                    found => found?,
                },
            };
            keys.insert(person, found);
        }
        Ok(keys)
    }

    /// None for who was erased.
    async fn load_person(&self, tenant: TenantId, person: MemberId) -> Result<Option<Arc<PersonKeys>>, SealingError> {
        let failed = |source| SealingError::Database { act: "reading a person's keys", source };
        let sql = "SELECT id, data_key, sealed FROM person_keys WHERE tenant = $1 AND person = $2 ORDER BY created, id";
        let values = vec![tenant.to_string().into(), person.to_string().into()];
        let rows = self.database.write().query_all_raw(self.database.sql(sql, values)).await.map_err(failed)?;
        let (mut all, mut current) = (HashMap::new(), None);
        for row in &rows {
            let (id, data_key, sealed) = row_of(row).map_err(failed)?;
            let id: DataKeyId = id.parse().map_err(|_| SealingError::DoesNotOpen)?;
            let data_key: DataKeyId = data_key.parse().map_err(|_| SealingError::DoesNotOpen)?;
            let key = Zeroizing::new(self.open_sealed(tenant, Place::PersonKey { person, id }, data_key, &sealed).await?);
            all.insert(id, Cipher::new(key.as_slice().try_into().map_err(|_| SealingError::DoesNotOpen)?)?);
            current = Some(id);
        }
        let keys = match current {
            Some(current) => Some(Arc::new(PersonKeys { current, all })),
            None if self.is_buried(tenant, Some(person)).await? => None,
            None => return Err(SealingError::UnknownPerson(person)),
        };
        self.keep_person(tenant, person, keys.clone());
        Ok(keys)
    }

    async fn add_person_key(&self, tenant: TenantId, person: MemberId, tell: bool) -> Result<(), SealingError> {
        let id: DataKeyId = new_id(&*self.ids, self.clock.now());
        let key = Zeroizing::new(random::<32>(&*self.ids));
        let sealed = self.tenant(tenant).await?.seal(Place::PersonKey { person, id }, &*key)?;
        let add = async {
            let transaction = self.database.begin().await?;
            let sql = "INSERT INTO person_keys (tenant, person, id, data_key, sealed, created) \
                       SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), $5, \
                         (SELECT CASE WHEN COALESCE(MAX(created), 0) >= $6 THEN MAX(created) + 1 ELSE $6 END \
                          FROM person_keys WHERE tenant = $1 AND person = $2) \
                       WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE tenant = $1 AND person IN ($2, ''))";
            let values = vec![
                tenant.to_string().into(),
                person.to_string().into(),
                id.to_string().into(),
                sealed.data_key.to_string().into(),
                sealed.bytes.into(),
                self.clock.now().micros().into(),
            ];
            transaction.execute_raw(self.database.sql(sql, values)).await?;
            if tell {
                self.tell(&transaction).await?;
            }
            transaction.commit().await
        };
        add.await.map_err(|source| SealingError::Database { act: "keeping a person's key", source })
    }

    fn kept_person(&self, tenant: TenantId, person: MemberId) -> Option<Option<Arc<PersonKeys>>> {
        super::keyring::read(&self.persons).get(&(tenant, person)).cloned()
    }

    fn keep_person(&self, tenant: TenantId, person: MemberId, keys: Option<Arc<PersonKeys>>) {
        let mut persons = super::keyring::write(&self.persons);
        if persons.len() >= MAX_OPEN {
            persons.clear();
        }
        persons.insert((tenant, person), keys);
    }
}

fn row_of(row: &QueryResult) -> Result<(String, String, Vec<u8>), DbErr> {
    Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?))
}

fn is_sealed(data: &Value) -> bool {
    let mut sealed = false;
    let _ = personal::each_place(&mut data.clone(), &mut |_, place| {
        sealed |= place.contains_key("sealed");
        Ok::<_, ()>(())
    });
    sealed
}

fn key_of(key: &Value) -> Result<DataKeyId, SealingError> {
    key.as_str().and_then(|text| text.parse().ok()).ok_or(SealingError::DoesNotOpen)
}

fn erased(person: MemberId) -> Value {
    json!({ MARK: person, "erased": true })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A person's data opens for that person in that tenant only.
fn bound(tenant: TenantId, person: MemberId) -> Vec<u8> {
    framed("freehold-personal-v1", &[tenant.to_string().as_bytes(), person.to_string().as_bytes()])
}
