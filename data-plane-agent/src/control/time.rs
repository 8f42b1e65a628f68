//! What time it is for decisions: the later of the last signed time, carried on by the boot-time clock, and the wall clock.
//! And what to say when the two are far apart.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use schema::clock::{Clock, Ids, Timestamp, random};
use service::explain::spelt;
use trust::time::{AgentTime, FAR_AHEAD, Moment, Reading, StoredTime};

/// A wall clock this far behind the signed time is wrong: signed times lie in the past.
const FAR_BEHIND: Duration = Duration::from_secs(60);

/// A clock that runs from boot to boot, sleep included.
pub trait BootClock: Send + Sync + 'static {
    /// Time since the machine booted.
    fn since_boot(&self) -> Duration;
    /// Which boot it is.
    fn boot(&self) -> &str;
}

/// The machine's boot-time clock.
pub struct SystemBootClock {
    boot: String,
}

impl SystemBootClock {
    /// Where the system does not say which boot it is, every start of the agent counts as one: that can only make things
    /// older.
    pub fn new(ids: &dyn Ids) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned());
        Self { boot: boot.unwrap_or_else(|_| schema::encoding::base64url(&random::<16>(ids))) }
    }
}

impl BootClock for SystemBootClock {
    fn since_boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    fn boot(&self) -> &str {
        &self.boot
    }
}

/// The time as the agent believes it. As a [`Clock`] it tells the later of both estimates, so that a wrong wall clock can only
/// make statements older.
pub struct AgentClock {
    wall: Arc<dyn Clock>,
    boot: Box<dyn BootClock>,
    time: Mutex<AgentTime>,
}

impl AgentClock {
    /// Goes on from what was kept.
    pub fn new(wall: Arc<dyn Clock>, boot: Box<dyn BootClock>, stored: Option<&StoredTime>) -> Arc<Self> {
        let reading = reading(&*wall, &*boot);
        let time = stored.map_or_else(|| AgentTime::unknown(&reading), |stored| AgentTime::restore(stored, &reading));
        Arc::new(Self { wall, boot, time: Mutex::new(time) })
    }

    /// Both estimates.
    pub fn moment(&self) -> Moment {
        let reading = reading(&*self.wall, &*self.boot);
        self.time.lock().unwrap_or_else(PoisonError::into_inner).now(&reading)
    }

    /// What to do about this host's clock, when it is far from the last signed time.
    pub fn advice(&self) -> Option<String> {
        advice(self.moment())
    }

    /// A heartbeat of this time was accepted.
    pub fn heard(&self, told: Timestamp) {
        let reading = reading(&*self.wall, &*self.boot);
        self.time.lock().unwrap_or_else(PoisonError::into_inner).heard(told, &reading);
    }

    /// What to keep.
    pub fn stored(&self) -> StoredTime {
        self.moment();
        self.time.lock().unwrap_or_else(PoisonError::into_inner).stored()
    }
}

impl Clock for AgentClock {
    fn now(&self) -> Timestamp {
        self.moment().latest()
    }
}

/// Nothing is known before the first signed time.
fn advice(Moment { signed, wall }: Moment) -> Option<String> {
    let (ahead, behind) = (wall.since(signed), signed.since(wall));
    if signed == Timestamp::default() {
        None
    } else if behind >= FAR_BEHIND {
        let far = spelt(behind);
        Some(format!("this host's clock says {wall}, which is {far} behind the last signed time {signed}: it is wrong, set it (NTP)"))
    } else if ahead >= FAR_AHEAD {
        let far = spelt(ahead);
        Some(format!("this host's clock says {wall}, which is {far} ahead of the last signed time {signed}: if it is wrong, set it (NTP)"))
    } else {
        None
    }
}

fn reading<'a>(wall: &dyn Clock, boot: &'a dyn BootClock) -> Reading<'a> {
    Reading { wall: wall.now(), since_boot: boot.since_boot(), boot: boot.boot() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_named_with_its_difference() {
        let signed = Timestamp::from_micros(1_767_225_600_000_000);
        let of = |wall| advice(Moment { signed, wall });
        assert_eq!(of(signed.plus(Duration::from_secs(3_599))), None, "a heartbeat may be that old");
        assert_eq!(of(signed.minus(Duration::from_secs(59))), None);
        let ahead = of(signed.plus(Duration::from_secs(3 * 365 * 86_400))).unwrap();
        assert!(ahead.contains("1095 days ahead of the last signed time 2026-01-01T00:00:00"), "{ahead}");
        assert!(ahead.contains("if it is wrong, set it"), "it may also have been off for long: {ahead}");
        let behind = of(signed.minus(Duration::from_secs(7_200))).unwrap();
        assert!(behind.contains("2 hours behind the last signed time") && behind.contains("set it (NTP)"), "{behind}");
        assert_eq!(advice(Moment { signed: Timestamp::default(), wall: signed }), None, "nothing was ever signed");
    }
}
