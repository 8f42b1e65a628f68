//! Who is sent material and whose material is taken: by what the accepted set says, and by nothing that the one who carries
//! it says. Pure; the agent's policy makes a permit of [`may_send`].

use schema::{
    catalogue::Algorithm,
    clock::Timestamp,
    encoding::Digest,
    id::{AgentId, KeyId, KeyVersion, PrekeyId, SiteId},
    key::{Origin, VersionState},
};
use zeroize::Zeroizing;

use crate::{
    accept::AcceptedSet,
    document::{self, ContextKeyHead, ContextKeyTransfer, Document, Month, Prekey, Transfer, TransferHead},
    dsse::{self, EnvelopeError},
    pair::{Pair, PublicPair},
    seal::{self, PrekeySecret, SealError},
    statement::state::Subject,
};

/// Bytes of a context key.
pub const CONTEXT_KEY_BYTES: usize = 32;

/// Why material is not sent or not taken. [`MovementRefusal::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum MovementRefusal {
    /// Not a document of its kind, or not signed by whom it names.
    #[error("it is not signed by the agent it names")]
    NotGenuine(#[source] EnvelopeError),
    /// The other agent is none of the site nor of a neighbour, or nobody has vouched for it.
    #[error("{0} is no agent of this site, or of one that shares a key with it, that is believed")]
    NotBelieved(AgentId),
    /// The other agent is suspended or revoked.
    #[error("{0} is suspended or revoked")]
    HeldBack(AgentId),
    /// An agent does not send to itself.
    #[error("{0} is this agent itself")]
    Myself(AgentId),
    /// It names another tenant or site.
    #[error("it is of another tenant or site")]
    OtherSite,
    /// Policy places the key at one of the two sites only: its material stays where it is.
    #[error("policy does not place the key of {version} at {site}: its material stays where it is")]
    NotPlacedThere {
        /// The version.
        version: KeyVersion,
        /// The other agent's site.
        site: SiteId,
    },
    /// It is for somebody else.
    #[error("it is for {0}")]
    OtherRecipient(AgentId),
    /// The prekey is none of this agent, or was erased.
    #[error("it is sealed to the prekey {0}, which this agent does not have, or no longer has")]
    PrekeyUnknown(PrekeyId),
    /// The prekey has ended.
    #[error("the prekey {id} was good until {not_after}")]
    PrekeyEnded {
        /// Which.
        id: PrekeyId,
        /// Its last moment.
        not_after: Timestamp,
    },
    /// The site knows no such version, or nobody has made it.
    #[error("this site knows of no material of {0}")]
    NotMade(KeyVersion),
    /// The version has come to its end, or something holds it back.
    #[error("{version} is {state}: it does not move")]
    DoesNotMove {
        /// The version.
        version: KeyVersion,
        /// How it is treated here.
        state: VersionState,
    },
    /// The holder has said that it has it.
    #[error("{holder} has reported {version} ready")]
    AlreadyThere {
        /// The version.
        version: KeyVersion,
        /// Who.
        holder: AgentId,
    },
    /// Another algorithm or origin than the key's.
    #[error("it is said to be of {algorithm}, {origin}, which the key is not")]
    OtherKind {
        /// As it was said.
        algorithm: Algorithm,
        /// As it was said.
        origin: Origin,
    },
    /// Other material than the version's record says.
    #[error("it is other material of {version} than its record says")]
    OtherMaterial {
        /// The version.
        version: KeyVersion,
        /// The fingerprint of the record.
        held: Digest,
        /// That of the material.
        found: Digest,
    },
    /// A context key of a month that is neither this one nor about to begin.
    #[error("it is the context key of {0}, which is not the month that is or begins")]
    OtherMonth(Month),
    /// A context key that is not the one it is said to be.
    #[error("it is another context key of {0} than the one it is said to be")]
    OtherContextKey(Month),
    /// It does not open.
    #[error("it does not open under the prekey it names")]
    DoesNotOpen(#[source] SealError),
}

impl MovementRefusal {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotGenuine(_) => "transfer_not_genuine",
            Self::NotBelieved(_) => "transfer_agent_not_believed",
            Self::HeldBack(_) => "transfer_agent_held_back",
            Self::Myself(_) => "transfer_to_itself",
            Self::OtherSite => "transfer_of_another_site",
            Self::NotPlacedThere { .. } => "transfer_not_placed_there",
            Self::OtherRecipient(_) => "transfer_for_another_agent",
            Self::PrekeyUnknown(_) => "prekey_unknown",
            Self::PrekeyEnded { .. } => "prekey_ended",
            Self::NotMade(_) => "transfer_version_not_made",
            Self::DoesNotMove { .. } => "transfer_version_does_not_move",
            Self::AlreadyThere { .. } => "transfer_already_there",
            Self::OtherKind { .. } => "transfer_of_another_kind",
            Self::OtherMaterial { .. } => "transfer_of_other_material",
            Self::OtherMonth(_) => "context_key_of_another_month",
            Self::OtherContextKey(_) => "context_key_not_genuine",
            Self::DoesNotOpen(_) => "transfer_does_not_open",
        }
    }
}

/// What a set says of the material of one version that moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movable {
    /// Its one algorithm.
    pub algorithm: Algorithm,
    /// Where it was made.
    pub origin: Origin,
    /// Identifies the material.
    pub fingerprint: Digest,
}

/// Material that came and is what it should be, as far as its envelope and its seal tell. Whoever takes it compares the
/// fingerprint of the material itself ([`Received::check`]).
pub struct Received {
    /// What it is, and from whom.
    pub head: TransferHead,
    /// The secret as the algorithm keeps it.
    pub material: Zeroizing<Vec<u8>>,
}

impl Received {
    /// Whether material of this fingerprint is what the version's record says.
    pub fn check(&self, found: Digest) -> Result<(), MovementRefusal> {
        let TransferHead { version, fingerprint: held, .. } = self.head;
        if found == held { Ok(()) } else { Err(MovementRefusal::OtherMaterial { version, held, found }) }
    }
}

/// A prekey with its private half, as its owner keeps it.
#[derive(Debug)]
pub struct OwnPrekey {
    /// Which.
    pub id: PrekeyId,
    /// Its last moment.
    pub not_after: Timestamp,
    /// The private half.
    pub secret: PrekeySecret,
}

/// Whether the material of a version exists and may move between the vaults of the site: made, not destroyed, not held back.
pub fn movable(set: &AcceptedSet, version: KeyVersion) -> Result<Movable, MovementRefusal> {
    let not_made = MovementRefusal::NotMade(version);
    let Some((definition, key)) = set.key(version.key) else { return Err(not_made) };
    let here = definition.placement.contains(&set.identity().site) && !definition.is_external();
    let was_made = key.versions.get(&version.number).is_some_and(|entry| here && entry.record.is_some());
    // The record was judged when the set was accepted, and its fingerprint is final.
    let fingerprint = set.fingerprint(version).filter(|_| was_made);
    let (Some(fingerprint), Some(state)) = (fingerprint, set.version_state(version)) else { return Err(not_made) };
    if matches!(state, VersionState::Suspended | VersionState::Destroyed) || set.destruction_confirmed(version) {
        return Err(MovementRefusal::DoesNotMove { version, state });
    }
    Ok(Movable { algorithm: definition.algorithm, origin: definition.origin, fingerprint })
}

/// The versions that an agent should have and has not reported ready: of every key that is placed here, and at its site too when it
/// is of another one.
pub fn lacking(set: &AcceptedSet, agent: AgentId) -> Vec<KeyVersion> {
    let elsewhere = set.neighbours().get(&agent).map(|(site, _)| *site);
    let shared = |key: KeyId| elsewhere.is_none_or(|site| is_placed(set, key, site));
    let versions = set.state().keys.iter().filter(|(key, _)| shared(**key)).flat_map(|(key, state)| {
        let missing = state.versions.iter().filter(move |(_, entry)| !entry.ready.contains_key(&agent));
        missing.map(|(number, _)| KeyVersion::new(*key, *number))
    });
    versions.filter(|version| movable(set, *version).is_ok()).collect()
}

/// The other agents of the site that may be sent material: believed, and neither suspended nor revoked.
pub fn recipients(set: &AcceptedSet) -> Vec<AgentId> {
    set.agents().keys().copied().filter(|agent| believed(set, *agent).is_ok()).collect()
}

/// The agents of other sites that may be sent material of keys that are placed there too.
pub fn recipients_elsewhere(set: &AcceptedSet) -> Vec<AgentId> {
    set.neighbours().keys().copied().filter(|agent| peer(set, *agent).is_ok()).collect()
}

/// Whether this agent may send a version to another one, by what it believes itself.
pub fn may_send(set: &AcceptedSet, version: KeyVersion, prekey: &Prekey, now: Timestamp) -> Result<Movable, MovementRefusal> {
    let (site, _) = peer(set, prekey.agent)?;
    if prekey.not_after < now {
        return Err(MovementRefusal::PrekeyEnded { id: prekey.id, not_after: prekey.not_after });
    }
    if prekey.site != site {
        return Err(MovementRefusal::OtherSite);
    }
    let movable = movable(set, version)?;
    // Where a key is placed is where its material may be: that is asked of policy here, whatever the one who carries it says.
    if !is_placed(set, version.key, site) {
        return Err(MovementRefusal::NotPlacedThere { version, site });
    }
    let ready = set.key(version.key).and_then(|(_, key)| key.versions.get(&version.number)?.ready.get(&prekey.agent));
    if ready.is_some() {
        return Err(MovementRefusal::AlreadyThere { version, holder: prekey.agent });
    }
    Ok(movable)
}

/// Reads a prekey, whoever carried it: it counts when the pair signed it that this agent believes to be its owner's.
pub fn accept_prekey(set: &AcceptedSet, bytes: &[u8], now: Timestamp) -> Result<Prekey, MovementRefusal> {
    let claimed: Prekey = dsse::peek_document(bytes).map_err(MovementRefusal::NotGenuine)?;
    let (site, pair) = peer(set, claimed.agent)?;
    let prekey: Prekey = signed_by(bytes, pair)?;
    if (prekey.tenant, prekey.site) != (set.identity().tenant, site) {
        return Err(MovementRefusal::OtherSite);
    }
    if prekey.not_after < now {
        return Err(MovementRefusal::PrekeyEnded { id: prekey.id, not_after: prekey.not_after });
    }
    Ok(prekey)
}

/// Seals material to a prekey, as the sender's signed transfer.
pub fn seal_transfer(
    set: &AcceptedSet,
    (version, movable): (KeyVersion, Movable),
    prekey: &Prekey,
    material: &[u8],
    (pair, ids, now): (&Pair, &dyn schema::clock::Ids, Timestamp),
) -> Result<Vec<u8>, SealError> {
    let identity = set.identity();
    let head = TransferHead {
        tenant: identity.tenant,
        site: identity.site,
        recipient_site: Some(prekey.site).filter(|site| *site != identity.site),
        version,
        algorithm: movable.algorithm,
        origin: movable.origin,
        fingerprint: movable.fingerprint,
        sender: identity.agent,
        recipient: prekey.agent,
        prekey: prekey.id,
        issued: now,
    };
    let (encapsulated, ciphertext) = seal::seal(&head, prekey.public_key.as_slice(), material, ids)?;
    let transfer = Transfer { head, encapsulated: encapsulated.into(), ciphertext: ciphertext.into() };
    Ok(dsse::sign_document(&transfer, &[pair]))
}

/// Judges a transfer and opens it. In this order: who signed it and whether that agent is believed, the tenant and both sites, for
/// whom it is, what it is, whether policy places it at both, whether it is the material of the record, and whether it opens under a live prekey.
pub fn accept_transfer<'a>(
    set: &AcceptedSet,
    bytes: &[u8],
    own: impl IntoIterator<Item = &'a OwnPrekey>,
    now: Timestamp,
) -> Result<Received, MovementRefusal> {
    let claimed: Transfer = dsse::peek_document(bytes).map_err(MovementRefusal::NotGenuine)?;
    let (site, pair) = peer(set, claimed.head.sender)?;
    let Transfer { head, encapsulated, ciphertext } = signed_by(bytes, pair)?;
    let identity = set.identity();
    if (head.tenant, head.site, head.destination()) != (identity.tenant, site, identity.site) {
        return Err(MovementRefusal::OtherSite);
    }
    if head.recipient != identity.agent {
        return Err(MovementRefusal::OtherRecipient(head.recipient));
    }
    let movable = movable(set, head.version)?;
    if !is_placed(set, head.version.key, site) {
        return Err(MovementRefusal::NotPlacedThere { version: head.version, site });
    }
    if (head.algorithm, head.origin) != (movable.algorithm, movable.origin) {
        return Err(MovementRefusal::OtherKind { algorithm: head.algorithm, origin: head.origin });
    }
    if head.fingerprint != movable.fingerprint {
        let (version, held, found) = (head.version, movable.fingerprint, head.fingerprint);
        return Err(MovementRefusal::OtherMaterial { version, held, found });
    }
    let prekey = own_prekey(own, head.prekey, now)?;
    let material = seal::open(&head, &prekey.secret, encapsulated.as_slice(), ciphertext.as_slice());
    Ok(Received { material: material.map_err(MovementRefusal::DoesNotOpen)?, head })
}

/// Seals the context key of a month to a prekey, as the sender's signed document.
pub fn seal_context_key(
    set: &AcceptedSet,
    (month, made, secret): (&Month, Timestamp, &[u8]),
    prekey: &Prekey,
    (pair, ids, now): (&Pair, &dyn schema::clock::Ids, Timestamp),
) -> Result<Vec<u8>, SealError> {
    let identity = set.identity();
    let head = ContextKeyHead {
        tenant: identity.tenant,
        site: identity.site,
        month: month.clone(),
        id: ContextKeyHead::identify(identity.tenant, identity.site, month, secret),
        made,
        sender: identity.agent,
        recipient: prekey.agent,
        prekey: prekey.id,
        issued: now,
    };
    let (encapsulated, ciphertext) = seal::seal(&head, prekey.public_key.as_slice(), secret, ids)?;
    let transfer = ContextKeyTransfer { head, encapsulated: encapsulated.into(), ciphertext: ciphertext.into() };
    Ok(dsse::sign_document(&transfer, &[pair]))
}

/// Judges a context key that was sent and opens it: who signed it and whether that agent is believed, the tenant and site, for
/// whom it is, whether it is of one of these months, whether it opens under a live prekey, and whether it is what it is said to be.
pub fn accept_context_key<'a>(
    set: &AcceptedSet,
    bytes: &[u8],
    months: &[Month],
    own: impl IntoIterator<Item = &'a OwnPrekey>,
    now: Timestamp,
) -> Result<(ContextKeyHead, Zeroizing<Vec<u8>>), MovementRefusal> {
    let claimed: ContextKeyTransfer = dsse::peek_document(bytes).map_err(MovementRefusal::NotGenuine)?;
    let ContextKeyTransfer { head, encapsulated, ciphertext } = signed_by(bytes, believed(set, claimed.head.sender)?)?;
    let identity = set.identity();
    if (head.tenant, head.site) != (identity.tenant, identity.site) {
        return Err(MovementRefusal::OtherSite);
    }
    if head.recipient != identity.agent {
        return Err(MovementRefusal::OtherRecipient(head.recipient));
    }
    if !months.contains(&head.month) {
        return Err(MovementRefusal::OtherMonth(head.month));
    }
    let prekey = own_prekey(own, head.prekey, now)?;
    let secret = seal::open(&head, &prekey.secret, encapsulated.as_slice(), ciphertext.as_slice()).map_err(MovementRefusal::DoesNotOpen)?;
    if secret.len() != CONTEXT_KEY_BYTES || ContextKeyHead::identify(head.tenant, head.site, &head.month, &secret) != head.id {
        return Err(MovementRefusal::OtherContextKey(head.month));
    }
    Ok((head, secret))
}

/// The prekey of this agent with this id, while it is good.
fn own_prekey<'a>(own: impl IntoIterator<Item = &'a OwnPrekey>, id: PrekeyId, now: Timestamp) -> Result<&'a OwnPrekey, MovementRefusal> {
    let prekey = own.into_iter().find(|prekey| prekey.id == id).ok_or(MovementRefusal::PrekeyUnknown(id))?;
    if prekey.not_after < now {
        return Err(MovementRefusal::PrekeyEnded { id: prekey.id, not_after: prekey.not_after });
    }
    Ok(prekey)
}

/// Whether policy places a key at a site.
fn is_placed(set: &AcceptedSet, key: KeyId, site: SiteId) -> bool {
    set.keys().get(&key).is_some_and(|definition| definition.placement.contains(&site))
}

/// The site and the current pair of another agent, of this site or of a neighbour, that is believed and that nothing holds back.
fn peer(set: &AcceptedSet, agent: AgentId) -> Result<(SiteId, &PublicPair), MovementRefusal> {
    let Some((site, pair)) = set.neighbours().get(&agent) else { return Ok((set.identity().site, believed(set, agent)?)) };
    let held = [Subject::Agent(agent), Subject::Site(*site)].into_iter().any(|subject| set.held(subject).is_some());
    if held { Err(MovementRefusal::HeldBack(agent)) } else { Ok((*site, pair)) }
}

/// The current pair of another agent of this site that is believed and that nothing holds back.
fn believed(set: &AcceptedSet, agent: AgentId) -> Result<&PublicPair, MovementRefusal> {
    if agent == set.identity().agent {
        return Err(MovementRefusal::Myself(agent));
    }
    let pair = set.agents().get(&agent).ok_or(MovementRefusal::NotBelieved(agent))?;
    if set.held(Subject::Agent(agent)).is_some() { Err(MovementRefusal::HeldBack(agent)) } else { Ok(pair) }
}

fn signed_by<D: Document>(bytes: &[u8], pair: &PublicPair) -> Result<D, MovementRefusal> {
    Ok(document::open::<D>(bytes, pair).map_err(MovementRefusal::NotGenuine)?.payload)
}
