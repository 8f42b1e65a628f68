//! Reactors: in order, at least once, one at a time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use control_plane::{
    database::Database,
    eventing::{
        leadership::{LEASE, Leadership},
        reactor::{Fault, Reactor, Reactors},
        store::{Cursor, Stored},
    },
};
use freehold_tests::database::Engine;
use schema::clock::SystemIds;
use sea_orm::ConnectionTrait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    log::everything,
    world::{TENANT, World, append, fresh_stream},
};

/// Remembers what it was given, and fails where it is told to.
struct Recorder {
    seen: watch::Sender<Vec<Cursor>>,
    fail_at: Mutex<Option<Cursor>>,
    ticks: watch::Sender<u32>,
}

impl Recorder {
    fn new(fail_at: Option<Cursor>) -> Arc<Self> {
        Arc::new(Self { seen: watch::Sender::new(Vec::new()), fail_at: Mutex::new(fail_at), ticks: watch::Sender::new(0) })
    }

    async fn has_seen(&self, count: usize) -> Vec<Cursor> {
        let mut seen = self.seen.subscribe();
        let seen = tokio::time::timeout(Duration::from_secs(30), seen.wait_for(|seen| seen.len() >= count)).await;
        seen.expect("the reactor got too little").unwrap().clone()
    }
}

#[async_trait::async_trait]
impl Reactor for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    async fn react(&self, records: &[Stored]) -> Result<(), Fault> {
        let failing = self.fail_at.lock().unwrap().take_if(|at| records.iter().any(|stored| stored.cursor == *at)).is_some();
        self.seen.send_modify(|seen| seen.extend(records.iter().map(|stored| stored.cursor)));
        if failing { Err("told to fail".into()) } else { Ok(()) }
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(20))
    }

    async fn tick(&self) -> Result<(), Fault> {
        self.ticks.send_modify(|ticks| *ticks += 1);
        Ok(())
    }
}

fn reactors(world: &World) -> Reactors {
    Reactors::new(world.database.clone(), Arc::clone(&world.store), Arc::new(world.clock.clone()), &SystemIds)
}

/// Of the records with these numbers, from 1.
async fn cursors(world: &World, from: usize, to: usize) -> Vec<Cursor> {
    everything(world).await[from - 1..to].iter().map(|stored| stored.cursor).collect()
}

pub(crate) async fn a_reactor_gets_everything_in_order_and_goes_on_where_it_was(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let stream = fresh_stream();
    world.store.append(append(TENANT, &stream, 0, 5, "x")).await.unwrap();
    let (first, stop) = (Recorder::new(None), CancellationToken::new());
    let running = tokio::spawn(reactors(&world).run(Arc::clone(&first) as Arc<dyn Reactor>, stop.clone()));
    first.has_seen(5).await;
    world.store.append(append(TENANT, &stream, 5, 3, "x")).await.unwrap();
    assert_eq!(first.has_seen(8).await, cursors(&world, 1, 8).await);
    let mut ticks = first.ticks.subscribe();
    tokio::time::timeout(Duration::from_secs(20), ticks.wait_for(|ticks| *ticks >= 3)).await.expect("no ticks").unwrap();
    stop.cancel();
    running.await.unwrap();

    world.store.append(append(TENANT, &stream, 8, 2, "x")).await.unwrap();
    let (second, stop) = (Recorder::new(None), CancellationToken::new());
    let running = tokio::spawn(reactors(&world).run(Arc::clone(&second) as Arc<dyn Reactor>, stop.clone()));
    assert_eq!(second.has_seen(2).await, cursors(&world, 9, 10).await);
    stop.cancel();
    running.await.unwrap();
}

pub(crate) async fn a_failing_reactor_gets_the_same_again(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    world.store.append(append(TENANT, &fresh_stream(), 0, 4, "x")).await.unwrap();
    let (recorder, stop) = (Recorder::new(Some(cursors(&world, 3, 3).await[0])), CancellationToken::new());
    let running = tokio::spawn(reactors(&world).run(Arc::clone(&recorder) as Arc<dyn Reactor>, stop.clone()));
    let all = cursors(&world, 1, 4).await;
    assert_eq!(recorder.has_seen(8).await, [all.clone(), all].concat());
    stop.cancel();
    running.await.unwrap();
}

pub(crate) async fn an_overtaken_leader_cannot_move_the_cursor(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let leadership = || Leadership::new(world.database.clone(), Arc::new(world.clock.clone()), &SystemIds);
    let (old, new) = (leadership(), leadership());
    let first = old.acquire("recorder").await.unwrap().unwrap();
    if engine != Engine::Sqlite {
        assert_eq!(new.acquire("recorder").await.unwrap(), None);
        assert!(old.renew(&first).await.unwrap());
        world.clock.advance(LEASE + Duration::from_secs(1));
    }
    let second = new.acquire("recorder").await.unwrap().unwrap();
    assert!(second.token() > first.token());
    assert!(!old.renew(&first).await.unwrap());
    old.release(first).await.unwrap();
    assert!(new.renew(&second).await.unwrap(), "an old leader gave up what was not its own");
    new.release(second).await.unwrap();

    // A reactor that leads is overtaken while it works: its cursor stays where the new leader put it.
    world.store.append(append(TENANT, &fresh_stream(), 0, 2, "x")).await.unwrap();
    let (recorder, stop) = (Recorder::new(None), CancellationToken::new());
    let running = tokio::spawn(reactors(&world).run(Arc::clone(&recorder) as Arc<dyn Reactor>, stop.clone()));
    recorder.has_seen(2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let overtake = "UPDATE reactors SET token = token + 100, position = 0 WHERE name = 'recorder'";
    world.database.write().execute_raw(world.database.sql(overtake, vec![])).await.unwrap();
    world.store.append(append(TENANT, &fresh_stream(), 0, 1, "x")).await.unwrap();
    recorder.has_seen(3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let row =
        world.database.read().query_one_raw(world.database.sql("SELECT position FROM reactors WHERE name = 'recorder'", vec![])).await;
    assert_eq!(row.unwrap().unwrap().try_get_by_index::<i64>(0).unwrap(), 0);
    stop.cancel();
    running.await.unwrap();
}

/// Waits until it is let on, then writes.
struct Writer {
    database: Database,
    began: watch::Sender<bool>,
    let_on: watch::Sender<bool>,
    wrote: watch::Sender<bool>,
}

#[async_trait::async_trait]
impl Reactor for Writer {
    fn name(&self) -> &'static str {
        "writer"
    }

    async fn react(&self, _: &[Stored]) -> Result<(), Fault> {
        self.began.send_replace(true);
        self.let_on.subscribe().wait_for(|on| *on).await?;
        self.database.write().execute_raw(self.database.sql("UPDATE leaders SET expires = 0 WHERE name = 'nobody'", vec![])).await?;
        self.wrote.send_replace(true);
        Ok(())
    }
}

/// The embedded engine has one connection to write: a reactor whose work waits for it when the lease is to be renewed.
pub(crate) async fn a_reactor_s_work_and_its_lease_may_wait_for_the_same_connection(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    world.store.append(append(TENANT, &fresh_stream(), 0, 1, "x")).await.unwrap();
    let told = || watch::Sender::new(false);
    let writer = Arc::new(Writer { database: world.database.clone(), began: told(), let_on: told(), wrote: told() });
    let stop = CancellationToken::new();
    let running = tokio::spawn(reactors(&world).run(Arc::clone(&writer) as Arc<dyn Reactor>, stop.clone()));
    writer.began.subscribe().wait_for(|began| *began).await.unwrap();
    let held = world.database.begin().await.unwrap();
    writer.let_on.send_replace(true);
    tokio::time::sleep(LEASE / 3 + Duration::from_millis(500)).await;
    held.rollback().await.unwrap();
    let wrote = tokio::time::timeout(Duration::from_secs(10), async { writer.wrote.subscribe().wait_for(|wrote| *wrote).await.map(drop) });
    wrote.await.expect("the work was not let on").unwrap();
    stop.cancel();
    running.await.unwrap();
}
