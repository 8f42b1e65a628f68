//! When new versions may come: rules change, agents sleep, and somebody who signs state alone tries for more.

use std::time::Duration;

use proptest::prelude::*;
use schema::{
    clock::Timestamp,
    key::{RotationRule, VersionState},
};
use trust::{
    accept::AcceptedSet,
    statement::{Scope, state::KeyState},
    testing::{KEY, PROJECT, START, World},
};

use crate::{offer, refused};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A site as an honest control plane tells of it, at a time.
struct Told {
    world: World,
    now: Timestamp,
}

impl Told {
    fn new() -> Self {
        Self { world: World::new(), now: START }
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    /// The least time between two versions is another, and policy says so.
    fn rule(&mut self, seconds: u64) {
        let rule = RotationRule { every_seconds: None, min_interval_seconds: Some(seconds) };
        self.world.project_policy().keys.get_mut(&KEY).unwrap().rotation = rule;
        self.policy();
    }

    /// Policy is signed anew.
    fn policy(&mut self) {
        self.world.tick_policy(Scope::Project(PROJECT));
        let now = self.now;
        let head = &mut self.world.project_policy().head;
        (head.issued, head.not_before, head.expires) = (now, now, now.plus(Duration::from_secs(180 * DAY)));
    }

    /// State and heartbeat are signed anew.
    fn state(&mut self) {
        let now = self.now;
        for head in [&mut self.world.state.head, &mut self.world.heartbeat.head] {
            head.serial += 1;
            (head.issued, head.not_before, head.expires) = (now, now, now.plus(Duration::from_secs(7 * DAY)));
        }
    }

    fn key(&mut self) -> &mut KeyState {
        self.world.key()
    }

    /// The next version, made at this time, whether the rule allows it or not.
    fn version(&mut self, created: Timestamp) {
        let number = self.key().primary + 1;
        let entry = self.world.version(number, VersionState::Active, created);
        self.key().versions.insert(number, entry);
        self.key().primary = number;
    }

    /// The next version, now, if the rule allows it.
    fn rotate(&mut self) {
        let least = self.world.project_policy().keys[&KEY].rotation.min_interval();
        let last = self.key().versions.last_entry().unwrap().get().created;
        if self.now >= last.plus(least) {
            self.version(self.now);
        }
    }

    /// An agent that believes `current` is told.
    fn sync(&mut self, current: Option<&AcceptedSet>) -> AcceptedSet {
        self.state();
        offer(current, &self.world, &self.world.set()).unwrap_or_else(|rejection| panic!("{}: {rejection}", rejection.code()))
    }
}

fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

#[test]
fn a_rule_that_became_longer_while_the_agent_slept_locks_it_out_of_nothing() {
    let mut told = Told::new();
    let slept = told.sync(None);
    for _ in 0..3 {
        told.wait(HOUR);
        told.rotate();
    }
    told.wait(HOUR);
    told.rule(30 * DAY);
    told.wait(HOUR);
    let awake = told.sync(Some(&slept));
    assert_eq!(awake.primary(KEY).unwrap().number, 4);
    // From here on the rule is known.
    told.wait(HOUR);
    told.version(told.now);
    told.state();
    refused(offer(Some(&awake), &told.world, &told.world.set()), "too_soon");
}

#[test]
fn a_rule_that_was_made_shorter_allows_what_follows_at_once() {
    let mut told = Told::new();
    told.rule(30 * DAY);
    let current = told.sync(None);
    told.wait(HOUR);
    told.rule(0);
    told.rotate();
    told.rotate();
    assert_eq!(told.sync(Some(&current)).primary(KEY).unwrap().number, 3);
}

#[test]
fn a_burst_against_the_rule_that_is_in_force() {
    let mut told = Told::new();
    told.rule(DAY);
    let current = told.sync(None);
    told.wait(10 * DAY);
    told.version(at(DAY + 5));
    told.version(at(DAY + HOUR));
    told.state();
    refused(offer(Some(&current), &told.world, &told.world.set()), "too_soon");
}

#[test]
fn a_burst_dated_back_to_before_a_longer_rule() {
    let mut told = Told::new();
    told.rule(DAY);
    told.sync(None);
    told.wait(10 * DAY);
    let current = told.sync(None);
    told.wait(DAY);
    told.rule(30 * DAY);
    told.wait(DAY);
    // Within what was allowed then, though the agent should have heard of it then.
    told.version(at(DAY));
    told.state();
    offer(Some(&current), &told.world, &told.world.set()).unwrap();
    told.version(at(DAY + HOUR));
    told.state();
    refused(offer(Some(&current), &told.world, &told.world.set()), "too_soon");
}

#[test]
fn a_version_of_the_very_moment_of_the_last_state_came_after_it() {
    let mut told = Told::new();
    told.rule(1);
    let current = told.sync(None);
    told.rule(0);
    told.rotate();
    told.rule(1);
    assert_eq!(told.sync(Some(&current)).primary(KEY).unwrap().number, 2);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Rule(u64),
    Policy,
    Rotate,
    State,
    Sync,
}

fn step() -> impl Strategy<Value = Step> {
    let seconds = || prop_oneof![Just(0), Just(1), 1..2 * HOUR, 1..20 * DAY];
    prop_oneof![
        3 => seconds().prop_map(Step::Wait),
        1 => seconds().prop_map(Step::Rule),
        1 => Just(Step::Policy),
        4 => Just(Step::Rotate),
        1 => Just(Step::State),
        1 => Just(Step::Sync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("FREEHOLD_SOAK").is_some() { 1000 } else { 64 }, ..ProptestConfig::default() })]

    #[test]
    fn an_honest_history_is_believed_however_long_the_agent_slept(steps in prop::collection::vec(step(), 1..40)) {
        let mut told = Told::new();
        let mut current = told.sync(None);
        for step in steps {
            match step {
                Step::Wait(seconds) => told.wait(seconds),
                Step::Rule(seconds) => told.rule(seconds),
                Step::Policy => told.policy(),
                Step::Rotate => told.rotate(),
                Step::State => told.state(),
                Step::Sync => current = told.sync(Some(&current)),
            }
        }
        let last = told.sync(Some(&current));
        prop_assert_eq!(last.primary(KEY).unwrap().number, told.key().primary);
        // What comes next is judged by the rule it has just been told.
        told.wait(1);
        let number = told.key().primary;
        let least = told.world.project_policy().keys[&KEY].rotation.min_interval();
        let allowed = told.key().versions[&number].created.plus(least) <= told.now;
        told.version(told.now);
        told.state();
        prop_assert_eq!(offer(Some(&last), &told.world, &told.world.set()).is_ok(), allowed);
    }
}
