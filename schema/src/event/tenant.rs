//! What is recorded of a tenant.

use crate::{
    events,
    name::{Name, Text},
};

events! {
    /// What happens to a tenant.
    TenantEvent {
        /// It was created.
        TenantCreated 1 {
            /// Its name in the deployment.
            name: Name,
            /// What people call it.
            display_name: Option<Text>,
            /// The principal that may administer it first.
            creator: String,
        },
        /// People call it something else now.
        TenantRenamed 1 {
            /// What people call it.
            display_name: Option<Text>,
        },
    }
}
