//! Roots and policies that end soon. The control plane renews what it signs itself; what the tenant's signers sign only they
//! can renew, and they are told weeks ahead.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use schema::{
    clock::Timestamp,
    id::{SiteId, TenantId},
};
use trust::statement::{Kind, Scope};

use super::heartbeat::Member;

const DAY: u64 = 86_400;

/// How long before its end a statement of a kind is warned about.
pub const fn warn_before(kind: Kind) -> Duration {
    Duration::from_secs(match kind {
        Kind::Root => 90 * DAY,
        Kind::Policy => 30 * DAY,
        // These are signed by machines, every few days.
        Kind::State | Kind::Heartbeat | Kind::Lease => 0,
    })
}

/// What to say of a statement that ends soon, or has ended; nothing when it has long to live.
pub fn warning(kind: Kind, expires: Timestamp, now: Timestamp) -> Option<String> {
    if warn_before(kind).is_zero() || expires.since(now) > warn_before(kind) {
        return None;
    }
    let days = expires.since(now).as_secs() / DAY;
    let remedy = match kind {
        Kind::Root => "propose and sign the next one (freehold root propose --renew, freehold root sign)",
        _ => "sign the next one (freehold policy sign)",
    };
    match now < expires {
        true => Some(format!("this {kind} ends in {days} days, and agents refuse it then: {remedy}")),
        false => Some(format!("this {kind} has ended, and agents refuse it: {remedy}")),
    }
}

/// When each statement of a site ends that ends soon.
type Soon = BTreeMap<(Kind, Scope), Timestamp>;

/// What ends soon, of all tenants whose heartbeats are signed here.
#[derive(Debug, Default)]
pub struct Ending(Mutex<BTreeMap<(TenantId, SiteId), Soon>>);

impl Ending {
    /// Remembers what of a site's statements ends soon.
    pub fn look_at(&self, tenant: TenantId, site: SiteId, members: &[Member], now: Timestamp) {
        let newest = |kind: Kind, scope: Scope| members.iter().rev().find(move |member| (member.kind, member.scope) == (kind, scope));
        let soon = members
            .iter()
            .filter(|member| newest(member.kind, member.scope).is_some_and(|newest| newest.serial == member.serial))
            .filter(|member| warning(member.kind, member.expires, now).is_some())
            .map(|member| ((member.kind, member.scope), member.expires))
            .collect::<Soon>();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if soon.is_empty() {
            all.remove(&(tenant, site));
        } else {
            all.insert((tenant, site), soon);
        }
    }

    /// How many roots and policies end soon, and when the first of them does.
    pub fn count(&self) -> (usize, usize, Option<Timestamp>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut distinct = BTreeMap::new();
        for ((tenant, _), soon) in all.iter() {
            distinct.extend(soon.iter().map(|((kind, scope), expires)| ((*tenant, *kind, *scope), *expires)));
        }
        let of = |kind: Kind| distinct.keys().filter(|(_, of, _)| *of == kind).count();
        (of(Kind::Root), of(Kind::Policy), distinct.values().min().copied())
    }

    /// What health tells of it.
    pub fn note(&self) -> Option<String> {
        let (roots, policies, first) = self.count();
        let first = first?;
        Some(format!(
            "{roots} roots and {policies} policies end soon, the first at {first}: their tenants' signers must sign the next ones, or agents refuse everything from then on"
        ))
    }

    /// Sets the gauges.
    pub fn measure(&self) {
        let (roots, policies, _) = self.count();
        metrics::gauge!("freehold_statements_ending", "kind" => "root").set(roots as f64);
        metrics::gauge!("freehold_statements_ending", "kind" => "policy").set(policies as f64);
    }
}

#[cfg(test)]
mod tests {
    use schema::{encoding::Digest, id::ProjectId};

    use super::*;

    fn member(kind: Kind, scope: Scope, serial: u64, days: u64) -> Member {
        let (sha256, expires) = (Digest([0; 32]), Timestamp::default().plus(Duration::from_secs(days * DAY)));
        Member { kind, scope, epoch: 1, serial, sha256, envelope: sha256, issued: Timestamp::default(), expires, since: 0 }
    }

    #[test]
    fn policies_are_warned_about_a_month_ahead_and_roots_three() {
        let now = Timestamp::default();
        let at = |days: u64| Timestamp::default().plus(Duration::from_secs(days * DAY));
        assert_eq!(warning(Kind::Policy, at(31), now), None);
        assert!(warning(Kind::Policy, at(30), now).unwrap().contains("in 30 days"));
        assert_eq!(warning(Kind::Root, at(91), now), None);
        assert!(warning(Kind::Root, at(90), now).unwrap().contains("freehold root propose"));
        assert!(warning(Kind::Root, now, now).unwrap().contains("has ended"));
        assert_eq!(warning(Kind::State, at(0), now), None);
    }

    #[test]
    fn what_ends_is_counted_once_and_forgotten_when_it_was_renewed() {
        let (ending, now) = (Ending::default(), Timestamp::default());
        let (tenant, project) = (TenantId::from_bits(1), Scope::Project(ProjectId::from_bits(1)));
        let members = [
            member(Kind::Root, Scope::Tenant, 1, 5),
            member(Kind::Root, Scope::Tenant, 2, 500),
            member(Kind::Policy, Scope::Tenant, 1, 20),
            member(Kind::Policy, project, 1, 10),
        ];
        for site in 1..=2 {
            ending.look_at(tenant, SiteId::from_bits(site), &members, now);
        }
        assert_eq!(ending.count(), (0, 2, Some(now.plus(Duration::from_secs(10 * DAY)))));
        assert!(ending.note().unwrap().contains("2 policies"));
        for site in 1..=2 {
            ending.look_at(tenant, SiteId::from_bits(site), &members[1..2], now);
        }
        assert_eq!((ending.count(), ending.note()), ((0, 0, None), None));
    }
}
