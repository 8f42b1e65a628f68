//! Why a composite says no.

use schema::{
    catalogue::Algorithm,
    composite::{Member, VerificationRule},
    key::Purpose,
};

use crate::eventing::refusals;

refusals! {
    /// Why a command on a composite is turned down.
    CompositeRefusal {
        Exists = "composite_exists" at "name", "the project already has, or had, a composite of this name; names are never reused, choose another";
        NotFound = "composite_not_found", "there is no such composite";
        NameTaken = "composite_name_is_taken" at "name", "a key or an alias of the project has this very name; choose another name for the composite";
        Incomplete = "composite_incomplete", "a composite has a classical and a post-quantum signing key";
        NotClassical { algorithm: Algorithm, purpose: Purpose } = "composite_key_not_classical" at "classical", "the classical key signs with RSA or on a curve, and this one is {algorithm} to {purpose}";
        NotPostQuantum { algorithm: Algorithm, purpose: Purpose } = "composite_key_not_post_quantum" at "postQuantum", "the post-quantum key signs with ML-DSA or SLH-DSA, and this one is {algorithm} to {purpose}";
        NotHybrid { algorithm: Algorithm, purpose: Purpose } = "composite_key_not_hybrid" at "encryption", "the encryption key is HPKE-9-KE or HPKE-9, which are hybrid by themselves, and this one is {algorithm} to {purpose}";
        OtherProject { member: Member } = "composite_crosses_projects", "the {member} key belongs to another project; a composite has keys of its own project";
        OtherSites { member: Member } = "composite_keys_at_different_sites", "the {member} key is not placed at the same sites as the others; a composite must work as a whole wherever it works";
        OfTemplate { member: Member } = "composite_key_of_template", "the {member} key follows a template: policy does not name it, and what a composite's name stands for is for policy to say; choose another key";
        Destroyed { member: Member } = "composite_key_destroyed", "the {member} key is destroyed; choose another key";
        NotStricter { rule: VerificationRule, present: VerificationRule } = "composite_rule_not_stricter" at "rule", "{rule} accepts what {present} does not; loosen the rule if that is meant";
        NotLooser { rule: VerificationRule, present: VerificationRule } = "composite_rule_not_looser" at "rule", "{rule} is stricter than {present}; tighten the rule instead";
        Retired = "composite_retired", "the composite is retired for good; create another one";
    }
}
