//! What an alias is, and how it decides.

use schema::{
    clock::Timestamp,
    event::alias::{AliasCreated, AliasEvent, AliasMoved, AliasRetired},
    id::{AliasId, KeyId, ProjectId},
    name::Name,
};
use serde::{Deserialize, Serialize};

use super::{AliasCommand, AliasRefusal};
use crate::eventing::aggregate::{Aggregate, Deciding, EventMeta, Index};

/// An alias; nothing in `fixed` means it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Alias {
    /// What never changes.
    pub fixed: Option<Fixed>,
    /// The key it stands for; none while it is retired.
    pub key: Option<KeyId>,
}

/// What never changes about an alias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its id.
    pub id: AliasId,
    /// The project whose name space it stands in.
    pub project: ProjectId,
    /// The name.
    pub name: Name,
    /// When it was made.
    pub created: Timestamp,
}

impl Aggregate for Alias {
    type Id = AliasId;
    type Command = AliasCommand;
    type Event = AliasEvent;
    type Refusal = AliasRefusal;
    const KIND: &'static str = "alias";

    fn decide(&self, command: &AliasCommand, _: &Deciding<'_>) -> Result<Vec<AliasEvent>, AliasRefusal> {
        match (command, &self.fixed, self.key) {
            (AliasCommand::Create { .. }, _, Some(_)) => Err(AliasRefusal::Exists),
            (AliasCommand::Create { name_is_a_key: true, .. }, _, None) => Err(AliasRefusal::NameTaken),
            (AliasCommand::Create { name_is_a_composite: true, .. }, _, None) => Err(AliasRefusal::NameOfComposite),
            (AliasCommand::Create { project, key_project, .. }, _, None) if project != key_project => Err(AliasRefusal::OtherProject),
            (AliasCommand::Create { key, .. }, Some(_), None) => Ok(vec![AliasMoved { key: *key }.into()]),
            (AliasCommand::Create { project, name, key, .. }, None, None) => {
                Ok(vec![AliasCreated { project: *project, name: name.clone(), key: *key }.into()])
            }
            (AliasCommand::Move { key_project, .. }, Some(fixed), Some(_)) if *key_project != fixed.project => {
                Err(AliasRefusal::OtherProject)
            }
            (AliasCommand::Move { key, .. }, Some(_), Some(present)) if *key == present => Ok(Vec::new()),
            (AliasCommand::Move { key, .. }, Some(_), Some(_)) => Ok(vec![AliasMoved { key: *key }.into()]),
            (AliasCommand::Retire, Some(_), Some(_)) => Ok(vec![AliasRetired {}.into()]),
            (AliasCommand::Move { .. } | AliasCommand::Retire, _, _) => Err(AliasRefusal::NotFound),
        }
    }

    fn evolve(&mut self, event: &AliasEvent, meta: &EventMeta) {
        match event {
            AliasEvent::AliasCreated(event) => {
                let (project, name) = (event.project, event.name.clone());
                self.fixed = meta.stream.id().map(|id| Fixed { id, project, name, created: meta.time });
                self.key = Some(event.key);
            }
            AliasEvent::AliasMoved(event) => self.key = Some(event.key),
            AliasEvent::AliasRetired(_) => self.key = None,
        }
    }

    fn index(&self) -> Index {
        let state = if self.key.is_some() { "active" } else { "retired" };
        Index {
            parent: self.fixed.as_ref().map(|fixed| fixed.project.to_string()),
            name: self.fixed.as_ref().map(|fixed| fixed.name.to_string()),
            state: Some(state.to_owned()),
            terms: self.key.map(|key| ("key".to_owned(), key.to_string())).into_iter().collect(),
            ..Index::default()
        }
    }
}
