//! How several people who are not in one place sign one statement: each signs the exact payload bytes and hands in its part;
//! whoever gathers the parts can neither make one nor pass one off for other bytes.
//!
//! Also what a signer must be sure of before it signs: which roots hold, and who signs what under the newest of them.

use std::{collections::BTreeMap, convert::Infallible};

use schema::encoding::{Base64, Digest};

use crate::{
    accept::{
        Rejection,
        read::Read,
        roots::{Chain, Roles},
    },
    document::Document,
    dsse::{Envelope, Signature, pre_authentication_encoding},
    json,
    pair::{ED25519_SIGNATURE_BYTES, ML_DSA_65_SIGNATURE_BYTES, Pair, PairSignature, PublicPair, Signers},
    statement::{Head, Kind, Statement, policy::Policy, root::Root},
};

/// Bytes of one pair's part: its Ed25519 signature, then its ML-DSA-65 signature.
pub const PART_BYTES: usize = ED25519_SIGNATURE_BYTES + ML_DSA_65_SIGNATURE_BYTES;

/// What may be signed in parts: its DSSE payload type and its ML-DSA context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signable {
    media_type: &'static str,
    context: &'static str,
}

impl Signable {
    /// A kind of statement.
    pub const fn of(kind: Kind) -> Self {
        Self { media_type: kind.media_type(), context: kind.context() }
    }

    /// A kind of document.
    pub const fn document<D: Document>() -> Self {
        Self { media_type: D::MEDIA_TYPE, context: D::CONTEXT }
    }
}

/// What one pair adds to a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The key id of the pair.
    pub keyid: Digest,
    /// Both signatures, [`PART_BYTES`] long.
    pub bytes: Vec<u8>,
}

impl Part {
    /// Signs the payload of a statement.
    pub fn sign(kind: Kind, payload: &[u8], pair: &Pair) -> Self {
        match Self::sign_with(Signable::of(kind), payload, pair.keyid(), |context, message| {
            Ok::<_, Infallible>(pair.sign(context, message))
        }) {
            Ok(part) => part,
            Err(never) => match never {},
        }
    }

    /// The same, by whoever has the pair: a device may say no.
    pub fn sign_with<E>(
        what: Signable,
        payload: &[u8],
        keyid: Digest,
        sign: impl FnOnce(&'static str, &[u8]) -> Result<PairSignature, E>,
    ) -> Result<Self, E> {
        let signature = sign(what.context, &pre_authentication_encoding(what.media_type, payload))?;
        Ok(Self { keyid, bytes: [signature.ed25519.as_slice(), &signature.ml_dsa_65].concat() })
    }

    /// Whether this pair signed these bytes, as this kind.
    pub fn is_genuine(&self, kind: Kind, payload: &[u8], pair: &PublicPair) -> bool {
        self.is_genuine_as(Signable::of(kind), payload, pair)
    }

    /// Whether this pair signed these bytes, as this.
    pub fn is_genuine_as(&self, what: Signable, payload: &[u8], pair: &PublicPair) -> bool {
        let message = pre_authentication_encoding(what.media_type, payload);
        self.bytes.len() == PART_BYTES && pair.keyid() == self.keyid && {
            let (ed25519, ml_dsa_65) = self.bytes.split_at(ED25519_SIGNATURE_BYTES);
            pair.verify(what.context, &message, ed25519, ml_dsa_65)
        }
    }
}

/// The envelope that these parts make of a payload. Parts that are too short are left out: they prove nothing.
pub fn assemble(kind: Kind, payload: Vec<u8>, parts: &[Part]) -> Envelope {
    assemble_as(Signable::of(kind), payload, parts)
}

/// The same, of whatever is signed.
pub fn assemble_as(what: Signable, payload: Vec<u8>, parts: &[Part]) -> Envelope {
    let halves = |part: &Part| {
        let (ed25519, ml_dsa_65) = part.bytes.split_at_checked(ED25519_SIGNATURE_BYTES)?;
        Some([ed25519, ml_dsa_65].map(|bytes| Signature { keyid: Some(part.keyid), bytes: bytes.to_vec() }))
    };
    Envelope { payload_type: what.media_type.to_owned(), payload, signatures: parts.iter().filter_map(halves).flatten().collect() }
}

/// Reads the payload of a statement that nobody has signed yet.
pub fn read_payload<S: Statement>(payload: &[u8]) -> Result<S, UnreadablePayload> {
    let statement: S = json::strict(payload).map_err(UnreadablePayload::Json)?;
    let head: &Head = statement.head();
    if head.format != S::KIND.media_type() {
        return Err(UnreadablePayload::Format { expected: S::KIND.media_type(), found: head.format.clone() });
    }
    if let Some(word) = head.requires.iter().find(|word| !S::UNDERSTOOD.contains(&word.as_str())) {
        return Err(UnreadablePayload::Requires(word.clone()));
    }
    // What has members that this program does not know would be signed unseen: agents may know them.
    let known = serde_json::to_vec(&statement).map_err(UnreadablePayload::Json)?;
    if known != payload {
        return Err(UnreadablePayload::NotCanonical);
    }
    Ok(statement)
}

/// Why a payload cannot be shown, and so not be signed.
#[derive(Debug, thiserror::Error)]
pub enum UnreadablePayload {
    /// Not JSON, or not of this kind, or with a member that stands twice.
    #[error("it is not a statement of this kind")]
    Json(#[source] serde_json::Error),
    /// Another format.
    #[error("it says that it is {found} and not {expected}")]
    Format {
        /// What was expected.
        expected: &'static str,
        /// What it says.
        found: String,
    },
    /// It must be understood, and is not.
    #[error("it requires {0:?}, which this program does not understand: use a newer one")]
    Requires(String),
    /// Read and written again, it is other bytes: something in it would be signed without having been shown.
    #[error("it has something in it that this program does not know, and so could not show: use a newer one")]
    NotCanonical,
}

/// Who signs what, under one root.
#[derive(Debug, Clone)]
pub struct Authority {
    root: Root,
    sha256: Digest,
    roles: Roles,
}

/// Who signs one kind.
#[derive(Debug, Clone, Copy)]
pub struct RoleView<'a> {
    /// The pairs.
    pub signers: &'a Signers,
    /// How many of them must.
    pub threshold: u32,
    /// Whether the tenant, and nobody else, holds them.
    pub tenant_held: bool,
}

impl Authority {
    /// What a root says, whoever signed it. For what is yet to be signed, or was verified before.
    pub fn of(payload: &[u8]) -> Result<Self, Rejection> {
        let root: Root = json::strict(payload)
            .map_err(|error| Rejection::Unreadable { kind: Kind::Root, source: crate::dsse::EnvelopeError::Payload(error) })?;
        Ok(Self { roles: Roles::of(&root)?, sha256: Digest::of(payload), root })
    }

    /// The newest of these roots, when they follow from the pinned one without a gap, each signed by a threshold of the one
    /// before and of its own.
    pub fn verified(envelopes: &[Base64], pinned: Digest) -> Result<Self, Rejection> {
        let roots = envelopes.iter().map(Read::new).collect::<Result<Vec<Read<Root>>, _>>()?;
        let chain = Chain::build(Vec::new(), roots, pinned)?;
        chain.gaps()?;
        let last = chain.roots.last().ok_or(Rejection::RootNotPinned { pinned })?;
        Ok(Self { root: last.payload.clone(), sha256: last.sha256, roles: chain.roles })
    }

    /// The root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// SHA-256 of its payload: what agents pin.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    /// Who signs a kind.
    pub fn role(&self, kind: Kind) -> Result<RoleView<'_>, Rejection> {
        let role = self.roles.role(kind)?;
        Ok(RoleView { signers: &role.signers, threshold: role.threshold, tenant_held: role.tenant_held })
    }

    /// Whether the tenant holds the pairs of a kind itself.
    pub fn is_tenant_held(&self, kind: Kind) -> bool {
        self.roles.role(kind).is_ok_and(|role| role.tenant_held)
    }

    /// The policy in an envelope, when enough of those signed it who may now.
    pub fn policy(&self, envelope: &[u8]) -> Result<Policy, Rejection> {
        let read: Read<Policy> = Read::new(&Base64::from(envelope))?;
        self.roles.verify(&read)?;
        Ok(read.payload)
    }
}

/// Whose parts a statement needs, and whose it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// How many.
    pub threshold: u32,
    /// Whose count: the key ids, in order.
    pub signers: Vec<Digest>,
    /// Those that signed.
    pub signed: Vec<Digest>,
}

impl Need {
    /// Of a role, with these genuine parts.
    pub fn of(role: RoleView<'_>, parts: &BTreeMap<Digest, Part>) -> Self {
        let signers: Vec<Digest> = role.signers.iter().map(PublicPair::keyid).collect();
        let signed = signers.iter().filter(|keyid| parts.contains_key(*keyid)).copied().collect();
        Self { threshold: role.threshold, signers, signed }
    }

    /// Whether nobody is missing.
    pub fn is_met(&self) -> bool {
        self.signed.len() >= self.threshold.max(1) as usize
    }
}
