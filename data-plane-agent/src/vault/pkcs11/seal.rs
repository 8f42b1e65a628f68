//! A device's AES key that seals what the device cannot hold itself, or the root key of a file vault.

use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::{
    error::{Error, RvError},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use schema::{
    clock::{Ids, random},
    encoding::Digest,
    key::Protection,
};

use super::device::{Device, Failure};
use crate::{
    algorithm::aes_gcm::{NONCE_BYTES, TAG_BYTES},
    vault::{
        Trouble, TroubleKind, VaultError,
        sealed::{Seal, SealedValue},
        secret::SecretBytes,
    },
};

/// Bits of an authentication tag.
pub(super) const TAG_BITS: Ulong = Ulong::new(TAG_BYTES as u64 * 8);

/// Seals under a key that never leaves the device.
pub struct DeviceSeal {
    device: Arc<Device>,
    label: String,
    protection: Protection,
    handle: Mutex<Option<(u64, ObjectHandle)>>,
}

impl DeviceSeal {
    /// The sealing key with this label; made where `may_make` says so and there is none.
    pub fn open(device: Arc<Device>, label: &str, protection: Protection, may_make: bool) -> Result<Self, VaultError> {
        let seal = Self { device, label: label.to_owned(), protection, handle: Mutex::default() };
        let there = seal.device.with("looking for the sealing key", |session, _| Ok(seal.find(session)?.is_some()))?;
        if !there {
            if !may_make {
                let detail = format!("the key {label:?} that sealed what this vault keeps is not on it");
                return Err(Trouble::new(TroubleKind::Failed, seal.device.place(), detail).into());
            }
            seal.make()?;
        }
        Ok(seal)
    }

    fn make(&self) -> Result<(), VaultError> {
        let made = self.device.with("making the sealing key", |session, _| {
            if self.find(session)?.is_some() {
                return Ok(true);
            }
            let mine = session.generate_key(&Mechanism::AesKeyGen, &self.template())?;
            let alone = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY), self.named()])?.len() == 1;
            if !alone {
                session.destroy_object(mine)?;
            }
            Ok(alone || self.find(session)?.is_some())
        })?;
        let twice =
            || Trouble::new(TroubleKind::Failed, self.device.place(), "two agents made its sealing key at the same moment; start again");
        if made { Ok(()) } else { Err(twice().into()) }
    }

    fn named(&self) -> Attribute {
        Attribute::Label(self.label.clone().into_bytes())
    }

    fn template(&self) -> Vec<Attribute> {
        vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(Ulong::new(32)),
            self.named(),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
        ]
    }

    fn find(&self, session: &Session) -> Result<Option<ObjectHandle>, Error> {
        let found = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true), self.named()])?;
        Ok(found.first().copied().filter(|_| found.len() == 1))
    }

    fn using<T>(&self, act: &'static str, work: impl Fn(&Session, ObjectHandle) -> Result<T, Error>) -> Result<T, Failure> {
        self.device.with(act, |session, generation| {
            let known = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
            let handle = match known {
                Some((of, handle)) if of == generation => handle,
                _ => {
                    let found = self.find(session)?;
                    found.ok_or(Error::Pkcs11(RvError::KeyHandleInvalid, cryptoki::context::Function::FindObjects))?
                }
            };
            *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some((generation, handle));
            work(session, handle)
        })
    }
}

impl Seal for DeviceSeal {
    fn seal(&self, bound: &Digest, value: &SecretBytes, ids: &dyn Ids) -> Result<SealedValue, VaultError> {
        let nonce: [u8; NONCE_BYTES] = random(ids);
        let associated = associated(bound);
        let sealed = self.using("sealing a secret", |session, key| {
            let mut nonce = nonce;
            let parameters = GcmParams::new(&mut nonce, &associated, TAG_BITS)?;
            session.encrypt(&Mechanism::AesGcm(parameters), key, value.expose())
        })?;
        if sealed.len() != value.len() + TAG_BYTES {
            return Err(Trouble::new(TroubleKind::Failed, self.device.place(), "AES-GCM gave a ciphertext of another length").into());
        }
        Ok(SealedValue { nonce: nonce.into(), sealed: sealed.into() })
    }

    fn unseal(&self, bound: &Digest, value: &SealedValue) -> Result<Option<SecretBytes>, VaultError> {
        let Ok(nonce) = <[u8; NONCE_BYTES]>::try_from(value.nonce.as_slice()) else { return Ok(None) };
        if value.sealed.as_slice().len() < TAG_BYTES {
            return Ok(None);
        }
        let associated = associated(bound);
        let opened = self.using("opening a sealed secret", |session, key| {
            let mut nonce = nonce;
            let parameters = GcmParams::new(&mut nonce, &associated, TAG_BITS)?;
            session.decrypt(&Mechanism::AesGcm(parameters), key, value.sealed.as_slice())
        });
        match opened {
            Ok(bytes) => Ok(Some(SecretBytes::new(bytes))),
            Err(failure) if is_about_the_data(&failure) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    fn protection(&self) -> Protection {
        self.protection
    }

    fn check(&self) -> Result<(), VaultError> {
        self.using("looking for the sealing key", |_, _| Ok(()))?;
        Ok(())
    }
}

fn associated(bound: &Digest) -> Vec<u8> {
    [b"freehold-device-seal-v1".as_slice(), &bound.0].concat()
}

/// Whether the token says that what it was given is not genuine. (SoftHSM says so of AES-GCM and AES-KW with an error that
/// could mean anything; the session was asked before, and is well.)
pub(super) fn is_about_the_data(failure: &Failure) -> bool {
    matches!(
        failure.answer,
        Some(
            RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::DataInvalid
                | RvError::DataLenRange
                | RvError::WrappedKeyInvalid
                | RvError::WrappedKeyLenRange
                | RvError::SignatureInvalid
                | RvError::SignatureLenRange
                | RvError::GeneralError
                | RvError::FunctionFailed
        )
    )
}
