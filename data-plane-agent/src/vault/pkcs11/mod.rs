//! A vault on a token of a PKCS#11 module. What the token does whole is made in it, used in it and never let out; what it
//! cannot do, and what was made elsewhere, is kept on it sealed under one of its keys, and used in the agent's memory: listings
//! say which (`docs/pkcs11.md`).
//!
//! - [`device`]: the token: login, sessions, loss (of the crate `devices`).
//! - [`objects`]: records as data objects, the same as those of a file vault.
//! - [`seal`]: the token's key that seals.
//! - [`make`], [`key`]: keys inside.
//!
//! A version counts from the moment its record is there, which is written last: of a try that did not end, a key object may
//! be left, which nobody finds and the next try removes.

mod key;
mod make;
mod objects;
pub mod seal;

pub use devices::pkcs11::device;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use schema::{
    catalogue::Algorithm,
    clock::{Ids, random},
    encoding::Base64,
    id::KeyVersion,
    key::Protection,
    name::Name,
};

use device::{Device, TokenSettings};

use self::{key::DeviceKey, objects::DataObjects, seal::DeviceSeal};
use super::{
    Description, Held, VaultError,
    keeper::{Bounds, Keeper, Loaded, VaultOf},
    sealed::{Inside, Records as _, Sealed, VersionRecord, version_name},
    secret::SecretBytes,
};
use crate::algorithm;

/// How a token is used as a vault.
#[derive(Debug, Clone)]
pub struct Pkcs11Settings {
    /// Which token.
    pub token: TokenSettings,
    /// What the names of objects begin with: sites that share a token have one each.
    pub namespace: String,
    /// Whether the token is a device; absent: what its module says.
    pub hardware: Option<bool>,
    /// The most time of one call.
    pub call: Duration,
}

/// The vault on a token. Cheap to clone.
pub type Pkcs11Vault = VaultOf<DeviceKeeper>;

/// Keeps keys on a token.
pub struct DeviceKeeper {
    device: Arc<Device>,
    namespace: String,
    /// What is done whole inside, and how well that guards it.
    inside: BTreeSet<Algorithm>,
    protection: Protection,
    /// Everything else, and the records of what is inside.
    outside: Sealed<DataObjects, DeviceSeal>,
}

impl Pkcs11Vault {
    /// Opens the vault on a token, or begins one. Blocks; call it before serving.
    pub fn open(settings: Pkcs11Settings, ids: Arc<dyn Ids>) -> Result<Self, VaultError> {
        let device = Arc::new(Device::open(settings.token)?);
        let (protection, sealed) = guarding(&device, settings.hardware)?;
        let records = DataObjects::new(device.clone(), &settings.namespace, settings.call);
        let is_new = records.names()?.is_empty();
        let seal = DeviceSeal::open(device.clone(), &sealing_label(&settings.namespace), sealed, is_new)?;
        let inside = make::served_inside(&device)?;
        let keeper = DeviceKeeper { device, namespace: settings.namespace, inside, protection, outside: Sealed::new(records, seal) };
        Self::new(keeper, ids)
    }
}

/// How well a token guards what is inside, and what it seals. A token that is a program guards nothing better than software
/// does, whatever its interface says.
pub fn guarding(device: &Device, hardware: Option<bool>) -> Result<(Protection, Protection), VaultError> {
    let hardware = match hardware {
        Some(told) => told,
        None => device.abilities()?.1,
    };
    Ok(if hardware { (Protection::Hardware, Protection::SealedByHardware) } else { (Protection::Software, Protection::Software) })
}

/// The label of the key of a namespace that seals.
pub fn sealing_label(namespace: &str) -> String {
    format!("{namespace}/sealing")
}

impl DeviceKeeper {
    fn label(&self, version: KeyVersion) -> String {
        format!("{}/{version}", self.namespace)
    }

    /// Tests a key that was just made, and keeps its record: from then on it counts.
    fn settle(&self, version: KeyVersion, key: &DeviceKey, id: &[u8], ids: &dyn Ids) -> Result<(), VaultError> {
        use crate::algorithm::LoadedKey as _;
        algorithm::pairwise(key, ids)?;
        let (algorithm, check) = (key.algorithm(), key.check_value()?);
        let public_key = key.public_key().map(<[u8]>::to_vec);
        // Of a symmetric key nobody outside can compute what is computed of one that is known.
        let fingerprint = public_key.as_deref().map_or(check, |public_key| schema::key::fingerprint(algorithm, public_key));
        let held = Held { version, algorithm, fingerprint, public_key, protection: self.protection };
        self.outside.write_version(&VersionRecord::inside(&held, Inside { object: Base64(id.to_vec()), check }))
    }

    fn remove_objects(&self, version: KeyVersion) -> Result<(), VaultError> {
        let label = self.label(version);
        self.device.with("removing a key", |session, _| make::sweep(session, &label))?;
        Ok(())
    }
}

impl Keeper for DeviceKeeper {
    fn description(&self) -> Description {
        let sealed = self.outside.description();
        let level = |(algorithm, sealed)| (algorithm, if self.inside.contains(&algorithm) { self.protection } else { sealed });
        let algorithms: BTreeMap<_, _> = sealed.algorithms.into_iter().map(level).collect();
        Description { algorithms, needed_for_use: true, ..sealed }
    }

    fn bounds(&self) -> Bounds {
        self.outside.bounds()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), VaultError> {
        self.outside.check()
    }

    fn make(&self, version: KeyVersion, algorithm: Algorithm, ids: &dyn Ids) -> Result<Loaded, VaultError> {
        if !self.inside.contains(&algorithm) {
            return self.outside.make(version, algorithm, ids);
        }
        let id: [u8; 16] = random(ids);
        let key = make::make(&self.device, algorithm, &self.label(version), &id)?;
        if let Err(error) = self.settle(version, &key, &id, ids) {
            // Removed at once where that is possible; else the next try does it.
            if self.outside.records.read(&version_name(version)).is_ok_and(|record| record.is_none()) {
                let _ = self.remove_objects(version);
            }
            return Err(error);
        }
        self.load(version, ids)
    }

    /// What was made elsewhere has been in other hands: it is never said to be guarded by the device as its own keys are.
    fn take_in(&self, version: KeyVersion, algorithm: Algorithm, material: &SecretBytes, ids: &dyn Ids) -> Result<Loaded, VaultError> {
        self.outside.take_in(version, algorithm, material, ids)
    }

    fn load(&self, version: KeyVersion, ids: &dyn Ids) -> Result<Loaded, VaultError> {
        let record = self.outside.read_version(version)?;
        let Some(inside) = &record.inside else { return self.outside.expand(&record) };
        let held = record.held(self.protection);
        let key = DeviceKey::new(self.device.clone(), held.algorithm, inside.object.0.clone(), held.public_key.clone());
        let other = || self.outside.corrupt(&version_name(version), "the key on the token is not the one of this record");
        if key.check_value()? != inside.check {
            return Err(other());
        }
        if held.public_key.is_some() {
            // Only the private half can do what the record's public half undoes.
            match algorithm::pairwise(&key, ids).map_err(VaultError::from) {
                Err(VaultError::Algorithm(_)) => return Err(other()),
                tested => tested?,
            }
        }
        Ok(Loaded { held: Arc::new(held), key: Box::new(key) })
    }

    fn material(&self, version: KeyVersion) -> Result<SecretBytes, VaultError> {
        match self.outside.read_version(version)?.inside {
            Some(_) => Err(VaultError::NotExtractable(version)),
            None => self.outside.material(version),
        }
    }

    fn versions(&self) -> Result<BTreeSet<KeyVersion>, VaultError> {
        self.outside.versions()
    }

    fn tombstones(&self) -> Result<BTreeSet<KeyVersion>, VaultError> {
        self.outside.tombstones()
    }

    fn destroy(&self, version: KeyVersion) -> Result<(), VaultError> {
        self.outside.bury(version)?;
        self.remove_objects(version)?;
        self.outside.records.remove(&version_name(version))
    }

    fn named_secret(&self, name: &Name, ids: &dyn Ids) -> Result<SecretBytes, VaultError> {
        self.outside.named_secret(name, ids)
    }
}

#[cfg(test)]
mod tests;
