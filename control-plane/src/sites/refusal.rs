//! Why a site says no.

use crate::eventing::refusals;

refusals! {
    /// Why a command on a site is turned down.
    SiteRefusal {
        Exists = "site_exists" at "name", "there already is a site of this name; names are never reused, choose another";
        NotFound = "site_not_found", "there is no such site";
        Founded = "site_already_founded", "another agent joined this site first, or is about to";
        RecoveryKeyNumber { next: u32 } = "recovery_key_number", "the next recovery key of the site has the number {next}: another one was made since; look at it, and make yours again if it is still wanted";
        RecoveryKeyShares = "recovery_key_shares", "a recovery key is split into shares of which at least 2 are needed, and not more than there are";
        Suspended = "site_already_suspended", "the site is already suspended";
        NotSuspended = "site_not_suspended", "the site is not suspended, so there is nothing to resume";
        OfflineRule = "offline_rule_out_of_order" at "offline", "an offline rule needs staleSeconds <= graceSeconds <= expiredSeconds, and staleSeconds above 0";
    }
}
