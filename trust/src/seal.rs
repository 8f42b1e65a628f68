//! Material sealed to a prekey: HPKE base mode (RFC 9180) with MLKEM768-X25519 (KEM 0x647a), SHAKE256 (KDF 0x0011) and
//! AES-256-GCM. Everything that its envelope says of a transfer is bound a second time here, so that sealed material taken
//! out of one envelope does not open in another.

use std::fmt;

use hpke::{
    Deserializable, OpModeR, OpModeS, Serializable,
    aead::AesGcm256,
    kdf::KdfShake256,
    kem::{Kem, XWing},
    rand_core::{TryCryptoRng, TryRng},
};
use schema::{clock::Ids, encoding::Digest};
use zeroize::Zeroizing;

use crate::document::{ContextKeyHead, TransferHead};

/// Bytes of the private half of a prekey.
pub const PREKEY_SECRET_BYTES: usize = 32;
/// Bytes of the public half.
pub const PREKEY_PUBLIC_BYTES: usize = 1216;

/// What an envelope says of what is sealed in it.
pub trait Head {
    /// The label of what is sealed: the `info` of HPKE, and of what is bound.
    const LABEL: &'static str;

    /// Everything the head says, as text, in an order that no change of its JSON touches.
    fn parts(&self) -> Vec<String>;
}

type SecretKey = <XWing as Kem>::PrivateKey;
type PublicKey = <XWing as Kem>::PublicKey;

/// The private half of a prekey. Does not print.
pub struct PrekeySecret {
    seed: Zeroizing<[u8; PREKEY_SECRET_BYTES]>,
    key: SecretKey,
}

impl fmt::Debug for PrekeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrekeySecret")
    }
}

/// Why material was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Those bytes are no such key.
    #[error("the bytes are no key of MLKEM768-X25519")]
    Key,
    /// The library failed.
    #[error("sealing failed")]
    Failed,
    /// It was sealed to another key, or for another purpose, or was changed.
    #[error("it was sealed to another key, or as something else, or was changed")]
    NotGenuine,
}

impl PrekeySecret {
    /// Makes a new one.
    pub fn generate(ids: &dyn Ids) -> Result<Self, SealError> {
        let mut seed = Zeroizing::new([0; PREKEY_SECRET_BYTES]);
        ids.fill(&mut *seed);
        Self::from_bytes(&*seed)
    }

    /// The one whose bytes these are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        let seed: [u8; PREKEY_SECRET_BYTES] = bytes.try_into().map_err(|_| SealError::Key)?;
        let seed = Zeroizing::new(seed);
        let key = SecretKey::from_bytes(&*seed).map_err(|_| SealError::Key)?;
        Ok(Self { seed, key })
    }

    /// Its bytes, to be stored sealed.
    pub fn to_bytes(&self) -> Zeroizing<[u8; PREKEY_SECRET_BYTES]> {
        self.seed.clone()
    }

    /// The public half.
    pub fn public_key(&self) -> Vec<u8> {
        XWing::sk_to_pk(&self.key).to_bytes().to_vec()
    }
}

/// Seals material to a prekey, as what its head says. Gives what HPKE encapsulated, and the ciphertext.
pub fn seal<H: Head>(head: &H, public_key: &[u8], material: &[u8], ids: &dyn Ids) -> Result<(Vec<u8>, Vec<u8>), SealError> {
    seal_for(H::LABEL, &bound(head), public_key, material, ids)
}

/// Opens what was sealed to a prekey as what its head says.
pub fn open<H: Head>(head: &H, secret: &PrekeySecret, encapsulated: &[u8], ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    open_for(H::LABEL, &bound(head), secret, encapsulated, ciphertext)
}

/// Seals something to a key, for one purpose (`label`) and bound to what stands beside it. Gives what HPKE encapsulated, and the
/// ciphertext.
pub fn seal_for(label: &str, bound: &Digest, public_key: &[u8], plaintext: &[u8], ids: &dyn Ids) -> Result<(Vec<u8>, Vec<u8>), SealError> {
    let public_key = PublicKey::from_bytes(public_key).map_err(|_| SealError::Key)?;
    let (mode, random) = (OpModeS::Base, &mut Random(ids));
    hpke::single_shot_seal_with_rng::<AesGcm256, KdfShake256, XWing>(&mode, &public_key, label.as_bytes(), plaintext, &bound.0, random)
        .map(|(encapsulated, ciphertext)| (encapsulated.to_bytes().to_vec(), ciphertext))
        .map_err(|_| SealError::Failed)
}

/// Opens what was sealed to a key for this purpose, beside this.
pub fn open_for(
    label: &str,
    bound: &Digest,
    secret: &PrekeySecret,
    encapsulated: &[u8],
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let encapsulated = <XWing as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| SealError::NotGenuine)?;
    let (mode, key) = (OpModeR::Base, &secret.key);
    hpke::single_shot_open::<AesGcm256, KdfShake256, XWing>(&mode, key, &encapsulated, label.as_bytes(), ciphertext, &bound.0)
        .map(Zeroizing::new)
        .map_err(|_| SealError::NotGenuine)
}

fn bound<H: Head>(head: &H) -> Digest {
    let parts = head.parts();
    Digest::labelled(H::LABEL, &parts.iter().map(String::as_bytes).collect::<Vec<_>>())
}

impl Head for TransferHead {
    const LABEL: &'static str = "freehold-transfer-v1";

    fn parts(&self) -> Vec<String> {
        let Self { tenant, site, recipient_site, version, algorithm, origin, fingerprint, sender, recipient, prekey, issued } = self;
        let mut parts = vec![
            tenant.to_string(),
            site.to_string(),
            version.to_string(),
            algorithm.to_string(),
            origin.to_string(),
            fingerprint.to_string(),
            sender.to_string(),
            recipient.to_string(),
            prekey.to_string(),
            issued.to_string(),
        ];
        // Within one site it is what it always was.
        parts.extend(recipient_site.map(|site| site.to_string()));
        parts
    }
}

impl Head for ContextKeyHead {
    const LABEL: &'static str = "freehold-context-key-v1";

    fn parts(&self) -> Vec<String> {
        let Self { tenant, site, month, id, made, sender, recipient, prekey, issued } = self;
        vec![
            tenant.to_string(),
            site.to_string(),
            month.to_string(),
            id.to_string(),
            made.to_string(),
            sender.to_string(),
            recipient.to_string(),
            prekey.to_string(),
            issued.to_string(),
        ]
    }
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

#[cfg(test)]
mod tests {
    use schema::{
        clock::{ManualIds, Timestamp},
        id::{AgentId, KeyId, KeyVersion, PrekeyId, SiteId, TenantId},
        key::Origin,
    };

    use super::*;

    fn head() -> TransferHead {
        TransferHead {
            tenant: TenantId::from_bits(1),
            site: SiteId::from_bits(2),
            recipient_site: None,
            version: KeyVersion::new(KeyId::from_bits(3), 4),
            algorithm: "A256KW+A256GCM".parse().unwrap(),
            origin: Origin::Generated,
            fingerprint: Digest([5; 32]),
            sender: AgentId::from_bits(6),
            recipient: AgentId::from_bits(7),
            prekey: PrekeyId::from_bits(8),
            issued: Timestamp::default(),
        }
    }

    #[test]
    fn what_is_sealed_opens_under_its_own_head_only() {
        let ids = ManualIds::seeded(1);
        let secret = PrekeySecret::generate(&ids).unwrap();
        let public_key = secret.public_key();
        assert_eq!(public_key.len(), PREKEY_PUBLIC_BYTES);
        let (encapsulated, ciphertext) = seal(&head(), &public_key, b"material", &ids).unwrap();
        let again = PrekeySecret::from_bytes(&*secret.to_bytes()).unwrap();
        assert_eq!(*open(&head(), &again, &encapsulated, &ciphertext).unwrap(), b"material");

        let changes: [fn(&mut TransferHead); 10] = [
            |head| head.tenant = TenantId::from_bits(9),
            |head| head.site = SiteId::from_bits(9),
            |head| head.version.number = 9,
            |head| head.algorithm = "ML-DSA-65".parse().unwrap(),
            |head| head.origin = Origin::Imported,
            |head| head.fingerprint = Digest([9; 32]),
            |head| head.sender = AgentId::from_bits(9),
            |head| head.recipient = AgentId::from_bits(9),
            |head| head.prekey = PrekeyId::from_bits(9),
            |head| head.issued = Timestamp::from_micros(9),
        ];
        for change in changes {
            let mut other = head();
            change(&mut other);
            assert_eq!(open(&other, &secret, &encapsulated, &ciphertext).err(), Some(SealError::NotGenuine), "{other:?}");
        }
        let stranger = PrekeySecret::generate(&ids).unwrap();
        assert_eq!(open(&head(), &stranger, &encapsulated, &ciphertext).err(), Some(SealError::NotGenuine));
        for (place, end) in [(0, true), (700, true), (0, false)] {
            let (mut encapsulated, mut ciphertext) = (encapsulated.clone(), ciphertext.clone());
            if end {
                encapsulated[place] ^= 1
            } else {
                ciphertext[place] ^= 1
            }
            assert_eq!(open(&head(), &secret, &encapsulated, &ciphertext).err(), Some(SealError::NotGenuine));
        }
        assert_eq!(open(&head(), &secret, &encapsulated[1..], &ciphertext).err(), Some(SealError::NotGenuine));
        assert_eq!(seal(&head(), &public_key[1..], b"material", &ids).err(), Some(SealError::Key));
    }

    #[test]
    fn a_secret_does_not_print() {
        let secret = PrekeySecret::generate(&ManualIds::seeded(1)).unwrap();
        assert_eq!(format!("{secret:?}"), "PrekeySecret");
    }
}
