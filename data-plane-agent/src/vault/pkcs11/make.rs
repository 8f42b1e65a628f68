//! How keys are made inside a device, and which algorithms a device can do whole.

use std::{collections::BTreeSet, sync::Arc};

use cryptoki::{
    error::Error,
    mechanism::{Mechanism, MechanismType},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
    types::Ulong,
};
use der::{
    Decode as _, Encode as _,
    asn1::{OctetString, UintRef},
};
use schema::catalogue::{Algorithm, Family};

use super::{
    device::Device,
    key::{DeviceKey, oaep},
    objects::text,
};
use crate::{
    algorithm::AlgorithmError,
    vault::{Trouble, TroubleKind, VaultError},
};

/// DER of the object identifiers of curves.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

/// The algorithms that a device does whole: it makes the key, and every use of it happens inside.
pub(super) fn served_inside(device: &Device) -> Result<BTreeSet<Algorithm>, VaultError> {
    let (mechanisms, _) = device.abilities()?;
    let mut served: BTreeSet<_> =
        Algorithm::all().filter(|algorithm| needed(*algorithm).is_some_and(|all| all.iter().all(|one| mechanisms.contains(one)))).collect();
    // The list of mechanisms does not tell which hash OAEP may have: only trying does.
    if served.iter().any(|algorithm| algorithm.name().starts_with("RSA-OAEP")) && !does_oaep(device)? {
        served.retain(|algorithm| !algorithm.name().starts_with("RSA-OAEP"));
    }
    Ok(served)
}

/// The mechanisms an algorithm needs; none when nothing of it can be done inside.
fn needed(algorithm: Algorithm) -> Option<Vec<MechanismType>> {
    let entry = algorithm.entry();
    Some(match (entry.family, algorithm.name()) {
        (Family::AesKeyWrap, _) => vec![MechanismType::AES_KEY_GEN, MechanismType::AES_KEY_WRAP],
        (Family::Aead, "A256GCM") => vec![MechanismType::AES_KEY_GEN, MechanismType::AES_GCM],
        (Family::Hmac, name) => {
            let hash = match name {
                "HMAC-SHA-384" => MechanismType::SHA384_HMAC,
                "HMAC-SHA-512" => MechanismType::SHA512_HMAC,
                _ => MechanismType::SHA256_HMAC,
            };
            vec![MechanismType::GENERIC_SECRET_KEY_GEN, MechanismType::SHA256_HMAC, hash]
        }
        (Family::Rsa, name) if name.starts_with("RSA-PSS") => vec![MechanismType::RSA_PKCS_KEY_PAIR_GEN, MechanismType::RSA_PKCS_PSS],
        (Family::Rsa, _) => vec![MechanismType::RSA_PKCS_KEY_PAIR_GEN, MechanismType::RSA_PKCS_OAEP],
        (Family::Ecdsa, _) => vec![MechanismType::ECC_KEY_PAIR_GEN, MechanismType::ECDSA],
        (Family::Ecdh, _) if curve(algorithm).is_some() => vec![MechanismType::ECC_KEY_PAIR_GEN, MechanismType::ECDH1_DERIVE],
        (Family::EdDsa, _) => vec![MechanismType::ECC_EDWARDS_KEY_PAIR_GEN, MechanismType::EDDSA],
        _ => return None,
    })
}

/// Whether the device encrypts to a public key with OAEP and SHA-256: what it does with any public key, it does with the
/// private key.
fn does_oaep(device: &Device) -> Result<bool, VaultError> {
    // Any odd number of 2048 bits will do: nothing is ever decrypted.
    let mut modulus = vec![0xd5; 256];
    modulus[255] = 0x4b;
    let tried = device.with("trying RSA-OAEP with SHA-256", |session, _| {
        let key = session.create_object(&[
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::RSA),
            Attribute::Token(false),
            Attribute::Private(false),
            Attribute::Encrypt(true),
            Attribute::Modulus(modulus.clone()),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ])?;
        let encrypted = session.encrypt(&Mechanism::RsaPkcsOaep(oaep()), key, b"any");
        session.destroy_object(key)?;
        encrypted.map(|_| ())
    });
    match tried {
        Ok(()) => Ok(true),
        Err(failure) if failure.answer.is_some() && failure.trouble.kind == TroubleKind::Failed => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

fn curve(algorithm: Algorithm) -> Option<&'static [u8]> {
    match algorithm.entry().jose_crv {
        Some("P-256") => Some(P256),
        Some("P-384") => Some(P384),
        Some("Ed25519") => Some(ED25519),
        _ => None,
    }
}

/// Makes a key that never leaves the device. Whatever has its label is removed first: it was left by a try that did not end.
pub(super) fn make(device: &Arc<Device>, algorithm: Algorithm, label: &str, id: &[u8]) -> Result<DeviceKey, VaultError> {
    let made = device.with("making a key", |session, _| {
        sweep(session, label)?;
        if algorithm.entry().asymmetric {
            make_pair(session, algorithm, label, id).map(Some)
        } else {
            make_secret(session, algorithm, label, id).map(|()| None)
        }
    })?;
    let public_key = match made {
        None => None,
        Some(told) => {
            let odd = || Trouble::new(TroubleKind::Failed, device.place(), "it told a public key that cannot be read");
            Some(public_key(algorithm, &told).ok_or_else(odd)?)
        }
    };
    if let Some(public_key) = &public_key {
        crate::algorithm::serve(algorithm)
            .check_public_key(algorithm, public_key)
            .map_err(|_| AlgorithmError::Failed { algorithm, act: "making a key" })?;
    }
    Ok(DeviceKey::new(device.clone(), algorithm, id.to_vec(), public_key))
}

/// Removes every key object with a label.
pub(super) fn sweep(session: &Session, label: &str) -> Result<(), Error> {
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY, ObjectClass::SECRET_KEY] {
        let found =
            session.find_objects(&[Attribute::Class(class), Attribute::Token(true), Attribute::Label(label.as_bytes().to_vec())])?;
        found.into_iter().try_for_each(|object| session.destroy_object(object))?;
    }
    Ok(())
}

fn make_secret(session: &Session, algorithm: Algorithm, label: &str, id: &[u8]) -> Result<(), Error> {
    let (mechanism, key_type, length, uses) = match algorithm.entry().family {
        Family::AesKeyWrap => (Mechanism::AesKeyGen, KeyType::AES, 32, vec![Attribute::Wrap(true), Attribute::Unwrap(true)]),
        Family::Aead => (Mechanism::AesKeyGen, KeyType::AES, 32, vec![Attribute::Encrypt(true), Attribute::Decrypt(true)]),
        _ => {
            let length = match algorithm.name() {
                "HMAC-SHA-384" => 48,
                "HMAC-SHA-512" => 64,
                _ => 32,
            };
            (Mechanism::GenericSecretKeyGen, KeyType::GENERIC_SECRET, length, vec![Attribute::Sign(true)])
        }
    };
    let fixed = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(key_type), Attribute::ValueLen(Ulong::new(length))];
    let template = [fixed.as_slice(), &kept(label, id), &uses].concat();
    session.generate_key(&mechanism, &template).map(|_| ())
}

/// Makes a pair, and gives what the token tells of the public half: modulus and exponent, or a point.
fn make_pair(session: &Session, algorithm: Algorithm, label: &str, id: &[u8]) -> Result<[Vec<u8>; 2], Error> {
    let family = algorithm.entry().family;
    let (mechanism, parameters) = match family {
        Family::Rsa => {
            let bits = if algorithm.name().ends_with("4096") { 4096 } else { 3072 };
            (Mechanism::RsaPkcsKeyPairGen, vec![Attribute::ModulusBits(Ulong::new(bits)), Attribute::PublicExponent(vec![1, 0, 1])])
        }
        Family::EdDsa => (Mechanism::EccEdwardsKeyPairGen, vec![Attribute::EcParams(ED25519.to_vec())]),
        _ => (Mechanism::EccKeyPairGen, vec![Attribute::EcParams(curve(algorithm).unwrap_or(P256).to_vec())]),
    };
    let (public_use, private_use) = match family {
        Family::Ecdh => (Attribute::Derive(true), Attribute::Derive(true)),
        Family::Rsa if algorithm.name().starts_with("RSA-OAEP") => (Attribute::Encrypt(true), Attribute::Decrypt(true)),
        _ => (Attribute::Verify(true), Attribute::Sign(true)),
    };
    let named = [Attribute::Label(label.as_bytes().to_vec()), Attribute::Id(id.to_vec()), Attribute::Token(true)];
    let public = [named.as_slice(), &[Attribute::Private(false), public_use], &parameters].concat();
    let private = [kept(label, id).as_slice(), &[private_use]].concat();
    let (public, _) = session.generate_key_pair(&mechanism, &public, &private)?;
    if family == Family::Rsa {
        return Ok([required(session, public, AttributeType::Modulus)?, required(session, public, AttributeType::PublicExponent)?]);
    }
    Ok([required(session, public, AttributeType::EcPoint)?, Vec::new()])
}

/// What keeps a key inside.
fn kept(label: &str, id: &[u8]) -> Vec<Attribute> {
    vec![
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id.to_vec()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
    ]
}

fn required(session: &Session, object: ObjectHandle, attribute: AttributeType) -> Result<Vec<u8>, Error> {
    text(session, object, attribute)?.ok_or(Error::InvalidValue)
}

/// The public key as the algorithm's standard encodes it.
fn public_key(algorithm: Algorithm, [first, second]: &[Vec<u8>; 2]) -> Option<Vec<u8>> {
    if algorithm.entry().family == Family::Rsa {
        let key = RsaPublicKey { modulus: UintRef::new(first).ok()?, exponent: UintRef::new(second).ok()? };
        return key.to_der().ok();
    }
    // The point stands in an OCTET STRING; some tokens leave that away.
    match OctetString::from_der(first) {
        Ok(point) => Some(point.as_bytes().to_vec()),
        Err(_) => Some(first.clone()),
    }
}

/// RFC 8017, appendix A.1.1.
#[derive(der::Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}
