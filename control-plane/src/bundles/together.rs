//! What many ask at the same moment is found out once. An answer that somebody began to look for after I asked is as good as my
//! own; one that was begun before may be older than what I was told of.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

/// The last answer, and since when it holds.
pub(super) struct Together<T>(tokio::sync::Mutex<Option<(Instant, T)>>);

impl<T> Default for Together<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(None))
    }
}

impl<T: Clone> Together<T> {
    /// An answer that was begun at `since` or later: another's, or the one of `ask`, which is given the last answer there was.
    /// Who gives up in the middle leaves the last one as it was, and the next in line asks.
    pub(super) async fn ask<F: Future<Output = T>>(&self, since: Instant, ask: impl FnOnce(Option<T>) -> F) -> T {
        let mut last = self.0.lock().await;
        if let Some((begun, answer)) = &*last
            && *begun >= since
        {
            return answer.clone();
        }
        let begun = Instant::now();
        let answer = ask(last.as_ref().map(|(_, answer)| answer.clone())).await;
        *last = Some((begun, answer.clone()));
        answer
    }
}

/// One value for everybody who uses it at the same time; gone with the last of them.
pub(super) struct Shared<K, V>(Mutex<(HashMap<K, Weak<V>>, usize)>);

/// As few entries are not worth looking through.
const SWEEP_FROM: usize = 64;

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self(Mutex::new((HashMap::new(), SWEEP_FROM)))
    }
}

impl<K: Hash + Eq, V: Default> Shared<K, V> {
    /// The value of this key.
    pub(super) fn of(&self, key: K) -> Arc<V> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = all.0.get(&key).and_then(Weak::upgrade) {
            return value;
        }
        // Nobody is told when the last user leaves; what they left is cleared away as the map grows.
        if all.0.len() >= all.1 {
            all.0.retain(|_, value| value.strong_count() > 0);
            all.1 = SWEEP_FROM.max(2 * all.0.len());
        }
        let value = Arc::new(V::default());
        all.0.insert(key, Arc::downgrade(&value));
        value
    }

    /// The value of this key, when somebody uses it.
    pub(super) fn in_use(&self, key: &K) -> Option<Arc<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.get(key).and_then(Weak::upgrade)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures::future::join_all;

    use super::*;

    /// Takes as long as others need to ask, and gives how often it was asked.
    async fn counted(count: &AtomicUsize) -> usize {
        tokio::task::yield_now().await;
        count.fetch_add(1, Ordering::Relaxed) + 1
    }

    #[tokio::test]
    async fn a_thousand_who_ask_at_once_are_answered_by_two_looks() {
        let (together, count) = (Together::default(), AtomicUsize::new(0));
        let asked = (0..1000).map(|_| together.ask(Instant::now(), |_| counted(&count)));
        let answers = join_all(asked).await;
        assert_eq!(answers.len(), 1000);
        // All had asked when the first look was begun, but for the clock's ticks.
        assert!(count.load(Ordering::Relaxed) <= 2, "{} looks", count.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn an_answer_that_was_begun_before_the_question_is_not_taken() {
        let (together, count) = (Together::default(), AtomicUsize::new(0));
        assert_eq!(together.ask(Instant::now(), |_| counted(&count)).await, 1);
        let later = Instant::now() + Duration::from_millis(1);
        while Instant::now() < later {
            std::thread::yield_now();
        }
        assert_eq!(together.ask(later, async |last| counted(&count).await + 10 * last.unwrap_or(0)).await, 12);
        assert_eq!(together.ask(later, |_| counted(&count)).await, 12, "one that is recent enough is taken");
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_others_an_answer() {
        let (together, count) = (Together::default(), AtomicUsize::new(0));
        let gone = tokio::time::timeout(Duration::ZERO, together.ask(Instant::now(), |_| std::future::pending::<usize>()));
        assert!(gone.await.is_err());
        assert_eq!(together.ask(Instant::now(), async |last| counted(&count).await + last.unwrap_or(0)).await, 1);
    }

    #[test]
    fn what_nobody_uses_is_not_kept() {
        let shared = Shared::<usize, Mutex<u8>>::default();
        let kept = shared.of(0);
        *kept.lock().unwrap() = 7;
        for key in 1..100 * SWEEP_FROM {
            shared.of(key);
        }
        assert!(shared.len() <= 2 * SWEEP_FROM, "{} entries", shared.len());
        assert_eq!(*shared.of(0).lock().unwrap(), 7);
        assert!(shared.in_use(&1).is_none());
    }
}
