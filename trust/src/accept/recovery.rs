//! Check 9, the recovery key: backups are sealed to the first that a believed agent of the site signed for. Another one takes
//! its place only when a person at this agent has confirmed it, so that nobody who can publish statements, nor any single
//! other agent, turns backups to a key of his own.

use std::collections::BTreeMap;

use super::{
    Rejection,
    memory::{Memory, RecoveryMemory},
    roster::{Roster, RosterRules},
};
use crate::{
    document, dsse,
    recovery::{RECOVERY_PUBLIC_KEY_BYTES, RecoveryKey},
    statement::{Scope, policy::Policy, state::Subject},
};

/// Remembers the recovery key that is believed; gives the one that the site tells of.
pub(super) fn judge(
    policies: &BTreeMap<Scope, &Policy>,
    rules: &RosterRules<'_>,
    roster: &Roster,
    memory: &mut Memory,
) -> Result<Option<RecoveryMemory>, Rejection> {
    let identity = rules.identity;
    let Some(bytes) = policies.get(&Scope::Site(identity.site)).and_then(|policy| policy.recovery.as_ref()) else { return Ok(None) };
    let refused = |detail: String| Rejection::RecoveryKey { detail };
    let key: RecoveryKey = dsse::peek_document(bytes.as_slice()).map_err(|error| refused(error.to_string()))?;
    if (key.tenant, key.site) != (identity.tenant, identity.site) {
        return Err(refused("it is of another tenant or site".to_owned()));
    }
    if key.public_key.as_slice().len() != RECOVERY_PUBLIC_KEY_BYTES {
        return Err(refused(format!("its public half has {} bytes", key.public_key.as_slice().len())));
    }
    let RecoveryKey { number, public_key, shares, threshold, agent, .. } = key;
    let told = RecoveryMemory { number, public_key, shares, threshold, agent };
    let signer_is_believed = || {
        let free = !memory.restrictions.contains_key(&Subject::Agent(agent));
        let pair = roster.believed.get(&agent).filter(|_| free);
        pair.is_some_and(|pair| document::open::<RecoveryKey>(bytes.as_slice(), pair).is_ok())
    };
    let confirmed = rules.confirmed.recovery == Some(told.keyid());
    let believed = match &memory.recovery {
        // What a person confirmed last is what counts, also against one that another agent numbered higher.
        Some(known) => known.keyid() != told.keyid() && confirmed,
        None => confirmed || signer_is_believed(),
    };
    if believed {
        memory.recovery = Some(told.clone());
    }
    Ok(Some(told))
}
