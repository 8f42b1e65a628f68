//! Sets of whole numbers as disjoint ranges: budgets are handed out as such, so that no two agents can spend the same part.

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{encoding::u64_string, key::words};

words! {
    /// What a budget counts.
    LimitKind {
        /// Uses that protect data.
        Uses = "uses",
        /// Bytes of plaintext protected.
        Bytes = "bytes",
    }
}

/// The numbers from `from` up to, and without, `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range {
    /// The first.
    #[serde(with = "u64_string")]
    pub from: u64,
    /// One more than the last.
    #[serde(with = "u64_string")]
    pub to: u64,
}

impl Range {
    /// How many numbers.
    pub const fn count(self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// A set of numbers: ranges in order, none of them empty, none touching the next. There is one way to write each set, and
/// no other is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Ranges(Vec<Range>);

impl Ranges {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The numbers from `from` up to, and without, `to`.
    pub fn of(from: u64, to: u64) -> Self {
        Self(if from < to { vec![Range { from, to }] } else { Vec::new() })
    }

    /// Its ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range> {
        self.0.iter().copied()
    }

    /// Whether there is no number in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |count, range| count.saturating_add(range.count()))
    }

    /// One more than the highest; 0 when empty.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |range| range.to)
    }

    /// The lowest number.
    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|range| range.from)
    }

    /// All numbers of both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all: Vec<Range> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut merged = Vec::<Range>::with_capacity(all.len());
        for range in all {
            match merged.last_mut() {
                Some(last) if range.from <= last.to => last.to = last.to.max(range.to),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// The numbers that are not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut others = other.0.iter().peekable();
        for range in &self.0 {
            let mut from = range.from;
            while others.next_if(|other| other.to <= from).is_some() {}
            let mut ahead = others.clone();
            while let Some(other) = ahead.next_if(|other| other.from < range.to) {
                if from < other.from {
                    left.push(Range { from, to: other.from });
                }
                from = from.max(other.to);
            }
            if from < range.to {
                left.push(Range { from, to: range.to });
            }
        }
        Self(left)
    }

    /// The numbers that are in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }

    /// Whether no number is in both.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.common(other).is_empty()
    }

    /// The numbers below a bound.
    #[must_use]
    pub fn below(&self, bound: u64) -> Self {
        self.common(&Self::of(0, bound))
    }

    /// The lowest so many numbers, or as many as there are.
    #[must_use]
    pub fn lowest(&self, count: u64) -> Self {
        let mut left = count;
        let mut taken = Vec::new();
        for range in &self.0 {
            let some = range.count().min(left);
            if some == 0 {
                break;
            }
            taken.push(Range { from: range.from, to: range.from + some });
            left -= some;
        }
        Self(taken)
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ranges = Vec::<Range>::deserialize(deserializer)?;
        let apart = ranges.windows(2).all(|pair| pair[0].to < pair[1].from);
        if apart && ranges.iter().all(|range| range.from < range.to) {
            Ok(Self(ranges))
        } else {
            Err(de::Error::custom("ranges must stand in order, not be empty, and neither overlap nor touch"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn numbers(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flat_map(|range| range.from..range.to).collect()
    }

    fn ranges() -> impl Strategy<Value = Ranges> {
        prop::collection::vec((0u64..40, 0u64..8), 0..6)
            .prop_map(|parts| parts.into_iter().fold(Ranges::new(), |all, (from, count)| all.union(&Ranges::of(from, from + count))))
    }

    proptest! {
        #[test]
        fn they_are_sets(a in ranges(), b in ranges(), count in 0u64..50) {
            let (x, y) = (numbers(&a), numbers(&b));
            prop_assert_eq!(numbers(&a.union(&b)), x.union(&y).copied().collect());
            prop_assert_eq!(numbers(&a.without(&b)), x.difference(&y).copied().collect());
            prop_assert_eq!(numbers(&a.common(&b)), x.intersection(&y).copied().collect());
            prop_assert_eq!(a.is_disjoint(&b), x.is_disjoint(&y));
            prop_assert_eq!(numbers(&a.lowest(count)), x.iter().take(count as usize).copied().collect());
            prop_assert_eq!((a.count(), a.first()), (x.len() as u64, x.first().copied()));
            for set in [a.union(&b), a.without(&b), a.common(&b), a.lowest(count)] {
                let text = serde_json::to_string(&set).unwrap();
                prop_assert_eq!(serde_json::from_str::<Ranges>(&text).unwrap(), set);
            }
        }
    }

    #[test]
    fn there_is_one_way_to_write_a_set() {
        let reads = |text: &str| serde_json::from_str::<Ranges>(text).is_ok();
        assert!(reads(r#"[{"from":"0","to":"2"},{"from":"3","to":"4"}]"#));
        for other in [
            r#"[{"from":"3","to":"4"},{"from":"0","to":"2"}]"#,
            r#"[{"from":"0","to":"2"},{"from":"1","to":"4"}]"#,
            r#"[{"from":"0","to":"2"},{"from":"2","to":"4"}]"#,
            r#"[{"from":"2","to":"2"}]"#,
        ] {
            assert!(!reads(other), "{other}");
        }
    }
}
