//! What a composite is, and how it decides.

use std::collections::BTreeSet;

use schema::{
    clock::Timestamp,
    composite::{Member, VerificationRule},
    event::composite::{
        CompositeCreated, CompositeDescribed, CompositeEvent, CompositeRetired, CompositeRuleLoosened, CompositeRuleTightened,
    },
    id::{CompositeId, KeyId, ProjectId, SiteId},
    key::words,
    name::{Name, Text},
};
use serde::{Deserialize, Serialize};

use super::{CompositeCommand, CompositeRefusal, CreateComposite, Found};
use crate::eventing::aggregate::{Aggregate, Deciding, EventMeta, Index};

words! {
    /// Whether a composite can be used.
    CompositeState {
        /// It can.
        Active = "active",
        /// Never again.
        Retired = "retired",
    }
}

/// A composite; nothing in `fixed` means it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Composite {
    /// What never changes.
    pub fixed: Option<Fixed>,
    /// What it is for.
    pub description: Option<Text>,
    /// Which of its signatures must be genuine; none while it does not exist.
    pub rule: Option<VerificationRule>,
    /// Since when, and why, it is no more.
    pub retired: Option<Retired>,
}

/// What never changes about a composite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its id.
    pub id: CompositeId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// Its name in the project.
    pub name: Name,
    /// The key that signs classically.
    pub classical: KeyId,
    /// The key that signs so that quantum computers do not help to forge.
    pub post_quantum: KeyId,
    /// The hybrid key for what is sealed to it.
    pub encryption: Option<KeyId>,
    /// When it was made.
    pub created: Timestamp,
}

/// Since when and why a composite is no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retired {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub reason: Option<Text>,
}

impl Composite {
    /// Whether it can be used.
    pub const fn state(&self) -> CompositeState {
        if self.retired.is_some() { CompositeState::Retired } else { CompositeState::Active }
    }

    fn create(create: &CreateComposite) -> Result<Vec<CompositeEvent>, CompositeRefusal> {
        if create.name_is_taken {
            return Err(CompositeRefusal::NameTaken);
        }
        let member = |member: Member| create.members.get(&member).copied();
        let (Some(classical), Some(post_quantum)) = (member(Member::Classical), member(Member::PostQuantum)) else {
            return Err(CompositeRefusal::Incomplete);
        };
        let mut sites: Option<BTreeSet<SiteId>> = None;
        for member in create.members.keys() {
            let found = create.found.get(member).ok_or(CompositeRefusal::Incomplete)?;
            check_member(*member, found, create.project)?;
            let placement = found.placement.iter().copied().collect();
            if *sites.get_or_insert_with(|| BTreeSet::clone(&placement)) != placement {
                return Err(CompositeRefusal::OtherSites { member: *member });
            }
        }
        Ok(vec![
            CompositeCreated {
                project: create.project,
                name: create.name.clone(),
                description: create.description.clone(),
                classical,
                post_quantum,
                encryption: member(Member::Encryption),
                rule: create.rule,
            }
            .into(),
        ])
    }
}

fn check_member(member: Member, found: &Found, project: ProjectId) -> Result<(), CompositeRefusal> {
    let Found { algorithm, purpose, .. } = *found;
    if found.project != project {
        return Err(CompositeRefusal::OtherProject { member });
    }
    if !member.takes(algorithm, purpose) {
        return Err(match member {
            Member::Classical => CompositeRefusal::NotClassical { algorithm, purpose },
            Member::PostQuantum => CompositeRefusal::NotPostQuantum { algorithm, purpose },
            Member::Encryption => CompositeRefusal::NotHybrid { algorithm, purpose },
        });
    }
    if found.of_template {
        return Err(CompositeRefusal::OfTemplate { member });
    }
    if found.destroyed { Err(CompositeRefusal::Destroyed { member }) } else { Ok(()) }
}

impl Aggregate for Composite {
    type Id = CompositeId;
    type Command = CompositeCommand;
    type Event = CompositeEvent;
    type Refusal = CompositeRefusal;
    const KIND: &'static str = "composite";

    fn decide(&self, command: &CompositeCommand, _: &Deciding<'_>) -> Result<Vec<CompositeEvent>, CompositeRefusal> {
        let Some(present) = self.rule else {
            return match command {
                CompositeCommand::Create(create) => Self::create(create),
                _ => Err(CompositeRefusal::NotFound),
            };
        };
        match command {
            CompositeCommand::Create(_) => Err(CompositeRefusal::Exists),
            _ if self.retired.is_some() => Err(CompositeRefusal::Retired),
            CompositeCommand::Describe { description } if *description == self.description => Ok(Vec::new()),
            CompositeCommand::Describe { description } => Ok(vec![CompositeDescribed { description: description.clone() }.into()]),
            CompositeCommand::Tighten { rule, .. } | CompositeCommand::Loosen { rule, .. } if *rule == present => Ok(Vec::new()),
            CompositeCommand::Tighten { rule, .. } if !rule.is_stricter_than(present) => {
                Err(CompositeRefusal::NotStricter { rule: *rule, present })
            }
            CompositeCommand::Tighten { rule, reason } => Ok(vec![CompositeRuleTightened { rule: *rule, reason: reason.clone() }.into()]),
            CompositeCommand::Loosen { rule, .. } if rule.is_stricter_than(present) => {
                Err(CompositeRefusal::NotLooser { rule: *rule, present })
            }
            CompositeCommand::Loosen { rule, reason } => Ok(vec![CompositeRuleLoosened { rule: *rule, reason: reason.clone() }.into()]),
            CompositeCommand::Retire { reason } => Ok(vec![CompositeRetired { reason: reason.clone() }.into()]),
        }
    }

    fn evolve(&mut self, event: &CompositeEvent, meta: &EventMeta) {
        match event {
            CompositeEvent::CompositeCreated(event) => {
                self.fixed = meta.stream.id().map(|id| Fixed {
                    id,
                    project: event.project,
                    name: event.name.clone(),
                    classical: event.classical,
                    post_quantum: event.post_quantum,
                    encryption: event.encryption,
                    created: meta.time,
                });
                self.description = event.description.clone();
                self.rule = Some(event.rule);
            }
            CompositeEvent::CompositeDescribed(event) => self.description = event.description.clone(),
            CompositeEvent::CompositeRuleTightened(event) => self.rule = Some(event.rule),
            CompositeEvent::CompositeRuleLoosened(event) => self.rule = Some(event.rule),
            CompositeEvent::CompositeRetired(event) => self.retired = Some(Retired { at: meta.time, reason: event.reason.clone() }),
        }
    }

    fn index(&self) -> Index {
        let Some(fixed) = &self.fixed else { return Index::default() };
        let keys = [Some(fixed.classical), Some(fixed.post_quantum), fixed.encryption];
        let mut terms: Vec<_> = keys.into_iter().flatten().map(|key| ("key".to_owned(), key.to_string())).collect();
        terms.extend(self.rule.map(|rule| ("rule".to_owned(), rule.to_string())));
        Index {
            parent: Some(fixed.project.to_string()),
            name: Some(fixed.name.to_string()),
            state: Some(self.state().to_string()),
            terms,
            ..Index::default()
        }
    }
}
