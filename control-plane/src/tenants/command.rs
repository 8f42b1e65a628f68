//! What may be asked of a tenant.

use schema::name::{Name, Text};
use serde::Serialize;

/// A parsed intent.
#[derive(Debug, Clone, Serialize)]
pub enum TenantCommand {
    /// Begin it.
    Create {
        /// Its name in the deployment.
        name: Name,
        /// What people call it.
        display_name: Option<Text>,
        /// The principal that may administer it first.
        creator: String,
    },
    /// Call it something else.
    Rename {
        /// What people call it.
        display_name: Option<Text>,
    },
}
