//! The end of a version: scheduled, begun when the wait is over, and done when every holder has reported it gone or is
//! attested lost.

use std::time::Duration;

use schema::{
    clock::Timestamp,
    event::key::{
        DestructionBegun, DestructionCancelled, DestructionScheduled, HolderAttestedLost, HolderDestroyed, KeyEvent, VersionDestroyed,
    },
    id::AgentId,
    key::VersionState,
    name::Text,
};

use super::{
    Fixed, Key, KeyRefusal, RecordDestroyed, Version,
    decide::{find, find_named},
};

/// How long a destruction waits when nothing else is said.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(86_400);
/// The shortest wait of a version that has material.
pub const MIN_WAIT: Duration = Duration::from_secs(3_600);
/// The longest wait.
pub const MAX_WAIT: Duration = Duration::from_secs(366 * 86_400);

type Decision = Result<Vec<KeyEvent>, KeyRefusal>;

pub(super) fn schedule(
    key: &Key,
    number: u32,
    wait: Option<Duration>,
    (reason, backups_expire): (Option<&Text>, Option<Timestamp>),
    now: Timestamp,
) -> Decision {
    let version = find(key, number)?;
    version.may_become(VersionState::Destroyed)?;
    if key.deletion_protection {
        return Err(KeyRefusal::DeletionProtection);
    }
    if let Some(destruction) = &version.destruction {
        return Err(KeyRefusal::DestructionIsScheduled { number, due: destruction.due });
    }
    // What was never made cannot be missed.
    let shortest = if version.made.is_some() { MIN_WAIT } else { Duration::ZERO };
    let wait = wait.unwrap_or(DEFAULT_WAIT);
    if wait < shortest || wait > MAX_WAIT {
        return Err(KeyRefusal::Wait { min_seconds: shortest.as_secs(), max_seconds: MAX_WAIT.as_secs() });
    }
    Ok(vec![DestructionScheduled { number, due: now.plus(wait), reason: reason.cloned(), backups_expire }.into()])
}

pub(super) fn cancel(key: &Key, number: u32) -> Decision {
    match &find(key, number)?.destruction {
        None => Err(KeyRefusal::NoDestruction { number }),
        Some(destruction) if destruction.begun.is_some() => Err(KeyRefusal::DestructionBegun { number }),
        Some(_) => Ok(vec![DestructionCancelled { number }.into()]),
    }
}

pub(super) fn begin(key: &Key, number: u32, now: Timestamp) -> Decision {
    let version = find(key, number)?;
    match &version.destruction {
        None => Err(KeyRefusal::NoDestruction { number }),
        Some(destruction) if destruction.begun.is_some() => Err(KeyRefusal::DestructionBegun { number }),
        Some(_) if key.deletion_protection => Err(KeyRefusal::DeletionProtection),
        Some(destruction) if now < destruction.due => Err(KeyRefusal::NotDue { due: destruction.due }),
        Some(_) => {
            let mut events = vec![DestructionBegun { number }.into()];
            if version.holders_left().next().is_none() {
                events.push(VersionDestroyed { number }.into());
            }
            Ok(events)
        }
    }
}

pub(super) fn record(key: &Key, fixed: &Fixed, report: &RecordDestroyed) -> Decision {
    let (number, version) = find_named(key, fixed, report.version)?;
    let made = version.made.as_ref().ok_or(KeyRefusal::NotMade { number })?;
    if report.fingerprint != made.fingerprint {
        return Err(KeyRefusal::FingerprintIsFinal { number });
    }
    let gone = HolderDestroyed { number, holder: report.holder, report: report.report.clone() };
    leaves(version, number, report.holder, gone.into())
}

pub(super) fn attest(key: &Key, number: u32, holder: AgentId, attestation: &Text) -> Decision {
    let gone = HolderAttestedLost { number, holder, attestation: attestation.clone() };
    let version = find(key, number)?;
    if !version.holders.contains_key(&holder) {
        return Err(KeyRefusal::NotAHolder { agent: holder });
    }
    leaves(version, number, holder, gone.into())
}

/// An agent no longer has it, or has a tombstone and never had it: the last of those that had it completes the destruction.
fn leaves(version: &Version, number: u32, agent: AgentId, gone: KeyEvent) -> Decision {
    if version.destruction.as_ref().is_none_or(|destruction| destruction.begun.is_none()) {
        return Err(KeyRefusal::DestructionNotBegun { number });
    }
    if version.holders.get(&agent).is_some_and(|holder| holder.gone.is_some()) {
        return Ok(Vec::new());
    }
    let mut events = vec![gone];
    let completed = version.destruction.as_ref().is_some_and(|destruction| destruction.completed.is_some());
    if !completed && version.holders_left().all(|holder| holder == agent) {
        events.push(VersionDestroyed { number }.into());
    }
    Ok(events)
}
