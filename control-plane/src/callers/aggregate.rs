//! What a caller is, and how it decides.

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    event::caller::{CallerEvent, CallerRegistered, CallerRelabelled, CallerResumed, CallerRevoked, CallerSuspended},
    id::{CallerId, ProjectId, SiteId},
    key::{RevocationReason, words},
    name::{Labels, Name, Text},
    rule::CallerKind,
};
use serde::{Deserialize, Serialize};

use super::{CallerCommand, CallerRefusal};
use crate::eventing::aggregate::{Aggregate, Deciding, EventMeta, Index};

/// The most labels of one caller.
const MAX_LABELS: usize = 64;

words! {
    /// Whether a caller may act.
    CallerState {
        /// It may, as far as policy allows.
        Active = "active",
        /// Not until it is resumed.
        Suspended = "suspended",
        /// Never again.
        Revoked = "revoked",
    }
}

/// A caller; nothing in `fixed` means it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Caller {
    /// What never changes.
    pub fixed: Option<Fixed>,
    /// Labels, given to policy.
    pub labels: Labels,
    /// Since when it may do nothing.
    pub suspended: Option<Timestamp>,
    /// When it was last resumed: every earlier restriction is lifted.
    pub resumed: Option<Timestamp>,
    /// Why it may never act again.
    pub revoked: Option<Revoked>,
}

/// What never changes about a caller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its id.
    pub id: CallerId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// Its name in the project.
    pub name: Name,
    /// How it proves who it is.
    pub kind: CallerKind,
    /// Of a certificate: SHA-256 of the authority's certificate, base64url; of a token: the site it is local to.
    pub issuer: String,
    /// Of a certificate: the subject alternative name that names it; of a token: its name again.
    pub subject: String,
    /// Of a certificate: the authority's certificate, DER; none in what was registered before it was recorded.
    #[serde(default)]
    pub authority: Option<Base64>,
    /// When it was registered.
    pub created: Timestamp,
}

/// Why and when something was revoked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revoked {
    /// Why (RFC 5280).
    pub reason: RevocationReason,
    /// In words.
    pub comment: Option<Text>,
    /// When.
    pub at: Timestamp,
}

impl Caller {
    /// Whether it may act.
    pub const fn state(&self) -> CallerState {
        match (&self.revoked, &self.suspended) {
            (Some(_), _) => CallerState::Revoked,
            (None, Some(_)) => CallerState::Suspended,
            (None, None) => CallerState::Active,
        }
    }

    fn register(command: &CallerCommand) -> Result<Vec<CallerEvent>, CallerRefusal> {
        let CallerCommand::Register { project, name, kind, issuer, subject, authority, labels } = command else {
            return Err(CallerRefusal::NotFound);
        };
        match kind {
            CallerKind::Token if issuer.parse::<SiteId>().is_err() => return Err(CallerRefusal::TokenIssuer),
            CallerKind::Token if subject != name.as_str() => return Err(CallerRefusal::TokenSubject),
            CallerKind::Token if authority.is_some() => return Err(CallerRefusal::TokenAuthority),
            CallerKind::Mtls if authority.is_none() => return Err(CallerRefusal::AuthorityMissing),
            CallerKind::Mtls if issuer.parse().ok() != authority.as_ref().map(|authority| Digest::of(authority.as_slice())) => {
                return Err(CallerRefusal::CertificateIssuer);
            }
            CallerKind::Mtls if !(1..=255).contains(&subject.len()) || !subject.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err(CallerRefusal::CertificateSubject);
            }
            _ => {}
        }
        check_labels(labels)?;
        Ok(vec![
            CallerRegistered {
                project: *project,
                name: name.clone(),
                kind: *kind,
                issuer: issuer.clone(),
                subject: subject.clone(),
                labels: labels.clone(),
                authority: authority.clone(),
            }
            .into(),
        ])
    }
}

fn check_labels(labels: &Labels) -> Result<(), CallerRefusal> {
    if labels.len() > MAX_LABELS { Err(CallerRefusal::TooManyLabels { max: MAX_LABELS }) } else { Ok(()) }
}

impl Aggregate for Caller {
    type Id = CallerId;
    type Command = CallerCommand;
    type Event = CallerEvent;
    type Refusal = CallerRefusal;
    const KIND: &'static str = "caller";

    fn decide(&self, command: &CallerCommand, _: &Deciding<'_>) -> Result<Vec<CallerEvent>, CallerRefusal> {
        if self.fixed.is_none() {
            return Self::register(command);
        }
        if matches!(command, CallerCommand::Register { .. }) {
            return Err(CallerRefusal::Exists);
        }
        if self.revoked.is_some() {
            return Err(CallerRefusal::Revoked);
        }
        match command {
            CallerCommand::Register { .. } => Err(CallerRefusal::Exists),
            CallerCommand::Relabel { labels } => {
                check_labels(labels)?;
                if *labels == self.labels { Ok(Vec::new()) } else { Ok(vec![CallerRelabelled { labels: labels.clone() }.into()]) }
            }
            CallerCommand::Suspend { .. } if self.suspended.is_some() => Err(CallerRefusal::AlreadySuspended),
            CallerCommand::Suspend { reason } => Ok(vec![CallerSuspended { reason: reason.clone() }.into()]),
            CallerCommand::Resume { .. } if self.suspended.is_none() => Err(CallerRefusal::NotSuspended),
            CallerCommand::Resume { reason } => Ok(vec![CallerResumed { reason: reason.clone() }.into()]),
            CallerCommand::Revoke { reason: RevocationReason::CertificateHold, .. } => Err(CallerRefusal::Hold),
            CallerCommand::Revoke { reason, comment } => Ok(vec![CallerRevoked { reason: *reason, comment: comment.clone() }.into()]),
        }
    }

    fn evolve(&mut self, event: &CallerEvent, meta: &EventMeta) {
        match event {
            CallerEvent::CallerRegistered(event) => {
                self.fixed = meta.stream.id().map(|id| Fixed {
                    id,
                    project: event.project,
                    name: event.name.clone(),
                    kind: event.kind,
                    issuer: event.issuer.clone(),
                    subject: event.subject.clone(),
                    authority: event.authority.clone(),
                    created: meta.time,
                });
                self.labels = event.labels.clone();
            }
            CallerEvent::CallerRelabelled(event) => self.labels = event.labels.clone(),
            CallerEvent::CallerSuspended(_) => self.suspended = Some(meta.time),
            CallerEvent::CallerResumed(_) => {
                self.suspended = None;
                self.resumed = Some(meta.time);
            }
            CallerEvent::CallerRevoked(event) => {
                self.revoked = Some(Revoked { reason: event.reason, comment: event.comment.clone(), at: meta.time });
            }
        }
    }

    fn index(&self) -> Index {
        let mut terms: Vec<_> = self.labels.iter().map(|(name, value)| (format!("label.{name}"), value.to_string())).collect();
        terms.extend(self.fixed.iter().map(|fixed| ("kind".to_owned(), fixed.kind.to_string())));
        Index {
            parent: self.fixed.as_ref().map(|fixed| fixed.project.to_string()),
            name: self.fixed.as_ref().map(|fixed| fixed.name.to_string()),
            state: Some(self.state().to_string()),
            terms,
            ..Index::default()
        }
    }
}
