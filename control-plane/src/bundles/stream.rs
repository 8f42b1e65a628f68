//! The statements of one kind for one scope, as a stream of events: what was published, and what waits for the tenant's
//! signers. Two replicas that sign or propose the same serial at once collide here: one of them is refused and starts over.

use std::collections::BTreeMap;

use schema::{
    clock::Timestamp,
    encoding::Digest,
    event::statement::{ProposalWithdrawn, StatementEvent, StatementKind, StatementProposed, StatementPublished, StatementSigned},
    id::StatementStreamId,
    name::Text,
};
use serde::{Deserialize, Serialize};

use crate::{
    eventing::{
        aggregate::{Aggregate, Deciding, EventMeta, Index},
        refusals,
    },
    sealing::TenantKeys,
};

/// What was published; all zero while nothing was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatementStream {
    /// The epoch of the last one.
    pub epoch: u64,
    /// The serial of the last one.
    pub serial: u64,
    /// SHA-256 of the payload of the last one.
    pub sha256: Option<Digest>,
    /// SHA-256 of the envelopes that are still served: of roots every one, of others the last.
    pub envelopes: Vec<Digest>,
    /// Which kind; as text it is what listings filter by.
    pub kind: Option<StatementKind>,
    /// What waits for signatures.
    pub pending: Option<Pending>,
}

/// What waits for signatures of the tenant's own signers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Its epoch.
    pub epoch: u64,
    /// Its serial.
    pub serial: u64,
    /// The serial of the root whose signers are to sign it.
    pub root_serial: u64,
    /// SHA-256 of its payload, by which the payload is kept.
    pub sha256: Digest,
    /// Since when it waits.
    pub since: Timestamp,
    /// What waited here before.
    pub supersedes: Option<Digest>,
    /// Who signed, and under which SHA-256 both signatures are kept.
    pub signed: BTreeMap<Digest, Digest>,
}

/// What is to wait for signatures.
#[derive(Debug, Clone, Serialize)]
pub struct Proposal {
    /// Its kind.
    pub kind: StatementKind,
    /// What it is for: the id of a tenant, project or site, as text.
    pub scope: String,
    /// Its epoch.
    pub epoch: u64,
    /// Its serial.
    pub serial: u64,
    /// The serial of the root whose signers are to sign it.
    pub root_serial: u64,
    /// SHA-256 of its payload.
    pub sha256: Digest,
}

/// What was found about a signature that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// It is a signer's, over these bytes.
    Genuine,
    /// Its pair may not sign this.
    #[default]
    Stranger,
    /// Its pair may sign this, and did not sign these bytes.
    NotGenuine,
}

/// What may be asked of a stream of statements.
#[derive(Debug, Clone, Serialize)]
pub enum StatementCommand {
    /// Record one that was signed, before anybody is served it.
    Publish {
        /// Its kind.
        kind: StatementKind,
        /// What it is for: the id of a tenant, project or site, as text.
        scope: String,
        /// Its epoch.
        epoch: u64,
        /// Its serial.
        serial: u64,
        /// SHA-256 of its payload.
        sha256: Digest,
        /// SHA-256 of its envelope.
        envelope_sha256: Digest,
    },
    /// Record one again that agents hold and nobody here knows any more: numbers in between were lost.
    TakeBack {
        /// Its kind.
        kind: StatementKind,
        /// What it is for: the id of a tenant, project or site, as text.
        scope: String,
        /// Its epoch.
        epoch: u64,
        /// Its serial.
        serial: u64,
        /// SHA-256 of its payload.
        sha256: Digest,
        /// SHA-256 of its envelope.
        envelope_sha256: Digest,
    },
    /// Let one wait for signatures; what waits here already need not be signed any more.
    Propose(Proposal),
    /// The same, of a root with fresh pairs, which a retry does not know: the answer to it is that to the first.
    ProposePairs {
        /// What is to wait.
        #[serde(skip)]
        proposal: Proposal,
    },
    /// Add a signer's signatures to what waits.
    Sign {
        /// SHA-256 of the payload that was signed.
        sha256: Digest,
        /// The key id of the signer's pair.
        keyid: Digest,
        /// SHA-256 of both signatures.
        signatures_sha256: Digest,
        /// What was found about them.
        #[serde(skip)]
        verdict: Verdict,
    },
    /// Let nothing wait any more.
    Withdraw {
        /// SHA-256 of the payload that waits.
        sha256: Digest,
        /// Why.
        reason: Option<Text>,
    },
}

refusals! {
    /// Why a statement is not recorded.
    StatementRefusal {
        NotNext { serial: u64, expected: u64 } = "statement_not_next", "statement {serial} does not follow: the next one is {expected}";
        OlderEpoch { epoch: u64, present: u64 } = "statement_of_older_epoch", "epoch {epoch} is over; the present one is {present}";
        RootUnsound { detail: String } = "root_unsound", "no root may say this: {detail}";
        PairsMissing { serial: u64 } = "pairs_missing", "the pairs that root {serial} names are not here, so that it cannot sign the next one: restore a backup from after they were made";
        Behind = "recovery_needed", "agents know newer statements than this control plane, which was restored from an older backup: recover first (freehold recovery status)";
        NotHandedOver = "root_not_handed_over", "the control plane signs root and policy already: there is nothing to give back";
        NothingWaits = "proposal_not_found" at "sha256", "nothing waits for signatures here: it was published or withdrawn in the meantime";
        Superseded { present: Digest } = "proposal_superseded" at "sha256", "a newer change took the place of this one: look at {present} and sign that";
        Stranger { keyid: Digest } = "signer_not_in_role" at "keyid", "the pair {keyid} is none of those who may sign this";
        NotGenuine { keyid: Digest } = "signature_not_genuine" at "signature", "these are not signatures of {keyid} over the statement that waits";
        AlreadySigned { keyid: Digest } = "statement_already_signed" at "keyid", "the pair {keyid} has signed this already";
    }
}

/// The id of the stream of a kind for a scope (the id of a tenant, project or site, as text).
pub fn stream_id(keys: &TenantKeys, kind: StatementKind, scope: &str) -> StatementStreamId {
    keys.derived_id("statements", &[kind.as_str(), scope])
}

impl StatementStream {
    /// What is next, in this epoch or a later one.
    fn follows(&self, epoch: u64, serial: u64) -> Result<(), StatementRefusal> {
        if epoch < self.epoch {
            return Err(StatementRefusal::OlderEpoch { epoch, present: self.epoch });
        }
        if serial != self.serial + 1 {
            return Err(StatementRefusal::NotNext { serial, expected: self.serial + 1 });
        }
        Ok(())
    }

    fn waiting(&self, sha256: Digest) -> Result<&Pending, StatementRefusal> {
        match &self.pending {
            None => Err(StatementRefusal::NothingWaits),
            Some(pending) if pending.sha256 != sha256 => Err(StatementRefusal::Superseded { present: pending.sha256 }),
            Some(pending) => Ok(pending),
        }
    }
}

impl Aggregate for StatementStream {
    type Id = StatementStreamId;
    type Command = StatementCommand;
    type Event = StatementEvent;
    type Refusal = StatementRefusal;
    const KIND: &'static str = "statements";

    fn decide(&self, command: &StatementCommand, _: &Deciding<'_>) -> Result<Vec<StatementEvent>, StatementRefusal> {
        match command.clone() {
            StatementCommand::Publish { kind, scope, epoch, serial, sha256, envelope_sha256 } => {
                self.follows(epoch, serial)?;
                Ok(vec![StatementPublished { kind, scope, epoch, serial, sha256, envelope_sha256 }.into()])
            }
            StatementCommand::TakeBack { kind, scope, epoch, serial, sha256, envelope_sha256 } => {
                if epoch < self.epoch {
                    return Err(StatementRefusal::OlderEpoch { epoch, present: self.epoch });
                }
                let is_new = serial > self.serial;
                let event = StatementPublished { kind, scope, epoch, serial, sha256, envelope_sha256 };
                Ok(is_new.then(|| event.into()).into_iter().collect())
            }
            StatementCommand::Propose(proposal) | StatementCommand::ProposePairs { proposal } => {
                let Proposal { kind, scope, epoch, serial, root_serial, sha256 } = proposal;
                self.follows(epoch, serial)?;
                let waits = self.pending.as_ref().map(|pending| pending.sha256);
                if waits == Some(sha256) {
                    return Ok(Vec::new());
                }
                Ok(vec![StatementProposed { kind, scope, epoch, serial, root_serial, sha256, supersedes: waits }.into()])
            }
            StatementCommand::Sign { sha256, keyid, signatures_sha256, verdict } => {
                let pending = self.waiting(sha256)?;
                match verdict {
                    Verdict::Stranger => Err(StatementRefusal::Stranger { keyid }),
                    Verdict::NotGenuine => Err(StatementRefusal::NotGenuine { keyid }),
                    Verdict::Genuine if pending.signed.contains_key(&keyid) => Err(StatementRefusal::AlreadySigned { keyid }),
                    Verdict::Genuine => Ok(vec![StatementSigned { sha256, keyid, signatures_sha256 }.into()]),
                }
            }
            StatementCommand::Withdraw { sha256, reason } => {
                self.waiting(sha256)?;
                Ok(vec![ProposalWithdrawn { sha256, reason }.into()])
            }
        }
    }

    fn evolve(&mut self, event: &StatementEvent, meta: &EventMeta) {
        match event {
            StatementEvent::StatementPublished(event) => {
                (self.epoch, self.serial, self.sha256, self.kind) = (event.epoch, event.serial, Some(event.sha256), Some(event.kind));
                if event.kind != StatementKind::Root {
                    self.envelopes.clear();
                }
                self.envelopes.push(event.envelope_sha256);
                // What waits is the next one, and this was it; or it was overtaken, and would not follow any more.
                self.pending = None;
            }
            StatementEvent::StatementProposed(event) => {
                self.kind = Some(event.kind);
                self.pending = Some(Pending {
                    epoch: event.epoch,
                    serial: event.serial,
                    root_serial: event.root_serial,
                    sha256: event.sha256,
                    since: meta.time,
                    supersedes: event.supersedes,
                    signed: BTreeMap::new(),
                });
            }
            StatementEvent::StatementSigned(event) => {
                if let Some(pending) = self.pending.as_mut().filter(|pending| pending.sha256 == event.sha256) {
                    pending.signed.insert(event.keyid, event.signatures_sha256);
                }
            }
            StatementEvent::ProposalWithdrawn(event) => {
                self.pending.take_if(|pending| pending.sha256 == event.sha256);
            }
        }
    }

    fn index(&self) -> Index {
        Index { state: self.kind.map(|kind| kind.to_string()), ..Index::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventing::scenario::Scenario;

    fn published(kind: StatementKind, serial: u64) -> StatementEvent {
        let digest = |part: u8| Digest([part; 32]);
        let (sha256, envelope_sha256) = (digest(serial as u8), digest(100 + serial as u8));
        StatementPublished { kind, scope: "ten_x".to_owned(), epoch: 1, serial, sha256, envelope_sha256 }.into()
    }

    fn publish(kind: StatementKind, serial: u64) -> StatementCommand {
        let StatementEvent::StatementPublished(event) = published(kind, serial) else { unreachable!() };
        StatementCommand::Publish {
            kind,
            scope: event.scope,
            epoch: 1,
            serial,
            sha256: event.sha256,
            envelope_sha256: event.envelope_sha256,
        }
    }

    #[test]
    fn serials_follow_one_another() {
        let (state, id) = (StatementKind::State, StatementStreamId::from_bits(1));
        Scenario::<StatementStream>::of(id)
            .when(&publish(state, 2))
            .then_refused("statement_not_next")
            .when(&publish(state, 1))
            .then([published(state, 1)])
            .when(&publish(state, 1))
            .then_refused("statement_not_next")
            .when(&publish(state, 2))
            .then([published(state, 2)]);
    }

    #[test]
    fn every_root_is_kept_and_of_others_the_last() {
        for (kind, kept) in [(StatementKind::Root, 3), (StatementKind::Policy, 1)] {
            let scenario =
                Scenario::<StatementStream>::of(StatementStreamId::from_bits(1)).given((1..=3).map(|serial| published(kind, serial)));
            assert_eq!(scenario.state().envelopes.len(), kept);
            assert_eq!(scenario.state().serial, 3);
        }
    }

    const PAIRS: [Digest; 2] = [Digest([51; 32]), Digest([52; 32])];

    fn proposal(serial: u64, content: u8) -> Proposal {
        let scope = "ten_x".to_owned();
        Proposal { kind: StatementKind::Policy, scope, epoch: 1, serial, root_serial: 2, sha256: Digest([content; 32]) }
    }

    fn proposed(serial: u64, content: u8, supersedes: Option<u8>) -> StatementEvent {
        let Proposal { kind, scope, epoch, serial, root_serial, sha256 } = proposal(serial, content);
        let supersedes = supersedes.map(|content| Digest([content; 32]));
        StatementProposed { kind, scope, epoch, serial, root_serial, sha256, supersedes }.into()
    }

    fn sign(content: u8, pair: usize, verdict: Verdict) -> StatementCommand {
        let (sha256, keyid) = (Digest([content; 32]), PAIRS[pair]);
        StatementCommand::Sign { sha256, keyid, signatures_sha256: Digest([90; 32]), verdict }
    }

    fn signed(content: u8, pair: usize) -> StatementEvent {
        StatementSigned { sha256: Digest([content; 32]), keyid: PAIRS[pair], signatures_sha256: Digest([90; 32]) }.into()
    }

    #[test]
    fn what_waits_gathers_each_signers_signatures_once() {
        Scenario::<StatementStream>::of(StatementStreamId::from_bits(1))
            .when(&sign(1, 0, Verdict::Genuine))
            .then_refused("proposal_not_found")
            .when(&StatementCommand::Propose(proposal(2, 1)))
            .then_refused("statement_not_next")
            .when(&StatementCommand::Propose(proposal(1, 1)))
            .then([proposed(1, 1, None)])
            .when(&StatementCommand::Propose(proposal(1, 1)))
            .then([])
            .when(&sign(1, 0, Verdict::Stranger))
            .then_refused("signer_not_in_role")
            .when(&sign(1, 0, Verdict::NotGenuine))
            .then_refused("signature_not_genuine")
            .when(&sign(1, 0, Verdict::Genuine))
            .then([signed(1, 0)])
            .when(&sign(1, 0, Verdict::Genuine))
            .then_refused("statement_already_signed")
            .when(&sign(1, 1, Verdict::Genuine))
            .then([signed(1, 1)]);
    }

    #[test]
    fn a_newer_change_takes_the_place_of_what_waits_and_its_signatures() {
        let scenario = Scenario::<StatementStream>::of(StatementStreamId::from_bits(1))
            .given([proposed(1, 1, None), signed(1, 0)])
            .when(&StatementCommand::Propose(proposal(1, 2)))
            .then([proposed(1, 2, Some(1))])
            .when(&sign(1, 1, Verdict::Genuine))
            .then_refused("proposal_superseded");
        assert!(scenario.state().pending.as_ref().unwrap().signed.is_empty());
    }

    #[test]
    fn nothing_waits_after_it_was_published_or_withdrawn() {
        let withdraw = |content| StatementCommand::Withdraw { sha256: Digest([content; 32]), reason: None };
        let scenario = Scenario::<StatementStream>::of(StatementStreamId::from_bits(1))
            .when(&withdraw(1))
            .then_refused("proposal_not_found")
            .when(&StatementCommand::Propose(proposal(1, 1)))
            .then([proposed(1, 1, None)])
            .when(&withdraw(2))
            .then_refused("proposal_superseded")
            .when(&withdraw(1))
            .then([ProposalWithdrawn { sha256: Digest([1; 32]), reason: None }.into()]);
        assert_eq!(scenario.state().pending, None);
        let scenario = Scenario::<StatementStream>::of(StatementStreamId::from_bits(1))
            .given([proposed(1, 1, None), published(StatementKind::Policy, 1)]);
        assert_eq!((scenario.state().pending.as_ref(), scenario.state().serial), (None, 1));
    }
}
