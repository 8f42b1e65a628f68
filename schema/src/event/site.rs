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
            /// Where and what it is.
            description: Option<Text>,
        },
        /// It is described otherwise now.
        SiteDescribed 1 {
            /// Where and what it is.
            description: Option<Text>,
        },
        /// What goes on there without the control plane was changed.
        SiteOfflineRuleSet 1 {
            /// The rule; none: the tenant's, or the defaults.
            rule: Option<OfflineRule>,
        },
    }
}
