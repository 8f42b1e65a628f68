//! How many requests a tenant, a token and an address may send. Held in memory: each replica counts for itself.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};
use schema::id::{TenantId, TokenId};

use crate::config::LimitsConfig;

/// After so many checks entries that are full again are forgotten.
const SWEEP_EVERY: u32 = 10_000;

/// The three limits.
pub struct Rates {
    tenants: Rate<TenantId>,
    tokens: Rate<TokenId>,
    addresses: Rate<IpAddr>,
}

/// Too many requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooMany {
    /// Of whom: `tenant`, `token` or `address`.
    pub of: &'static str,
    /// When to come again.
    pub retry_after: Duration,
}

impl Rates {
    /// As the settings say. A minute's worth may come at once.
    pub fn new(limits: &LimitsConfig) -> Self {
        Self {
            tenants: Rate::new("tenant", limits.tenant_per_minute),
            tokens: Rate::new("token", limits.token_per_minute),
            addresses: Rate::new("address", limits.address_per_minute),
        }
    }

    /// Before anything else of a request is looked at. All of an IPv6 /64 counts as one address.
    pub fn address(&self, address: IpAddr) -> Result<(), TooMany> {
        self.addresses.check(match address {
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_ipv4_mapped().map_or(address.to_bits() >> 64 << 64, |_| address.to_bits())))
            }
            address => address,
        })
    }

    /// Once it is known who asks.
    pub fn principal(&self, tenant: TenantId, token: TokenId) -> Result<(), TooMany> {
        self.tokens.check(token)?;
        self.tenants.check(tenant)
    }
}

struct Rate<K: Hash + Eq + Clone> {
    of: &'static str,
    limiter: DefaultKeyedRateLimiter<K>,
    checks: AtomicU32,
}

impl<K: Hash + Eq + Clone> Rate<K> {
    fn new(of: &'static str, per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        Self { of, limiter: RateLimiter::keyed(Quota::per_minute(per_minute)), checks: AtomicU32::new(0) }
    }

    fn check(&self, key: K) -> Result<(), TooMany> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&key).map_err(|until| TooMany { of: self.of, retry_after: until.wait_time_from(self.limiter.clock().now()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_allowance_and_a_network_has_one() {
        let rates = Rates::new(&LimitsConfig { address_per_minute: 2, ..LimitsConfig::default() });
        let a: IpAddr = "2001:db8::1".parse().unwrap();
        let same_network: IpAddr = "2001:db8::2".parse().unwrap();
        let b: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(rates.address(a).is_ok());
        assert!(rates.address(same_network).is_ok());
        let refused = rates.address(a).unwrap_err();
        assert_eq!(refused.of, "address");
        assert!(refused.retry_after > Duration::ZERO && refused.retry_after <= Duration::from_secs(60));
        assert!(rates.address(b).is_ok());
    }
}
