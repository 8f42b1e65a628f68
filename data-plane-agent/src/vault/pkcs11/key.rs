//! A key inside a device: made there, used there, never let out.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{self, digest},
};
use cryptoki::{
    context::Function,
    error::{Error, RvError},
    mechanism::{
        Mechanism, MechanismType,
        aead::GcmParams,
        eddsa::{EddsaParams, EddsaSignatureScheme},
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource, PkcsPssParams},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use devices::pkcs11::sealing::{TAG_BITS, is_about_the_data};
use schema::{
    catalogue::{Algorithm, Family},
    clock::{Ids, random},
    encoding::Digest,
    key::{FINGERPRINT_LABEL, Purpose},
};

use super::{
    device::{Device, Failure},
    objects::text,
};
use crate::{
    algorithm::{
        self, AlgorithmError, ContentEncryption, LoadedKey, SealedContent, WrappedKey,
        aes_gcm::{NONCE_BYTES, TAG_BYTES},
        aes_kw, ecdh,
        legacy::KeyTransport,
    },
    vault::secret::{ContentKey, SecretBytes},
};

/// A key inside a device.
pub(super) struct DeviceKey {
    device: Arc<Device>,
    algorithm: Algorithm,
    /// The id of its objects on the token.
    id: Vec<u8>,
    public_key: Option<Vec<u8>>,
    handle: Mutex<Option<(u64, ObjectHandle)>>,
}

impl DeviceKey {
    pub(super) fn new(device: Arc<Device>, algorithm: Algorithm, id: Vec<u8>, public_key: Option<Vec<u8>>) -> Self {
        Self { device, algorithm, id, public_key, handle: Mutex::default() }
    }

    /// What the device computes of the material, the same each time: tells it from any other.
    pub(super) fn check_value(&self) -> Result<Digest, AlgorithmError> {
        let label = Digest::of(FINGERPRINT_LABEL.as_bytes());
        let computed = match self.algorithm.entry().family {
            Family::AesKeyWrap => self.wrap("checking a key", &SecretBytes::new(label.0.to_vec()))?,
            // Only ever this nonce with this input: it tells nothing about what else is sealed.
            Family::Aead => self.seal(label.0.first_chunk().copied().unwrap_or_default(), &label.0, b"")?,
            Family::Hmac => self.hmac(&Mechanism::Sha256Hmac, FINGERPRINT_LABEL.as_bytes())?,
            _ => return Ok(schema::key::fingerprint(self.algorithm, self.public_key.as_deref().unwrap_or_default())),
        };
        Ok(Digest::labelled(FINGERPRINT_LABEL, &[self.algorithm.name().as_bytes(), &computed]))
    }

    fn using<T>(&self, act: &'static str, work: impl Fn(&Session, ObjectHandle) -> Result<T, Error>) -> Result<T, Failure> {
        self.device.with(act, |session, generation| {
            let known = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
            let handle = match known {
                Some((of, handle)) if of == generation => handle,
                _ => self.find(session)?,
            };
            *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some((generation, handle));
            work(session, handle)
        })
    }

    fn find(&self, session: &Session) -> Result<ObjectHandle, Error> {
        let class = if self.public_key.is_some() { ObjectClass::PRIVATE_KEY } else { ObjectClass::SECRET_KEY };
        let found = session.find_objects(&[Attribute::Class(class), Attribute::Token(true), Attribute::Id(self.id.clone())])?;
        found.first().copied().ok_or(Error::Pkcs11(RvError::KeyHandleInvalid, Function::FindObjects))
    }

    fn not_served<T>(&self, act: &'static str) -> Result<T, AlgorithmError> {
        Err(AlgorithmError::NotServed { algorithm: self.algorithm, act })
    }

    /// Of input that comes from outside: the device may say that it is not genuine.
    fn or_not_genuine(&self, failure: Failure, act: &'static str) -> AlgorithmError {
        if is_about_the_data(&failure) { AlgorithmError::NotGenuine { algorithm: self.algorithm, act } } else { failure.trouble.into() }
    }

    fn wrap(&self, act: &'static str, key: &SecretBytes) -> Result<Vec<u8>, AlgorithmError> {
        let wrapped = self.using(act, |session, kek| {
            let object = session.create_object(&[vec![Attribute::Value(key.expose().to_vec())], passing()].concat())?;
            let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, kek, object);
            session.destroy_object(object).and(wrapped)
        });
        wrapped.map_err(|failure| failure.trouble.into())
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        let opened = self.using("unwrapping a key", |session, kek| {
            let object = session.unwrap_key(&Mechanism::AesKeyWrap, kek, wrapped, &passing())?;
            take_out(session, object)
        });
        opened.map_err(|failure| self.or_not_genuine(failure, "unwrapping a key"))
    }

    /// Ciphertext with the tag at its end.
    fn seal(&self, nonce: [u8; NONCE_BYTES], associated: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        let sealed = self.using("encrypting", |session, key| {
            let mut nonce = nonce;
            session.encrypt(&Mechanism::AesGcm(GcmParams::new(&mut nonce, associated, TAG_BITS)?), key, plaintext)
        });
        let sealed = sealed.map_err(|failure| AlgorithmError::from(failure.trouble))?;
        let failed = AlgorithmError::Failed { algorithm: self.algorithm, act: "encrypting" };
        if sealed.len() == plaintext.len() + TAG_BYTES { Ok(sealed) } else { Err(failed) }
    }

    fn hmac(&self, mechanism: &Mechanism<'_>, message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        let tag = self.using("authenticating a message", |session, key| session.sign(mechanism, key, message));
        tag.map_err(|failure| failure.trouble.into())
    }

    fn sign_with(&self, mechanism: &Mechanism<'_>, data: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        let signature = self.using("signing", |session, key| session.sign(mechanism, key, data));
        signature.map_err(|failure| failure.trouble.into())
    }

    fn point_agree(&self, public_key: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        // A point that is not on the curve would make the device tell about its key.
        algorithm::serve(self.algorithm).check_public_key(self.algorithm, public_key)?;
        let length = if self.algorithm.entry().jose_crv == Some("P-384") { 48 } else { 32 };
        let agreed = self.using("agreeing on a secret", |session, key| {
            let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), public_key));
            let template = [vec![Attribute::ValueLen(Ulong::new(length))], passing()].concat();
            let object = session.derive_key(&mechanism, key, &template)?;
            take_out(session, object)
        });
        let agreed = agreed.map_err(|failure| AlgorithmError::from(failure.trouble))?;
        let failed = AlgorithmError::Failed { algorithm: self.algorithm, act: "agreeing on a secret" };
        if u64::try_from(agreed.len()) == Ok(length) { Ok(agreed) } else { Err(failed) }
    }
}

impl LoadedKey for DeviceKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key(&self) -> Option<&[u8]> {
        self.public_key.as_deref()
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn wrap_key(&self, key: &ContentKey, _content: ContentEncryption) -> Result<WrappedKey, AlgorithmError> {
        match self.algorithm.entry().family {
            Family::AesKeyWrap => {
                let encrypted_key = self.wrap("wrapping a key", &SecretBytes::new(key.expose().to_vec()))?;
                Ok(WrappedKey { encrypted_key, ..WrappedKey::default() })
            }
            _ => self.not_served("wrap keys"),
        }
    }

    fn unwrap_key(&self, wrapped: &WrappedKey, _content: ContentEncryption) -> Result<ContentKey, AlgorithmError> {
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "unwrapping a key" };
        let opened = match self.algorithm.entry().family {
            Family::AesKeyWrap if wrapped.encapsulated.is_some() || wrapped.encrypted_key.len() != aes_kw::WRAPPED_BYTES => {
                return Err(not_genuine);
            }
            Family::AesKeyWrap => self.unwrap(&wrapped.encrypted_key)?,
            Family::Rsa if wrapped.encapsulated.is_none() => self.unwrap_bytes(&wrapped.encrypted_key)?,
            Family::Rsa => return Err(not_genuine),
            Family::Ecdh => return ecdh::unwrap_key(self.algorithm, wrapped, |ephemeral| self.point_agree(ephemeral)),
            _ => return self.not_served("unwrap content keys"),
        };
        ContentKey::from_slice(opened.expose()).ok_or(not_genuine)
    }

    fn unwrap_transported(
        &self,
        transport: &KeyTransport,
        encrypted_key: &[u8],
        length_bytes: usize,
    ) -> Result<SecretBytes, AlgorithmError> {
        match self.algorithm.entry().family {
            Family::Ecdh => {
                ecdh::unwrap_transported(self.algorithm, transport, encrypted_key, length_bytes, |public_key| self.point_agree(public_key))
            }
            // What PKCS#1 v1.5 gives away about its padding cannot be kept in from outside the device.
            _ => self.not_served("unwrap content keys of old formats inside a device"),
        }
    }

    fn seal_content(&self, associated: &[u8], plaintext: &[u8], ids: &dyn Ids) -> Result<SealedContent, AlgorithmError> {
        if self.algorithm.entry().family != Family::Aead {
            return self.not_served("encrypt content directly");
        }
        let nonce: [u8; NONCE_BYTES] = random(ids);
        let mut ciphertext = self.seal(nonce, associated, plaintext)?;
        let tag = ciphertext.split_off(plaintext.len());
        Ok(SealedContent { encapsulated: None, nonce: nonce.to_vec(), ciphertext, tag })
    }

    fn open_content(&self, associated: &[u8], sealed: &SealedContent) -> Result<SecretBytes, AlgorithmError> {
        if self.algorithm.entry().family != Family::Aead {
            return self.not_served("decrypt content directly");
        }
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "decrypting" };
        let nonce = <[u8; NONCE_BYTES]>::try_from(sealed.nonce.as_slice()).map_err(|_| not_genuine.clone())?;
        if sealed.encapsulated.is_some() || sealed.tag.len() != TAG_BYTES {
            return Err(not_genuine);
        }
        let whole = [sealed.ciphertext.as_slice(), &sealed.tag].concat();
        let opened = self.using("decrypting", |session, key| {
            let mut nonce = nonce;
            session.decrypt(&Mechanism::AesGcm(GcmParams::new(&mut nonce, associated, TAG_BITS)?), key, &whole)
        });
        opened.map(SecretBytes::new).map_err(|failure| self.or_not_genuine(failure, "decrypting"))
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        match self.algorithm.entry().family {
            Family::EdDsa => self.sign_with(&Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)), message),
            // The message is hashed here: only its digest goes to the device.
            Family::Ecdsa | Family::Rsa if self.algorithm.serves(Purpose::Sign) => {
                let hash = if self.algorithm.entry().digest_bytes == Some(48) { &digest::SHA384 } else { &digest::SHA256 };
                self.sign_digest(digest(hash, message).as_ref())
            }
            _ => self.not_served("sign"),
        }
    }

    fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        let entry = self.algorithm.entry();
        if !self.algorithm.serves(Purpose::SignDigest) || !matches!(entry.family, Family::Ecdsa | Family::Rsa) {
            return self.not_served("sign ready digests");
        }
        if entry.digest_bytes.map(usize::from) != Some(digest.len()) {
            let detail = "a digest is as long as its hash: 32 bytes of SHA-256, 48 of SHA-384";
            return Err(AlgorithmError::Unfit { algorithm: self.algorithm, detail });
        }
        match entry.family {
            Family::Ecdsa => self.sign_with(&Mechanism::Ecdsa, digest),
            _ => self.sign_with(&Mechanism::RsaPkcsPss(pss(digest.len())), digest),
        }
    }

    fn mac(&self, message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        match self.algorithm.name() {
            "HMAC-SHA-256" => self.hmac(&Mechanism::Sha256Hmac, message),
            "HMAC-SHA-384" => self.hmac(&Mechanism::Sha384Hmac, message),
            "HMAC-SHA-512" => self.hmac(&Mechanism::Sha512Hmac, message),
            _ => self.not_served("authenticate messages"),
        }
    }

    fn verify_mac(&self, message: &[u8], tag: &[u8]) -> Result<(), AlgorithmError> {
        let expected = self.mac(message)?;
        verify_slices_are_equal(&expected, tag)
            .map_err(|_| AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "verifying the authentication" })
    }

    fn wrap_bytes(&self, key: &SecretBytes) -> Result<Vec<u8>, AlgorithmError> {
        match self.algorithm.entry().family {
            Family::AesKeyWrap => {
                aes_kw::check_bare_key(self.algorithm, key)?;
                self.wrap("wrapping a key", key)
            }
            _ => self.not_served("wrap bare keys"),
        }
    }

    fn unwrap_bytes(&self, wrapped: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "unwrapping a key" };
        match self.algorithm.entry().family {
            Family::AesKeyWrap => {
                aes_kw::bare_key_bytes(wrapped).ok_or(not_genuine)?;
                self.unwrap(wrapped)
            }
            Family::Rsa if self.algorithm.serves(Purpose::Encrypt) => {
                let opened = self.using("unwrapping a key", |session, key| session.decrypt(&Mechanism::RsaPkcsOaep(oaep()), key, wrapped));
                opened.map(SecretBytes::new).map_err(|failure| self.or_not_genuine(failure, "unwrapping a key"))
            }
            _ => self.not_served("unwrap bare keys"),
        }
    }

    fn agree(&self, public_key: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        match self.algorithm.entry().family {
            Family::Ecdh => self.point_agree(public_key),
            _ => self.not_served("agree on secrets"),
        }
    }
}

/// RSA-PSS with a salt as long as the digest.
fn pss(digest_bytes: usize) -> PkcsPssParams {
    let (hash_alg, mgf, length) = match digest_bytes {
        48 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
        _ => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
    };
    PkcsPssParams { hash_alg, mgf, s_len: Ulong::new(length) }
}

/// RSA-OAEP with SHA-256 in both places and no label.
pub(super) fn oaep() -> PkcsOaepParams<'static> {
    PkcsOaepParams::new(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, PkcsOaepSource::empty())
}

/// An object that lives as long as one call: a key on its way in or out.
fn passing() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ]
}

fn take_out(session: &Session, object: ObjectHandle) -> Result<SecretBytes, Error> {
    let value = text(session, object, AttributeType::Value);
    session.destroy_object(object)?;
    Ok(SecretBytes::new(value?.ok_or(Error::InvalidValue)?))
}
