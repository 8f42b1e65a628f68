use std::time::Duration;

use schema::{
    encoding::Digest,
    event::token::{ApiTokenIssued, ApiTokenRevoked},
    id::{ServiceAccountId, TokenId},
    token::Scope,
};

use super::*;
use crate::eventing::{aggregate::Aggregate, scenario::Scenario};

fn token() -> Scenario<ApiToken> {
    Scenario::of(TokenId::from_bits(1))
}

fn issue(lifetime: Duration, scopes: &[Scope]) -> ApiTokenCommand {
    ApiTokenCommand::Issue {
        account: ServiceAccountId::from_bits(1),
        name: "deploy".parse().unwrap(),
        digest: Digest::of(b"text"),
        scopes: scopes.to_vec(),
        expires: token().now().plus(lifetime),
        lifetime_seconds: None,
        holder: None,
    }
}

fn issued() -> ApiTokenIssued {
    ApiTokenIssued {
        account: ServiceAccountId::from_bits(1),
        name: "deploy".parse().unwrap(),
        digest: Digest::of(b"text"),
        scopes: vec![Scope::Admin, Scope::Reader],
        expires: token().now().plus(MIN_LIFETIME * 2),
        holder: None,
    }
}

#[test]
fn scopes_are_kept_once_and_sorted() {
    let scopes = [Scope::Reader, Scope::Admin, Scope::Reader];
    let after = token().when(&issue(MIN_LIFETIME * 2, &scopes)).then([issued().into()]);
    assert_eq!(after.state().index().handles, [Digest::of(b"text")], "a request is known by the digest of its token");
    after.when(&issue(MIN_LIFETIME * 2, &scopes)).then_refused("token_exists");
}

#[test]
fn lives_are_bounded_and_scopes_demanded() {
    token().when(&issue(MIN_LIFETIME, &[])).then_refused("token_without_scopes");
    token().when(&issue(MIN_LIFETIME - Duration::from_secs(1), &[Scope::Admin])).then_refused("token_lifetime_out_of_range");
    token().when(&issue(MAX_LIFETIME + Duration::from_secs(1), &[Scope::Admin])).then_refused("token_lifetime_out_of_range");
    token().when(&issue(MIN_LIFETIME, &[Scope::Admin])).then_accepted();
    token().when(&issue(MAX_LIFETIME, &[Scope::Admin])).then_accepted();
}

#[test]
fn it_ends_by_time_or_by_revocation() {
    let present = token().given([issued().into()]);
    let (state, now) = (present.state().clone(), present.now());
    assert_eq!(state.state(now), Some(TokenState::Active));
    assert_eq!(state.state(issued().expires), Some(TokenState::Expired), "the last moment is already too late");
    let revoke = ApiTokenCommand::Revoke { reason: None };
    let revoked = present.when(&revoke).then([ApiTokenRevoked { reason: None }.into()]);
    assert_eq!(revoked.state().state(now), Some(TokenState::Revoked));
    revoked.when(&revoke).then_refused("token_already_revoked");
    token().when(&revoke).then_refused("token_not_found");
}

#[test]
fn what_differs_between_retries_is_no_part_of_the_request() {
    let hashed = |command: &ApiTokenCommand| serde_json::to_value(command).unwrap();
    let mut again = issue(MAX_LIFETIME, &[Scope::Admin]);
    if let ApiTokenCommand::Issue { digest, .. } = &mut again {
        *digest = Digest::of(b"another text");
    }
    assert_eq!(hashed(&issue(MIN_LIFETIME, &[Scope::Admin])), hashed(&again));
}
