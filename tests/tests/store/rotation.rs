//! Keys that are replaced while everything runs, by somebody else, who is killed in the middle.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use control_plane::{
    config::Config,
    database::{Database, Location},
    eventing::store::Append,
    sealing::{Keyring, SealingError, SealingKey, keyring::WATCH_INTERVAL, source::Sources},
};
use freehold_tests::database::{Engine, TestDatabase};
use schema::{
    clock::{SystemClock, SystemIds},
    event::StreamId,
    id::{ProjectId, TenantId},
};
use sea_orm::ConnectionTrait;
use tokio_util::sync::CancellationToken;

use super::world::{OTHER, TENANT, World, append, fresh_stream};

const CHILD: &str = "FREEHOLD_TEST_ROTATING_OPERATOR";
const CHILD_KEYS: &str = "FREEHOLD_TEST_ROTATING_OPERATOR_KEYS";

/// The key file in this folder.
fn file(folder: &Path) -> Sources {
    Sources::new(&Config { data_dir: folder.to_owned(), ..Config::default() }).unwrap()
}

/// A deployment whose sealing key is in a file, and where that is.
async fn begin(engine: Engine) -> (TestDatabase, World, PathBuf) {
    let files = TestDatabase::new(engine).unwrap();
    let folder = files.folder.path().join("keys");
    std::fs::create_dir(&folder).unwrap();
    let world = World::opened(&files.location, files.kurrent(), Some(file(&folder))).await;
    (files, world, folder)
}

async fn again(files: &TestDatabase, folder: &Path) -> World {
    World::opened(&files.location, files.kurrent(), Some(file(folder))).await
}

/// What an operator's command opens, beside whoever serves.
async fn operator(location: &Location, folder: &Path) -> Result<Keyring, SealingError> {
    let database = Database::beside(location).await.unwrap();
    Keyring::open_from(database, file(folder), Arc::new(SystemClock), Arc::new(SystemIds)).await
}

fn tenant(n: u64) -> TenantId {
    TenantId::from_bits(0xF00D_0000 + u128::from(n))
}

async fn texts(database: &Database, sql: &str) -> Vec<String> {
    let rows = database.write().query_all_raw(database.sql(sql, vec![])).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

pub(crate) async fn the_sealing_key_is_replaced_under_traffic(engine: Engine) {
    let (files, world, folder) = begin(engine).await;
    let world = Arc::new(world);
    let first = world.keyring.sealing_keys().await.unwrap().pop().unwrap().fingerprint;
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    // Writers, each of whose records belongs to a tenant that was not there before.
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (world, stop, made) = (world.clone(), stop.clone(), made.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let n = made.fetch_add(1, Ordering::SeqCst);
                    let stream = StreamId::of(ProjectId::from_bits(u128::from(n)));
                    world.store.append(append(tenant(n), &stream, 0, 2, "x")).await.unwrap();
                }
            })
        })
        .collect();
    let mut newest = first.clone();
    for round in 1..=3 {
        while made.load(Ordering::SeqCst) < round * 40 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let rotated = operator(&files.location, &folder).await.unwrap().rotate_sealing_key().await.unwrap();
        assert!(rotated.keys >= 70 && !rotated.went_on && rotated.sealing_key != newest, "{rotated:?}");
        newest = rotated.sealing_key;
    }
    let since = made.load(Ordering::SeqCst);
    while made.load(Ordering::SeqCst) < since + 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }

    // Nothing hangs from an old one, also what was made meanwhile; those are put away, and nothing is lost.
    let hanging = texts(&world.database, "SELECT DISTINCT sealing_key FROM tenant_keys").await;
    assert_eq!(hanging, [newest.to_string()]);
    let retired = operator(&files.location, &folder).await.unwrap().retire_sealing_keys().await.unwrap();
    assert_eq!((retired.len(), retired[0].clone()), (3, first.clone()));
    assert_eq!(SealingKey::read_all(&folder.join("sealing.key")).unwrap().len(), 1);
    let reopened = again(&files, &folder).await;
    for n in 0..made.load(Ordering::SeqCst) {
        let stream = StreamId::of(ProjectId::from_bits(u128::from(n)));
        assert_eq!(reopened.store.read_stream(tenant(n), &stream, 0, 10).await.unwrap().len(), 2);
    }
    // The old key opens nothing any more, and is told from the right one.
    let old = SealingKey::read(&folder.join(format!("sealing.key.retired-{first}"))).unwrap();
    let error = Keyring::open(reopened.database.clone(), &old, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap_err();
    assert!(matches!(&error, SealingError::WrongSealingKey { expected, found } if *expected == newest && *found == first), "{error}");
}

/// Tenants whose keys take several transactions.
const TENANTS: u64 = 150;

pub(crate) async fn a_rotation_that_is_killed_goes_on(engine: Engine) {
    let (files, world, folder) = begin(engine).await;
    let stream = fresh_stream();
    for n in 0..TENANTS {
        world.store.append(append(tenant(n), &stream, 0, 1, "x")).await.unwrap();
    }
    let (mut in_between, mut revision) = (0, 1);
    for round in 0..8_u32 {
        let mut child = rotating(&files, &folder);
        // Whoever serves goes on, with tenants old and new.
        let killed_at = Instant::now() + Duration::from_millis(u64::from(60 + round * 37 % 150));
        while Instant::now() < killed_at {
            world.store.append(append(tenant(0), &stream, revision, 1, "x")).await.unwrap();
            world.store.append(append(TenantId::from_bits(u128::from(revision)), &fresh_stream(), 0, 1, "x")).await.unwrap();
            revision += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if engine != Engine::Sqlite {
            // The server may still be about to notice that its client is gone.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let hanging = texts(&world.database, "SELECT DISTINCT sealing_key FROM tenant_keys").await;
        in_between += usize::from(hanging.len() > 1);
        // Whatever was left behind opens.
        let after = Keyring::open_from(world.database.clone(), file(&folder), Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
        for n in 0..TENANTS {
            after.tenant(tenant(n)).await.unwrap();
        }
        if hanging.len() > 1 {
            let error = after.retire_sealing_keys().await.unwrap_err();
            assert!(matches!(error, SealingError::RotationUnfinished { .. }), "{error}");
            assert!(after.rotate_sealing_key().await.unwrap().went_on);
            assert_eq!(texts(&world.database, "SELECT DISTINCT sealing_key FROM tenant_keys").await.len(), 1);
        }
    }
    #[allow(clippy::print_stdout, reason = "a count to keep")]
    {
        println!("killed 8 times, {in_between} times in the middle of a rotation");
    }
    let after = operator(&files.location, &folder).await.unwrap();
    after.rotate_sealing_key().await.unwrap();
    after.retire_sealing_keys().await.unwrap();
    assert_eq!(SealingKey::read_all(&folder.join("sealing.key")).unwrap().len(), 1);
    assert_eq!(again(&files, &folder).await.store.read_stream(tenant(0), &stream, 0, 5000).await.unwrap().len() as u64, revision);
}

fn rotating(files: &TestDatabase, folder: &Path) -> Child {
    let location = match &files.location {
        Location::Sqlite(path) => path.display().to_string(),
        Location::Postgres(url) => url.clone(),
    };
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rotating_operator", "--nocapture"])
        .envs([(CHILD, location.as_str()), (CHILD_KEYS, folder.to_str().unwrap())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What is killed: an operator who replaces the sealing key over and over.
pub(crate) async fn child() {
    let Ok(location) = std::env::var(CHILD) else { return };
    let location = if location.starts_with("postgres:") { Location::Postgres(location) } else { Location::Sqlite(location.into()) };
    let operator = operator(&location, Path::new(&std::env::var(CHILD_KEYS).unwrap())).await.unwrap();
    loop {
        operator.rotate_sealing_key().await.unwrap();
    }
}

/// A process with a key file of its own goes on with what is open, says what it lacks, and takes the key up as soon as it is there.
pub(crate) async fn another_process_picks_the_sealing_key_up(engine: Engine) {
    let (files, one, folder) = begin(engine).await;
    one.store.append(append(TENANT, &fresh_stream(), 0, 1, "x")).await.unwrap();
    one.store.append(append(OTHER, &fresh_stream(), 0, 1, "x")).await.unwrap();
    let elsewhere = files.folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::copy(folder.join("sealing.key"), elsewhere.join("sealing.key")).unwrap();
    let two = again(&files, &elsewhere).await;
    let stop = CancellationToken::new();
    let watching = tokio::spawn(two.keyring.clone().watch(stop.clone()));
    tokio::time::sleep(WATCH_INTERVAL * 3).await;
    two.store.append(append(TENANT, &fresh_stream(), 0, 1, "x")).await.unwrap();

    let rotated = operator(&files.location, &folder).await.unwrap().rotate_sealing_key().await.unwrap();
    let started = Instant::now();
    while two.keyring.note().is_none() {
        assert!(started.elapsed() < Duration::from_secs(30), "nobody says that the key is missing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(two.keyring.note().unwrap().contains(rotated.sealing_key.as_str()));
    two.store.append(append(TENANT, &fresh_stream(), 0, 1, "x")).await.unwrap();
    let error = two.keyring.tenant(OTHER).await.unwrap_err();
    assert!(matches!(&error, SealingError::WrongSealingKey { expected, .. } if *expected == rotated.sealing_key), "{error}");
    assert!(two.keyring.tenant(TenantId::from_bits(0x9E37)).await.is_err());
    // A second process that starts now is refused as well.
    assert!(matches!(operator(&files.location, &elsewhere).await, Err(SealingError::WrongSealingKey { .. })));

    std::fs::copy(folder.join("sealing.key"), elsewhere.join("sealing.key")).unwrap();
    two.keyring.tenant(OTHER).await.unwrap();
    while two.keyring.note().is_some() {
        assert!(started.elapsed() < Duration::from_secs(30), "the key is there, and it is not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    watching.await.unwrap();
}

/// Data keys are replaced, and tenants erased, by another process: this one hears of it.
pub(crate) async fn what_others_do_with_data_keys_is_heard(engine: Engine) {
    let (files, world, folder) = begin(engine).await;
    let stop = CancellationToken::new();
    let watching = tokio::spawn(world.keyring.clone().watch(stop.clone()));
    let (stream, other) = (fresh_stream(), fresh_stream());
    world.store.append(append(TENANT, &stream, 0, 1, "old")).await.unwrap();
    world.store.append(append(OTHER, &other, 0, 1, "old")).await.unwrap();
    let sealed_under = async |world: &World| world.keyring.tenant(TENANT).await.unwrap().current();
    let before = sealed_under(&world).await;
    let operator = operator(&files.location, &folder).await.unwrap();
    let next = operator.rotate_data_key(TENANT).await.unwrap();
    operator.erase(OTHER).await.unwrap();
    let started = Instant::now();
    loop {
        let erased = matches!(world.keyring.tenant(OTHER).await, Err(SealingError::TenantErased(_)));
        if erased && sealed_under(&world).await == next {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "nothing was heard");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(before, next);
    world.store.append(append(TENANT, &stream, 1, 1, "new")).await.unwrap();
    assert_eq!(world.store.read_stream(TENANT, &stream, 0, 10).await.unwrap().len(), 2);
    let late = Append { expected: 1, ..append(OTHER, &other, 1, 1, "x") };
    assert!(world.store.append(late).await.is_err());
    stop.cancel();
    watching.await.unwrap();
}

/// A tenant that an older program keeps making keys for does not say what they hang from.
pub(crate) async fn keys_that_do_not_say_what_they_hang_from_open(engine: Engine) {
    let (files, world, folder) = begin(engine).await;
    let stream = fresh_stream();
    world.store.append(append(TENANT, &stream, 0, 1, "x")).await.unwrap();
    world.database.write().execute_unprepared("UPDATE tenant_keys SET sealing_key = NULL").await.unwrap();
    let world = again(&files, &folder).await;
    assert_eq!(world.store.read_stream(TENANT, &stream, 0, 10).await.unwrap().len(), 1);
    let operator = operator(&files.location, &folder).await.unwrap();
    let went_on = operator.rotate_sealing_key().await.unwrap();
    assert!(went_on.went_on && went_on.keys == 2, "{went_on:?}");
    assert_eq!(operator.rotate_sealing_key().await.unwrap().keys, 2);
    assert_eq!(again(&files, &folder).await.store.read_stream(TENANT, &stream, 0, 10).await.unwrap().len(), 1);
}
