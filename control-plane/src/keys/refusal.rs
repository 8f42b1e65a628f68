//! Why a key says no.

use schema::{
    catalogue::Algorithm,
    clock::Timestamp,
    id::AgentId,
    key::{Protection, Purpose, VersionState},
};

use crate::eventing::refusals;

refusals! {
    /// Why a command on a key is turned down.
    KeyRefusal {
        Exists = "key_exists" at "name", "the project already has, or had, a key of this name; names are never reused, choose another";
        NotFound = "key_not_found", "there is no such key";
        NameTaken = "key_name_is_an_alias" at "name", "an alias of the project has this very name; choose another name for the key";
        NameOfComposite = "key_name_is_a_composite" at "name", "a composite of the project has, or had, this very name; choose another name for the key";
        Purpose { algorithm: Algorithm, purpose: Purpose } = "algorithm_does_not_serve_purpose" at "purpose", "{algorithm} cannot {purpose}; choose a purpose the catalogue lists for it";
        LegacyAlgorithm { algorithm: Algorithm } = "algorithm_only_opens_old_data" at "algorithm", "{algorithm} only opens and verifies what is old; choose another algorithm for a new key";
        NotExternal = "key_is_not_external", "this key's material is made by agents: rotate it instead";
        External = "key_is_external", "a partner makes this key: register the next public key that it sends instead";
        NeedsPublicKey = "external_key_needs_public_key" at "origin", "a key whose private half is elsewhere begins with its public key: register it as an external key";
        NoPublicHalf { algorithm: Algorithm } = "external_key_symmetric" at "algorithm", "{algorithm} is symmetric and has no public key; a partner's key needs an asymmetric algorithm";
        PublicKeyKnown { number: u32 } = "public_key_already_registered" at "publicKey", "version {number} has this very public key; ask the partner for a new one";
        NoPlacement = "key_without_site" at "placement", "a key needs at least one site where its material may be";
        PlacementTwice = "key_site_twice" at "placement", "a site stands twice in the placement";
        DurabilityMustBeChosen = "durability_must_be_chosen" at "durability", "losing the host of an agent loses the keys that are nowhere else, and a site of this key has no recovery key to seal backups to: make one (freehold-agent recovery init on an agent of the site) and the key is backed up before its first use; or choose two-holders, where another agent of the site has a copy, or single-copy, if losing one vault may lose the key";
        NoRecoveryKey = "no_recovery_key" at "durability", "sealed-backup needs a recovery key at every site of the key, and a site has none yet: make one (freehold-agent recovery init on an agent of the site), or choose two-holders, or single-copy if you accept that losing one vault loses the key";
        ImportedHardware = "protection_of_imported" at "protection", "material that was made elsewhere has been in other hands, and no device can say that it never was; choose sealed-by-hardware";
        ExportableHardware = "protection_of_exportable" at "protection", "a key that never leaves its device cannot be exportable; choose sealed-by-hardware, or a key that is not exportable";
        HardwareIsOneCopy = "protection_is_one_copy" at "durability", "a key that never leaves its device has one home, and no backup but the device's own: choose single-copy, or sealed-by-hardware";
        ProtectionNotMet { number: u32, demanded: Protection } = "protection_not_met", "version {number} is of a key that demands the protection {demanded}, and the holder's vault guards it less; place the key at sites whose vaults can";
        Limits = "limits_out_of_order" at "limits", "a soft limit must not be above its hard limit, and a hard limit must not be 0";
        Rotation = "rotation_rule_out_of_order" at "rotation", "everySeconds must be above 0 and not below minIntervalSeconds, afterUses above 0, and destroyAfterSeconds 3600 to 31622400 and only beside deactivateAfterSeconds";
        UsesNotCounted = "rotation_by_uses_needs_limit" at "rotation", "agents count uses only under a limit: set a soft or hard limit on uses that is not below afterUses";
        ImportedByHand = "imported_key_rotates_by_hand" at "rotation", "a key that is imported gets its next version when somebody brings it; leave everySeconds, afterUses and calendar out";
        TooManyLabels { max: usize } = "key_has_too_many_labels" at "labels", "a key has at most {max} labels";
        Template { what: &'static str } = "key_does_not_fit_template" at "template", "the template does not allow this: {what}; change the key, or publish a policy whose template allows it";
        TemplateUsedUp { max: u64 } = "template_used_up" at "template", "the template allows {max} keys and they were all made; publish a policy that allows more";
        FollowsTemplate = "key_follows_template", "the key follows a template of policy, which fixes this; change the template, and make a new key";
        MinimumVersion { highest: u32 } = "minimum_version_does_not_exist" at "minimumVersions", "the key has versions up to {highest}; a minimum must be one of them, or 0 for none";
        MinimumAbovePrimary { primary: u32 } = "minimum_version_above_primary" at "minimumVersions", "version {primary} is used when none is named; a minimum above it would stop the key: rotate first";
        AlreadySuspended = "key_already_suspended", "the key is already suspended";
        NotSuspended = "key_not_suspended", "the key is not suspended, so there is nothing to resume";
        Suspended = "key_suspended", "the key is suspended; resume it first";
        VersionPending { number: u32 } = "version_pending", "version {number} is not ready yet; wait until its holders have reported it, or destroy it";
        RotationTooSoon { until: Timestamp } = "rotation_too_soon", "the rotation rule allows the next version from {until} on";
        VersionNotFound { number: u32 } = "version_not_found" at "version", "the key has no version {number}";
        OtherKey = "document_of_another_key", "the document names a version of another key";
        NotPlacedThere = "key_not_placed_at_site" at "site", "the key is not placed at the agent's site";
        NotEligible { agent: AgentId } = "generator_not_eligible" at "generator", "{agent} is not among the agents that may make this key's material";
        AlreadyMade { number: u32 } = "version_already_made", "version {number} was already made; its generator is final";
        NoGenerator { number: u32 } = "no_generator_assigned", "no agent was chosen to make version {number} yet";
        NotTheGenerator { agent: AgentId } = "not_the_generator", "{agent} was not the one chosen to make this version";
        OtherAlgorithm { algorithm: Algorithm } = "version_record_of_another_algorithm", "the version record names another algorithm or origin than the key has ({algorithm})";
        PublicKey = "version_record_public_key", "an asymmetric version comes with its public key, a symmetric one without";
        FingerprintIsFinal { number: u32 } = "fingerprint_is_final", "version {number} was recorded with another fingerprint, and the first is final; look into the vault of the agent that sent this";
        NotMade { number: u32 } = "version_not_made", "version {number} has no version record yet; send the generator's record first";
        Transition { from: VersionState, to: VersionState } = "version_state_forbids", "a version that is {from} cannot become {to}";
        VersionNotSuspended { number: u32 } = "version_not_suspended", "version {number} is not suspended, so there is nothing to resume";
        DeactivationIsScheduled { number: u32, due: Timestamp } = "deactivation_already_scheduled", "version {number} will be deactivated at {due}; cancel that first";
        DeactivationPast = "deactivation_date_is_past" at "at", "this moment has passed; leave it out to deactivate the version now";
        NoDeactivation { number: u32 } = "deactivation_not_scheduled", "no deactivation of version {number} is scheduled";
        SuccessorItself = "key_succeeds_itself" at "successor", "a key cannot take its own place";
        SuccessorMissing = "successor_not_found" at "successor", "there is no key of this name or id to take its place";
        SuccessorElsewhere = "successor_of_another_project" at "successor", "the key that takes its place must be in the same project, so that the same policies reach it";
        SuccessorPurpose { purpose: Purpose } = "successor_of_another_purpose" at "successor", "the key that takes its place must be for {purpose} too";
        SuccessorCircle = "successor_leads_back" at "successor", "the place of that key is already taken by this one, directly or through others";
        DestructionIsScheduled { number: u32, due: Timestamp } = "destruction_already_scheduled", "version {number} will be destroyed from {due} on; cancel that first";
        DeletionProtection = "key_deletion_protected", "the key is protected from destruction; switch the protection off first";
        Wait { min_seconds: u64, max_seconds: u64 } = "destruction_wait_out_of_range" at "waitSeconds", "a destruction waits {min_seconds} to {max_seconds} seconds, so that it can be cancelled";
        NoDestruction { number: u32 } = "destruction_not_scheduled", "no destruction of version {number} is scheduled";
        DestructionBegun { number: u32 } = "destruction_already_begun", "the destruction of version {number} has begun and cannot be cancelled";
        NotDue { due: Timestamp } = "destruction_not_due", "the destruction may begin from {due} on";
        DestructionNotBegun { number: u32 } = "destruction_not_begun", "version {number} was not to be destroyed yet; if its holder has lost it all the same, revoke the version";
        Destroyed { number: u32 } = "version_destroyed", "version {number} is destroyed, or about to be";
        NotAHolder { agent: AgentId } = "not_a_holder" at "holder", "{agent} never had this version, as far as anybody has reported";
    }
}
