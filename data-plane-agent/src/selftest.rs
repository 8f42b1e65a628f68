//! Known answers and pairwise tests when the agent starts. An algorithm that fails is switched off, not the agent.

use std::collections::BTreeSet;

use schema::{catalogue::Algorithm, clock::Ids};

use crate::algorithm;

/// What came of testing one algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What was wrong, if anything.
    pub failure: Option<String>,
}

/// What came of testing every algorithm, and so which may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTests(Vec<TestResult>);

impl SelfTests {
    /// Tests every algorithm of the catalogue: vectors of its standard, fast against reference implementation, and a
    /// pairwise test of a fresh key. Takes some milliseconds.
    pub fn run(ids: &dyn Ids) -> Self {
        Self(Algorithm::all().map(|algorithm| TestResult { algorithm, failure: test(algorithm, ids).err() }).collect())
    }

    /// Every result, in the order of the catalogue.
    pub fn results(&self) -> &[TestResult] {
        &self.0
    }

    /// Whether the algorithm passed.
    pub fn passed(&self, algorithm: Algorithm) -> bool {
        self.0.iter().any(|result| result.algorithm == algorithm && result.failure.is_none())
    }

    /// Names of algorithms that failed, for health and reports.
    pub fn failed(&self) -> BTreeSet<&'static str> {
        self.0.iter().filter(|result| result.failure.is_some()).map(|result| result.algorithm.name()).collect()
    }
}

fn test(algorithm: Algorithm, ids: &dyn Ids) -> Result<(), String> {
    let serving = algorithm::serve(algorithm);
    serving.self_test(algorithm, ids)?;
    let key = serving.test_secret(algorithm, ids).and_then(|secret| serving.load(algorithm, &secret)).map_err(|error| error.to_string())?;
    if key.is_slow() {
        return Ok(()); // its own test is what a start has time for; every new key is tested pairwise
    }
    algorithm::pairwise(key.as_ref(), ids).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use schema::clock::ManualIds;

    use super::*;

    #[test]
    fn every_algorithm_passes() {
        let tests = SelfTests::run(&ManualIds::seeded(5));
        assert_eq!(tests.failed(), BTreeSet::new(), "{tests:?}");
        assert!(Algorithm::all().all(|algorithm| tests.passed(algorithm)));
    }

    #[test]
    fn a_failure_switches_off_that_algorithm_only() {
        let mut tests = SelfTests::run(&ManualIds::seeded(5));
        tests.0[0].failure = Some("broken".to_owned());
        assert!(!tests.passed(tests.0[0].algorithm));
        assert!(tests.passed(tests.0[1].algorithm));
        assert_eq!(tests.failed().len(), 1);
    }
}
