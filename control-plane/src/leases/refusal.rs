//! Why budgets say no.

use crate::eventing::refusals;

refusals! {
    /// Why a request for a lease is turned down.
    BudgetRefusal {
        Contradicts { version: u32 } = "lease_request_contradicts", "the request says of version {version} that the same part was spent and is given back";
    }
}
