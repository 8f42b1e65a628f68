//! An Ed25519 key of a token that signs, and never leaves it.

use std::sync::Arc;

use cryptoki::{
    error::{Error, RvError},
    mechanism::{
        Mechanism, MechanismType,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::device::Device;
use crate::{Trouble, TroubleKind};

/// DER of the object identifier of the curve.
const CURVE: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// Bytes of a public key.
const PUBLIC_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A key that was made on a token, and is found there by its label.
pub struct TokenEd25519 {
    device: Arc<Device>,
    label: String,
    public: [u8; PUBLIC_BYTES],
}

impl TokenEd25519 {
    /// Makes a key with this label, which no key may have yet.
    pub fn make(device: Arc<Device>, label: &str) -> Result<Self, Trouble> {
        let (mechanisms, _) = device.abilities()?;
        if ![MechanismType::ECC_EDWARDS_KEY_PAIR_GEN, MechanismType::EDDSA].iter().all(|needed| mechanisms.contains(needed)) {
            return Err(Trouble::new(
                TroubleKind::Failed,
                device.place(),
                "it does not make Ed25519 keys (CKM_EC_EDWARDS_KEY_PAIR_GEN, CKM_EDDSA)",
            ));
        }
        let made = device.with("making an Ed25519 key", |session, _| {
            if !find(session, ObjectClass::PRIVATE_KEY, label)?.is_empty() {
                return Ok(false);
            }
            let named = [Attribute::Label(label.as_bytes().to_vec()), Attribute::Id(label.as_bytes().to_vec()), Attribute::Token(true)];
            let public = [named.as_slice(), &[Attribute::Private(false), Attribute::Verify(true), Attribute::EcParams(CURVE.to_vec())]];
            let private = [
                named.as_slice(),
                &[Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Sign(true)],
            ];
            session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public.concat(), &private.concat())?;
            Ok(true)
        })?;
        if !made {
            return Err(Trouble::new(TroubleKind::Failed, device.place(), format!("it has a key {label:?} already")));
        }
        Self::open(device, label)
    }

    /// The key with this label.
    pub fn open(device: Arc<Device>, label: &str) -> Result<Self, Trouble> {
        let told = device.with("looking for an Ed25519 key", |session, _| {
            let found = find(session, ObjectClass::PUBLIC_KEY, label)?;
            let there = find(session, ObjectClass::PRIVATE_KEY, label)?.len() == 1;
            match found.as_slice() {
                [object] if there => point(session, *object),
                _ => Ok(None),
            }
        })?;
        let missing = || Trouble::new(TroubleKind::Failed, device.place(), format!("it has no Ed25519 key {label:?}, or several"));
        let told = told.ok_or_else(missing)?;
        // The point stands in an OCTET STRING; some tokens leave that away.
        let public = match told.as_slice() {
            [4, 32, point @ ..] if point.len() == PUBLIC_BYTES => point.try_into(),
            point => point.try_into(),
        };
        let odd = |_| Trouble::new(TroubleKind::Failed, device.place(), "it told a public key that cannot be read");
        Ok(Self { public: public.map_err(odd)?, label: label.to_owned(), device })
    }

    /// Its public half.
    pub fn public(&self) -> &[u8; PUBLIC_BYTES] {
        &self.public
    }

    /// Signs a message (RFC 8032, without a context).
    pub fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Trouble> {
        let signed = self.device.with("signing", |session, _| {
            let found = find(session, ObjectClass::PRIVATE_KEY, &self.label)?;
            let gone = Error::Pkcs11(RvError::KeyHandleInvalid, cryptoki::context::Function::FindObjects);
            let [key] = found.as_slice() else { return Err(gone) };
            session.sign(&Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)), *key, message)
        })?;
        let odd = |_| Trouble::new(TroubleKind::Failed, self.device.place(), "it gave a signature of another length");
        signed.as_slice().try_into().map_err(odd)
    }
}

fn find(session: &Session, class: ObjectClass, label: &str) -> Result<Vec<ObjectHandle>, Error> {
    session.find_objects(&[Attribute::Class(class), Attribute::Token(true), Attribute::Label(label.as_bytes().to_vec())])
}

fn point(session: &Session, object: ObjectHandle) -> Result<Option<Vec<u8>>, Error> {
    let found = session.get_attributes(object, &[AttributeType::EcPoint])?;
    Ok(found.into_iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(bytes) => Some(bytes),
        _ => None,
    }))
}
