//! One at a time across replicas: a lease in the database, with a fencing token.
//!
//! The lease keeps replicas from doing the same work; the token keeps them from undoing it. Clocks may disagree and a
//! process may sleep through its lease, so for a moment two may believe that they lead: what the older one writes under
//! its token is refused.

use std::{sync::Arc, time::Duration};

use schema::clock::{Clock, Ids, random};
use sea_orm::{ConnectionTrait, DbBackend, DbErr};

use crate::database::Database;

/// How long a lease lasts without being renewed.
pub const LEASE: Duration = Duration::from_secs(6);

/// Takes and renews leases in the name of this process.
#[derive(Clone)]
pub struct Leadership {
    database: Database,
    clock: Arc<dyn Clock>,
    holder: String,
}

/// Leads until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    name: String,
    token: i64,
}

impl Lease {
    /// What is led.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Grows with every change of leadership.
    pub fn token(&self) -> i64 {
        self.token
    }
}

impl Leadership {
    /// For a process that has just started.
    pub fn new(database: Database, clock: Arc<dyn Clock>, ids: &dyn Ids) -> Self {
        Self { database, clock, holder: hex::encode(random::<16>(ids)) }
    }

    /// Takes the lead, when nobody else has it.
    pub async fn acquire(&self, name: &str) -> Result<Option<Lease>, DbErr> {
        // An embedded database has one process, which its lock file sees to: whoever led before is gone.
        let alone = if self.database.backend() == DbBackend::Sqlite { "OR TRUE" } else { "" };
        let sql = format!(
            "INSERT INTO leaders (name, holder, token, expires) VALUES ($1, $2, 1, $3) ON CONFLICT (name) DO UPDATE \
             SET holder = excluded.holder, token = leaders.token + 1, expires = excluded.expires \
             WHERE leaders.expires < $4 {alone} RETURNING token"
        );
        let now = self.clock.now();
        let values = vec![name.into(), self.holder.as_str().into(), now.plus(LEASE).micros().into(), now.micros().into()];
        let row = self.database.write().query_one_raw(self.database.sql(sql, values)).await?;
        let token: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(token.map(|token| Lease { name: name.to_owned(), token }))
    }

    /// Leads for another while; false when somebody else leads now.
    pub async fn renew(&self, lease: &Lease) -> Result<bool, DbErr> {
        self.expire(lease, self.clock.now().plus(LEASE).micros()).await
    }

    /// Gives the lead up, so that another can take it at once.
    pub async fn release(&self, lease: Lease) -> Result<(), DbErr> {
        self.expire(&lease, 0).await.map(drop)
    }

    async fn expire(&self, lease: &Lease, expires: i64) -> Result<bool, DbErr> {
        let sql = "UPDATE leaders SET expires = $1 WHERE name = $2 AND token = $3";
        let values = vec![expires.into(), lease.name.as_str().into(), lease.token.into()];
        let outcome = self.database.write().execute_raw(self.database.sql(sql, values)).await?;
        Ok(outcome.rows_affected() == 1)
    }
}
