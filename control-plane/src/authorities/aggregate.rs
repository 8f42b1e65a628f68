//! What is known of the authorities, and how they follow each other.

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    event::authority::{AuthorityEvent, AuthorityMade, AuthorityRetired, AuthorityTookOver, RetirementReason},
    id::AuthoritiesId,
};
use serde::{Deserialize, Serialize};

use super::{AuthorityCommand, AuthorityRefusal};
use crate::eventing::aggregate::{Aggregate, Deciding, EventMeta, Index};

/// Every authority there was, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Authorities {
    /// All of them.
    pub known: Vec<Known>,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// SHA-256 of its certificate.
    pub sha256: Digest,
    /// Its certificate, DER.
    pub certificate: Base64,
    /// When it was made.
    pub made: Timestamp,
    /// When its certificate ends.
    pub expires: Timestamp,
    /// Where it is in its life.
    pub stage: Stage,
}

/// Where an authority is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Agents are told of it; it certifies nothing yet.
    Next {
        /// From when on it may take over.
        not_before: Timestamp,
    },
    /// It certifies.
    InForce {
        /// Since when.
        since: Timestamp,
    },
    /// What it certified is still believed.
    Former {
        /// Until when.
        until: Timestamp,
    },
    /// It is believed no more.
    Retired {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: RetirementReason,
    },
}

impl Stage {
    /// Whether what it certifies is believed.
    pub fn is_believed(self) -> bool {
        !matches!(self, Self::Retired { .. })
    }
}

impl Authorities {
    /// The one that certifies.
    pub fn in_force(&self) -> Option<&Known> {
        self.known.iter().find(|known| matches!(known.stage, Stage::InForce { .. }))
    }

    /// The one that will.
    pub fn next(&self) -> Option<&Known> {
        self.known.iter().find(|known| matches!(known.stage, Stage::Next { .. }))
    }

    /// Those that are believed.
    pub fn believed(&self) -> impl Iterator<Item = &Known> {
        self.known.iter().filter(|known| known.stage.is_believed())
    }

    /// Those whose time is over.
    pub fn ended(&self, now: Timestamp) -> impl Iterator<Item = &Known> {
        self.known.iter().filter(move |known| matches!(known.stage, Stage::Former { until } if until < now))
    }

    fn set(&mut self, sha256: Digest, stage: Stage) {
        if let Some(known) = self.known.iter_mut().find(|known| known.sha256 == sha256) {
            known.stage = stage;
        }
    }
}

impl Aggregate for Authorities {
    type Id = AuthoritiesId;
    type Command = AuthorityCommand;
    type Event = AuthorityEvent;
    type Refusal = AuthorityRefusal;
    const KIND: &'static str = "authorities";

    fn decide(&self, command: &AuthorityCommand, deciding: &Deciding<'_>) -> Result<Vec<AuthorityEvent>, AuthorityRefusal> {
        match command {
            AuthorityCommand::Make { sha256, .. } if self.known.iter().any(|known| known.sha256 == *sha256) => Ok(Vec::new()),
            AuthorityCommand::Make { .. } if self.next().is_some() => Err(AuthorityRefusal::NextWaits),
            AuthorityCommand::Make { sha256, certificate, expires, not_before } => {
                let (sha256, certificate, expires) = (*sha256, certificate.clone(), *expires);
                let first = self.in_force().is_none();
                let not_before = if first { deciding.now } else { *not_before };
                let mut events = vec![AuthorityMade { sha256, certificate, expires, not_before }.into()];
                if first {
                    events.push(AuthorityTookOver { sha256, former_until: None }.into());
                }
                Ok(events)
            }
            AuthorityCommand::TakeOver { early, former_until } => {
                let next = self.next().ok_or(AuthorityRefusal::NoneWaits)?;
                match next.stage {
                    Stage::Next { not_before } if !early && deciding.now < not_before => Err(AuthorityRefusal::TooEarly { not_before }),
                    _ => Ok(vec![AuthorityTookOver { sha256: next.sha256, former_until: Some(*former_until) }.into()]),
                }
            }
            AuthorityCommand::Replace { sha256, .. } if self.known.iter().any(|known| known.sha256 == *sha256) => Ok(Vec::new()),
            AuthorityCommand::Replace { sha256, certificate, expires } => {
                let (sha256, certificate, expires) = (*sha256, certificate.clone(), *expires);
                let made = AuthorityMade { sha256, certificate, expires, not_before: deciding.now }.into();
                let took_over = AuthorityTookOver { sha256, former_until: Some(deciding.now) }.into();
                let retired = |known: &Known| AuthorityRetired { sha256: known.sha256, reason: RetirementReason::Compromised }.into();
                Ok([made, took_over].into_iter().chain(self.believed().map(retired)).collect())
            }
            AuthorityCommand::Retire => {
                let retired = |known: &Known| AuthorityRetired { sha256: known.sha256, reason: RetirementReason::Ended }.into();
                Ok(self.ended(deciding.now).map(retired).collect())
            }
        }
    }

    fn evolve(&mut self, event: &AuthorityEvent, meta: &EventMeta) {
        match event {
            AuthorityEvent::AuthorityMade(event) => self.known.push(Known {
                sha256: event.sha256,
                certificate: event.certificate.clone(),
                made: meta.time,
                expires: event.expires,
                stage: Stage::Next { not_before: event.not_before },
            }),
            AuthorityEvent::AuthorityTookOver(event) => {
                let former = self.in_force().map(|former| former.sha256);
                if let (Some(former), Some(until)) = (former, event.former_until) {
                    self.set(former, Stage::Former { until });
                }
                self.set(event.sha256, Stage::InForce { since: meta.time });
            }
            AuthorityEvent::AuthorityRetired(event) => {
                self.set(event.sha256, Stage::Retired { since: meta.time, reason: event.reason });
            }
        }
    }

    fn index(&self) -> Index {
        Index::default()
    }
}
