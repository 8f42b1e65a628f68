//! What a tenant is, and how it decides.

use schema::{
    clock::Timestamp,
    event::tenant::{TenantCreated, TenantEvent, TenantRenamed},
    id::TenantId,
    name::{Name, Text},
};
use serde::{Deserialize, Serialize};

use super::{TenantCommand, TenantRefusal};
use crate::eventing::aggregate::{Aggregate, Deciding, EventMeta, Index};

/// A tenant; nothing in `fixed` means it does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// What never changes.
    pub fixed: Option<Fixed>,
    /// What people call it.
    pub display_name: Option<Text>,
}

/// What never changes about a tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Its id.
    pub id: TenantId,
    /// Its name in the deployment.
    pub name: Name,
    /// The principal that could administer it first.
    pub creator: String,
    /// When it was created.
    pub created: Timestamp,
}

impl Aggregate for Tenant {
    type Id = TenantId;
    type Command = TenantCommand;
    type Event = TenantEvent;
    type Refusal = TenantRefusal;
    const KIND: &'static str = "tenant";

    fn decide(&self, command: &TenantCommand, _: &Deciding<'_>) -> Result<Vec<TenantEvent>, TenantRefusal> {
        match (command, &self.fixed) {
            (TenantCommand::Create { .. }, Some(_)) => Err(TenantRefusal::Exists),
            (TenantCommand::Create { name, display_name, creator }, None) => {
                Ok(vec![TenantCreated { name: name.clone(), display_name: display_name.clone(), creator: creator.clone() }.into()])
            }
            (TenantCommand::Rename { .. }, None) => Err(TenantRefusal::NotFound),
            (TenantCommand::Rename { display_name }, Some(_)) if *display_name == self.display_name => Ok(Vec::new()),
            (TenantCommand::Rename { display_name }, Some(_)) => Ok(vec![TenantRenamed { display_name: display_name.clone() }.into()]),
        }
    }

    fn evolve(&mut self, event: &TenantEvent, meta: &EventMeta) {
        match event {
            TenantEvent::TenantCreated(event) => {
                let (name, creator) = (event.name.clone(), event.creator.clone());
                self.fixed = meta.stream.id().map(|id| Fixed { id, name, creator, created: meta.time });
                self.display_name = event.display_name.clone();
            }
            TenantEvent::TenantRenamed(event) => self.display_name = event.display_name.clone(),
        }
    }

    fn index(&self) -> Index {
        Index { name: self.fixed.as_ref().map(|fixed| fixed.name.to_string()), state: Some("active".to_owned()), ..Index::default() }
    }
}
