//! What is recorded of a site.

use crate::{
    events,
    name::{Name, Text},
    rule::OfflineRule,
};

events! {
    /// What happens to a site.
    SiteEvent {
        /// It was created.
        SiteCreated 1 {
            /// Its name in the tenant.
            name: Name,
            /// What people call it.
            display_name: Option<Text>,
        },
        /// People call it something else now.
        SiteRenamed 1 {
            /// What people call it.
            display_name: Option<Text>,
        },
        /// What goes on there without the control plane was changed.
        SiteOfflineRuleSet 1 {
            /// The rule; none: the tenant's, or the defaults.
            rule: Option<OfflineRule>,
        },
    }
}
