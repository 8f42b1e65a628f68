//! Public keys as they leave: JWK (RFC 7517, RFC 8037, RFC 9964) and PEM (SubjectPublicKeyInfo, RFC 5280).

use schema::{catalogue::Algorithm, encoding::base64url, id::KeyVersion, key::Purpose};
use serde::Serialize;
use spki::der::{
    EncodePem as _,
    asn1::{BitString, ObjectIdentifier},
    pem::LineEnding,
};

use super::AlgorithmError;

/// A public JSON Web Key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jwk {
    /// `OKP` or `AKP`.
    pub kty: &'static str,
    /// `key_…/3`.
    pub kid: String,
    /// The one algorithm of the key, where JOSE has a name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<&'static str>,
    /// `sig` or `enc`.
    #[serde(rename = "use")]
    pub usage: &'static str,
    /// `OKP`: the curve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crv: Option<&'static str>,
    /// `OKP`: the public key, base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// `AKP`: the public key, base64url.
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    pub public: Option<String>,
}

/// The public key of a version as a JWK.
pub fn jwk(version: KeyVersion, algorithm: Algorithm, public_key: &[u8]) -> Result<Jwk, AlgorithmError> {
    let entry = algorithm.entry();
    let text = base64url(public_key);
    let (crv, x, public) = match entry.jose_kty {
        "OKP" => (Some(entry.parameters), Some(text), None),
        "AKP" => (None, None, Some(text)),
        _ => return Err(AlgorithmError::NotServed { algorithm, act: "have a public key" }),
    };
    let usage = if algorithm.serves(Purpose::Encrypt) { "enc" } else { "sig" };
    Ok(Jwk { kty: entry.jose_kty, kid: version.to_string(), alg: entry.jose_alg, usage, crv, x, public })
}

/// The public key of a version as PEM, `-----BEGIN PUBLIC KEY-----`. Not every algorithm has an object identifier for
/// its keys yet: those have no PEM form.
pub fn pem(algorithm: Algorithm, public_key: &[u8]) -> Result<String, AlgorithmError> {
    let entry = algorithm.entry();
    let no_pem = AlgorithmError::NotServed { algorithm, act: "have a PEM form of its public keys yet: take the JWK" };
    let oid = entry.oid.filter(|_| entry.asymmetric).ok_or(no_pem.clone())?;
    let info = spki::SubjectPublicKeyInfo {
        algorithm: spki::AlgorithmIdentifier::<()> { oid: ObjectIdentifier::new(oid).map_err(|_| no_pem.clone())?, parameters: None },
        subject_public_key: BitString::from_bytes(public_key).map_err(|_| no_pem.clone())?,
    };
    info.to_pem(LineEnding::LF).map_err(|_| no_pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ed25519_as_in_rfc_8037_and_rfc_8410() {
        let algorithm: Algorithm = "Ed25519".parse().unwrap();
        let version = KeyVersion::new(schema::id::KeyId::from_bits(7), 2);
        let x = schema::encoding::from_base64url("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let key = jwk(version, algorithm, &x).unwrap();
        assert_eq!((key.kty, key.crv, key.alg, key.usage), ("OKP", Some("Ed25519"), Some("EdDSA"), "sig"));
        assert_eq!(key.x.as_deref(), Some("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"));
        assert_eq!(key.kid, version.to_string());
        // RFC 8410, section 10.1.
        let public_key = hex::decode("19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1").unwrap();
        let expected =
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        assert_eq!(pem(algorithm, &public_key).unwrap(), expected);
    }

    #[test]
    fn post_quantum_keys_are_akp() {
        let version = KeyVersion::new(schema::id::KeyId::from_bits(7), 1);
        let ml_dsa = jwk(version, "ML-DSA-65".parse().unwrap(), &[1; 1952]).unwrap();
        assert_eq!((ml_dsa.kty, ml_dsa.alg, ml_dsa.usage, ml_dsa.x), ("AKP", Some("ML-DSA-65"), "sig", None));
        let hpke = jwk(version, "HPKE-9-KE".parse().unwrap(), &[1; 1216]).unwrap();
        assert_eq!((hpke.kty, hpke.alg, hpke.usage), ("AKP", Some("HPKE-9-KE"), "enc"));
        assert!(pem("HPKE-9-KE".parse().unwrap(), &[1; 1216]).is_err());
        assert!(jwk(version, "A256KW+A256GCM".parse().unwrap(), &[1; 32]).is_err());
    }
}
