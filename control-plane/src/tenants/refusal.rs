//! Why a tenant says no.

use crate::eventing::refusals;

refusals! {
    /// Why a command on a tenant is turned down.
    TenantRefusal {
        Exists = "tenant_exists" at "name", "there already is a tenant of this name; choose another name";
        NotFound = "tenant_not_found", "there is no such tenant";
    }
}
