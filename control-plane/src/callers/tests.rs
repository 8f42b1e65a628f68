use proptest::prelude::*;
use schema::{
    encoding::{Base64, Digest},
    event::caller::{CallerRegistered, CallerRelabelled, CallerResumed, CallerRevoked, CallerSuspended},
    id::{CallerId, ProjectId, SiteId},
    key::RevocationReason,
    name::Labels,
    rule::CallerKind,
};

use super::*;
use crate::eventing::{aggregate::Aggregate, scenario::Scenario};

fn caller() -> Scenario<Caller> {
    Scenario::of(CallerId::from_bits(1))
}

fn register(kind: CallerKind, issuer: &str, subject: &str) -> CallerCommand {
    CallerCommand::Register {
        project: ProjectId::from_bits(1),
        name: "billing".parse().unwrap(),
        kind,
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
        authority: (kind == CallerKind::Mtls).then(|| Base64(b"certificate".to_vec())),
        labels: labels(1),
    }
}

fn labels(count: usize) -> Labels {
    (0..count).map(|index| (format!("l{index}").parse().unwrap(), "x".parse().unwrap())).collect()
}

fn site() -> String {
    SiteId::from_bits(1).to_string()
}

fn registered() -> CallerRegistered {
    CallerRegistered {
        project: ProjectId::from_bits(1),
        name: "billing".parse().unwrap(),
        kind: CallerKind::Token,
        issuer: site(),
        subject: "billing".to_owned(),
        labels: labels(1),
        authority: None,
    }
}

#[test]
fn issuer_and_subject_fit_the_kind() {
    let authority = Digest::of(b"certificate").to_string();
    caller().when(&register(CallerKind::Token, &site(), "billing")).then([registered().into()]);
    caller().when(&register(CallerKind::Mtls, &authority, "spiffe://acme/billing")).then_accepted();
    caller().when(&register(CallerKind::Token, &authority, "billing")).then_refused("caller_issuer_not_a_site");
    caller().when(&register(CallerKind::Token, &site(), "other")).then_refused("caller_subject_not_its_name");
    let another = Digest::of(b"another").to_string();
    for issuer in [&site(), &another] {
        caller().when(&register(CallerKind::Mtls, issuer, "spiffe://acme/billing")).then_refused("caller_issuer_not_its_authority");
    }
    let with = |mut command: CallerCommand, new: Option<Base64>| {
        if let CallerCommand::Register { authority, .. } = &mut command {
            *authority = new;
        }
        command
    };
    let bare = with(register(CallerKind::Mtls, &authority, "spiffe://acme/billing"), None);
    caller().when(&bare).then_refused("caller_authority_missing");
    let token = with(register(CallerKind::Token, &site(), "billing"), Some(Base64(b"certificate".to_vec())));
    caller().when(&token).then_refused("caller_authority_of_a_token");
    for subject in ["", "a b", "a\nb", &"x".repeat(256)] {
        caller().when(&register(CallerKind::Mtls, &authority, subject)).then_refused("caller_subject_not_a_name");
    }
    let present = caller().given([registered().into()]);
    present.when(&register(CallerKind::Token, &site(), "billing")).then_refused("caller_exists");
}

#[test]
fn labels_are_terms_and_bounded() {
    let relabel = CallerCommand::Relabel { labels: labels(2) };
    let after = caller()
        .given([registered().into()])
        .when(&CallerCommand::Relabel { labels: labels(65) })
        .then_refused("caller_has_too_many_labels")
        .when(&relabel)
        .then([CallerRelabelled { labels: labels(2) }.into()])
        .when(&relabel)
        .then([]);
    assert!(after.state().index().terms.contains(&("label.l1".to_owned(), "x".to_owned())));
    assert!(after.state().index().terms.contains(&("kind".to_owned(), "token".to_owned())));
}

#[test]
fn suspension_is_lifted_and_revocation_is_not() {
    let suspend = CallerCommand::Suspend { reason: None };
    let resume = CallerCommand::Resume { reason: None };
    let revoke = CallerCommand::Revoke { reason: RevocationReason::PrivilegeWithdrawn, comment: None };
    caller().when(&suspend).then_refused("caller_not_found");
    let after = caller()
        .given([registered().into()])
        .when(&resume)
        .then_refused("caller_not_suspended")
        .when(&suspend)
        .then([CallerSuspended { reason: None }.into()])
        .when(&suspend)
        .then_refused("caller_already_suspended")
        .when(&resume)
        .then([CallerResumed { reason: None }.into()])
        .when(&CallerCommand::Revoke { reason: RevocationReason::CertificateHold, comment: None })
        .then_refused("caller_hold_is_suspension")
        .when(&revoke)
        .then([CallerRevoked { reason: RevocationReason::PrivilegeWithdrawn, comment: None }.into()]);
    assert_eq!(after.state().state(), CallerState::Revoked);
    for command in [&suspend, &resume, &revoke, &CallerCommand::Relabel { labels: labels(0) }] {
        after.clone().when(command).then_refused("caller_revoked");
    }
}

fn any_command() -> impl Strategy<Value = CallerCommand> {
    prop_oneof![
        1 => Just(register(CallerKind::Token, &site(), "billing")),
        2 => (0usize..70).prop_map(|count| CallerCommand::Relabel { labels: labels(count) }),
        3 => Just(CallerCommand::Suspend { reason: None }),
        3 => Just(CallerCommand::Resume { reason: None }),
        1 => proptest::sample::select(RevocationReason::ALL).prop_map(|reason| CallerCommand::Revoke { reason, comment: None }),
    ]
}

proptest! {
    #[test]
    fn no_order_of_commands_breaks_a_caller(commands in proptest::collection::vec(any_command(), 1..60)) {
        let mut present = caller();
        for command in commands {
            let before = present.state().clone();
            let Ok(events) = present.clone().when(&command).outcome() else { continue };
            present = present.given(events);
            let after = present.state();
            prop_assert!(before.fixed.is_none() || before.fixed == after.fixed, "what never changes did");
            prop_assert!(before.revoked.is_none(), "something happened after the revocation: {command:?}");
            prop_assert!(after.labels.len() <= 64);
            let expected = match (&after.revoked, &after.suspended) {
                (Some(_), _) => CallerState::Revoked,
                (None, Some(_)) => CallerState::Suspended,
                (None, None) => CallerState::Active,
            };
            prop_assert_eq!(after.state(), expected);
            // Nobody is let in again but by a command that says so.
            let let_in = before.state() == CallerState::Suspended && after.state() == CallerState::Active;
            prop_assert!(!let_in || matches!(command, CallerCommand::Resume { .. }), "{command:?}");
        }
        let state = present.state();
        prop_assert_eq!(&serde_json::from_str::<Caller>(&serde_json::to_string(state).unwrap()).unwrap(), state);
    }
}
