//! Appending, reading, following.

use std::{collections::HashSet, sync::Arc, time::Duration};

use control_plane::{
    database::{Database, Location, OpenError},
    eventing::store::{Append, AppendError, Cursor, Stored},
};
use freehold_tests::{
    database::{Engine, TestDatabase},
    kurrent::Fault,
};
use futures::future::join_all;
use schema::{
    clock::{Ids, ManualIds, random},
    encoding::Digest,
    event::StreamId,
    id::EventId,
};
use sea_orm::ConnectionTrait as _;

use super::world::{OTHER, TENANT, World, append, fresh_stream};

pub(crate) async fn records_come_back_in_their_exact_bytes(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let stream = fresh_stream();
    assert_eq!(world.store.head().await.unwrap(), Cursor::START);
    let (one, two) = (append(TENANT, &stream, 0, 2, "ä\u{2028}\"x\""), append(TENANT, &stream, 2, 1, "later"));
    let first = world.store.append(one.clone()).await.unwrap();
    let second = world.store.append(two.clone()).await.unwrap();
    assert_eq!((first.revision, second.revision), (2, 3));
    assert!(first.cursor < second.cursor);
    assert_eq!(world.store.head().await.unwrap(), second.cursor);

    let read = world.store.read_stream(TENANT, &stream, 0, 100).await.unwrap();
    let bytes: Vec<_> = read.iter().map(|stored| stored.record.bytes().to_vec()).collect();
    let written: Vec<_> = one.records.iter().chain(&two.records).map(|record| record.bytes().to_vec()).collect();
    assert_eq!(bytes, written);
    assert_eq!(world.store.read_stream(TENANT, &stream, 2, 100).await.unwrap().len(), 1);
    assert_eq!(world.store.read_stream(TENANT, &stream, 0, 2).await.unwrap().len(), 2);
    let all = world.store.read_all(Cursor::START, 100).await.unwrap();
    assert_eq!(all.records.len(), 3);
    assert_eq!(all.upto, second.cursor);
    assert!(world.store.read_all(second.cursor, 100).await.unwrap().records.is_empty());
}

pub(crate) async fn of_many_writers_to_one_revision_one_wins(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let stream = fresh_stream();
    for expected in 0..5 {
        let outcomes = join_all((0..32).map(|n| world.store.append(append(TENANT, &stream, expected, 1, &n.to_string())))).await;
        let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(won, 1);
        for outcome in outcomes {
            match outcome {
                Ok(appended) => assert_eq!(appended.revision, expected + 1),
                Err(AppendError::WrongRevision { expected: e, actual, stream: s }) => {
                    assert_eq!((e, actual, &s), (expected, expected + 1, &stream))
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(world.store.read_stream(TENANT, &stream, 0, 100).await.unwrap().len(), 5);
}

pub(crate) async fn losers_do_not_hurt_their_batch(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let contested = fresh_stream();
    world.store.append(append(TENANT, &contested, 0, 3, "first")).await.unwrap();
    let own: Vec<StreamId> = (0..64).map(|_| fresh_stream()).collect();
    let losers = (0..64).map(|n| world.store.append(append(TENANT, &contested, n % 3, 2, "too late")));
    let winners = own.iter().enumerate().map(|(n, stream)| world.store.append(append(TENANT, stream, 0, 1 + n % 4, "fine")));
    let (lost, won) = futures::join!(join_all(losers), join_all(winners));
    assert!(lost.iter().all(|outcome| matches!(outcome, Err(AppendError::WrongRevision { actual: 3, .. }))), "{lost:?}");
    assert!(won.iter().all(Result::is_ok), "{won:?}");
    assert_dense(&everything(&world).await, 3 + (0..64).map(|n| 1 + n % 4).sum::<usize>());
}

pub(crate) async fn the_same_append_twice_is_one(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let stream = fresh_stream();
    let write = append(TENANT, &stream, 0, 3, "once");
    let first = world.store.append(write.clone()).await.unwrap();
    world.store.append(append(TENANT, &stream, 3, 1, "more")).await.unwrap();
    assert_eq!(world.store.append(write.clone()).await.unwrap(), first);
    let (a, b) = tokio::join!(world.store.append(write.clone()), world.store.append(write));
    assert_eq!((a.unwrap(), b.unwrap()), (first, first));
    assert_dense(&everything(&world).await, 4);
}

/// Where the head is known a batch is written without asking first. One that the database refuses is not kept, which its writer
/// is told for certain, and nothing is left of it.
pub(crate) async fn what_the_database_refuses_is_certainly_not_kept(engine: Engine) {
    let (files, world) = World::new(engine).await;
    let stream = fresh_stream();
    for revision in 0..2 {
        world.store.append(append(TENANT, &stream, revision, 1, "fine")).await.unwrap();
    }
    let late = append(TENANT, &stream, 2, 3, "late");
    let refused = async |times: usize| {
        for _ in 0..times {
            let refused = world.store.append(late.clone()).await.unwrap_err();
            assert!(matches!(refused, AppendError::Unavailable { unknown: false, .. }), "{refused:?}");
        }
    };
    let (refusing, refusing_no_more) = match engine {
        Engine::Sqlite => {
            ("CREATE TRIGGER refusing BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'not now'); END", "DROP TRIGGER refusing")
        }
        Engine::Postgres | Engine::PostgresRoles => (
            "CREATE FUNCTION not_now() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$; \
             CREATE TRIGGER refusing BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION not_now()",
            "DROP TRIGGER refusing ON records",
        ),
        Engine::Kurrent => {
            // Only a server of our own does what it is told.
            if let Some(server) = files.kurrent_server() {
                server.inject([Fault::Refused; 2]);
                refused(2).await;
                assert_eq!(server.faults_left(), 0);
            }
            ("SELECT 1", "SELECT 1")
        }
    };
    let change = async |sql: &str| match engine {
        Engine::Sqlite => drop(world.database.write().execute_unprepared(sql).await.unwrap()),
        _ => drop(files.psql(sql).unwrap()),
    };
    change(refusing).await;
    if engine != Engine::Kurrent {
        refused(2).await;
    }
    change(refusing_no_more).await;
    assert_eq!(world.store.append(late).await.unwrap().revision, 5);
    assert_dense(&everything(&world).await, 5);
}

pub(crate) async fn malformed_appends_are_refused(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let stream = fresh_stream();
    let good = append(TENANT, &stream, 0, 2, "x");
    let cases = [
        Append { records: vec![], ..good.clone() },
        Append { tenant: OTHER, ..good.clone() },
        Append { stream: fresh_stream(), ..good.clone() },
        Append { expected: 1, ..good.clone() },
        Append { records: good.records.iter().rev().cloned().collect(), ..good.clone() },
    ];
    for case in cases {
        assert!(matches!(world.store.append(case).await, Err(AppendError::Malformed { .. })));
    }
    assert_eq!(world.store.head().await.unwrap(), Cursor::START);
}

pub(crate) async fn a_follower_never_misses_or_repeats(engine: Engine) {
    const WRITERS: usize = 16;
    const APPENDS: usize = 40;
    let (_files, world) = World::new(engine).await;
    let world = Arc::new(world);
    let follower = tokio::spawn(follow(Arc::clone(&world), WRITERS * APPENDS));
    let writers = (0..WRITERS).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let stream = fresh_stream();
            let mut cursors = Vec::new();
            for revision in 0..APPENDS as u64 {
                cursors.push(world.store.append(append(TENANT, &stream, revision, 1, "x")).await.unwrap().cursor);
            }
            cursors
        })
    });
    let mut acknowledged: Vec<Cursor> = join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    acknowledged.sort_unstable();
    let seen = tokio::time::timeout(Duration::from_secs(60), follower).await.unwrap().unwrap();
    assert_eq!(seen.iter().map(|stored| stored.cursor).collect::<Vec<_>>(), acknowledged);
    assert_dense(&seen, WRITERS * APPENDS);
}

/// Two control planes write to one log, a third follows.
pub(crate) async fn replicas_share_one_log(engine: Engine) {
    const WRITERS: usize = 12;
    const APPENDS: usize = 20;
    let (files, first) = World::new(engine).await;
    let replicas = [Arc::new(first), Arc::new(World::open(&files).await)];
    let follower = tokio::spawn(follow(Arc::new(World::open(&files).await), WRITERS * APPENDS + APPENDS));
    let contested = fresh_stream();
    let own = (0..WRITERS).map(|n| {
        let world = Arc::clone(&replicas[n % 2]);
        tokio::spawn(async move {
            let stream = fresh_stream();
            for revision in 0..APPENDS as u64 {
                world.store.append(append(TENANT, &stream, revision, 1, "x")).await.unwrap();
            }
        })
    });
    // Both also fight over one stream, each asking for the revision it must have next.
    let fight = replicas.iter().map(|world| {
        let (world, stream) = (Arc::clone(world), contested.clone());
        tokio::spawn(async move {
            let (mut revision, mut won) = (0, 0);
            while revision < APPENDS as u64 {
                match world.store.append(append(TENANT, &stream, revision, 1, "mine")).await {
                    Ok(appended) => {
                        won += 1;
                        revision = appended.revision;
                    }
                    Err(AppendError::WrongRevision { actual, .. }) => revision = actual,
                    Err(error) => panic!("{error}"),
                }
            }
            won
        })
    });
    let (own, fight) = futures::join!(join_all(own), join_all(fight));
    own.into_iter().for_each(Result::unwrap);
    assert_eq!(fight.into_iter().map(Result::unwrap).sum::<usize>(), APPENDS);
    let seen = tokio::time::timeout(Duration::from_secs(60), follower).await.unwrap().unwrap();
    assert_dense(&seen, WRITERS * APPENDS + APPENDS);
}

/// Against a model: streams as lists.
pub(crate) async fn random_histories_read_back(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let streams: Vec<StreamId> = (0..6).map(|_| fresh_stream()).collect();
    let mut model: Vec<Vec<EventId>> = vec![Vec::new(); streams.len()];
    let ids = ManualIds::seeded(42);
    let dice = |sides: u8| usize::from(random::<1>(&ids as &dyn Ids)[0] % sides);
    for _ in 0..60 {
        // A handful at once, some of them wrong, some on the same stream: whichever is judged first wins.
        let writes: Vec<_> = (0..dice(8) + 1)
            .map(|_| {
                let at = dice(6);
                let expected = if dice(4) == 0 { dice(5) as u64 } else { model[at].len() as u64 };
                (at, append(TENANT, &streams[at], expected, dice(3) + 1, "x"))
            })
            .collect();
        let outcomes = join_all(writes.iter().map(|(_, write)| world.store.append(write.clone()))).await;
        let mut won: Vec<_> =
            writes.iter().zip(outcomes).filter_map(|((at, write), outcome)| outcome.ok().map(|done| (done.cursor, *at, write))).collect();
        won.sort_by_key(|(cursor, ..)| *cursor);
        for (_, at, write) in won {
            assert_eq!(write.expected, model[at].len() as u64);
            model[at].extend(write.records.iter().map(|record| record.envelope().id));
        }
    }
    for (stream, events) in streams.iter().zip(&model) {
        let read = world.store.read_stream(TENANT, stream, 0, 10_000).await.unwrap();
        assert_eq!(&read.iter().map(|stored| stored.record.envelope().id).collect::<Vec<_>>(), events);
    }
    assert_dense(&everything(&world).await, model.iter().map(Vec::len).sum());
}

pub(crate) async fn blobs_come_back(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let body = vec![7; 300_000];
    let name = world.store.put_blob(TENANT, &body).await.unwrap();
    assert_eq!(name, Digest::of(&body));
    assert_eq!(world.store.put_blob(TENANT, &body).await.unwrap(), name);
    assert_eq!(world.store.blob(TENANT, name).await.unwrap(), Some(body));
    assert_eq!(world.store.blob(OTHER, name).await.unwrap(), None);
    let write = Append { blobs: vec![b"with a record".to_vec()], ..append(TENANT, &fresh_stream(), 0, 1, "x") };
    world.store.append(write).await.unwrap();
    assert!(world.store.blob(TENANT, Digest::of(b"with a record")).await.unwrap().is_some());
}

pub(crate) async fn a_closed_store_says_so(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let stream = fresh_stream();
    let writes = (0..20).map(|_| fresh_stream()).map(|stream| {
        let store = Arc::clone(&world.store);
        tokio::spawn(async move { store.append(append(TENANT, &stream, 0, 1, "x")).await })
    });
    let writes: Vec<_> = writes.collect();
    tokio::task::yield_now().await;
    world.store.close().await;
    let kept = join_all(writes).await.into_iter().filter(|outcome| outcome.as_ref().unwrap().is_ok()).count();
    assert_dense(&everything(&world).await, kept);
    let late = world.store.append(append(TENANT, &stream, 0, 1, "x")).await;
    assert!(matches!(late, Err(AppendError::Unavailable { unknown: false, .. })), "{late:?}");
}

pub(crate) async fn a_second_start_is_refused() {
    let (files, world) = World::new(Engine::Sqlite).await;
    let error = Database::open(&files.location).await.unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(error.to_string().contains("another control plane is running on") && error.to_string().contains("stop it first"), "{error}");
    world.close().await;
    World::open(&files).await;
}

pub(crate) async fn an_unreachable_database_is_named() {
    let location = Location::Postgres("postgres://freehold:hunter2@127.0.0.1:1/freehold".to_owned());
    let error = Database::open(&location).await.unwrap_err();
    let told = format!("{error} {error:?}");
    assert!(told.contains("cannot be used (postgres at 127.0.0.1:1") && !told.contains("hunter2"), "{told}");

    let files = TestDatabase::new(Engine::Sqlite).unwrap();
    let Location::Sqlite(path) = &files.location else { unreachable!() };
    std::fs::write(path, vec![b'x'; 8192]).unwrap();
    let error = Database::open(&files.location).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}

async fn follow(world: Arc<World>, count: usize) -> Vec<Stored> {
    let (mut seen, mut cursor) = (Vec::new(), Cursor::START);
    while seen.len() < count {
        let head = world.store.follow(cursor).await.unwrap();
        assert!(head > cursor);
        let batch = world.store.read_all(cursor, 7).await.unwrap();
        assert!(!batch.records.is_empty(), "the follower was woken for nothing");
        cursor = batch.upto;
        seen.extend(batch.records);
    }
    seen
}

pub(crate) async fn everything(world: &World) -> Vec<Stored> {
    let records = world.store.read_all(Cursor::START, 1_000_000).await.unwrap().records;
    if world.engine != Engine::Kurrent {
        assert!((1..).map(Cursor::at).zip(&records).all(|(cursor, stored)| stored.cursor == cursor), "SQL leaves gaps");
    }
    records
}

/// Positions that grow, revisions without gap or repetition in every stream, no event twice.
pub(crate) fn assert_dense(records: &[Stored], count: usize) {
    assert_eq!(records.len(), count);
    let mut revisions = std::collections::HashMap::new();
    let mut events = HashSet::new();
    let mut before = Cursor::START;
    for stored in records {
        assert!(stored.cursor > before);
        before = stored.cursor;
        let envelope = stored.record.envelope();
        let revision: &mut u64 = revisions.entry((envelope.tenant, envelope.stream.clone())).or_default();
        *revision += 1;
        assert_eq!(envelope.revision, *revision);
        assert!(events.insert(envelope.id));
    }
}

/// Indexes without gaps, in the order of the log, for each tenant alone; never behind what was acknowledged.
pub(crate) async fn a_tenant_has_a_ledger_of_its_own(engine: Engine) {
    let (files, world) = World::new(engine).await;
    assert_eq!(world.store.tenant_length(TENANT).await.unwrap(), 0);
    assert!(world.store.read_tenant(TENANT, 0, 10).await.unwrap().is_empty());
    let streams = [fresh_stream(), fresh_stream()];
    for round in 0..6u64 {
        for (tenant, stream) in [(TENANT, &streams[0]), (OTHER, &streams[1])] {
            let count = 1 + usize::try_from(round % 2).unwrap();
            let expected = round + round / 2;
            world.store.append(append(tenant, stream, expected, count, "x")).await.unwrap();
            let length = world.store.tenant_length(tenant).await.unwrap();
            assert_eq!(length, expected + count as u64);
        }
    }
    let all = everything(&world).await;
    // Another replica, or the next process, agrees.
    if engine == Engine::Sqlite {
        world.close().await;
    }
    let world = World::open(&files).await;
    for tenant in [TENANT, OTHER] {
        let mine: Vec<_> = all.iter().filter(|stored| stored.record.envelope().tenant == tenant).collect();
        assert_eq!(mine.len(), 9);
        for (from, limit) in [(0, 100), (0, 4), (3, 3), (8, 5), (9, 5)] {
            let read = world.store.read_tenant(tenant, from, limit).await.unwrap();
            let ids = read.iter().map(|stored| (stored.record.envelope().id, stored.cursor)).collect::<Vec<_>>();
            let expected = mine.iter().skip(usize::try_from(from).unwrap()).take(limit);
            assert_eq!(ids, expected.map(|stored| (stored.record.envelope().id, stored.cursor)).collect::<Vec<_>>());
        }
        for (index, stored) in (0u64..).zip(&mine) {
            let (at, found) = world.store.tenant_record(tenant, stored.record.envelope().id).await.unwrap().unwrap();
            assert_eq!((at, found.record.bytes()), (index, stored.record.bytes()));
            let foreign = if tenant == TENANT { OTHER } else { TENANT };
            assert!(world.store.tenant_record(foreign, stored.record.envelope().id).await.unwrap().is_none());
        }
    }
}

/// Of a long ledger the last records are found from a mark near them: what is before that mark is not looked at, whether the last are
/// read, counted, or asked for by the event.
pub(crate) async fn the_end_of_a_long_ledger_is_found_without_its_beginning(engine: Engine) {
    const COUNT: u64 = 2_650;
    let (files, world) = World::new(engine).await;
    let streams = [fresh_stream(), fresh_stream()];
    for expected in (0..COUNT).step_by(50) {
        world.store.append(append(TENANT, &streams[0], expected, 50, "x")).await.unwrap();
        world.store.append(append(OTHER, &streams[1], expected / 50, 1, "x")).await.unwrap();
    }
    let all = everything(&world).await;
    let mine: Vec<_> = all.iter().filter(|stored| stored.record.envelope().tenant == TENANT).collect();
    let agrees = async |from: u64, limit: usize| {
        let read = world.store.read_tenant(TENANT, from, limit).await.unwrap();
        let ids = read.iter().map(|stored| stored.record.envelope().id).collect::<Vec<_>>();
        let expected = mine.iter().skip(usize::try_from(from).unwrap()).take(limit).map(|stored| stored.record.envelope().id);
        assert_eq!(ids, expected.collect::<Vec<_>>(), "{limit} from {from}");
    };
    for (from, limit) in [(2_640, 20), (0, 3), (499, 2), (500, 1), (501, 700), (2_500, 1), (2_649, 1), (2_650, 5), (9_000, 5)] {
        agrees(from, limit).await;
    }
    assert_eq!(world.store.tenant_length(TENANT).await.unwrap(), COUNT);
    assert_eq!(world.store.tenant_length(OTHER).await.unwrap(), COUNT / 50);

    // What is far behind the last mark is not there any more, and nobody misses it who asks for the end.
    let gone = format!("DELETE FROM records WHERE tenant = '{TENANT}' AND position < {}", mine[2_500].cursor.position());
    match engine {
        Engine::Sqlite => drop(world.database.write().execute_unprepared(&gone).await.unwrap()),
        Engine::Postgres | Engine::PostgresRoles => drop(files.psql(&gone).unwrap()),
        Engine::Kurrent => return,
    }
    assert_eq!(world.store.tenant_length(TENANT).await.unwrap(), COUNT);
    agrees(2_600, 100).await;
    let (index, _) = world.store.tenant_record(TENANT, mine[2_649].record.envelope().id).await.unwrap().unwrap();
    assert_eq!(index, 2_649);
    // Nobody else's records count.
    assert_eq!(world.store.tenant_length(OTHER).await.unwrap(), COUNT / 50);
}
