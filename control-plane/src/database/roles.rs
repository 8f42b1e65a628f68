//! Who may do what in PostgreSQL: three roles that own nothing. The writer adds records and can change none of them; the
//! reader sees the rows of the one tenant that its transaction names, whatever a query forgot; the projector reads all and
//! writes read models. The owner of the tables is used for migrations, and for nothing else.
//!
//! [`script`] is what a person may read and run; [`grant`] is the part of it that the owner can do; [`check`] is what a role is
//! held to before anything is served.

use std::fmt::{self, Write};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement, TransactionTrait, TryGetable};
use zeroize::Zeroizing;

/// What names the tenant of a transaction.
pub(super) const TENANT_SETTING: &str = "freehold.tenant";
/// The longest name of a role: PostgreSQL cuts off what is longer than 63 bytes, and names of policies end in `_rows`.
const MAX_NAME: usize = 55;

/// The roles of one deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// Adds records.
    pub writer: Role,
    /// Answers questions inside one tenant.
    pub reader: Role,
    /// Writes read models.
    pub projector: Role,
    /// Whether the owner that the URL names brings the schema up to date when a control plane starts.
    pub migrate: bool,
}

/// A user of the database.
#[derive(Clone, PartialEq, Eq)]
pub struct Role {
    name: String,
    password: Option<Zeroizing<String>>,
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Role {
    /// One of this name; none when it is not a plain name: `a` to `z`, digits and `_`, not a digit first.
    pub fn new(name: &str, password: Option<Zeroizing<String>>) -> Option<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let fits = (1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain);
        (fits && !name.starts_with(|c: char| c.is_ascii_digit())).then(|| Self { name: name.to_owned(), password })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn password(&self) -> Option<Zeroizing<String>> {
        self.password.clone()
    }
}

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Adds records.
    Writer,
    /// Answers inside one tenant.
    Reader,
    /// Writes read models.
    Projector,
}

impl Duty {
    /// The setting that names its role.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Writer => "store.roles.writer",
            Self::Reader => "store.roles.reader",
            Self::Projector => "store.roles.projector",
        }
    }
}

/// A table, and what each role may do with it.
struct Table {
    name: &'static str,
    /// Whether it has rows of tenants.
    tenants: bool,
    writer: &'static str,
    projector: &'static str,
    /// Whether the reader may see the rows of its tenant.
    read: bool,
}

const fn tenants(name: &'static str, writer: &'static str, projector: &'static str, read: bool) -> Table {
    Table { name, tenants: true, writer, projector, read }
}

const fn deployment(name: &'static str, writer: &'static str, projector: &'static str) -> Table {
    Table { name, tenants: false, writer, projector, read: false }
}

const ADD: &str = "SELECT, INSERT";
const KEEP: &str = "SELECT, INSERT, UPDATE";
const ALL: &str = "SELECT, INSERT, UPDATE, DELETE";
const READ: &str = "SELECT";
const NOTHING: &str = "";

/// Every table. What is not here is given to nobody but the owner.
const TABLES: &[Table] = &[
    // The log: added to, never changed.
    tenants("records", ADD, READ, true),
    tenants("blobs", ADD, READ, true),
    deployment("log_head", "SELECT, UPDATE", READ),
    // Keys at rest: no reading role sees them, sealed as they are.
    tenants("tenant_keys", KEEP, NOTHING, false),
    tenants("secrets", ALL, NOTHING, false),
    tenants("person_keys", ALL, NOTHING, false),
    tenants("tombstones", ALL, NOTHING, false),
    deployment("sealing_keys", ALL, NOTHING),
    deployment("deployment", KEEP, READ),
    deployment("deployment_move", READ, READ),
    deployment("deployment_restore", READ, READ),
    deployment("backup_runs", KEEP, READ),
    // Who leads what, and how far it has come.
    deployment("leaders", KEEP, READ),
    deployment("reactors", KEEP, READ),
    // What agents are told and tell. It goes with an erased tenant.
    tenants("heartbeats", ALL, READ, true),
    tenants("agent_reports", ALL, READ, true),
    tenants("agent_ratchets", ALL, READ, false),
    tenants("receipts", ALL, READ, true),
    tenants("relay", ALL, READ, true),
    tenants("recovery_evidence", ALL, READ, false),
    // Read models.
    tenants("views", NOTHING, ALL, true),
    tenants("view_terms", NOTHING, ALL, true),
    tenants("view_handles", NOTHING, ALL, false),
    tenants("ledger_index", NOTHING, ALL, true),
    deployment("checkpoints", READ, KEEP),
    deployment("seaql_migrations", READ, READ),
];

/// The names of the tables that roles are given something of.
pub fn tables() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|table| table.name)
}

/// All of it, for a person: makes the roles that are not there and gives them what they need. Running it again changes nothing.
pub fn script(roles: &Roles) -> String {
    let mut sql = String::from(
        "-- Roles of a Freehold control plane. Run it in its database once the tables are there, as somebody who owns them and may\n\
         -- make roles. Passwords are yours to set (\\password <role>), or use certificates.\n\n",
    );
    for role in [&roles.writer, &roles.reader, &roles.projector] {
        let _ = writeln!(sql, "{};", make(role.name()));
    }
    for statement in grants(roles) {
        let _ = writeln!(sql, "{statement};");
    }
    sql
}

fn make(name: &str) -> String {
    format!(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN \
         CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS; END IF; END $$"
    )
}

/// What the owner of the tables gives. A policy says `true` to roles that serve all tenants: without one they would see nothing.
fn grants(roles: &Roles) -> Vec<String> {
    let (writer, reader, projector) = (roles.writer.name(), roles.reader.name(), roles.projector.name());
    let mut statements = vec![format!(
        "DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO {writer}, {reader}, {projector}', current_schema()); END $$"
    )];
    for Table { name, tenants, writer: writes, projector: projects, read } in TABLES {
        statements.push(format!("REVOKE ALL ON {name} FROM {writer}, {reader}, {projector}"));
        let given = [(writer, *writes), (projector, *projects), (reader, if *read { READ } else { NOTHING })];
        for (role, rights) in given.iter().filter(|(_, rights)| *rights != NOTHING) {
            statements.push(format!("GRANT {rights} ON {name} TO {role}"));
        }
        if !tenants {
            continue;
        }
        statements.push(format!(
            "DO $$ BEGIN IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = '{name}'::regclass) THEN \
             ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; END IF; END $$"
        ));
        let own = format!("USING (tenant = current_setting('{TENANT_SETTING}', true))");
        for (role, rights) in given {
            let rows = match rights {
                NOTHING => continue,
                READ if role == reader => format!("FOR SELECT TO {role} {own}"),
                _ => format!("TO {role} USING (true) WITH CHECK (true)"),
            };
            statements.push(format!(
                "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_policies WHERE schemaname = current_schema() AND tablename = '{name}' \
                 AND policyname = '{role}_rows') THEN CREATE POLICY {role}_rows ON {name} {rows}; END IF; END $$"
            ));
        }
    }
    statements
}

/// Makes the roles that are not there. Who connects must be allowed to.
pub async fn create(owner: &DatabaseConnection, roles: &Roles) -> Result<(), DbErr> {
    for role in [&roles.writer, &roles.reader, &roles.projector] {
        owner.execute_unprepared(&make(role.name())).await?;
    }
    Ok(())
}

/// Whether all of them are there.
pub async fn exist(owner: &DatabaseConnection, roles: &Roles) -> Result<bool, DbErr> {
    let names = [&roles.writer, &roles.reader, &roles.projector].map(|role| format!("'{}'", role.name())).join(", ");
    let sql = format!("SELECT count(*) = 3 FROM pg_roles WHERE rolname IN ({names})");
    one::<bool>(owner, Statement::from_string(DbBackend::Postgres, sql)).await.map(Option::unwrap_or_default)
}

/// Gives the roles what they need, and takes what they do not. Replicas that start together take turns.
pub async fn grant(owner: &DatabaseConnection, roles: &Roles) -> Result<(), DbErr> {
    let transaction = owner.begin().await?;
    transaction.execute_unprepared("SELECT pg_advisory_xact_lock(7236837458092)").await?;
    for statement in grants(roles) {
        transaction.execute_unprepared(&statement).await?;
    }
    transaction.commit().await
}

/// Why a role may not be used, in words that follow its name; none when it may.
pub(super) async fn check(connection: &DatabaseConnection, duty: Duty, roles: &Roles) -> Result<Option<String>, DbErr> {
    // All that it is, or could make itself by SET ROLE.
    const SELVES: &str = "pg_roles r WHERE pg_has_role(current_user, r.oid, 'MEMBER')";
    let asked = |sql: String| Statement::from_string(DbBackend::Postgres, sql);
    let flag = async |sql: String| one::<bool>(connection, asked(sql)).await.map(Option::unwrap_or_default);
    let list = async |sql: String| one::<Option<String>>(connection, asked(sql)).await.map(Option::flatten);

    for (attribute, told) in [
        ("rolsuper", "is, or may become, a superuser"),
        ("rolbypassrls", "bypasses row-level security (BYPASSRLS)"),
        ("rolcreaterole", "may make roles (CREATEROLE)"),
        ("rolreplication", "may copy the whole server (REPLICATION)"),
    ] {
        if flag(format!("SELECT EXISTS (SELECT FROM {SELVES} AND r.{attribute})")).await? {
            return Ok(Some(told.to_owned()));
        }
    }
    let owned = "SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
                 AND pg_has_role(current_user, c.relowner, 'MEMBER')";
    if let Some(owned) = list(owned.to_owned()).await? {
        return Ok(Some(format!("owns, or may become who owns, tables ({owned})")));
    }
    if flag("SELECT pg_has_role(current_user, datdba, 'MEMBER') FROM pg_database WHERE datname = current_database()".to_owned()).await? {
        return Ok(Some("owns, or may become who owns, the database".to_owned()));
    }

    let may = async |rights: &str, tables: String| {
        list(format!(
            "SELECT string_agg(DISTINCT t.name, ', ') FROM (VALUES {tables}) AS t (name), {SELVES} AND CASE \
             WHEN to_regclass(t.name) IS NULL THEN false WHEN has_table_privilege(r.oid, to_regclass(t.name), '{rights}') THEN true \
             ELSE '{rights}' LIKE '%UPDATE%' AND has_any_column_privilege(r.oid, to_regclass(t.name), 'UPDATE') END"
        ))
        .await
    };
    let named = |keep: &dyn Fn(&Table) -> bool| {
        TABLES.iter().filter(|table| keep(table)).map(|table| format!("('{}')", table.name)).collect::<Vec<_>>().join(", ")
    };
    let (too_much, wants, wanted) = match duty {
        Duty::Writer => (may("UPDATE, DELETE, TRUNCATE", "('records'), ('blobs')".to_owned()).await?, "INSERT", "records"),
        Duty::Reader => {
            let written = may("INSERT, UPDATE, DELETE, TRUNCATE", named(&|_| true)).await?;
            let seen = may("SELECT", named(&|table| !table.read)).await?;
            (written.or(seen), "SELECT", "views")
        }
        Duty::Projector => {
            let written = may("INSERT, UPDATE, DELETE, TRUNCATE", "('records'), ('blobs'), ('log_head')".to_owned()).await?;
            (written, "INSERT", "views")
        }
    };
    if let Some(tables) = too_much {
        return Ok(Some(format!("may do more than it should with {tables}")));
    }
    if !flag(format!("SELECT COALESCE(has_table_privilege(to_regclass('{wanted}'), '{wants}'), false)")).await? {
        return Ok(Some(format!("has not been given {wants} of {wanted}")));
    }
    if duty == Duty::Reader {
        // A wall with a second door in it is none.
        let open = format!(
            "SELECT string_agg(DISTINCT t.name, ', ') FROM (VALUES {}) AS t (name) WHERE NOT row_security_active(t.name) OR EXISTS \
             (SELECT FROM pg_policies p WHERE p.schemaname = current_schema() AND p.tablename = t.name AND p.permissive = 'PERMISSIVE' \
             AND (p.policyname <> '{}_rows' OR p.qual NOT LIKE '%{TENANT_SETTING}%') AND EXISTS (SELECT FROM unnest(p.roles) AS to_role \
             WHERE CASE to_role WHEN 'public' THEN true ELSE pg_has_role(current_user, to_role, 'MEMBER') END))",
            named(&|table| table.read),
            roles.reader.name()
        );
        if let Some(tables) = list(open).await? {
            return Ok(Some(format!("is not held to one tenant in {tables}")));
        }
    }
    Ok(None)
}

async fn one<T: TryGetable>(connection: &DatabaseConnection, statement: Statement) -> Result<Option<T>, DbErr> {
    connection.query_one_raw(statement).await?.map(|row| row.try_get_by_index(0)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_roles_are_plain() {
        for good in ["freehold_writer", "w", "_a1"] {
            assert_eq!(Role::new(good, None).unwrap().name(), good);
        }
        let long = "a".repeat(MAX_NAME + 1);
        for bad in ["", "1a", "Writer", "a b", "a\"b", "a'; DROP TABLE records; --", "ä", &long] {
            assert!(Role::new(bad, None).is_none(), "{bad}");
        }
    }

    #[test]
    fn nobody_but_the_owner_can_change_a_record() {
        let named = |name: &str| Role::new(name, Some(Zeroizing::new("hunter2".to_owned()))).unwrap();
        let roles = Roles { writer: named("w"), reader: named("r"), projector: named("p"), migrate: true };
        let script = script(&roles);
        assert!(script.contains("GRANT SELECT, INSERT ON records TO w;"));
        assert!(!script.lines().any(|line| line.starts_with("GRANT") && line.contains("DELETE") && line.contains("ON records")));
        assert!(!format!("{script}{roles:?}").contains("hunter2"));
        for line in script.lines().filter(|line| line.starts_with("GRANT") && line.ends_with(" TO r;")) {
            assert!(line.starts_with("GRANT SELECT ON "), "{line}");
        }
    }
}
