//! On PostgreSQL, other replicas are told of a new head of the log and of a new heartbeat when it is committed, instead of
//! having to ask all the time. What they are told is a position, or two ids. Embedded databases have one process.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{ConnectionTrait, DbBackend},
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    #[allow(elided_lifetimes_in_paths, reason = "the trait's own signature elides it")]
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Postgres {
            manager.get_connection().execute_unprepared(STATEMENTS).await?;
        }
        Ok(())
    }
}

const STATEMENTS: &str = "
CREATE FUNCTION freehold_log_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('freehold_log', NEW.position::text);
    RETURN NULL;
END $$;
CREATE TRIGGER freehold_log_moved AFTER UPDATE ON log_head FOR EACH ROW EXECUTE FUNCTION freehold_log_moved();

CREATE FUNCTION freehold_site_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('freehold_site', NEW.tenant || ' ' || NEW.site);
    RETURN NULL;
END $$;
CREATE TRIGGER freehold_site_told AFTER INSERT OR UPDATE ON heartbeats FOR EACH ROW EXECUTE FUNCTION freehold_site_told();
";
