use std::time::Duration;

use proptest::prelude::*;
use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    event::agent::{AgentEnrolled, AgentEvent, AgentInvited, AgentVouched, CertificateRenewed, InvitationCancelled, OutboxTaken},
    id::{AgentId, SiteId},
    key::RevocationReason,
    rule::{Sighting, Vouch},
};

use super::*;
use crate::eventing::{aggregate::Aggregate, scenario::Scenario};

const ID: AgentId = AgentId::from_bits(1);
const SITE: SiteId = SiteId::from_bits(1);

fn agent() -> Scenario<Agent> {
    Scenario::of(ID)
}

fn start() -> Timestamp {
    agent().now()
}

fn invite(lifetime: Duration) -> AgentCommand {
    AgentCommand::Invite {
        site: SITE,
        display_name: None,
        lifetime_seconds: lifetime.as_secs(),
        token: Digest::of(b"token"),
        root: Digest::of(b"root"),
        founder: None,
    }
}

fn invited(founder: Option<Digest>) -> AgentEvent {
    AgentInvited {
        site: SITE,
        display_name: None,
        token: Digest::of(b"token"),
        root: Digest::of(b"root"),
        founder,
        expires: start().plus(Duration::from_secs(3600)),
    }
    .into()
}

fn enrol() -> Enrol {
    Enrol {
        token: Digest::of(b"token"),
        agent: ID,
        site: SITE,
        root: Digest::of(b"root"),
        keyid: Digest::of(b"pair"),
        ed25519: Base64(vec![1; 32]),
        ml_dsa_65: Base64(vec![2; 1952]),
        roster_entry: Base64(vec![3; 64]),
        csr: Digest::of(b"csr"),
        certificate_key: Digest::of(b"spki"),
        certificate_serial: "0a".to_owned(),
        certificate_expires: start().plus(Duration::from_secs(86_400)),
        host: "rack-7".to_owned(),
        agent_version: "0.1.0".to_owned(),
        site_is_founded: false,
    }
}

fn enrolled() -> AgentEvent {
    let Enrol { keyid, ed25519, ml_dsa_65, roster_entry, csr, certificate_key, certificate_serial, certificate_expires, .. } = enrol();
    let (host, agent_version) = (enrol().host, enrol().agent_version);
    AgentEnrolled {
        keyid,
        ed25519,
        ml_dsa_65,
        roster_entry,
        csr,
        certificate_key,
        certificate_serial,
        certificate_expires,
        host,
        agent_version,
    }
    .into()
}

fn join(change: impl FnOnce(&mut Enrol)) -> AgentCommand {
    let mut enrol = enrol();
    change(&mut enrol);
    AgentCommand::Enrol(Box::new(enrol))
}

fn vouch_by(agent: u128) -> Vouch {
    Vouch::Agent { agent: AgentId::from_bits(agent), vouch: Base64(vec![4; 8]) }
}

#[test]
fn an_invitation_has_a_bounded_life() {
    agent().when(&invite(Duration::from_secs(60))).then_accepted();
    agent().when(&invite(MAX_INVITATION)).then_accepted();
    agent().when(&invite(Duration::from_secs(u64::MAX))).then_refused("invitation_lifetime_out_of_range");
    agent().when(&invite(Duration::from_secs(59))).then_refused("invitation_lifetime_out_of_range");
    agent().when(&invite(MAX_INVITATION + Duration::from_secs(1))).then_refused("invitation_lifetime_out_of_range");
    let present = agent().when(&invite(Duration::from_secs(3600))).then([invited(None)]);
    assert_eq!(present.state().index().handles, [Digest::of(b"token")], "an enrolment request is known by the digest of its token");
    present.when(&invite(Duration::from_secs(3600))).then_refused("agent_exists");
}

#[test]
fn the_first_agent_of_a_site_vouches_by_its_enrolment() {
    let first = agent().given([invited(None)]).when(&join(|_| ())).then([enrolled(), AgentVouched { vouch: Vouch::Enrolment }.into()]);
    assert_eq!(first.state().state(), Some(AgentState::Rostered));
    let second =
        agent().given([invited(Some(Digest::of(b"founder")))]).when(&join(|enrol| enrol.site_is_founded = true)).then([enrolled()]);
    assert_eq!(second.state().state(), Some(AgentState::Enrolled), "a later one waits for a vouch");
}

#[test]
fn a_token_is_good_once_in_time_and_for_one_agent() {
    let invited = || agent().given([invited(None)]);
    invited().when(&join(|enrol| enrol.token = Digest::of(b"another"))).then_refused("enrolment_token_wrong");
    invited().when(&join(|enrol| enrol.agent = AgentId::from_bits(2))).then_refused("roster_entry_of_another_agent");
    invited().when(&join(|enrol| enrol.site = SiteId::from_bits(2))).then_refused("roster_entry_of_another_site");
    invited().when(&join(|enrol| enrol.root = Digest::of(b"another"))).then_refused("roster_entry_of_another_root");
    invited().when(&join(|enrol| enrol.site_is_founded = true)).then_refused("invitation_without_founder");
    let late = start().plus(Duration::from_secs(3600));
    invited().at(late).when(&join(|_| ())).then_refused("enrolment_token_expired");
    let (used, _) = invited().when(&join(|_| ())).then_accepted();
    used.when(&join(|_| ())).then_refused("enrolment_token_used");
    let cancelled = invited().when(&AgentCommand::CancelInvitation).then([InvitationCancelled {}.into()]);
    cancelled
        .when(&join(|_| ()))
        .then_refused("invitation_cancelled")
        .when(&AgentCommand::CancelInvitation)
        .then_refused("invitation_cancelled");
    agent().when(&join(|_| ())).then_refused("agent_not_found");
}

#[test]
fn who_has_not_the_token_learns_nothing_else() {
    let (used, _) = agent().given([invited(None)]).when(&join(|_| ())).then_accepted();
    used.at(start().plus(MAX_INVITATION)).when(&join(|enrol| enrol.token = Digest::of(b"another"))).then_refused("enrolment_token_wrong");
}

#[test]
fn a_vouch_names_the_pair_and_comes_from_somebody_else() {
    let keyid = enrol().keyid;
    let waiting = || agent().given([invited(Some(Digest::of(b"founder"))), enrolled()]);
    let vouch = |keyid, vouch| AgentCommand::Vouch { keyid, vouch };
    agent().given([invited(None)]).when(&vouch(keyid, vouch_by(2))).then_refused("agent_not_enrolled");
    waiting().when(&vouch(Digest::of(b"other"), vouch_by(2))).then_refused("vouch_for_another_pair");
    waiting().when(&vouch(keyid, vouch_by(1))).then_refused("agent_vouches_for_itself");
    waiting().when(&vouch(keyid, Vouch::Enrolment)).then_refused("vouch_by_enrolment");
    let rostered = waiting()
        .when(&vouch(keyid, vouch_by(2)))
        .then([AgentVouched { vouch: vouch_by(2) }.into()])
        .when(&vouch(keyid, vouch_by(2)))
        .then([])
        .when(&vouch(keyid, vouch_by(3)))
        .then([AgentVouched { vouch: vouch_by(3) }.into()]);
    assert!(rostered.state().is_at_work());
    assert_eq!(rostered.state().vouches.len(), 2);
}

#[test]
fn a_certificate_is_renewed_for_its_own_key() {
    let renew = |certificate_key| AgentCommand::RenewCertificate {
        csr: Digest::of(b"csr 2"),
        certificate_key,
        certificate_serial: "0b".to_owned(),
        certificate_expires: start().plus(Duration::from_secs(172_800)),
    };
    let present = agent().given([invited(None), enrolled()]);
    let renewed = CertificateRenewed {
        csr: Digest::of(b"csr 2"),
        certificate_serial: "0b".to_owned(),
        certificate_expires: start().plus(Duration::from_secs(172_800)),
    };
    let present = present
        .when(&renew(Digest::of(b"other")))
        .then_refused("certificate_key_changed")
        .when(&renew(Digest::of(b"spki")))
        .then([renewed.into()]);
    assert!(present.state().index().terms.contains(&("certificate".to_owned(), "0b".to_owned())));
    let (suspended, _) = present.when(&AgentCommand::Suspend { reason: None }).then_accepted();
    suspended.when(&renew(Digest::of(b"spki"))).then_refused("agent_suspended");
}

#[test]
fn of_outboxes_the_numbers_only_rise_and_each_number_is_of_one() {
    let take = |number, content: &[u8]| AgentCommand::TakeOutbox { number, sha256: Digest::of(content) };
    let taken = |number, content: &[u8]| AgentEvent::from(OutboxTaken { number, sha256: Digest::of(content) });
    agent().given([invited(None)]).when(&take(1, b"one")).then_refused("agent_not_enrolled");
    let present = agent()
        .given([invited(None), enrolled()])
        .when(&take(1, b"one"))
        .then([taken(1, b"one")])
        .when(&take(1, b"one"))
        .then([])
        .when(&take(1, b"another one"))
        .then_refused("outbox_number_taken")
        .when(&take(4, b"four"))
        .then([taken(4, b"four")])
        .when(&take(3, b"three"))
        .then_refused("outbox_superseded");
    let (suspended, _) = present.when(&AgentCommand::Suspend { reason: None }).then_accepted();
    let (revoked, _) = suspended
        .when(&take(5, b"five"))
        .then([taken(5, b"five")])
        .when(&AgentCommand::Revoke { reason: RevocationReason::KeyCompromise, comment: None })
        .then_accepted();
    revoked.when(&take(6, b"six")).then_refused("agent_revoked");
}

#[test]
fn revocation_is_final_and_also_ends_an_invitation() {
    let revoke = AgentCommand::Revoke { reason: RevocationReason::KeyCompromise, comment: None };
    let (revoked, _) = agent().given([invited(None)]).when(&revoke).then_accepted();
    assert_eq!(revoked.state().state(), Some(AgentState::Revoked));
    for command in [join(|_| ()), revoke.clone(), AgentCommand::Resume { reason: None }, AgentCommand::CancelInvitation] {
        revoked.clone().when(&command).then_refused("agent_revoked");
    }
    let hold = AgentCommand::Revoke { reason: RevocationReason::CertificateHold, comment: None };
    agent().given([invited(None)]).when(&hold).then_refused("agent_hold_is_suspension");
}

fn sighting(host: &str) -> Sighting {
    Sighting { host: host.to_owned(), address: "192.0.2.7".to_owned(), started: None, at: start() }
}

#[test]
fn of_two_that_come_as_one_both_are_recorded_and_nobody_lifts_it() {
    let quarantine = AgentCommand::Quarantine { counter: 7, known: sighting("rack-7"), other: sighting("rack-8") };
    agent().given([invited(None)]).when(&quarantine).then_refused("agent_not_enrolled");
    let rostered = agent().given([invited(None), enrolled(), AgentVouched { vouch: Vouch::Enrolment }.into()]);
    assert!(rostered.state().is_at_work() && rostered.state().is_one());
    let (cut_off, _) = rostered.when(&quarantine).then_accepted();
    let quarantined = cut_off.state().quarantined.clone().unwrap();
    assert_eq!((quarantined.known.host.as_str(), quarantined.other.host.as_str()), ("rack-7", "rack-8"));
    assert_eq!(cut_off.state().state(), Some(AgentState::Quarantined));
    assert!(!cut_off.state().is_at_work() && !cut_off.state().is_one());
    let renew = AgentCommand::RenewCertificate {
        csr: Digest::of(b"csr 2"),
        certificate_key: Digest::of(b"spki"),
        certificate_serial: "0b".to_owned(),
        certificate_expires: start(),
    };
    // Both go on coming; that is said once.
    let cut_off = cut_off.when(&quarantine).then([]).when(&renew).then_refused("agent_quarantined");
    let cut_off = cut_off.when(&AgentCommand::Resume { reason: None }).then_refused("agent_not_suspended");
    let (revoked, _) = cut_off.when(&AgentCommand::Revoke { reason: RevocationReason::KeyCompromise, comment: None }).then_accepted();
    assert_eq!(revoked.state().state(), Some(AgentState::Revoked));
}

fn any_command() -> impl Strategy<Value = AgentCommand> {
    let digest = prop_oneof![Just(Digest::of(b"token")), Just(Digest::of(b"pair")), Just(Digest::of(b"spki")), Just(Digest::of(b"no"))];
    prop_oneof![
        Just(invite(Duration::from_secs(3600))),
        Just(AgentCommand::CancelInvitation),
        (prop_oneof![4 => Just(Digest::of(b"token")), 1 => Just(Digest::of(b"no"))], any::<bool>()).prop_map(|(token, founded)| join(
            |enrol| {
                enrol.token = token;
                enrol.site_is_founded = founded;
            }
        )),
        (digest.clone(), 1u128..4).prop_map(|(keyid, by)| AgentCommand::Vouch { keyid, vouch: vouch_by(by) }),
        digest.prop_map(|certificate_key| AgentCommand::RenewCertificate {
            csr: Digest::of(b"csr"),
            certificate_key,
            certificate_serial: "0c".to_owned(),
            certificate_expires: start(),
        }),
        Just(AgentCommand::Suspend { reason: None }),
        Just(AgentCommand::Resume { reason: None }),
        Just(AgentCommand::Quarantine { counter: 3, known: sighting("one"), other: sighting("other") }),
        Just(AgentCommand::Revoke { reason: RevocationReason::Superseded, comment: None }),
    ]
}

proptest! {
    /// Whatever is asked in whatever order: an agent joins at most once, works only with a vouch, never comes back from
    /// revocation, and keeps its pair.
    #[test]
    fn no_order_of_commands_breaks_an_agent(commands in proptest::collection::vec((any_command(), 0u64..2000), 1..60)) {
        let mut present = agent();
        let (mut enrolments, mut pair) = (0, None);
        for (command, seconds) in commands {
            present = present.later(Duration::from_secs(seconds));
            let before = present.state().clone();
            let Ok(events) = present.clone().when(&command).outcome() else { continue };
            enrolments += events.iter().filter(|event| matches!(event, AgentEvent::AgentEnrolled(_))).count();
            present = present.given(events);
            let after = present.state();
            prop_assert!(enrolments <= 1);
            prop_assert!(before.revoked.is_none() || after == &before, "something happened to a revoked agent");
            prop_assert_eq!(after.rostered.is_some(), !after.vouches.is_empty());
            prop_assert!(after.vouches.is_empty() || after.enrolment.is_some());
            prop_assert!(before.quarantined.is_none() || (after.quarantined == before.quarantined && !after.is_at_work()));
            if let Some(enrolment) = &after.enrolment {
                prop_assert_eq!(*pair.get_or_insert(enrolment.keyid), enrolment.keyid);
            }
            prop_assert_eq!(&serde_json::from_str::<Agent>(&serde_json::to_string(after).unwrap()).unwrap(), after);
        }
    }
}
