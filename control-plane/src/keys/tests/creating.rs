//! What is fixed at creation, and what may change later.

use schema::{
    id::{AgentId, ProjectId, SiteId},
    key::{Durability, Limits, MinimumVersions, Protection, Purpose, RotationRule},
    rule::KeyTemplate,
};

use super::{super::*, *};
use crate::eventing::aggregate::{Aggregate, Refusal};

#[test]
fn a_key_begins_with_its_first_version_asked_for() {
    let (present, events) = key().when(&create(|_| ())).then_accepted();
    assert_eq!(names(&events), ["KeyCreated", "VersionRequested"]);
    let state = present.state();
    assert_eq!((state.primary, state.state(), state.pending().map(|(number, _)| number)), (0, KeyState::Pending, Some(1)));
    assert_eq!(state.versions[&1].generator, Some(ALICE));
    present.when(&create(|_| ())).then_refused("key_exists");
    key().when(&rotate()).then_refused("key_not_found");
}

#[test]
fn what_cannot_work_is_refused_before_it_exists() {
    let refused = |change: fn(&mut CreateKey), code| {
        key().when(&create(change)).then_refused(code);
    };
    refused(|key| key.purpose = Purpose::Sign, "algorithm_does_not_serve_purpose");
    refused(|key| key.placement.clear(), "key_without_site");
    refused(|key| key.placement = vec![SITE, SITE], "key_site_twice");
    refused(|key| key.durability = Some(Durability::SealedBackup), "no_recovery_key");
    refused(|key| key.limits = Limits { soft_uses: Some(2), hard_uses: Some(1), ..Limits::default() }, "limits_out_of_order");
    refused(|key| key.limits = Limits { hard_seconds: Some(0), ..Limits::default() }, "limits_out_of_order");
    refused(
        |key| key.rotation = RotationRule { every_seconds: Some(0), min_interval_seconds: None, ..Default::default() },
        "rotation_rule_out_of_order",
    );
    refused(
        |key| key.rotation = RotationRule { every_seconds: Some(5), min_interval_seconds: Some(6), ..Default::default() },
        "rotation_rule_out_of_order",
    );
    refused(
        |key| key.labels = (0..65).map(|index| (format!("l{index}").parse().unwrap(), "x".parse().unwrap())).collect(),
        "key_has_too_many_labels",
    );
    refused(|key| key.name_is_an_alias = true, "key_name_is_an_alias");
    refused(|key| key.name_is_a_composite = true, "key_name_is_a_composite");
    refused(|key| key.generator = Some((ALICE, SiteId::from_bits(9))), "key_not_placed_at_site");
    refused(|key| key.eligible_generators = vec![BOB], "generator_not_eligible");
}

#[test]
fn what_is_made_elsewhere_comes_when_somebody_brings_it() {
    let by_age = RotationRule { every_seconds: Some(60), ..RotationRule::default() };
    let by_itself = create(|key| (key.origin, key.rotation) = (Origin::Imported, by_age.clone()));
    key().when(&by_itself).then_refused("imported_key_rotates_by_hand");
    let (present, _) = key().when(&create(|key| key.origin = Origin::Imported)).then_accepted();
    let present = present.when(&KeyCommand::SetRotationRule { rotation: by_age }).then_refused("imported_key_rotates_by_hand");
    let brought = made(1, |record| record.origin = Origin::Imported);
    let (active, _) = present.when(&made(1, |_| ())).then_refused("version_record_of_another_algorithm").when(&brought).then_accepted();
    let (active, _) = active.when(&ready(1, ALICE)).then_accepted();
    assert_eq!(active.state().primary, 1);
    // The next version waits like the first.
    active
        .later(std::time::Duration::from_secs(1))
        .when(&rotate())
        .then_accepted()
        .0
        .when(&made(2, |record| record.origin = Origin::Imported))
        .then_accepted();
}

#[test]
fn sealed_backup_says_what_to_do_instead() {
    let refusal = key().when(&create(|key| key.durability = Some(Durability::SealedBackup))).outcome().unwrap_err().to_string();
    assert!(refusal.contains("two-holders") && refusal.contains("single-copy"), "{refusal}");
}

#[test]
fn a_key_is_backed_up_where_it_can_be_and_else_its_durability_is_chosen_by_name() {
    let refusal = key().when(&create(|key| key.durability = None)).outcome().unwrap_err();
    assert_eq!(refusal.code(), "durability_must_be_chosen");
    for choice in ["recovery init", "two-holders", "single-copy"] {
        assert!(refusal.to_string().contains(choice), "{refusal}");
    }
    let with_recovery_key = |durability| {
        let (present, _) = key().when(&create(|key| (key.durability, key.sites_have_recovery_keys) = (durability, true))).then_accepted();
        present.state().fixed.as_ref().unwrap().durability
    };
    assert_eq!(with_recovery_key(None), Durability::SealedBackup);
    assert_eq!(with_recovery_key(Some(Durability::SealedBackup)), Durability::SealedBackup);
    assert_eq!(with_recovery_key(Some(Durability::SingleCopy)), Durability::SingleCopy);
}

fn template() -> KeyTemplate {
    KeyTemplate {
        project: ProjectId::from_bits(1),
        algorithms: vec![settings().algorithm],
        purposes: vec![Purpose::Encrypt],
        placement: vec![SITE],
        labels: Default::default(),
        durabilities: vec![Durability::SingleCopy],
        protection: Protection::Software,
        exportable: false,
        rotation: RotationRule::default(),
        limits: Limits::default(),
        max_keys: Some(2),
    }
}

fn from_template(keys_made: u64, rule: KeyTemplate, change: impl FnOnce(&mut CreateKey)) -> KeyCommand {
    create(|key| {
        key.template = Some(Template { name: "card-data".parse().unwrap(), rule, keys_made });
        change(key);
    })
}

#[test]
fn a_key_fits_its_template_and_keeps_to_it() {
    key().when(&from_template(2, template(), |_| ())).then_refused("template_used_up");
    let wrong: [fn(&mut CreateKey); 7] = [
        |key| key.project = ProjectId::from_bits(2),
        |key| key.placement = vec![SITE, SiteId::from_bits(2)],
        |key| key.durability = Some(Durability::TwoHolders),
        |key| key.exportable = true,
        |key| key.origin = Origin::Imported,
        |key| key.limits.hard_uses = Some(7),
        |key| key.rotation.every_seconds = Some(7),
    ];
    for change in wrong {
        key().when(&from_template(0, template(), change)).then_refused("key_does_not_fit_template");
    }
    let (present, _) = key().when(&from_template(1, template(), |_| ())).then_accepted();
    present
        .when(&KeyCommand::SetLimits { limits: Limits { hard_uses: Some(7), ..Limits::default() } })
        .then_refused("key_follows_template")
        .when(&KeyCommand::Relabel { labels: Default::default() })
        .then_refused("key_follows_template")
        .when(&KeyCommand::SetRotationRule { rotation: RotationRule::default() })
        .then_refused("key_follows_template");
}

#[test]
fn looked_up_facts_are_no_part_of_the_request() {
    let hashed = |command: &KeyCommand| serde_json::to_value(command).unwrap();
    let other = create(|key| {
        key.generator = Some((BOB, SITE));
        key.sites_have_recovery_keys = true;
    });
    assert_eq!(hashed(&create(|_| ())), hashed(&other));
    assert_ne!(hashed(&create(|_| ())), hashed(&create(|key| key.exportable = true)));
}

#[test]
fn settings_change_and_repeating_changes_nothing() {
    let limits = Limits { soft_uses: Some(1), hard_uses: Some(2), ..Limits::default() };
    for command in [
        KeyCommand::Describe { description: Some("x".parse().unwrap()) },
        KeyCommand::Relabel { labels: [("env".parse().unwrap(), "prod".parse().unwrap())].into() },
        KeyCommand::SetLimits { limits },
        KeyCommand::SetRotationRule {
            rotation: RotationRule { every_seconds: Some(60), min_interval_seconds: Some(60), ..Default::default() },
        },
        KeyCommand::SetMinimumVersions { minimum_versions: MinimumVersions { process: 1, protect: 1 } },
        KeyCommand::SetDeletionProtection { protected: true },
    ] {
        let (present, events) = active().when(&command).then_accepted();
        assert_eq!(events.len(), 1, "{command:?}");
        assert_ne!(present.state(), active().state());
        present.when(&command).then([]);
    }
}

#[test]
fn minimums_are_versions_that_exist_and_not_above_the_primary() {
    let set = |process, protect| KeyCommand::SetMinimumVersions { minimum_versions: MinimumVersions { process, protect } };
    active().when(&set(2, 0)).then_refused("minimum_version_does_not_exist");
    let rotating = after(active(), [rotate()]);
    rotating.when(&set(0, 2)).then_refused("minimum_version_above_primary").when(&set(1, 1)).then_accepted();
}

#[test]
fn listings_find_it_by_what_people_ask_for() {
    let command = create(|key| key.labels = [("env".parse().unwrap(), "prod".parse().unwrap())].into());
    let index = key().when(&command).then_accepted().0.state().index();
    assert_eq!(index.parent, Some(ProjectId::from_bits(1).to_string()));
    assert_eq!((index.name.as_deref(), index.state.as_deref()), (Some("card-data"), Some("pending")));
    for (name, value) in [
        ("algorithm", "A256KW+A256GCM".to_owned()),
        ("purpose", "encrypt".to_owned()),
        ("durability", "single-copy".to_owned()),
        ("site", SITE.to_string()),
        ("label.env", "prod".to_owned()),
    ] {
        assert!(index.terms.contains(&(name.to_owned(), value)), "{name}");
    }
}

#[test]
fn a_whole_key_stands_still_and_goes_on() {
    let suspend = KeyCommand::Suspend { reason: None };
    let resume = KeyCommand::Resume { reason: None };
    let (still, _) = active().when(&resume).then_refused("key_not_suspended").when(&suspend).then_accepted();
    assert_eq!(still.state().state(), KeyState::Suspended);
    let still = still.when(&suspend).then_refused("key_already_suspended").when(&rotate()).then_refused("key_suspended");
    let (going, _) = still.when(&resume).then_accepted();
    assert_eq!(going.state().state(), KeyState::Active);
    assert!(going.state().resumed.is_some(), "policy lifts what came before this");
}

#[test]
fn another_generator_may_be_chosen_until_the_version_is_made() {
    let assign = |generator: AgentId, site| KeyCommand::AssignGenerator { number: 1, generator, site };
    let (waiting, _) = key().when(&create(|key| key.generator = None)).then_accepted();
    let waiting = waiting.when(&made(1, |_| ())).then_refused("no_generator_assigned");
    let waiting = waiting.when(&assign(ALICE, SiteId::from_bits(2))).then_refused("key_not_placed_at_site");
    let (chosen, events) = waiting.when(&assign(BOB, SITE)).then_accepted();
    assert_eq!(names(&events), ["GeneratorAssigned"]);
    let chosen = chosen.when(&assign(BOB, SITE)).then([]).when(&made(1, |_| ())).then_refused("not_the_generator");
    let made = after(chosen, [assign(ALICE, SITE), made(1, |_| ())]);
    made.when(&assign(BOB, SITE)).then_refused("version_already_made");
}

#[test]
fn a_device_cannot_promise_what_others_have_seen() {
    let imported = create(|key| (key.protection, key.origin) = (Protection::Hardware, schema::key::Origin::Imported));
    key().when(&imported).then_refused("protection_of_imported");
    let exportable = create(|key| (key.protection, key.exportable) = (Protection::Hardware, true));
    key().when(&exportable).then_refused("protection_of_exportable");
    let two_homes = create(|key| (key.protection, key.durability) = (Protection::Hardware, Some(Durability::TwoHolders)));
    key().when(&two_homes).then_refused("protection_is_one_copy");
    key().when(&create(|key| key.protection = Protection::Hardware)).outcome().unwrap();
    key().when(&create(|key| (key.protection, key.exportable) = (Protection::SealedByHardware, true))).outcome().unwrap();
}
