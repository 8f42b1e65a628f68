//! Why a site says no.

use crate::eventing::refusals;

refusals! {
    /// Why a command on a site is turned down.
    SiteRefusal {
        Exists = "site_exists" at "name", "there already is a site of this name; names are never reused, choose another";
        NotFound = "site_not_found", "there is no such site";
        Founded = "site_already_founded", "another agent joined this site first, or is about to";
        OfflineRule = "offline_rule_out_of_order" at "offline", "an offline rule needs staleSeconds <= graceSeconds <= expiredSeconds, and staleSeconds above 0";
    }
}
