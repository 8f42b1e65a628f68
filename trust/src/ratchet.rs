//! How a copy of an agent shows: every report proves the one before it.
//!
//! The agent makes a fresh secret for each report and sends its hash; the next report shows the secret. The control plane
//! knows the last hash, so it knows whether a report comes from whoever sent the last one. Two that go on from the same point
//! make different secrets, and the second of them does not follow: there are two histories of one identity.
//!
//! An honest agent is never taken for two: what it is about to send is kept first, and sent again as it is until it was
//! answered. A report that came twice, or late, is one that was seen before, byte for byte. A control plane that was restored
//! from a backup is behind its agents, and goes on from where they are.

use std::collections::VecDeque;

use schema::{
    encoding::{Base64, Digest},
    wire::agent::RatchetClaim,
};
use serde::{Deserialize, Serialize};

/// How many reports the control plane remembers, to know one again that came late.
const REMEMBERED: usize = 8;
/// The label of hashes of secrets.
const LABEL: &str = "freehold-ratchet-v1";

/// What a secret is known by.
pub fn commitment(secret: &[u8]) -> Digest {
    Digest::labelled(LABEL, &[secret])
}

/// The agent's end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ratchet {
    /// How many reports were answered.
    answered: u64,
    /// The secret whose hash went with the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Base64>,
    /// The secret whose hash goes with the one that waits for its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<Base64>,
}

impl Ratchet {
    /// What the next report says; the same again until [`Self::was_answered`]. `fresh` is a new random secret, used when there is
    /// nothing to repeat. Keep the ratchet before sending: true when it changed.
    pub fn claim(&mut self, fresh: [u8; 32]) -> (RatchetClaim, bool) {
        let is_new = self.pending.is_none();
        let pending = self.pending.get_or_insert_with(|| fresh.into());
        let claim = RatchetClaim { counter: self.answered + 1, proof: self.secret.clone(), next: commitment(pending.as_slice()) };
        (claim, is_new)
    }

    /// The control plane took the report that claimed this.
    pub fn was_answered(&mut self, claim: &RatchetClaim) {
        if claim.counter == self.answered + 1
            && let Some(pending) = self.pending.take()
        {
            (self.answered, self.secret) = (claim.counter, Some(pending));
        }
    }

    /// Where this agent is: the number of its last answered report, and the hash that went with it. None before the first.
    pub fn position(&self) -> Option<(u64, Digest)> {
        Some((self.answered, commitment(self.secret.as_ref()?.as_slice())))
    }
}

/// The control plane's end: the last reports of one agent, the newest last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Known(VecDeque<Step>);

/// One report, as it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    counter: u64,
    /// The hash of the secret it showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proved: Option<Digest>,
    /// The hash of the secret the next one is to show.
    next: Digest,
}

/// What a report turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It follows the last one; this is known from now on.
    Follows(Known),
    /// It was seen before.
    Repeats,
    /// The agent is further than anything that is known: the control plane lost what it knew. This is known from now on.
    Ahead(Known),
    /// It goes on from a point from which another report went on before.
    Forks,
}

impl Known {
    /// Judges a report.
    pub fn judge(&self, claim: &RatchetClaim) -> Verdict {
        let step =
            Step { counter: claim.counter, proved: claim.proof.as_ref().map(|secret| commitment(secret.as_slice())), next: claim.next };
        let Some(last) = self.0.back() else {
            let known = Self(VecDeque::from([step]));
            return if claim.counter <= 1 { Verdict::Follows(known) } else { Verdict::Ahead(known) };
        };
        if self.0.contains(&step) {
            return Verdict::Repeats;
        }
        if step.counter > last.counter.saturating_add(1) {
            return Verdict::Ahead(Self(VecDeque::from([step])));
        }
        if step.counter != last.counter.saturating_add(1) || step.proved != Some(last.next) {
            return Verdict::Forks;
        }
        let mut steps = self.0.clone();
        steps.push_back(step);
        while steps.len() > REMEMBERED {
            steps.pop_front();
        }
        Verdict::Follows(Self(steps))
    }

    /// The number of the newest report; 0 while there is none.
    pub fn counter(&self) -> u64 {
        self.0.back().map_or(0, |step| step.counter)
    }

    /// Whether somebody at this position may be the one who sent the newest report: it is there, or one answer behind, or
    /// further than anything that is known.
    pub fn may_be_at(&self, position: Option<(u64, Digest)>) -> bool {
        let Some(last) = self.0.back() else { return true };
        match position {
            // Its first report was sent, and the answer is still to come.
            None => last.counter <= 1,
            Some((counter, hash)) => {
                counter > last.counter
                    || (counter == last.counter && hash == last.next)
                    || (counter + 1 == last.counter && last.proved == Some(hash))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A control plane, and a source of secrets that are never the same.
    #[derive(Default)]
    struct Bench {
        known: Known,
        made: u64,
        forked: bool,
    }

    impl Bench {
        fn fresh(&mut self) -> [u8; 32] {
            self.made += 1;
            let mut secret = [0; 32];
            secret[..8].copy_from_slice(&self.made.to_be_bytes());
            secret
        }

        fn take(&mut self, claim: &RatchetClaim) {
            match self.known.judge(claim) {
                Verdict::Follows(known) | Verdict::Ahead(known) => self.known = known,
                Verdict::Repeats => {}
                Verdict::Forks => self.forked = true,
            }
        }
    }

    /// An agent with its disk.
    #[derive(Clone, Default)]
    struct Host {
        memory: Ratchet,
        disk: Ratchet,
    }

    /// What becomes of one report.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        /// Everything goes well.
        Answered,
        /// It never arrives.
        Lost,
        /// It arrives, the answer does not.
        Unanswered,
        /// It is answered, and the agent dies before it has kept that.
        DiesAfterAnswer,
        /// The agent dies after it has kept what it is about to send.
        DiesBeforeSending,
        /// The agent dies before it has kept what it was about to send.
        DiesBeforeKeeping,
        /// It arrives twice.
        Doubled,
    }

    fn fates() -> impl Strategy<Value = Fate> {
        use Fate::*;
        prop_oneof![
            3 => Just(Answered), 1 => Just(Lost), 1 => Just(Unanswered), 1 => Just(DiesAfterAnswer), 1 => Just(DiesBeforeSending),
            1 => Just(DiesBeforeKeeping), 1 => Just(Doubled),
        ]
    }

    impl Host {
        fn report(&mut self, bench: &mut Bench, fate: Fate) -> Option<RatchetClaim> {
            let fresh = bench.fresh();
            let (claim, _) = self.memory.claim(fresh);
            if matches!(fate, Fate::DiesBeforeKeeping) {
                self.memory = self.disk.clone();
                return None;
            }
            self.disk = self.memory.clone();
            match fate {
                Fate::Lost | Fate::DiesBeforeSending | Fate::DiesBeforeKeeping => None,
                Fate::Unanswered | Fate::DiesAfterAnswer => {
                    bench.take(&claim);
                    Some(claim)
                }
                Fate::Answered | Fate::Doubled => {
                    bench.take(&claim);
                    if matches!(fate, Fate::Doubled) {
                        bench.take(&claim);
                    }
                    self.memory.was_answered(&claim);
                    self.disk = self.memory.clone();
                    Some(claim)
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 500 } else { 5_000 }))]

        /// Crashes, lost requests, lost answers, requests that come twice or up to six reports late, and a control plane that is
        /// restored from a backup: none of it looks like a copy.
        #[test]
        fn an_honest_agent_is_never_taken_for_two(
            steps in prop::collection::vec((fates(), prop::option::weighted(0.2, 1usize..=6), prop::bool::weighted(0.05)), 1..80)
        ) {
            let (mut bench, mut host, mut sent) = (Bench::default(), Host::default(), Vec::new());
            let mut backup = Known::default();
            for (fate, late, restored) in steps {
                if restored {
                    // Requests from before the restoration are long gone.
                    (bench.known, backup) = (backup, bench.known.clone());
                    backup = bench.known.clone().min_by_counter(backup);
                    sent.clear();
                }
                sent.extend(host.report(&mut bench, fate));
                prop_assert!(bench.known.may_be_at(host.disk.position()), "a position that an honest agent may have");
                if let Some(late) = late.filter(|late| *late <= sent.len()) {
                    let claim = sent[sent.len() - late].clone();
                    bench.take(&claim);
                }
                prop_assert!(!bench.forked, "{fate:?}");
            }
        }

        /// A copy of the disk at any moment, both go on as they like: as soon as each of them was answered twice, they are known to
        /// be two.
        #[test]
        fn a_copy_shows(
            before in prop::collection::vec(fates(), 0..20),
            after in prop::collection::vec((any::<bool>(), fates()), 0..30),
        ) {
            let (mut bench, mut host) = (Bench::default(), Host::default());
            for fate in before {
                host.report(&mut bench, fate);
            }
            prop_assert!(!bench.forked);
            let mut copy = Host { memory: host.disk.clone(), disk: host.disk.clone() };
            for (is_copy, fate) in after {
                if is_copy { copy.report(&mut bench, fate) } else { host.report(&mut bench, fate) };
            }
            for _ in 0..2 {
                host.report(&mut bench, Fate::Answered);
                copy.report(&mut bench, Fate::Answered);
            }
            prop_assert!(bench.forked);
        }
    }

    impl Known {
        fn min_by_counter(self, other: Self) -> Self {
            if self.counter() <= other.counter() { self } else { other }
        }
    }

    #[test]
    fn a_disk_from_yesterday_forks_and_may_not_be_served() {
        let (mut bench, mut host) = (Bench::default(), Host::default());
        host.report(&mut bench, Fate::Answered);
        let mut yesterday = Host { memory: host.disk.clone(), disk: host.disk.clone() };
        for _ in 0..20 {
            host.report(&mut bench, Fate::Answered);
        }
        assert!(bench.known.may_be_at(host.disk.position()));
        assert!(!bench.known.may_be_at(yesterday.disk.position()) && !bench.known.may_be_at(None));
        yesterday.report(&mut bench, Fate::Answered);
        assert!(bench.forked);
    }

    #[test]
    fn whoever_shows_nothing_or_something_else_forks() {
        let (mut bench, mut host) = (Bench::default(), Host::default());
        host.report(&mut bench, Fate::Answered);
        let claim = |proof| RatchetClaim { counter: 2, proof, next: Digest([9; 32]) };
        assert_eq!(bench.known.judge(&claim(None)), Verdict::Forks);
        assert_eq!(bench.known.judge(&claim(Some(Base64(vec![1; 32])))), Verdict::Forks);
    }
}
