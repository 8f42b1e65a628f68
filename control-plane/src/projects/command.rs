//! What may be asked of a project.

use schema::name::{Name, Text};
use serde::Serialize;

/// A parsed intent.
#[derive(Debug, Clone, Serialize)]
pub enum ProjectCommand {
    /// Begin it.
    Create {
        /// Its name in the tenant.
        name: Name,
        /// What people call it.
        display_name: Option<Text>,
    },
    /// Call it something else.
    Rename {
        /// What people call it.
        display_name: Option<Text>,
    },
    /// Stop the use of all its keys, or allow it again.
    SetSuspended {
        /// Whether its keys are to stand still.
        suspended: bool,
        /// Why.
        reason: Option<Text>,
    },
}
