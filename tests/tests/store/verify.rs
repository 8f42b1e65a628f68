//! A store is walked through, every damage is named, and the read model is written anew beside those who use it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use control_plane::{
    config::Config,
    database::{Database, Location},
    eventing::{
        sql::SqlStore,
        store::{Append, EventStore},
        view::{Filter, Page, rebuild},
    },
    sealing::{Keyring, SealingKey},
    verify::{StoreReport, verify_store},
};
use freehold_tests::database::{Engine, TestDatabase};
use schema::{
    clock::{Clock, SystemClock, SystemIds, new_id},
    encoding::Digest,
    event::{Envelope, RECORD_VERSION, Record, StreamId},
    id::{EventId, ProjectId, TenantId},
};
use sea_orm::{ConnectionTrait, Value};
use tokio_util::sync::CancellationToken;

use super::{
    moving::Stopped,
    world::{TENANT, Thing, World, moved, named},
};

async fn verify(config: &Config) -> StoreReport {
    verify_store(config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap()
}

/// The settings of a copy of a deployment, in a folder of its own.
fn copied(config: &Config, folder: &Path) -> Config {
    for name in ["freehold.db", "sealing.key"] {
        std::fs::copy(config.data_dir.join(name), folder.join(name)).unwrap();
    }
    Config { data_dir: folder.to_owned(), ..config.clone() }
}

async fn open(config: &Config) -> Database {
    Database::open(&Location::Sqlite(config.data_dir.join("freehold.db"))).await.unwrap()
}

async fn run(database: &Database, sql: &str) {
    let done = database.write().execute_raw(database.sql(sql, vec![])).await.unwrap();
    assert!(done.rows_affected() > 0, "{sql}");
}

/// Flips a bit in the middle of what is sealed in the first row that a condition finds.
async fn flip(database: &Database, table: &str, condition: &str) {
    let row = database.write().query_one_raw(database.sql(format!("SELECT rowid, sealed FROM {table} WHERE {condition} LIMIT 1"), vec![]));
    let row = row.await.unwrap().unwrap();
    let (id, mut sealed): (i64, Vec<u8>) = (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap());
    let middle = sealed.len() / 2;
    sealed[middle] ^= 1;
    let values: Vec<Value> = vec![sealed.into(), id.into()];
    database.write().execute_raw(database.sql(format!("UPDATE {table} SET sealed = $1 WHERE rowid = $2"), values)).await.unwrap();
}

/// What is done to a store, and what is found then.
const DAMAGE: &[(&str, &[&str])] = &[
    (
        "DELETE FROM records WHERE position = (SELECT MIN(a.position) FROM records a JOIN records b ON b.tenant = a.tenant AND b.stream = a.stream \
         AND b.revision = 3 WHERE a.revision = 2)",
        &["record_missing", "revision_gap"],
    ),
    ("DELETE FROM records WHERE position = (SELECT MAX(position) FROM records)", &["record_missing"]),
    ("UPDATE records SET data_key = 'dek_00000000000000000000000001' WHERE position = 3", &["record_of_unknown_key"]),
    ("UPDATE records SET data_key = 'nothing' WHERE position = 3", &["record_damaged"]),
    ("UPDATE records SET sealed = (SELECT sealed FROM records WHERE position = 4) WHERE position = 3", &["record_does_not_open"]),
    ("UPDATE records SET event = 'evt_00000000000000000000000001' WHERE position = 3", &["record_elsewhere"]),
    ("UPDATE views SET state = 'gone' WHERE kind = 'key' AND valid_to IS NULL", &["read_model_row_differs"]),
    ("UPDATE views SET name = NULL WHERE kind = 'key' AND valid_to IS NULL", &["read_model_row_differs"]),
    ("UPDATE views SET valid_from = valid_from + 1 WHERE kind = 'site'", &["read_model_row_differs"]),
    ("UPDATE views SET valid_to = valid_from WHERE kind = 'site' AND valid_to IS NULL", &["read_model_row_differs"]),
    ("UPDATE views SET valid_to = valid_to + 1 WHERE kind = 'key' AND valid_to IS NOT NULL", &["read_model_row_differs"]),
    ("DELETE FROM views WHERE kind = 'project'", &["read_model_row_missing"]),
    (
        "INSERT INTO views SELECT tenant, kind, id, revision + 100, position, valid_from, valid_from, parent, name, state, data_key, sealed \
         FROM views WHERE kind = 'site' AND valid_to IS NULL",
        &["read_model_row_extra"],
    ),
    ("UPDATE views SET data_key = 'dek_00000000000000000000000001' WHERE kind = 'site'", &["read_model_row_does_not_open"]),
    (
        "DELETE FROM view_terms WHERE kind = 'key' AND term = (SELECT MIN(term) FROM view_terms WHERE kind = 'key')",
        &["read_model_row_differs"],
    ),
    ("INSERT INTO view_terms SELECT tenant, kind, x'00', id, revision FROM view_terms LIMIT 1", &["read_model_row_differs"]),
    (
        "INSERT INTO view_terms SELECT tenant, kind, term, id, revision + 100 FROM view_terms WHERE kind = 'key' LIMIT 1",
        &["read_model_row_extra"],
    ),
    ("DELETE FROM view_handles", &["read_model_row_missing"]),
    (
        "INSERT INTO view_handles SELECT 'planted', tenant, kind, 'tok_00000000000000000000000001' FROM view_handles LIMIT 1",
        &["read_model_row_extra"],
    ),
    ("UPDATE view_handles SET id = 'tok_00000000000000000000000001'", &["read_model_row_differs"]),
    ("DELETE FROM blobs", &["body_missing"]),
    ("UPDATE heartbeats SET serial = serial + 1", &["heartbeat_differs"]),
    ("UPDATE reactors SET position = 1000000 WHERE name = 'statements'", &["follower_beyond_the_log"]),
    ("UPDATE checkpoints SET position = 1000000 WHERE name = 'views'", &["follower_beyond_the_log"]),
    (
        "INSERT INTO agent_reports (tenant, agent, site, at, data_key, sealed) SELECT tenant, 'agt_00000000000000000000000001', \
         'site_00000000000000000000000001', 1, data_key, x'00' FROM views WHERE kind = 'site' LIMIT 1",
        &["row_does_not_open"],
    ),
];

pub(crate) async fn every_damage_is_named() {
    let stopped = Stopped::new().await;
    let sound = verify(&stopped.config).await;
    assert_eq!(sound.findings, []);
    assert!(sound.records > 20 && sound.streams > 5 && sound.tenants >= 2, "{sound:?}");
    assert!(sound.read_model_rows > 10 && sound.read_model_terms > 5 && sound.read_model_handles > 0, "{sound:?}");
    assert!(sound.statements >= 4 && sound.bodies >= sound.statements, "{sound:?}");
    assert_eq!((sound.head, sound.read_model), (sound.records, sound.records));
    assert_eq!(sound.not_looked_at, [] as [String; 0]);

    for (sql, expected) in DAMAGE {
        let folder = tempfile::tempdir().unwrap();
        let config = copied(&stopped.config, folder.path());
        let database = open(&config).await;
        run(&database, sql).await;
        database.close().await.unwrap();
        let report = verify(&config).await;
        let mut codes: Vec<_> = report.findings.iter().map(|finding| finding.code).collect();
        codes.dedup();
        assert!(expected.iter().all(|code| codes.contains(code)), "{sql}: {:?}", report.findings);
        assert!(report.findings.iter().all(|finding| !finding.advice.is_empty() && !finding.place.is_empty()));
    }
    for (table, condition, code) in [
        ("records", "position = 3", "record_does_not_open"),
        ("views", "kind = 'key'", "read_model_row_does_not_open"),
        ("secrets", "tenant <> 'ten_00000000000000000000000000'", "secret_does_not_open"),
        ("secrets", "tenant = 'ten_00000000000000000000000000'", "secret_does_not_open"),
        ("tenant_keys", "tenant <> 'ten_00000000000000000000000000'", "tenant_key_damaged"),
        ("blobs", "TRUE", "body_does_not_open"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = copied(&stopped.config, folder.path());
        let database = open(&config).await;
        flip(&database, table, condition).await;
        database.close().await.unwrap();
        let report = verify(&config).await;
        assert!(report.findings.iter().any(|finding| finding.code == code), "{table}: {:?}", report.findings);
    }
    one_idempotency_key_for_two_requests(&stopped.config).await;
}

/// Nothing but a fault of the program writes such records: they are sealed.
async fn one_idempotency_key_for_two_requests(config: &Config) {
    let folder = tempfile::tempdir().unwrap();
    let config = copied(config, folder.path());
    let database = open(&config).await;
    let row = database.read().query_one_raw(database.sql("SELECT tenant FROM views WHERE kind = 'site'", vec![])).await.unwrap().unwrap();
    let tenant: TenantId = row.try_get_by_index::<String>(0).unwrap().parse().unwrap();
    let key = SealingKey::read(&config.sealing_key_file()).unwrap();
    let keyring = Keyring::open(database.clone(), &key, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    let store = SqlStore::open(database.clone(), Arc::new(keyring)).await.unwrap();
    let stream = StreamId::of(EventId::from_bits(7));
    let record = |revision: u64, mac: Option<Digest>| {
        let time = SystemClock.now();
        Record::write(Envelope {
            v: RECORD_VERSION,
            id: new_id::<EventId>(&SystemIds, time),
            tenant,
            stream: stream.clone(),
            revision,
            event_type: "Tried".to_owned(),
            schema: 1,
            time,
            actor: "system:test".to_owned(),
            on_behalf_of: None,
            via: None,
            idempotency_key: Some("k".to_owned()),
            request_mac: mac,
            correlation: "req_00000000000000000000000001".to_owned(),
            causation: None,
            data: serde_json::json!({}),
        })
        .unwrap()
    };
    let records =
        vec![record(1, Some(Digest([1; 32]))), record(2, Some(Digest([1; 32]))), record(3, Some(Digest([2; 32]))), record(4, None)];
    store.append(Append { tenant, stream: stream.clone(), expected: 0, records, blobs: vec![] }).await.unwrap();
    store.close().await;
    database.close().await.unwrap();
    let report = verify(&config).await;
    let codes: Vec<_> = report.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["idempotency_key_twice", "idempotency_without_request", "idempotency_key_twice"], "{:?}", report.findings);
}

fn id(n: u128) -> ProjectId {
    ProjectId::from_bits(n)
}

pub(crate) async fn a_planted_difference_is_shown_and_nothing_is_changed(engine: Engine) {
    let (files, world) = World::new(engine).await;
    let owning = as_owner(&files, engine).await;
    for n in 0..10 {
        world.happen(TENANT, id(n), 0, &[named(&format!("thing-{n}"), "x"), moved("a", "b"), moved("c", "d")]).await;
    }
    let owner = owning.as_ref().unwrap_or(&world);
    let (views, mut projector) = owner.views();
    projector.catch_up().await.unwrap();
    let rebuilt = rebuild(&mut projector, false).await.unwrap();
    assert_eq!((rebuilt.rows, rebuilt.differences, rebuilt.switched), (30, 0, true));

    // Rows sealed under a former data key are the same rows.
    owner.keyring.rotate_data_key(TENANT).await.unwrap();
    let rebuilt = rebuild(&mut projector, false).await.unwrap();
    assert_eq!((rebuilt.rows, rebuilt.differences, rebuilt.switched), (30, 0, true));

    let third = id(3).to_string();
    for (sql, table, how) in [
        (format!("UPDATE views SET state = 'planted' WHERE id = '{third}' AND revision = 2"), "views", "other"),
        (format!("DELETE FROM views WHERE id = '{third}' AND revision = 1"), "views", "missing"),
        (
            format!(
                "INSERT INTO views SELECT tenant, kind, id, 9, 9999999, valid_from, valid_from, parent, name, state, data_key, sealed FROM views WHERE id = '{third}' AND revision = 3"
            ),
            "views",
            "extra",
        ),
        (format!("DELETE FROM view_terms WHERE id = '{third}' AND revision = 3"), "view_terms", "missing"),
        (
            format!("INSERT INTO view_terms SELECT tenant, kind, term, id, 77 FROM view_terms WHERE id = '{third}' AND revision = 3"),
            "view_terms",
            "extra",
        ),
        (
            format!("INSERT INTO view_handles SELECT 'planted', tenant, kind, id FROM views WHERE id = '{third}' AND revision = 3"),
            "view_handles",
            "extra",
        ),
    ] {
        run(&owner.database, &sql).await;
        let refused = rebuild(&mut projector, false).await.unwrap();
        assert!(!refused.switched && refused.differences > 0, "{sql}: {refused:?}");
        assert!(refused.told.iter().any(|told| told.table == table && told.how == how && told.row.contains(&third)), "{sql}: {refused:?}");
        let again = rebuild(&mut projector, false).await.unwrap();
        assert_eq!((again.rows, again.told), (refused.rows, refused.told), "what was refused changed nothing");
        let accepted = rebuild(&mut projector, true).await.unwrap();
        assert!(accepted.switched && accepted.differences == refused.differences);
        assert_eq!(rebuild(&mut projector, false).await.unwrap().differences, 0, "{sql}");
    }
    // Whoever projects goes on from the rows that are there now.
    world.happen(TENANT, id(3), 3, &[moved("e", "f")]).await;
    projector.catch_up().await.unwrap();
    assert_eq!(views.by_id::<Thing>(TENANT, id(3), None).await.unwrap().unwrap().state.state, "e");
    assert_eq!(rebuild(&mut projector, false).await.unwrap().differences, 0);
}

/// Where those who serve are roles, the read model is written anew as who owns it.
pub(crate) async fn as_owner(files: &TestDatabase, engine: Engine) -> Option<World> {
    if engine == Engine::PostgresRoles { Some(World::at(&files.location, None).await) } else { None }
}

pub(crate) async fn rebuilt_under_live_writes(engine: Engine) {
    let (files, world) = World::new(engine).await;
    let owner = |sql: &str| files.psql(sql).unwrap();
    for n in 0..200 {
        world.happen(TENANT, id(n), 0, &[named(&format!("thing-{n}"), "x"), moved("a", "b")]).await;
    }
    // What belongs to the tables is still there afterwards.
    let reads = format!("{}_reads", files.name());
    owner(&format!(
        "CREATE ROLE {reads}; GRANT SELECT ON views TO {reads}; ALTER TABLE views ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON views \
         FOR SELECT TO {reads} USING (tenant = current_setting('app.tenant', true))"
    ));
    let describe = "SELECT indexname FROM pg_indexes WHERE tablename IN ('views', 'view_terms', 'view_handles') UNION ALL \
                    SELECT tablename || policyname || cmd || qual || COALESCE(with_check, '') FROM pg_policies UNION ALL \
                    SELECT relname || relowner::text || relrowsecurity::text FROM pg_class WHERE relname IN ('views', 'view_terms', 'view_handles') UNION ALL SELECT grantee || privilege_type FROM information_schema.role_table_grants \
                    WHERE table_name IN ('views', 'view_terms', 'view_handles') ORDER BY 1";
    let before = owner(describe);

    let (serving, stop) = (World::open(&files).await, CancellationToken::new());
    let (views, projector) = serving.views();
    let projecting = tokio::spawn(projector.run(stop.clone()));
    views.wait_for(world.store.head().await.unwrap(), std::time::Duration::from_secs(30)).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (ended, writer) = (done.clone(), World::open(&files).await);
    let writing = tokio::spawn(async move {
        let mut revision = 2;
        while !ended.load(Ordering::Relaxed) {
            for n in 0..20 {
                writer.happen(TENANT, id(n), revision, &[moved("a", &format!("l{revision}"))]).await;
            }
            writer.happen(TENANT, id(10_000 + u128::from(revision)), 0, &[named(&format!("late-{revision}"), "x"), moved("a", "b")]).await;
            revision += 1;
        }
        revision
    });
    let (ended, reader) = (done.clone(), serving.views().0);
    let reading = tokio::spawn(async move {
        let (mut least, mut looks) = (200, 0_u64);
        let label = Filter { parent: Some("x".to_owned()), terms: vec![("twice".to_owned(), "1".to_owned())], ..Filter::default() };
        while !ended.load(Ordering::Relaxed) {
            let slice = reader.page::<Thing>(TENANT, &label, &Page::First { count: 10_000, after: None }).await.unwrap();
            assert!(slice.items.len() >= least, "{} of {least}", slice.items.len());
            least = slice.items.len();
            looks += 1;
        }
        looks
    });
    let rebuilding = World::at(&files.location, None).await;
    let (_, mut projector) = rebuilding.views();
    for _ in 0..3 {
        let rebuilt = rebuild(&mut projector, false).await.unwrap();
        assert!(rebuilt.switched && rebuilt.differences == 0, "{rebuilt:?}");
    }
    done.store(true, Ordering::Relaxed);
    let (written, looks) = (writing.await.unwrap(), reading.await.unwrap());
    assert!(written > 3 && looks > 3, "{written} {looks}");
    let head = world.store.head().await.unwrap();
    assert!(views.wait_for(head, std::time::Duration::from_secs(30)).await.unwrap());
    assert_eq!(rebuild(&mut projector, false).await.unwrap().differences, 0);
    assert_eq!(owner(describe), before);
    stop.cancel();
    projecting.await.unwrap();
}
