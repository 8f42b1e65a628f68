mod deltas;

use schema::{
    clock::{ManualClock, ManualIds},
    key::RevocationReason,
};
use service::{config::OutgoingConfig, tls::client_roots::ClientRoots};
use trust::{
    statement::{
        Scope,
        state::{Revocation, Subject},
    },
    testing::{CALLER, PROJECT, START, World},
};

use super::*;
use crate::{
    app::put_in_force,
    control::{client::ControlClient, time::SystemBootClock},
    policy::{current::Current, in_force::InForce},
};

/// An agent's sync on a directory, as after a start.
fn sync(world: &World, directory: &std::path::Path) -> (StatementSync, Arc<Current>) {
    sync_with(world, directory, ("https://localhost:1", None))
}

/// The same, with a control plane at this address that shows certificates of this authority.
fn sync_with(world: &World, directory: &std::path::Path, (url, authority): (&str, Option<&str>)) -> (StatementSync, Arc<Current>) {
    service::tls::install_provider();
    let (clock, ids) = (Arc::new(ManualClock::at(START)), Arc::new(ManualIds::seeded(1)));
    let (current, roots) = (Arc::new(Current::default()), ClientRoots::optional());
    let (in_force, noted, cut, now) = (current.clone(), current.clone(), current.clone(), clock.clone());
    let client = ControlClient::unknown(url, authority, &OutgoingConfig::default(), clock.clone()).unwrap();
    let parts = SyncParts {
        connection: Connection::new(client),
        directory: ControlDirectory::open(directory).unwrap(),
        identity: world.identity(),
        clock: AgentClock::new(clock, Box::new(SystemBootClock::new(&*ids)), None),
        ids,
        put_in_force: Box::new(move |set| {
            let unusable = |error: crate::policy::slice::UnusablePolicy| Rejected {
                code: "policies_unusable".to_owned(),
                detail: error.to_string(),
                at: now.now(),
            };
            put_in_force(&in_force, &roots, set).map(drop).map_err(unusable)
        }),
        note_rejection: Box::new(move |rejected| noted.reject(Some(rejected))),
        note_cut_off: Box::new(move |is| cut.cut_off(is)),
        ratchet: RatchetKeeper::open(ControlDirectory::open(directory).unwrap(), Arc::new(ManualIds::seeded(2))).unwrap(),
        carried: directory.join("carried"),
    };
    (StatementSync::start(parts).unwrap(), current)
}

fn served(world: &World) -> Served {
    Served { etag: Some(world.heartbeat.head.serial.to_string()), set: world.set(), is_completed: false }
}

fn held(in_force: &InForce) -> bool {
    in_force.is_held(Subject::Caller(CALLER))
}

#[test]
fn what_a_set_restricts_holds_at_once_though_its_policies_cannot_be_used() {
    let (mut world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let (mut sync_, current) = sync(&world, directory.path());
    assert!(sync_.take(served(&world)).unwrap());

    world.project_policy().cedar.insert("pol_test/1".to_owned(), "permit (a language of next year);".to_owned());
    world.tick_policy(Scope::Project(PROJECT));
    let revoked = Revocation { subject: Subject::Caller(CALLER), reason: RevocationReason::KeyCompromise, at: START };
    world.state.revocations.push(revoked);
    world.tick();
    let outcome = sync_.take(served(&world));
    assert!(matches!(outcome, Err(SyncError::Unusable(_))), "{outcome:?}");
    let in_force = current.load().unwrap();
    assert!(held(&in_force) && in_force.caller(CALLER).is_some() && in_force.key_count() == 1);
    assert_eq!((in_force.heartbeat_serial, in_force.state_serial), (1, 1), "its policies are as old as they are");
    assert_eq!(current.rejection().unwrap().code, "policies_unusable");
    assert!(!sync_.take(served(&world)).unwrap(), "the same set says nothing new");
    assert_eq!(current.rejection().unwrap().code, "policies_unusable");

    // Another start finds both: what grants, and what restricts it.
    drop(sync_);
    let (mut sync_, current) = sync(&world, directory.path());
    let in_force = current.load().unwrap();
    assert!(held(&in_force) && in_force.key_count() == 1);
    assert_eq!((in_force.heartbeat_serial, current.rejection().unwrap().code.as_str()), (1, "policies_unusable"));
    world.tick();
    assert!(sync_.take(served(&world)).is_err());

    // Policies that can be used again bring the agent up to date.
    world.project_policy().cedar.remove("pol_test/1");
    world.tick_policy(Scope::Project(PROJECT));
    world.tick();
    assert!(sync_.take(served(&world)).unwrap());
    let in_force = current.load().unwrap();
    assert!(held(&in_force) && in_force.heartbeat_serial == 4 && current.rejection().is_none());
    drop(sync_);
    let (_sync, current) = sync(&world, directory.path());
    assert!(current.load().unwrap().heartbeat_serial == 4 && current.rejection().is_none());
    assert!(!directory.path().join("control/granting.json").exists());
}
