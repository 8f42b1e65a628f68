//! Why an alias says no.

use crate::eventing::refusals;

refusals! {
    /// Why a command on an alias is turned down.
    AliasRefusal {
        Exists = "alias_exists" at "name", "the project already has an alias of this name; move it, or retire it first";
        NotFound = "alias_not_found" at "name", "the project has no alias of this name";
        NameTaken = "alias_is_a_key_name" at "name", "a key of the project has this very name; choose another name for the alias";
        NameOfComposite = "alias_is_a_composite_name" at "name", "a composite of the project has, or had, this very name; choose another name for the alias";
        OtherProject = "alias_crosses_projects" at "key", "the key belongs to another project; an alias stands for a key of its own project";
    }
}
