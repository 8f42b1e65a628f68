//! Why a policy document says no.

use schema::name::Name;

use crate::eventing::refusals;

refusals! {
    /// Why a command on a policy document is turned down.
    PolicyRefusal {
        Exists = "policy_exists" at "name", "there already is a policy document of this name in this scope; change that one, or choose another name";
        NotFound = "policy_not_found", "there is no such policy document";
        DraftChanged { present: u32 } = "policy_draft_changed", "somebody else saved draft {present} in the meantime; look at it, and save or publish again";
        NoDraft = "policy_without_draft", "the document has no draft; save one first";
        VersionNotFound { version: u32 } = "policy_version_not_found" at "version", "the document has no version {version}";
        AlreadyInForce { version: u32 } = "policy_unchanged", "version {version} is in force and says exactly this";
        Invalid { errors: usize } = "policy_invalid", "the Cedar text has {errors} errors; validate it to see where, and save a corrected draft";
        OtherText = "policy_text_changed", "the text that was checked is not the one to be published; try again";
        TemplateInUse { keys: usize, named: String } = "policy_template_in_use", "this would leave {keys} keys outside the template they were made from, and agents would refuse everything that follows: {named}; keep the template as wide as its keys need, and give narrower rules for new keys a template of another name";
        TooLarge { max_bytes: u64 } = "policy_too_large" at "content.cedar", "the Cedar text of one document has at most {max_bytes} bytes; split it into several documents";
        TemplatesNotHere = "policy_templates_not_here" at "content.templates", "key templates stand in documents of the tenant or of a project, not of a site";
        TemplateOfOtherProject { template: Name } = "policy_template_of_another_project" at "content.templates", "template {template} is for another project than this document";
        TemplateEmpty { template: Name } = "policy_template_allows_nothing" at "content.templates", "template {template} must allow at least one algorithm, purpose, site and durability";
        TemplatePurposes { template: Name } = "policy_template_purpose" at "content.templates", "template {template} lists an algorithm that serves none of its purposes";
        TemplateLimits { template: Name } = "policy_template_limits" at "content.templates", "template {template} has limits or a rotation rule out of order";
        RulesNotHere = "policy_rules_not_here" at "content", "offline and vouching rules stand in documents of the tenant or of a site, not of a project";
        Vouching = "policy_vouching_impossible" at "content.vouching", "somebody must be able to vouch: allow agents (agentsNeeded at least 1) or the tenant's signers";
        OfflineRule = "policy_offline_rule_out_of_order" at "content.offline", "an offline rule needs staleSeconds <= graceSeconds <= expiredSeconds, and staleSeconds above 0";
    }
}
