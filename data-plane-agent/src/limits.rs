//! How much one caller may take, and how often an address may come without proving who it is.

use std::{net::IpAddr, num::NonZeroU32};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use schema::{id::CallerId, wire::problem::Problem};

/// The most keys a limiter holds before those that rest are forgotten.
const MAX_KEYS: usize = 10_000;

/// Rates of requests.
pub struct Limits {
    callers: Option<DefaultKeyedRateLimiter<CallerId>>,
    unproved: DefaultKeyedRateLimiter<IpAddr>,
}

impl Limits {
    /// So many requests a second for each caller (any number, when there is none), and for each address that proves none.
    pub fn new(of_caller_per_second: Option<NonZeroU32>, unproved_per_second: NonZeroU32) -> Self {
        Self {
            callers: of_caller_per_second.map(|rate| RateLimiter::keyed(Quota::per_second(rate))),
            unproved: RateLimiter::keyed(Quota::per_second(unproved_per_second)),
        }
    }

    /// Counts a request of a caller.
    pub fn admit(&self, caller: CallerId) -> Result<(), Problem> {
        self.admit_many(caller, NonZeroU32::MIN)
    }

    /// Counts a batch of a caller: as many requests as it has items.
    pub fn admit_many(&self, caller: CallerId, items: NonZeroU32) -> Result<(), Problem> {
        let Some(limiter) = &self.callers else { return Ok(()) };
        match limiter.check_key_n(&caller, items) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(too_many("this caller sends more requests than limits.requests_per_second allows")),
            Err(_) => Err(too_many(&format!(
                "a batch counts as many requests as it has items, and {items} are more than limits.requests_per_second ever allows at once"
            ))),
        }
    }

    /// Counts a request that proved no caller.
    pub fn unproved(&self, address: IpAddr) -> Result<(), Problem> {
        if self.unproved.len() > MAX_KEYS {
            self.unproved.retain_recent();
        }
        self.unproved.check_key(&address).map_err(|_| too_many("too many requests from this address proved no caller"))
    }
}

fn too_many(detail: &str) -> Problem {
    Problem::new(429, "too_many_requests", "Too many requests", format!("{detail}: send fewer, or wait a second"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_caller_has_its_own_limit() {
        let two = NonZeroU32::new(2).unwrap();
        let limits = Limits::new(Some(two), two);
        let (a, b) = (CallerId::from_bits(1), CallerId::from_bits(2));
        assert!(limits.admit(a).is_ok() && limits.admit(a).is_ok());
        assert_eq!(limits.admit(a).unwrap_err().code, "too_many_requests");
        assert!(limits.admit(b).is_ok());
        let c = CallerId::from_bits(3);
        assert!(limits.admit_many(c, NonZeroU32::new(3).unwrap()).unwrap_err().detail.contains("ever allows"));
        assert!(limits.admit_many(c, two).is_ok());
        assert!(limits.admit(c).is_err());
        let address = Ipv4Addr::LOCALHOST.into();
        assert!(limits.unproved(address).is_ok() && limits.unproved(address).is_ok());
        assert_eq!(limits.unproved(address).unwrap_err().status, 429);
        assert!(Limits::new(None, two).admit(a).is_ok());
    }
}
