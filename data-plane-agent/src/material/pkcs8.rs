//! `PrivateKeyInfo` (RFC 5958), with the private keys of RFC 8017, RFC 5915, RFC 8410, RFC 9881, RFC 9935 and RFC 9909.

use ::pkcs8::{
    ObjectIdentifier, PrivateKeyInfo, PrivateKeyInfoRef,
    der::{
        Any, Decode as _, Encode as _, Reader as _, SliceReader,
        asn1::{BitStringRef, OctetStringRef},
    },
    spki::AlgorithmIdentifierOwned,
};
use schema::{
    catalogue::{Algorithm, Family},
    public_key::identifier,
};
use sec1::EcPrivateKey;

use super::{Read, UnfitMaterial};
use crate::{
    algorithm::{ml_dsa, ml_kem, serve},
    vault::secret::SecretBytes,
};

/// `id-RSASSA-PSS` (RFC 4055): a key that its maker restricted to such signatures.
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// The tag of an octet string.
const OCTET_STRING: u8 = 0x04;
/// The tag of a seed alone: `[0] IMPLICIT OCTET STRING`.
const SEED: u8 = 0x80;

/// Reads DER.
pub(super) fn read(algorithm: Algorithm, der: &[u8]) -> Result<Read, UnfitMaterial> {
    let unfit = |detail| UnfitMaterial { algorithm, detail };
    let wanted = identifier(algorithm).ok_or(unfit("its keys have no PKCS #8 form: bring it as raw or jwk"))?;
    let info = PrivateKeyInfoRef::from_der(der).map_err(|_| unfit("it is not a PrivateKeyInfo of PKCS #8 (DER)"))?;
    let of_rsa = algorithm.entry().family == Family::Rsa;
    let signs_only = info.algorithm.oid == RSASSA_PSS && of_rsa && algorithm.entry().jose_alg != Some("RSA-OAEP-256");
    if !signs_only {
        let given = AlgorithmIdentifierOwned { oid: info.algorithm.oid, parameters: info.algorithm.parameters.map(Any::from) };
        let absent_null = of_rsa && given.parameters.is_none();
        if given.oid != wanted.oid || (given.parameters != wanted.parameters && !absent_null) {
            return Err(unfit("it is a key of another algorithm, curve or parameter set"));
        }
    }
    let inner = info.private_key.as_bytes();
    let outer_public = info.public_key.as_ref().and_then(BitStringRef::as_bytes).map(<[u8]>::to_vec);
    let malformed = unfit("the private key in it is not as the algorithm's standard writes it");
    let octets = |bytes: &[u8]| <&OctetStringRef>::from_der(bytes).map(|octets| SecretBytes::new(octets.as_bytes().to_vec()));
    match algorithm.entry().family {
        // Written anew: what the agent keeps says nothing of what the maker had in mind.
        Family::Rsa => Ok(Read { secret: wrap(algorithm, inner).ok_or(malformed)?, public_key: None }),
        Family::Ecdsa | Family::Ecdh if algorithm.entry().jose_kty == "EC" => {
            let key = EcPrivateKey::from_der(inner).map_err(|_| malformed)?;
            let public_key = key.public_key.map(<[u8]>::to_vec).or(outer_public);
            let is_plain = public_key.as_ref().is_none_or(|point| point.first() == Some(&4));
            Ok(Read { secret: SecretBytes::new(key.private_key.to_vec()), public_key: public_key.filter(|_| is_plain) })
        }
        Family::MlDsa | Family::MlKem => Ok(Read { secret: seed(algorithm, inner)?, public_key: outer_public }),
        Family::SlhDsa => Ok(Read { secret: SecretBytes::new(inner.to_vec()), public_key: outer_public }),
        _ => Ok(Read { secret: octets(inner).map_err(|_| malformed)?, public_key: outer_public }),
    }
}

/// The seed of a lattice key: alone, or with the expanded key that it must expand to.
fn seed(algorithm: Algorithm, inner: &[u8]) -> Result<SecretBytes, UnfitMaterial> {
    let unfit = |detail| UnfitMaterial { algorithm, detail };
    let malformed = unfit("the private key in it is not as the algorithm's standard writes it");
    if let [SEED, length, seed @ ..] = inner {
        let whole = *length < 0x80 && seed.len() == usize::from(*length);
        return if whole { Ok(SecretBytes::new(seed.to_vec())) } else { Err(malformed) };
    }
    if inner.first() == Some(&OCTET_STRING) {
        return Err(unfit("it holds the expanded key and not the seed, from which alone all else follows: bring the seed"));
    }
    let mut reader = SliceReader::new(inner).map_err(|_| malformed.clone())?;
    let both =
        reader.sequence(|reader| Ok::<_, ::pkcs8::der::Error>((<&OctetStringRef>::decode(reader)?, <&OctetStringRef>::decode(reader)?)));
    let (seed, expanded) = both.map_err(|_| malformed.clone())?;
    reader.finish().map_err(|_| malformed)?;
    let secret = SecretBytes::new(seed.as_bytes().to_vec());
    let expands_to = match algorithm.entry().family {
        Family::MlDsa => ml_dsa::expanded(algorithm, &secret),
        _ => ml_kem::expanded(algorithm, &secret),
    };
    if expands_to.is_none_or(|expands_to| expands_to.expose() != expanded.as_bytes()) {
        return Err(unfit("its seed and its expanded key are not the same key"));
    }
    Ok(secret)
}

/// Writes DER. Lattice keys leave as their seeds.
pub(super) fn write(algorithm: Algorithm, secret: &SecretBytes) -> Result<SecretBytes, UnfitMaterial> {
    let unfit = |detail| UnfitMaterial { algorithm, detail };
    let none = unfit("its keys have no PKCS #8 form: take raw or jwk");
    let failed = unfit("it could not be written");
    if identifier(algorithm).is_none() {
        return Err(none);
    }
    let secret = secret.expose();
    let inner = match algorithm.entry().family {
        Family::Rsa => return Ok(SecretBytes::new(secret.to_vec())),
        Family::Ecdsa | Family::Ecdh if algorithm.entry().jose_kty == "EC" => {
            let key = serve(algorithm).load(algorithm, &SecretBytes::new(secret.to_vec())).map_err(|_| failed.clone())?;
            let key = EcPrivateKey { private_key: secret, parameters: None, public_key: key.public_key() };
            SecretBytes::new(key.to_der().map_err(|_| failed.clone())?)
        }
        Family::MlDsa | Family::MlKem => {
            let length = u8::try_from(secret.len()).ok().filter(|length| *length < 0x80).ok_or(failed.clone())?;
            SecretBytes::new([[SEED, length].as_slice(), secret].concat())
        }
        Family::SlhDsa => SecretBytes::new(secret.to_vec()),
        _ => SecretBytes::new(OctetStringRef::new(secret).and_then(|octets| octets.to_der()).map_err(|_| failed.clone())?),
    };
    wrap(algorithm, inner.expose()).ok_or(failed)
}

/// A private key of the algorithm's standard, in PKCS #8.
pub(super) fn wrap(algorithm: Algorithm, inner: &[u8]) -> Option<SecretBytes> {
    let identifier = identifier(algorithm)?;
    let info = PrivateKeyInfo::<Any, &OctetStringRef, BitStringRef<'_>>::new(identifier, OctetStringRef::new(inner).ok()?);
    info.to_der().ok().map(SecretBytes::new)
}

/// The private key of the algorithm's standard that is in PKCS #8 that we wrote.
pub(super) fn inner(der: &SecretBytes) -> Option<SecretBytes> {
    let info = PrivateKeyInfoRef::from_der(der.expose()).ok()?;
    Some(SecretBytes::new(info.private_key.as_bytes().to_vec()))
}
