//! When new versions may come: rules change, agents sleep, and somebody who signs state alone tries for more.

use std::time::Duration;

use proptest::prelude::*;
use schema::{
    clock::Timestamp,
    key::{RotationRule, VersionState},
    wire::agent::StatementSet,
};
use trust::{
    accept::{AcceptedSet, Confirmed, Rejection, accept},
    dsse,
    statement::{Scope, policy::Policy, state::KeyState},
    testing::{KEY, PROJECT, START, World, refs},
    time::Moment,
};

use crate::{offer, refused};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Age, calendar and uses say when the control plane may act by itself; none of them makes a version come sooner than the interval,
/// and no rule of ending takes material away without policy.
#[test]
fn a_rule_by_calendar_uses_or_end_widens_nothing() {
    let rule = RotationRule {
        every_seconds: None,
        min_interval_seconds: Some(DAY),
        calendar: Some("* * * * *".parse().unwrap()),
        after_uses: Some(1),
        deactivate_after_seconds: Some(1),
        destroy_after_seconds: Some(HOUR),
    };
    let mut told = Told::new();
    told.world.project_policy().keys.get_mut(&KEY).unwrap().rotation = rule;
    let current = offer(None, &told.world, &told.world.set()).unwrap();
    let before = told.key().clone();
    told.wait(HOUR);
    told.version(told.now);
    told.state();
    let now = Moment { signed: told.now, wall: told.now };
    let judged = accept(Some(&current), &told.world.set(), &told.world.identity(), &Confirmed::default(), now);
    assert_eq!(judged.err().map(|rejection| rejection.code()), Some("too_soon"));

    // Late enough, the old version may be deactivated by rule; destroyed, it only stops, until policy says so.
    *told.key() = before;
    told.wait(2 * DAY);
    told.version(told.now);
    told.key().versions.get_mut(&1).unwrap().state = VersionState::Destroyed;
    told.state();
    let now = Moment { signed: told.now, wall: told.now };
    let set = accept(Some(&current), &told.world.set(), &told.world.identity(), &Confirmed::default(), now).unwrap();
    let old = schema::id::KeyVersion::new(KEY, 1);
    assert_eq!((set.version_state(old), set.destruction_confirmed(old)), (Some(VersionState::Suspended), false));
}

/// A site as an honest control plane tells of it, at a time.
struct Told {
    world: World,
    now: Timestamp,
    /// What the tenant's own signers signed last, when the control plane does not have it yet.
    signed: Option<Policy>,
}

impl Told {
    fn new() -> Self {
        Self { world: World::new(), now: START, signed: None }
    }

    /// The tenant holds the pairs that sign policy.
    fn tenant_held() -> Self {
        Self { world: World::tenant_held(), ..Self::new() }
    }

    /// The tenant signs a policy with another least time between two versions.
    fn sign(&mut self, seconds: u64) {
        let mut policy = self.signed.clone().unwrap_or_else(|| self.world.project_policy().clone());
        policy.keys.get_mut(&KEY).unwrap().rotation =
            RotationRule { every_seconds: None, min_interval_seconds: Some(seconds), ..Default::default() };
        policy.head.serial += 1;
        (policy.head.issued, policy.head.not_before, policy.head.expires) =
            (self.now, self.now, self.now.plus(Duration::from_secs(180 * DAY)));
        self.signed = Some(policy);
    }

    /// The control plane has it from now on.
    fn learn(&mut self) {
        if let Some(policy) = self.signed.take() {
            *self.world.project_policy() = policy;
        }
    }

    /// An agent is given it as a file.
    fn by_file(&self, current: &AcceptedSet) -> AcceptedSet {
        let Some(policy) = &self.signed else { return current.clone() };
        let bytes = dsse::sign_statement(policy, &refs(&self.world.policy_pairs)).0;
        let set = StatementSet { policies: vec![bytes.into()], ..StatementSet::default() };
        let now = Moment { signed: self.now, wall: self.now };
        match accept(Some(current), &set, &self.world.identity(), &Confirmed::default(), now) {
            Ok(accepted) => accepted,
            Err(Rejection::Incomplete(_)) => current.clone(), // it has it already
            Err(rejection) => panic!("{}: {rejection}", rejection.code()),
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    /// The least time between two versions is another, and policy says so.
    fn rule(&mut self, seconds: u64) {
        let rule = RotationRule { every_seconds: None, min_interval_seconds: Some(seconds), ..Default::default() };
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

    /// What comes next is judged by the rule that an agent has just been told.
    fn judges_what_comes_next(mut self, last: &AcceptedSet) -> Result<(), TestCaseError> {
        self.wait(1);
        let number = self.key().primary;
        let least = self.world.project_policy().keys[&KEY].rotation.min_interval();
        let allowed = self.key().versions[&number].created.plus(least) <= self.now;
        self.version(self.now);
        self.state();
        prop_assert_eq!(offer(Some(last), &self.world, &self.world.set()).is_ok(), allowed);
        Ok(())
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

#[test]
fn a_longer_rule_by_file_locks_the_agent_out_of_nothing_and_holds_once_the_control_plane_tells_of_it() {
    let mut told = Told::tenant_held();
    let current = told.sync(None);
    told.wait(HOUR);
    told.sign(30 * DAY);
    let by_file = told.by_file(&current);
    assert_ne!(by_file.serials(), current.serials());
    // The control plane does not know of it, and goes on by the rule it knows.
    for _ in 0..2 {
        told.wait(HOUR);
        told.rotate();
    }
    let unaware = told.sync(Some(&by_file));
    told.wait(HOUR);
    told.rotate();
    told.learn();
    told.wait(HOUR);
    // Neither who had the file, nor who slept, nor who was told all along, is locked out by what came in between.
    for before in [&unaware, &by_file, &current] {
        let aware = told.sync(Some(before));
        assert_eq!(aware.primary(KEY).unwrap().number, 4);
    }
    let aware = told.sync(Some(&unaware));
    told.wait(HOUR);
    told.version(told.now);
    told.state();
    refused(offer(Some(&aware), &told.world, &told.world.set()), "too_soon");
}

#[test]
fn who_keeps_a_policy_back_is_held_to_the_one_it_tells_of() {
    let mut told = Told::tenant_held();
    told.sign(DAY);
    told.learn();
    let current = told.sync(None);
    told.wait(HOUR);
    told.sign(30 * DAY);
    let by_file = told.by_file(&current);
    told.wait(2 * DAY);
    let current = told.sync(Some(&by_file));
    told.rotate();
    let current = told.sync(Some(&current));
    assert_eq!(current.primary(KEY).unwrap().number, 2, "a day is what the policy says that the control plane tells of");
    told.wait(HOUR);
    told.version(told.now);
    told.state();
    refused(offer(Some(&current), &told.world, &told.world.set()), "too_soon");
}

#[derive(Debug, Clone)]
enum TenantStep {
    Wait(u64),
    Sign(u64),
    File,
    Learn,
    Rotate,
    Sync,
}

fn tenant_step() -> impl Strategy<Value = TenantStep> {
    let seconds = || prop_oneof![Just(0), Just(1), 1..2 * HOUR, 1..20 * DAY];
    prop_oneof![
        3 => seconds().prop_map(TenantStep::Wait),
        2 => seconds().prop_map(TenantStep::Sign),
        1 => Just(TenantStep::File),
        1 => Just(TenantStep::Learn),
        4 => Just(TenantStep::Rotate),
        1 => Just(TenantStep::Sync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("FREEHOLD_SOAK").is_some() { 1000 } else { 64 }, ..ProptestConfig::default() })]

    #[test]
    fn an_honest_history_is_believed_whenever_the_control_plane_learns_what_the_tenant_signed(
        steps in prop::collection::vec(tenant_step(), 1..40),
    ) {
        let mut told = Told::tenant_held();
        let mut current = told.sync(None);
        for step in steps {
            match step {
                TenantStep::Wait(seconds) => told.wait(seconds),
                TenantStep::Sign(seconds) => told.sign(seconds),
                TenantStep::File => current = told.by_file(&current),
                TenantStep::Learn => told.learn(),
                TenantStep::Rotate => told.rotate(),
                TenantStep::Sync => current = told.sync(Some(&current)),
            }
        }
        told.learn();
        let last = told.sync(Some(&current));
        prop_assert_eq!(last.primary(KEY).unwrap().number, told.key().primary);
        told.judges_what_comes_next(&last)?;
    }
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
        told.judges_what_comes_next(&last)?;
    }
}
