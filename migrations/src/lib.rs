//! Dated database steps of the control plane, for SQLite and PostgreSQL. `README.md` tells how to add one.

use std::collections::HashSet;

use sea_orm_migration::{
    prelude::*,
    sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement},
};

mod m20261122_000001_foundation;
mod m20261122_000010_agents;
mod m20261122_000020_tenant_log;
mod m20261122_000100_record_by_event;
mod m20261122_000101_deployment_name;
mod m20261130_000010_relay;
mod m20261130_000200_wake;
mod m20261130_000250_agent_ratchets;
mod m20261130_000260_ledger_index;
mod m20261130_000400_restore;
mod m20261130_000401_recovery_evidence;
mod m20261130_000500_sealing_keys;
mod m20261130_000510_persons;

/// Every step, oldest first.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261122_000001_foundation::Migration),
            Box::new(m20261122_000010_agents::Migration),
            Box::new(m20261122_000020_tenant_log::Migration),
            Box::new(m20261122_000100_record_by_event::Migration),
            Box::new(m20261122_000101_deployment_name::Migration),
            Box::new(m20261130_000010_relay::Migration),
            Box::new(m20261130_000200_wake::Migration),
            Box::new(m20261130_000250_agent_ratchets::Migration),
            Box::new(m20261130_000260_ledger_index::Migration),
            Box::new(m20261130_000400_restore::Migration),
            Box::new(m20261130_000401_recovery_evidence::Migration),
            Box::new(m20261130_000500_sealing_keys::Migration),
            Box::new(m20261130_000510_persons::Migration),
        ]
    }
}

/// The first step that a database has not taken; none when it is up to date, or further.
pub async fn missing(database: &DatabaseConnection) -> Result<Option<String>, DbErr> {
    let steps = Migrator::migrations();
    let sql = "SELECT version FROM seaql_migrations";
    let rows = database.query_all_raw(Statement::from_string(database.get_database_backend(), sql)).await?;
    let taken = rows.iter().map(|row| row.try_get_by_index::<String>(0)).collect::<Result<HashSet<_>, _>>()?;
    Ok(steps.iter().map(|step| step.name().to_owned()).find(|step| !taken.contains(step)))
}

/// Brings a database up to date. Replicas that start together take turns. One that a newer version has brought further is left
/// as it is: during an upgrade both run, and the older one may have to start again.
pub async fn up(database: &DatabaseConnection) -> Result<(), DbErr> {
    if matches!(missing(database).await, Ok(None)) {
        return Ok(());
    }
    if database.get_database_backend() != DbBackend::Postgres {
        return Migrator::up(database, None).await;
    }
    // A session's advisory lock: everybody else waits for it, and it ends with its transaction.
    let lock = sea_orm_migration::sea_orm::TransactionTrait::begin(database).await?;
    // It waits while another connection works.
    lock.execute_unprepared("SET LOCAL idle_in_transaction_session_timeout = 0").await?;
    lock.execute_unprepared("SELECT pg_advisory_xact_lock(7236837458091)").await?;
    let outcome = Migrator::up(database, None).await;
    lock.commit().await?;
    outcome
}

/// Whether a database has every step of this program.
pub async fn is_current(database: &DatabaseConnection) -> Result<bool, DbErr> {
    Ok(Migrator::get_pending_migrations(database).await?.is_empty())
}

/// Runs statements separated by `;`, with the names of types that the engines call differently filled in:
/// `{bytes}`, `{bigint}`.
pub(crate) async fn run(manager: &SchemaManager<'_>, statements: &str) -> Result<(), DbErr> {
    let (bytes, bigint) = match manager.get_database_backend() {
        DbBackend::Postgres => ("BYTEA", "BIGINT"),
        _ => ("BLOB", "INTEGER"),
    };
    // Comments go first: a `;` in one separates nothing.
    let statements: Vec<_> = statements.lines().map(|line| line.split("--").next().unwrap_or_default()).collect();
    let statements = statements.join("\n").replace("{bytes}", bytes).replace("{bigint}", bigint);
    for statement in statements.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        manager.get_connection().execute_unprepared(statement).await?;
    }
    Ok(())
}
