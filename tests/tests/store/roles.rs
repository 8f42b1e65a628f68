//! What the roles of PostgreSQL may do, and above all what they may not: each attempt is made on a real server.

use std::collections::BTreeSet;

use control_plane::{
    app::StartError,
    config::{Config, RolesConfig},
    database::{
        Access, Database, Location, OpenError,
        roles::{self, Roles},
    },
    preparing,
};
use freehold_tests::database::{Engine, TestDatabase, roles_of};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr};

use super::world::{OTHER, TENANT, World, append, fresh_stream, named};

/// Straight to the server, as this user.
async fn connect(files: &TestDatabase, user: &str) -> DatabaseConnection {
    sea_orm::Database::connect(files.server().unwrap().url(&files.name(), user)).await.unwrap()
}

/// What PostgreSQL says no with: the right is missing (42501), or there is no such door.
fn refused(outcome: Result<impl std::fmt::Debug, DbErr>, sql: &str) {
    let error = outcome.expect_err(sql).to_string();
    let told =
        ["permission denied", "must be owner", "must be superuser", "row-level security", "must have admin option", "only roles with"];
    assert!(told.iter().any(|words| error.contains(words)), "{sql}: {error}");
}

async fn texts(connection: &impl ConnectionTrait, sql: &str) -> Vec<String> {
    let rows = connection.query_all_raw(sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, sql)).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

pub(crate) async fn a_writer_adds_and_changes_nothing() {
    let (files, world) = World::new(Engine::PostgresRoles).await;
    let stream = fresh_stream();
    world.store.append(append(TENANT, &stream, 0, 3, "kept")).await.unwrap();
    world.store.put_blob(TENANT, b"a body").await.unwrap();
    let before = files.psql("SELECT md5(string_agg(r::text, '' ORDER BY position)) FROM records r").unwrap();
    let Roles { writer, projector, reader, .. } = roles_of(&files.name());
    let owner = format!("{}_owner", files.name());
    let writing = connect(&files, writer.name()).await;
    for sql in [
        "UPDATE records SET sealed = ''",
        "UPDATE records SET revision = revision + 1 WHERE position = 1",
        "DELETE FROM records",
        "DELETE FROM records WHERE position = 3",
        "TRUNCATE records",
        "INSERT INTO records SELECT * FROM records ON CONFLICT (position) DO UPDATE SET sealed = ''",
        "MERGE INTO records r USING records s ON r.position = s.position WHEN MATCHED THEN DELETE",
        "SELECT * FROM records FOR UPDATE",
        "UPDATE blobs SET sealed = ''",
        "DELETE FROM blobs",
        "DELETE FROM log_head",
        "INSERT INTO log_head VALUES (2, 0)",
        "DELETE FROM tenant_keys",
        "SELECT * FROM views",
        "DELETE FROM views",
        "UPDATE checkpoints SET position = 0",
        "ALTER TABLE records DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE records DROP COLUMN sealed",
        "ALTER TABLE records OWNER TO CURRENT_USER",
        "DROP TABLE records",
        "CREATE TRIGGER t BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION freehold_log_moved()",
        "CREATE RULE r AS ON INSERT TO records DO INSTEAD NOTHING",
        "CREATE POLICY p ON records USING (true)",
        "DROP INDEX records_by_event",
        "CREATE TABLE mine (a int)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "CREATE ROLE mine",
        "COPY records TO PROGRAM 'true'",
        "SET session_replication_role = replica",
        &format!("SET ROLE {owner}"),
        &format!("SET ROLE {}", reader.name()),
        &format!("SET ROLE {}", projector.name()),
        &format!("GRANT UPDATE ON records TO {}", writer.name()),
        &format!("ALTER ROLE {} BYPASSRLS", writer.name()),
    ] {
        match writing.execute_unprepared(sql).await {
            // GRANT without the right to grant is a warning, and does nothing.
            Ok(_) if sql.starts_with("GRANT") => {
                let may = texts(&writing, "SELECT has_table_privilege('records', 'UPDATE')::text").await;
                assert_eq!(may, ["false"], "{sql}");
            }
            outcome => refused(outcome, sql),
        }
    }
    assert_eq!(files.psql("SELECT md5(string_agg(r::text, '' ORDER BY position)) FROM records r").unwrap(), before);

    // Nor does the one that writes read models touch what they are made of.
    let projecting = connect(&files, projector.name()).await;
    for sql in [
        "INSERT INTO records SELECT 99, tenant, stream, 99, event, data_key, sealed FROM records",
        "UPDATE records SET sealed = ''",
        "DELETE FROM records",
        "UPDATE log_head SET position = 0",
        "SELECT * FROM tenant_keys",
        "SELECT * FROM secrets",
        "UPDATE leaders SET token = 0",
        "DROP TABLE views",
    ] {
        refused(projecting.execute_unprepared(sql).await, sql);
    }
    // What it is there for goes on.
    assert_eq!(world.store.append(append(TENANT, &stream, 3, 1, "more")).await.unwrap().revision, 4);
}

/// Rows of two tenants in everything that the reader may see.
async fn two_tenants(files: &TestDatabase, world: &World) {
    for (tenant, name) in [(TENANT, "mine"), (OTHER, "theirs")] {
        world.happen(tenant, schema::id::ProjectId::from_bits(7), 0, &[named(name, "here")]).await;
        world.store.put_blob(tenant, name.as_bytes()).await.unwrap();
        for sql in [
            format!("INSERT INTO heartbeats VALUES ('{tenant}', 's', 1, 1, 1, '', '[]')"),
            format!("INSERT INTO agent_reports VALUES ('{tenant}', 'a', 's', 1, 1, 'k', '')"),
            format!("INSERT INTO relay VALUES ('{tenant}', 'a', 'i', 's', 'p', NULL, NULL, 1, 1, 'k', '')"),
            format!("INSERT INTO ledger_index VALUES ('{tenant}', 0, 'e', 1)"),
            format!(
                "INSERT INTO receipts (tenant, agent, incarnation, seq, id, site, time, chain, data_key, sealed) \
                 VALUES ('{tenant}', 'a', 'i', 1, 'r', 's', 1, '', 'k', '')"
            ),
        ] {
            files.psql(&sql).unwrap();
        }
    }
    world.views().1.catch_up().await.unwrap();
}

pub(crate) async fn a_query_that_forgets_its_tenant_sees_one() {
    let (files, world) = World::new(Engine::PostgresRoles).await;
    two_tenants(&files, &world).await;
    let reader = roles_of(&files.name()).reader;
    let reading = connect(&files, reader.name()).await;
    let granted = "SELECT table_name::text FROM information_schema.table_privileges WHERE grantee = current_user ORDER BY 1";
    let tables = texts(&reading, granted).await;
    assert_eq!(tables.len(), 9, "{tables:?}");

    for table in &tables {
        // The first wall is left out: no `WHERE tenant = …`. Both tenants have rows; each sees its own.
        assert_eq!(files.psql(&format!("SELECT count(DISTINCT tenant) FROM {table}")).unwrap(), "2", "{table}");
        for tenant in [TENANT, OTHER, TENANT] {
            for sql in [
                format!("SELECT tenant FROM {table}"),
                format!("SELECT tenant FROM {table} WHERE tenant <> '' OR true"),
                format!("SELECT tenant FROM (SELECT * FROM {table} UNION ALL SELECT * FROM {table}) AS both_of"),
            ] {
                let rows = world.database.of(tenant).query_all_raw(world.database.sql(sql.as_str(), vec![])).await.unwrap();
                let seen: BTreeSet<String> = rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
                assert_eq!(seen, BTreeSet::from([tenant.to_string()]), "{sql}");
            }
            // Another's is not there even when it is asked for by name.
            let other = if tenant == TENANT { OTHER } else { TENANT };
            let sql = format!("SELECT tenant FROM {table} WHERE tenant = '{other}'");
            assert!(world.database.of(tenant).query_one_raw(world.database.sql(sql, vec![])).await.unwrap().is_none());
        }
        // Nobody's transaction sees nobody's rows, also on a connection that just served a tenant.
        assert!(texts(&reading, &format!("SELECT tenant FROM {table}")).await.is_empty(), "{table}");
    }
    reading.execute_unprepared(&format!("BEGIN; SELECT set_config('freehold.tenant', '{TENANT}', true); COMMIT")).await.unwrap();
    assert!(texts(&reading, "SELECT tenant FROM records").await.is_empty(), "the tenant outlived its transaction");

    for sql in [
        "SELECT * FROM tenant_keys",
        "SELECT * FROM secrets",
        "SELECT * FROM view_handles",
        "SELECT * FROM leaders",
        "SELECT * FROM deployment",
        "SET row_security = off; SELECT * FROM records",
        "INSERT INTO records SELECT 99, tenant, stream, 99, event, data_key, sealed FROM records",
        "UPDATE views SET state = ''",
        "DELETE FROM views",
        "TRUNCATE views",
        "SELECT * FROM views FOR UPDATE",
        "ALTER TABLE views DISABLE ROW LEVEL SECURITY",
        &format!("DROP POLICY {}_rows ON views", reader.name()),
        "CREATE TABLE mine (a int)",
        "CREATE VIEW mine AS SELECT * FROM records",
        "COPY records TO PROGRAM 'true'",
        &format!("SET ROLE {}_owner", files.name()),
        &format!("SET ROLE {}", roles_of(&files.name()).writer.name()),
        &format!("ALTER ROLE {} BYPASSRLS", reader.name()),
    ] {
        refused(reading.execute_unprepared(sql).await, sql);
        // A connection that failed inside a transaction, or changed a setting, is not used again.
        reading.execute_unprepared("ROLLBACK; RESET row_security").await.unwrap();
    }
}

pub(crate) async fn every_table_is_given_or_kept_by_choice() {
    let (files, _world) = World::new(Engine::PostgresRoles).await;
    let there = files
        .psql("SELECT string_agg(tablename, ' ' ORDER BY tablename COLLATE \"C\") FROM pg_tables WHERE schemaname = 'public'")
        .unwrap();
    let mut known: Vec<&str> = roles::tables().collect();
    known.sort_unstable();
    assert_eq!(
        there.split(' ').collect::<Vec<_>>(),
        known,
        "say in control-plane/src/database/roles.rs what each role may do with a new table"
    );
    let tenants = "SELECT string_agg(c.relname, ' ') FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' \
                   WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND NOT c.relrowsecurity";
    assert_eq!(files.psql(tenants).unwrap(), "", "rows of tenants without row-level security");
}

async fn open(files: &TestDatabase, roles: Roles) -> Result<Database, OpenError> {
    Database::open_with(&files.location, &Access { roles: Some(roles), ..Access::default() }).await
}

pub(crate) async fn roles_that_may_too_much_are_refused() {
    let (files, world) = World::new(Engine::PostgresRoles).await;
    world.close().await;
    // Grants are not put right before the roles are looked at.
    let roles = || Roles { migrate: false, ..roles_of(&files.name()) };
    let (w, r, p, owner) = (roles().writer, roles().reader, roles().projector, format!("{}_owner", files.name()));
    let (w, r, p) = (w.name(), r.name(), p.name());
    for (done, undone, role, told) in [
        (format!("ALTER ROLE {w} SUPERUSER"), format!("ALTER ROLE {w} NOSUPERUSER"), w, "superuser"),
        (format!("GRANT freehold TO {r}"), format!("REVOKE freehold FROM {r}"), r, "superuser"),
        (format!("ALTER ROLE {r} BYPASSRLS"), format!("ALTER ROLE {r} NOBYPASSRLS"), r, "BYPASSRLS"),
        (format!("ALTER ROLE {p} CREATEROLE"), format!("ALTER ROLE {p} NOCREATEROLE"), p, "CREATEROLE"),
        (format!("ALTER ROLE {p} REPLICATION"), format!("ALTER ROLE {p} NOREPLICATION"), p, "REPLICATION"),
        (format!("GRANT {owner} TO {w}"), format!("REVOKE {owner} FROM {w}"), w, "owns"),
        (
            format!("ALTER TABLE views OWNER TO {p}"),
            format!("ALTER TABLE views OWNER TO {owner}; GRANT SELECT, INSERT, UPDATE, DELETE ON views TO {p}"),
            p,
            "owns, or may become who owns, tables (views)",
        ),
        (
            format!("GRANT UPDATE ON records TO {w}"),
            format!("REVOKE UPDATE ON records FROM {w}"),
            w,
            "may do more than it should with records",
        ),
        ("GRANT UPDATE (sealed) ON records TO PUBLIC".into(), "REVOKE UPDATE (sealed) ON records FROM PUBLIC".into(), w, "with records"),
        (format!("GRANT DELETE ON blobs TO {w}"), format!("REVOKE DELETE ON blobs FROM {w}"), w, "with blobs"),
        (format!("GRANT pg_write_all_data TO {w}"), format!("REVOKE pg_write_all_data FROM {w}"), w, "more than it should"),
        (format!("GRANT UPDATE ON log_head TO {p}"), format!("REVOKE UPDATE ON log_head FROM {p}"), p, "with log_head"),
        (format!("GRANT SELECT ON secrets TO {r}"), format!("REVOKE SELECT ON secrets FROM {r}"), r, "with secrets"),
        (format!("GRANT INSERT ON views TO {r}"), format!("REVOKE INSERT ON views FROM {r}"), r, "with views"),
        (format!("GRANT {w} TO {r}"), format!("REVOKE {w} FROM {r}"), r, "more than it should"),
        (
            "CREATE POLICY open ON receipts USING (true)".into(),
            "DROP POLICY open ON receipts".into(),
            r,
            "is not held to one tenant in receipts",
        ),
        (
            "ALTER TABLE views DISABLE ROW LEVEL SECURITY".into(),
            "ALTER TABLE views ENABLE ROW LEVEL SECURITY".into(),
            r,
            "is not held to one tenant in views",
        ),
        (
            format!("REVOKE INSERT ON records FROM {w}"),
            format!("GRANT INSERT ON records TO {w}"),
            w,
            "has not been given INSERT of records",
        ),
    ] {
        files.psql(&done).unwrap();
        let error = open(&files, roles()).await.expect_err(&done);
        let OpenError::Role { role: named, .. } = &error else { panic!("{done}: {error:?}") };
        assert_eq!(named, role, "{done}: {error}");
        assert!(error.to_string().contains(told), "{done}: {error}");
        files.psql(&undone).unwrap();
    }
    let sound = open(&files, roles()).await.unwrap();
    sound.close().await.unwrap();
    // With the owner at hand, a start takes back what was given too much.
    files.psql(&format!("GRANT UPDATE ON records TO {w}; GRANT SELECT ON secrets TO {r}")).unwrap();
    open(&files, roles_of(&files.name())).await.unwrap().close().await.unwrap();
    // A schema that is behind is told, and by whom it is brought up.
    files.psql("DELETE FROM seaql_migrations WHERE version = 'm20261130_000260_ledger_index'").unwrap();
    let behind = open(&files, roles()).await.unwrap_err();
    assert!(matches!(&behind, OpenError::Outdated { missing } if missing.contains("ledger_index")), "{behind:?}");
    assert!(behind.to_string().contains("freehold-control-plane database migrate"), "{behind}");
}

pub(crate) async fn roles_are_made_by_command_and_again_without_harm() {
    let files = TestDatabase::new(Engine::PostgresRoles).unwrap();
    let (name, Location::Postgres(url)) = (files.name(), &files.location) else { unreachable!() };
    let duty = |duty: &str| Some(format!("{name}_made_{duty}"));
    let mut config = Config { data_dir: files.folder.path().to_path_buf(), ..Config::default() };
    config.store.url = Some(url.clone());
    config.store.roles = RolesConfig {
        writer: duty("writer"),
        reader: duty("reader"),
        projector: duty("projector"),
        migrate: false,
        ..RolesConfig::default()
    };
    let Some(roles) = config.store.roles.read().unwrap() else { panic!("roles") };

    // Who may not make roles is told what to do instead.
    let error = preparing::make_roles(&config).await.unwrap_err();
    let StartError::Database(error) = error else { panic!("{error:?}") };
    assert!(matches!(error, OpenError::Granting(_)) && error.to_string().contains("database roles"), "{error:?}");
    // An administrator runs what is printed, twice.
    let script = preparing::script(&config).unwrap();
    for _ in 0..2 {
        files.psql(&script).unwrap();
    }
    open(&files, roles.clone()).await.unwrap().close().await.unwrap();
    // Or lets the owner do it, who then may.
    files.psql(&format!("ALTER ROLE {name}_owner CREATEROLE")).unwrap();
    for _ in 0..2 {
        preparing::make_roles(&config).await.unwrap();
        preparing::migrate(&config).await.unwrap();
    }
    open(&files, roles).await.unwrap().close().await.unwrap();
    // Without names in the settings it is those of the documentation.
    config.store.roles = RolesConfig::default();
    assert!(preparing::script(&config).unwrap().contains("CREATE ROLE freehold_writer"));

    config.store.url = None;
    let file = preparing::make_roles(&config).await.unwrap_err();
    assert!(file.to_string().contains("this is for PostgreSQL"), "{file}");
}

/// Which tables could not be split by tenant, and why that does no harm.
const WHOLE: &[&str] = &[
    "deployment",
    "deployment_move",
    "deployment_restore",
    "backup_runs",
    "sealing_keys", // of the deployment
    "log_head",
    "checkpoints",
    "leaders",
    "reactors",
    "seaql_migrations", // a few rows
    "records",          // split by position: the log is read in its order
    "view_handles",     // finds the tenant
];

pub(crate) async fn the_read_model_can_be_split_by_tenant() {
    let files = TestDatabase::new(Engine::Postgres).unwrap();
    let database = Database::open(&files.location).await.unwrap();
    let tables = texts(database.write(), "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1").await;
    let unknown: Vec<_> = WHOLE.iter().filter(|name| !tables.iter().any(|table| table == **name)).collect();
    assert!(unknown.is_empty(), "no such tables: {unknown:?}");
    let (mut split, mut refusals) = (0, Vec::new());
    for table in &tables {
        // PostgreSQL takes no unique constraint into a partitioned table that does not hold what it is split by.
        let sql = format!("CREATE TABLE {table}_split (LIKE {table} INCLUDING ALL) PARTITION BY HASH (tenant)");
        let outcome = database.write().execute_unprepared(&sql).await;
        match (outcome, WHOLE.contains(&table.as_str())) {
            (Ok(_), false) => split += 1,
            (Err(_), true) => {}
            (outcome, _) => refusals.push(format!("{table}: {outcome:?}")),
        }
    }
    assert!(refusals.is_empty() && split > 10, "{split} tables can be split; otherwise than said: {refusals:#?}");
    database.close().await.unwrap();
}
