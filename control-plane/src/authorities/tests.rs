use std::time::Duration;

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    event::authority::{AuthorityMade, AuthorityRetired, AuthorityTookOver, RetirementReason},
    id::AuthoritiesId,
};

use super::*;
use crate::eventing::scenario::Scenario;

const DAY: Duration = Duration::from_secs(86_400);

fn certificate(number: u8) -> (Digest, Base64) {
    (Digest::of(&[number]), Base64(vec![number]))
}

fn at(days: u32) -> Timestamp {
    authorities().now().plus(DAY * days)
}

fn authorities() -> Scenario<Authorities> {
    Scenario::of(AuthoritiesId::from_bits(1))
}

fn make(number: u8) -> AuthorityCommand {
    let (sha256, certificate) = certificate(number);
    AuthorityCommand::Make { sha256, certificate, expires: at(3650), not_before: at(14) }
}

fn made(number: u8, not_before: Timestamp) -> AuthorityMade {
    let (sha256, certificate) = certificate(number);
    AuthorityMade { sha256, certificate, expires: at(3650), not_before }
}

fn took_over(number: u8, former_until: Option<Timestamp>) -> AuthorityTookOver {
    AuthorityTookOver { sha256: certificate(number).0, former_until }
}

fn retired(number: u8, reason: RetirementReason) -> AuthorityRetired {
    AuthorityRetired { sha256: certificate(number).0, reason }
}

fn take_over(early: bool) -> AuthorityCommand {
    AuthorityCommand::TakeOver { early, former_until: at(52) }
}

/// One in force, the next one waits.
fn rotating() -> Scenario<Authorities> {
    authorities().given([made(1, at(0)).into(), took_over(1, None).into(), made(2, at(14)).into()])
}

#[test]
fn the_first_takes_over_at_once_and_the_next_one_when_agents_were_told_of_it() {
    let first = authorities().when(&make(1)).then([made(1, at(0)).into(), took_over(1, None).into()]);
    let waiting = first.when(&make(1)).then([]).when(&make(2)).then([made(2, at(14)).into()]);
    let refused = waiting.when(&make(3)).then_refused("authority_waits");
    let early = refused.when(&take_over(false)).then_refused("authority_too_early");
    let over = early.later(DAY * 14).when(&take_over(false)).then([took_over(2, Some(at(52))).into()]);
    assert_eq!(over.state().in_force().unwrap().sha256, certificate(2).0);
    assert_eq!(over.state().believed().count(), 2);
    let over = over.when(&take_over(true)).then_refused("authority_none_waits");
    // The former one is believed until what it certified is over, and not longer.
    let kept = over.when(&AuthorityCommand::Retire).then([]);
    let retired_one = kept.later(DAY * 39).when(&AuthorityCommand::Retire).then([retired(1, RetirementReason::Ended).into()]);
    assert_eq!(retired_one.state().believed().count(), 1);
    retired_one.when(&AuthorityCommand::Retire).then([]);
}

#[test]
fn an_operator_may_let_it_take_over_early() {
    rotating().when(&take_over(true)).then([took_over(2, Some(at(52))).into()]);
}

#[test]
fn of_compromised_ones_none_is_believed_any_more_not_even_the_one_that_waited() {
    let (sha256, der) = certificate(3);
    let replace = AuthorityCommand::Replace { sha256, certificate: der, expires: at(3650) };
    let compromised = RetirementReason::Compromised;
    // Each event that went before took a second.
    let (rotating, now) = (rotating(), rotating().now());
    let expected = [made(3, now).into(), took_over(3, Some(now)).into(), retired(1, compromised).into(), retired(2, compromised).into()];
    let after = rotating.when(&replace).then(expected).when(&replace).then([]);
    let believed: Vec<_> = after.state().believed().map(|known| known.sha256).collect();
    assert_eq!(believed, [sha256]);
    assert_eq!(after.state().in_force().unwrap().sha256, sha256);
}
