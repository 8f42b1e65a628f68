//! What is kept to be had again soon, and may be forgotten at any time: at most so much of it, whoever comes.

use std::hash::Hash;

use lru::LruCache;

/// Values by key, each with a weight; what was used longest ago goes first.
pub(crate) struct Bounded<K: Hash + Eq, V> {
    kept: LruCache<K, (V, usize)>,
    weight: usize,
    most: usize,
}

impl<K: Hash + Eq, V> Bounded<K, V> {
    /// Nothing yet; what is in there never weighs more than this.
    pub(crate) fn new(most: usize) -> Self {
        Self { kept: LruCache::unbounded(), weight: 0, most }
    }

    /// What is kept under a key: used now.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        self.kept.get(key).map(|(value, _)| value)
    }

    /// Keeps a value instead of what was there, and forgets others until there is room. What is too heavy by itself is not kept.
    pub(crate) fn put(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        if weight > self.most {
            return;
        }
        self.weight += weight;
        self.kept.put(key, (value, weight));
        while self.weight > self.most {
            let Some((_, (_, weight))) = self.kept.pop_lru() else { break };
            self.weight -= weight;
        }
    }

    /// Forgets one.
    pub(crate) fn remove(&mut self, key: &K) {
        if let Some((_, weight)) = self.kept.pop(key) {
            self.weight -= weight;
        }
    }

    /// What all of it weighs.
    #[cfg(test)]
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_weighs_more_than_it_may() {
        let mut kept = Bounded::new(100);
        for key in 0..1000_usize {
            kept.put(key % 77, key, key % 13 + 1);
            assert!(kept.weight() <= 100, "{} after {key}", kept.weight());
        }
        let weighed: usize = kept.kept.iter().map(|(_, (_, weight))| weight).sum();
        assert_eq!(weighed, kept.weight());
        assert!(weighed > 80, "it is used: {weighed}");
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut kept = Bounded::new(3);
        for key in ["a", "b", "c"] {
            kept.put(key, key, 1);
        }
        assert_eq!(kept.get(&"a"), Some(&"a"));
        kept.put("d", "d", 1);
        assert_eq!(kept.get(&"b"), None);
        assert_eq!(kept.get(&"a"), Some(&"a"));
        kept.put("a", "other", 4);
        assert_eq!(kept.get(&"a"), None, "neither the new one, which is too heavy, nor the one before");
        assert_eq!(kept.weight(), 2);
    }
}
