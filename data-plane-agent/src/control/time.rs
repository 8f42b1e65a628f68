//! What time it is for decisions: the later of the last signed time, carried on by the boot-time clock, and the wall clock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use schema::clock::{Clock, Ids, Timestamp, random};
use trust::time::{AgentTime, Moment, Reading, StoredTime};

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

fn reading(wall: &dyn Clock, boot: &dyn BootClock) -> Reading {
    Reading { wall: wall.now(), since_boot: boot.since_boot(), boot: boot.boot().to_owned() }
}
