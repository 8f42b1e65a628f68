//! Where the ratchet of each agent is (`trust::ratchet`), and who came with its identity last.

use std::sync::Arc;

use schema::{
    id::{AgentId, TenantId},
    rule::Sighting,
    wire::agent::RatchetClaim,
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use serde::{Deserialize, Serialize};
use trust::ratchet::{Known, Verdict};

use crate::{
    database::Database,
    pki::identity::AgentIdentity,
    sealing::{Keyring, Place, SealingError},
};

const TABLE: &str = "agent_ratchets";
/// How often a change starts over when another one was first.
const ATTEMPTS: usize = 16;

/// Why a ratchet could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum RatchetError {
    /// The database.
    #[error("{act} failed")]
    Database {
        /// What was tried.
        act: &'static str,
        /// What the driver said.
        #[source]
        source: DbErr,
    },
    /// Sealing or opening failed.
    #[error("sealing or opening what is known of an agent's ratchet failed")]
    Sealing(#[from] SealingError),
    /// What is stored does not read.
    #[error("what is stored of an agent's ratchet is damaged")]
    Damaged,
    /// Others changed it time and again.
    #[error("reports of one agent keep coming at the same moment")]
    Contended,
}

/// What is known of one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    known: Known,
    last: Sighting,
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq)]
pub enum Proved {
    /// It is the same agent as ever.
    Same,
    /// Somebody else came with this identity before: whoever that was.
    Forked {
        /// Who sent the last report that followed.
        known: Sighting,
    },
}

/// The ratchets of every agent.
#[derive(Clone)]
pub struct Ratchets {
    database: Database,
    keyring: Arc<Keyring>,
}

impl Ratchets {
    /// In this database, sealed under the tenants' keys.
    pub fn new(database: Database, keyring: Arc<Keyring>) -> Self {
        Self { database, keyring }
    }

    /// Judges what a report claims; what follows is kept before this returns.
    pub async fn prove(&self, identity: &AgentIdentity, claim: &RatchetClaim, who: &Sighting) -> Result<Proved, RatchetError> {
        let (tenant, agent) = (identity.tenant, identity.agent);
        for _ in 0..ATTEMPTS {
            let row = self.row(tenant, agent).await?;
            let known = row.as_ref().map(|row| row.known.clone()).unwrap_or_default();
            let next = match known.judge(claim) {
                Verdict::Repeats => return Ok(Proved::Same),
                Verdict::Forks => return Ok(Proved::Forked { known: row.map(|row| row.last).unwrap_or_default() }),
                Verdict::Follows(next) => next,
                Verdict::Ahead(next) => {
                    let (known, told) = (known.counter(), claim.counter);
                    tracing::warn!(%tenant, %agent, known, told, "an agent is ahead of what is known of it: was this database restored?");
                    next
                }
            };
            let expected = row.is_some().then(|| known.counter());
            if self.keep(tenant, agent, expected, &Row { known: next, last: who.clone() }).await? {
                return Ok(Proved::Same);
            }
        }
        Err(RatchetError::Contended)
    }

    /// What is known of an agent's ratchet.
    pub async fn known(&self, identity: &AgentIdentity) -> Result<Known, RatchetError> {
        Ok(self.row(identity.tenant, identity.agent).await?.map(|row| row.known).unwrap_or_default())
    }

    async fn row(&self, tenant: TenantId, agent: AgentId) -> Result<Option<Row>, RatchetError> {
        let failed = |source| RatchetError::Database { act: "reading an agent's ratchet", source };
        let sql = "SELECT data_key, sealed FROM agent_ratchets WHERE tenant = $1 AND agent = $2";
        let agent = agent.to_string();
        let values = vec![tenant.to_string().into(), agent.clone().into()];
        // Read where it is written: a replica of the database that is behind would see a fork where there is none.
        let row = self.database.write().query_one_raw(self.database.sql(sql, values)).await.map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        let read = |row: &QueryResult| -> Result<(String, Vec<u8>), DbErr> { Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)) };
        let (data_key, sealed) = read(&row).map_err(failed)?;
        let data_key = data_key.parse().map_err(|_| RatchetError::Damaged)?;
        let plain = self.keyring.open_sealed(tenant, Place::Row { table: TABLE, key: &agent }, data_key, &sealed).await?;
        serde_json::from_slice(&plain).map(Some).map_err(|_| RatchetError::Damaged)
    }

    /// Keeps what is known now, if what was known is still what it was.
    async fn keep(&self, tenant: TenantId, agent: AgentId, expected: Option<u64>, row: &Row) -> Result<bool, RatchetError> {
        let (agent, keys) = (agent.to_string(), self.keyring.tenant(tenant).await?);
        let plain = serde_json::to_vec(row).map_err(|_| RatchetError::Damaged)?;
        let sealed = keys.seal(Place::Row { table: TABLE, key: &agent }, &plain)?;
        let number = |counter: u64| i64::try_from(counter).unwrap_or(i64::MAX);
        let mut values = vec![
            tenant.to_string().into(),
            agent.into(),
            number(row.known.counter()).into(),
            sealed.data_key.to_string().into(),
            sealed.bytes.into(),
        ];
        let sql = match expected {
            None => {
                "INSERT INTO agent_ratchets (tenant, agent, counter, data_key, sealed) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"
            }
            Some(expected) => {
                values.push(number(expected).into());
                "UPDATE agent_ratchets SET counter = $3, data_key = $4, sealed = $5 WHERE tenant = $1 AND agent = $2 AND counter = $6"
            }
        };
        let done = self.database.write().execute_raw(self.database.sql(sql, values)).await;
        let done = done.map_err(|source| RatchetError::Database { act: "keeping an agent's ratchet", source })?;
        Ok(done.rows_affected() == 1)
    }
}
