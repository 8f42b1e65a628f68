//! Whether material may leave this vault for another agent's. The site's accepted statements decide, and how old they are;
//! what the one who carries it says decides nothing.

use schema::id::KeyVersion;
use trust::{
    accept::AcceptedSet,
    document::Prekey,
    movement::{Movable, MovementRefusal, may_send},
    time::{Freshness, Moment},
};

use super::permit::{Destination, ExportPermit};

/// Why material stays here. [`StaysHere::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum StaysHere {
    /// Somebody may have been revoked since.
    #[error("the statements in force are too old to send material by: restore the connection to the control plane")]
    TooOld,
    /// What the site says of the version or of the recipient.
    #[error(transparent)]
    Refused(#[from] MovementRefusal),
}

impl StaysHere {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooOld => "transfer_statements_too_old",
            Self::Refused(refusal) => refusal.code(),
        }
    }
}

/// Whether the statements in force are young enough to send anything by: somebody may have been revoked since.
pub fn are_young_enough(set: &AcceptedSet, now: Moment) -> bool {
    matches!(Freshness::of(set.told(), now, &set.offline_rule()), Freshness::Fresh | Freshness::Stale)
}

/// Lets one version leave once, for the agent whose prekey this is. The prekey was accepted by the same set.
pub fn hand_over(set: &AcceptedSet, version: KeyVersion, prekey: &Prekey, now: Moment) -> Result<(ExportPermit, Movable), StaysHere> {
    if !are_young_enough(set, now) {
        return Err(StaysHere::TooOld);
    }
    let movable = may_send(set, version, prekey, now.latest())?;
    Ok((ExportPermit::grant(version, Destination::Holder(prekey.agent)), movable))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schema::{
        clock::ManualIds,
        id::{KeyVersion, PrekeyId},
    };
    use trust::{
        accept::{Confirmed, accept},
        document::sign,
        seal::PrekeySecret,
        statement::state::Vouch,
        testing::{AGENT, KEY, OTHER_AGENT, START, World},
    };

    use super::*;

    #[test]
    fn a_permit_is_for_a_believed_agent_while_the_statements_are_current() {
        let mut world = World::new();
        world.join(vec![Vouch::Agent { agent: AGENT, vouch: sign(&world.vouch(), &world.agent) }]);
        let set = accept(None, &world.set(), &world.identity(), &Confirmed::default(), world.now()).unwrap();
        let identity = world.identity();
        let prekey = Prekey {
            tenant: identity.tenant,
            site: identity.site,
            agent: OTHER_AGENT,
            id: PrekeyId::from_bits(1),
            public_key: PrekeySecret::generate(&ManualIds::seeded(1)).unwrap().public_key().into(),
            not_after: START.plus(Duration::from_secs(40 * 86_400)),
            issued: START,
        };
        let version = KeyVersion::new(KEY, 1);
        let at = |seconds| Moment { signed: START, wall: START.plus(Duration::from_secs(seconds)) };
        for fresh_enough in [0, 60, 23 * 3600] {
            let (permit, movable) = hand_over(&set, version, &prekey, at(fresh_enough)).unwrap();
            assert_eq!((permit.version(), permit.destination()), (version, Destination::Holder(OTHER_AGENT)));
            assert_eq!(movable.fingerprint, trust::testing::fingerprint(1));
        }
        for too_old in [25 * 3600, 8 * 86_400] {
            assert_eq!(hand_over(&set, version, &prekey, at(too_old)).unwrap_err().code(), "transfer_statements_too_old");
        }
        let stranger = Prekey { agent: schema::id::AgentId::from_bits(99), ..prekey };
        assert_eq!(hand_over(&set, version, &stranger, at(0)).unwrap_err().code(), "transfer_agent_not_believed");
    }
}
