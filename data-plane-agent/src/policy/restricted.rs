//! A newer set that is believed, but whose Cedar policies this agent cannot use: what the former set grants goes on, and what
//! the newer one restricts holds at once. Nothing is ever loosened here.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use schema::{
    id::{CallerId, CompositeId, KeyId, KeyVersion},
    key::{Limits, MinimumVersions, VersionState},
};
use trust::statement::{
    policy::{CallerDefinition, KeyDefinition},
    state::{KeyState, Subject},
};

use super::in_force::{Believed, CompositeInForce, InForce, KeyInForce, VersionInForce};

impl InForce {
    /// This set, while something more is held back.
    #[must_use]
    pub(super) fn without(&self, subject: Subject) -> Self {
        let mut restricted = self.clone();
        restricted.held.insert(subject);
        restricted
    }

    /// This set, without whatever the newer one takes away. It keeps its own policies and grows as old as it is.
    #[must_use]
    pub fn restricted_by(&self, newer: &Believed<'_>) -> Self {
        let known = |caller: &CallerId| newer.policies.iter().find_map(|policy| policy.callers.get(caller));
        let same = |(id, caller): &(&CallerId, &CallerDefinition)| {
            known(id).is_some_and(|newer| (newer.kind, &newer.issuer, &newer.subject) == (caller.kind, &caller.issuer, &caller.subject))
        };
        let callers: HashMap<CallerId, CallerDefinition> =
            self.callers.iter().filter(same).map(|(id, caller)| (*id, caller.clone())).collect();
        let authorities: BTreeSet<&[u8]> =
            newer.policies.iter().flat_map(|policy| &policy.caller_authorities).map(|authority| authority.as_slice()).collect();
        let keys: HashMap<KeyId, Arc<KeyInForce>> = self
            .keys
            .values()
            .filter_map(|key| {
                let definition = newer.keys.get(&key.id).filter(|definition| definition.placement.contains(&self.site))?;
                Some((key.id, Arc::new(restricted_key(key, definition, newer.state.keys.get(&key.id), newer))))
            })
            .collect();
        let own = self.serials.split_once(' ').map_or(&*self.serials, |(own, _)| own);
        let mut restricted = self.clone();
        restricted.serials = format!("{own} restricted by {}", newer.serials).into();
        restricted.caller_authorities.retain(|_, authority| authorities.contains(authority.as_slice()));
        restricted.certificates.retain(|_, caller| callers.contains_key(caller));
        restricted.caller_names.retain(|_, caller| callers.contains_key(caller));
        restricted.names.retain(|_, key| keys.contains_key(key));
        restricted.composites = self.composites.values().filter_map(|composite| restricted_composite(composite, newer)).collect();
        restricted.composite_names.retain(|_, composite| restricted.composites.contains_key(composite));
        restricted.held.extend(newer.held.iter().copied());
        (restricted.callers, restricted.keys) = (callers, keys);
        restricted
    }
}

/// A composite with the stricter of both rules, while there is one.
fn restricted_composite(composite: &CompositeInForce, newer: &Believed<'_>) -> Option<(CompositeId, Arc<CompositeInForce>)> {
    let definition = newer.policies.iter().find_map(|policy| policy.composites.get(&composite.id))?;
    let mut restricted = composite.clone();
    restricted.definition.rule = restricted.definition.rule.and(definition.rule);
    Some((composite.id, Arc::new(restricted)))
}

/// A key with the stricter of both definitions, and with its versions in the stricter of both states. A version that only
/// the newer set has does not come in.
fn restricted_key(key: &KeyInForce, definition: &KeyDefinition, state: Option<&KeyState>, newer: &Believed<'_>) -> KeyInForce {
    let mut restricted = key.clone();
    let (own, other) = (key.definition.minimum_versions, definition.minimum_versions);
    restricted.definition.minimum_versions =
        MinimumVersions { process: own.process.max(other.process), protect: own.protect.max(other.protect) };
    restricted.definition.limits = stricter(&key.definition.limits, &definition.limits);
    for (number, version) in &mut restricted.versions {
        let treated = newer.versions.get(&KeyVersion::new(key.id, *number)).copied();
        let (state_now, wipe) = treated.unwrap_or((VersionState::Suspended, false));
        if permits(state_now) <= permits(version.state) {
            version.state = state_now;
        }
        version.wipe |= wipe;
        if let Some(entry) = state.and_then(|state| state.versions.get(number)) {
            let VersionInForce { reported_ready, .. } = version;
            *reported_ready |= entry.ready.contains_key(&newer.agent);
        }
    }
    restricted
}

/// How much a state allows: to protect and to process, only to process, nothing.
fn permits(state: VersionState) -> u8 {
    u8::from(state.may_protect()) + u8::from(state.may_process())
}

fn stricter(one: &Limits, other: &Limits) -> Limits {
    let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    Limits {
        soft_uses: least(one.soft_uses, other.soft_uses),
        hard_uses: least(one.hard_uses, other.hard_uses),
        soft_bytes: least(one.soft_bytes, other.soft_bytes),
        hard_bytes: least(one.hard_bytes, other.hard_bytes),
        soft_seconds: least(one.soft_seconds, other.soft_seconds),
        hard_seconds: least(one.hard_seconds, other.hard_seconds),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use schema::{catalogue::Algorithm, composite::VerificationRule, context::EncryptionContext, key::Operation};
    use trust::statement::policy::CallerKind;

    use super::*;
    use crate::policy::{
        decide::{Ask, Grounds, decide},
        testing::{AGENT, CALLER, COMPOSITE, KEY, NOW, PROJECT, SITE, SetBuilder, caller, key},
    };

    const ANYTHING: &str = "permit (principal, action, resource);";
    const OTHER_CALLER: CallerId = CallerId::from_bits(50);

    /// The code of the refusal, if there is one.
    fn attempt(set: &InForce, caller: CallerId, operation: Operation, reference: &str) -> Option<&'static str> {
        let enabled: BTreeSet<Algorithm> = Algorithm::all().collect();
        let context = EncryptionContext::default();
        let ask = Ask {
            caller,
            operation,
            context: &context,
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            size: Some(1),
            recipients: None,
            anew: false,
            masks: false,
            together: false,
        };
        let grounds = Grounds { in_force: Some(set), enabled: &enabled, now: NOW };
        decide(&grounds, &ask, &reference.parse().unwrap()).err().map(|refused| refused.refusal.code())
    }

    fn builder() -> SetBuilder {
        let mut set = SetBuilder::new(ANYTHING);
        set.policies[0].callers.insert(OTHER_CALLER, caller(PROJECT, "other", CallerKind::Token));
        set
    }

    #[test]
    fn what_a_newer_set_takes_away_is_gone_at_once() {
        let former = builder().compile();
        let encrypt =
            |newer: &SetBuilder, caller| attempt(&former.restricted_by(&newer.believed()), caller, Operation::Encrypt, "billing/cards");
        assert_eq!(encrypt(&builder(), CALLER), None);

        let mut newer = builder();
        newer.held.insert(Subject::Caller(CALLER));
        assert_eq!((encrypt(&newer, CALLER), encrypt(&newer, OTHER_CALLER)), (Some("caller_suspended"), None));
        newer = builder();
        newer.policies[0].callers.remove(&CALLER);
        assert_eq!((encrypt(&newer, CALLER), encrypt(&newer, OTHER_CALLER)), (Some("caller_unknown"), None));
        newer = builder();
        newer.held.insert(Subject::Agent(AGENT));
        assert_eq!(encrypt(&newer, CALLER), Some("agent_suspended"));
        newer = builder();
        newer.key().minimum_versions.protect = 3;
        assert_eq!(encrypt(&newer, CALLER), Some("below_minimum_version"));
        newer = builder();
        newer.key().limits.hard_seconds = Some(0);
        assert_eq!(encrypt(&newer, CALLER), Some("hard_limit_time"));
        newer = builder();
        newer.key().placement.clear();
        assert_eq!(encrypt(&newer, CALLER), Some("key_not_found"));
        for state in [VersionState::Suspended, VersionState::Compromised, VersionState::Destroyed, VersionState::Deactivated] {
            newer = builder();
            newer.versions.insert(KeyVersion::new(KEY, 2), (state, state == VersionState::Destroyed));
            assert_eq!(encrypt(&newer, CALLER), Some("version_state"), "{state}");
            let restricted = former.restricted_by(&newer.believed());
            let open = attempt(&restricted, CALLER, Operation::Decrypt, "billing/cards");
            assert_eq!(open.is_none(), state.may_process(), "{state}");
            let version = &restricted.key(&KEY.to_string().parse().unwrap()).unwrap().versions[&2];
            assert_eq!(version.wipe, state == VersionState::Destroyed);
        }
    }

    #[test]
    fn a_composite_keeps_the_stricter_rule_and_goes_when_it_is_retired() {
        let mut set = builder();
        set.composite(None);
        let reference = COMPOSITE.to_string().parse().unwrap();
        let rule = |set: &InForce| set.composite(&reference).map(|composite| composite.definition.rule);
        let former = |rule| {
            let mut set = builder();
            set.composite(None).rule = rule;
            set.compile()
        };
        set.composite(None).rule = VerificationRule::PqRequired;
        for (before, after) in [
            (VerificationRule::Any, VerificationRule::PqRequired),
            (VerificationRule::ClassicalRequired, VerificationRule::All),
            (VerificationRule::All, VerificationRule::All),
        ] {
            assert_eq!(rule(&former(before).restricted_by(&set.believed())), Some(after), "{before}");
        }
        assert_eq!(rule(&former(VerificationRule::Any).restricted_by(&builder().believed())), None);
        assert_eq!(rule(&builder().compile().restricted_by(&set.believed())), None, "nothing new comes in");
    }

    #[test]
    fn nothing_is_loosened() {
        let mut strict = builder();
        strict.held.insert(Subject::Caller(CALLER));
        strict.versions.insert(KeyVersion::new(KEY, 2), (VersionState::Suspended, false));
        strict.key().minimum_versions.process = 2;
        let former = strict.compile();
        let mut newer = builder();
        newer.policies[0].callers.insert(CallerId::from_bits(51), caller(PROJECT, "third", CallerKind::Token));
        newer.policies[0].keys.insert(KeyId::from_bits(61), key(PROJECT, "more", &[SITE]));
        let restricted = former.restricted_by(&newer.believed()).restricted_by(&builder().believed());
        let attempt = |caller, operation, reference: &str| attempt(&restricted, caller, operation, reference);
        assert_eq!(attempt(CALLER, Operation::Encrypt, "billing/cards"), Some("caller_suspended"));
        assert_eq!(attempt(OTHER_CALLER, Operation::Encrypt, "billing/cards"), Some("version_state"));
        assert_eq!(attempt(OTHER_CALLER, Operation::Decrypt, &format!("{KEY}/1")), Some("below_minimum_version"));
        assert_eq!(attempt(CallerId::from_bits(51), Operation::Encrypt, "billing/cards"), Some("caller_unknown"));
        assert_eq!(attempt(OTHER_CALLER, Operation::Encrypt, "billing/more"), Some("key_not_found"));
        assert_eq!((restricted.heartbeat_serial, &*restricted.serials), (7, "h7.s7.t7 restricted by h7.s7.t7"));
    }
}
