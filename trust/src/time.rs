//! What time it is at an agent that may be offline, rebooted, or lied to by its own clock.
//!
//! Time is the last signed time plus what has passed on the boot-time clock since. It is persisted with the boot's id and
//! never decreases; each boot charges a minimum for the time nobody counted. The wall clock may only make things older, and
//! only in memory. A host that is kept offline can still be replayed from a disk image: only a TPM or a remote unseal stops
//! that.

use std::time::Duration;

use schema::clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::statement::policy::OfflineRule;

/// A heartbeat further ahead than this of everything the agent believes about time is refused.
pub const FAR_AHEAD: Duration = Duration::from_secs(3600);
/// What a boot costs at least: as much as may pass between two times of writing it down.
pub const BOOT_CHARGE: Duration = Duration::from_secs(60);

/// What the machine's clocks say, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<'a> {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since the machine booted, sleep included.
    pub since_boot: Duration,
    /// Which boot: another id after each one.
    pub boot: &'a str,
}

/// The two estimates of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The last signed time plus what has passed since; 1970 when nothing was ever signed.
    pub signed: Timestamp,
    /// The wall clock.
    pub wall: Timestamp,
}

impl Moment {
    /// The later of the two: ages are measured to here, so that a wrong clock can only make things older.
    pub fn latest(self) -> Timestamp {
        self.signed.max(self.wall)
    }
}

/// Keeps the time. All it knows of clocks comes as [`Reading`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTime {
    /// The estimate at `since_boot` of `boot`.
    signed: Timestamp,
    since_boot: Duration,
    boot: String,
}

/// What is written to disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTime {
    /// Version of this format: `1`.
    pub v: u32,
    /// The estimate.
    pub signed: Timestamp,
    /// The boot-time clock at that moment, in microseconds.
    pub since_boot_micros: u64,
    /// The boot it was of.
    pub boot: String,
}

impl AgentTime {
    /// Nothing is known yet.
    pub fn unknown(reading: &Reading<'_>) -> Self {
        Self { signed: Timestamp::default(), since_boot: reading.since_boot, boot: reading.boot.to_owned() }
    }

    /// Goes on from what was written down. In another boot, at least [`BOOT_CHARGE`] and the time since that boot have passed.
    pub fn restore(stored: &StoredTime, reading: &Reading<'_>) -> Self {
        let passed = if stored.boot == reading.boot {
            reading.since_boot.saturating_sub(Duration::from_micros(stored.since_boot_micros))
        } else {
            reading.since_boot.saturating_add(BOOT_CHARGE)
        };
        // Nothing signed was ever heard: there is nothing for time to pass from.
        let signed = if stored.signed == Timestamp::default() { stored.signed } else { stored.signed.plus(passed) };
        Self { signed, since_boot: reading.since_boot, boot: reading.boot.to_owned() }
    }

    /// What to write to disk. The wall clock is not in it.
    pub fn stored(&self) -> StoredTime {
        let since_boot_micros = u64::try_from(self.since_boot.as_micros()).unwrap_or(u64::MAX);
        StoredTime { v: 1, signed: self.signed, since_boot_micros, boot: self.boot.clone() }
    }

    /// Now. Moves on and never back.
    pub fn now(&mut self, reading: &Reading<'_>) -> Moment {
        if reading.boot == self.boot {
            if self.signed != Timestamp::default() {
                self.signed = self.signed.plus(reading.since_boot.saturating_sub(self.since_boot));
            }
            self.since_boot = self.since_boot.max(reading.since_boot);
        }
        Moment { signed: self.signed, wall: reading.wall }
    }

    /// A heartbeat was accepted that says it is (at least) this time.
    pub fn heard(&mut self, told: Timestamp, reading: &Reading<'_>) {
        self.now(reading);
        self.signed = self.signed.max(told);
    }
}

/// How current what an agent believes is, by the age of its heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// Everything policy allows.
    Fresh,
    /// The same, with warnings.
    Stale,
    /// Only what policy allows offline.
    Grace,
    /// Nothing.
    Expired,
}

impl Freshness {
    /// By the age of the heartbeat and the rule in force.
    pub fn of(heartbeat: Timestamp, now: Moment, rule: &OfflineRule) -> Self {
        let age = now.latest().since(heartbeat).as_secs();
        // The strictest first, so that a rule written the wrong way round is never wider than any of its numbers.
        if age >= rule.expired_seconds {
            Self::Expired
        } else if age >= rule.grace_seconds {
            Self::Grace
        } else if age >= rule.stale_seconds {
            Self::Stale
        } else {
            Self::Fresh
        }
    }

    /// The word for answers, logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Grace => "grace",
            Self::Expired => "expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000).plus(Duration::from_secs(seconds))
    }

    fn reading(wall: u64, since_boot: u64, boot: &str) -> Reading<'_> {
        Reading { wall: at(wall), since_boot: Duration::from_secs(since_boot), boot }
    }

    #[test]
    fn time_passes_by_the_boot_clock_whatever_the_wall_clock_says() {
        let mut time = AgentTime::unknown(&reading(0, 10, "a"));
        assert_eq!(time.now(&reading(0, 11, "a")).latest(), at(0));
        time.heard(at(0), &reading(0, 20, "a"));
        let back = time.now(&Reading { wall: Timestamp::from_micros(0), ..reading(0, 20 + 2 * DAY, "a") });
        assert_eq!(back.latest(), at(2 * DAY), "a wall clock set back makes nothing younger");
        let forward = time.now(&reading(9 * DAY, 20 + 2 * DAY, "a"));
        assert_eq!(forward.latest(), at(9 * DAY), "a wall clock set forward makes things older");
        let again = time.now(&reading(2 * DAY, 20 + 2 * DAY, "a"));
        assert_eq!(again.latest(), at(2 * DAY), "but only while it stands there");
        assert_eq!(time.stored().signed, at(2 * DAY), "and never on disk");
    }

    #[test]
    fn a_reboot_charges_a_minimum_and_never_goes_back() {
        let mut time = AgentTime::unknown(&reading(0, 10, "a"));
        time.heard(at(100), &reading(0, 20, "a"));
        let stored = time.stored();
        let mut rebooted = AgentTime::restore(&stored, &reading(0, 5, "b"));
        assert_eq!(rebooted.now(&reading(0, 5, "b")).signed, at(100 + 60 + 5));
        let mut same = AgentTime::restore(&stored, &reading(0, 50, "a"));
        assert_eq!(same.now(&reading(0, 50, "a")).signed, at(130));
        let mut tampered = AgentTime::restore(&stored, &reading(0, 1, "a"));
        assert_eq!(tampered.now(&reading(0, 1, "a")).signed, at(100));
        // Reboot after reboot, offline, the time that is charged adds up to the end of grace.
        let mut stored = time.stored();
        for boot in 0..11_000 {
            stored = AgentTime::restore(&stored, &reading(0, 0, &boot.to_string())).stored();
        }
        let now = AgentTime::restore(&stored, &reading(0, 0, "last")).now(&reading(0, 0, "last"));
        assert_eq!(Freshness::of(at(100), now, &OfflineRule::default()), Freshness::Expired);
    }

    #[test]
    fn an_older_heartbeat_does_not_turn_time_back() {
        let mut time = AgentTime::unknown(&reading(0, 10, "a"));
        time.heard(at(100), &reading(0, 10, "a"));
        time.heard(at(50), &reading(0, 10, "a"));
        assert_eq!(time.now(&reading(0, 10, "a")).signed, at(100));
    }

    #[test]
    fn degradation_follows_the_age_of_the_heartbeat() {
        let rule = OfflineRule::default();
        let of = |age| Freshness::of(at(0), Moment { signed: at(age), wall: at(0) }, &rule);
        assert_eq!(of(0), Freshness::Fresh);
        assert_eq!(of(599), Freshness::Fresh);
        assert_eq!(of(600), Freshness::Stale);
        assert_eq!(of(DAY), Freshness::Grace);
        assert_eq!(of(7 * DAY), Freshness::Expired);
        assert_eq!(Freshness::of(at(0), Moment { signed: at(0), wall: at(7 * DAY) }, &rule), Freshness::Expired);
    }
}
