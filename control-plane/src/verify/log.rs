//! Every record, in the order of the log: that it is there, opens where it stands, and says what its columns say.

use std::collections::{HashMap, HashSet, VecDeque};

use schema::{
    encoding::Digest,
    event::{Envelope, Record, StreamId},
    id::{DataKeyId, TenantId},
    personal::persons,
};
use sea_orm::ConnectionTrait;
use serde_json::Value as Json;
use trust::statement::Kind;

use super::{Look, RESTORE, StoreReport, VerifyError, asking};
use crate::{
    eventing::{
        handler::IDEMPOTENCY_WINDOW_RECORDS,
        sql::COLUMNS,
        store::{Cursor, ReadError},
        view::{Checker, with_cause},
    },
    sealing::{Place, SealingError},
};

/// Records read at once.
const BATCH: usize = 500;

/// A row of the log, as it stands.
struct Row {
    position: u64,
    tenant: String,
    stream: String,
    revision: u64,
    event: String,
    data_key: String,
    sealed: Vec<u8>,
}

/// What is remembered of a stream while the log goes by.
#[derive(Default)]
struct Stream {
    revision: u64,
    /// Of the last records with an idempotency key: revision, hash of actor and key, what was asked.
    asked: VecDeque<(u64, Digest, Option<Digest>)>,
}

/// Bodies that records name, by tenant.
pub(super) type Named = HashSet<(TenantId, Digest)>;

/// Walks through the log, and lets the read model be compared on the way.
pub(super) async fn walk(
    look: &Look,
    tenants: &HashSet<TenantId>,
    mut checker: Checker,
    report: &mut StoreReport,
) -> Result<(Checker, Named), VerifyError> {
    let dense = look.kurrent.is_none();
    let mut streams: HashMap<(String, String), Stream> = HashMap::new();
    let mut named = Named::new();
    let mut differences = Vec::new();
    let mut after = Cursor::START;
    let head = look.store.head().await?;
    loop {
        let rows = next(look, after).await?;
        if rows.is_empty() {
            break;
        }
        let mut opened = Vec::with_capacity(rows.len());
        for row in rows {
            report.records += 1;
            let place = format!("records {} ({} {} revision {})", row.position, row.tenant, row.stream, row.revision);
            if dense && row.position != after.position() + 1 {
                let missing = after.position() + 1;
                let what = match row.position - missing {
                    1 => format!("the record at position {missing} is not there"),
                    more => format!("{more} records from position {missing} on are not there"),
                };
                report.find("record_missing", format!("records {missing}"), what, RESTORE);
            }
            after = Cursor::at(row.position);
            let stream = streams.entry((row.tenant.clone(), row.stream.clone())).or_default();
            let gap = row.revision != stream.revision + 1;
            if gap {
                let what = format!("revision {} follows revision {}", row.revision, stream.revision);
                report.find("revision_gap", &place, what, RESTORE);
            }
            stream.revision = row.revision;
            let parsed = row.tenant.parse::<TenantId>().ok().zip(row.stream.parse::<StreamId>().ok());
            let Some((tenant, id)) = parsed else {
                report.find("record_damaged", &place, "its tenant or its stream is none", RESTORE);
                continue;
            };
            if !tenants.contains(&tenant) {
                if !is_known(look, tenant).await? {
                    report.find("record_without_keys", &place, "its tenant has no keys", RESTORE);
                }
                continue;
            }
            match open(look, tenant, &id, &row).await? {
                Ok(record) if gap => {
                    checker.skip(tenant, &id);
                    drop(record);
                }
                Ok(record) => {
                    idempotency(record.envelope(), stream, &place, report);
                    name_bodies(tenant, &record.envelope().data, &mut named);
                    statement(look, tenant, record.envelope(), &place, report).await?;
                    opened.push((after, record));
                }
                Err((code, what)) => {
                    report.find(code, &place, what, RESTORE);
                    checker.skip(tenant, &id);
                }
            }
        }
        checker.look(&opened, &look.keyring, &mut differences).await.map_err(asking("comparing the read model"))?;
    }
    report.find_differences(differences);
    report.streams = streams.len() as u64;
    report.head = after.position();
    if after < head {
        let what = format!("the head of the log is {}, and the last record that is there is at {}", head.position(), after.position());
        report.find("record_missing", "log_head", what, RESTORE);
    }
    followers(look, after, report).await?;
    ledger_index(look, &streams, report).await?;
    Ok((checker, named))
}

async fn next(look: &Look, after: Cursor) -> Result<Vec<Row>, VerifyError> {
    if let Some(log) = &look.kurrent {
        let row = |record: crate::eventing::sealed::SealedRecord| Row {
            position: record.cursor.position(),
            tenant: record.tenant.to_string(),
            stream: record.stream.to_string(),
            revision: record.revision,
            event: record.event.to_string(),
            data_key: record.data_key.to_string(),
            sealed: record.sealed,
        };
        return Ok(log.after(after, BATCH).await?.into_iter().map(row).collect());
    }
    let act = "reading the log";
    let sql = format!("SELECT {COLUMNS} FROM records WHERE position > $1 ORDER BY position LIMIT {BATCH}");
    let position = i64::try_from(after.position()).unwrap_or(i64::MAX);
    let rows = look.database.read().query_all_raw(look.database.sql(sql, vec![position.into()])).await.map_err(asking(act))?;
    let read = |row: &sea_orm::QueryResult| -> Result<Row, sea_orm::DbErr> {
        Ok(Row {
            position: row.try_get_by_index::<i64>(0)?.unsigned_abs(),
            tenant: row.try_get_by_index(1)?,
            stream: row.try_get_by_index(2)?,
            revision: row.try_get_by_index::<i64>(3)?.unsigned_abs(),
            event: row.try_get_by_index(4)?,
            data_key: row.try_get_by_index(5)?,
            sealed: row.try_get_by_index(6)?,
        })
    };
    rows.iter().map(read).collect::<Result<_, _>>().map_err(asking(act))
}

type Damage = (&'static str, String);

/// The record, when everything about it is right.
async fn open(look: &Look, tenant: TenantId, stream: &StreamId, row: &Row) -> Result<Result<Record, Damage>, VerifyError> {
    let Ok(data_key) = row.data_key.parse::<DataKeyId>() else {
        return Ok(Err(("record_damaged", "the id of its data key is none".to_owned())));
    };
    let place = Place::Record { stream, revision: row.revision };
    let bytes = match look.keyring.open_sealed(tenant, place, data_key, &row.sealed).await {
        Ok(bytes) => bytes,
        Err(error @ SealingError::Database { .. }) => return Err(error.into()),
        Err(error @ SealingError::UnknownDataKey(_)) => return Ok(Err(("record_of_unknown_key", with_cause(&error)))),
        Err(error) => return Ok(Err(("record_does_not_open", with_cause(&error)))),
    };
    let record = match Record::read(bytes) {
        Ok(record) => record,
        Err(error) => return Ok(Err(("record_damaged", with_cause(&error)))),
    };
    let Envelope { tenant: of, stream: within, revision, id, .. } = record.envelope();
    let mut data = record.envelope().data.clone();
    match look.keyring.open_personal(tenant, &mut data).await {
        Ok(()) => {}
        Err(error @ SealingError::Database { .. }) => return Err(error.into()),
        Err(error) => return Ok(Err(("record_does_not_open", format!("what is personal in it: {}", with_cause(&error))))),
    }
    let same = (*of, within, *revision, id.to_string()) == (tenant, stream, row.revision, row.event.clone());
    Ok(if same {
        Ok(if persons(&record.envelope().data).is_empty() { record } else { record.opened(data) })
    } else {
        Err(("record_elsewhere", "what it says of its place or its event is something else".to_owned()))
    })
}

/// The same principal asked two things under one idempotency key, within the window in which retries are known again.
fn idempotency(envelope: &Envelope, stream: &mut Stream, place: &str, report: &mut StoreReport) {
    let Some(key) = &envelope.idempotency_key else { return };
    const ADVICE: &str = "tell the developers: a retry of this request may be decided twice";
    let asked = Digest::labelled("freehold-verify-asked-v1", &[envelope.actor.as_bytes(), key.as_bytes()]);
    if envelope.request_mac.is_none() {
        report.find("idempotency_without_request", place, "it has an idempotency key, and nothing that tells what was asked", ADVICE);
    }
    stream.asked.retain(|(revision, ..)| revision + IDEMPOTENCY_WINDOW_RECORDS as u64 > envelope.revision);
    if stream.asked.iter().any(|(_, known, mac)| *known == asked && *mac != envelope.request_mac) {
        report.find("idempotency_key_twice", place, "its idempotency key was used for another request of the same principal", ADVICE);
    }
    stream.asked.push_back((envelope.revision, asked, envelope.request_mac));
}

/// Whatever may be the name of a body.
fn name_bodies(tenant: TenantId, data: &Json, named: &mut Named) {
    match data {
        Json::String(text) if text.len() == 43 => {
            if let Ok(digest) = text.parse() {
                named.insert((tenant, digest));
            }
        }
        Json::Array(list) => list.iter().for_each(|value| name_bodies(tenant, value, named)),
        Json::Object(map) => map.values().for_each(|value| name_bodies(tenant, value, named)),
        _ => {}
    }
}

/// The bytes of a statement are those that were logged.
async fn statement(look: &Look, tenant: TenantId, envelope: &Envelope, place: &str, report: &mut StoreReport) -> Result<(), VerifyError> {
    let text = |field: &str| envelope.data.get(field).and_then(Json::as_str);
    let body = match envelope.event_type.as_str() {
        "StatementPublished" => text("envelope_sha256"),
        "StatementProposed" => text("sha256"),
        "StatementSigned" => text("signatures_sha256"),
        "PolicyDraftSaved" | "PolicyPublished" => {
            envelope.data.get("content").and_then(|content| content.get("cedar")).and_then(Json::as_str)
        }
        _ => return Ok(()),
    };
    let Some(name) = body.and_then(|text| text.parse::<Digest>().ok()) else { return Ok(()) };
    let bytes = match look.store.blob(tenant, name).await {
        Ok(Some(bytes)) if Digest::of(&bytes) == name => bytes,
        Ok(Some(_)) => {
            report.find("body_differs", place, format!("the body {name} has another SHA-256"), RESTORE);
            return Ok(());
        }
        Ok(None) => {
            report.find("body_missing", place, format!("it names the body {name}, which is not there"), RESTORE);
            return Ok(());
        }
        Err(ReadError::Sealing { source, .. }) => {
            report.find("body_does_not_open", place, format!("the body {name}: {}", with_cause(&source)), RESTORE);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if envelope.event_type != "StatementPublished" {
        return Ok(());
    }
    report.statements += 1;
    let parsed = trust::dsse::Envelope::parse(&bytes, Kind::State.max_bytes());
    let payload = parsed.as_ref().map(|parsed| parsed.payload.as_slice()).unwrap_or_default();
    let head: Json = serde_json::from_slice(payload).unwrap_or_default();
    let number = |value: Option<&Json>| value.and_then(Json::as_str).map(str::to_owned);
    let same = text("sha256") == Some(Digest::of(payload).to_string().as_str())
        && number(head.get("epoch")) == number(envelope.data.get("epoch"))
        && number(head.get("serial")) == number(envelope.data.get("serial"));
    if !same {
        report.find("statement_differs", place, "the statement that is kept is not the one that was recorded", RESTORE);
    }
    Ok(())
}

async fn is_known(look: &Look, tenant: TenantId) -> Result<bool, VerifyError> {
    let sql = "SELECT 1 FROM tenant_keys WHERE tenant = $1 LIMIT 1";
    let row = look.database.read().query_one_raw(look.database.sql(sql, vec![tenant.to_string().into()])).await;
    Ok(row.map_err(asking("looking for a tenant's keys"))?.is_some())
}

/// Nobody has come further than the log.
async fn followers(look: &Look, last: Cursor, report: &mut StoreReport) -> Result<(), VerifyError> {
    const ADVICE: &str = "was an older log put beside newer tables? restore both from one backup";
    let act = "reading how far followers have come";
    let sql = "SELECT 'checkpoints', name, position FROM checkpoints WHERE name = 'views' \
               UNION ALL SELECT 'reactors', name, position FROM reactors ORDER BY 1, 2";
    let now = look.store.head().await?.max(last);
    for row in look.database.read().query_all_raw(look.database.sql(sql, vec![])).await.map_err(asking(act))? {
        let (table, name): (String, String) =
            (row.try_get_by_index(0).map_err(asking(act))?, row.try_get_by_index(1).map_err(asking(act))?);
        let position = row.try_get_by_index::<i64>(2).map_err(asking(act))?.unsigned_abs();
        if position > now.position() {
            let what = format!("it is at {position}, and the log ends at {}", now.position());
            report.find("follower_beyond_the_log", format!("{table} {name}"), what, ADVICE);
        }
    }
    Ok(())
}

/// Where the log is in KurrentDB: every tenant's own index has no gap, and as many records as its streams.
async fn ledger_index(look: &Look, streams: &HashMap<(String, String), Stream>, report: &mut StoreReport) -> Result<(), VerifyError> {
    if look.kurrent.is_none() {
        return Ok(());
    }
    let act = "reading the index of ledgers";
    let sql = "SELECT tenant, COUNT(*), MAX(leaf) FROM ledger_index GROUP BY tenant ORDER BY tenant";
    for row in look.database.read().query_all_raw(look.database.sql(sql, vec![])).await.map_err(asking(act))? {
        let tenant: String = row.try_get_by_index(0).map_err(asking(act))?;
        let (count, last): (i64, i64) = (row.try_get_by_index(1).map_err(asking(act))?, row.try_get_by_index(2).map_err(asking(act))?);
        let records: u64 = streams.iter().filter(|((of, _), _)| *of == tenant).map(|(_, stream)| stream.revision).sum();
        if count != last + 1 || count.unsigned_abs() > records {
            let what = format!("it has {count} entries, the last is number {last}, and there are {records} records");
            report.find(
                "ledger_index_gap",
                format!("ledger_index {tenant}"),
                what,
                "empty the table ledger_index of this tenant; it is made anew",
            );
        }
    }
    Ok(())
}
