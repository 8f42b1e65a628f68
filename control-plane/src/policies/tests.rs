use proptest::prelude::*;
use schema::{
    encoding::Digest,
    event::policy::{PolicyContent, PolicyCreated, PolicyDraftDiscarded, PolicyDraftSaved, PolicyPublished, PolicyRolledBack},
    id::{PolicyId, ProjectId, SiteId},
    key::{Durability, Limits, Purpose, RotationRule},
    rule::{KeyTemplate, OfflineRule, Scope, VouchingRule},
};

use super::{cedar::Severity, diff::Side, *};
use crate::{
    bundles::templates::Outside,
    eventing::{
        aggregate::{Aggregate, Refusal},
        scenario::Scenario,
    },
};

const PROJECT: ProjectId = ProjectId::from_bits(1);
const PERMIT: &str = "permit (principal, action, resource);";
const OTHER: &str = "forbid (principal, action, resource);";

fn document(scope: Scope) -> Scenario<Policy> {
    Scenario::of(PolicyId::from_bits(1)).given([PolicyCreated { name: "main".parse().unwrap(), scope }.into()])
}

fn content(cedar: &str) -> PolicyContent {
    PolicyContent {
        cedar: Digest::of(cedar.as_bytes()),
        cedar_bytes: cedar.len() as u64,
        templates: Default::default(),
        vouching: None,
        offline: None,
    }
}

fn save(content: PolicyContent, base: Option<u32>) -> PolicyCommand {
    PolicyCommand::SaveDraft { content, base, note: None }
}

fn publish(cedar: &str) -> PolicyCommand {
    PolicyCommand::Publish { draft: None, note: None, checked: Checked::text(cedar) }
}

fn published(version: u32, draft: u32, cedar: &str) -> PolicyPublished {
    PolicyPublished { version, draft, content: content(cedar), policies: vec!["1".to_owned()], note: None }
}

#[test]
fn a_draft_becomes_a_version() {
    let after = document(Scope::Project(PROJECT))
        .when(&publish(PERMIT))
        .then_refused("policy_without_draft")
        .when(&save(content(PERMIT), Some(0)))
        .then([PolicyDraftSaved { draft: 1, content: content(PERMIT), note: None }.into()])
        .when(&save(content(PERMIT), Some(1)))
        .then([])
        .when(&save(content(OTHER), Some(0)))
        .then_refused("policy_draft_changed")
        .when(&PolicyCommand::Publish { draft: Some(7), note: None, checked: Checked::text(PERMIT) })
        .then_refused("policy_draft_changed")
        .when(&publish(PERMIT))
        .then([published(1, 1, PERMIT).into()]);
    assert_eq!(after.state().published().map(|(number, version)| (number, version.policies.clone())), Some((1, vec!["1".to_owned()])));
    assert_eq!(after.state().draft, None);
    let index = after.state().index();
    assert_eq!((index.parent, index.state.as_deref()), (Some(PROJECT.to_string()), Some("published")));
}

#[test]
fn what_has_errors_is_kept_but_not_published() {
    let broken = "permit (principal";
    let after = document(Scope::Tenant).when(&save(content(broken), None)).then_accepted().0;
    after
        .when(&publish(PERMIT))
        .then_refused("policy_text_changed")
        .when(&publish(broken))
        .then_refused("policy_invalid")
        .when(&PolicyCommand::DiscardDraft)
        .then([PolicyDraftDiscarded { draft: 1 }.into()])
        .when(&PolicyCommand::DiscardDraft)
        .then_refused("policy_without_draft");
}

#[test]
fn rolling_back_publishes_the_old_text_under_a_new_number() {
    let two = document(Scope::Tenant).given([
        PolicyDraftSaved { draft: 1, content: content(PERMIT), note: None }.into(),
        published(1, 1, PERMIT).into(),
        PolicyDraftSaved { draft: 2, content: content(OTHER), note: None }.into(),
        published(2, 2, OTHER).into(),
    ]);
    let back = |version, cedar| PolicyCommand::Rollback { version, note: None, checked: Checked::text(cedar) };
    let restored = PolicyRolledBack { version: 3, restored: 1, content: content(PERMIT), policies: vec!["1".to_owned()], note: None };
    let after = two
        .when(&back(9, PERMIT))
        .then_refused("policy_version_not_found")
        .when(&back(2, OTHER))
        .then_refused("policy_unchanged")
        .when(&back(1, PERMIT))
        .then([restored.into()]);
    assert_eq!(after.state().versions.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    after.when(&save(content(PERMIT), None)).then_accepted().0.when(&publish(PERMIT)).then_refused("policy_unchanged");
}

fn template(project: ProjectId) -> KeyTemplate {
    KeyTemplate {
        project,
        algorithms: vec!["A256KW+A256GCM".parse().unwrap()],
        purposes: vec![Purpose::Encrypt],
        placement: vec![SiteId::from_bits(1)],
        labels: Default::default(),
        durabilities: vec![Durability::SingleCopy],
        protection: schema::key::Protection::Software,
        exportable: false,
        rotation: RotationRule::default(),
        limits: Limits::default(),
        max_keys: None,
    }
}

#[test]
fn rules_stand_where_they_belong_and_can_be_followed() {
    let with_template = |change: fn(&mut KeyTemplate)| {
        let mut template = template(PROJECT);
        change(&mut template);
        PolicyContent { templates: [("t".parse().unwrap(), template)].into(), ..content(PERMIT) }
    };
    let refused = |scope, content, code: &str| {
        document(scope).when(&save(content, None)).then_refused(code);
    };
    let project = Scope::Project(PROJECT);
    document(project).when(&save(with_template(|_| ()), None)).then_accepted();
    document(Scope::Tenant).when(&save(with_template(|_| ()), None)).then_accepted();
    refused(Scope::Site(SiteId::from_bits(1)), with_template(|_| ()), "policy_templates_not_here");
    refused(project, with_template(|template| template.project = ProjectId::from_bits(2)), "policy_template_of_another_project");
    refused(project, with_template(|template| template.placement.clear()), "policy_template_allows_nothing");
    refused(project, with_template(|template| template.purposes = vec![Purpose::Sign]), "policy_template_purpose");
    refused(project, with_template(|template| template.limits.hard_uses = Some(0)), "policy_template_limits");
    let vouching = |rule| PolicyContent { vouching: Some(rule), ..content(PERMIT) };
    refused(project, vouching(VouchingRule::default()), "policy_rules_not_here");
    refused(Scope::Tenant, vouching(VouchingRule { agents: true, agents_needed: 0, signers: false }), "policy_vouching_impossible");
    let offline = OfflineRule { stale_seconds: 9, grace_seconds: 8, ..OfflineRule::default() };
    refused(Scope::Tenant, PolicyContent { offline: Some(offline), ..content(PERMIT) }, "policy_offline_rule_out_of_order");
    refused(Scope::Tenant, PolicyContent { cedar_bytes: cedar::MAX_BYTES + 1, ..content(PERMIT) }, "policy_too_large");
}

#[test]
fn what_would_leave_keys_outside_their_template_is_not_published() {
    let with = |template: KeyTemplate| PolicyContent { templates: [("cards".parse().unwrap(), template)].into(), ..content(PERMIT) };
    let (wide, narrow) = (template(PROJECT), KeyTemplate { max_keys: Some(1), ..template(PROJECT) });
    let checked = |content: &PolicyContent, outside: usize| {
        let outside = (0..outside).map(|n| Outside { key: format!("pay/k{n}"), template: "cards".parse().unwrap(), detail: "why" });
        Checked { templates: content.templates.clone(), left_outside: outside.collect(), ..Checked::text(PERMIT) }
    };
    let publish = |content: &PolicyContent, outside| PolicyCommand::Publish { draft: None, note: None, checked: checked(content, outside) };
    let back = |outside| PolicyCommand::Rollback { version: 1, note: None, checked: checked(&with(wide.clone()), outside) };
    let document = document(Scope::Project(PROJECT));
    let first = document.when(&save(with(wide.clone()), None)).then_accepted().0.when(&publish(&with(wide.clone()), 0)).then_accepted().0;
    let draft = first.when(&save(with(narrow.clone()), None)).then_accepted().0;
    let refused = draft.clone().when(&publish(&with(narrow.clone()), 12)).outcome().unwrap_err();
    assert_eq!(refused.code(), "policy_template_in_use");
    let text = refused.to_string();
    assert!(text.contains("12 keys") && text.contains("pay/k9 (template cards: why), …") && !text.contains("pay/k10"), "{text}");
    let second =
        draft.when(&publish(&content(PERMIT), 0)).then_refused("policy_text_changed").when(&publish(&with(narrow), 0)).then_accepted().0;
    second.when(&back(1)).then_refused("policy_template_in_use").when(&back(0)).then_accepted();
}

#[test]
fn a_text_is_taken_apart_and_each_policy_named() {
    let text = "// who\n@id(\"billing\")\npermit (principal, action == Action::\"encrypt\", resource);\n\nforbid (principal, action, resource)\nunless { context.statements == \"fresh\" };\n";
    let checked = cedar::check(text).unwrap();
    let seen: Vec<_> = checked.policies.iter().map(|policy| (policy.id.as_str(), policy.permits)).collect();
    assert_eq!(seen, [("billing", true), ("2", false)]);
    assert_eq!(checked.warnings, []);
    for policy in &checked.policies {
        assert_eq!(cedar::check(&policy.text).unwrap().policies.len(), 1, "each stands for itself: {}", policy.text);
    }
    assert_eq!(cedar::check("").unwrap().policies, []);
}

fn problems(text: &str) -> Vec<cedar::Problem> {
    cedar::check(text).unwrap_err()
}

#[test]
fn a_syntax_error_is_pointed_at() {
    let found = problems("permit (principal, action, resource);\n\n  permit (principal, action resource);\n");
    let place = found[0].place.unwrap();
    assert_eq!((place.line, place.column), (3, 29), "{found:?}");
}

#[test]
fn a_type_error_is_pointed_at_and_names_its_policy() {
    let found = problems(
        "@id(\"ok\")\npermit (principal, action, resource);\n@id(\"bad\")\npermit (principal, action, resource) when {\n  principal.nme == \"x\"\n};\n",
    );
    let error = found.iter().find(|problem| problem.severity == Severity::Error).unwrap();
    assert_eq!((error.policy.as_deref(), error.place.unwrap().line), (Some("bad"), 5), "{found:?}");
    assert!(error.message.contains("nme"), "{}", error.message);
    assert!(!error.message.contains("policy1"), "Cedar's own numbering means nothing to people: {}", error.message);
}

#[test]
fn every_operation_of_an_agent_is_an_action() {
    for operation in schema::key::Operation::ALL {
        let text = format!("@id(\"a\") permit (principal, action == Action::\"{operation}\", resource);");
        assert!(cedar::check(&text).is_ok(), "{operation}");
    }
}

#[test]
fn unknown_actions_are_errors_and_unscoped_forbids_are_not() {
    assert!(problems("permit (principal, action == Action::\"shred\", resource);").iter().any(cedar::Problem::is_error));
    assert!(cedar::check("forbid (principal, action, resource);").is_ok());
}

#[test]
fn doubles_slots_and_odd_names_are_errors() {
    let twice = "@id(\"a\")\npermit (principal, action, resource);\n@id(\"a\")\nforbid (principal, action, resource);";
    assert!(problems(twice)[0].message.contains("\"a\""));
    let shadow = "@id(\"2\")\npermit (principal, action, resource);\nforbid (principal, action, resource);";
    assert!(problems(shadow)[0].message.contains("\"2\""), "a name must not hide a number");
    assert!(problems("@id(\"a/b\")\npermit (principal, action, resource);")[0].message.contains("@id"));
    assert!(problems("permit (principal == ?principal, action, resource);")[0].message.contains("slots"));
}

#[test]
fn a_name_where_an_id_belongs_is_a_warning_with_a_way_out() {
    let checked = cedar::check("\npermit (principal == Caller::\"billing\", action, resource);").unwrap();
    let warning = &checked.warnings[0];
    assert_eq!((warning.severity, warning.place.unwrap().line), (Severity::Warning, 2));
    assert!(warning.help.as_ref().unwrap().contains("principal.name"), "{warning:?}");
}

#[test]
fn a_policy_that_can_never_apply_is_a_warning() {
    let checked = cedar::check("permit (principal, action, resource) when { 1 == 2 };").unwrap();
    assert_eq!(checked.warnings.len(), 1, "{:?}", checked.warnings);
}

#[test]
fn differences_show_lines_and_name_sections() {
    let (old, mut new) = (content(PERMIT), content(OTHER));
    new.offline = Some(OfflineRule::default());
    let side = |name, cedar, content| Side { name, cedar, content };
    let found = diff::compare(side("version 1", PERMIT, &old), side("draft", OTHER, &new));
    assert_eq!(found.changed_sections, ["cedar", "offline"]);
    assert!(found.unified.starts_with("--- version 1\n+++ draft\n"), "{}", found.unified);
    assert!(found.unified.contains(&format!("-{PERMIT}")) && found.unified.contains(&format!("+{OTHER}")), "{}", found.unified);
    assert!(diff::compare(side("a", PERMIT, &old), side("b", PERMIT, &old)).is_empty());
}

fn any_command() -> impl Strategy<Value = PolicyCommand> {
    let text = || proptest::sample::select(vec![PERMIT, OTHER, "permit (principal, action"]);
    prop_oneof![
        1 => Just(PolicyCommand::Create { name: "main".parse().unwrap(), scope: Scope::Tenant }),
        5 => (text(), proptest::option::of(0u32..4)).prop_map(|(text, base)| save(content(text), base)),
        1 => Just(PolicyCommand::DiscardDraft),
        5 => (text(), proptest::option::of(1u32..4))
            .prop_map(|(text, draft)| PolicyCommand::Publish { draft, note: None, checked: Checked::text(text) }),
        2 => (text(), 0u32..5).prop_map(|(text, version)| PolicyCommand::Rollback { version, note: None, checked: Checked::text(text) }),
    ]
}

proptest! {
    #[test]
    fn no_order_of_commands_breaks_a_policy(commands in proptest::collection::vec(any_command(), 1..60)) {
        let mut present = document(Scope::Project(PROJECT));
        for command in commands {
            let before = present.state().clone();
            let Ok(events) = present.clone().when(&command).outcome() else { continue };
            present = present.given(events);
            let after = present.state();
            prop_assert_eq!(&before.fixed, &after.fixed, "what never changes did");
            prop_assert!(after.versions.keys().copied().eq(1..=after.versions.len() as u32), "a gap between versions");
            prop_assert!(after.last_draft >= before.last_draft, "a draft's number came back");
            for (number, version) in &before.versions {
                prop_assert_eq!(after.versions.get(number), Some(version), "a published version changed");
            }
            let Some((number, version)) = after.published().filter(|(number, _)| !before.versions.contains_key(number)) else { continue };
            // Only what was checked and has no errors is in force, and only when somebody said so.
            prop_assert!([PERMIT, OTHER].iter().any(|text| Digest::of(text.as_bytes()) == version.content.cedar));
            match command {
                PolicyCommand::Publish { .. } => {
                    prop_assert_eq!(before.draft.map(|draft| draft.content), Some(version.content.clone()));
                    prop_assert_eq!(&after.draft, &None);
                }
                PolicyCommand::Rollback { version: restored, .. } => {
                    prop_assert_eq!(&before.versions[&restored].content, &version.content);
                    prop_assert_eq!(version.restored, Some(restored));
                }
                other => prop_assert!(false, "{other:?} published version {number}"),
            }
        }
        let state = present.state();
        prop_assert_eq!(&serde_json::from_str::<Policy>(&serde_json::to_string(state).unwrap()).unwrap(), state);
    }
}
