//! What a policy document is, and how it decides.

use std::collections::BTreeMap;

use schema::{
    clock::Timestamp,
    event::policy::{PolicyContent, PolicyCreated, PolicyDraftDiscarded, PolicyDraftSaved, PolicyEvent, PolicyPublished, PolicyRolledBack},
    id::PolicyId,
    name::{Name, Text},
    rule::{KeyTemplate, Scope},
};
use serde::{Deserialize, Serialize};

use super::{Checked, PolicyCommand, PolicyRefusal, cedar::MAX_BYTES};
use crate::{
    bundles::templates::Outside,
    eventing::aggregate::{Aggregate, Deciding, EventMeta, Index},
};

/// The most keys a refusal names.
const MAX_NAMED: usize = 10;

/// A policy document; nothing in `fixed` means it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// What never changes.
    pub fixed: Option<Fixed>,
    /// The number of the newest draft ever saved; 0 when there was none.
    pub last_draft: u32,
    /// The present draft.
    pub draft: Option<Draft>,
    /// Every version ever published, by number, without gaps from 1. The last one is in force.
    pub versions: BTreeMap<u32, Version>,
}

/// What never changes about a policy document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its id.
    pub id: PolicyId,
    /// Its name in its scope.
    pub name: Name,
    /// What it is for.
    pub scope: Scope,
    /// When it was begun.
    pub created: Timestamp,
}

/// What somebody wrote, and has not published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// Its number.
    pub number: u32,
    /// What it says.
    pub content: PolicyContent,
    /// What was changed and why.
    pub note: Option<Text>,
    /// When it was saved.
    pub at: Timestamp,
    /// Who saved it.
    pub by: String,
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// What it says.
    pub content: PolicyContent,
    /// The ids of its single Cedar policies.
    pub policies: Vec<String>,
    /// The older version it repeats, when it was a rollback.
    pub restored: Option<u32>,
    /// What was changed and why.
    pub note: Option<Text>,
    /// When it was published.
    pub at: Timestamp,
    /// Who published it.
    pub by: String,
}

impl Policy {
    /// The version in force, with its number.
    pub fn published(&self) -> Option<(u32, &Version)> {
        self.versions.last_key_value().map(|(number, version)| (*number, version))
    }

    fn next_version(&self) -> u32 {
        self.published().map_or(1, |(number, _)| number + 1)
    }

    fn save(
        &self,
        fixed: &Fixed,
        content: &PolicyContent,
        base: Option<u32>,
        note: Option<&Text>,
    ) -> Result<Vec<PolicyEvent>, PolicyRefusal> {
        let present = self.draft.as_ref().map_or(0, |draft| draft.number);
        if base.is_some_and(|base| base != present) {
            return Err(PolicyRefusal::DraftChanged { present });
        }
        check_content(fixed.scope, content)?;
        if self.draft.as_ref().is_some_and(|draft| draft.content == *content && draft.note.as_ref() == note) {
            return Ok(Vec::new());
        }
        Ok(vec![PolicyDraftSaved { draft: self.last_draft + 1, content: content.clone(), note: note.cloned() }.into()])
    }

    fn publish(&self, number: Option<u32>, note: Option<&Text>, checked: &Checked) -> Result<Vec<PolicyEvent>, PolicyRefusal> {
        let draft = self.draft.as_ref().ok_or(PolicyRefusal::NoDraft)?;
        if number.is_some_and(|number| number != draft.number) {
            return Err(PolicyRefusal::DraftChanged { present: draft.number });
        }
        self.check_text(&draft.content, checked)?;
        let published = PolicyPublished {
            version: self.next_version(),
            draft: draft.number,
            content: draft.content.clone(),
            policies: checked.policies.clone(),
            note: note.or(draft.note.as_ref()).cloned(),
        };
        Ok(vec![published.into()])
    }

    fn roll_back(&self, restored: u32, note: Option<&Text>, checked: &Checked) -> Result<Vec<PolicyEvent>, PolicyRefusal> {
        let old = self.versions.get(&restored).ok_or(PolicyRefusal::VersionNotFound { version: restored })?;
        self.check_text(&old.content, checked)?;
        let (content, policies) = (old.content.clone(), checked.policies.clone());
        Ok(vec![PolicyRolledBack { version: self.next_version(), restored, content, policies, note: note.cloned() }.into()])
    }

    fn check_text(&self, content: &PolicyContent, checked: &Checked) -> Result<(), PolicyRefusal> {
        if let Some((version, in_force)) = self.published()
            && in_force.content == *content
        {
            return Err(PolicyRefusal::AlreadyInForce { version });
        }
        match checked {
            checked if checked.cedar != content.cedar || checked.templates != content.templates => Err(PolicyRefusal::OtherText),
            checked if checked.errors > 0 => Err(PolicyRefusal::Invalid { errors: checked.errors }),
            checked if !checked.left_outside.is_empty() => {
                Err(PolicyRefusal::TemplateInUse { keys: checked.left_outside.len(), named: named(&checked.left_outside) })
            }
            _ => Ok(()),
        }
    }
}

/// The first few keys; a template may have made thousands.
fn named(keys: &[Outside]) -> String {
    let mut named: Vec<String> = keys.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    if keys.len() > MAX_NAMED {
        named.push("…".to_owned());
    }
    named.join(", ")
}

/// Rules stand where they belong, and can be followed.
fn check_content(scope: Scope, content: &PolicyContent) -> Result<(), PolicyRefusal> {
    if content.cedar_bytes > MAX_BYTES {
        return Err(PolicyRefusal::TooLarge { max_bytes: MAX_BYTES });
    }
    match scope {
        Scope::Site(_) if !content.templates.is_empty() => return Err(PolicyRefusal::TemplatesNotHere),
        Scope::Project(_) if content.vouching.is_some() || content.offline.is_some() => return Err(PolicyRefusal::RulesNotHere),
        _ => {}
    }
    for (name, template) in &content.templates {
        check_template(scope, name, template)?;
    }
    if content.vouching.as_ref().is_some_and(|rule| !(rule.signers || rule.agents && rule.agents_needed > 0)) {
        return Err(PolicyRefusal::Vouching);
    }
    if content.offline.as_ref().is_some_and(|rule| !rule.is_sound()) {
        return Err(PolicyRefusal::OfflineRule);
    }
    Ok(())
}

fn check_template(scope: Scope, name: &Name, template: &KeyTemplate) -> Result<(), PolicyRefusal> {
    let name = || name.clone();
    if let Scope::Project(project) = scope
        && template.project != project
    {
        return Err(PolicyRefusal::TemplateOfOtherProject { template: name() });
    }
    let KeyTemplate { algorithms, purposes, placement, durabilities, .. } = template;
    if algorithms.is_empty() || purposes.is_empty() || placement.is_empty() || durabilities.is_empty() {
        return Err(PolicyRefusal::TemplateEmpty { template: name() });
    }
    if !algorithms.iter().all(|algorithm| purposes.iter().any(|purpose| algorithm.serves(*purpose))) {
        return Err(PolicyRefusal::TemplatePurposes { template: name() });
    }
    if !template.limits.is_sound() || !template.rotation.is_sound() {
        return Err(PolicyRefusal::TemplateLimits { template: name() });
    }
    Ok(())
}

impl Aggregate for Policy {
    type Id = PolicyId;
    type Command = PolicyCommand;
    type Event = PolicyEvent;
    type Refusal = PolicyRefusal;
    const KIND: &'static str = "policy";

    fn decide(&self, command: &PolicyCommand, _: &Deciding<'_>) -> Result<Vec<PolicyEvent>, PolicyRefusal> {
        let Some(fixed) = &self.fixed else {
            return match command {
                PolicyCommand::Create { name, scope } => Ok(vec![PolicyCreated { name: name.clone(), scope: *scope }.into()]),
                _ => Err(PolicyRefusal::NotFound),
            };
        };
        match command {
            PolicyCommand::Create { .. } => Err(PolicyRefusal::Exists),
            PolicyCommand::SaveDraft { content, base, note } => self.save(fixed, content, *base, note.as_ref()),
            PolicyCommand::DiscardDraft => match &self.draft {
                Some(draft) => Ok(vec![PolicyDraftDiscarded { draft: draft.number }.into()]),
                None => Err(PolicyRefusal::NoDraft),
            },
            PolicyCommand::Publish { draft, note, checked } => self.publish(*draft, note.as_ref(), checked),
            PolicyCommand::Rollback { version, note, checked } => self.roll_back(*version, note.as_ref(), checked),
        }
    }

    fn evolve(&mut self, event: &PolicyEvent, meta: &EventMeta) {
        let (at, by) = (meta.time, meta.actor.clone());
        match event {
            PolicyEvent::PolicyCreated(event) => {
                let (name, scope) = (event.name.clone(), event.scope);
                self.fixed = meta.stream.id().map(|id| Fixed { id, name, scope, created: at });
            }
            PolicyEvent::PolicyDraftSaved(event) => {
                self.last_draft = event.draft;
                let (content, note) = (event.content.clone(), event.note.clone());
                self.draft = Some(Draft { number: event.draft, content, note, at, by });
            }
            PolicyEvent::PolicyDraftDiscarded(_) => self.draft = None,
            PolicyEvent::PolicyPublished(event) => {
                let (content, policies, note) = (event.content.clone(), event.policies.clone(), event.note.clone());
                self.versions.insert(event.version, Version { content, policies, restored: None, note, at, by });
                self.draft = None;
            }
            PolicyEvent::PolicyRolledBack(event) => {
                let (content, policies, note) = (event.content.clone(), event.policies.clone(), event.note.clone());
                self.versions.insert(event.version, Version { content, policies, restored: Some(event.restored), note, at, by });
            }
        }
    }

    /// The parent is the project or the site; a tenant's documents have none.
    fn index(&self) -> Index {
        let Some(fixed) = &self.fixed else { return Index::default() };
        let (parent, kind) = match fixed.scope {
            Scope::Tenant => (None, "tenant"),
            Scope::Project(project) => (Some(project.to_string()), "project"),
            Scope::Site(site) => (Some(site.to_string()), "site"),
        };
        let state = if self.versions.is_empty() { "unpublished" } else { "published" };
        Index {
            parent: parent.clone(),
            name: Some(fixed.name.to_string()),
            state: Some(state.to_owned()),
            terms: [("scope".to_owned(), kind.to_owned())].into_iter().chain(parent.map(|parent| (kind.to_owned(), parent))).collect(),
            ..Index::default()
        }
    }
}
