//! What a site is, and how it decides.

use schema::{
    clock::Timestamp,
    encoding::Digest,
    event::site::{SiteCreated, SiteEvent, SiteFounded, SiteOfflineRuleSet, SiteRenamed},
    id::{AgentId, SiteId},
    name::{Name, Text},
    rule::OfflineRule,
};
use serde::{Deserialize, Serialize};

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
            (SiteCommand::SetOfflineRule { rule: Some(rule) }, _) if !rule.is_sound() => Err(SiteRefusal::OfflineRule),
            (SiteCommand::SetOfflineRule { rule }, _) if *rule == self.offline => Ok(Vec::new()),
            (SiteCommand::SetOfflineRule { rule }, _) => Ok(vec![SiteOfflineRuleSet { rule: rule.clone() }.into()]),
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
        }
    }

    fn index(&self) -> Index {
        Index { name: self.fixed.as_ref().map(|fixed| fixed.name.to_string()), state: Some("active".to_owned()), ..Index::default() }
    }
}
