use schema::{
    event::site::{SiteCreated, SiteOfflineRuleSet},
    id::SiteId,
    rule::OfflineRule,
};

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
