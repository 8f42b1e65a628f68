//! What an agent lacks of a set of statements, when it has an earlier one: a delta as RFC 3229 has them. Who asks with an entity tag and
//! [`MANIPULATION`] may be answered with a set in which statements of the set with that tag are named instead of written.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::agent::{MAX_STATEMENTS, StatementSet, at_most};
use crate::encoding::{Base64, Digest};

/// What is named in [`A_IM`] and [`IM`].
pub const MANIPULATION: &str = "freehold-statements";
/// Of a request: the manipulations that may be applied to the answer.
pub const A_IM: &str = "a-im";
/// Of an answer: those that were.
pub const IM: &str = "im";
/// Of an answer: the entity tag of the set in which the named statements stand.
pub const DELTA_BASE: &str = "delta-base";

/// One statement of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Part {
    /// Written: a DSSE envelope, exact bytes.
    Written(Base64),
    /// Named: it stands in the base.
    Held {
        /// SHA-256 of its envelope.
        held: Digest,
    },
}

/// A [`StatementSet`] of which some statements may be named only. When none is, it is the JSON of the set itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatementDelta {
    /// Every root from the first, in order.
    #[serde(deserialize_with = "at_most::<MAX_STATEMENTS, _, _>")]
    pub roots: Vec<Part>,
    /// The policies.
    #[serde(deserialize_with = "at_most::<MAX_STATEMENTS, _, _>")]
    pub policies: Vec<Part>,
    /// The site's state.
    pub state: Option<Part>,
    /// The site's heartbeat.
    pub heartbeat: Option<Part>,
}

/// Why a delta does not become a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// It names what is not there, or names it twice: each statement is there once, so that no answer grows beyond what was held and sent.
    #[error("the statement {0} is named, and is not held, or is named twice")]
    NotHeld(Digest),
    /// It has more statements than any set.
    #[error("it has more than {MAX_STATEMENTS} statements of a kind")]
    TooMany,
}

impl StatementDelta {
    /// What who has the base lacks of a set.
    pub fn between(base: &StatementSet, set: &StatementSet) -> Self {
        let mut held: HashSet<&Base64> = base.envelopes().collect();
        let mut part = |envelope: &Base64| {
            if held.remove(envelope) { Part::Held { held: Digest::of(envelope.as_slice()) } } else { Part::Written(envelope.clone()) }
        };
        Self {
            roots: set.roots.iter().map(&mut part).collect(),
            policies: set.policies.iter().map(&mut part).collect(),
            state: set.state.as_ref().map(&mut part),
            heartbeat: set.heartbeat.as_ref().map(&mut part),
        }
    }

    /// The set that is meant: the written statements, and the named ones as they stand in the base.
    pub fn complete(self, base: &StatementSet) -> Result<StatementSet, Incomplete> {
        if self.roots.len() > MAX_STATEMENTS || self.policies.len() > MAX_STATEMENTS {
            return Err(Incomplete::TooMany);
        }
        let mut held: HashMap<Digest, &Base64> = base.envelopes().map(|envelope| (Digest::of(envelope.as_slice()), envelope)).collect();
        let mut envelope = |part| match part {
            Part::Written(envelope) => Ok(envelope),
            Part::Held { held: digest } => held.remove(&digest).cloned().ok_or(Incomplete::NotHeld(digest)),
        };
        let roots = self.roots.into_iter().map(&mut envelope).collect::<Result<_, _>>()?;
        let policies = self.policies.into_iter().map(&mut envelope).collect::<Result<_, _>>()?;
        Ok(StatementSet {
            roots,
            policies,
            state: self.state.map(&mut envelope).transpose()?,
            heartbeat: self.heartbeat.map(&mut envelope).transpose()?,
        })
    }
}

/// Whether the value of [`A_IM`] or [`IM`] names [`MANIPULATION`], and does not exclude it.
pub fn is_named(value: &str) -> bool {
    value.split(',').any(|named| {
        let mut parts = named.split(';').map(str::trim);
        let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(MANIPULATION));
        let is_out = |part: &str| {
            let weight = part.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("q")).map(|(_, weight)| weight.trim());
            weight.is_some_and(|weight| weight.parse() == Ok(0.0))
        };
        is_it && !parts.any(is_out)
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    /// Few different envelopes, so that many are in both sets, and some twice in one.
    fn set() -> impl Strategy<Value = StatementSet> {
        let envelope = || (0_u8..12).prop_map(|byte| Base64(vec![byte; usize::from(byte)]));
        (vec(envelope(), 0..6), vec(envelope(), 0..6), option::of(envelope()), option::of(envelope()))
            .prop_map(|(roots, policies, state, heartbeat)| StatementSet { roots, policies, state, heartbeat })
    }

    fn over_the_wire(delta: &StatementDelta) -> StatementDelta {
        serde_json::from_slice(&serde_json::to_vec(delta).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn whatever_is_left_out_comes_back_in_its_place(base in set(), set in set()) {
            let delta = StatementDelta::between(&base, &set);
            prop_assert_eq!(over_the_wire(&delta).complete(&base).unwrap(), set);
        }

        #[test]
        fn over_another_base_it_is_the_same_set_or_none(base in set(), other in set(), set in set()) {
            if let Ok(completed) = StatementDelta::between(&base, &set).complete(&other) {
                prop_assert_eq!(completed, set);
            }
        }

        #[test]
        fn when_nothing_is_left_out_it_is_the_set_itself(set in set()) {
            let written = StatementDelta::between(&StatementSet::default(), &set);
            prop_assert_eq!(serde_json::to_value(&written).unwrap(), serde_json::to_value(&set).unwrap());
            let read: StatementDelta = serde_json::from_slice(&serde_json::to_vec(&set).unwrap()).unwrap();
            prop_assert_eq!(read.complete(&StatementSet::default()).unwrap(), set);
        }
    }

    fn some() -> StatementSet {
        let envelope = |byte| Base64(vec![byte; 3]);
        StatementSet {
            roots: vec![envelope(1), envelope(2)],
            policies: vec![envelope(3)],
            state: Some(envelope(4)),
            heartbeat: Some(envelope(5)),
        }
    }

    #[test]
    fn what_is_not_held_or_named_twice_is_refused() {
        let held = |byte: u8| Part::Held { held: Digest::of(&[byte; 3]) };
        let named = |bytes: &[u8]| StatementDelta { policies: bytes.iter().map(|byte| held(*byte)).collect(), ..StatementDelta::default() };
        assert_eq!(named(&[3, 1]).complete(&some()).unwrap().policies, [Base64(vec![3; 3]), Base64(vec![1; 3])]);
        assert_eq!(named(&[9]).complete(&some()), Err(Incomplete::NotHeld(Digest::of(&[9; 3]))));
        // A large statement that is named again and again would fill the memory of whoever completes it.
        assert_eq!(named(&[3, 3]).complete(&some()), Err(Incomplete::NotHeld(Digest::of(&[3; 3]))));
        let twice = StatementDelta { state: Some(held(4)), heartbeat: Some(held(4)), ..StatementDelta::default() };
        assert_eq!(twice.complete(&some()), Err(Incomplete::NotHeld(Digest::of(&[4; 3]))));
    }

    #[test]
    fn more_statements_than_any_set_has_are_not_even_kept() {
        let many = StatementDelta { roots: vec![Part::Written(Base64(vec![])); MAX_STATEMENTS + 10], ..StatementDelta::default() };
        let read = over_the_wire(&many);
        assert_eq!(read.roots.len(), MAX_STATEMENTS + 1);
        assert_eq!(read.complete(&some()), Err(Incomplete::TooMany));
    }

    #[test]
    fn what_is_no_delta_is_not_read() {
        let with = |roots: &str| format!(r#"{{"roots":{roots},"policies":[],"state":null,"heartbeat":null}}"#);
        for roots in ["[{}]", "[1]", r#"["!"]"#, r#"[{"held":"short"}]"#, r#"{"held":[]}"#, "[null]"] {
            assert!(serde_json::from_str::<StatementDelta>(&with(roots)).is_err(), "{roots}");
        }
    }

    #[test]
    fn the_manipulation_is_found_among_others() {
        for named in ["freehold-statements", "vcdiff, Freehold-Statements;q=0.5 , gzip", "freehold-statements ; q = 1"] {
            assert!(is_named(named), "{named}");
        }
        for other in ["", "vcdiff", "freehold", "freehold-statements-2", "freehold-statements;q=0", "freehold-statements; Q=0.000"] {
            assert!(!is_named(other), "{other}");
        }
    }
}
