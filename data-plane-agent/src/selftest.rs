//! Known answers, pairwise tests, and fast against reference implementation: at start and on demand. An algorithm that
//! fails is switched off, not the agent, and stays off until the agent is started again
//! (`docs/decisions/0120-a-failed-self-test-stays.md`).

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use schema::{
    catalogue::Algorithm,
    clock::{Clock, Ids, Timestamp},
};
use tokio::sync::watch;

use crate::algorithm::{self, Implementation};

/// The least time between two rounds that somebody asks for: asking often costs nothing.
pub const LEAST_PAUSE: Duration = Duration::from_secs(5);

/// Who serves an algorithm: [`algorithm::serve`], or what a test puts in its place.
pub type Serve = fn(Algorithm) -> &'static dyn Implementation;

/// What came of testing one algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// How long its tests took.
    pub took: Duration,
    /// What was wrong, if anything, in this round or an earlier one.
    pub failure: Option<Failure>,
}

/// A self-test that did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When it was found.
    pub at: Timestamp,
    /// What was wrong.
    pub detail: String,
}

/// What came of one round over every algorithm, and so which may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// When the round began.
    pub at: Timestamp,
    /// Every result, in the order of the catalogue.
    pub results: Vec<TestResult>,
    /// Algorithms that passed in every round.
    pub enabled: BTreeSet<Algorithm>,
}

impl Tested {
    /// Results that are failures.
    pub fn failures(&self) -> impl Iterator<Item = (Algorithm, &Failure)> {
        self.results.iter().filter_map(|result| result.failure.as_ref().map(|failure| (result.algorithm, failure)))
    }

    /// Names of algorithms that failed, for health and reports.
    pub fn failed(&self) -> Vec<String> {
        self.failures().map(|(algorithm, _)| algorithm.name().to_owned()).collect()
    }
}

/// The self-tests of a process and what they found last.
pub struct SelfTests {
    serve: Serve,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    latest: RwLock<Arc<Tested>>,
    /// Held for a round: those who ask meanwhile get its results. When it ended.
    round: Mutex<Option<Instant>>,
    rounds: watch::Sender<u64>,
}

impl SelfTests {
    /// Nothing is tested yet, and nothing enabled.
    pub fn new(serve: Serve, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Arc<Self> {
        let nothing = Tested { at: clock.now(), results: Vec::new(), enabled: BTreeSet::new() };
        let (latest, round) = (RwLock::new(Arc::new(nothing)), Mutex::new(None));
        Arc::new(Self { serve, clock, ids, latest, round, rounds: watch::Sender::new(0) })
    }

    /// Tests every algorithm of the catalogue: vectors of its standard, fast against reference implementation, and a
    /// pairwise test of a fresh key. Blocks for some milliseconds (longer where an algorithm is slow). Whoever asks while
    /// a round runs, or just after one, gets the results of that.
    pub fn run(&self) -> Arc<Tested> {
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        if round.is_some_and(|ended| ended.elapsed() < LEAST_PAUSE) {
            return self.latest();
        }
        let (at, before) = (self.clock.now(), self.latest());
        let results: Vec<TestResult> = Algorithm::all().map(|algorithm| self.result(algorithm, at, &before)).collect();
        let enabled = results.iter().filter(|result| result.failure.is_none()).map(|result| result.algorithm).collect();
        let tested = Arc::new(Tested { at, results, enabled });
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = tested.clone();
        *round = Some(Instant::now());
        self.rounds.send_modify(|count| *count += 1);
        tell(&tested);
        tested
    }

    /// What was found last.
    pub fn latest(&self) -> Arc<Tested> {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts the rounds, to wait for the next.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    fn result(&self, algorithm: Algorithm, at: Timestamp, before: &Tested) -> TestResult {
        let started = Instant::now();
        // What panics in a library is as broken as what gives wrong bytes.
        let tested = catch_unwind(AssertUnwindSafe(|| test((self.serve)(algorithm), algorithm, &*self.ids)))
            .unwrap_or_else(|_| Err("its test ended in a panic".to_owned()));
        let earlier = before.failures().find(|(failed, _)| *failed == algorithm).map(|(_, failure)| failure.clone());
        let failure = earlier.or_else(|| tested.err().map(|detail| Failure { at, detail }));
        TestResult { algorithm, took: started.elapsed(), failure }
    }
}

fn test(serving: &dyn Implementation, algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
    serving.self_test(algorithm, ids)?;
    let key = serving.test_secret(algorithm, ids).and_then(|secret| serving.load(algorithm, &secret)).map_err(|error| error.to_string())?;
    if key.is_slow() {
        return Ok(()); // its own test is what a start has time for; every new key is tested pairwise
    }
    algorithm::pairwise_of(serving, key.as_ref(), ids).map_err(|error| error.to_string())
}

/// Into log and metrics.
fn tell(tested: &Tested) {
    for result in &tested.results {
        let name = result.algorithm.name();
        metrics::gauge!("freehold_self_test_failed", "algorithm" => name).set(f64::from(u8::from(result.failure.is_some())));
        if let Some(Failure { at, detail }) = &result.failure {
            tracing::error!(algorithm = name, since = %at, detail, "the self-test of an algorithm failed: it is switched off");
        }
    }
    let took: Duration = tested.results.iter().map(|result| result.took).sum();
    let (algorithms, failed) = (tested.results.len(), tested.failures().count());
    tracing::info!(algorithms, failed, millis = took.as_millis() as u64, "self-tests were run");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use schema::clock::{ManualClock, ManualIds};

    use super::*;
    use crate::{
        algorithm::{AlgorithmError, LoadedKey},
        vault::secret::SecretBytes,
    };

    fn tests(serve: Serve) -> (Arc<SelfTests>, ManualClock) {
        let clock = ManualClock::at(Timestamp::from_micros(1_000_000));
        (SelfTests::new(serve, Arc::new(clock.clone()), Arc::new(ManualIds::seeded(5))), clock)
    }

    /// As if [`LEAST_PAUSE`] had passed.
    fn again(tests: &SelfTests) -> Arc<Tested> {
        *tests.round.lock().unwrap() = None;
        tests.run()
    }

    const BROKEN: &str = "ML-DSA-65";
    static WRONG: AtomicBool = AtomicBool::new(false);

    /// Serves as the real one does, but signs something else while [`WRONG`]: only the pairwise test can tell.
    struct Forgetful;

    struct ForgetfulKey(Box<dyn LoadedKey>);

    impl LoadedKey for ForgetfulKey {
        fn algorithm(&self) -> Algorithm {
            self.0.algorithm()
        }

        fn public_key(&self) -> Option<&[u8]> {
            self.0.public_key()
        }

        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
            let what = if WRONG.load(Ordering::SeqCst) { b"something else".as_slice() } else { message };
            self.0.sign(what)
        }

        fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, AlgorithmError> {
            self.0.sign_digest(digest)
        }
    }

    impl Implementation for Forgetful {
        fn generate(&self, algorithm: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
            algorithm::serve(algorithm).generate(algorithm, ids)
        }

        fn load(&self, algorithm: Algorithm, seed: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
            Ok(Box::new(ForgetfulKey(algorithm::serve(algorithm).load(algorithm, seed)?)))
        }

        fn verify(&self, algorithm: Algorithm, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
            algorithm::serve(algorithm).verify(algorithm, public_key, message, signature)
        }

        fn verify_digest(&self, algorithm: Algorithm, public_key: &[u8], digest: &[u8], signature: &[u8]) -> Result<(), AlgorithmError> {
            algorithm::serve(algorithm).verify_digest(algorithm, public_key, digest, signature)
        }

        fn self_test(&self, _: Algorithm, _: &dyn Ids) -> Result<(), String> {
            Ok(())
        }
    }

    struct Panicking;

    impl Implementation for Panicking {
        fn generate(&self, _: Algorithm, ids: &dyn Ids) -> Result<SecretBytes, AlgorithmError> {
            Ok(SecretBytes::random(32, ids))
        }

        fn load(&self, algorithm: Algorithm, _: &SecretBytes) -> Result<Box<dyn LoadedKey>, AlgorithmError> {
            Err(AlgorithmError::Failed { algorithm, act: "loading" })
        }

        fn self_test(&self, _: Algorithm, _: &dyn Ids) -> Result<(), String> {
            panic!("this one panics")
        }
    }

    #[test]
    fn every_algorithm_passes() {
        let (tests, _) = tests(algorithm::serve);
        assert_eq!(tests.latest().enabled, BTreeSet::new(), "nothing is enabled untested");
        let tested = tests.run();
        assert_eq!(tested.failed(), Vec::<String>::new(), "{tested:?}");
        assert_eq!(tested.enabled, Algorithm::all().collect());
        assert!(Arc::ptr_eq(&tests.run(), &tested), "asked again at once, the same is told");
        assert_eq!(*tests.follow().borrow(), 1);
    }

    #[test]
    fn what_fails_later_is_switched_off_alone_and_stays_off() {
        let serve: Serve = |algorithm| if algorithm.name() == BROKEN { &Forgetful } else { algorithm::serve(algorithm) };
        let (tests, clock) = tests(serve);
        assert_eq!(tests.run().failed(), Vec::<String>::new());
        WRONG.store(true, Ordering::SeqCst);
        clock.advance(Duration::from_secs(60));
        let failed = again(&tests);
        assert_eq!(failed.failed(), [BROKEN]);
        assert_eq!(failed.enabled.len(), failed.results.len() - 1);
        let found = failed.at;
        WRONG.store(false, Ordering::SeqCst);
        clock.advance(Duration::from_secs(60));
        let after = again(&tests);
        assert_eq!(after.failures().map(|(_, failure)| failure.at).collect::<Vec<_>>(), [found], "it is not believed again");
    }

    #[test]
    fn a_panic_is_a_failure() {
        let serve: Serve = |algorithm| if algorithm.name() == BROKEN { &Panicking } else { algorithm::serve(algorithm) };
        let tested = tests(serve).0.run();
        assert_eq!(tested.failed(), [BROKEN]);
        assert!(tested.failures().next().unwrap().1.detail.contains("panic"));
    }
}
