//! A pair: an Ed25519 (RFC 8032) and an ML-DSA-65 (FIPS 204) key that always sign together. Breaking one of them is not
//! enough: both signatures of a pair are required, everywhere.

use std::{collections::BTreeMap, fmt};

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use ml_dsa::{ExpandedSigningKey, MlDsa65};
use schema::{
    clock::Ids,
    encoding::{Base64, Digest},
};
use zeroize::Zeroizing;

use crate::statement::root;

/// Bytes of the two seeds together: Ed25519 first, then ML-DSA-65.
pub const SEEDS_BYTES: usize = 64;
/// Bytes of an Ed25519 public key.
pub const ED25519_BYTES: usize = 32;
/// Bytes of an ML-DSA-65 public key.
pub const ML_DSA_65_BYTES: usize = 1952;
/// Bytes of an Ed25519 signature.
pub const ED25519_SIGNATURE_BYTES: usize = 64;
/// Bytes of an ML-DSA-65 signature.
pub const ML_DSA_65_SIGNATURE_BYTES: usize = 3309;

/// The label of key ids.
const KEYID_LABEL: &str = "freehold-pair-v1";

/// Both private keys. Does not print; wiped on drop.
pub struct Pair {
    ed25519: SigningKey,
    ml_dsa_65: Box<ml_dsa::SigningKey<MlDsa65>>,
    public: PublicPair,
}

/// What a pair makes of one message.
pub struct PairSignature {
    /// Over the message as it is.
    pub ed25519: [u8; ED25519_SIGNATURE_BYTES],
    /// Over the message under a context.
    pub ml_dsa_65: Vec<u8>,
}

impl Pair {
    /// Makes a new pair.
    pub fn generate(ids: &dyn Ids) -> Self {
        let mut seeds = Zeroizing::new([0; SEEDS_BYTES]);
        ids.fill(&mut *seeds);
        Self::from_seeds(&seeds)
    }

    /// The pair of these seeds: 32 bytes of Ed25519, then 32 bytes of ML-DSA-65.
    pub fn from_seeds(seeds: &[u8; SEEDS_BYTES]) -> Self {
        let mut halves = [Zeroizing::new([0; 32]), Zeroizing::new([0; 32])];
        halves[0].copy_from_slice(&seeds[..32]);
        halves[1].copy_from_slice(&seeds[32..]);
        let ed25519 = SigningKey::from_bytes(&halves[0]);
        let seed = Zeroizing::new(ml_dsa::Seed::from(*halves[1]));
        let ml_dsa_65 = Box::new(ml_dsa::SigningKey::<MlDsa65>::from_seed(&seed));
        let public = PublicPair::of(ed25519.verifying_key(), ml_dsa::Keypair::verifying_key(&*ml_dsa_65).clone());
        Self { ed25519, ml_dsa_65, public }
    }

    /// The seeds, to be stored sealed.
    pub fn to_seeds(&self) -> Zeroizing<[u8; SEEDS_BYTES]> {
        let mut seeds = Zeroizing::new([0; SEEDS_BYTES]);
        seeds[..32].copy_from_slice(self.ed25519.as_bytes());
        seeds[32..].copy_from_slice(self.ml_dsa_65.as_seed());
        seeds
    }

    /// The public half.
    pub fn public(&self) -> &PublicPair {
        &self.public
    }

    /// The key id.
    pub fn keyid(&self) -> Digest {
        self.public.keyid
    }

    /// Signs a message with both keys: Ed25519 over the message, ML-DSA-65 over it under the context (at most 255
    /// bytes). Deterministic (FIPS 204, algorithm 2, the optional variant): the same statement is the same bytes.
    #[allow(clippy::expect_used, reason = "contexts are constants of this crate, all shorter than 255 bytes")]
    pub fn sign(&self, context: &'static str, message: &[u8]) -> PairSignature {
        let expanded: &ExpandedSigningKey<MlDsa65> = self.ml_dsa_65.expanded_key();
        let ml_dsa_65 = expanded.sign_deterministic(message, context.as_bytes()).expect("a context is at most 255 bytes");
        PairSignature { ed25519: self.ed25519.sign(message).to_bytes(), ml_dsa_65: ml_dsa_65.encode().to_vec() }
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({})", self.public.keyid)
    }
}

/// The ML-DSA-65 key of a pair by itself, where another place has the Ed25519 key. Does not print; wiped on drop.
pub struct PostQuantumHalf(Box<ml_dsa::SigningKey<MlDsa65>>);

impl PostQuantumHalf {
    /// Makes a new one.
    pub fn generate(ids: &dyn Ids) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        ids.fill(&mut *seed);
        Self::of(&seed)
    }

    /// The one of this seed; none when it is not 32 bytes.
    pub fn from_seed(seed: &[u8]) -> Option<Self> {
        <[u8; 32]>::try_from(seed).ok().map(|seed| Self::of(&Zeroizing::new(seed)))
    }

    fn of(seed: &Zeroizing<[u8; 32]>) -> Self {
        let seed = Zeroizing::new(ml_dsa::Seed::from(**seed));
        Self(Box::new(ml_dsa::SigningKey::<MlDsa65>::from_seed(&seed)))
    }

    /// Its seed, to be stored sealed.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(self.0.as_seed());
        seed
    }

    /// Its public key.
    pub fn public_key(&self) -> Vec<u8> {
        ml_dsa::Keypair::verifying_key(&*self.0).encode().to_vec()
    }

    /// Signs as a [`Pair`] does.
    #[allow(clippy::expect_used, reason = "contexts are constants of this crate, all shorter than 255 bytes")]
    pub fn sign(&self, context: &'static str, message: &[u8]) -> Vec<u8> {
        let expanded: &ExpandedSigningKey<MlDsa65> = self.0.expanded_key();
        expanded.sign_deterministic(message, context.as_bytes()).expect("a context is at most 255 bytes").encode().to_vec()
    }
}

impl fmt::Debug for PostQuantumHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostQuantumHalf(hidden)")
    }
}

/// Both public keys of a pair, checked.
#[derive(Clone)]
pub struct PublicPair {
    keyid: Digest,
    ed25519: VerifyingKey,
    ml_dsa_65: Box<ml_dsa::VerifyingKey<MlDsa65>>,
    ml_dsa_65_bytes: Box<[u8]>,
}

/// The bytes are not the public keys of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPair {
    /// Not an Ed25519 key.
    #[error("the Ed25519 public key is not 32 bytes that name a point of full order")]
    Ed25519,
    /// Not an ML-DSA-65 key.
    #[error("the ML-DSA-65 public key is not 1952 bytes")]
    MlDsa65,
}

impl PublicPair {
    fn of(ed25519: VerifyingKey, ml_dsa_65: ml_dsa::VerifyingKey<MlDsa65>) -> Self {
        let bytes: Box<[u8]> = ml_dsa_65.encode().to_vec().into();
        Self {
            keyid: Digest::labelled(KEYID_LABEL, &[ed25519.as_bytes(), &bytes]),
            ed25519,
            ml_dsa_65: Box::new(ml_dsa_65),
            ml_dsa_65_bytes: bytes,
        }
    }

    /// Reads both keys. Ed25519 keys of small order are refused: they would verify what nobody signed.
    pub fn parse(ed25519: &[u8], ml_dsa_65: &[u8]) -> Result<Self, InvalidPair> {
        let ed25519: &[u8; ED25519_BYTES] = ed25519.try_into().map_err(|_| InvalidPair::Ed25519)?;
        let ed25519 = VerifyingKey::from_bytes(ed25519).ok().filter(|key| !key.is_weak()).ok_or(InvalidPair::Ed25519)?;
        let encoded = ml_dsa::EncodedVerifyingKey::<MlDsa65>::try_from(ml_dsa_65).map_err(|_| InvalidPair::MlDsa65)?;
        Ok(Self::of(ed25519, ml_dsa::VerifyingKey::decode(&encoded)))
    }

    /// Reads the keys of a signer named in root.
    pub fn from_signer(signer: &root::Signer) -> Result<Self, InvalidPair> {
        Self::parse(signer.ed25519.as_slice(), signer.ml_dsa_65.as_slice())
    }

    /// As root names it.
    pub fn to_signer(&self, tenant_held: bool) -> root::Signer {
        root::Signer { ed25519: Base64::from(*self.ed25519()), ml_dsa_65: Base64::from(self.ml_dsa_65()), tenant_held }
    }

    /// SHA-256 over a label and both keys, each with its length.
    pub fn keyid(&self) -> Digest {
        self.keyid
    }

    /// The Ed25519 public key.
    pub fn ed25519(&self) -> &[u8; ED25519_BYTES] {
        self.ed25519.as_bytes()
    }

    /// The ML-DSA-65 public key.
    pub fn ml_dsa_65(&self) -> &[u8] {
        &self.ml_dsa_65_bytes
    }

    /// Whether both signatures are of this message, the second under this context.
    pub fn verify(&self, context: &'static str, message: &[u8], ed25519: &[u8], ml_dsa_65: &[u8]) -> bool {
        let Ok(ed25519) = ed25519_dalek::Signature::from_slice(ed25519) else { return false };
        let Ok(ml_dsa_65) = ml_dsa::Signature::<MlDsa65>::try_from(ml_dsa_65) else { return false };
        self.ed25519.verify_strict(message, &ed25519).is_ok() && self.ml_dsa_65.verify_with_context(message, context.as_bytes(), &ml_dsa_65)
    }
}

impl PartialEq for PublicPair {
    fn eq(&self, other: &Self) -> bool {
        self.keyid == other.keyid
    }
}

impl Eq for PublicPair {}

impl fmt::Debug for PublicPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicPair({})", self.keyid)
    }
}

/// Pairs that may sign something. No two of them share a key, so that each counts for itself.
#[derive(Debug, Clone, Default)]
pub struct Signers(BTreeMap<Digest, PublicPair>);

/// Two pairs have a key in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pairs {0} and {1} share a key")]
pub struct SharedKey(pub Digest, pub Digest);

impl Signers {
    /// Of one pair.
    pub fn one(pair: PublicPair) -> Self {
        Self(BTreeMap::from([(pair.keyid, pair)]))
    }

    /// Of these pairs; the same pair named twice is one.
    pub fn new(pairs: impl IntoIterator<Item = PublicPair>) -> Result<Self, SharedKey> {
        let mut signers = BTreeMap::<Digest, PublicPair>::new();
        for pair in pairs {
            let shares = |other: &&PublicPair| {
                other.keyid != pair.keyid && (other.ed25519() == pair.ed25519() || other.ml_dsa_65() == pair.ml_dsa_65())
            };
            if let Some(other) = signers.values().find(shares) {
                return Err(SharedKey(other.keyid, pair.keyid));
            }
            signers.insert(pair.keyid, pair);
        }
        Ok(Self(signers))
    }

    /// The pair of this key id.
    pub fn find(&self, keyid: &Digest) -> Option<&PublicPair> {
        self.0.get(keyid)
    }

    /// How many pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody may sign.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every pair, by key id.
    pub fn iter(&self) -> impl Iterator<Item = &PublicPair> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use schema::clock::ManualIds;

    use super::*;

    #[test]
    fn a_pair_survives_its_seeds_and_does_not_print() {
        let pair = Pair::generate(&ManualIds::seeded(1));
        let again = Pair::from_seeds(&pair.to_seeds());
        assert_eq!(pair.public(), again.public());
        assert_eq!(format!("{pair:?}"), format!("Pair({})", pair.keyid()));
        let read = PublicPair::parse(pair.public().ed25519(), pair.public().ml_dsa_65()).unwrap();
        assert_eq!(read.keyid(), pair.keyid());
    }

    #[test]
    fn both_signatures_and_the_context_are_needed() {
        let pair = Pair::generate(&ManualIds::seeded(1));
        let other = Pair::generate(&ManualIds::seeded(2));
        let signature = pair.sign("freehold/test/v1", b"message");
        let theirs = other.sign("freehold/test/v1", b"message");
        let verify = |context, message: &[u8], a: &[u8], b: &[u8]| pair.public().verify(context, message, a, b);
        assert!(verify("freehold/test/v1", b"message", &signature.ed25519, &signature.ml_dsa_65));
        assert!(!verify("freehold/other/v1", b"message", &signature.ed25519, &signature.ml_dsa_65));
        assert!(!verify("freehold/test/v1", b"massage", &signature.ed25519, &signature.ml_dsa_65));
        assert!(!verify("freehold/test/v1", b"message", &theirs.ed25519, &signature.ml_dsa_65));
        assert!(!verify("freehold/test/v1", b"message", &signature.ed25519, &theirs.ml_dsa_65));
        assert!(!verify("freehold/test/v1", b"message", &signature.ed25519, &[]));
        assert!(!verify("freehold/test/v1", b"message", &[], &signature.ml_dsa_65));
    }

    #[test]
    fn weak_and_short_keys_are_refused() {
        let pair = Pair::generate(&ManualIds::seeded(1));
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicPair::parse(&identity, pair.public().ml_dsa_65()), Err(InvalidPair::Ed25519));
        assert_eq!(PublicPair::parse(&pair.public().ed25519()[1..], pair.public().ml_dsa_65()), Err(InvalidPair::Ed25519));
        assert_eq!(PublicPair::parse(pair.public().ed25519(), &pair.public().ml_dsa_65()[1..]), Err(InvalidPair::MlDsa65));
    }

    #[test]
    fn pairs_that_share_a_key_cannot_stand_together() {
        let (a, b) = (Pair::generate(&ManualIds::seeded(1)), Pair::generate(&ManualIds::seeded(2)));
        let mixed = PublicPair::parse(a.public().ed25519(), b.public().ml_dsa_65()).unwrap();
        assert!(Signers::new([a.public().clone(), b.public().clone(), a.public().clone()]).is_ok_and(|signers| signers.len() == 2));
        assert!(Signers::new([a.public().clone(), mixed.clone()]).is_err());
        assert!(Signers::new([mixed, b.public().clone()]).is_err());
    }
}
