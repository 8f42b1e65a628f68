//! `HPKE-9-KE`: a content key sealed to MLKEM768-X25519 (KEM 0x647a) with SHAKE256 (KDF 0x0011) and AES-256-GCM
//! (AEAD 0x0002), as draft-ietf-jose-hpke-pq-pqt-01 and the key encryption mode of draft-ietf-jose-hpke-encrypt say.

use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable,
    aead::AesGcm256,
    kdf::KdfShake256,
    kem::XWing,
    rand_core::{TryCryptoRng, TryRng},
};
use schema::{catalogue::Algorithm, clock::Ids};
use zeroize::Zeroize;

use super::{AlgorithmError, ContentEncryption, Implementation, LoadedKey, WrappedKey};
use crate::vault::secret::{ContentKey, SecretBytes};

/// The revision of the draft that is implemented; stands in the protected header of what is sealed.
pub const DRAFT: &str = "draft-ietf-jose-hpke-pq-pqt-01";

const ENCAPSULATED_BYTES: usize = 1120;
const ENCRYPTED_KEY_BYTES: usize = 48;

/// The family.
#[derive(Debug)]
pub struct Hpke;

struct Key {
    algorithm: Algorithm,
    secret: <XWing as hpke::Kem>::PrivateKey,
    public_key: Vec<u8>,
}

impl Implementation for Hpke {
    fn generate(&self, _algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        Ok(SecretBytes::random(32, ids))
    }

    fn load(&self, algorithm: Algorithm, seed: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        let secret = <XWing as hpke::Kem>::PrivateKey::from_bytes(seed.expose())
            .map_err(|_| AlgorithmError::MalformedKey { algorithm, what: "secret key" })?;
        let public_key = XWing::sk_to_pk(&secret).to_bytes().to_vec();
        Ok(Box::new(Key { algorithm, secret, public_key }))
    }

    fn seal_key(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        key: &ContentKey,
        content: ContentEncryption,
        ids: &dyn Ids,
    ) -> Result<WrappedKey, AlgorithmError> {
        let public_key = <XWing as hpke::Kem>::PublicKey::from_bytes(public_key)
            .map_err(|_| AlgorithmError::MalformedKey { algorithm, what: "public key" })?;
        let (encapsulated, encrypted_key) = hpke::single_shot_seal_with_rng::<AesGcm256, KdfShake256, XWing>(
            &OpModeS::Base,
            &public_key,
            &recipient_structure(content),
            key.expose(),
            &[],
            &mut Random(ids),
        )
        .map_err(|_| AlgorithmError::Failed { algorithm, act: "sealing a key" })?;
        Ok(WrappedKey { encapsulated: Some(encapsulated.to_bytes().to_vec()), encrypted_key, ..WrappedKey::default() })
    }

    fn self_test(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
        known_answer(algorithm)?;
        let key = self.load(algorithm, &SecretBytes::random(32, ids)).map_err(|error| error.to_string())?;
        super::pairwise(key.as_ref(), ids).map_err(|error| error.to_string())
    }
}

impl LoadedKey for Key {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key(&self) -> Option<&[u8]> {
        Some(&self.public_key)
    }

    fn unwrap_key(&self, wrapped: &WrappedKey, content: ContentEncryption) -> Result<ContentKey, AlgorithmError> {
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "opening a sealed key" };
        let Some(encapsulated) = wrapped.encapsulated.as_ref().filter(|bytes| bytes.len() == ENCAPSULATED_BYTES) else {
            return Err(not_genuine);
        };
        if wrapped.encrypted_key.len() != ENCRYPTED_KEY_BYTES {
            return Err(not_genuine);
        }
        let encapsulated = <XWing as hpke::Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| not_genuine.clone())?;
        let mut key = hpke::single_shot_open::<AesGcm256, KdfShake256, XWing>(
            &OpModeR::Base,
            &self.secret,
            &encapsulated,
            &recipient_structure(content),
            &wrapped.encrypted_key,
            &[],
        )
        .map_err(|_| not_genuine.clone())?;
        let content = ContentKey::from_slice(&key).ok_or(not_genuine);
        key.zeroize();
        content
    }
}

/// `Recipient_structure` of draft-ietf-jose-hpke-encrypt, section 6.1, without extra information: the HPKE `info`.
fn recipient_structure(content: ContentEncryption) -> Vec<u8> {
    [b"JOSE-HPKE rcpt\xff".as_slice(), content.name().as_bytes(), b"\xff"].concat()
}

/// [`Ids`] as the random source of the HPKE library.
struct Random<'a>(&'a dyn Ids);

impl TryRng for Random<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes(schema::clock::random(self.0)))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes(schema::clock::random(self.0)))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Random<'_> {}

/// Opens the wrapped key of the compact example of draft-ietf-jose-hpke-pq-pqt-01, appendix A, HPKE-9-KE.
fn known_answer(algorithm: Algorithm) -> Result<(), String> {
    let vector = include_str!("vectors/hpke-9-ke.txt");
    let mut fields = vector.lines().filter(|line| !line.starts_with('#')).map(|line| schema::encoding::from_base64url(line.trim()));
    let mut field = || fields.next().and_then(Result::ok).ok_or_else(|| "the vector file is incomplete".to_owned());
    let seed = SecretBytes::new(field()?);
    let public_key_sha256 = field()?;
    let wrapped = WrappedKey { encapsulated: Some(field()?), encrypted_key: field()?, ..WrappedKey::default() };
    let content_key_sha256 = field()?;
    let key = Hpke.load(algorithm, &seed).map_err(|error| error.to_string())?;
    let opened = key.unwrap_key(&wrapped, ContentEncryption::A256Gcm).map_err(|error| error.to_string())?;
    let sha256 = |bytes: &[u8]| schema::encoding::Digest::of(bytes).0.to_vec();
    let agree = sha256(key.public_key().unwrap_or_default()) == public_key_sha256 && sha256(opened.expose()) == content_key_sha256;
    if agree { Ok(()) } else { Err("draft-ietf-jose-hpke-pq-pqt-01, appendix A: other bytes".to_owned()) }
}
