//! What is on the disk, and who can read it.

use std::{fs, path::Path, sync::Arc};

use control_plane::{
    eventing::{
        kurrent::SealedLog,
        store::{Append, Cursor, ReadError},
    },
    sealing::{
        Keyring, SealingError, SealingKey, Secret, Secrets,
        tombstones::{OF_A_TENANT, READ_MODEL},
    },
};
use freehold_tests::database::Engine;
use schema::{
    clock::{ManualClock, SystemIds, Timestamp},
    encoding::base64url,
    id::ProjectId,
};
use sea_orm::ConnectionTrait;

use super::world::{OTHER, TENANT, Thing, World, append, fresh_stream, named, sealing_key};

pub(crate) async fn a_wrong_sealing_key_is_refused_by_fingerprint(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let wrong = SealingKey::from_bytes([1; 32]);
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(0)));
    let error = Keyring::open(world.database.clone(), &wrong, clock, Arc::new(SystemIds)).await.unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, SealingError::WrongSealingKey { .. }), "{told}");
    assert!(told.contains(&sealing_key().fingerprint().to_string()) && told.contains(&wrong.fingerprint().to_string()), "{told}");
}

pub(crate) async fn a_stolen_database_tells_no_names(engine: Engine) {
    const NAME: &str = "planted-name-7f3a9c";
    const PLACE: &str = "planted-place-b21e44";
    const BODY: &str = "planted-body-e58d01 of a policy";
    const SECRET: &str = "planted-secret-0c9977";
    let (files, world) = World::new(engine).await;
    let id = ProjectId::from_bits(77);
    world.happen(TENANT, id, 0, &[named(NAME, PLACE)]).await;
    world.store.put_blob(TENANT, BODY.as_bytes()).await.unwrap();
    let secrets = Secrets::new(world.database.clone(), Arc::clone(&world.keyring), Arc::new(world.clock.clone()));
    secrets.put_secret(TENANT, "planted-secret-name-55aa", &Secret::new(SECRET.as_bytes().to_vec())).await.unwrap();
    let (views, mut projector) = world.views();
    projector.catch_up().await.unwrap();
    assert_eq!(views.by_name::<Thing>(TENANT, Some(PLACE), NAME, None).await.unwrap().unwrap().state.name, NAME);
    match files.server() {
        Some(server) => drop(server.psql("postgres", "CHECKPOINT").unwrap()),
        None => drop(world.database.write().query_all_raw(world.database.sql("PRAGMA wal_checkpoint(FULL)", vec![])).await.unwrap()),
    }
    let found = |folder: &Path, what: &[u8]| {
        let events = files.kurrent_server().map(|server| server.events()).unwrap_or_default();
        let holds = |bytes: &[u8]| memchr::memmem::find(bytes, what).is_some();
        let mut texts = events.iter().flat_map(|event| [event.stream.as_bytes(), &event.custom_metadata, &event.data]);
        found(folder, what) || texts.any(holds)
    };
    // Something that is there in clear shows that the search finds things.
    assert!(found(files.files(), TENANT.to_string().as_bytes()), "the search does not work");
    for planted in [NAME, PLACE, BODY, SECRET, "planted-secret-name-55aa", "planted-"] {
        assert!(!found(files.files(), planted.as_bytes()), "{planted} stands in clear");
        assert!(!found(files.files(), base64url(planted.as_bytes()).trim_end_matches('A').as_bytes()), "{planted} stands in base64url");
    }
    let key = base64url(&[0x5E; 32]);
    assert!(!found(files.files(), key.as_bytes()) && !found(files.files(), &[0x5E; 32]), "the sealing key is in the database");
}

fn found(folder: &Path, what: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            return found(&entry.path(), what);
        }
        // Files of a running server come and go.
        kind.is_file() && fs::read(entry.path()).is_ok_and(|bytes| memchr::memmem::find(&bytes, what).is_some())
    })
}

pub(crate) async fn tenants_share_nothing(engine: Engine) {
    let (files, world) = World::new(engine).await;
    let id = ProjectId::from_bits(5);
    world.happen(TENANT, id, 0, &[named("mine", "here")]).await;
    world.happen(OTHER, id, 0, &[named("theirs", "here")]).await;
    let (views, mut projector) = world.views();
    projector.catch_up().await.unwrap();
    assert_eq!(views.by_id::<Thing>(TENANT, id, None).await.unwrap().unwrap().state.name, "mine");
    assert_eq!(views.by_id::<Thing>(OTHER, id, None).await.unwrap().unwrap().state.name, "theirs");
    assert!(views.by_name::<Thing>(TENANT, Some("here"), "theirs", None).await.unwrap().is_none());
    // A record moved to another tenant does not open there.
    let elsewhere = fresh_stream();
    if engine == Engine::Kurrent {
        let (place, server) = (files.kurrent().unwrap(), files.kurrent_server());
        // Only a server of our own lets us do that.
        let Some(server) = server else { return };
        let theirs = server.events().into_iter().find(|event| event.stream.contains(&OTHER.to_string())).unwrap();
        server.plant(&format!("{}-{TENANT}-{elsewhere}", place.namespace), theirs);
    } else {
        let sql = format!("UPDATE records SET tenant = '{TENANT}', stream = '{elsewhere}' WHERE tenant = '{OTHER}'");
        match engine {
            Engine::Sqlite => drop(world.database.write().execute_unprepared(&sql).await.unwrap()),
            _ => drop(files.psql(&sql).unwrap()),
        }
    }
    let error = world.store.read_stream(TENANT, &elsewhere, 0, 10).await.unwrap_err();
    assert!(matches!(error, ReadError::Sealing { .. }), "{error:?}");
}

pub(crate) async fn a_rotated_data_key_opens_old_and_new(engine: Engine) {
    let (files, world) = World::new(engine).await;
    let stream = fresh_stream();
    world.store.append(append(TENANT, &stream, 0, 1, "old")).await.unwrap();
    // On PostgreSQL another replica that has the old keys in memory reads what is sealed under the new one.
    let reader = if engine != Engine::Sqlite { Some(World::open(&files).await) } else { None };
    if let Some(reader) = &reader {
        assert_eq!(reader.store.read_stream(TENANT, &stream, 0, 10).await.unwrap().len(), 1);
    }
    let key = world.keyring.rotate_data_key(TENANT).await.unwrap();
    world.store.append(append(TENANT, &stream, 1, 1, "new")).await.unwrap();
    let sealed_under = match files.kurrent() {
        Some(place) => {
            SealedLog::new(place.settings().unwrap()).after(Cursor::START, 10).await.unwrap().pop().unwrap().data_key.to_string()
        }
        None => {
            let sql = "SELECT data_key FROM records ORDER BY position DESC LIMIT 1";
            let row = world.database.read().query_one_raw(world.database.sql(sql, vec![])).await.unwrap().unwrap();
            row.try_get_by_index::<String>(0).unwrap()
        }
    };
    assert_eq!(sealed_under, key.to_string());
    let reader = reader.as_ref().unwrap_or(&world);
    assert_eq!(reader.store.read_stream(TENANT, &stream, 0, 10).await.unwrap().len(), 2);
}

pub(crate) async fn an_erased_tenant_is_gone_and_others_are_not(engine: Engine) {
    let (_files, world) = World::new(engine).await;
    let (mine, theirs) = (fresh_stream(), fresh_stream());
    world.store.append(append(TENANT, &mine, 0, 3, "x")).await.unwrap();
    world.store.append(append(OTHER, &theirs, 0, 1, "x")).await.unwrap();
    world.store.append(append(TENANT, &mine, 3, 1, "x")).await.unwrap();
    world.keyring.erase(TENANT).await.unwrap();
    assert!(matches!(world.keyring.tenant(TENANT).await, Err(SealingError::TenantErased(_))));
    assert!(world.store.read_stream(TENANT, &mine, 0, 10).await.is_err());
    let late = Append { expected: 4, ..append(TENANT, &mine, 4, 1, "x") };
    assert!(world.store.append(late).await.is_err());
    if engine == Engine::Sqlite {
        // Whatever belongs to a tenant goes with it, but its log, and that it is gone. A new table is thought about here.
        let sql =
            "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c ON c.name = 'tenant' WHERE m.type = 'table' ORDER BY 1";
        let rows = world.database.read().query_all_raw(world.database.sql(sql, vec![])).await.unwrap();
        let tables: Vec<String> = rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
        let kept = ["blobs", "ledger_index", "records", "tenant_keys", "tombstones"];
        for table in &tables {
            let table = table.as_str();
            let places = [OF_A_TENANT.contains(&table), READ_MODEL.contains(&table), kept.contains(&table)];
            assert_eq!(places.iter().filter(|stands| **stands).count(), 1, "{table}: does it go with its tenant?");
        }
        assert_eq!(tables.len(), OF_A_TENANT.len() + READ_MODEL.len() + kept.len(), "{tables:?}");
    }
    // Followers pass over what nobody can read, and come to the end.
    let batch = world.store.read_all(Cursor::START, 100).await.unwrap();
    assert_eq!(batch.records.len(), 1);
    assert_eq!(batch.upto, world.store.head().await.unwrap());
}

pub(crate) async fn secrets_come_back_and_the_first_stays(engine: Engine) {
    let (files, world) = World::new(engine).await;
    let open = |world: &World| Secrets::new(world.database.clone(), Arc::clone(&world.keyring), Arc::new(world.clock.clone()));
    let secrets = open(&world);
    let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
    assert!(secrets.secret(TENANT, "root").await.unwrap().is_none());
    assert_eq!(secrets.keep_first(TENANT, "root", &secret("one")).await.unwrap().reveal(), b"one");
    assert_eq!(secrets.keep_first(TENANT, "root", &secret("two")).await.unwrap().reveal(), b"one");
    assert!(secrets.secret(OTHER, "root").await.unwrap().is_none());
    secrets.put_secret(TENANT, "root", &secret("three")).await.unwrap();
    assert_eq!(format!("{:?}", secrets.secret(TENANT, "root").await.unwrap().unwrap()), "Secret(hidden)");
    world.close().await;
    let world = World::open(&files).await;
    assert_eq!(open(&world).secret(TENANT, "root").await.unwrap().unwrap().reveal(), b"three");
}
