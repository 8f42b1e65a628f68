//! Check 9, suspensions and revocations: the union of all that were ever seen. State adds; only policy takes away.

use std::collections::BTreeMap;

use schema::{
    id::{KeyId, KeyVersion, SiteId},
    key::VersionState,
};

use super::{
    keys::{Confirmations, settles},
    memory::{Asked, Memory, Order, Restriction},
};
use crate::statement::{
    Scope,
    policy::{KeyDefinition, Policy},
    state::{State, Subject},
};

/// Adds what a state restricts, and lifts what policy resumes.
pub(super) fn apply(
    state: &State,
    policies: &BTreeMap<Scope, &Policy>,
    definitions: &BTreeMap<KeyId, KeyDefinition>,
    confirmed: &Confirmations,
    site: SiteId,
    memory: &mut Memory,
) {
    let now = Order { epoch: state.head.epoch, serial: state.head.serial };
    let (held_back, settled) = versions(state, confirmed, memory);
    let mut restrict = |subject: Subject, change: &dyn Fn(&mut Restriction)| change(memory.restrictions.entry(subject).or_default());
    for revocation in &state.revocations {
        restrict(revocation.subject, &|restriction| restriction.revoked = Some(Asked { what: revocation.reason, last: now }));
    }
    for subject in &state.suspensions {
        restrict(*subject, &|restriction| restriction.suspended = Some(Asked { what: (), last: now }));
    }
    for (version, state) in held_back {
        restrict(Subject::Version(version), &|restriction| match state {
            VersionState::Suspended => restriction.suspended = Some(Asked { what: (), last: now }),
            irreversible => restriction.unsettled = Some(Asked { what: irreversible, last: now }),
        });
    }
    // What was irreversible and unforeseen has been confirmed since.
    for version in settled {
        if let Some(restriction) = memory.restrictions.get_mut(&Subject::Version(version)) {
            restriction.unsettled = None;
        }
    }
    let lifts = lifts(policies, definitions, site);
    memory.restrictions.retain(|subject, restriction| {
        if let Some(up_to) = lifts.get(subject) {
            restriction.lift(*up_to);
        }
        !restriction.is_empty()
    });
}

/// Versions that their state holds back, and those that are at a confirmed or foreseen end.
fn versions(state: &State, confirmed: &Confirmations, memory: &Memory) -> (Vec<(KeyVersion, VersionState)>, Vec<KeyVersion>) {
    let (mut held_back, mut settled) = (Vec::new(), Vec::new());
    for (key, key_state) in &state.keys {
        for (number, entry) in &key_state.versions {
            let version = KeyVersion::new(*key, *number);
            match settles(version, entry.state, key_state.primary, confirmed, memory) {
                Some(VersionState::PreActivation | VersionState::Active) => {}
                Some(_) => settled.push(version),
                None => held_back.push((version, entry.state)),
            }
        }
    }
    (held_back, settled)
}

/// Up to which state policy lifts the restrictions of each subject. A project's policy lifts only its own.
fn lifts(policies: &BTreeMap<Scope, &Policy>, definitions: &BTreeMap<KeyId, KeyDefinition>, site: SiteId) -> BTreeMap<Subject, Order> {
    let mut lifts = BTreeMap::<Subject, Order>::new();
    for (scope, policy) in policies {
        for resumption in &policy.resumptions {
            let Some(serial) = resumption.up_to_state_serial.get(&site) else { continue };
            if !reaches(scope, policy, &resumption.subject, definitions) {
                continue;
            }
            let up_to = Order { epoch: policy.head.epoch, serial: serial.0 };
            let lift = lifts.entry(resumption.subject).or_default();
            *lift = (*lift).max(up_to);
        }
    }
    lifts
}

/// Whether a subject is a policy's own.
fn reaches(scope: &Scope, policy: &Policy, subject: &Subject, definitions: &BTreeMap<KeyId, KeyDefinition>) -> bool {
    let Scope::Project(own) = scope else { return true };
    match subject {
        Subject::Project(project) => project == own,
        Subject::Caller(caller) => policy.callers.contains_key(caller),
        Subject::Agent(_) | Subject::Site(_) => false,
        Subject::Key(key) | Subject::Version(KeyVersion { key, .. }) => key_of(*key, own, definitions),
    }
}

fn key_of(key: KeyId, project: &schema::id::ProjectId, definitions: &BTreeMap<KeyId, KeyDefinition>) -> bool {
    definitions.get(&key).is_some_and(|definition| definition.project == *project)
}

/// What policy confirms of irreversible states. A project's policy confirms only for its own keys.
pub(super) fn confirmations(policies: &BTreeMap<Scope, &Policy>, definitions: &BTreeMap<KeyId, KeyDefinition>) -> Confirmations {
    let mut confirmed = Confirmations::default();
    for (scope, policy) in policies {
        let own = |version: &&KeyVersion| match scope {
            Scope::Project(project) => key_of(version.key, project, definitions),
            _ => true,
        };
        confirmed.compromises.extend(policy.compromises.iter().filter(own));
        confirmed.destructions.extend(policy.destructions.iter().filter(own));
    }
    confirmed
}
