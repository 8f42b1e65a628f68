//! kill -9 in the middle of appends, and a commit whose answer never comes.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use control_plane::{
    database::{Access, Location},
    eventing::store::AppendError,
};
use freehold_tests::database::{Engine, KurrentPlace, TestDatabase, roles_of};
use sea_orm::ConnectionTrait;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};

use super::{
    log::{assert_dense, everything},
    world::{TENANT, World, append, fresh_stream},
};

const CHILD: &str = "FREEHOLD_TEST_CRASHING_WRITER";
const CHILD_KURRENT: &str = "FREEHOLD_TEST_CRASHING_WRITER_KURRENT";
const CHILD_NAMESPACE: &str = "FREEHOLD_TEST_CRASHING_WRITER_NAMESPACE";
const CHILD_ROLES: &str = "FREEHOLD_TEST_CRASHING_WRITER_ROLES";
const CHILD_PASSWORD: &str = "FREEHOLD_TEST_CRASHING_WRITER_PASSWORD";

/// How often the writer is killed.
fn rounds(engine: Engine) -> usize {
    match (std::env::var_os("FREEHOLD_SOAK"), engine) {
        // It commits as the others do on PostgreSQL, and is there to show that roles do not stand in the way.
        (_, Engine::PostgresRoles) => 5,
        (Some(_), _) => 1000,
        (None, _) => 30,
    }
}

/// A process that writes to this database, and says on its output what was kept.
pub(crate) fn spawn(files: &TestDatabase) -> Child {
    let location = match &files.location {
        Location::Sqlite(path) => path.display().to_string(),
        Location::Postgres(url) => url.clone(),
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    if let Some(place) = files.kurrent() {
        command.env(CHILD_KURRENT, &place.url).env(CHILD_NAMESPACE, &place.namespace);
        command.envs(place.password.as_ref().map(|password| (CHILD_PASSWORD, password)));
    }
    command
        .envs(files.access().roles.is_some().then(|| (CHILD_ROLES, files.name())))
        .args(["--exact", "crashing_writer", "--nocapture"])
        .env(CHILD, &location)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub(crate) async fn every_acknowledged_record_survives_kill_9(engine: Engine) {
    let (files, world) = World::new(engine).await;
    world.close().await;
    let (mut acknowledged, started) = (Vec::new(), std::time::Instant::now());
    for round in 0..rounds(engine) {
        let mut child = spawn(&files);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Sooner or later under way, it dies without warning; what it had said until then must hold.
        let mut said = 0;
        while said < 1 + round * 37 % 200 {
            let line = lines.next().expect("the writer ended by itself").unwrap();
            said += usize::from(line.starts_with("kept "));
            acknowledged.push(line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(lines.map_while(Result::ok));
    }
    // The server may still be about to notice that its client is gone.
    if engine != Engine::Sqlite {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let world = World::open(&files).await;
    let records = everything(&world).await;
    assert_dense(&records, records.len());
    let ids: std::collections::HashSet<_> = records.iter().map(|stored| stored.record.envelope().id.to_string()).collect();
    let mut checked = 0;
    for event in acknowledged.iter().filter_map(|line| line.strip_prefix("kept ")).filter(|event| event.len() == 30) {
        assert!(ids.contains(event), "{event} was acknowledged and is gone");
        checked += 1;
    }
    assert!(checked >= rounds(engine));
    keep_counts(
        engine,
        &Counts { kills: rounds(engine), acknowledged_events: checked, events: records.len(), seconds: started.elapsed().as_secs() },
    );
    if engine == Engine::Sqlite {
        let row = world.database.read().query_one_raw(world.database.sql("PRAGMA integrity_check", vec![])).await.unwrap().unwrap();
        assert_eq!(row.try_get_by_index::<String>(0).unwrap(), "ok");
    }
    // It goes on where it was.
    world.store.append(append(TENANT, &fresh_stream(), 0, 2, "after")).await.unwrap();
    assert_dense(&everything(&world).await, records.len() + 2);
}

/// What happened; long trials keep it in `docs/benchmarks`.
#[derive(serde::Serialize)]
struct Counts {
    kills: usize,
    /// All of them there afterwards.
    acknowledged_events: usize,
    /// In the log, each once; the rest had not been acknowledged yet when the writer was killed.
    events: usize,
    seconds: u64,
}

#[allow(clippy::print_stdout, reason = "counts to keep")]
fn keep_counts(engine: Engine, counts: &Counts) {
    let text = serde_json::to_string_pretty(counts).unwrap();
    println!("{text}");
    if std::env::var_os("FREEHOLD_SOAK").is_some() && engine != Engine::PostgresRoles {
        let engine = format!("{engine:?}").to_lowercase();
        let place = format!("{}/../docs/benchmarks/kills-{engine}.json", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(place, format!("{text}\n")).unwrap();
    }
}

/// What is killed: sixteen writers that say what was kept.
pub(crate) async fn child() {
    let Ok(location) = std::env::var(CHILD) else { return };
    let location = if location.starts_with("postgres:") { Location::Postgres(location) } else { Location::Sqlite(location.into()) };
    let kurrent = std::env::var(CHILD_KURRENT).ok().map(|url| KurrentPlace {
        url,
        password: std::env::var(CHILD_PASSWORD).ok(),
        namespace: std::env::var(CHILD_NAMESPACE).unwrap(),
    });
    let access = Access { roles: std::env::var(CHILD_ROLES).ok().as_deref().map(roles_of), ..Access::default() };
    let world = Arc::new(World::with(&location, &access, kurrent.as_ref()).await);
    let writers = (0..16).map(|n| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let (stream, mut revision) = (fresh_stream(), 0);
            loop {
                let write = append(TENANT, &stream, revision, 1 + n % 3, &"x".repeat(200 * n));
                let events: Vec<_> = write.records.iter().map(|record| record.envelope().id).collect();
                revision = world.store.append(write).await.unwrap().revision;
                let mut out = std::io::stdout().lock();
                for event in events {
                    writeln!(out, "kept {event}").unwrap();
                }
                out.flush().unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

/// Between us and PostgreSQL stands somebody who passes the commit on and keeps the answer to himself.
pub(crate) async fn a_commit_without_an_answer_is_read_back() {
    let (files, direct) = World::new(Engine::Postgres).await;
    direct.store.append(append(TENANT, &fresh_stream(), 0, 1, "before")).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let armed = Arc::new(AtomicBool::new(false));
    let cut = Arc::new(AtomicBool::new(false));
    tokio::spawn(proxy(listener, files.server().unwrap().socket(), Arc::clone(&armed), Arc::clone(&cut)));
    let Location::Postgres(url) = &files.location else { unreachable!() };
    let database = url.split('/').nth(3).and_then(|rest| rest.split('?').next()).unwrap();
    let world = World::at(&Location::Postgres(format!("postgres://freehold@127.0.0.1:{port}/{database}?sslmode=disable")), None).await;
    let streams: Vec<_> = (0..8).map(|_| fresh_stream()).collect();
    world.store.append(append(TENANT, &streams[0], 0, 1, "through the proxy")).await.unwrap();

    armed.store(true, Ordering::SeqCst);
    let outcomes =
        futures::future::join_all(streams[1..].iter().map(|stream| world.store.append(append(TENANT, stream, 0, 2, "cut")))).await;
    assert!(cut.load(Ordering::SeqCst), "no commit was cut off");
    let kept = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    for outcome in &outcomes {
        assert!(matches!(outcome, Ok(_) | Err(AppendError::Unavailable { unknown: false, .. })), "{outcome:?}");
    }
    assert!(outcomes[0].is_ok(), "the commit that was cut off had been made: {outcomes:?}");
    // Whoever was told no, was told the truth, too.
    assert_dense(&everything(&direct).await, 2 + 2 * kept);
    world.store.append(append(TENANT, &fresh_stream(), 0, 1, "after")).await.unwrap();
}

async fn proxy(listener: TcpListener, socket: std::path::PathBuf, armed: Arc<AtomicBool>, cut: Arc<AtomicBool>) {
    while let Ok((client, _)) = listener.accept().await {
        let server = UnixStream::connect(&socket).await.unwrap();
        tokio::spawn(pass(client, server, Arc::clone(&armed), Arc::clone(&cut)));
    }
}

async fn pass(mut client: TcpStream, mut server: UnixStream, armed: Arc<AtomicBool>, cut: Arc<AtomicBool>) {
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(n @ 1..) = read else { return };
                let commit = up[..n].windows(6).any(|window| window == b"COMMIT");
                server.write_all(&up[..n]).await.unwrap();
                if commit && armed.swap(false, Ordering::SeqCst) {
                    let answer = server.read(&mut down).await.unwrap();
                    assert!(answer > 0);
                    cut.store(true, Ordering::SeqCst);
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(n @ 1..) = read else { return };
                if client.write_all(&down[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
