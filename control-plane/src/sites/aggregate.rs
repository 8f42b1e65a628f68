//! What a site is, and how it decides.

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    event::site::{SiteCreated, SiteEvent, SiteFounded, SiteOfflineRuleSet, SiteRecoveryKeySet, SiteRenamed, SiteResumed, SiteSuspended},
    id::{AgentId, SiteId},
    name::{Name, Text},
    rule::OfflineRule,
};
use serde::{Deserialize, Serialize};
use trust::recovery::RecoveryKey;

use super::{SiteCommand, SiteRefusal};
use crate::eventing::aggregate::{Aggregate, Deciding, EventMeta, Index};

/// A site; nothing in `fixed` means it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// What never changes.
    pub fixed: Option<Fixed>,
    /// What people call it.
    pub display_name: Option<Text>,
    /// What goes on there without the control plane; none: the tenant's rule, or the defaults.
    pub offline: Option<OfflineRule>,
    /// Its first agent.
    pub founder: Option<Founder>,
    /// Since when none of its agents may do anything.
    #[serde(default)]
    pub suspended: Option<Timestamp>,
    /// The key that its backups are sealed to.
    #[serde(default)]
    pub recovery: Option<Recovery>,
}

/// The key that backups of a site are sealed to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// Its number at the site.
    pub number: u32,
    /// Its key id.
    pub keyid: Digest,
    /// How many shares of its private half there are.
    pub shares: u8,
    /// How many of them open a backup.
    pub threshold: u8,
    /// The agent it was made at.
    pub agent: AgentId,
    /// That agent's document: a DSSE envelope, exact bytes.
    pub document: Base64,
    /// When it came.
    pub at: Timestamp,
}

/// The first agent of a site: whom those that join later believe first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Founder {
    /// The agent.
    pub agent: AgentId,
    /// The key id of its pair.
    pub keyid: Digest,
}

/// What never changes about a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its id.
    pub id: SiteId,
    /// Its name in the tenant.
    pub name: Name,
    /// When it was created.
    pub created: Timestamp,
}

impl Site {
    /// Agents repeat what they made until it is in force; of two that were made at the same time the first counts.
    fn set_recovery_key(&self, key: &RecoveryKey, document: &Base64) -> Result<Vec<SiteEvent>, SiteRefusal> {
        let keyid = key.keyid();
        let known = self.recovery.as_ref();
        if known.is_some_and(|known| known.keyid == keyid) {
            return Ok(Vec::new());
        }
        let next = known.map_or(1, |known| known.number.saturating_add(1));
        if key.number != next {
            return Err(SiteRefusal::RecoveryKeyNumber { next });
        }
        let RecoveryKey { number, shares, threshold, agent, .. } = *key;
        if threshold < 2 || threshold > shares {
            return Err(SiteRefusal::RecoveryKeyShares);
        }
        Ok(vec![SiteRecoveryKeySet { number, keyid, shares, threshold, agent, document: document.clone() }.into()])
    }
}

impl Aggregate for Site {
    type Id = SiteId;
    type Command = SiteCommand;
    type Event = SiteEvent;
    type Refusal = SiteRefusal;
    const KIND: &'static str = "site";

    fn decide(&self, command: &SiteCommand, _: &Deciding<'_>) -> Result<Vec<SiteEvent>, SiteRefusal> {
        match (command, &self.fixed) {
            (SiteCommand::Create { .. }, Some(_)) => Err(SiteRefusal::Exists),
            (SiteCommand::Create { name, display_name }, None) => {
                Ok(vec![SiteCreated { name: name.clone(), display_name: display_name.clone() }.into()])
            }
            (_, None) => Err(SiteRefusal::NotFound),
            (SiteCommand::Rename { display_name }, _) if *display_name == self.display_name => Ok(Vec::new()),
            (SiteCommand::Rename { display_name }, _) => Ok(vec![SiteRenamed { display_name: display_name.clone() }.into()]),
            (SiteCommand::Found { agent, keyid, instead_of }, _) => match &self.founder {
                Some(founder) if (founder.agent, founder.keyid) == (*agent, *keyid) => Ok(Vec::new()),
                // The same agent with another pair: its first attempt did not get through.
                Some(founder) if founder.agent != *agent && Some(founder.agent) != *instead_of => Err(SiteRefusal::Founded),
                _ => Ok(vec![SiteFounded { agent: *agent, keyid: *keyid }.into()]),
            },
            (SiteCommand::SetRecoveryKey { key, document }, _) => self.set_recovery_key(key, document),
            (SiteCommand::SetOfflineRule { rule: Some(rule) }, _) if !rule.is_sound() => Err(SiteRefusal::OfflineRule),
            (SiteCommand::SetOfflineRule { rule }, _) if *rule == self.offline => Ok(Vec::new()),
            (SiteCommand::SetOfflineRule { rule }, _) => Ok(vec![SiteOfflineRuleSet { rule: rule.clone() }.into()]),
            (SiteCommand::SetSuspended { suspended: true, reason }, _) => match self.suspended {
                Some(_) => Err(SiteRefusal::Suspended),
                None => Ok(vec![SiteSuspended { reason: reason.clone() }.into()]),
            },
            (SiteCommand::SetSuspended { suspended: false, reason }, _) => match self.suspended {
                Some(_) => Ok(vec![SiteResumed { reason: reason.clone() }.into()]),
                None => Err(SiteRefusal::NotSuspended),
            },
        }
    }

    fn evolve(&mut self, event: &SiteEvent, meta: &EventMeta) {
        match event {
            SiteEvent::SiteCreated(event) => {
                self.fixed = meta.stream.id().map(|id| Fixed { id, name: event.name.clone(), created: meta.time });
                self.display_name = event.display_name.clone();
            }
            SiteEvent::SiteRenamed(event) => self.display_name = event.display_name.clone(),
            SiteEvent::SiteFounded(event) => self.founder = Some(Founder { agent: event.agent, keyid: event.keyid }),
            SiteEvent::SiteOfflineRuleSet(event) => self.offline = event.rule.clone(),
            SiteEvent::SiteSuspended(_) => self.suspended = Some(meta.time),
            SiteEvent::SiteResumed(_) => self.suspended = None,
            SiteEvent::SiteRecoveryKeySet(event) => {
                self.recovery = Some(Recovery {
                    number: event.number,
                    keyid: event.keyid,
                    shares: event.shares,
                    threshold: event.threshold,
                    agent: event.agent,
                    document: event.document.clone(),
                    at: meta.time,
                });
            }
        }
    }

    fn index(&self) -> Index {
        let state = if self.suspended.is_some() { "suspended" } else { "active" };
        Index { name: self.fixed.as_ref().map(|fixed| fixed.name.to_string()), state: Some(state.to_owned()), ..Index::default() }
    }
}
