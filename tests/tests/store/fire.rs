//! PostgreSQL under fire: connections cut at every moment, servers that crash and restart, a standby that takes over.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use control_plane::{
    database::{Access, Database, Location, OpenError},
    eventing::store::{Append, AppendError, Appended, Cursor},
};
use freehold_tests::{
    cluster::{End, Server},
    cutting::{Cut, Cutting, Plan},
    database::{Engine, TestDatabase},
};
use futures::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use schema::{
    clock::{SystemIds, random},
    id::EventId,
};

use super::{
    log::{assert_dense, everything},
    world::{TENANT, World, append, fresh_stream},
};

fn soak() -> bool {
    std::env::var_os("FREEHOLD_SOAK").is_some()
}

fn events(append: &Append) -> Vec<EventId> {
    append.records.iter().map(|record| record.envelope().id).collect()
}

/// Whether the log has all of an append, or nothing of it.
async fn is_kept(direct: &World, append: &Append) -> bool {
    let read = direct.store.read_stream(TENANT, &append.stream, append.expected, 100).await.unwrap();
    let kept = read.iter().map(|stored| stored.record.envelope().id).collect::<Vec<_>>();
    let wanted = events(append);
    let found = wanted.iter().filter(|event| kept.contains(event)).count();
    assert!(found == 0 || found == wanted.len(), "an append was torn");
    found > 0
}

/// At every piece of what is sent, and in three ways: what was acknowledged is there, what was refused for certain is not, and the
/// same append again has the same answer.
pub(crate) async fn a_connection_may_be_cut_anywhere() {
    let files = TestDatabase::new(Engine::Postgres).unwrap();
    let direct = World::open(&files).await;
    let cutting = Cutting::start(files.server().unwrap().socket()).await.unwrap();
    let world = World::at(&Location::Postgres(cutting.url(&files.name(), "freehold")), None).await;
    let streams: Vec<_> = (0..4).map(|_| fresh_stream()).collect();
    let mut revisions = vec![0; streams.len()];
    let (mut acknowledged, mut refused, mut unknown) = (0, 0, 0);
    let mut rounds: Vec<Vec<Plan>> = Vec::new();
    for cut in [Cut::Before, Cut::Half, Cut::After] {
        rounds.extend((0..10).map(|pass| vec![Plan { pass, cut }]));
        // Reading back is cut off, too.
        rounds.extend((0..6).map(|pass| vec![Plan { pass: 1, cut }, Plan { pass, cut: Cut::After }, Plan { pass: 2, cut: Cut::Before }]));
    }
    let more = if soak() { 2000 } else { 20 };
    rounds.extend((0..more).map(|_| {
        let dice = random::<8>(&SystemIds);
        let cut = |die: u8| [Cut::Before, Cut::Half, Cut::After][usize::from(die % 3)];
        (0..usize::from(dice[0] % 4) + 1).map(|n| Plan { pass: usize::from(dice[n + 1] % 12), cut: cut(dice[n + 4]) }).collect()
    }));
    for (round, plans) in rounds.into_iter().enumerate() {
        // A stream that nobody knows yet takes another way than one whose revision is remembered.
        let mut writes: Vec<Append> =
            streams.iter().zip(&revisions).map(|(stream, revision)| append(TENANT, stream, *revision, 1 + round % 3, "x")).collect();
        if round % 2 == 0 {
            writes.push(append(TENANT, &fresh_stream(), 0, 2, "new"));
        }
        cutting.cut(plans, None);
        let outcomes = join_all(writes.iter().map(|write| world.store.append(write.clone()))).await;
        cutting.cut([], None);
        for (n, (write, outcome)) in writes.iter().zip(outcomes).enumerate() {
            let kept = is_kept(&direct, write).await;
            let first = match outcome {
                Ok(appended) => {
                    acknowledged += 1;
                    assert!(kept, "round {round}: an acknowledged append is not there");
                    Some(appended)
                }
                // Or the tenant's keys could not be read, before anything was sent.
                Err(AppendError::Unavailable { unknown: false, .. } | AppendError::Sealing(_)) => {
                    refused += 1;
                    assert!(!kept, "round {round}: an append that was refused for certain is there");
                    None
                }
                Err(AppendError::Unavailable { unknown: true, .. }) => {
                    unknown += 1;
                    None
                }
                Err(error) => panic!("round {round}: {error:?}"),
            };
            let again = retried(&world, write).await;
            assert!(first.is_none_or(|first| first == again), "round {round}: the same append had two answers: {first:?}, {again:?}");
            if n < revisions.len() {
                revisions[n] = again.revision;
            }
        }
    }
    let all = everything(&direct).await;
    assert_dense(&all, all.len());
    #[allow(clippy::print_stdout, reason = "a count to keep")]
    {
        println!("{} connections cut: {acknowledged} appends acknowledged, {refused} refused, {unknown} unknown", cutting.cuts());
    }
    // How often a plan comes to a cut is chance (65 to 86 were seen): what counts is that it often did.
    assert!(cutting.cuts() > 30 && acknowledged > 30 && refused > 10, "{} {acknowledged} {refused}", cutting.cuts());
}

/// The same append, until it has an answer.
async fn retried(world: &World, write: &Append) -> Appended {
    for _ in 0..200 {
        match world.store.append(write.clone()).await {
            Ok(appended) => return appended,
            Err(AppendError::Unavailable { .. } | AppendError::Sealing(_)) => tokio::time::sleep(Duration::from_millis(25)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the database did not come back")
}

/// Writers that never give up, and what they were told.
#[derive(Default)]
struct Load {
    acknowledged: Mutex<HashMap<EventId, Cursor>>,
    troubles: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    async fn write(&self, world: &World) {
        let (stream, mut revision) = (fresh_stream(), 0);
        while !self.stop.load(Ordering::Relaxed) {
            let write = append(TENANT, &stream, revision, 1 + revision as usize % 3, "under fire");
            let told = loop {
                match world.store.append(write.clone()).await {
                    Ok(appended) => break appended,
                    Err(AppendError::Unavailable { .. } | AppendError::Sealing(_)) => {
                        self.troubles.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Err(error) => panic!("a writer alone in its stream: {error:?}"),
                }
            };
            revision = told.revision;
            self.acknowledged.lock().unwrap().extend(events(&write).into_iter().map(|event| (event, told.cursor)));
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    async fn until_more(&self, than: usize) {
        let enough = async {
            while self.count() < than {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), enough).await.expect("writing goes on");
    }

    /// Everything acknowledged is there once, and nothing stands twice.
    async fn check(&self, world: &World) -> usize {
        let all = everything(world).await;
        assert_dense(&all, all.len());
        let there: HashMap<EventId, Cursor> = all.iter().map(|stored| (stored.record.envelope().id, stored.cursor)).collect();
        let acknowledged = self.acknowledged.lock().unwrap();
        for (event, told) in acknowledged.iter() {
            let cursor = there.get(event).unwrap_or_else(|| panic!("{event} was acknowledged and is gone"));
            assert!(cursor <= told, "{event} stands behind where its writer was told");
        }
        acknowledged.len()
    }
}

/// Follows from the start, over everything that happens to the server; nothing is missed or repeated.
async fn follow(world: Arc<World>, load: Arc<Load>) -> Vec<EventId> {
    let (mut seen, mut cursor) = (Vec::new(), Cursor::START);
    loop {
        let step = async {
            world.store.follow(cursor).await?;
            world.store.read_all(cursor, 50).await
        };
        match tokio::time::timeout(Duration::from_secs(3), step).await {
            Ok(Ok(batch)) => {
                assert!(batch.upto > cursor);
                cursor = batch.upto;
                seen.extend(batch.records.iter().map(|stored| stored.record.envelope().id));
            }
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            // Nothing more comes.
            Err(_) if load.stop.load(Ordering::Relaxed) => return seen,
            Err(_) => {}
        }
    }
}

pub(crate) async fn a_server_that_restarts_under_load_loses_and_repeats_nothing() {
    let server = Arc::new(Server::start(&[]).unwrap());
    let world = Arc::new(World::at(&Location::Postgres(server.url("postgres")), None).await);
    let load = Arc::new(Load::default());
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (world, load) = (Arc::clone(&world), Arc::clone(&load));
            tokio::spawn(async move { load.write(&world).await })
        })
        .collect();
    let follower = tokio::spawn(follow(Arc::clone(&world), Arc::clone(&load)));
    let ends = [End::Immediate, End::Fast, End::Killed, End::Immediate];
    let times = if soak() { 100 } else { ends.len() };
    for end in ends.into_iter().cycle().take(times) {
        load.until_more(load.count() + 150).await;
        let server = Arc::clone(&server);
        tokio::task::spawn_blocking(move || {
            server.end(end);
            server.run().unwrap();
        })
        .await
        .unwrap();
    }
    load.until_more(load.count() + 150).await;
    load.stop.store(true, Ordering::Relaxed);
    join_all(writers).await.into_iter().for_each(Result::unwrap);
    let acknowledged = load.check(&world).await;
    let seen = follower.await.unwrap();
    let all: Vec<_> = everything(&world).await.iter().map(|stored| stored.record.envelope().id).collect();
    assert_eq!(seen, all, "a follower missed or repeated something");
    assert!(load.troubles.load(Ordering::Relaxed) > 0, "no restart met a writer");
    #[allow(clippy::print_stdout, reason = "a count to keep")]
    {
        println!("{times} restarts: {acknowledged} events were acknowledged, and all are there once");
    }
}

/// Half of a minute is what a paused machine may sleep; nobody waits so long for its locks.
pub(crate) async fn a_writer_that_stands_still_loses_its_locks() {
    let (files, sleeper) = World::new(Engine::Postgres).await;
    let world = World::open(&files).await;
    let stream = fresh_stream();
    world.store.append(append(TENANT, &stream, 0, 1, "before")).await.unwrap();
    // In the middle of a turn, as every writer is between its questions.
    let held = sleeper.database.begin().await.unwrap();
    let lock = sleeper.database.sql("SELECT position FROM log_head WHERE id = 1 FOR UPDATE", vec![]);
    sea_orm::ConnectionTrait::query_one_raw(&held, lock).await.unwrap();
    let others = world.store.append(append(TENANT, &stream, 1, 1, "while it sleeps"));
    tokio::time::timeout(Duration::from_secs(25), others).await.expect("a lock that outlives its holder").unwrap();
    // It wakes, and has nothing left to commit with.
    held.commit().await.unwrap_err();
    sleeper.store.append(append(TENANT, &stream, 2, 1, "awake")).await.unwrap();
    assert_dense(&everything(&world).await, 3);
}

pub(crate) async fn a_promoted_standby_has_everything_that_was_acknowledged() {
    let rounds = if soak() { 20 } else { 1 };
    for _ in 0..rounds {
        failover().await;
    }
}

async fn failover() {
    let primary = Server::start(&["wal_level=replica", "max_wal_senders=5"]).unwrap();
    let standby = primary.standby(&[]).unwrap();
    // Commits wait for it from now on.
    primary.psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'").unwrap();
    primary.psql("postgres", "SELECT pg_reload_conf()").unwrap();
    let attached = async {
        while primary.psql("postgres", "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").unwrap() != "1" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), attached).await.expect("a synchronous standby");

    let cutting = Cutting::start(primary.socket()).await.unwrap();
    let place = Location::Postgres(cutting.url("postgres", "freehold"));
    let demanding = Access { synchronous_standby: true, ..Access::default() };
    let strict = World::with(&place, &demanding, None).await;
    let world = Arc::new(World::at(&place, None).await);
    let load = Arc::new(Load::default());
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (world, load) = (Arc::clone(&world), Arc::clone(&load));
            tokio::spawn(async move { load.write(&world).await })
        })
        .collect();
    let follower = tokio::spawn(follow(Arc::clone(&world), Arc::clone(&load)));
    strict.store.append(append(TENANT, &fresh_stream(), 0, 1, "while there is a standby")).await.unwrap();
    load.until_more(400).await;

    // The machine is lost, in the middle of commits.
    let primary = tokio::task::spawn_blocking(move || {
        primary.end(End::Killed);
        primary
    })
    .await
    .unwrap();
    let before = load.count();
    // A server that only follows takes nothing, also not from those who are led to it too early.
    cutting.lead_to(standby.socket());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(load.count(), before, "a standby acknowledged something");
    standby.promote().unwrap();
    load.until_more(before + 400).await;
    load.stop.store(true, Ordering::Relaxed);
    join_all(writers).await.into_iter().for_each(Result::unwrap);
    load.check(&world).await;
    let seen = follower.await.unwrap();
    let all: Vec<_> = everything(&world).await.iter().map(|stored| stored.record.envelope().id).collect();
    assert_eq!(seen, all);

    // It has no standby of its own: who demands one does not write to it, and does not start on it.
    let lonely = append(TENANT, &fresh_stream(), 0, 1, "alone");
    let alone = tokio::time::timeout(Duration::from_secs(2), strict.store.append(lonely.clone())).await;
    assert!(!matches!(alone, Ok(Ok(_))), "acknowledged without a standby: {alone:?}");
    assert!(!is_kept(&world, &lonely).await);
    let error = Database::open_with(&place, &demanding).await.unwrap_err();
    assert!(matches!(error, OpenError::NotReplicated { .. }), "{error:?}");
    drop(primary);
}

pub(crate) async fn a_server_that_keeps_commits_to_itself_is_refused_on_demand() {
    let files = TestDatabase::new(Engine::Postgres).unwrap();
    let demanding = Access { synchronous_standby: true, ..Access::default() };
    let told = async || Database::open_with(&files.location, &demanding).await.unwrap_err().to_string();
    let error = told().await;
    assert!(error.contains("names no synchronous standby") && error.contains("set synchronous_standby_names"), "{error}");

    // Without the demand a server that does not even write its log before it answers is made to.
    files.psql(&format!("ALTER DATABASE {} SET synchronous_commit = off", files.name())).unwrap();
    let world = World::open(&files).await;
    let row = world.database.write();
    let row = sea_orm::ConnectionTrait::query_one_raw(row, world.database.sql("SHOW synchronous_commit", vec![])).await.unwrap().unwrap();
    assert_eq!(row.try_get_by_index::<String>(0).unwrap(), "on");

    let server = Server::start(&["synchronous_standby_names=*"]).unwrap();
    for weak in ["off", "local", "remote_write"] {
        server
            .psql("postgres", &format!("SET synchronous_commit = local; ALTER DATABASE postgres SET synchronous_commit = {weak}"))
            .unwrap();
        let error = Database::open_with(&Location::Postgres(server.url("postgres")), &demanding).await.unwrap_err();
        assert!(matches!(error, OpenError::NotReplicated { .. }) && error.to_string().contains(&format!("\"{weak}\"")), "{error}");
    }
}

struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key, PEM, for this name.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

pub(crate) async fn a_server_proves_who_it_is() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Server::new(&["ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key"]).unwrap();
    let (certificate, key) = authority.issue("localhost");
    for (name, pem) in [("server.crt", certificate), ("server.key", key)] {
        let file = server.folder().join(name);
        std::fs::write(&file, pem).unwrap();
        server.give(&file).unwrap();
    }
    server.run().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let right = file("right.pem", authority.certificate.pem());
    let wrong = file("wrong.pem", stranger.certificate.pem());
    let at = |host: &str, port: u16, options: &str| {
        Location::Postgres(format!("postgres://freehold@{host}:{port}/postgres?sslmode=verify-full&sslrootcert={options}"))
    };

    let world = World::at(&at("localhost", server.port(), &right), None).await;
    world.store.append(append(TENANT, &fresh_stream(), 0, 2, "over TLS")).await.unwrap();
    let encrypted = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.usename = 'freehold' AND a.client_port > 0 AND NOT s.ssl";
    assert_eq!(server.psql("postgres", encrypted).unwrap(), "0", "a connection without TLS");

    for (host, options, why) in [("localhost", &wrong, "another authority"), ("127.0.0.1", &right, "another name")] {
        let error = Database::open(&at(host, server.port(), options)).await.expect_err(why);
        let told = service::explain::explain("", &error);
        assert!(matches!(error, OpenError::Certificate { .. }), "{why}: {error:?}");
        assert!(told.contains("sslrootcert") && told.contains("certificate"), "{why}: {told}");
    }
    // A server without TLS is not spoken to in clear.
    let plain = Server::start(&[]).unwrap();
    let error = Database::open(&at("localhost", plain.port(), &right)).await.unwrap_err();
    assert!(matches!(error, OpenError::Certificate { .. }), "{error:?}");
    // An authority that is not there is a mistake in the settings, not a reason to go on without.
    assert!(Database::open(&at("localhost", server.port(), "/nowhere.pem")).await.is_err());
}
