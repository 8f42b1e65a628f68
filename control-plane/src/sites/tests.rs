use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    event::site::{SiteCreated, SiteFounded, SiteOfflineRuleSet, SiteRecoveryKeySet, SiteResumed, SiteSuspended},
    id::{AgentId, SiteId, TenantId},
    rule::OfflineRule,
};
use trust::recovery::RecoveryKey;

use super::*;
use crate::eventing::scenario::Scenario;

fn site() -> Scenario<Site> {
    Scenario::of(SiteId::from_bits(1)).given([SiteCreated { name: "fra-dc1".parse().unwrap(), display_name: None }.into()])
}

#[test]
fn a_name_is_used_once() {
    site().when(&SiteCommand::Create { name: "fra-dc1".parse().unwrap(), display_name: None }).then_refused("site_exists");
}

#[test]
fn ages_of_an_offline_rule_are_in_order() {
    let rule = |stale_seconds, grace_seconds, expired_seconds| OfflineRule {
        stale_seconds,
        grace_seconds,
        expired_seconds,
        ..OfflineRule::default()
    };
    for wrong in [rule(0, 1, 2), rule(2, 1, 3), rule(1, 3, 2)] {
        site().when(&SiteCommand::SetOfflineRule { rule: Some(wrong) }).then_refused("offline_rule_out_of_order");
    }
    let set = SiteCommand::SetOfflineRule { rule: Some(rule(1, 2, 3)) };
    let after = site().when(&set).then([SiteOfflineRuleSet { rule: Some(rule(1, 2, 3)) }.into()]).when(&set).then([]);
    after.when(&SiteCommand::SetOfflineRule { rule: None }).then([SiteOfflineRuleSet { rule: None }.into()]);
}

#[test]
fn a_site_has_one_founder_until_it_is_gone() {
    let (first, second) = (AgentId::from_bits(1), AgentId::from_bits(2));
    let found = |agent, pair: &str, instead_of| SiteCommand::Found { agent, keyid: Digest::of(pair.as_bytes()), instead_of };
    let founded = |agent, pair: &str| SiteFounded { agent, keyid: Digest::of(pair.as_bytes()) }.into();
    let after = site().when(&found(first, "a", None)).then([founded(first, "a")]);
    let after = after.when(&found(first, "a", None)).then([]);
    after.clone().when(&found(second, "b", None)).then_refused("site_already_founded");
    after.clone().when(&found(second, "b", Some(second))).then_refused("site_already_founded");
    // The same agent came again with a new pair; and it was revoked.
    after.clone().when(&found(first, "c", None)).then([founded(first, "c")]);
    let after = after.when(&found(second, "b", Some(first))).then([founded(second, "b")]);
    after.when(&found(first, "a", None)).then_refused("site_already_founded");
    Scenario::<Site>::of(SiteId::from_bits(1)).when(&found(first, "a", None)).then_refused("site_not_found");
}

#[test]
fn a_recovery_key_follows_the_one_before_and_of_two_at_once_the_first_counts() {
    let key = |number, seed: u8, threshold| RecoveryKey {
        tenant: TenantId::from_bits(1),
        site: SiteId::from_bits(1),
        number,
        public_key: Base64(vec![seed; 1216]),
        shares: 5,
        threshold,
        agent: AgentId::from_bits(1),
        issued: Timestamp::default(),
    };
    let set = |number, seed, threshold| SiteCommand::SetRecoveryKey { key: key(number, seed, threshold), document: Base64(vec![seed]) };
    site().when(&set(2, 1, 3)).then_refused("recovery_key_number");
    site().when(&set(1, 1, 1)).then_refused("recovery_key_shares");
    site().when(&set(1, 1, 6)).then_refused("recovery_key_shares");
    let expected = |number, seed| SiteRecoveryKeySet {
        number,
        keyid: key(number, seed, 3).keyid(),
        shares: 5,
        threshold: 3,
        agent: AgentId::from_bits(1),
        document: Base64(vec![seed]),
    };
    let after = site().when(&set(1, 1, 3)).then([expected(1, 1).into()]).when(&set(1, 1, 3)).then([]);
    after.clone().when(&set(1, 2, 3)).then_refused("recovery_key_number");
    let after = after.when(&set(2, 2, 3)).then([expected(2, 2).into()]);
    after.when(&set(1, 1, 3)).then_refused("recovery_key_number");
}

#[test]
fn a_site_is_suspended_and_resumed() {
    let set = |suspended| SiteCommand::SetSuspended { suspended, reason: None };
    site().when(&set(false)).then_refused("site_not_suspended");
    let after = site().when(&set(true)).then([SiteSuspended { reason: None }.into()]);
    after.clone().when(&set(true)).then_refused("site_already_suspended");
    after.when(&set(false)).then([SiteResumed { reason: None }.into()]).when(&set(false)).then_refused("site_not_suspended");
}
