//! What an agent is, and how it decides.

use std::{collections::BTreeMap, time::Duration};

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    event::agent::{
        AgentEnrolled, AgentEvent, AgentInvited, AgentQuarantined, AgentResumed, AgentRevoked, AgentSuspended, AgentVouchSigned,
        AgentVouched, CertificateRenewed, InvitationCancelled, OutboxTaken,
    },
    id::{AgentId, SiteId},
    key::{RevocationReason, words},
    name::Text,
    rule::{Sighting, Vouch},
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use trust::{
    document::AgentVouch,
    signing::{Part, Signable, assemble_as},
};

use super::{AgentCommand, AgentRefusal, Enrol, SignVouch};
use crate::{
    bundles::stream::Verdict,
    eventing::aggregate::{Aggregate, Deciding, EventMeta, Index},
};

/// The shortest life of an invitation.
pub const MIN_INVITATION: Duration = Duration::from_secs(60);
/// The longest life of an invitation.
pub const MAX_INVITATION: Duration = Duration::from_secs(7 * 86_400);

words! {
    /// How far an agent is.
    AgentState {
        /// Its token was made. (Whether it is still good depends on the time.)
        Invited = "invited",
        /// Its invitation was taken back.
        Cancelled = "cancelled",
        /// It came; nobody has vouched for it.
        Enrolled = "enrolled",
        /// It came, and somebody vouched for it.
        Rostered = "rostered",
        /// It may do nothing until it is resumed.
        Suspended = "suspended",
        /// Two processes came with its identity: it is cut off for good.
        Quarantined = "quarantined",
        /// It is no longer an agent of the site.
        Revoked = "revoked",
    }
}

/// An agent; nothing in `fixed` means it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// What never changes.
    pub fixed: Option<Fixed>,
    /// What people call it.
    pub display_name: Option<Text>,
    /// How it may join.
    pub invitation: Option<Invitation>,
    /// How it joined.
    pub enrolment: Option<Enrolment>,
    /// Its present certificate.
    pub certificate: Option<Certificate>,
    /// Why its roster entry counts, in the order in which they came.
    pub vouches: Vec<Vouch>,
    /// What signers of the tenant signed of a vouch, by their key ids.
    #[serde(default)]
    pub signed: BTreeMap<Digest, Base64>,
    /// Since when its roster entry counts.
    pub rostered: Option<Timestamp>,
    /// What came of it as a file last.
    #[serde(default)]
    pub outbox: Option<TakenOutbox>,
    /// Since when it may do nothing.
    pub suspended: Option<Timestamp>,
    /// When it was last resumed: every earlier restriction is lifted.
    pub resumed: Option<Timestamp>,
    /// Who came with its identity, when that were two.
    #[serde(default)]
    pub quarantined: Option<Quarantined>,
    /// Why it is no longer an agent.
    pub revoked: Option<Revoked>,
}

/// Two processes with one identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Who was known.
    pub known: Sighting,
    /// Who else came.
    pub other: Sighting,
    /// When that was seen.
    pub at: Timestamp,
}

/// The last of its outboxes that was handed in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TakenOutbox {
    /// Its number.
    pub number: u64,
    /// SHA-256 of its payload.
    pub sha256: Digest,
    /// When it was first handed in.
    pub at: Timestamp,
}

/// What never changes about an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its id.
    pub id: AgentId,
    /// The site.
    pub site: SiteId,
    /// When it was invited.
    pub created: Timestamp,
}

/// How an agent may join.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invitation {
    /// SHA-256 of the token's text.
    pub token: Digest,
    /// SHA-256 of the tenant's root payload that the enrolment file names.
    pub root: Digest,
    /// The key id of the pair of the site's first agent; none for the first itself.
    pub founder: Option<Digest>,
    /// After this the token is worthless.
    pub expires: Timestamp,
    /// When it was taken back.
    pub cancelled: Option<Timestamp>,
}

/// How an agent joined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The key id of its pair.
    pub keyid: Digest,
    /// Ed25519 public key, 32 bytes.
    pub ed25519: Base64,
    /// ML-DSA-65 public key, 1952 bytes.
    pub ml_dsa_65: Base64,
    /// Its signed roster entry: a DSSE envelope, exact bytes.
    pub roster_entry: Base64,
    /// SHA-256 of the DER of the public key of its certificate.
    pub certificate_key: Digest,
    /// The host's name, for people.
    pub host: String,
    /// The version of the agent program then.
    pub agent_version: String,
    /// When.
    pub at: Timestamp,
}

/// A certificate of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its serial number, lower-case hexadecimal.
    pub serial: String,
    /// SHA-256 of the DER of the request it was made for.
    pub csr: Digest,
    /// When it ends.
    pub expires: Timestamp,
}

/// Why and when an agent was revoked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revoked {
    /// Why (RFC 5280).
    pub reason: RevocationReason,
    /// In words.
    pub comment: Option<Text>,
    /// When.
    pub at: Timestamp,
}

impl Agent {
    /// How far it is; none when it does not exist.
    pub fn state(&self) -> Option<AgentState> {
        self.fixed.as_ref()?;
        let cancelled = self.invitation.as_ref().is_some_and(|invitation| invitation.cancelled.is_some());
        Some(match () {
            () if self.revoked.is_some() => AgentState::Revoked,
            () if self.quarantined.is_some() => AgentState::Quarantined,
            () if self.suspended.is_some() => AgentState::Suspended,
            () if self.rostered.is_some() => AgentState::Rostered,
            () if self.enrolment.is_some() => AgentState::Enrolled,
            () if cancelled => AgentState::Cancelled,
            () => AgentState::Invited,
        })
    }

    /// Whether it may act for its site now: rostered, not suspended, not revoked.
    pub fn is_at_work(&self) -> bool {
        self.state() == Some(AgentState::Rostered)
    }

    /// Whether it can still become or be an agent of its site: neither revoked nor cut off.
    pub fn is_one(&self) -> bool {
        self.revoked.is_none() && self.quarantined.is_none()
    }

    fn enrol(&self, fixed: &Fixed, enrol: &Enrol, now: Timestamp) -> Result<Vec<AgentEvent>, AgentRefusal> {
        let invitation = self.invitation.as_ref().ok_or(AgentRefusal::NotFound)?;
        // The token first: who does not have it learns nothing else.
        if !bool::from(enrol.token.0.ct_eq(&invitation.token.0)) {
            return Err(AgentRefusal::TokenWrong);
        }
        match () {
            () if self.enrolment.is_some() => return Err(AgentRefusal::TokenUsed),
            () if invitation.cancelled.is_some() => return Err(AgentRefusal::InvitationCancelled),
            () if now >= invitation.expires => return Err(AgentRefusal::TokenExpired),
            () if enrol.agent != fixed.id => return Err(AgentRefusal::OtherAgent),
            () if enrol.site != fixed.site => return Err(AgentRefusal::OtherSite),
            () if enrol.root != invitation.root => return Err(AgentRefusal::OtherRoot),
            () if invitation.founder.is_none() && enrol.site_is_founded => return Err(AgentRefusal::FounderMissing),
            () => {}
        }
        let enrolled = AgentEnrolled {
            keyid: enrol.keyid,
            ed25519: enrol.ed25519.clone(),
            ml_dsa_65: enrol.ml_dsa_65.clone(),
            roster_entry: enrol.roster_entry.clone(),
            csr: enrol.csr,
            certificate_key: enrol.certificate_key,
            certificate_serial: enrol.certificate_serial.clone(),
            certificate_expires: enrol.certificate_expires,
            host: enrol.host.clone(),
            agent_version: enrol.agent_version.clone(),
        };
        let mut events = vec![enrolled.into()];
        if invitation.founder.is_none() {
            events.push(AgentVouched { vouch: Vouch::Enrolment }.into());
        }
        Ok(events)
    }

    fn vouch(&self, fixed: &Fixed, keyid: &Digest, vouch: &Vouch) -> Result<Vec<AgentEvent>, AgentRefusal> {
        let enrolment = self.enrolment.as_ref().ok_or(AgentRefusal::NotEnrolled)?;
        if *keyid != enrolment.keyid {
            return Err(AgentRefusal::OtherPair);
        }
        let by = |vouch: &Vouch| match vouch {
            Vouch::Enrolment => "enrolment".to_owned(),
            Vouch::Agent { agent, .. } => agent.to_string(),
            // Others may sign for the tenant by now.
            Vouch::Signers { vouch } => Digest::of(vouch.as_slice()).to_string(),
            Vouch::Previous { keyid, .. } => keyid.to_string(),
        };
        match vouch {
            Vouch::Enrolment => Err(AgentRefusal::EnrolmentVouch),
            Vouch::Agent { agent, .. } if *agent == fixed.id => Err(AgentRefusal::VouchesForItself),
            // Agents repeat their reports: a second vouch of the same voucher says nothing new.
            vouch if self.vouches.iter().any(|known| by(known) == by(vouch)) => Ok(Vec::new()),
            vouch => Ok(vec![AgentVouched { vouch: vouch.clone() }.into()]),
        }
    }

    fn sign_vouch(&self, sign: &SignVouch) -> Result<Vec<AgentEvent>, AgentRefusal> {
        let enrolment = self.enrolment.as_ref().ok_or(AgentRefusal::NotEnrolled)?;
        match sign.verdict {
            _ if sign.threshold == 0 => return Err(AgentRefusal::NoSigners),
            _ if sign.keyid != enrolment.keyid => return Err(AgentRefusal::OtherPair),
            Verdict::Stranger => return Err(AgentRefusal::NotASigner { keyid: sign.signer }),
            Verdict::NotGenuine => return Err(AgentRefusal::VouchNotGenuine { keyid: sign.signer }),
            Verdict::Genuine => {}
        }
        let mut signed = self.signed.clone();
        let mut events = Vec::new();
        if signed.insert(sign.signer, sign.signatures.clone()).is_none() {
            events.push(AgentVouchSigned { signer: sign.signer, signatures: sign.signatures.clone() }.into());
        }
        let counted = signed.into_iter().filter(|(keyid, _)| sign.counting.contains(keyid));
        let parts: Vec<Part> = counted.map(|(keyid, bytes)| Part { keyid, bytes: bytes.0 }).take(sign.threshold as usize).collect();
        if parts.len() == sign.threshold as usize {
            let envelope = assemble_as(Signable::document::<AgentVouch>(), sign.payload.clone(), &parts);
            let vouch = Vouch::Signers { vouch: envelope.to_bytes().into() };
            if !self.vouches.contains(&vouch) {
                events.push(AgentVouched { vouch }.into());
            }
        }
        Ok(events)
    }

    fn renew(&self, command: &AgentCommand) -> Result<Vec<AgentEvent>, AgentRefusal> {
        let enrolment = self.enrolment.as_ref().ok_or(AgentRefusal::NotEnrolled)?;
        let AgentCommand::RenewCertificate { csr, certificate_key, certificate_serial, certificate_expires } = command else {
            return Err(AgentRefusal::NotFound);
        };
        if self.quarantined.is_some() {
            return Err(AgentRefusal::Quarantined);
        }
        if self.suspended.is_some() {
            return Err(AgentRefusal::Suspended);
        }
        if *certificate_key != enrolment.certificate_key {
            return Err(AgentRefusal::OtherCertificateKey);
        }
        let (certificate_serial, certificate_expires) = (certificate_serial.clone(), *certificate_expires);
        Ok(vec![CertificateRenewed { csr: *csr, certificate_serial, certificate_expires }.into()])
    }
}

impl Agent {
    /// Never one from before the last; the last as often as somebody likes.
    fn take_outbox(&self, number: u64, sha256: Digest) -> Result<Vec<AgentEvent>, AgentRefusal> {
        match &self.outbox {
            _ if self.enrolment.is_none() => Err(AgentRefusal::NotEnrolled),
            _ if self.quarantined.is_some() => Err(AgentRefusal::Quarantined),
            Some(last) if number < last.number => Err(AgentRefusal::OutboxSuperseded { taken: last.number }),
            Some(last) if number == last.number && sha256 != last.sha256 => Err(AgentRefusal::OutboxNumberTaken { taken: last.number }),
            Some(last) if number == last.number => Ok(Vec::new()),
            _ => Ok(vec![OutboxTaken { number, sha256 }.into()]),
        }
    }
}

impl Aggregate for Agent {
    type Id = AgentId;
    type Command = AgentCommand;
    type Event = AgentEvent;
    type Refusal = AgentRefusal;
    const KIND: &'static str = "agent";

    fn decide(&self, command: &AgentCommand, deciding: &Deciding<'_>) -> Result<Vec<AgentEvent>, AgentRefusal> {
        let Some(fixed) = &self.fixed else {
            let AgentCommand::Invite { site, display_name, token, root, founder, lifetime_seconds } = command else {
                return Err(AgentRefusal::NotFound);
            };
            let lifetime = Duration::from_secs(*lifetime_seconds);
            if lifetime < MIN_INVITATION || lifetime > MAX_INVITATION {
                return Err(AgentRefusal::Lifetime);
            }
            let (display_name, founder, expires) = (display_name.clone(), *founder, deciding.now.plus(lifetime));
            return Ok(vec![AgentInvited { site: *site, display_name, token: *token, root: *root, founder, expires }.into()]);
        };
        if let AgentCommand::Enrol(enrol) = command
            && self.revoked.is_none()
        {
            return self.enrol(fixed, enrol, deciding.now);
        }
        match command {
            AgentCommand::Invite { .. } => Err(AgentRefusal::Exists),
            _ if self.revoked.is_some() => Err(AgentRefusal::Revoked),
            AgentCommand::Enrol(enrol) => self.enrol(fixed, enrol, deciding.now),
            AgentCommand::CancelInvitation => match self.state() {
                Some(AgentState::Invited) => Ok(vec![InvitationCancelled {}.into()]),
                Some(AgentState::Cancelled) => Err(AgentRefusal::InvitationCancelled),
                _ => Err(AgentRefusal::NotInvited),
            },
            AgentCommand::Vouch { keyid, vouch } => self.vouch(fixed, keyid, vouch),
            AgentCommand::SignVouch(sign) => self.sign_vouch(sign),
            AgentCommand::RenewCertificate { .. } => self.renew(command),
            AgentCommand::TakeOutbox { number, sha256 } => self.take_outbox(*number, *sha256),
            AgentCommand::Quarantine { .. } if self.enrolment.is_none() => Err(AgentRefusal::NotEnrolled),
            // Both go on coming; it is recorded once.
            AgentCommand::Quarantine { .. } if self.quarantined.is_some() => Ok(Vec::new()),
            AgentCommand::Quarantine { counter, known, other } => {
                Ok(vec![AgentQuarantined { counter: *counter, known: known.clone(), other: other.clone() }.into()])
            }
            AgentCommand::Suspend { .. } if self.enrolment.is_none() => Err(AgentRefusal::NotEnrolled),
            AgentCommand::Suspend { .. } if self.suspended.is_some() => Err(AgentRefusal::AlreadySuspended),
            AgentCommand::Suspend { reason } => Ok(vec![AgentSuspended { reason: reason.clone() }.into()]),
            AgentCommand::Resume { .. } if self.suspended.is_none() => Err(AgentRefusal::NotSuspended),
            AgentCommand::Resume { reason } => Ok(vec![AgentResumed { reason: reason.clone() }.into()]),
            AgentCommand::Revoke { reason: RevocationReason::CertificateHold, .. } => Err(AgentRefusal::Hold),
            AgentCommand::Revoke { reason, comment } => Ok(vec![AgentRevoked { reason: *reason, comment: comment.clone() }.into()]),
        }
    }

    fn evolve(&mut self, event: &AgentEvent, meta: &EventMeta) {
        match event {
            AgentEvent::AgentInvited(event) => {
                self.fixed = meta.stream.id().map(|id| Fixed { id, site: event.site, created: meta.time });
                self.display_name = event.display_name.clone();
                self.invitation = Some(Invitation {
                    token: event.token,
                    root: event.root,
                    founder: event.founder,
                    expires: event.expires,
                    cancelled: None,
                });
            }
            AgentEvent::InvitationCancelled(_) => {
                if let Some(invitation) = &mut self.invitation {
                    invitation.cancelled = Some(meta.time);
                }
            }
            AgentEvent::AgentEnrolled(event) => {
                self.enrolment = Some(Enrolment {
                    keyid: event.keyid,
                    ed25519: event.ed25519.clone(),
                    ml_dsa_65: event.ml_dsa_65.clone(),
                    roster_entry: event.roster_entry.clone(),
                    certificate_key: event.certificate_key,
                    host: event.host.clone(),
                    agent_version: event.agent_version.clone(),
                    at: meta.time,
                });
                self.certificate =
                    Some(Certificate { serial: event.certificate_serial.clone(), csr: event.csr, expires: event.certificate_expires });
            }
            AgentEvent::AgentVouched(event) => {
                self.vouches.push(event.vouch.clone());
                self.rostered.get_or_insert(meta.time);
            }
            AgentEvent::AgentVouchSigned(event) => drop(self.signed.insert(event.signer, event.signatures.clone())),
            AgentEvent::CertificateRenewed(event) => {
                self.certificate =
                    Some(Certificate { serial: event.certificate_serial.clone(), csr: event.csr, expires: event.certificate_expires });
            }
            AgentEvent::OutboxTaken(event) => {
                self.outbox = Some(TakenOutbox { number: event.number, sha256: event.sha256, at: meta.time });
            }
            AgentEvent::AgentSuspended(_) => self.suspended = Some(meta.time),
            AgentEvent::AgentResumed(_) => {
                self.suspended = None;
                self.resumed = Some(meta.time);
            }
            AgentEvent::AgentQuarantined(event) => {
                self.quarantined = Some(Quarantined { known: event.known.clone(), other: event.other.clone(), at: meta.time });
            }
            AgentEvent::AgentRevoked(event) => {
                self.revoked = Some(Revoked { reason: event.reason, comment: event.comment.clone(), at: meta.time });
            }
        }
    }

    /// The parent is the site; certificates are found by their serial number, pairs by their key id, invitations by the
    /// digest of their token.
    fn index(&self) -> Index {
        let site = self.fixed.as_ref().map(|fixed| fixed.site.to_string());
        let mut terms: Vec<_> = site.iter().map(|site| ("site".to_owned(), site.clone())).collect();
        terms.extend(self.certificate.iter().map(|certificate| ("certificate".to_owned(), certificate.serial.clone())));
        terms.extend(self.enrolment.iter().map(|enrolment| ("keyid".to_owned(), enrolment.keyid.to_string())));
        let state = self.state().map(|state| state.to_string());
        let handles = self.invitation.iter().map(|invitation| invitation.token).collect();
        Index { parent: site, state, terms, handles, ..Index::default() }
    }
}
