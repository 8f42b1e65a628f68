//! What is recorded of a project.

use crate::{
    events,
    name::{Name, Text},
};

events! {
    /// What happens to a project.
    ProjectEvent {
        /// It was created.
        ProjectCreated 1 {
            /// Its name in the tenant.
            name: Name,
            /// What people call it.
            display_name: Option<Text>,
        },
        /// People call it something else now.
        ProjectRenamed 1 {
            /// What people call it.
            display_name: Option<Text>,
        },
        /// No key of it may be used until it is resumed.
        ProjectSuspended 1 {
            /// Why.
            reason: Option<Text>,
        },
        /// Its keys may be used again.
        ProjectResumed 1 {
            /// Why.
            reason: Option<Text>,
        },
    }
}
