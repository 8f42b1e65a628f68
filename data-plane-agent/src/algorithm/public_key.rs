//! Public keys as they leave and as partners bring them: JWK (RFC 7517, RFC 7518, RFC 8037, RFC 9964) and PEM
//! (SubjectPublicKeyInfo, RFC 5280, with the identifiers of RFC 3279, RFC 5480, RFC 8410, RFC 9881, RFC 9935 and RFC 9909).
//!
//! Within the agent a public key is as the algorithm's own standard encodes it: `RSAPublicKey`, an uncompressed point, or
//! plain bytes.

use aws_lc_rs::{encoding::AsDer as _, rsa::PublicKeyComponents, signature::RSA_PSS_2048_8192_SHA256};
use schema::{
    catalogue::Algorithm,
    encoding::{base64url, from_base64url},
    id::KeyVersion,
    key::Purpose,
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use spki::{
    AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef,
    der::{
        Any, Decode as _, DecodePem as _, EncodePem as _, Reader as _, SliceReader,
        asn1::{BitString, ObjectIdentifier, UintRef},
        pem::LineEnding,
    },
};

use super::{AlgorithmError, serve};

/// A public JSON Web Key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwk {
    /// `RSA`, `EC`, `OKP` or `AKP`.
    pub kty: &'static str,
    /// `key_…/3`.
    pub kid: String,
    /// The one algorithm of the key, where JOSE has a name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<&'static str>,
    /// `sig` or `enc`.
    #[serde(rename = "use")]
    pub usage: &'static str,
    /// The key itself.
    #[serde(flatten)]
    pub material: Material,
}

/// The members of a JWK that are the key, base64url: which, its `kty` says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Material {
    /// `EC` and `OKP`: the curve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crv: Option<&'static str>,
    /// `EC`: the first coordinate; `OKP`: the public key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// `EC`: the second coordinate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// `RSA`: the modulus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// `RSA`: the exponent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
    /// `AKP`: the public key.
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    pub public: Option<String>,
}

/// The public key of a version as a JWK.
pub fn jwk(version: KeyVersion, algorithm: Algorithm, public_key: &[u8]) -> Result<Jwk, AlgorithmError> {
    let entry = algorithm.entry();
    let usage = if algorithm.serves(Purpose::Sign) { "sig" } else { "enc" };
    let material = material(algorithm, public_key)?;
    Ok(Jwk { kty: entry.jose_kty, kid: version.to_string(), alg: entry.jose_alg, usage, material })
}

/// An ephemeral public key (`epk`, RFC 7518 section 4.6.1.1) as JSON.
pub fn ephemeral_jwk(algorithm: Algorithm, public_key: &[u8]) -> Result<String, AlgorithmError> {
    #[derive(Serialize)]
    struct Ephemeral {
        kty: &'static str,
        #[serde(flatten)]
        material: Material,
    }
    let ephemeral = Ephemeral { kty: algorithm.entry().jose_kty, material: material(algorithm, public_key)? };
    serde_json::to_string(&ephemeral).map_err(|_| AlgorithmError::Failed { algorithm, act: "writing a public key" })
}

fn material(algorithm: Algorithm, public_key: &[u8]) -> Result<Material, AlgorithmError> {
    let entry = algorithm.entry();
    let malformed = AlgorithmError::MalformedKey { algorithm, what: "public key" };
    let nothing = Material { crv: entry.jose_crv, ..Material::default() };
    Ok(match entry.jose_kty {
        "RSA" => {
            let (modulus, exponent) = rsa_components(public_key).ok_or(malformed)?;
            Material { n: Some(base64url(&modulus)), e: Some(base64url(&exponent)), ..nothing }
        }
        "EC" => {
            let coordinates = public_key.strip_prefix(&[4]).filter(|rest| rest.len().is_multiple_of(2)).ok_or(malformed)?;
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            Material { x: Some(base64url(x)), y: Some(base64url(y)), ..nothing }
        }
        "OKP" => Material { x: Some(base64url(public_key)), ..nothing },
        "AKP" => Material { public: Some(base64url(public_key)), ..nothing },
        _ => return Err(AlgorithmError::NotServed { algorithm, act: "have a public key" }),
    })
}

/// A public JSON Web Key as others write it. Members that we do not know are ignored, but not a private half.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ForeignJwk {
    kty: String,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    #[serde(rename = "pub")]
    public: Option<String>,
    #[serde(default, deserialize_with = "present")]
    d: bool,
    #[serde(default, deserialize_with = "present", rename = "priv")]
    private: bool,
    #[serde(default, deserialize_with = "present")]
    k: bool,
}

/// Whether a member is there; what it says is not kept.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl ForeignJwk {
    /// Reads a JWK.
    pub fn parse(algorithm: Algorithm, json: &[u8]) -> Result<Self, AlgorithmError> {
        let detail = "it is not a JSON Web Key (RFC 7517): a JSON object with \"kty\", whose members are text";
        serde_json::from_slice(json).map_err(|_| AlgorithmError::Unfit { algorithm, detail })
    }

    /// The key as the algorithm's standard encodes it: checked to be one, and to be of this algorithm.
    pub fn public_key(&self, algorithm: Algorithm) -> Result<Vec<u8>, AlgorithmError> {
        let entry = algorithm.entry();
        let unfit = |detail| AlgorithmError::Unfit { algorithm, detail };
        if self.d || self.private || self.k {
            return Err(unfit("the JWK holds a secret (\"d\", \"priv\" or \"k\"): send the public half only, and replace that key"));
        }
        if self.kty != entry.jose_kty || self.crv.as_deref() != entry.jose_crv {
            return Err(unfit("the JWK has another \"kty\" or \"crv\" than keys of the algorithm"));
        }
        // A key with an algorithm is for that one; `ECDH-ES` covers what it is combined with.
        let related = |alg: &str| Some(alg) == entry.jose_alg || (alg.starts_with("ECDH-ES") && entry.jose_alg == Some("ECDH-ES+A256KW"));
        if !self.alg.as_deref().is_none_or(|alg| related(alg) || alg == algorithm.name()) {
            return Err(unfit("the JWK is for another algorithm (\"alg\")"));
        }
        let missing = || unfit("the JWK lacks a member that its \"kty\" needs, or one is not base64url without padding");
        let bytes = |text: &Option<String>| text.as_ref().and_then(|text| from_base64url(text).ok()).ok_or_else(missing);
        let public_key = match entry.jose_kty {
            "RSA" => {
                rsa_public_key(&bytes(&self.n)?, &bytes(&self.e)?).ok_or(AlgorithmError::MalformedKey { algorithm, what: "public key" })?
            }
            "EC" => [[4].as_slice(), &bytes(&self.x)?, &bytes(&self.y)?].concat(),
            "OKP" => bytes(&self.x)?,
            "AKP" => bytes(&self.public)?,
            _ => return Err(AlgorithmError::NotServed { algorithm, act: "have a public key" }),
        };
        serve(algorithm).check_public_key(algorithm, &public_key)?;
        Ok(public_key)
    }
}

/// The public key of a version as PEM, `-----BEGIN PUBLIC KEY-----`. Not every algorithm has an object identifier for
/// its keys yet: those have no PEM form.
pub fn pem(algorithm: Algorithm, public_key: &[u8]) -> Result<String, AlgorithmError> {
    let no_pem = AlgorithmError::NotServed { algorithm, act: "have a PEM form of its public keys yet: take the JWK" };
    let info = SubjectPublicKeyInfoOwned {
        algorithm: identifier(algorithm).ok_or(no_pem.clone())?,
        subject_public_key: BitString::from_bytes(public_key).map_err(|_| no_pem.clone())?,
    };
    info.to_pem(LineEnding::LF).map_err(|_| no_pem)
}

/// A public key that a partner sent as PEM, as the algorithm's standard encodes it: checked to be one of this algorithm.
pub fn from_pem(algorithm: Algorithm, text: &str) -> Result<Vec<u8>, AlgorithmError> {
    let unfit = |detail| AlgorithmError::Unfit { algorithm, detail };
    let wanted = identifier(algorithm).ok_or(unfit("its public keys have no PEM form yet: send a JWK"))?;
    let info = SubjectPublicKeyInfoOwned::from_pem(text.trim_start().as_bytes())
        .map_err(|_| unfit("it is not a PEM of a SubjectPublicKeyInfo: -----BEGIN PUBLIC KEY-----"))?;
    if info.algorithm != wanted {
        return Err(unfit("the PEM holds a public key of another algorithm"));
    }
    let public_key = info.subject_public_key.as_bytes().ok_or(AlgorithmError::MalformedKey { algorithm, what: "public key" })?;
    serve(algorithm).check_public_key(algorithm, public_key)?;
    Ok(public_key.to_vec())
}

/// The algorithm identifier of public keys: RSA keys are `rsaEncryption`, whatever they are for, because more programs
/// read it than read the narrower ones.
fn identifier(algorithm: Algorithm) -> Option<AlgorithmIdentifierOwned> {
    let entry = algorithm.entry();
    let parameters = match (entry.jose_kty, entry.jose_crv) {
        ("RSA", _) => Some(Any::null()),
        ("EC", Some("P-256")) => Some(Any::from(ObjectIdentifier::new("1.2.840.10045.3.1.7").ok()?)),
        ("EC", _) => Some(Any::from(ObjectIdentifier::new("1.3.132.0.34").ok()?)),
        _ => None,
    };
    let oid = ObjectIdentifier::new(entry.oid.filter(|_| entry.asymmetric)?).ok()?;
    Some(AlgorithmIdentifierOwned { oid, parameters })
}

/// Modulus and exponent of an `RSAPublicKey`, big-endian without leading zeros.
fn rsa_components(public_key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut reader = SliceReader::new(public_key).ok()?;
    let read = |reader: &mut SliceReader<'_>| -> spki::der::Result<(Vec<u8>, Vec<u8>)> {
        let modulus = UintRef::decode(reader)?.as_bytes().to_vec();
        Ok((modulus, UintRef::decode(reader)?.as_bytes().to_vec()))
    };
    let components = reader.sequence(read).ok()?;
    reader.finish().ok().map(|()| components)
}

/// The `RSAPublicKey` of modulus and exponent.
fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Option<Vec<u8>> {
    let key = PublicKeyComponents { n: modulus, e: exponent }.to_parsed_public_key(&RSA_PSS_2048_8192_SHA256).ok()?;
    let info = key.as_der().ok()?;
    SubjectPublicKeyInfoRef::from_der(info.as_ref()).ok()?.subject_public_key.as_bytes().map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use schema::clock::ManualIds;

    use super::*;

    const VERSION: KeyVersion = KeyVersion::new(schema::id::KeyId::from_bits(7), 2);

    #[test]
    fn ed25519_as_in_rfc_8037_and_rfc_8410() {
        let algorithm: Algorithm = "Ed25519".parse().unwrap();
        let x = from_base64url("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let key = jwk(VERSION, algorithm, &x).unwrap();
        assert_eq!((key.kty, key.material.crv, key.alg, key.usage), ("OKP", Some("Ed25519"), Some("EdDSA"), "sig"));
        assert_eq!(key.material.x.as_deref(), Some("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"));
        assert_eq!(key.kid, VERSION.to_string());
        // RFC 8410, section 10.1.
        let public_key = hex::decode("19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1").unwrap();
        let expected =
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        assert_eq!(pem(algorithm, &public_key).unwrap(), expected);
    }

    #[test]
    fn post_quantum_keys_are_akp() {
        let ml_dsa = jwk(VERSION, "ML-DSA-65".parse().unwrap(), &[1; 1952]).unwrap();
        assert_eq!((ml_dsa.kty, ml_dsa.alg, ml_dsa.usage, ml_dsa.material.x), ("AKP", Some("ML-DSA-65"), "sig", None));
        let hpke = jwk(VERSION, "HPKE-9-KE".parse().unwrap(), &[1; 1216]).unwrap();
        assert_eq!((hpke.kty, hpke.alg, hpke.usage), ("AKP", Some("HPKE-9-KE"), "enc"));
        assert!(pem("HPKE-9-KE".parse().unwrap(), &[1; 1216]).is_err());
        assert!(jwk(VERSION, "A256KW+A256GCM".parse().unwrap(), &[1; 32]).is_err());
    }

    #[test]
    fn what_leaves_is_read_again_as_the_same_key_and_as_no_other() {
        let ids = ManualIds::seeded(4);
        for algorithm in Algorithm::all().filter(|algorithm| algorithm.entry().asymmetric) {
            let secret = serve(algorithm).test_secret(algorithm, &ids).unwrap();
            let key = serve(algorithm).load(algorithm, &secret).unwrap();
            let public_key = key.public_key().unwrap();
            let json = serde_json::to_vec(&jwk(VERSION, algorithm, public_key).unwrap()).unwrap();
            let read = |algorithm| ForeignJwk::parse(algorithm, &json)?.public_key(algorithm);
            assert_eq!(read(algorithm).unwrap(), public_key, "{algorithm}");
            let text = pem(algorithm, public_key);
            assert_eq!(text.is_ok(), algorithm.entry().oid.is_some(), "{algorithm}");
            if let Ok(text) = &text {
                assert_eq!(from_pem(algorithm, text).unwrap(), public_key, "{algorithm}");
            }
            for other in Algorithm::all().filter(|other| other.entry().asymmetric && *other != algorithm) {
                assert!(read(other).is_err(), "a JWK of {algorithm} read as {other}");
                // A PEM does not say what an RSA key or a point is for.
                let alike = other.entry().oid == algorithm.entry().oid && other.entry().classical_bits == algorithm.entry().classical_bits;
                if let Ok(text) = &text {
                    assert_eq!(from_pem(other, text).is_ok(), alike, "a PEM of {algorithm} read as {other}");
                }
            }
        }
    }

    #[test]
    fn keys_of_others_are_read() {
        // RFC 7517, appendix A.1, and RFC 7638, section 3.1 (an RSA key of 2048 bits, too short for us).
        let ec = br#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"enc","kid":"1"}"#;
        let algorithm: Algorithm = "ECDH-ES-P256".parse().unwrap();
        let key = ForeignJwk::parse(algorithm, ec).unwrap().public_key(algorithm).unwrap();
        assert_eq!((key.len(), key[0], key[1]), (65, 4, 0x30));
        let off = String::from_utf8(ec.to_vec()).unwrap().replace("4Etl", "5Etl");
        assert!(ForeignJwk::parse(algorithm, off.as_bytes()).unwrap().public_key(algorithm).is_err());
        let rsa = br#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB"}"#;
        for name in ["RSA-OAEP-256-3072", "RSA-PSS-4096"] {
            let algorithm: Algorithm = name.parse().unwrap();
            let error = ForeignJwk::parse(algorithm, rsa).unwrap().public_key(algorithm).unwrap_err();
            assert!(matches!(error, AlgorithmError::MalformedKey { .. }));
        }
    }

    #[test]
    fn secrets_are_turned_away() {
        let algorithm: Algorithm = "Ed25519".parse().unwrap();
        let json = br#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}"#;
        let error = ForeignJwk::parse(algorithm, json).unwrap().public_key(algorithm).unwrap_err();
        assert!(error.to_string().contains("public half only"), "{error}");
        assert!(ForeignJwk::parse(algorithm, b"[]").is_err());
        assert!(from_pem(algorithm, "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----\n").is_err());
    }
}
