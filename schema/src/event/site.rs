//! What is recorded of a site.

use crate::{
    encoding::Digest,
    events,
    id::AgentId,
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
        /// Its first agent is about to enrol, or the first after all former ones were revoked.
        SiteFounded 1 {
            /// The agent.
            agent: AgentId,
            /// The key id of its pair: whom those that join later believe first.
            keyid: Digest,
        },
        /// What goes on there without the control plane was changed.
        SiteOfflineRuleSet 1 {
            /// The rule; none: the tenant's, or the defaults.
            rule: Option<OfflineRule>,
        },
    }
}
