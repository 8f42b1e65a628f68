//! HPKE base mode (RFC 9180) in JOSE: `HPKE-4` with X25519, HKDF-SHA256 and ChaCha20-Poly1305, and `HPKE-9` with
//! MLKEM768-X25519 (KEM 0x647a), SHAKE256 (KDF 0x0011) and AES-256-GCM; each around a content key (`-KE`) and on the
//! message itself, as draft-ietf-jose-hpke-encrypt and draft-ietf-jose-hpke-pq-pqt say.

use hpke::{
    Deserializable, OpModeR, OpModeS, Serializable,
    aead::{Aead, AesGcm256, ChaCha20Poly1305},
    kdf::{HkdfSha256, Kdf, KdfShake256},
    kem::{Kem, X25519HkdfSha256, XWing},
    rand_core::{TryCryptoRng, TryRng},
};
use schema::{
    catalogue::{Algorithm, Sealing},
    clock::Ids,
};

use super::{AlgorithmError, ContentEncryption, Implementation, LoadedKey, SealedContent, WrappedKey};
use crate::vault::secret::{ContentKey, SecretBytes};

/// The family.
#[derive(Debug)]
pub struct Hpke;

/// A KEM with what goes with it.
trait Suite: Send + Sync + 'static {
    type Aead: Aead;
    type Kdf: Kdf;
    type Kem: Kem<PrivateKey: Send + Sync>;
}

struct Classical;

impl Suite for Classical {
    type Aead = ChaCha20Poly1305;
    type Kdf = HkdfSha256;
    type Kem = X25519HkdfSha256;
}

struct Hybrid;

impl Suite for Hybrid {
    type Aead = AesGcm256;
    type Kdf = KdfShake256;
    type Kem = XWing;
}

struct Key<S: Suite> {
    algorithm: Algorithm,
    secret: <S::Kem as Kem>::PrivateKey,
    public_key: Vec<u8>,
}

impl Implementation for Hpke {
    fn generate(&self, _algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
        Ok(SecretBytes::random(32, ids))
    }

    fn load(&self, algorithm: Algorithm, secret: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
        match is_hybrid(algorithm) {
            true => Ok(Box::new(Key::<Hybrid>::new(algorithm, secret)?)),
            false => Ok(Box::new(Key::<Classical>::new(algorithm, secret)?)),
        }
    }

    fn check_public_key(&self, algorithm: Algorithm, public_key: &[u8]) -> Result<(), AlgorithmError> {
        match is_hybrid(algorithm) {
            true => read_public_key::<Hybrid>(algorithm, public_key).map(|_| ()),
            false => read_public_key::<Classical>(algorithm, public_key).map(|_| ()),
        }
    }

    fn seal_key(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        key: &ContentKey,
        content: ContentEncryption,
        ids: &dyn Ids,
    ) -> Result<WrappedKey, AlgorithmError> {
        only(algorithm, Sealing::ContentKey, "encrypt keys to a public key")?;
        let info = recipient_structure(content);
        let (encapsulated, encrypted_key) = seal(algorithm, public_key, &info, &[], key.expose(), ids)?;
        Ok(WrappedKey { encapsulated: Some(encapsulated), encrypted_key, ..WrappedKey::default() })
    }

    fn seal_content(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        associated: &[u8],
        plaintext: &[u8],
        ids: &dyn Ids,
    ) -> Result<SealedContent, AlgorithmError> {
        only(algorithm, Sealing::Direct, "encrypt content directly to a public key")?;
        let (encapsulated, ciphertext) = seal(algorithm, public_key, &[], associated, plaintext, ids)?;
        Ok(SealedContent { encapsulated: Some(encapsulated), ciphertext, ..SealedContent::default() })
    }

    fn self_test(&self, algorithm: Algorithm, _ids: &dyn Ids) -> Result<(), String> {
        known_answer(algorithm)
    }
}

impl<S: Suite> Key<S> {
    fn new(algorithm: Algorithm, secret: &SecretBytes) -> Result<Self, AlgorithmError> {
        let malformed = AlgorithmError::MalformedKey { algorithm, what: "secret key" };
        let secret = <S::Kem as Kem>::PrivateKey::from_bytes(secret.expose()).map_err(|_| malformed)?;
        let public_key = S::Kem::sk_to_pk(&secret).to_bytes().to_vec();
        Ok(Self { algorithm, secret, public_key })
    }

    fn open(&self, encapsulated: Option<&Vec<u8>>, info: &[u8], associated: &[u8], ciphertext: &[u8]) -> Option<SecretBytes> {
        let encapsulated = <S::Kem as Kem>::EncappedKey::from_bytes(encapsulated?).ok()?;
        let (mode, secret) = (OpModeR::Base, &self.secret);
        hpke::single_shot_open::<S::Aead, S::Kdf, S::Kem>(&mode, secret, &encapsulated, info, ciphertext, associated)
            .ok()
            .map(SecretBytes::new)
    }
}

impl<S: Suite> LoadedKey for Key<S> {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key(&self) -> Option<&[u8]> {
        Some(&self.public_key)
    }

    fn unwrap_key(&self, wrapped: &WrappedKey, content: ContentEncryption) -> Result<ContentKey, AlgorithmError> {
        only(self.algorithm, Sealing::ContentKey, "unwrap content keys")?;
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "opening a sealed key" };
        let info = recipient_structure(content);
        let key = self.open(wrapped.encapsulated.as_ref(), &info, &[], &wrapped.encrypted_key).ok_or(not_genuine.clone())?;
        ContentKey::from_slice(key.expose()).ok_or(not_genuine)
    }

    fn open_content(&self, associated: &[u8], sealed: &SealedContent) -> Result<SecretBytes, AlgorithmError> {
        only(self.algorithm, Sealing::Direct, "decrypt content directly")?;
        let not_genuine = AlgorithmError::NotGenuine { algorithm: self.algorithm, act: "decrypting" };
        if !sealed.nonce.is_empty() || !sealed.tag.is_empty() {
            return Err(not_genuine);
        }
        self.open(sealed.encapsulated.as_ref(), &[], associated, &sealed.ciphertext).ok_or(not_genuine)
    }
}

fn is_hybrid(algorithm: Algorithm) -> bool {
    algorithm.entry().quantum_category > 0
}

/// A key is for one mode of the two.
fn only(algorithm: Algorithm, sealing: Sealing, act: &'static str) -> Result<(), AlgorithmError> {
    if algorithm.entry().sealing == Some(sealing) { Ok(()) } else { Err(AlgorithmError::NotServed { algorithm, act }) }
}

fn read_public_key<S: Suite>(algorithm: Algorithm, public_key: &[u8]) -> Result<<S::Kem as Kem>::PublicKey, AlgorithmError> {
    let malformed = AlgorithmError::MalformedKey { algorithm, what: "public key" };
    <S::Kem as Kem>::PublicKey::from_bytes(public_key).map_err(|_| malformed)
}

/// What is encapsulated, and the ciphertext.
type Sealed = (Vec<u8>, Vec<u8>);

fn seal(
    algorithm: Algorithm,
    public_key: &[u8],
    info: &[u8],
    associated: &[u8],
    plaintext: &[u8],
    ids: &dyn Ids,
) -> Result<Sealed, AlgorithmError> {
    match is_hybrid(algorithm) {
        true => seal_with::<Hybrid>(algorithm, public_key, info, associated, plaintext, ids),
        false => seal_with::<Classical>(algorithm, public_key, info, associated, plaintext, ids),
    }
}

fn seal_with<S: Suite>(
    algorithm: Algorithm,
    public_key: &[u8],
    info: &[u8],
    associated: &[u8],
    plaintext: &[u8],
    ids: &dyn Ids,
) -> Result<Sealed, AlgorithmError> {
    let public_key = read_public_key::<S>(algorithm, public_key)?;
    let (mode, random) = (OpModeS::Base, &mut Random(ids));
    hpke::single_shot_seal_with_rng::<S::Aead, S::Kdf, S::Kem>(&mode, &public_key, info, plaintext, associated, random)
        .map(|(encapsulated, ciphertext)| (encapsulated.to_bytes().to_vec(), ciphertext))
        .map_err(|_| AlgorithmError::Failed { algorithm, act: "sealing" })
}

/// `Recipient_structure` of draft-ietf-jose-hpke-encrypt, section 6.1, without extra information: the HPKE `info`.
fn recipient_structure(content: ContentEncryption) -> Vec<u8> {
    [b"JOSE-HPKE rcpt\xff".as_slice(), content.name().as_bytes(), b"\xff"].concat()
}

/// [`Ids`] as the random source of libraries.
pub(crate) struct Random<'a>(pub(crate) &'a dyn Ids);

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

/// Opens the compact example of the algorithm's draft (appendix A): a wrapped content key, or the whole message.
fn known_answer(algorithm: Algorithm) -> Result<(), String> {
    let vector = match algorithm.name() {
        "HPKE-4-KE" => include_str!("vectors/hpke-4-ke.txt"),
        "HPKE-4" => include_str!("vectors/hpke-4.txt"),
        "HPKE-9-KE" => include_str!("vectors/hpke-9-ke.txt"),
        _ => include_str!("vectors/hpke-9.txt"),
    };
    let mut lines = vector.lines().filter(|line| !line.starts_with('#')).map(str::trim);
    let mut field = || lines.next().ok_or_else(|| "the vector file is incomplete".to_owned());
    let bytes = |text: &str| schema::encoding::from_base64url(text).map_err(|error| error.to_string());
    let key = Hpke.load(algorithm, &SecretBytes::new(bytes(field()?)?)).map_err(|error| error.to_string())?;
    let public_key_sha256 = bytes(field()?)?;
    let opened = if algorithm.entry().sealing == Some(Sealing::Direct) {
        let associated = field()?;
        let sealed = SealedContent { encapsulated: Some(bytes(field()?)?), ciphertext: bytes(field()?)?, ..SealedContent::default() };
        key.open_content(associated.as_bytes(), &sealed).map(|content| content.expose().to_vec())
    } else {
        let wrapped = WrappedKey { encapsulated: Some(bytes(field()?)?), encrypted_key: bytes(field()?)?, ..WrappedKey::default() };
        key.unwrap_key(&wrapped, ContentEncryption::A256Gcm).map(|key| key.expose().to_vec())
    };
    let opened = SecretBytes::new(opened.map_err(|error| error.to_string())?);
    let sha256 = |bytes: &[u8]| schema::encoding::Digest::of(bytes).0.to_vec();
    let agree = sha256(key.public_key().unwrap_or_default()) == public_key_sha256 && sha256(opened.expose()) == bytes(field()?)?;
    if agree { Ok(()) } else { Err("the draft's example: other bytes".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_9180_appendix_a_2_1() {
        let bytes = |text: &str| hex::decode(text).unwrap();
        let secret = SecretBytes::new(bytes("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb"));
        let key = Key::<Classical>::new("HPKE-4".parse().unwrap(), &secret).unwrap();
        assert_eq!(key.public_key, bytes("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a"));
        let encapsulated = bytes("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
        let ciphertext = bytes("1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28");
        let open = |info: &[u8], associated: &[u8]| key.open(Some(&encapsulated), info, associated, &ciphertext);
        assert_eq!(open(b"Ode on a Grecian Urn", b"Count-0").unwrap().expose(), b"Beauty is truth, truth beauty");
        assert!(open(b"Ode on a Grecian Urn", b"Count-1").is_none());
        assert!(open(b"", b"Count-0").is_none());
    }

    #[test]
    fn the_two_modes_of_a_draft_are_two_algorithms() {
        let ids = schema::clock::ManualIds::seeded(5);
        for (wrapping, direct) in [("HPKE-4-KE", "HPKE-4"), ("HPKE-9-KE", "HPKE-9")] {
            let (wrapping, direct): (Algorithm, Algorithm) = (wrapping.parse().unwrap(), direct.parse().unwrap());
            let key = Hpke.load(wrapping, &Hpke.generate(wrapping, &ids).unwrap()).unwrap();
            let public_key = key.public_key().unwrap();
            let sealed = Hpke.seal_content(direct, public_key, b"", b"plaintext", &ids).unwrap();
            assert!(matches!(key.open_content(b"", &sealed), Err(AlgorithmError::NotServed { .. })));
            assert!(matches!(Hpke.seal_content(wrapping, public_key, b"", b"x", &ids), Err(AlgorithmError::NotServed { .. })));
            let content = ContentKey::random(&ids);
            let refused = Hpke.seal_key(direct, public_key, &content, ContentEncryption::A256Gcm, &ids);
            assert!(matches!(refused, Err(AlgorithmError::NotServed { .. })));
        }
    }
}
