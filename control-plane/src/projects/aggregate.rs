//! What a project is, and how it decides.

use schema::{
    clock::Timestamp,
    event::project::{ProjectCreated, ProjectEvent, ProjectRenamed, ProjectResumed, ProjectSuspended},
    id::ProjectId,
    name::{Name, Text},
};
use serde::{Deserialize, Serialize};

use super::{ProjectCommand, ProjectRefusal};
use crate::eventing::aggregate::{Aggregate, Deciding, EventMeta, Index};

/// A project; nothing in `fixed` means it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// What never changes.
    pub fixed: Option<Fixed>,
    /// What people call it.
    pub display_name: Option<Text>,
    /// Since when none of its keys may be used.
    pub suspended: Option<Timestamp>,
    /// When it was last resumed: every earlier restriction is lifted.
    pub resumed: Option<Timestamp>,
}

/// What never changes about a project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its id.
    pub id: ProjectId,
    /// Its name in the tenant.
    pub name: Name,
    /// When it was created.
    pub created: Timestamp,
}

impl Aggregate for Project {
    type Id = ProjectId;
    type Command = ProjectCommand;
    type Event = ProjectEvent;
    type Refusal = ProjectRefusal;
    const KIND: &'static str = "project";

    fn decide(&self, command: &ProjectCommand, _: &Deciding<'_>) -> Result<Vec<ProjectEvent>, ProjectRefusal> {
        if let ProjectCommand::Create { name, display_name } = command {
            return match self.fixed {
                Some(_) => Err(ProjectRefusal::Exists),
                None => Ok(vec![ProjectCreated { name: name.clone(), display_name: display_name.clone() }.into()]),
            };
        }
        if self.fixed.is_none() {
            return Err(ProjectRefusal::NotFound);
        }
        match command {
            ProjectCommand::Create { .. } => Err(ProjectRefusal::Exists),
            ProjectCommand::Rename { display_name } if *display_name == self.display_name => Ok(Vec::new()),
            ProjectCommand::Rename { display_name } => Ok(vec![ProjectRenamed { display_name: display_name.clone() }.into()]),
            ProjectCommand::SetSuspended { suspended: true, reason } => match self.suspended {
                Some(_) => Err(ProjectRefusal::Suspended),
                None => Ok(vec![ProjectSuspended { reason: reason.clone() }.into()]),
            },
            ProjectCommand::SetSuspended { suspended: false, reason } => match self.suspended {
                Some(_) => Ok(vec![ProjectResumed { reason: reason.clone() }.into()]),
                None => Err(ProjectRefusal::NotSuspended),
            },
        }
    }

    fn evolve(&mut self, event: &ProjectEvent, meta: &EventMeta) {
        match event {
            ProjectEvent::ProjectCreated(event) => {
                self.fixed = meta.stream.id().map(|id| Fixed { id, name: event.name.clone(), created: meta.time });
                self.display_name = event.display_name.clone();
            }
            ProjectEvent::ProjectRenamed(event) => self.display_name = event.display_name.clone(),
            ProjectEvent::ProjectSuspended(_) => self.suspended = Some(meta.time),
            ProjectEvent::ProjectResumed(_) => {
                self.suspended = None;
                self.resumed = Some(meta.time);
            }
        }
    }

    fn index(&self) -> Index {
        let state = if self.suspended.is_some() { "suspended" } else { "active" };
        Index { name: self.fixed.as_ref().map(|fixed| fixed.name.to_string()), state: Some(state.to_owned()), ..Index::default() }
    }
}
