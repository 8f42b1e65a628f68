//! Whether a request is allowed. Pure: everything it needs is in its arguments. The answer is a permit or a refusal.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use schema::{
    catalogue::{Algorithm, Status},
    clock::Timestamp,
    context::EncryptionContext,
    id::{CallerId, KeyVersion},
    key::{KeyReference, Operation, VersionState},
    obligation::Obligations,
    wire::operation::{Freshness, Outlook, Warning},
};
use trust::statement::{policy::CallerDefinition, state::Subject};

use super::{
    in_force::{InForce, KeyInForce, serves},
    permit::UsePermit,
    refusal::Refusal,
    slice::{Moment, Target, Verdict},
};

/// What somebody asks.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Who, proved.
    pub caller: CallerId,
    /// What.
    pub operation: Operation,
    /// The encryption context.
    pub context: &'a EncryptionContext,
    /// Where the caller comes from.
    pub address: IpAddr,
    /// Bytes of plaintext or ciphertext, when known beforehand.
    pub size: Option<u64>,
    /// How many keys a message or file is for, where it is for keys.
    pub recipients: Option<u32>,
    /// Whether the version is to protect anew, though the operation is one that also reads what is old.
    pub anew: bool,
    /// Whether the asker can hide parts of what it hands out.
    pub masks: bool,
    /// Whether it is about one of the two signatures of a composite, which are judged together.
    pub together: bool,
}

/// What a decision rests on.
#[derive(Clone, Copy)]
pub struct Grounds<'a> {
    /// The set in force.
    pub in_force: Option<&'a InForce>,
    /// Algorithms that passed their self-tests.
    pub enabled: &'a BTreeSet<Algorithm>,
    /// Agent time.
    pub now: Timestamp,
}

/// The use of a key was allowed.
#[derive(Debug)]
pub struct Allowed {
    /// To be spent by the vault.
    pub permit: UsePermit,
    /// The key.
    pub key: Arc<KeyInForce>,
    /// The version to use.
    pub version: KeyVersion,
    /// The policies that allowed it.
    pub policies: Vec<String>,
    /// What they demand, beyond what was checked here: a mask, and a size that was not known beforehand.
    pub obligations: Obligations,
    /// What should be looked at soon.
    pub warnings: Vec<Warning>,
}

impl Allowed {
    /// The same decision for another request that is no different.
    pub fn again(&self) -> Self {
        Self {
            permit: UsePermit::grant(self.version, self.permit.operation(), self.permit.algorithm(), self.permit.external().cloned()),
            key: self.key.clone(),
            version: self.version,
            policies: self.policies.clone(),
            obligations: self.obligations.clone(),
            warnings: self.warnings.clone(),
        }
    }
}

/// Something that needs no key was allowed.
#[derive(Debug, Clone)]
pub struct AllowedKeyless {
    /// The policies that allowed it.
    pub policies: Vec<String>,
    /// What should be looked at soon.
    pub warnings: Vec<Warning>,
}

/// A request was turned down, and what was known of it by then.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The version that would have been used.
    pub version: Option<KeyVersion>,
    /// Its algorithm.
    pub algorithm: Option<Algorithm>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, version: None, algorithm: None }
    }
}

/// How old the statements in force are.
pub fn freshness(in_force: Option<&InForce>, now: Timestamp) -> Freshness {
    let Some(in_force) = in_force else { return Freshness::None };
    let (age, rule) = (in_force.age_seconds(now), &in_force.offline);
    if age >= rule.expired_seconds {
        Freshness::Expired
    } else if age >= rule.grace_seconds {
        Freshness::Grace
    } else if age >= rule.stale_seconds {
        Freshness::Stale
    } else {
        Freshness::Fresh
    }
}

/// Whether a caller may use a key. From the cheap to the dear: who, how old, which key, what Cedar says, then what the
/// version allows, so that somebody who may not use a key does not learn its state.
pub fn decide(grounds: &Grounds<'_>, ask: &Ask<'_>, reference: &KeyReference) -> Result<Allowed, Refused> {
    let (in_force, caller, mut warnings) = admit(grounds, ask)?;
    let key = find(in_force, reference, ask.operation)?;
    let definition = &key.definition;
    if !serves(definition, ask.operation) {
        return Err(match ask.operation {
            Operation::PublicKey => Refusal::NoPublicKey,
            Operation::Import if !definition.is_external() => Refusal::NotImported,
            Operation::Export if !definition.is_external() => Refusal::NotExportable,
            operation if definition.algorithm.does(definition.purpose, operation) => Refusal::ExternalKey { operation },
            operation => Refusal::WrongPurpose { purpose: definition.purpose, operation },
        }
        .into());
    }
    let number = match reference {
        KeyReference::Version(version) => version.number,
        _ if ask.operation == Operation::Import => key.awaited().unwrap_or_default(),
        KeyReference::Id(_) | KeyReference::Composite(_) | KeyReference::Named { .. } => key.primary,
    };
    let version = KeyVersion::new(key.id, number);
    let refuse = |refusal| Refused { refusal, version: (number > 0).then_some(version), algorithm: Some(definition.algorithm) };

    let freshness = freshness(Some(in_force), grounds.now);
    let moment = Moment {
        context: ask.context,
        time: grounds.now,
        address: ask.address,
        size: ask.size,
        version: (number > 0).then_some(number),
        statements: freshness.as_str(),
        recipients: ask.recipients,
    };
    let verdict = in_force.policies.decide((ask.caller, caller), ask.operation, Target::Key(key.id, definition), &moment);
    let (policies, obligations) =
        verdict.map_err(Refusal::Undecidable).and_then(|verdict| allowed_by(&verdict, ask, Some(definition.algorithm))).map_err(refuse)?;

    let permit = UsePermit::grant(version, ask.operation, definition.algorithm, key.external(version.number).cloned());
    if ask.operation == Operation::Explain {
        return Ok(Allowed { permit, key: key.clone(), version, policies, obligations, warnings });
    }
    match ask.operation {
        Operation::Import => check_awaited(in_force, key, version),
        _ => check_version(grounds, ask, key, version, &mut warnings),
    }
    .map_err(refuse)?;
    warn_of_algorithm(definition.algorithm, &mut warnings);
    if !grounds.enabled.contains(&definition.algorithm) {
        return Err(refuse(Refusal::AlgorithmDisabled { algorithm: definition.algorithm.name() }));
    }
    Ok(Allowed { permit, key: key.clone(), version, policies, obligations, warnings })
}

/// The key that is meant: by its own name, or as the one that does this for a composite.
fn find<'a>(in_force: &'a InForce, reference: &KeyReference, operation: Operation) -> Result<&'a Arc<KeyInForce>, Refusal> {
    if let Some(key) = in_force.key(reference) {
        return Ok(key);
    }
    let not_found = || Refusal::KeyNotFound { reference: reference.clone() };
    let composite = in_force.composite(reference).ok_or_else(not_found)?;
    let member = composite.member_for(operation).ok_or(Refusal::Composite { operation })?;
    in_force.key(&KeyReference::Id(member)).ok_or_else(not_found)
}

/// How an operation stands with a key, as far as policy goes: nothing when it is not allowed whatever the request. The
/// request is taken as it is, so it should be without what it is not about.
pub fn outlook(grounds: &Grounds<'_>, ask: &Ask<'_>, key: &KeyInForce) -> Option<Outlook> {
    let (in_force, caller, _) = admit(grounds, ask).ok()?;
    let moment = Moment {
        context: ask.context,
        time: grounds.now,
        address: ask.address,
        size: ask.size,
        version: (key.primary > 0).then_some(key.primary),
        statements: freshness(Some(in_force), grounds.now).as_str(),
        recipients: ask.recipients,
    };
    let target = Target::Key(key.id, &key.definition);
    let (verdict, conditional) = in_force.policies.look((ask.caller, caller), ask.operation, target, &moment).ok()?;
    match verdict {
        Verdict::Allowed(policies, obligations) => match meets(&policies, &obligations, ask, Some(key.definition.algorithm)) {
            Ok(()) => Some(Outlook::Allowed),
            Err(_) => Some(Outlook::Conditional),
        },
        Verdict::NothingAllows(Some(_)) => Some(Outlook::Conditional),
        Verdict::Forbidden(_) if conditional => Some(Outlook::Conditional),
        Verdict::NothingAllows(None) | Verdict::Forbidden(_) => None,
    }
}

/// Whether a caller may ask for something that needs no key.
pub fn decide_keyless(grounds: &Grounds<'_>, ask: &Ask<'_>) -> Result<AllowedKeyless, Refused> {
    let (in_force, caller, warnings) = admit(grounds, ask)?;
    let freshness = freshness(Some(in_force), grounds.now);
    let moment = Moment {
        context: ask.context,
        time: grounds.now,
        address: ask.address,
        size: ask.size,
        version: None,
        statements: freshness.as_str(),
        recipients: ask.recipients,
    };
    let verdict = in_force.policies.decide((ask.caller, caller), ask.operation, Target::Site(in_force.site), &moment);
    let (policies, _) = verdict.map_err(Refusal::Undecidable).and_then(|verdict| allowed_by(&verdict, ask, None))?;
    Ok(AllowedKeyless { policies, warnings })
}

fn allowed_by(verdict: &Verdict, ask: &Ask<'_>, algorithm: Option<Algorithm>) -> Result<(Vec<String>, Obligations), Refusal> {
    match verdict {
        Verdict::Allowed(policies, obligations) => {
            meets(policies, obligations, ask, algorithm)?;
            Ok((policies.clone(), obligations.clone()))
        }
        Verdict::Forbidden(policies) => Err(Refusal::Forbidden { policies: policies.clone() }),
        Verdict::NothingAllows(nearest) => Err(Refusal::NothingAllows { nearest: nearest.clone() }),
    }
}

/// Whether a request does what the policies that permit it demand.
fn meets(policies: &[String], obligations: &Obligations, ask: &Ask<'_>, algorithm: Option<Algorithm>) -> Result<(), Refusal> {
    let unmet = |demand: String| Err(Refusal::Obligation { policies: policies.to_vec(), demand });
    if let Some(missing) = obligations.require_context.iter().find(|name| !ask.context.pairs().contains_key(*name)) {
        return unmet(format!("the encryption context needs the pair {missing:?}"));
    }
    if let (Some(max), Some(size)) = (obligations.max_bytes, ask.size)
        && size > max
    {
        return unmet(format!("at most {max} bytes are allowed, and these are {size}"));
    }
    if let Some(mask) = obligations.mask.filter(|_| !ask.masks && hands_out(ask.operation)) {
        return unmet(format!("what it gives out is to be masked ({mask}), which only decrypting messages can do"));
    }
    if let (Some(rule), Some(algorithm)) = (obligations.require_signatures, algorithm)
        && is_of_signature(ask.operation)
        && !ask.together
        && !rule.holds(!algorithm.is_post_quantum(), algorithm.is_post_quantum())
    {
        return unmet(format!(
            "the rule for signatures is {rule}, which {algorithm} alone does not meet: sign and verify with a composite"
        ));
    }
    Ok(())
}

/// Whether a signature is made or judged.
const fn is_of_signature(operation: Operation) -> bool {
    use Operation::{ReSign, Sign, SignDigest, Verify, VerifyDigest, VerifyLegacy};
    matches!(operation, Sign | Verify | ReSign | SignDigest | VerifyDigest | VerifyLegacy)
}

/// Whether the answer holds what was protected.
const fn hands_out(operation: Operation) -> bool {
    matches!(operation, Operation::Decrypt | Operation::DecryptLegacy | Operation::Export)
}

/// Whether the caller is let in at all, whatever it wants.
pub fn known<'a>(grounds: &Grounds<'a>, id: CallerId) -> Result<(&'a InForce, &'a CallerDefinition), Refusal> {
    let in_force = grounds.in_force.ok_or(Refusal::NoStatements)?;
    if in_force.is_held(Subject::Agent(in_force.agent)) {
        return Err(Refusal::AgentSuspended);
    }
    if in_force.is_held(Subject::Site(in_force.site)) {
        return Err(Refusal::SiteSuspended);
    }
    let caller = in_force.caller(id).ok_or(Refusal::CallerUnknown { caller: id.to_string() })?;
    if in_force.is_held(Subject::Caller(id)) || in_force.is_held(Subject::Project(caller.project)) {
        return Err(Refusal::CallerSuspended { caller: id });
    }
    Ok((in_force, caller))
}

/// Whether the caller is let in for this operation, by statements of this age.
fn admit<'a>(grounds: &Grounds<'a>, ask: &Ask<'_>) -> Result<(&'a InForce, &'a CallerDefinition, Vec<Warning>), Refusal> {
    let (in_force, caller) = known(grounds, ask.caller)?;
    let age_seconds = in_force.age_seconds(grounds.now);
    let warning =
        |code: &str, detail: &str| Warning { code: code.to_owned(), detail: format!("the policy in force is {age_seconds} s old{detail}") };
    let warnings = match freshness(Some(in_force), grounds.now) {
        Freshness::Fresh => Vec::new(),
        Freshness::Stale => vec![warning("statements_stale", ": the agent has not heard from the control plane")],
        Freshness::Grace if in_force.offline.grace_operations.contains(&ask.operation) => {
            let left = in_force.offline.expired_seconds.saturating_sub(age_seconds);
            vec![warning("statements_grace", &format!(": only offline operations are allowed, for another {left} s"))]
        }
        Freshness::Grace => return Err(Refusal::NotOffline { operation: ask.operation, age_seconds }),
        Freshness::Expired | Freshness::None => return Err(Refusal::StatementsExpired { age_seconds }),
    };
    Ok((in_force, caller, warnings))
}

fn check_version(
    grounds: &Grounds<'_>,
    ask: &Ask<'_>,
    key: &KeyInForce,
    version: KeyVersion,
    warnings: &mut Vec<Warning>,
) -> Result<(), Refusal> {
    let (operation, protects) = (ask.operation, ask.anew || ask.operation.protects());
    if version.number == 0 {
        return Err(Refusal::NoPrimaryVersion);
    }
    let entry = key.versions.get(&version.number).ok_or(Refusal::VersionNotFound { version })?;
    let allowed = if protects { entry.state.may_protect() } else { entry.state.may_process() };
    if !allowed {
        return Err(Refusal::VersionState { version, state: entry.state, operation });
    }
    let minimums = key.definition.minimum_versions;
    let minimum = if protects { minimums.protect.max(minimums.process) } else { minimums.process };
    if version.number < minimum {
        return Err(Refusal::BelowMinimumVersion { version, minimum });
    }
    if protects {
        let limits = &key.definition.limits;
        let active_seconds = entry.activated.map_or(0, |since| grounds.now.since(since).as_secs());
        if let Some(limit_seconds) = limits.hard_seconds.filter(|limit| active_seconds >= *limit) {
            return Err(Refusal::HardTimeLimit { version, limit_seconds });
        }
        if let Some(limit_seconds) = limits.hard_seconds
            && let left = limit_seconds.saturating_sub(active_seconds)
            && left <= limit_seconds / 10
        {
            let detail = format!("version {version} protects nothing new in {left} s, when its hard limit is reached: rotate the key");
            warnings.push(Warning { code: "deactivation_ahead".to_owned(), detail });
        }
        if let Some(limit) = limits.soft_seconds.filter(|limit| active_seconds >= *limit) {
            let detail =
                format!("version {version} has been active for {active_seconds} s, past its soft limit of {limit} s: rotate the key");
            warnings.push(Warning { code: "soft_limit_time".to_owned(), detail });
        }
        if version.number != key.primary {
            let detail = format!("version {version} is not the primary version ({}): name the key without a version", key.primary);
            warnings.push(Warning { code: "older_version".to_owned(), detail });
        }
    }
    Ok(())
}

/// Whether a version waits for material, and for it to come here.
fn check_awaited(in_force: &InForce, key: &KeyInForce, version: KeyVersion) -> Result<(), Refusal> {
    if version.number == 0 {
        return Err(Refusal::NothingAwaited);
    }
    let entry = key.versions.get(&version.number).ok_or(Refusal::VersionNotFound { version })?;
    if entry.record.is_some() {
        return Err(Refusal::AlreadyImported { version });
    }
    if entry.state != VersionState::PreActivation {
        return Err(Refusal::VersionState { version, state: entry.state, operation: Operation::Import });
    }
    match entry.generator {
        Some(agent) if agent == in_force.agent => Ok(()),
        generator => Err(Refusal::AwaitedElsewhere { version, generator }),
    }
}

fn warn_of_algorithm(algorithm: Algorithm, warnings: &mut Vec<Warning>) {
    let (code, detail) = match algorithm.entry().status {
        Status::Recommended | Status::Allowed => return,
        Status::Legacy => ("algorithm_legacy", "is only for what is old: make a new key of a recommended algorithm"),
        Status::Draft => ("algorithm_draft", "follows a draft: its format may still change"),
    };
    warnings.push(Warning { code: code.to_owned(), detail: format!("{algorithm} {detail}") });
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use schema::key::{Limits, MinimumVersions, Origin, Purpose};

    use super::*;
    use crate::policy::testing::{CALLER, CLASSICAL, COMPOSITE, KEY, NOW, PROJECT, SEALED, SITE, SetBuilder};

    const ANYTHING: &str = "permit (principal, action, resource);";

    fn ask(operation: Operation, context: &EncryptionContext) -> Ask<'_> {
        Ask {
            caller: CALLER,
            operation,
            context,
            address: Ipv4Addr::LOCALHOST.into(),
            size: Some(10),
            recipients: None,
            anew: false,
            masks: false,
            together: false,
        }
    }

    fn try_at(set: &SetBuilder, operation: Operation, reference: &str, now: Timestamp) -> Result<Allowed, &'static str> {
        let enabled = Algorithm::all().collect();
        let in_force = set.compile();
        let context = EncryptionContext::default();
        let grounds = Grounds { in_force: Some(&in_force), enabled: &enabled, now };
        decide(&grounds, &ask(operation, &context), &reference.parse().unwrap()).map_err(|refused| refused.refusal.code())
    }

    fn attempt(set: &SetBuilder, operation: Operation, reference: &str) -> Result<Allowed, &'static str> {
        try_at(set, operation, reference, NOW)
    }

    #[test]
    fn without_a_set_nothing_is_allowed() {
        let enabled = Algorithm::all().collect();
        let context = EncryptionContext::default();
        let grounds = Grounds { in_force: None, enabled: &enabled, now: NOW };
        let refused = decide(&grounds, &ask(Operation::Encrypt, &context), &"billing/cards".parse().unwrap()).unwrap_err();
        assert_eq!(refused.refusal.code(), "no_policy_yet");
        assert_eq!(decide_keyless(&grounds, &ask(Operation::Random, &context)).unwrap_err().refusal.code(), "no_policy_yet");
    }

    #[test]
    fn keys_are_found_by_id_version_name_and_alias() {
        let mut set = SetBuilder::new(ANYTHING);
        set.key().aliases = vec!["pan".parse().unwrap()];
        for reference in [KEY.to_string(), format!("{KEY}/2"), "billing/cards".to_owned(), "billing/pan".to_owned()] {
            let allowed = attempt(&set, Operation::Encrypt, &reference).unwrap();
            assert_eq!((allowed.version, allowed.policies), (KeyVersion::new(KEY, 2), vec!["pol/0".to_owned()]));
            assert_eq!((allowed.permit.version(), allowed.permit.operation()), (KeyVersion::new(KEY, 2), Operation::Encrypt));
        }
        assert_eq!(attempt(&set, Operation::Encrypt, "billing/other").unwrap_err(), "key_not_found");
        set.key().placement = vec![];
        assert_eq!(attempt(&set, Operation::Encrypt, "billing/cards").unwrap_err(), "key_not_found");
    }

    #[test]
    fn old_versions_only_process() {
        let set = SetBuilder::new(ANYTHING);
        assert!(attempt(&set, Operation::Decrypt, &format!("{KEY}/1")).is_ok());
        assert_eq!(attempt(&set, Operation::Encrypt, &format!("{KEY}/1")).unwrap_err(), "version_state");
        assert_eq!(attempt(&set, Operation::Decrypt, &format!("{KEY}/3")).unwrap_err(), "version_not_found");
    }

    #[test]
    fn minimum_versions_and_time_limits_hold() {
        let mut set = SetBuilder::new(ANYTHING);
        set.key().minimum_versions = MinimumVersions { process: 2, protect: 3 };
        assert_eq!(attempt(&set, Operation::Decrypt, &format!("{KEY}/1")).unwrap_err(), "below_minimum_version");
        assert_eq!(attempt(&set, Operation::Encrypt, "billing/cards").unwrap_err(), "below_minimum_version");
        set.key().minimum_versions = MinimumVersions::default();
        set.key().limits = Limits { soft_seconds: Some(10), hard_seconds: Some(20), ..Limits::default() };
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        assert!(try_at(&set, Operation::Encrypt, "billing/cards", later(9)).unwrap().warnings.is_empty());
        assert_eq!(try_at(&set, Operation::Encrypt, "billing/cards", later(10)).unwrap().warnings[0].code, "soft_limit_time");
        let codes = |seconds| -> Vec<String> {
            let allowed = try_at(&set, Operation::Encrypt, "billing/cards", later(seconds)).unwrap();
            allowed.warnings.into_iter().map(|warning| warning.code).collect()
        };
        assert_eq!(codes(18), ["deactivation_ahead", "soft_limit_time"]);
        assert_eq!(try_at(&set, Operation::Encrypt, "billing/cards", later(20)).unwrap_err(), "hard_limit_time");
        assert!(try_at(&set, Operation::Decrypt, "billing/cards", later(20)).is_ok());
    }

    #[test]
    fn every_restriction_refuses() {
        let subjects = [
            (Subject::Caller(CALLER), "caller_suspended"),
            (Subject::Project(PROJECT), "caller_suspended"),
            (Subject::Agent(crate::policy::testing::AGENT), "agent_suspended"),
            (Subject::Site(SITE), "site_suspended"),
        ];
        for (subject, code) in subjects {
            let mut set = SetBuilder::new(ANYTHING);
            set.held.insert(subject);
            assert_eq!(attempt(&set, Operation::Encrypt, "billing/cards").unwrap_err(), code, "{subject:?}");
        }
    }

    #[test]
    fn statements_degrade_with_age() {
        let set = SetBuilder::new(ANYTHING);
        let at = |operation, seconds| try_at(&set, operation, "billing/cards", NOW.plus(Duration::from_secs(seconds)));
        assert!(at(Operation::Encrypt, 599).unwrap().warnings.is_empty());
        assert_eq!(at(Operation::Encrypt, 600).unwrap().warnings[0].code, "statements_stale");
        assert_eq!(at(Operation::Encrypt, 86_400).unwrap_err(), "not_allowed_offline");
        assert_eq!(at(Operation::Decrypt, 86_400).unwrap().warnings[0].code, "statements_grace");
        assert_eq!(at(Operation::Decrypt, 604_800).unwrap_err(), "statements_expired");
    }

    #[test]
    fn purposes_do_not_mix_and_failed_algorithms_are_off() {
        let mut set = SetBuilder::new(ANYTHING);
        assert_eq!(attempt(&set, Operation::Sign, "billing/cards").unwrap_err(), "wrong_purpose");
        assert_eq!(attempt(&set, Operation::PublicKey, "billing/cards").unwrap_err(), "no_public_key");
        set.key().purpose = Purpose::Sign;
        assert_eq!(attempt(&set, Operation::Encrypt, "billing/cards").unwrap_err(), "wrong_purpose");
        set.key().purpose = Purpose::Encrypt;
        let (in_force, context) = (set.compile(), EncryptionContext::default());
        let grounds = Grounds { in_force: Some(&in_force), enabled: &BTreeSet::new(), now: NOW };
        let refused = decide(&grounds, &ask(Operation::Encrypt, &context), &"billing/cards".parse().unwrap()).unwrap_err();
        assert_eq!(refused.refusal.code(), "algorithm_disabled");
    }

    #[test]
    fn material_comes_and_goes_as_it_was_said_at_creation() {
        let mut set = SetBuilder::new(ANYTHING);
        assert_eq!(attempt(&set, Operation::Import, "billing/cards").unwrap_err(), "key_not_imported");
        assert_eq!(attempt(&set, Operation::Export, "billing/cards").unwrap_err(), "key_not_exportable");
        set.key().exportable = true;
        let allowed = attempt(&set, Operation::Export, "billing/cards").unwrap();
        assert_eq!(allowed.permit.into_export().unwrap().version(), KeyVersion::new(KEY, 2));
        let allowed = attempt(&set, Operation::Decrypt, "billing/cards").unwrap();
        assert!(allowed.permit.into_export().is_none(), "another permit lets nothing out");
        set.key().origin = Origin::Imported;
        assert_eq!(attempt(&set, Operation::Import, "billing/cards").unwrap_err(), "no_version_awaited");
        assert_eq!(attempt(&set, Operation::Import, &format!("{KEY}/3")).unwrap_err(), "version_not_found");
        let entry = trust::statement::state::VersionEntry {
            state: VersionState::PreActivation,
            created: NOW,
            activated: None,
            generator: Some(crate::policy::testing::AGENT),
            record: None,
            ready: Default::default(),
            backup: None,
        };
        set.state.keys.get_mut(&KEY).unwrap().versions.insert(3, entry);
        set.versions.insert(KeyVersion::new(KEY, 3), (VersionState::PreActivation, false));
        for reference in ["billing/cards".to_owned(), format!("{KEY}/3")] {
            assert_eq!(attempt(&set, Operation::Import, &reference).unwrap().version, KeyVersion::new(KEY, 3));
        }
        set.state.keys.get_mut(&KEY).unwrap().versions.get_mut(&3).unwrap().generator = None;
        assert_eq!(attempt(&set, Operation::Import, "billing/cards").unwrap_err(), "awaited_elsewhere");
        set.versions.insert(KeyVersion::new(KEY, 3), (VersionState::Suspended, false));
        assert_eq!(attempt(&set, Operation::Import, &format!("{KEY}/3")).unwrap_err(), "version_state");
    }

    #[test]
    fn a_partners_key_does_what_its_public_half_can() {
        let mut set = SetBuilder::new(ANYTHING);
        let algorithm = "ML-DSA-65".parse().unwrap();
        let key = set.key();
        (key.algorithm, key.purpose, key.origin) = (algorithm, Purpose::Sign, Origin::External);
        key.external = [1u8, 2].map(|seed| external(algorithm, seed)).to_vec();
        for operation in [Operation::Verify, Operation::ReSign, Operation::PublicKey] {
            let allowed = attempt(&set, operation, "billing/cards").unwrap();
            let held = allowed.permit.external().unwrap();
            assert_eq!((held.version, held.public_key.as_deref()), (KeyVersion::new(KEY, 2), Some([2; 1952].as_slice())));
            assert_eq!(allowed.again().permit.external(), Some(held));
        }
        assert_eq!(attempt(&set, Operation::Sign, "billing/cards").unwrap_err(), "external_key");
        let algorithm = "RSA-PSS-3072".parse().unwrap();
        set.key().algorithm = algorithm;
        set.key().external = vec![external(algorithm, 1), external(algorithm, 2)];
        assert!(
            attempt(&set, Operation::VerifyLegacy, "billing/cards").unwrap().permit.external().is_some(),
            "also what it signed long ago"
        );
        assert_eq!(attempt(&set, Operation::Encrypt, "billing/cards").unwrap_err(), "wrong_purpose");
        let key = set.key();
        (key.algorithm, key.purpose) = ("HPKE-9-KE".parse().unwrap(), Purpose::Encrypt);
        for operation in [Operation::Encrypt, Operation::GenerateDataKey] {
            assert!(attempt(&set, operation, "billing/cards").is_ok(), "{operation}");
        }
        for operation in [Operation::Decrypt, Operation::Rewrap, Operation::ReEncrypt] {
            assert_eq!(attempt(&set, operation, "billing/cards").unwrap_err(), "external_key", "{operation}");
        }
    }

    fn external(algorithm: Algorithm, seed: u8) -> trust::statement::policy::ExternalVersion {
        let public_key = vec![seed; 1952];
        let fingerprint = schema::key::fingerprint(algorithm, &public_key);
        trust::statement::policy::ExternalVersion { public_key: public_key.into(), fingerprint }
    }

    #[test]
    fn a_caller_without_a_permit_does_not_learn_the_state_of_a_key() {
        let mut set = SetBuilder::new("permit (principal, action == Action::\"verify\", resource);");
        set.versions.insert(KeyVersion::new(KEY, 2), (VersionState::Compromised, false));
        assert_eq!(attempt(&set, Operation::Encrypt, "billing/cards").unwrap_err(), "not_allowed_by_policy");
    }

    #[test]
    fn a_version_does_what_it_is_treated_as_and_not_what_state_says() {
        let mut set = SetBuilder::new(ANYTHING);
        set.versions.insert(KeyVersion::new(KEY, 2), (VersionState::Suspended, false));
        assert_eq!(attempt(&set, Operation::Decrypt, "billing/cards").unwrap_err(), "version_state");
        set.versions.remove(&KeyVersion::new(KEY, 2));
        assert_eq!(attempt(&set, Operation::Decrypt, "billing/cards").unwrap_err(), "version_state");
    }

    #[test]
    fn obligations_of_every_permitting_policy_hold() {
        let cedar = "@require_context(\"purpose\") @max_bytes(\"100\") permit (principal, action, resource);";
        let set = SetBuilder::new(cedar);
        let enabled = Algorithm::all().collect();
        let in_force = set.compile();
        let context = EncryptionContext::new([("purpose".to_owned(), "test".to_owned())].into()).unwrap();
        let grounds = Grounds { in_force: Some(&in_force), enabled: &enabled, now: NOW };
        let decide = |ask: Ask<'_>| decide(&grounds, &ask, &"billing/cards".parse().unwrap());
        let good = ask(Operation::Encrypt, &context);
        assert_eq!(decide(good).unwrap().obligations.max_bytes, Some(100));
        assert!(decide(Ask { size: None, ..good }).is_ok(), "a stream is cut off when it grows too long");
        let none = EncryptionContext::default();
        for bad in [Ask { context: &none, ..good }, Ask { size: Some(101), ..good }] {
            let refused = decide(bad).unwrap_err();
            assert_eq!(refused.refusal.code(), "obligation_not_met");
            assert_eq!(refused.refusal.problem().facts["policies"], serde_json::json!(["pol/0"]));
        }
    }

    #[test]
    fn a_rule_for_signatures_is_for_those_who_can_meet_it() {
        let attempt = |rule: &str, algorithm: &str, ask: Ask<'_>| {
            let mut set = SetBuilder::new(&format!("@require_signatures(\"{rule}\") permit (principal, action, resource);"));
            (set.key().algorithm, set.key().purpose) = (algorithm.parse().unwrap(), Purpose::Sign);
            let (enabled, in_force) = (Algorithm::all().collect(), set.compile());
            let grounds = Grounds { in_force: Some(&in_force), enabled: &enabled, now: NOW };
            decide(&grounds, &ask, &"billing/cards".parse().unwrap()).map(drop).map_err(|refused| refused.refusal.code())
        };
        let context = EncryptionContext::default();
        for operation in [Operation::Sign, Operation::Verify, Operation::ReSign] {
            let alone = ask(operation, &context);
            for (rule, algorithm, allowed) in [
                ("any", "Ed25519", true),
                ("any", "ML-DSA-65", true),
                ("pq-required", "Ed25519", false),
                ("pq-required", "ML-DSA-65", true),
                ("classical-required", "Ed25519", true),
                ("classical-required", "ML-DSA-65", false),
                ("all", "Ed25519", false),
                ("all", "ML-DSA-65", false),
            ] {
                let expected = if allowed { Ok(()) } else { Err("obligation_not_met") };
                assert_eq!(attempt(rule, algorithm, alone), expected, "{operation} with {algorithm} under {rule}");
                assert_eq!(attempt(rule, algorithm, Ask { together: true, ..alone }), Ok(()), "{operation} {algorithm} {rule}");
            }
        }
        assert_eq!(attempt("all", "Ed25519", ask(Operation::PublicKey, &context)), Ok(()));
    }

    #[test]
    fn a_composites_name_means_its_hybrid_key_where_something_is_sealed_and_no_key_elsewhere() {
        let mut set = SetBuilder::new(ANYTHING);
        set.composite(Some("HPKE-9-KE"));
        for reference in ["billing/contracts".to_owned(), COMPOSITE.to_string()] {
            for operation in [Operation::Encrypt, Operation::Decrypt, Operation::GenerateDataKey] {
                assert_eq!(attempt(&set, operation, &reference).unwrap().version.key, SEALED, "{operation}");
            }
            for operation in [Operation::Sign, Operation::Verify, Operation::PublicKey, Operation::Explain] {
                assert_eq!(attempt(&set, operation, &reference).unwrap_err(), "composite_does_not", "{operation}");
            }
        }
        assert_eq!(attempt(&set, Operation::Encrypt, "billing/contract").unwrap_err(), "key_not_found");
        // Without one, or when a key is not placed here, it means nothing.
        let mut without = SetBuilder::new(ANYTHING);
        without.composite(None);
        assert_eq!(attempt(&without, Operation::Encrypt, "billing/contracts").unwrap_err(), "composite_does_not");
        set.policies[0].keys.get_mut(&CLASSICAL).unwrap().placement.clear();
        assert_eq!(attempt(&set, Operation::Encrypt, "billing/contracts").unwrap_err(), "key_not_found");
    }

    #[test]
    fn a_mask_is_for_those_who_can_mask() {
        let set = SetBuilder::new("@mask(\"keep-last-4\") permit (principal, action, resource);");
        let enabled = Algorithm::all().collect();
        let (in_force, context) = (set.compile(), EncryptionContext::default());
        let grounds = Grounds { in_force: Some(&in_force), enabled: &enabled, now: NOW };
        let decide = |ask: Ask<'_>| decide(&grounds, &ask, &"billing/cards".parse().unwrap()).map_err(|refused| refused.refusal.code());
        let open = ask(Operation::Decrypt, &context);
        assert_eq!(decide(open).unwrap_err(), "obligation_not_met");
        assert!(decide(Ask { masks: true, ..open }).unwrap().obligations.mask.is_some());
        assert!(decide(ask(Operation::Encrypt, &context)).is_ok());
    }

    #[test]
    fn a_demand_that_is_not_understood_permits_nothing() {
        let set = SetBuilder::new("@moon_phase(\"full\") permit (principal, action, resource);");
        assert_eq!(attempt(&set, Operation::Encrypt, "billing/cards").unwrap_err(), "not_allowed_by_policy");
    }

    #[test]
    fn random_is_about_the_site() {
        let enabled = Algorithm::all().collect();
        let context = EncryptionContext::default();
        let in_force =
            SetBuilder::new(&format!("permit (principal, action == Action::\"random\", resource == Site::\"{SITE}\");")).compile();
        let grounds = Grounds { in_force: Some(&in_force), enabled: &enabled, now: NOW };
        assert!(decide_keyless(&grounds, &ask(Operation::Random, &context)).is_ok());
    }
}
