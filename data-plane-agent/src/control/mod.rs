//! The control plane, as the agent sees it: the only code that calls it.
//!
//! - [`directory`]: what the agent keeps on disk of its identity, certificate, statements and time.
//! - [`client`]: the calls, over mutual TLS.
//! - [`enrol`]: how the agent joins its site, once.
//! - [`exchange`]: all of it as files, for an agent that is connected to nothing; [`carried`]: statements as files.
//! - [`time`]: what time it is, whatever the wall clock says.
//! - [`sync`]: fetches statements, has them judged, keeps them, puts them in force.
//! - [`lease`]: asks for leases of budgets.
//! - [`vouch`]: says that a newcomer of the site is genuine.
//! - [`certificate`]: renews the certificate in time.
//! - [`contexts`]: the key of the site under which receipts hide encryption contexts.
//! - [`prekeys`]: keys that others seal material for this agent to.
//! - [`relay`]: the exchange of material with the other agents of the site.
//! - [`report`]: says what the agent made, holds and enforces.
//! - [`ratchet`]: proves that every report is of the same agent as the last.

pub mod carried;
pub mod certificate;
pub mod client;
pub mod contexts;
pub mod directory;
pub mod enrol;
pub mod exchange;
pub mod lease;
pub mod prekeys;
pub mod ratchet;
pub mod relay;
pub mod report;
pub mod sync;
pub mod time;
pub mod vouch;

use std::time::Duration;

use schema::clock::{Ids, random};

/// A pause that doubles with each failure, up to a limit, and is spread so that agents do not come back all at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// The first pause and the longest.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Something went well: the next pause is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after another failure: between half of the pause and all of it.
    pub fn pause(&mut self, ids: &dyn Ids) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let spread = f64::from(u32::from_be_bytes(random(ids))) / f64::from(u32::MAX);
        whole.mul_f64(0.5 + spread / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use schema::clock::ManualIds;

    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew() {
        let ids = ManualIds::seeded(1);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let pauses: Vec<f64> = (0..40).map(|_| backoff.pause(&ids).as_secs_f64()).collect();
        assert!((0.5..=1.0).contains(&pauses[0]));
        assert!((4.0..=8.0).contains(&pauses[3]));
        assert!(pauses[10..].iter().all(|pause| (30.0..=60.0).contains(pause)));
        backoff.reset();
        assert!(backoff.pause(&ids) <= Duration::from_secs(1));
    }
}
