//! Hostile input: every parser that a stranger can reach, as a function of bytes. The test suite feeds each of them its kept
//! corpus and mutations of it (`FREEHOLD_SOAK=1`: many more). A coverage-guided fuzzer can call [`target`] the same way.
//!
//! A target must not panic, and what it reads must survive being written and read again.

#[cfg(test)]
mod mutate;
mod seeds;
mod targets;

use std::path::PathBuf;

/// One parser.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: the folder of its corpus.
    pub name: &'static str,
    /// What it is known to read, made at run time.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Reads. Panics when a promise is broken.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = targets::ALL;

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}

/// Where the corpus of a target is kept.
pub fn corpus(target: &Target) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).join(target.name)
}

#[cfg(test)]
mod tests {
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    /// What is kept, then what is made; both sorted, so that a run can be repeated.
    fn known(target: &Target) -> Vec<Vec<u8>> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(corpus(target))
            .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
            .unwrap_or_default();
        files.sort();
        files.iter().map(|file| std::fs::read(file).unwrap()).chain((target.seeds)()).collect()
    }

    #[test]
    fn every_parser_stands_what_it_is_given() {
        let cases = if std::env::var_os("FREEHOLD_SOAK").is_some() { 200_000 } else { 400 };
        for target in TARGETS {
            let known = known(target);
            assert!(!known.is_empty(), "{} has no seeds", target.name);
            for bytes in &known {
                (target.run)(bytes);
            }
            let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() });
            if let Err(error) = runner.run(&mutate::mutated(known), |bytes| {
                (target.run)(&bytes);
                Ok(())
            }) {
                panic!("{}: keep the input in tests/corpus/{}: {error}", target.name, target.name);
            }
        }
    }

    #[test]
    fn the_seeds_are_what_the_parsers_read() {
        for target in TARGETS {
            assert!((target.seeds)().iter().any(|seed| !seed.is_empty()), "{}", target.name);
        }
    }
}
