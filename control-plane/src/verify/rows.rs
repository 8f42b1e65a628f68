//! Everything that is sealed beside the records and the read model: bodies, secrets, reports, ratchets, receipts, what is relayed;
//! and the heartbeats.

use std::collections::{HashMap, HashSet};

use schema::id::{DataKeyId, TenantId};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use serde_json::Value as Json;
use trust::{dsse::Envelope, statement::Kind};

use super::{Look, RESTORE, StoreReport, VerifyError, asking, log::Named};
use crate::{
    access::context::DEPLOYMENT,
    authorities::keeper::secret_name,
    bundles::pairs,
    eventing::view::{Pages, with_cause},
    sealing::{Place, SealingError, TenantKeys},
};

/// A table whose rows are sealed in [`Place::Row`].
struct Table {
    name: &'static str,
    key: &'static [&'static str],
    /// The place of the key's column that is a number; 0: none.
    number: usize,
    /// Columns: the key, then what the place is named by, then `data_key, sealed`.
    columns: &'static str,
    named_by: &'static [usize],
    /// Whether rows come and go while control planes serve, and may be lost.
    advice: &'static str,
}

const GOES_AWAY: &str = "remove the row: what is in it is sent again";
const TABLES: [Table; 5] = [
    Table {
        name: "recovery_evidence",
        key: &["tenant", "site"],
        number: 0,
        columns: "tenant, site, data_key, sealed",
        named_by: &[1],
        advice: GOES_AWAY,
    },
    Table {
        name: "agent_reports",
        key: &["tenant", "agent"],
        number: 0,
        columns: "tenant, agent, data_key, sealed",
        named_by: &[1],
        advice: GOES_AWAY,
    },
    Table {
        name: "agent_ratchets",
        key: &["tenant", "agent"],
        number: 0,
        columns: "tenant, agent, data_key, sealed",
        named_by: &[1],
        advice: "remove the row: the next report of the agent begins it anew",
    },
    Table {
        name: "receipts",
        key: &["tenant", "agent", "incarnation", "seq"],
        number: 3,
        columns: "tenant, agent, incarnation, seq, id, data_key, sealed",
        named_by: &[4],
        advice: RESTORE,
    },
    Table {
        name: "relay",
        key: &["tenant", "recipient", "id"],
        number: 0,
        columns: "tenant, recipient, id, data_key, sealed",
        named_by: &[1, 2],
        advice: GOES_AWAY,
    },
];

/// Tables with sealed rows that are looked at elsewhere.
const ELSEWHERE: [&str; 7] = ["person_keys", "records", "views", "views_anew", "blobs", "secrets", "tenant_keys"];
/// The names of secrets of a tenant and of the deployment.
const SECRETS: [&str; 2] = [pairs::SIGNERS_SECRET, crate::authorities::keeper::FIRST_SECRET];

pub(super) async fn walk(look: &Look, tenants: &HashSet<TenantId>, named: &Named, report: &mut StoreReport) -> Result<(), VerifyError> {
    bodies(look, tenants, named, report).await?;
    secrets(look, tenants, named, report).await?;
    for table in &TABLES {
        rows(look, tenants, table, report).await?;
    }
    heartbeats(look, report).await?;
    report.not_looked_at.extend(unknown(look).await?);
    Ok(())
}

/// Whose a row is; nothing of tenants that were erased, which nobody can read, and which were told of already.
fn owner(row: &QueryResult, tenants: &HashSet<TenantId>) -> Result<Option<TenantId>, DbErr> {
    let tenant: String = row.try_get_by_index(0)?;
    Ok(tenant.parse().ok().filter(|tenant| tenants.contains(tenant)))
}

async fn bodies(look: &Look, tenants: &HashSet<TenantId>, named: &Named, report: &mut StoreReport) -> Result<(), VerifyError> {
    let act = "reading bodies";
    // By what the table calls them.
    let mut digests = HashMap::with_capacity(named.len());
    for (tenant, digest) in named {
        let keys = look.keyring.tenant(*tenant).await?;
        digests.insert((*tenant, keys.blind("blobs.name", &[&digest.to_string()])), *digest);
    }
    let mut pages = Pages::of("blobs", &["tenant", "name"], "tenant, name, data_key, sealed");
    while let Some(page) = pages.next(&look.database, 0).await.map_err(asking(act))? {
        for row in page {
            report.bodies += 1;
            let Some(tenant) = owner(&row, tenants).map_err(asking(act))? else { continue };
            let name: Vec<u8> = row.try_get_by_index(1).map_err(asking(act))?;
            let Some(digest) = digests.get(&(tenant, name)) else {
                report.bodies_unnamed += 1;
                continue;
            };
            if let Err(what) = open(look, tenant, Place::Blob(*digest), &row, 2).await? {
                report.find("body_does_not_open", format!("blobs {tenant} {digest}"), what, RESTORE);
            }
        }
    }
    Ok(())
}

async fn secrets(look: &Look, tenants: &HashSet<TenantId>, named: &Named, report: &mut StoreReport) -> Result<(), VerifyError> {
    let act = "reading secrets";
    let mut pages = Pages::of("secrets", &["tenant", "name"], "tenant, name, data_key, sealed");
    let (mut opened, mut others) = (0, 0);
    while let Some(page) = pages.next(&look.database, 0).await.map_err(asking(act))? {
        for row in page {
            let Some(tenant) = owner(&row, tenants).map_err(asking(act))? else { continue };
            let name: Vec<u8> = row.try_get_by_index(1).map_err(asking(act))?;
            let keys = look.keyring.tenant(tenant).await?;
            let Some(known) = secret_of(&name, tenant, &keys, named) else {
                others += 1;
                continue;
            };
            opened += 1;
            if let Err(what) = open(look, tenant, Place::Secret(&known), &row, 2).await? {
                report.find("secret_does_not_open", format!("secrets {tenant} {known}"), what, RESTORE);
            }
        }
    }
    report.sealed_rows.push(("secrets".to_owned(), opened));
    if others > 0 {
        report.not_looked_at.push(format!("secrets ({others} of unknown names)"));
    }
    Ok(())
}

/// Which secret a row holds. Keys of authorities are called by what records say of them, pairs of statements by the root that
/// brought them.
fn secret_of(name: &[u8], tenant: TenantId, keys: &TenantKeys, named: &Named) -> Option<String> {
    let called = if tenant == DEPLOYMENT { secret_name } else { pairs::secret_name };
    let of_records = named.iter().filter(|(of, _)| *of == tenant).map(|(_, digest)| called(digest));
    SECRETS.into_iter().map(str::to_owned).chain(of_records).find(|known| keys.blind("secrets.name", &[known]) == name)
}

async fn rows(look: &Look, tenants: &HashSet<TenantId>, table: &Table, report: &mut StoreReport) -> Result<(), VerifyError> {
    let act = "reading sealed rows";
    let mut pages = Pages::of(table.name, table.key, table.columns);
    let mut opened = 0;
    while let Some(page) = pages.next(&look.database, table.number).await.map_err(asking(act))? {
        for row in page {
            let Some(tenant) = owner(&row, tenants).map_err(asking(act))? else { continue };
            let key = table.named_by.iter().map(|column| row.try_get_by_index::<String>(*column)).collect::<Result<Vec<_>, _>>();
            let key = key.map_err(asking(act))?.join("/");
            let sealed = table.columns.split(", ").position(|column| column == "data_key").unwrap_or_default();
            opened += 1;
            if let Err(what) = open(look, tenant, Place::Row { table: table.name, key: &key }, &row, sealed).await? {
                report.find("row_does_not_open", format!("{} {tenant} {key}", table.name), what, table.advice);
            }
        }
    }
    report.sealed_rows.push((table.name.to_owned(), opened));
    Ok(())
}

async fn open(
    look: &Look,
    tenant: TenantId,
    place: Place<'_>,
    row: &QueryResult,
    column: usize,
) -> Result<Result<(), String>, VerifyError> {
    let act = "reading sealed rows";
    let data_key: String = row.try_get_by_index(column).map_err(asking(act))?;
    let sealed: Vec<u8> = row.try_get_by_index(column + 1).map_err(asking(act))?;
    let Ok(data_key) = data_key.parse::<DataKeyId>() else { return Ok(Err("the id of its data key is none".to_owned())) };
    match look.keyring.open_sealed(tenant, place, data_key, &sealed).await {
        Ok(_) => Ok(Ok(())),
        Err(error @ SealingError::Database { .. }) => Err(error.into()),
        Err(error) => Ok(Err(with_cause(&error))),
    }
}

/// The heartbeats that agents are served say what their rows say.
async fn heartbeats(look: &Look, report: &mut StoreReport) -> Result<(), VerifyError> {
    const ADVICE: &str = "remove the row, and run the recovery of the tenant: docs/control-plane-recovery.md";
    let act = "reading heartbeats";
    let sql = "SELECT tenant, site, epoch, serial, envelope FROM heartbeats ORDER BY tenant, site";
    let read = |row: &QueryResult| -> Result<(String, String, i64, i64, Vec<u8>), DbErr> {
        Ok((
            row.try_get_by_index(0)?,
            row.try_get_by_index(1)?,
            row.try_get_by_index(2)?,
            row.try_get_by_index(3)?,
            row.try_get_by_index(4)?,
        ))
    };
    let mut count = 0;
    for row in look.database.read().query_all_raw(look.database.sql(sql, vec![])).await.map_err(asking(act))? {
        count += 1;
        let (tenant, site, epoch, serial, envelope) = read(&row).map_err(asking(act))?;
        let parsed = Envelope::parse(&envelope, Kind::Heartbeat.max_bytes()).ok();
        let head: Option<Json> = parsed.and_then(|parsed| serde_json::from_slice(&parsed.payload).ok());
        let text = |name: &str| head.as_ref().and_then(|head| head.get(name)).and_then(Json::as_str);
        let same = (text("tenant"), text("site")) == (Some(tenant.as_str()), Some(site.as_str()))
            && (text("epoch"), text("serial")) == (Some(epoch.to_string().as_str()), Some(serial.to_string().as_str()));
        if !same {
            report.find("heartbeat_differs", format!("heartbeats {tenant} {site}"), "it is not the heartbeat its row tells of", ADVICE);
        }
    }
    report.sealed_rows.push(("heartbeats".to_owned(), count));
    Ok(())
}

/// Tables with sealed rows that are newer than this part of the program.
async fn unknown(look: &Look) -> Result<Vec<String>, VerifyError> {
    let act = "listing tables";
    let sql = if look.is_postgres() {
        "SELECT table_name::text FROM information_schema.columns WHERE table_schema = current_schema() AND column_name = 'sealed' ORDER BY 1"
    } else {
        "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c ON c.name = 'sealed' WHERE m.type = 'table' ORDER BY 1"
    };
    let rows = look.database.read().query_all_raw(look.database.sql(sql, vec![])).await.map_err(asking(act))?;
    let names: Vec<String> = rows.iter().map(|row| row.try_get_by_index(0)).collect::<Result<_, DbErr>>().map_err(asking(act))?;
    let known = |name: &String| ELSEWHERE.contains(&name.as_str()) || TABLES.iter().any(|table| table.name == name);
    Ok(names.into_iter().filter(|name| !known(name)).collect())
}
