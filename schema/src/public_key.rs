//! Public keys as others bring them: JWK (RFC 7517, RFC 7518, RFC 8037, RFC 9964) and PEM (SubjectPublicKeyInfo, RFC 5280,
//! with the identifiers of RFC 3279, RFC 5480, RFC 8410, RFC 9881, RFC 9935 and RFC 9909).
//!
//! What is read is as the algorithm's own standard encodes it: `RSAPublicKey`, an uncompressed point, or plain bytes. That
//! it is a point of its curve, or a number of a key, is for those to check who have cryptography.

use serde::{Deserialize, de::IgnoredAny};
use spki::{
    AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned,
    der::{
        Any, Decode as _, DecodePem as _, Encode as _, Reader as _, SliceReader,
        asn1::{ObjectIdentifier, UintRef},
    },
};

use crate::{catalogue::Algorithm, encoding::from_base64url};

/// The most bytes of a public key as text.
pub const MAX_TEXT_BYTES: usize = 16 * 1024;

/// Why a text is not the public key that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no public key of {algorithm}: {detail}")]
pub struct InvalidPublicKey {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What is wrong, and what would do.
    pub detail: &'static str,
}

const SECRET: &str = "it holds a secret: send the public half only, and replace that key";

/// Reads a JWK or a PEM, and looks at the length of what it holds.
pub fn read(algorithm: Algorithm, text: &str) -> Result<Vec<u8>, InvalidPublicKey> {
    let text = text.trim();
    if text.len() > MAX_TEXT_BYTES {
        return Err(InvalidPublicKey { algorithm, detail: "it is longer than 16 KiB" });
    }
    let public_key = match text.starts_with('{') {
        true => ForeignJwk::parse(algorithm, text.as_bytes())?.bytes(algorithm)?,
        false => from_pem(algorithm, text)?,
    };
    if is_as_long_as_one(algorithm, &public_key) {
        Ok(public_key)
    } else {
        Err(InvalidPublicKey { algorithm, detail: "it has another length than public keys of the algorithm" })
    }
}

/// Whether a text is, or comes with, the private half of a key: then it is to be sent nowhere.
pub fn holds_secret(text: &str) -> bool {
    text.contains("PRIVATE KEY-----") || serde_json::from_str(text).is_ok_and(|jwk: ForeignJwk| jwk.holds_secret())
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
    pub fn parse(algorithm: Algorithm, json: &[u8]) -> Result<Self, InvalidPublicKey> {
        let detail = "it is not a JSON Web Key (RFC 7517): a JSON object with \"kty\", whose members are text";
        serde_json::from_slice(json).map_err(|_| InvalidPublicKey { algorithm, detail })
    }

    fn holds_secret(&self) -> bool {
        self.d || self.private || self.k
    }

    /// The key as the algorithm's standard encodes it.
    pub fn bytes(&self, algorithm: Algorithm) -> Result<Vec<u8>, InvalidPublicKey> {
        let entry = algorithm.entry();
        let invalid = |detail| InvalidPublicKey { algorithm, detail };
        if self.holds_secret() {
            return Err(invalid(SECRET));
        }
        if self.kty != entry.jose_kty || self.crv.as_deref() != entry.jose_crv {
            return Err(invalid("the JWK has another \"kty\" or \"crv\" than keys of the algorithm"));
        }
        // A key with an algorithm is for that one; `ECDH-ES` covers what it is combined with.
        let related = |alg: &str| Some(alg) == entry.jose_alg || (alg.starts_with("ECDH-ES") && entry.jose_alg == Some("ECDH-ES+A256KW"));
        if !self.alg.as_deref().is_none_or(|alg| related(alg) || alg == algorithm.name()) {
            return Err(invalid("the JWK is for another algorithm (\"alg\")"));
        }
        let missing = || invalid("the JWK lacks a member that its \"kty\" needs, or one is not base64url without padding");
        let bytes = |text: &Option<String>| text.as_ref().and_then(|text| from_base64url(text).ok()).ok_or_else(missing);
        match entry.jose_kty {
            "RSA" => rsa_public_key(&bytes(&self.n)?, &bytes(&self.e)?).ok_or_else(missing),
            "EC" => Ok([[4].as_slice(), &bytes(&self.x)?, &bytes(&self.y)?].concat()),
            "OKP" => bytes(&self.x),
            "AKP" => bytes(&self.public),
            _ => Err(invalid("the algorithm is symmetric: it has no public keys")),
        }
    }
}

/// Reads a PEM: `-----BEGIN PUBLIC KEY-----`. Not every algorithm has an object identifier for its keys yet: those have no
/// PEM form.
pub fn from_pem(algorithm: Algorithm, text: &str) -> Result<Vec<u8>, InvalidPublicKey> {
    let invalid = |detail| InvalidPublicKey { algorithm, detail };
    if holds_secret(text) {
        return Err(invalid(SECRET));
    }
    let wanted = identifier(algorithm).ok_or(invalid("its public keys have no PEM form yet: send a JWK"))?;
    let info = SubjectPublicKeyInfoOwned::from_pem(text.trim_start().as_bytes())
        .map_err(|_| invalid("it is neither a JWK nor a PEM of a SubjectPublicKeyInfo: -----BEGIN PUBLIC KEY-----"))?;
    if info.algorithm != wanted {
        return Err(invalid("the PEM holds a public key of another algorithm"));
    }
    let bytes = info.subject_public_key.as_bytes().ok_or(invalid("the PEM holds no whole bytes"))?;
    Ok(bytes.to_vec())
}

/// The algorithm identifier of public keys: RSA keys are `rsaEncryption`, whatever they are for, because more programs
/// read it than read the narrower ones.
pub fn identifier(algorithm: Algorithm) -> Option<AlgorithmIdentifierOwned> {
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

/// Whether a public key is as long as one of this algorithm, in the standard's encoding; of RSA the modulus is.
pub fn is_as_long_as_one(algorithm: Algorithm, public_key: &[u8]) -> bool {
    let length = match algorithm.name() {
        "RSA-OAEP-256-3072" | "RSA-PSS-3072" => return modulus_bits(public_key) == Some(3072),
        "RSA-OAEP-256-4096" | "RSA-PSS-4096" => return modulus_bits(public_key) == Some(4096),
        "ECDSA-P256" | "ECDH-ES-P256" => 65,
        "ECDSA-P384" | "ECDH-ES-P384" => 97,
        "X25519" | "Ed25519" | "HPKE-4-KE" | "HPKE-4" | "SLH-DSA-SHA2-128s" => 32,
        "SLH-DSA-SHA2-192s" => 48,
        "SLH-DSA-SHA2-256s" => 64,
        "HPKE-9-KE" | "HPKE-9" => 1216,
        "ML-KEM-768" => 1184,
        "ML-KEM-1024" => 1568,
        "ML-DSA-44" => 1312,
        "ML-DSA-65" => 1952,
        "ML-DSA-87" => 2592,
        _ => return false,
    };
    public_key.len() == length
}

fn modulus_bits(public_key: &[u8]) -> Option<usize> {
    let (modulus, _) = rsa_components(public_key)?;
    Some(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize)
}

/// Modulus and exponent of an `RSAPublicKey`, big-endian without leading zeros.
pub fn rsa_components(public_key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut reader = SliceReader::new(public_key).ok()?;
    let read = |reader: &mut SliceReader<'_>| -> spki::der::Result<(Vec<u8>, Vec<u8>)> {
        let modulus = UintRef::decode(reader)?.as_bytes().to_vec();
        Ok((modulus, UintRef::decode(reader)?.as_bytes().to_vec()))
    };
    let components = reader.sequence(read).ok()?;
    reader.finish().ok().map(|()| components)
}

/// The `RSAPublicKey` of modulus and exponent, big-endian.
fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Option<Vec<u8>> {
    vec![UintRef::new(modulus).ok()?, UintRef::new(exponent).ok()?].to_der().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn algorithm(name: &str) -> Algorithm {
        name.parse().unwrap()
    }

    #[test]
    fn a_key_is_read_as_what_it_is_and_as_nothing_else() {
        // RFC 8037, appendix A.2, and RFC 8410, section 10.1.
        let jwk = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"theirs","use":"sig"}"#;
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        for text in [jwk, pem, &format!("\n  {jwk}\n")] {
            let key = read(algorithm("Ed25519"), text).unwrap();
            assert_eq!(key.len(), 32);
            for other in Algorithm::all().filter(|other| other.name() != "Ed25519") {
                assert!(read(other, text).is_err(), "read as {other}: {text}");
            }
        }
    }

    #[test]
    fn secrets_and_nonsense_are_refused_and_not_repeated() {
        let secret = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9Wm"}"#;
        for (text, expected) in [
            (secret, "secret"),
            (r#"{"kty":"AKP","alg":"Ed25519","priv":"AA"}"#, "secret"),
            ("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----", "secret"),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----", "secret"),
            ("", "neither"),
            ("ssh-ed25519 AAAA", "neither"),
            ("{}", "JSON Web Key"),
            ("{\"kty\":1}", "JSON Web Key"),
            (r#"{"kty":"OKP","crv":"Ed25519"}"#, "lacks"),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"a+/="}"#, "lacks"),
            (r#"{"kty":"OKP","crv":"X25519","x":"AAAA"}"#, "another"),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#, "length"),
            (r#"{"kty":"OKP","crv":"Ed25519","alg":"ES256","x":"AAAA"}"#, "another algorithm"),
            (&"x".repeat(MAX_TEXT_BYTES + 1), "16 KiB"),
        ] {
            let error = read(algorithm("Ed25519"), text).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("nWGx"), "{text:?}: {error}");
            assert_eq!(holds_secret(text), expected == "secret", "{text:?}");
        }
    }

    #[test]
    fn rsa_keys_are_as_long_as_their_modulus() {
        let (modulus, exponent) = ([[0x80].as_slice(), &[1; 383]].concat(), [1, 0, 1]);
        let key = rsa_public_key(&modulus, &exponent).unwrap();
        assert_eq!(rsa_components(&key).unwrap(), (modulus, exponent.to_vec()));
        assert!(is_as_long_as_one(algorithm("RSA-PSS-3072"), &key) && !is_as_long_as_one(algorithm("RSA-PSS-4096"), &key));
        assert!(!is_as_long_as_one(algorithm("RSA-PSS-3072"), &rsa_public_key(&[1; 384], &exponent).unwrap()));
        assert!(!is_as_long_as_one(algorithm("RSA-PSS-3072"), b"junk"));
    }
}
