//! The current heartbeat of each site: a row that is written before anybody is served it, so that no serial is ever used
//! twice, by whatever replica and after whatever crash.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use schema::{
    clock::Timestamp,
    encoding::{Digest, u64_string},
    id::{ProjectId, SiteId, TenantId},
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use serde::{Deserialize, Serialize};
use trust::{
    dsse::sign_statement,
    statement::{Head, Kind, Pin, Scope, heartbeat::Heartbeat},
};

use super::{
    compile::blank_head,
    signers::{TenantSigners, fill},
};
use crate::database::Database;

/// One statement that a heartbeat pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its kind: root, policy or state.
    pub kind: Kind,
    /// What it is for. Of a state, its site.
    pub scope: Scope,
    /// Its epoch.
    #[serde(with = "u64_string")]
    pub epoch: u64,
    /// Its serial.
    #[serde(with = "u64_string")]
    pub serial: u64,
    /// SHA-256 of its payload.
    pub sha256: Digest,
    /// SHA-256 of its envelope, whose bytes are kept as a blob.
    pub envelope: Digest,
    /// When it was signed.
    pub issued: Timestamp,
    /// The last moment it may be accepted.
    pub expires: Timestamp,
    /// The first heartbeat that pinned it.
    #[serde(with = "u64_string")]
    pub since: u64,
}

impl Member {
    fn is_of(&self, other: &Self) -> bool {
        self.kind == other.kind && self.scope == other.scope
    }

    fn pin(&self) -> Pin {
        Pin { serial: self.serial, sha256: self.sha256 }
    }
}

/// What a site's agents are served.
#[derive(Debug, Clone, PartialEq)]
pub struct Current {
    /// The heartbeat's epoch.
    pub epoch: u64,
    /// The heartbeat's serial.
    pub serial: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// The heartbeat: a DSSE envelope, exact bytes.
    pub envelope: Vec<u8>,
    /// What it pins: every root in order, policies, the state.
    pub members: Vec<Member>,
}

impl Current {
    /// The entity tag of the whole set of this site.
    pub(super) fn etag(&self, site: SiteId) -> String {
        Self::tag(site, self.epoch, self.serial)
    }

    /// The entity tag of a site's set with this heartbeat. It names the site: what one site was served is no base for another.
    pub(super) fn tag(site: SiteId, epoch: u64, serial: u64) -> String {
        format!("\"{site}.{epoch}.{serial}\"")
    }

    /// The serial of the heartbeat that an entity tag is of, when it is an earlier one of this site and epoch.
    pub(super) fn earlier(&self, site: SiteId, tag: &str) -> Option<u64> {
        let serial = tag.strip_suffix('"')?.rsplit_once('.')?.1.parse().ok()?;
        (serial < self.serial && tag == Self::tag(site, self.epoch, serial)).then_some(serial)
    }

    /// Whether it pins exactly these statements.
    pub fn pins(&self, members: &[Member]) -> bool {
        let same = |(a, b): (&Member, &Member)| a.is_of(b) && a.sha256 == b.sha256 && a.serial == b.serial;
        self.members.len() == members.len() && self.members.iter().zip(members).all(same)
    }
}

/// Why there is no new heartbeat.
#[derive(Debug, thiserror::Error)]
pub enum HeartbeatError {
    /// The database could not be asked.
    #[error("{act} failed")]
    Database {
        /// What was tried.
        act: &'static str,
        /// What the driver said.
        #[source]
        source: DbErr,
    },
    /// What is stored does not read.
    #[error("the stored heartbeat of a site is damaged")]
    Damaged,
    /// Another replica has pinned something newer; whoever asked is behind and starts over.
    #[error("another replica has published newer statements for this site")]
    Behind,
    /// A statement that every heartbeat pins is missing.
    #[error("a heartbeat needs a root, the tenant's policy and the site's state")]
    Incomplete,
}

fn failed(act: &'static str) -> impl FnOnce(DbErr) -> HeartbeatError {
    move |source| HeartbeatError::Database { act, source }
}

/// The certificate authorities that heartbeats name, by SHA-256. Shared with who rotates them.
#[derive(Debug, Clone, Default)]
pub struct Named(Arc<RwLock<BTreeSet<Digest>>>);

impl Named {
    /// From the next heartbeat on, these.
    pub fn set(&self, named: BTreeSet<Digest>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = named;
    }

    fn now(&self) -> BTreeSet<Digest> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The table of current heartbeats.
#[derive(Debug, Clone)]
pub struct Heartbeats {
    database: Database,
    named: Named,
}

impl Heartbeats {
    /// In this database.
    pub fn new(database: Database) -> Self {
        Self { database, named: Named::default() }
    }

    /// The same, and they name these certificate authorities.
    #[must_use]
    pub fn naming(self, named: Named) -> Self {
        Self { named, ..self }
    }

    /// What a site is served now.
    pub async fn current(&self, tenant: TenantId, site: SiteId) -> Result<Option<Current>, HeartbeatError> {
        let sql = "SELECT epoch, serial, issued, envelope, members FROM heartbeats WHERE tenant = $1 AND site = $2";
        let values = vec![tenant.to_string().into(), site.to_string().into()];
        let row = self.database.of(tenant).query_one_raw(self.database.sql(sql, values)).await.map_err(failed("reading a heartbeat"))?;
        row.map(|row| read(&row)).transpose()
    }

    /// Serial of the current heartbeat: what a long poll looks at.
    pub async fn serial(&self, tenant: TenantId, site: SiteId) -> Result<Option<(u64, u64)>, HeartbeatError> {
        let act = "reading a heartbeat's serial";
        let sql = "SELECT epoch, serial FROM heartbeats WHERE tenant = $1 AND site = $2";
        let values = vec![tenant.to_string().into(), site.to_string().into()];
        let Some(row) = self.database.of(tenant).query_one_raw(self.database.sql(sql, values)).await.map_err(failed(act))? else {
            return Ok(None);
        };
        let number = |column| row.try_get_by_index::<i64>(column).map(i64::unsigned_abs);
        Ok(Some((number(0).map_err(failed(act))?, number(1).map_err(failed(act))?)))
    }

    /// Sites whose heartbeat was signed before this moment.
    pub async fn older_than(&self, moment: Timestamp) -> Result<Vec<(TenantId, SiteId)>, HeartbeatError> {
        let act = "looking for old heartbeats";
        let sql = "SELECT tenant, site FROM heartbeats WHERE issued < $1 ORDER BY issued LIMIT 10000";
        let rows = self.database.read().query_all_raw(self.database.sql(sql, vec![moment.micros().into()])).await.map_err(failed(act))?;
        let place = |row: QueryResult| {
            let text = |column| row.try_get_by_index::<String>(column).map_err(failed(act));
            match (text(0)?.parse(), text(1)?.parse()) {
                (Ok(tenant), Ok(site)) => Ok((tenant, site)),
                _ => Err(HeartbeatError::Damaged),
            }
        };
        rows.into_iter().map(place).collect()
    }

    /// What the next heartbeat of a site follows, and what it pins: these, or what the last one did.
    pub async fn next(
        &self,
        tenant: TenantId,
        site: SiteId,
        members: Option<&[Member]>,
    ) -> Result<(Option<Current>, Vec<Member>), HeartbeatError> {
        let last = self.latest(tenant, site).await?;
        let members = match (members, &last) {
            (Some(members), last) => follow(members, last.as_ref())?,
            (None, Some(last)) => last.members.clone(),
            (None, None) => return Err(HeartbeatError::Incomplete),
        };
        Ok((last, members))
    }

    /// Signs and keeps the next heartbeat of a site; none when another one was kept after the last.
    pub async fn issue(
        &self,
        signers: &TenantSigners,
        tenant: TenantId,
        site: SiteId,
        (last, members): (Option<Current>, Vec<Member>),
        (now, life): (Timestamp, Duration),
    ) -> Result<Option<Current>, HeartbeatError> {
        let next = sign(signers, tenant, site, members, last.as_ref(), (now, life, self.named.now()))?;
        let kept = self.keep(tenant, site, &next, last.is_some()).await?;
        Ok(kept.then_some(next))
    }

    /// The database.
    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// From the connection that writes, so that what another replica has just kept is seen.
    pub(super) async fn latest(&self, tenant: TenantId, site: SiteId) -> Result<Option<Current>, HeartbeatError> {
        let sql = "SELECT epoch, serial, issued, envelope, members FROM heartbeats WHERE tenant = $1 AND site = $2";
        let values = vec![tenant.to_string().into(), site.to_string().into()];
        let row = self.database.write().query_one_raw(self.database.sql(sql, values)).await.map_err(failed("reading a heartbeat"))?;
        row.map(|row| read(&row)).transpose()
    }

    async fn keep(&self, tenant: TenantId, site: SiteId, next: &Current, exists: bool) -> Result<bool, HeartbeatError> {
        let sql = if exists {
            "UPDATE heartbeats SET epoch = $3, serial = $4, issued = $5, envelope = $6, members = $7 \
             WHERE tenant = $1 AND site = $2 AND epoch <= $3 AND serial = $4 - 1"
        } else {
            "INSERT INTO heartbeats (tenant, site, epoch, serial, issued, envelope, members) VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (tenant, site) DO NOTHING"
        };
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let values = vec![
            tenant.to_string().into(),
            site.to_string().into(),
            signed(next.epoch).into(),
            signed(next.serial).into(),
            next.issued.micros().into(),
            next.envelope.clone().into(),
            serde_json::to_string(&next.members).map_err(|_| HeartbeatError::Damaged)?.into(),
        ];
        let done = self.database.write().execute_raw(self.database.sql(sql, values)).await.map_err(failed("keeping a heartbeat"))?;
        Ok(done.rows_affected() == 1)
    }
}

fn read(row: &QueryResult) -> Result<Current, HeartbeatError> {
    let act = "reading a heartbeat";
    let number = |column| row.try_get_by_index::<i64>(column).map_err(failed(act));
    let members: String = row.try_get_by_index(4).map_err(failed(act))?;
    Ok(Current {
        epoch: number(0)?.unsigned_abs(),
        serial: number(1)?.unsigned_abs(),
        issued: Timestamp::from_micros(number(2)?),
        envelope: row.try_get_by_index(3).map_err(failed(act))?,
        members: serde_json::from_str(&members).map_err(|_| HeartbeatError::Damaged)?,
    })
}

/// The members with the heartbeat since which each is pinned. Nothing goes back behind what was pinned already.
fn follow(members: &[Member], last: Option<&Current>) -> Result<Vec<Member>, HeartbeatError> {
    let next = last.map_or(1, |last| last.serial + 1);
    let mut followed = members.to_vec();
    for member in &mut followed {
        let pinned = || last.into_iter().flat_map(|last| &last.members).filter(|pinned| pinned.is_of(member));
        member.since = match pinned().find(|pinned| pinned.sha256 == member.sha256) {
            Some(same) => same.since,
            None if member.kind != Kind::Root && pinned().any(|pinned| (pinned.epoch, pinned.serial) > (member.epoch, member.serial)) => {
                return Err(HeartbeatError::Behind);
            }
            None => next,
        };
    }
    Ok(followed)
}

fn sign(
    signers: &TenantSigners,
    tenant: TenantId,
    site: SiteId,
    members: Vec<Member>,
    last: Option<&Current>,
    (now, life, authorities): (Timestamp, Duration, BTreeSet<Digest>),
) -> Result<Current, HeartbeatError> {
    let of = |kind, scope| members.iter().rev().find(move |member| member.kind == kind && member.scope == scope);
    let root = of(Kind::Root, Scope::Tenant).ok_or(HeartbeatError::Incomplete)?;
    let tenant_policy = of(Kind::Policy, Scope::Tenant).ok_or(HeartbeatError::Incomplete)?;
    let state = of(Kind::State, Scope::Site(site)).ok_or(HeartbeatError::Incomplete)?;
    let project = |member: &Member| match (member.kind, member.scope) {
        (Kind::Policy, Scope::Project(project)) => Some((project, member.pin())),
        _ => None::<(ProjectId, Pin)>,
    };
    let mut heartbeat = Heartbeat {
        head: Head { site: Some(site), ..blank_head(Kind::Heartbeat, tenant) },
        root: root.pin(),
        tenant_policy: tenant_policy.pin(),
        project_policies: members.iter().filter_map(project).collect(),
        site_policy: of(Kind::Policy, Scope::Site(site)).map(Member::pin),
        state: state.pin(),
        checkpoint: None,
        authorities,
    };
    let serial = last.map_or(1, |last| last.serial + 1);
    fill(&mut heartbeat.head, Kind::Heartbeat, root.epoch, serial, root.serial, now);
    heartbeat.head.expires = heartbeat.head.expires.max(now.plus(life));
    let (envelope, _) = sign_statement(&heartbeat, &[&signers.pair(Kind::Heartbeat)]);
    Ok(Current { epoch: root.epoch, serial, issued: now, envelope, members })
}
