//! Private JSON Web Keys (RFC 7517, RFC 7518, RFC 8037, RFC 9964).

use ::pkcs8::der::{Decode as _, Encode as _, Reader as _, SliceReader, asn1::UintRef};
use schema::{catalogue::Algorithm, encoding::base64url, wire::operation::SecretBytes as Member};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Read, UnfitMaterial, pkcs8};
use crate::{
    algorithm::{public_key, serve},
    vault::secret::SecretBytes,
};

/// Members we do not know are ignored.
#[derive(Deserialize)]
struct PrivateJwk {
    kty: String,
    alg: Option<String>,
    crv: Option<String>,
    k: Option<Member>,
    x: Option<Member>,
    y: Option<Member>,
    n: Option<Member>,
    e: Option<Member>,
    d: Option<Member>,
    p: Option<Member>,
    q: Option<Member>,
    dp: Option<Member>,
    dq: Option<Member>,
    qi: Option<Member>,
    oth: Option<serde::de::IgnoredAny>,
    #[serde(rename = "pub")]
    public: Option<Member>,
    #[serde(rename = "priv")]
    private: Option<Member>,
}

/// Reads JSON.
pub(super) fn read(algorithm: Algorithm, json: &[u8]) -> Result<Read, UnfitMaterial> {
    let unfit = |detail| UnfitMaterial { algorithm, detail };
    let entry = algorithm.entry();
    // The error of the parser may repeat what it read.
    let detail = "it is not a JSON Web Key (RFC 7517): a JSON object with \"kty\", whose members are text";
    let jwk: PrivateJwk = serde_json::from_slice(json).map_err(|_| unfit(detail))?;
    if jwk.kty != entry.jose_kty || jwk.crv.as_deref() != entry.jose_crv {
        return Err(unfit("the JWK has another \"kty\" or \"crv\" than keys of the algorithm"));
    }
    // `dir` says how a message is encrypted: such a key goes by what it encrypts with.
    let encrypts = entry.jose_enc.filter(|_| entry.jose_alg == Some("dir"));
    let related = |alg: &str| {
        [entry.jose_alg, encrypts, Some(entry.name)].contains(&Some(alg))
            || (alg.starts_with("ECDH-ES") && entry.jose_alg == Some("ECDH-ES+A256KW"))
            || (alg == "Ed25519" && entry.jose_alg == Some("EdDSA"))
    };
    if jwk.alg.as_deref().is_some_and(|alg| !related(alg)) {
        return Err(unfit("the JWK is for another algorithm (\"alg\")"));
    }
    let missing = unfit("the JWK lacks a member of its private half");
    let secret = |member: Option<Member>| member.map(|bytes| SecretBytes::new(bytes.0.to_vec())).ok_or(missing.clone());
    let plain = |member: Option<Member>| member.map(|bytes| bytes.0.to_vec());
    match entry.jose_kty {
        "oct" => Ok(Read { secret: secret(jwk.k)?, public_key: None }),
        "EC" => {
            let point = plain(jwk.x).zip(plain(jwk.y)).map(|(x, y)| [[4].as_slice(), &x, &y].concat());
            Ok(Read { secret: secret(jwk.d)?, public_key: point })
        }
        "OKP" => Ok(Read { secret: secret(jwk.d)?, public_key: plain(jwk.x) }),
        "AKP" => Ok(Read { secret: secret(jwk.private)?, public_key: plain(jwk.public) }),
        _ if jwk.oth.is_some() => Err(unfit("it has more than two primes")),
        _ => {
            let parts = [jwk.n, jwk.e, jwk.d, jwk.p, jwk.q, jwk.dp, jwk.dq, jwk.qi].map(|part| part.ok_or(missing.clone()));
            let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
            let inner = rsa_private_key(&parts.iter().map(|part| part.0.as_slice()).collect::<Vec<_>>()).ok_or(missing.clone())?;
            Ok(Read { secret: pkcs8::wrap(algorithm, inner.expose()).ok_or(missing)?, public_key: None })
        }
    }
}

/// `RSAPrivateKey` (RFC 8017, appendix A.1.2) of its eight numbers.
fn rsa_private_key(parts: &[&[u8]]) -> Option<SecretBytes> {
    let mut numbers = vec![UintRef::new(&[0]).ok()?];
    for part in parts {
        numbers.push(UintRef::new(part).ok()?);
    }
    numbers.to_der().ok().map(SecretBytes::new)
}

#[derive(Serialize)]
struct Written<'a> {
    kty: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<&'static str>,
    #[serde(flatten)]
    public: Option<public_key::Material>,
    #[serde(flatten)]
    private: std::collections::BTreeMap<&'static str, &'a str>,
}

/// Writes JSON.
pub(super) fn write(algorithm: Algorithm, secret: &SecretBytes) -> Result<SecretBytes, UnfitMaterial> {
    let failed = UnfitMaterial { algorithm, detail: "it could not be written" };
    let entry = algorithm.entry();
    let key = serve(algorithm).load(algorithm, secret).map_err(|_| failed.clone())?;
    let public = key.public_key().map(|public_key| public_key::material(algorithm, public_key)).transpose().map_err(|_| failed.clone())?;
    let text = |bytes: &[u8]| Zeroizing::new(base64url(bytes));
    let members: Vec<(&'static str, Zeroizing<String>)> = match entry.jose_kty {
        "RSA" => {
            let inner = pkcs8::inner(secret).ok_or(failed.clone())?;
            rsa_members(inner.expose()).ok_or(failed.clone())?.into_iter().map(|(name, bytes)| (name, text(bytes.expose()))).collect()
        }
        "oct" => vec![("k", text(secret.expose()))],
        "AKP" => vec![("priv", text(secret.expose()))],
        _ => vec![("d", text(secret.expose()))],
    };
    let private = members.iter().map(|(name, text)| (*name, text.as_str())).collect();
    // `dir` says how a message is encrypted, and not what its key is.
    let alg = entry.jose_alg.map(|alg| if alg == "dir" { entry.jose_enc.unwrap_or(alg) } else { alg });
    // Made with its final capacity: what grows leaves copies behind.
    let mut json = Vec::with_capacity(16 * 1024);
    serde_json::to_writer(&mut json, &Written { kty: entry.jose_kty, alg, public, private }).map_err(|_| failed)?;
    Ok(SecretBytes::new(json))
}

/// The private members of an `RSAPrivateKey`.
fn rsa_members(inner: &[u8]) -> Option<Vec<(&'static str, SecretBytes)>> {
    let mut reader = SliceReader::new(inner).ok()?;
    let numbers = reader.sequence(|reader| {
        let mut numbers = Vec::with_capacity(9);
        for _ in 0..9 {
            numbers.push(SecretBytes::new(UintRef::decode(reader)?.as_bytes().to_vec()));
        }
        Ok::<_, ::pkcs8::der::Error>(numbers)
    });
    let numbers = numbers.ok()?;
    Some(["d", "p", "q", "dp", "dq", "qi"].into_iter().zip(numbers.into_iter().skip(3)).collect())
}
