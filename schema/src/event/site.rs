//! What is recorded of a site.

use crate::{
    encoding::{Base64, Digest},
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
        /// Backups of the site are sealed to this key from now on. Agents that know another one go on with that until a person
        /// there has confirmed this one.
        SiteRecoveryKeySet 1 {
            /// Its number at the site, from 1 without gaps.
            number: u32,
            /// Its key id.
            keyid: Digest,
            /// How many shares of its private half there are.
            shares: u8,
            /// How many of them open a backup.
            threshold: u8,
            /// The agent it was made at.
            agent: AgentId,
            /// That agent's signed document: a DSSE envelope, exact bytes.
            document: Base64,
        },
        /// None of its agents may do anything until it is resumed.
        SiteSuspended 1 {
            /// Why.
            reason: Option<Text>,
        },
        /// Its agents may act again.
        SiteResumed 1 {
            /// Why.
            reason: Option<Text>,
        },
    }
}
