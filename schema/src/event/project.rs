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
            /// What it is for.
            description: Option<Text>,
        },
        /// It is described otherwise now.
        ProjectDescribed 1 {
            /// What it is for.
            description: Option<Text>,
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
