//! Public keys as they leave: JWK (RFC 7517, RFC 7518, RFC 8037, RFC 9964) and PEM (SubjectPublicKeyInfo, RFC 5280). How
//! those of others are read stands in [`schema::public_key`].
//!
//! Within the agent a public key is as the algorithm's own standard encodes it: `RSAPublicKey`, an uncompressed point, or
//! plain bytes.

use schema::{
    catalogue::Algorithm,
    encoding::base64url,
    id::KeyVersion,
    key::Purpose,
    public_key::{ForeignJwk, identifier, rsa_components},
};
use serde::Serialize;
use spki::{
    SubjectPublicKeyInfoOwned,
    der::{EncodePem as _, asn1::BitString, pem::LineEnding},
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

/// The members of a JWK that are the key.
pub(crate) fn material(algorithm: Algorithm, public_key: &[u8]) -> Result<Material, AlgorithmError> {
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

/// A public key that came as a JWK, as the algorithm's standard encodes it: checked to be one, and to be of this algorithm.
pub fn from_jwk(algorithm: Algorithm, jwk: &ForeignJwk) -> Result<Vec<u8>, AlgorithmError> {
    let public_key = jwk.bytes(algorithm).map_err(|error| AlgorithmError::Unfit { algorithm, detail: error.detail })?;
    serve(algorithm).check_public_key(algorithm, &public_key)?;
    Ok(public_key)
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

#[cfg(test)]
mod tests {
    use schema::{clock::ManualIds, encoding::from_base64url, public_key::is_as_long_as_one};

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
            let read = |algorithm| from_jwk(algorithm, &ForeignJwk::parse(algorithm, &json).unwrap());
            assert_eq!(read(algorithm).unwrap(), public_key, "{algorithm}");
            assert!(is_as_long_as_one(algorithm, public_key), "{algorithm}");
            assert!(!is_as_long_as_one(algorithm, &public_key[1..]) && !is_as_long_as_one(algorithm, &[public_key, &[0]].concat()));
            let text = pem(algorithm, public_key);
            assert_eq!(text.is_ok(), algorithm.entry().oid.is_some(), "{algorithm}");
            if let Ok(text) = &text {
                assert_eq!(schema::public_key::read(algorithm, text).unwrap(), public_key, "{algorithm}");
            }
            for other in Algorithm::all().filter(|other| other.entry().asymmetric && *other != algorithm) {
                assert!(read(other).is_err(), "a JWK of {algorithm} read as {other}");
                // A PEM does not say what an RSA key or a point is for.
                let alike = other.entry().oid == algorithm.entry().oid && other.entry().classical_bits == algorithm.entry().classical_bits;
                if let Ok(text) = &text {
                    assert_eq!(schema::public_key::read(other, text).is_ok(), alike, "a PEM of {algorithm} read as {other}");
                }
            }
        }
    }

    #[test]
    fn keys_of_others_are_read() {
        // RFC 7517, appendix A.1, and RFC 7638, section 3.1 (an RSA key of 2048 bits, too short for us).
        let ec = br#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"enc","kid":"1"}"#;
        let algorithm: Algorithm = "ECDH-ES-P256".parse().unwrap();
        let key = from_jwk(algorithm, &ForeignJwk::parse(algorithm, ec).unwrap()).unwrap();
        assert_eq!((key.len(), key[0], key[1]), (65, 4, 0x30));
        let off = String::from_utf8(ec.to_vec()).unwrap().replace("4Etl", "5Etl");
        assert!(from_jwk(algorithm, &ForeignJwk::parse(algorithm, off.as_bytes()).unwrap()).is_err());
        let rsa = br#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB"}"#;
        for name in ["RSA-OAEP-256-3072", "RSA-PSS-4096"] {
            let algorithm: Algorithm = name.parse().unwrap();
            let error = from_jwk(algorithm, &ForeignJwk::parse(algorithm, rsa).unwrap()).unwrap_err();
            assert!(matches!(error, AlgorithmError::MalformedKey { .. }));
        }
    }
}
