//! What networks and servers do to KurrentDB's client. Only the server of the tests can be told to, so with a real one in
//! `FREEHOLD_TEST_KURRENT_URL` these have nothing to do.

use std::time::{Duration, Instant};

use control_plane::eventing::{
    kurrent::{KurrentSettings, KurrentStore},
    store::{AppendError, Cursor},
};
use freehold_tests::{
    database::Engine,
    kurrent::{Fault, KurrentServer},
};
use futures::future::join_all;

use super::{
    log::{assert_dense, everything},
    world::{TENANT, World, append, fresh_stream},
};

pub(crate) async fn an_append_without_an_answer_is_read_back() {
    let (files, world) = World::new(Engine::Kurrent).await;
    let Some(server) = files.kurrent_server() else { return };
    let stream = fresh_stream();
    let mut revision = 0;
    for fault in [Fault::CutBefore, Fault::CutAfter, Fault::Late(Duration::from_millis(300)), Fault::Unanswered, Fault::CutAfter] {
        server.inject([fault]);
        let appended = world.store.append(append(TENANT, &stream, revision, 3, "once")).await.unwrap_or_else(|error| {
            panic!("{fault:?}: {error:?}");
        });
        assert_eq!(appended.revision, revision + 3, "{fault:?}");
        assert_eq!(world.store.head().await.unwrap(), appended.cursor, "{fault:?}");
        assert_eq!(server.faults_left(), 0, "{fault:?}");
        revision += 3;
    }
    // Somebody else comes first while the outcome is unknown: then it is known.
    let other = World::open(&files).await;
    server.inject([Fault::CutBefore]);
    let (mine, theirs) = tokio::join!(
        world.store.append(append(TENANT, &stream, revision, 1, "mine")),
        other.store.append(append(TENANT, &stream, revision, 1, "theirs"))
    );
    let won = [&mine, &theirs].iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(won, 1, "{mine:?} {theirs:?}");
    for outcome in [mine, theirs] {
        assert!(matches!(outcome, Ok(_) | Err(AppendError::WrongRevision { .. })), "{outcome:?}");
    }

    // Many at once, with connections that break under all of them.
    let streams: Vec<_> = (0..40).map(|_| fresh_stream()).collect();
    server.inject([Fault::CutAfter, Fault::CutBefore, Fault::Late(Duration::from_millis(100)), Fault::CutAfter]);
    let outcomes = join_all(streams.iter().map(|stream| world.store.append(append(TENANT, stream, 0, 2, "many")))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_dense(&everything(&world).await, usize::try_from(revision).unwrap() + 1 + 80);
}

pub(crate) async fn followers_outlive_connections() {
    let (files, writer) = World::new(Engine::Kurrent).await;
    let Some(server) = files.kurrent_server() else { return };
    let follower = World::open(&files).await;
    let stream = fresh_stream();
    let (mut cursor, mut seen) = (Cursor::START, 0);
    for round in 0..6u64 {
        match round {
            2 | 4 => server.cut(),
            3 => {
                server.refuse(true);
                tokio::time::sleep(Duration::from_millis(700)).await;
                server.refuse(false);
            }
            _ => {}
        }
        let appended = writer.store.append(append(TENANT, &stream, round, 1, "x")).await.unwrap();
        let followed = tokio::time::timeout(Duration::from_secs(20), follower.store.follow(cursor)).await.expect("not heard of").unwrap();
        assert_eq!(followed, appended.cursor);
        let batch = follower.store.read_all(cursor, 10).await.unwrap();
        seen += batch.records.len();
        cursor = batch.upto;
        assert_eq!(cursor, appended.cursor);
    }
    assert_eq!(seen, 6);
    // One after the start, one after each time the connections were gone, for writer and follower.
    assert!(server.subscriptions() >= 6, "{} subscriptions", server.subscriptions());
    // Nobody is told of what is not there.
    let quiet = tokio::time::timeout(Duration::from_millis(1500), follower.store.follow(cursor)).await;
    assert!(quiet.is_err(), "{quiet:?}");
    follower.store.close().await;
    assert!(follower.store.follow(cursor).await.is_err());
}

pub(crate) async fn an_absent_server_is_told() {
    let (files, world) = World::new(Engine::Kurrent).await;
    let Some(server) = files.kurrent_server() else { return };
    let stream = fresh_stream();
    world.store.append(append(TENANT, &stream, 0, 1, "there")).await.unwrap();
    server.refuse(true);
    let started = Instant::now();
    let refused = world.store.append(append(TENANT, &stream, 1, 1, "away")).await.unwrap_err();
    assert!(matches!(refused, AppendError::Unavailable { .. }), "{refused:?}");
    assert!(world.store.read_stream(TENANT, &stream, 0, 10).await.is_err());
    assert!(world.store.head().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    server.refuse(false);
    // The same append again, whatever became of the first.
    assert_eq!(world.store.append(append(TENANT, &stream, 1, 1, "back")).await.unwrap().revision, 2);

    let nobody = KurrentServer::start().unwrap();
    let settings = KurrentSettings::parse(&nobody.url(), None, "freehold").unwrap();
    drop(nobody);
    let error = KurrentStore::open(settings, world.database.clone(), world.keyring.clone()).await.err().unwrap();
    assert!(error.to_string().contains("reading the head of the log failed"), "{error}");
}

pub(crate) async fn streams_show_ids_only() {
    let (files, world) = World::new(Engine::Kurrent).await;
    let Some(server) = files.kurrent_server() else { return };
    let stream = fresh_stream();
    let write = append(TENANT, &stream, 0, 2, "planted-note");
    world.store.append(write.clone()).await.unwrap();
    let events: Vec<_> = server.events().into_iter().filter(|event| !event.stream.starts_with('$')).collect();
    assert_eq!(events.len(), 2);
    for (event, record) in events.iter().zip(&write.records) {
        assert_eq!(event.stream, format!("{}-{TENANT}-{stream}", files.kurrent().unwrap().namespace));
        assert_eq!(event.id, record.envelope().id.bits());
        assert_eq!(event.metadata["type"], "freehold.record.v1");
        let metadata: serde_json::Value = serde_json::from_slice(&event.custom_metadata).unwrap();
        let mut names: Vec<_> = metadata.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["data_key", "revision", "stream", "tenant"]);
        assert_eq!(metadata["revision"], record.envelope().revision);
        assert!(memchr::memmem::find(&event.data, b"planted-note").is_none());
    }
    // What others keep on the same server is not ours, and not in the way.
    server.plant("orders-1", events[0].clone());
    assert_eq!(everything(&world).await.len(), 2);
    assert_eq!(world.store.head().await.unwrap().position(), events[1].position);
}
