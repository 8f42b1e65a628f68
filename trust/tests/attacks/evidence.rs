//! What an agent shows a control plane that was restored counts only as far as it is signed by those who may.

use trust::{
    dsse::sign_statement,
    evidence::{Evidence, prove},
};

use super::super::*;

fn shown(world: &World, set: &StatementSet) -> Result<Evidence, Rejection> {
    prove(&world.set().roots, set, world.identity().root)
}

#[track_caller]
fn not_proved(result: Result<Evidence, Rejection>, code: &str) {
    match result {
        Ok(_) => panic!("it was taken for proved; expected {code}"),
        Err(rejection) => assert_eq!(rejection.code(), code, "{rejection:?}"),
    }
}

#[test]
fn a_set_that_proves_itself_is_read_as_the_exact_bytes() {
    let mut world = World::new();
    world.tick();
    let set = world.set();
    let evidence = shown(&world, &set).unwrap();
    assert_eq!((Some(evidence.heartbeat.bytes), Some(evidence.state.bytes)), (set.heartbeat, set.state));
    assert_eq!(evidence.policies.values().map(|policy| policy.bytes.clone()).collect::<Vec<_>>().len(), set.policies.len());
    assert_eq!(evidence.heartbeat.payload.head.serial, 2);
}

#[test]
fn a_set_that_somebody_else_signed_proves_nothing() {
    let world = World::new();
    let stranger = pair(99);
    let mut forged = world.set();
    let mut heartbeat = honest(&world).heartbeat().clone();
    heartbeat.head.serial = u64::MAX;
    forged.heartbeat = Some(sign_statement(&heartbeat, &[&stranger]).0.into());
    not_proved(shown(&world, &forged), "below_threshold");
    let mut forged = world.set();
    let mut state = world.state.clone();
    state.head.serial = u64::MAX;
    forged.state = Some(sign_statement(&state, &[&stranger]).0.into());
    not_proved(shown(&world, &forged), "below_threshold");
    let mut forged = world.set();
    let mut tenant = policy(Scope::Tenant);
    tenant.head.serial = u64::MAX;
    forged.policies.push(sign_statement(&tenant, &[&stranger]).0.into());
    not_proved(shown(&world, &forged), "below_threshold");
}

#[test]
fn a_set_that_lacks_something_or_follows_from_another_root_proves_nothing() {
    let world = World::new();
    not_proved(shown(&world, &StatementSet { heartbeat: None, ..world.set() }), "incomplete");
    not_proved(shown(&world, &StatementSet { state: None, ..world.set() }), "incomplete");
    not_proved(prove(&[], &world.set(), Digest([9; 32])), "root_not_pinned");
}
