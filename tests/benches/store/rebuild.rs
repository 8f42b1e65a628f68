//! The read model written anew from its records, against bare bulk inserts of the same rows.

use std::{sync::Arc, time::Instant};

use control_plane::{
    database::Database,
    eventing::{
        store::{Append, EventStore},
        view::{Kinds, Views, rebuild},
    },
    keys::Key,
};
use freehold_tests::database::{Engine, TestDatabase};
use schema::{
    clock::{Clock, SystemClock, SystemIds, new_id, random_id},
    event::{Envelope, RECORD_VERSION, Record, StreamId},
    id::{EventId, KeyId, ProjectId, SiteId},
};
use sea_orm::{ConnectionTrait, Value};
use serde_json::json;

use crate::{ROUNDS, TENANT, open, total};

/// Rows a statement, and rows a transaction: as a projector writes them.
const ROWS: usize = 64;
const BATCH: usize = 500;
/// What happens to each key.
const EVENTS: usize = 4;

/// Rows a second, by projecting beside the copy that is served and by inserting the same rows; and how long it takes until both are compared and exchanged.
pub async fn measure(engine: Engine) -> anyhow::Result<serde_json::Value> {
    let files = TestDatabase::new(engine)?;
    let (database, keyring, store) = open(&files.location).await?;
    let keys = (total() / EVENTS).max(1);
    for batch in (0..keys).collect::<Vec<_>>().chunks(64) {
        let appends = batch.iter().map(|number| key(*number)).collect::<anyhow::Result<Vec<_>>>()?;
        futures::future::try_join_all(appends.into_iter().map(|append| store.append(append))).await?;
    }
    let (_views, mut projector) =
        Views::open(database.clone(), keyring, Arc::clone(&store) as Arc<dyn EventStore>, Kinds::new().register::<Key>());
    projector.catch_up().await?;
    let (rows, terms) = (rows(&database, VIEWS, 12).await?, rows(&database, TERMS, 5).await?);
    let count = rows.len() + terms.len();
    tables(&database, engine).await?;
    let (mut rounds, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for table in ["bare_views", "bare_view_terms"] {
            database.write().execute_unprepared(&format!("DELETE FROM {table}")).await?;
        }
        let start = Instant::now();
        insert(&database, "bare_views", VIEWS, &rows).await?;
        insert(&database, "bare_view_terms", TERMS, &terms).await?;
        let bare = count as f64 / start.elapsed().as_secs_f64();
        let start = Instant::now();
        let rebuilt = rebuild(&mut projector, false).await?;
        beside.push(start.elapsed().as_secs_f64());
        anyhow::ensure!(rebuilt.switched && rebuilt.differences == 0, "{rebuilt:?}");
        rounds.push((count as f64 / (rebuilt.written_ms as f64 / 1000.0), bare));
    }
    beside.sort_by(f64::total_cmp);
    rounds.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let ratios: Vec<_> = rounds.iter().map(|(ours, bare)| (ours / bare * 100.0).round() / 100.0).collect();
    let (ours, bare) = rounds[ROUNDS / 2];
    store.close().await;
    Ok(json!({
        "keys": keys, "records": keys * EVENTS, "rows": count,
        "projected_rows_per_s": ours.round(), "bare_rows_per_s": bare.round(), "ratio": ratios[ROUNDS / 2], "ratios": ratios,
        "records_per_s": (ours / count as f64 * (keys * EVENTS) as f64).round(),
        "beside_the_served_one_s": (beside[ROUNDS / 2] * 100.0).round() / 100.0,
    }))
}

const VIEWS: &str = "tenant, kind, id, revision, position, valid_from, valid_to, parent, name, state, data_key, sealed";
const TERMS: &str = "tenant, kind, term, id, revision";

/// A key with a few labels, as far as its first version is in use.
fn key(number: usize) -> anyhow::Result<Append> {
    let id: KeyId = random_id(&SystemIds);
    let created = json!({
        "project": ProjectId::from_bits(number as u128 % 20 + 1), "name": format!("key-{number}"), "description": null,
        "algorithm": "A256KW+A256GCM", "purpose": "encrypt", "placement": [SiteId::from_bits(1)], "labels": { "team": "cards", "tier": "gold" },
        "durability": "single-copy", "exportable": false, "origin": "generated", "eligible_generators": [], "deletion_protection": true,
        "limits": schema::key::Limits::default(), "rotation": schema::key::RotationRule::default(),
    });
    let events = [
        ("KeyCreated", created),
        ("VersionRequested", json!({ "number": 1, "generator": null })),
        ("VersionActivated", json!({ "number": 1 })),
        ("PrimaryMoved", json!({ "number": 1 })),
    ];
    let stream = StreamId::of(id);
    let records = (1..).zip(events).map(|(revision, (event_type, data))| {
        let now = SystemClock.now();
        Record::write(Envelope {
            v: RECORD_VERSION,
            id: new_id::<EventId>(&SystemIds, now),
            tenant: TENANT,
            stream: stream.clone(),
            revision,
            event_type: event_type.to_owned(),
            schema: 1,
            time: now,
            actor: "system:bench".to_owned(),
            on_behalf_of: None,
            via: None,
            idempotency_key: None,
            request_mac: None,
            correlation: "req_00000000000000000000000001".to_owned(),
            causation: None,
            data,
        })
    });
    let records = records.collect::<Result<Vec<_>, _>>()?;
    Ok(Append { tenant: TENANT, stream, expected: 0, records, blobs: vec![] })
}

/// Every row of the read model's table, as values.
async fn rows(database: &Database, columns: &str, count: usize) -> anyhow::Result<Vec<Vec<Value>>> {
    let table = if columns == VIEWS { "views" } else { "view_terms" };
    let found = database.read().query_all_raw(database.sql(format!("SELECT {columns} FROM {table}"), vec![])).await?;
    let mut rows = Vec::with_capacity(found.len());
    for row in &found {
        let mut values = Vec::with_capacity(count);
        for (place, column) in columns.split(", ").enumerate() {
            values.push(match column {
                "revision" | "position" | "valid_from" => Value::from(row.try_get_by_index::<i64>(place)?),
                "valid_to" => row.try_get_by_index::<Option<i64>>(place)?.into(),
                "parent" | "name" => row.try_get_by_index::<Option<Vec<u8>>>(place)?.into(),
                "sealed" | "term" => row.try_get_by_index::<Vec<u8>>(place)?.into(),
                "state" => row.try_get_by_index::<Option<String>>(place)?.into(),
                _ => row.try_get_by_index::<String>(place)?.into(),
            });
        }
        rows.push(values);
    }
    Ok(rows)
}

/// Tables of the same columns and indexes.
async fn tables(database: &Database, engine: Engine) -> anyhow::Result<()> {
    let (bytes, bigint) = if engine == Engine::Sqlite { ("BLOB", "INTEGER") } else { ("BYTEA", "BIGINT") };
    for statement in [
        format!(
            "CREATE TABLE bare_views (tenant TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, revision {bigint} NOT NULL, \
             position {bigint} NOT NULL, valid_from {bigint} NOT NULL, valid_to {bigint}, parent {bytes}, name {bytes}, state TEXT, \
             data_key TEXT NOT NULL, sealed {bytes} NOT NULL, PRIMARY KEY (tenant, kind, id, revision))"
        ),
        "CREATE UNIQUE INDEX bare_present ON bare_views (tenant, kind, id) WHERE valid_to IS NULL".to_owned(),
        "CREATE INDEX bare_by_parent ON bare_views (tenant, kind, parent, id) WHERE valid_to IS NULL".to_owned(),
        "CREATE INDEX bare_by_name ON bare_views (tenant, kind, parent, name) WHERE valid_to IS NULL".to_owned(),
        format!(
            "CREATE TABLE bare_view_terms (tenant TEXT NOT NULL, kind TEXT NOT NULL, term {bytes} NOT NULL, id TEXT NOT NULL, \
             revision {bigint} NOT NULL, PRIMARY KEY (tenant, kind, term, id, revision))"
        ),
    ] {
        database.write().execute_unprepared(&statement).await?;
    }
    Ok(())
}

async fn insert(database: &Database, table: &str, columns: &str, rows: &[Vec<Value>]) -> anyhow::Result<()> {
    let width = columns.split(", ").count();
    for batch in rows.chunks(BATCH) {
        let transaction = database.begin().await?;
        for rows in batch.chunks(ROWS) {
            let place = |row: usize| (1..=width).map(|n| format!("${}", row * width + n)).collect::<Vec<_>>().join(", ");
            let places: Vec<_> = (0..rows.len()).map(|row| format!("({})", place(row))).collect();
            let sql = format!("INSERT INTO {table} ({columns}) VALUES {}", places.join(", "));
            transaction.execute_raw(database.sql(sql, rows.iter().flatten().cloned().collect())).await?;
        }
        transaction.commit().await?;
    }
    Ok(())
}
