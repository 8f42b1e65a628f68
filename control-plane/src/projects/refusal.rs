//! Why a project says no.

use crate::eventing::refusals;

refusals! {
    /// Why a command on a project is turned down.
    ProjectRefusal {
        Exists = "project_exists" at "name", "there already is a project of this name; names are never reused, choose another";
        NotFound = "project_not_found", "there is no such project";
        Suspended = "project_already_suspended", "the project is already suspended";
        NotSuspended = "project_not_suspended", "the project is not suspended, so there is nothing to resume";
    }
}
