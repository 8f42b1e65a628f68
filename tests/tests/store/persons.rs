//! What is personal in a record, and what is left of it when the person is erased.

use std::{sync::Arc, time::Duration};

use control_plane::{
    erasures::reactor::Erasing,
    eventing::{
        reactor::Reactor,
        store::{Append, Stored},
    },
    sealing::{SealingError, tombstones},
};
use freehold_tests::database::Engine;
use schema::{
    clock::{Clock, SystemIds, new_id},
    event::{Envelope, RECORD_VERSION, Record, StreamId},
    id::{EventId, MemberId},
};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::world::{OTHER, TENANT, World, fresh_stream};

const ADA: MemberId = MemberId::from_bits(0xADA);
const BOB: MemberId = MemberId::from_bits(0xB0B);

fn record(world: &World, stream: &StreamId, revision: u64, event_type: &str, data: Value) -> Record {
    let envelope = Envelope {
        v: RECORD_VERSION,
        id: new_id::<EventId>(&SystemIds, world.clock.now()),
        tenant: TENANT,
        stream: stream.clone(),
        revision,
        event_type: event_type.to_owned(),
        schema: 1,
        time: world.clock.now(),
        actor: "system:test".to_owned(),
        on_behalf_of: None,
        via: None,
        idempotency_key: None,
        request_mac: None,
        correlation: "req_00000000000000000000000001".to_owned(),
        causation: None,
        data,
    };
    Record::write(envelope).unwrap()
}

/// Appends a record about two people.
async fn write(world: &World, stream: &StreamId, revision: u64) {
    let mut data = json!({ "who": [{ "$personal": ADA, "value": { "name": "Ada" } }, { "$personal": BOB, "value": "Bob" }], "plain": 7 });
    world.keyring.seal_personal(TENANT, &mut data).await.unwrap();
    let text = data.to_string();
    assert!(!text.contains("Ada") && !text.contains("Bob") && text.contains("sealed"), "{text}");
    let records = vec![record(world, stream, revision, "SomethingHappened", data)];
    world.store.append(Append { tenant: TENANT, stream: stream.clone(), expected: revision - 1, records, blobs: vec![] }).await.unwrap();
}

async fn read(world: &World, stream: &StreamId) -> Vec<Stored> {
    world.store.read_stream(TENANT, stream, 0, 10).await.unwrap()
}

fn known() -> Value {
    json!({ "who": [{ "$personal": ADA, "value": { "name": "Ada" } }, { "$personal": BOB, "value": "Bob" }], "plain": 7 })
}

fn without_ada() -> Value {
    json!({ "who": [{ "$personal": ADA, "erased": true }, { "$personal": BOB, "value": "Bob" }], "plain": 7 })
}

pub(crate) async fn an_erased_person_is_gone_and_every_record_stays(engine: Engine) {
    let (files, world) = World::new(engine).await;
    let stream = fresh_stream();
    write(&world, &stream, 1).await;
    world.keyring.rotate_person_key(TENANT, ADA).await.unwrap();
    world.keyring.rotate_data_key(TENANT).await.unwrap();
    write(&world, &stream, 2).await;
    let before = read(&world, &stream).await;
    for stored in &before {
        assert_eq!(stored.record.envelope().data, known());
        assert!(memchr::memmem::find(stored.record.bytes(), b"Ada").is_none(), "the record itself holds no name");
    }
    // A replica that has everything open.
    let replica = World::open(&files).await;
    assert_eq!(read(&replica, &stream).await[1].record.envelope().data, known());
    let stop = CancellationToken::new();
    let watching = tokio::spawn(replica.keyring.clone().watch(stop.clone()));

    world.keyring.erase_person(TENANT, ADA).await.unwrap();
    let after = read(&world, &stream).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.record.envelope().data, without_ada());
        assert_eq!((before.record.bytes(), before.record.leaf_hash()), (after.record.bytes(), after.record.leaf_hash()));
    }
    let started = std::time::Instant::now();
    while read(&replica, &stream).await[0].record.envelope().data != without_ada() {
        assert!(started.elapsed() < Duration::from_secs(30), "the replica goes on reading what was erased");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    watching.await.unwrap();

    // Nothing new is kept of her, by anybody, and she gets no new keys; the same person in another tenant is somebody else.
    for keyring in [&world.keyring, &replica.keyring] {
        let mut data = known();
        keyring.seal_personal(TENANT, &mut data).await.unwrap();
        assert_eq!(data["who"][0], json!({ "$personal": ADA, "erased": true }));
        assert!(!keyring.knows_person(TENANT, ADA).await.unwrap() && keyring.knows_person(TENANT, BOB).await.unwrap());
        assert!(matches!(keyring.rotate_person_key(TENANT, ADA).await, Err(SealingError::PersonErased(_))));
    }
    let mut data = known();
    world.keyring.seal_personal(OTHER, &mut data).await.unwrap();
    world.keyring.open_personal(OTHER, &mut data).await.unwrap();
    assert_eq!(data, known());
    // What is sealed for one tenant does not open in another.
    let mut sealed = json!({ "$personal": BOB, "value": "Bob" });
    world.keyring.seal_personal(TENANT, &mut sealed).await.unwrap();
    assert!(world.keyring.open_personal(OTHER, &mut sealed).await.is_err());
    // A stranger, for whom no key was ever destroyed, is damage and not an erasure.
    let mut stranger = sealed;
    stranger["$personal"] = json!(MemberId::from_bits(77));
    let error = world.keyring.open_personal(TENANT, &mut stranger).await.unwrap_err();
    assert!(!error.is_erasure(), "{error}");
}

/// An older backup brings keys back; the list that was kept beside destroys them again.
pub(crate) async fn what_was_erased_is_erased_again_after_a_restore(engine: Engine) {
    let (files, world) = World::new(engine).await;
    let stream = fresh_stream();
    write(&world, &stream, 1).await;
    world.keyring.tenant(OTHER).await.unwrap();
    let list = files.folder.path().join("erased.jsonl");
    assert_eq!(tombstones::reconcile(&world.keyring, &list).await.unwrap(), 0);
    assert!(!list.exists());
    // What a backup holds: rows as they are now. Who makes and restores it owns the tables.
    let owner = async |sql: &str| match engine {
        Engine::Sqlite => drop(world.database.write().execute_unprepared(sql).await.unwrap()),
        _ => drop(files.psql(sql).unwrap()),
    };
    let row = "SELECT sealed FROM person_keys ORDER BY person, id";
    let rows = world.database.write().query_all_raw(world.database.sql(row, vec![])).await.unwrap();
    assert_eq!(rows.len(), 2);
    owner("CREATE TABLE kept_persons AS SELECT * FROM person_keys").await;
    owner("CREATE TABLE kept_tenants AS SELECT * FROM tenant_keys").await;
    world.keyring.erase_person(TENANT, ADA).await.unwrap();
    world.keyring.erase(OTHER).await.unwrap();
    tombstones::reconcile(&world.keyring, &list).await.unwrap();
    let told = std::fs::read_to_string(&list).unwrap();
    assert_eq!(told.lines().count(), 2);
    assert!(told.contains(&ADA.to_string()) && told.contains(&OTHER.to_string()) && !told.contains("Ada\""), "{told}");

    // The backup is restored.
    for sql in [
        "DELETE FROM tombstones",
        "DELETE FROM person_keys",
        "INSERT INTO person_keys SELECT * FROM kept_persons",
        "DELETE FROM tenant_keys",
        "INSERT INTO tenant_keys SELECT * FROM kept_tenants",
    ] {
        owner(sql).await;
    }
    let restored = World::open(&files).await;
    assert_eq!(read(&restored, &stream).await[0].record.envelope().data, known());
    assert_eq!(tombstones::reconcile(&restored.keyring, &list).await.unwrap(), 2);
    assert_eq!(read(&restored, &stream).await[0].record.envelope().data, without_ada());
    assert!(matches!(restored.keyring.tenant(OTHER).await, Err(SealingError::TenantErased(_))));
    assert_eq!(std::fs::read_to_string(&list).unwrap(), told, "the first time stands");
    assert_eq!(tombstones::reconcile(&restored.keyring, &list).await.unwrap(), 0);

    // A list that cannot be read is told, with its line, and nothing is done.
    std::fs::write(&list, format!("{told}nonsense\n")).unwrap();
    let error = tombstones::reconcile(&restored.keyring, &list).await.unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
}

/// The process that recorded an erasure ended before it destroyed the keys: whoever follows the log does.
pub(crate) async fn an_erasure_on_record_is_carried_out(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let stream = fresh_stream();
    write(&world, &stream, 1).await;
    world.keyring.tenant(OTHER).await.unwrap();
    let stored = |data: Value, event_type: &str| {
        let record = record(&world, &stream, 2, event_type, data);
        Stored { record, cursor: control_plane::eventing::store::Cursor::at(2) }
    };
    let erasing = Erasing::new(Arc::clone(&world.keyring));
    // A tenant's own record erases nobody else.
    erasing.react(&[stored(json!({ "tenant": OTHER }), "TenantErased")]).await.unwrap();
    assert!(!world.keyring.is_buried(OTHER, None).await.unwrap());
    for _ in 0..2 {
        erasing.react(&[stored(json!({ "person": ADA }), "PersonErased")]).await.unwrap();
    }
    assert_eq!(read(&world, &stream).await[0].record.envelope().data, without_ada());
}
