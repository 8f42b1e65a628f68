//! Composite keys: one name for a classical and a post-quantum key that sign together, the rule by which their signatures
//! are judged, and a hybrid key for what is sealed to the same name.

use crate::{
    catalogue::{Algorithm, Family},
    key::{Purpose, words},
};

words! {
    /// Which of the two signatures must be genuine.
    #[derive(utoipa::ToSchema)]
    VerificationRule {
        /// Both.
        All = "all",
        /// At least one.
        Any = "any",
        /// The classical one.
        ClassicalRequired = "classical-required",
        /// The post-quantum one.
        PqRequired = "pq-required",
    }
}

impl VerificationRule {
    /// The rule that demands a genuine signature of these kinds.
    const fn demanding(classical: bool, post_quantum: bool) -> Self {
        match (classical, post_quantum) {
            (true, true) => Self::All,
            (true, false) => Self::ClassicalRequired,
            (false, true) => Self::PqRequired,
            (false, false) => Self::Any,
        }
    }

    /// Whether the classical signature must be genuine.
    pub const fn demands_classical(self) -> bool {
        matches!(self, Self::All | Self::ClassicalRequired)
    }

    /// Whether the post-quantum signature must be genuine.
    pub const fn demands_post_quantum(self) -> bool {
        matches!(self, Self::All | Self::PqRequired)
    }

    /// Whether these results are enough: which of the two is there and genuine.
    pub const fn holds(self, classical: bool, post_quantum: bool) -> bool {
        match self {
            Self::All => classical && post_quantum,
            Self::Any => classical || post_quantum,
            Self::ClassicalRequired => classical,
            Self::PqRequired => post_quantum,
        }
    }

    /// The rule that holds exactly when both do: never looser than either.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self::demanding(self.demands_classical() || other.demands_classical(), self.demands_post_quantum() || other.demands_post_quantum())
    }

    /// Whether everything this accepts, the other accepts too, and not the other way round.
    pub fn is_stricter_than(self, other: Self) -> bool {
        self != other && self.and(other) == self
    }
}

words! {
    /// A place in a composite.
    #[derive(utoipa::ToSchema)]
    Member {
        /// The key whose signatures a quantum computer breaks.
        Classical = "classical",
        /// The key whose signatures it does not.
        PostQuantum = "post-quantum",
        /// The key for what is sealed: hybrid by itself.
        Encryption = "encryption",
    }
}

impl Member {
    /// Whether a key of this algorithm and purpose may stand in this place.
    pub fn takes(self, algorithm: Algorithm, purpose: Purpose) -> bool {
        let entry = algorithm.entry();
        match self {
            Self::Classical => purpose == Purpose::Sign && entry.asymmetric && !algorithm.is_post_quantum(),
            Self::PostQuantum => purpose == Purpose::Sign && entry.asymmetric && algorithm.is_post_quantum(),
            Self::Encryption => purpose == Purpose::Encrypt && entry.family == Family::Hpke && algorithm.is_post_quantum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_accept_what_their_names_say() {
        // Of: both genuine, only the classical one, only the post-quantum one.
        for (rule, both, classical, post_quantum) in [
            (VerificationRule::All, true, false, false),
            (VerificationRule::Any, true, true, true),
            (VerificationRule::ClassicalRequired, true, true, false),
            (VerificationRule::PqRequired, true, false, true),
        ] {
            let holds = [rule.holds(true, true), rule.holds(true, false), rule.holds(false, true)];
            assert_eq!(holds, [both, classical, post_quantum], "{rule}");
            assert!(!rule.holds(false, false), "{rule}");
        }
    }

    #[test]
    fn two_rules_together_accept_what_both_accept() {
        let results = [(true, true), (true, false), (false, true), (false, false)];
        for one in VerificationRule::ALL {
            for other in VerificationRule::ALL {
                let together = one.and(*other);
                for (classical, post_quantum) in results {
                    let both = one.holds(classical, post_quantum) && other.holds(classical, post_quantum);
                    assert_eq!(together.holds(classical, post_quantum), both, "{one} and {other}");
                }
                let accepts = |rule: &VerificationRule| results.map(|(classical, post_quantum)| rule.holds(classical, post_quantum));
                let within = accepts(one).iter().zip(accepts(other)).all(|(mine, theirs)| !mine || theirs);
                assert_eq!(one.is_stricter_than(*other), within && one != other, "{one} against {other}");
            }
        }
    }

    #[test]
    fn every_algorithm_that_signs_has_one_place_and_only_hybrid_encryption_has_the_third() {
        for algorithm in Algorithm::all() {
            for purpose in Purpose::ALL {
                let places: Vec<_> = Member::ALL.iter().filter(|member| member.takes(algorithm, *purpose)).collect();
                let expected = match purpose {
                    Purpose::Sign if algorithm.serves(*purpose) => 1,
                    Purpose::Encrypt if algorithm.name().starts_with("HPKE-9") => 1,
                    _ if algorithm.serves(*purpose) => 0,
                    _ => continue,
                };
                assert_eq!(places.len(), expected, "{algorithm} to {purpose}: {places:?}");
            }
        }
        assert!(Member::Classical.takes("Ed25519".parse().unwrap(), Purpose::Sign));
        assert!(Member::PostQuantum.takes("SLH-DSA-SHA2-128s".parse().unwrap(), Purpose::Sign));
    }
}
