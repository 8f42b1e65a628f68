//! An AES key of a token that seals, and never leaves it.

use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::{
    error::{Error, RvError},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use zeroize::Zeroizing;

use super::device::{Device, Failure};
use crate::{Trouble, TroubleKind};

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;
/// Bytes of an authentication tag.
pub const TAG_BYTES: usize = 16;
/// Bits of an authentication tag.
pub const TAG_BITS: Ulong = Ulong::new(TAG_BYTES as u64 * 8);

/// Seals under a key that never leaves the token.
pub struct TokenKey {
    device: Arc<Device>,
    label: String,
    handle: Mutex<Option<(u64, ObjectHandle)>>,
}

impl TokenKey {
    /// The key with this label; made where `may_make` says so and there is none.
    pub fn open(device: Arc<Device>, label: &str, may_make: bool) -> Result<Self, Trouble> {
        let key = Self { device, label: label.to_owned(), handle: Mutex::default() };
        let there = key.device.with("looking for the sealing key", |session, _| Ok(key.find(session)?.is_some()))?;
        if !there {
            if !may_make {
                let detail = format!("the key {label:?} that sealed what is kept is not on it");
                return Err(Trouble::new(TroubleKind::Failed, key.device.place(), detail));
            }
            key.make()?;
        }
        Ok(key)
    }

    /// Where it is, for people.
    pub fn place(&self) -> &str {
        self.device.place()
    }

    fn make(&self) -> Result<(), Trouble> {
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
        let twice = "two processes made its sealing key at the same moment; start again";
        if made { Ok(()) } else { Err(Trouble::new(TroubleKind::Failed, self.device.place(), twice)) }
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

    /// Ciphertext and tag. A nonce must not be used twice.
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], associated: &[u8], secret: &[u8]) -> Result<Vec<u8>, Trouble> {
        let sealed = self.using("sealing a secret", |session, key| {
            let mut nonce = nonce;
            let parameters = GcmParams::new(&mut nonce, associated, TAG_BITS)?;
            session.encrypt(&Mechanism::AesGcm(parameters), key, secret)
        })?;
        if sealed.len() != secret.len() + TAG_BYTES {
            return Err(Trouble::new(TroubleKind::Failed, self.device.place(), "AES-GCM gave a ciphertext of another length"));
        }
        Ok(sealed)
    }

    /// What was sealed; none when it is not genuine.
    pub fn unseal(&self, nonce: [u8; NONCE_BYTES], associated: &[u8], sealed: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Trouble> {
        if sealed.len() < TAG_BYTES {
            return Ok(None);
        }
        let opened = self.using("opening a sealed secret", |session, key| {
            let mut nonce = nonce;
            let parameters = GcmParams::new(&mut nonce, associated, TAG_BITS)?;
            session.decrypt(&Mechanism::AesGcm(parameters), key, sealed)
        });
        match opened {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(failure) if is_about_the_data(&failure) => Ok(None),
            Err(failure) => Err(failure.trouble),
        }
    }

    /// Whether it is there.
    pub fn check(&self) -> Result<(), Trouble> {
        Ok(self.using("looking for the sealing key", |_, _| Ok(()))?)
    }
}

/// Whether the token says that what it was given is not genuine. (SoftHSM says so of AES-GCM and AES-KW with an error that
/// could mean anything; the session was asked before, and is well.)
pub fn is_about_the_data(failure: &Failure) -> bool {
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
