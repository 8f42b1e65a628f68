//! Time, ids and randomness as arguments. The system pair is made once, in `main`; tests use the manual pair.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::id::Id;

/// A moment in UTC, in microseconds. Text is RFC 3339 with exactly six decimals and `Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// The last moment this type can write: 9999-12-31T23:59:59.999999Z.
const LAST_MICROS: i64 = 253_402_300_799_999_999;
/// The first: 0001-01-01T00:00:00Z.
const FIRST_MICROS: i64 = -62_135_596_800_000_000;

impl Timestamp {
    /// From microseconds since 1970-01-01T00:00:00Z; clamped to the years 1 to 9999.
    pub const fn from_micros(micros: i64) -> Self {
        Self(if micros > LAST_MICROS {
            LAST_MICROS
        } else if micros < FIRST_MICROS {
            FIRST_MICROS
        } else {
            micros
        })
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This much later, or the last moment there is.
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This much earlier, or the first moment there is.
    pub fn minus(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The time from `earlier` to this, or zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// As a chrono date-time.
    pub fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(DateTime::UNIX_EPOCH)
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(time: DateTime<Utc>) -> Self {
        Self::from_micros(time.timestamp_micros())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_chrono().to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a time as we write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a time like 2026-01-31T09:30:00.000000Z (RFC 3339, UTC, six decimals)")]
pub struct InvalidTimestamp;

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| InvalidTimestamp)?;
        let stamp = Self::from(time.with_timezone(&Utc));
        if stamp.to_string() == text { Ok(stamp) } else { Err(InvalidTimestamp) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, now.
    fn now(&self) -> Timestamp;
}

/// Makes random bytes and ids.
pub trait Ids: Send + Sync + 'static {
    /// Fills the buffer with bytes from a cryptographically secure source.
    fn fill(&self, bytes: &mut [u8]);

    /// 128 time-ordered bits: a UUIDv7 (RFC 9562, section 5.7) of this moment.
    fn ordered(&self, now: Timestamp) -> u128 {
        let mut random = [0; 10];
        self.fill(&mut random);
        let millis = u64::try_from(now.micros() / 1000).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_u128()
    }
}

/// `N` random bytes.
pub fn random<const N: usize>(ids: &dyn Ids) -> [u8; N] {
    let mut bytes = [0; N];
    ids.fill(&mut bytes);
    bytes
}

/// A new time-ordered id.
pub fn new_id<T: Id>(ids: &dyn Ids, now: Timestamp) -> T {
    T::from_bits(ids.ordered(now))
}

/// A new id that is random in all its bits (ids of people).
pub fn random_id<T: Id>(ids: &dyn Ids) -> T {
    T::from_bits(u128::from_be_bytes(random(ids)))
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        Utc::now().into()
    }
}

/// The operating system's random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemIds;

impl Ids for SystemIds {
    #[allow(clippy::disallowed_methods, reason = "the one place that asks the system for randomness")]
    #[allow(clippy::expect_used, reason = "without randomness nothing may go on")]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system has no randomness to give");
    }
}

/// A clock that stands still until it is moved. Clones share the time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Starts at this time.
    pub fn at(time: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(time.micros())))
    }

    /// Moves forward.
    pub fn advance(&self, duration: Duration) {
        self.set(self.now().plus(duration));
    }

    /// Moves to any time, also back.
    pub fn set(&self, time: Timestamp) {
        self.0.store(time.micros(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// Repeatable bytes for tests: SHA-256 in counter mode over a seed. Not for real use.
#[derive(Debug, Clone)]
pub struct ManualIds(Arc<Mutex<(u64, u64)>>);

impl ManualIds {
    /// The same seed gives the same bytes.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new((seed, 0))))
    }
}

impl Ids for ManualIds {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for chunk in bytes.chunks_mut(32) {
            state.1 += 1;
            let block = crate::encoding::Digest::labelled("manual-ids", &[&state.0.to_be_bytes(), &state.1.to_be_bytes()]);
            chunk.copy_from_slice(&block.0[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::EventId;

    proptest! {
        #[test]
        fn times_survive_their_text(micros in FIRST_MICROS..LAST_MICROS) {
            let time = Timestamp::from_micros(micros);
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }
    }

    #[test]
    fn only_one_spelling_of_a_time() {
        assert!("2026-01-31T09:30:00.000000Z".parse::<Timestamp>().is_ok());
        for bad in ["2026-01-31T09:30:00Z", "2026-01-31T09:30:00.000Z", "2026-01-31T09:30:00.000000+00:00", "2026-01-31 09:30:00.000000Z"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ordered_ids_follow_the_clock() {
        let ids = ManualIds::seeded(1);
        let early: EventId = new_id(&ids, Timestamp::from_micros(1_000_000));
        let late: EventId = new_id(&ids, Timestamp::from_micros(2_000_000));
        assert!(early < late);
    }
}
