//! Tables: found by asking the database, so that one that is new travels without anybody thinking of it.

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, QueryResult, Value};

use super::{MoveError, asking};
use crate::{database::Database, eventing::view::WORK_TABLES};

/// Rows read at once.
const PAGE: usize = 500;

/// Made by each store for itself, or carried by other means.
const NEVER: [&str; 8] =
    ["seaql_migrations", "log_head", "records", "ledger_index", "leaders", "reactors", "deployment_move", "backup_runs"];
/// Columns of the read model that are computed from nothing but records.
const COMPUTED: &str = "tenant, kind, id, revision, valid_from, valid_to, parent, name, state";

/// When a table is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Always,
    /// When positions are the same on both sides; else it is made anew.
    WithPositions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    kind: Kind,
}

/// A table that is copied.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) kept: Kept,
    columns: Vec<Column>,
    /// Places of the primary key's columns among them.
    key: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Null,
    Text(String),
    Number(i64),
    Bytes(Vec<u8>),
}

/// The tables to copy; the same on both sides, or an error.
pub(super) async fn of(source: &Database, target: &Database) -> Result<Vec<Table>, MoveError> {
    let mut tables = Vec::new();
    for name in names(source).await? {
        if NEVER.contains(&name.as_str()) || WORK_TABLES.contains(&name.as_str()) {
            continue;
        }
        let table = table(source, &name).await?;
        let wrong = |reason: &str| MoveError::Table { table: name.clone(), reason: reason.to_owned() };
        let there = self::table(target, &name).await?;
        let sorted = |table: &Table| {
            let mut names: Vec<_> = table.columns.iter().map(|column| (column.name.clone(), column.kind == Kind::Bytes)).collect();
            names.sort();
            names
        };
        if sorted(&table) != sorted(&there) {
            return Err(wrong("its columns differ between the two databases"));
        }
        if table.key.is_empty() {
            return Err(wrong("it has no primary key"));
        }
        if table.kept == Kept::Always && table.columns.iter().any(|column| column.name == "position") {
            return Err(wrong("it holds positions of the log, and nothing tells how to translate them"));
        }
        tables.push(table);
    }
    Ok(tables)
}

/// A table with rows in it, where a new database has none.
pub(super) async fn first_filled(database: &Database) -> Result<Option<String>, MoveError> {
    for name in names(database).await? {
        let empty = match name.as_str() {
            "seaql_migrations" => continue,
            "log_head" => "SELECT COUNT(*) FROM log_head WHERE position > 0".to_owned(),
            _ => format!("SELECT COUNT(*) FROM \"{name}\""),
        };
        let row = database.write().query_one_raw(database.sql(empty, vec![])).await.map_err(asking("looking into the target"))?;
        let rows: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose().map_err(asking("looking into the target"))?;
        if rows != Some(0) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Copies every row; those that are there stay.
pub(super) async fn copy(table: &Table, source: &Database, target: &Database) -> Result<(), MoveError> {
    let act = "copying a table";
    let mut rows = Rows::open(table, source).await.map_err(asking(act))?;
    let names: Vec<_> = table.columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
    loop {
        let page = rows.next().await.map_err(asking(act))?;
        if page.is_empty() {
            return rows.end().await.map_err(asking(act));
        }
        let transaction = target.begin().await.map_err(asking(act))?;
        for page in page.chunks(64) {
            let sql = format!(
                "INSERT INTO \"{}\" ({}) VALUES {} ON CONFLICT DO NOTHING",
                table.name,
                names.join(", "),
                places(page.len(), table.columns.len())
            );
            let values = page.iter().flat_map(|row| row.iter().zip(&table.columns)).map(|(cell, column)| value(cell, column.kind));
            transaction.execute_raw(target.sql(sql, values.collect())).await.map_err(asking(act))?;
        }
        transaction.commit().await.map_err(asking(act))?;
    }
}

/// Reads every row of both sides, in the order of the primary key; how many there are.
pub(super) async fn compare(table: &Table, source: &Database, target: &Database) -> Result<u64, MoveError> {
    let act = "comparing a table";
    let mut ours = Rows::open(table, source).await.map_err(asking(act))?;
    let mut theirs = Rows::open(table, target).await.map_err(asking(act))?;
    let mut count = 0;
    loop {
        let (here, there) = (ours.next().await.map_err(asking(act))?, theirs.next().await.map_err(asking(act))?);
        if here != there {
            let first = here.iter().zip(&there).take_while(|(here, there)| here == there).count() as u64;
            return Err(MoveError::Differs { what: format!("row {} of {}", count + first + 1, table.name) });
        }
        if here.is_empty() {
            ours.end().await.map_err(asking(act))?;
            theirs.end().await.map_err(asking(act))?;
            return Ok(count);
        }
        count += here.len() as u64;
    }
}

/// Compares read models that were made on each side for itself: everything but positions, and sealed states, which a rotated
/// data key seals to other bytes.
pub(super) async fn compare_read_models(source: &Database, target: &Database) -> Result<u64, MoveError> {
    let mut views = table(source, "views").await?;
    let wanted: Vec<_> = COMPUTED.split(", ").collect();
    let key: Vec<_> = views.key.iter().map(|place| views.columns[*place].name.clone()).collect();
    views.columns.retain(|column| wanted.contains(&column.name.as_str()));
    views.key = key.iter().filter_map(|name| views.columns.iter().position(|column| column.name == *name)).collect();
    let rows = compare(&views, source, target).await?;
    for name in ["view_terms", "view_handles"] {
        compare(&table(source, name).await?, source, target).await?;
    }
    Ok(rows)
}

/// `($1, $2), ($3, $4)` for so many rows of so many columns.
pub(super) fn places(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let places: Vec<_> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", places.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

async fn names(database: &Database) -> Result<Vec<String>, MoveError> {
    let sql = match database.backend() {
        DbBackend::Postgres => {
            "SELECT table_name::text FROM information_schema.tables \
             WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY 1"
        }
        _ => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1",
    };
    let rows = database.write().query_all_raw(database.sql(sql, vec![])).await.map_err(asking("listing tables"))?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect::<Result<_, DbErr>>().map_err(asking("listing tables"))
}

async fn table(database: &Database, name: &str) -> Result<Table, MoveError> {
    let sql = match database.backend() {
        DbBackend::Postgres => {
            "SELECT c.column_name::text, c.data_type::text, COALESCE(k.ordinal_position, 0)::bigint \
             FROM information_schema.columns c \
             LEFT JOIN information_schema.table_constraints t ON t.table_schema = c.table_schema AND t.table_name = c.table_name \
               AND t.constraint_type = 'PRIMARY KEY' \
             LEFT JOIN information_schema.key_column_usage k ON k.constraint_schema = t.constraint_schema \
               AND k.constraint_name = t.constraint_name AND k.table_name = c.table_name AND k.column_name = c.column_name \
             WHERE c.table_schema = current_schema() AND c.table_name = $1 ORDER BY c.column_name"
        }
        _ => "SELECT name, type, pk FROM pragma_table_info($1) ORDER BY name",
    };
    let act = "reading what columns a table has";
    let rows = database.write().query_all_raw(database.sql(sql, vec![name.into()])).await.map_err(asking(act))?;
    let read = |row: &QueryResult| -> Result<(String, String, i64), DbErr> {
        Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?))
    };
    let mut columns = Vec::new();
    let mut key = Vec::new();
    for row in &rows {
        let (column, kind, place) = read(row).map_err(asking(act))?;
        let kind = match kind.to_ascii_lowercase().as_str() {
            "text" => Kind::Text,
            "integer" | "bigint" => Kind::Number,
            "blob" | "bytea" => Kind::Bytes,
            other => {
                return Err(MoveError::Table { table: name.to_owned(), reason: format!("its column {column} is of the kind {other}") });
            }
        };
        if place > 0 {
            key.push((place, columns.len()));
        }
        columns.push(Column { name: column, kind });
    }
    key.sort_unstable();
    let read_model = name == "checkpoints" || name.starts_with("view");
    Ok(Table {
        name: name.to_owned(),
        kept: if read_model { Kept::WithPositions } else { Kept::Always },
        columns,
        key: key.into_iter().map(|(_, place)| place).collect(),
    })
}

fn value(cell: &Cell, kind: Kind) -> Value {
    match (cell, kind) {
        (Cell::Text(text), _) => text.clone().into(),
        (Cell::Number(number), _) => (*number).into(),
        (Cell::Bytes(bytes), _) => bytes.clone().into(),
        (Cell::Null, Kind::Text) => None::<String>.into(),
        (Cell::Null, Kind::Number) => None::<i64>.into(),
        (Cell::Null, Kind::Bytes) => None::<Vec<u8>>.into(),
    }
}

/// Rows in the order of the primary key, byte by byte whatever the database sorts by, page after page.
struct Rows<'a> {
    table: &'a Table,
    database: &'a Database,
    /// PostgreSQL: the transaction whose cursor is read.
    transaction: Option<DatabaseTransaction>,
    last: Option<Vec<Value>>,
}

impl<'a> Rows<'a> {
    async fn open(table: &'a Table, database: &'a Database) -> Result<Self, DbErr> {
        let mut rows = Self { table, database, transaction: None, last: None };
        if database.backend() == DbBackend::Postgres {
            let transaction = database.begin().await?;
            let sql = format!("DECLARE {} NO SCROLL CURSOR FOR {} ORDER BY {}", rows.cursor(), rows.select(), rows.key(" COLLATE \"C\""));
            transaction.execute_unprepared(&sql).await?;
            rows.transaction = Some(transaction);
        }
        Ok(rows)
    }

    /// Another name for other columns: drivers remember what the text of a statement answers with.
    fn cursor(&self) -> String {
        format!("moving_{}_{}", self.table.name, self.table.columns.len())
    }

    fn select(&self) -> String {
        let names: Vec<_> = self.table.columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
        format!("SELECT {} FROM \"{}\"", names.join(", "), self.table.name)
    }

    fn key(&self, collation: &str) -> String {
        let column = |place: &usize| {
            let column = &self.table.columns[*place];
            format!("\"{}\"{}", column.name, if column.kind == Kind::Text { collation } else { "" })
        };
        self.table.key.iter().map(column).collect::<Vec<_>>().join(", ")
    }

    async fn next(&mut self) -> Result<Vec<Vec<Cell>>, DbErr> {
        let found = match &self.transaction {
            Some(transaction) => {
                transaction.query_all_raw(self.database.sql(format!("FETCH FORWARD {PAGE} FROM {}", self.cursor()), vec![])).await?
            }
            None => {
                let key = self.key("");
                let beyond = match &self.last {
                    Some(last) => format!(" WHERE ({key}) > {}", places(1, last.len())),
                    None => String::new(),
                };
                let sql = format!("{}{beyond} ORDER BY {key} LIMIT {PAGE}", self.select());
                self.database.read().query_all_raw(self.database.sql(sql, self.last.clone().unwrap_or_default())).await?
            }
        };
        let mut page = Vec::with_capacity(found.len());
        for row in &found {
            let mut cells = Vec::with_capacity(self.table.columns.len());
            for (at, column) in self.table.columns.iter().enumerate() {
                cells.push(cell(row, at, column.kind)?);
            }
            page.push(cells);
        }
        if let Some(row) = page.last() {
            self.last = Some(self.table.key.iter().map(|place| value(&row[*place], self.table.columns[*place].kind)).collect());
        }
        Ok(page)
    }

    async fn end(self) -> Result<(), DbErr> {
        match self.transaction {
            Some(transaction) => transaction.rollback().await,
            None => Ok(()),
        }
    }
}

fn cell(row: &QueryResult, at: usize, kind: Kind) -> Result<Cell, DbErr> {
    Ok(match kind {
        Kind::Text => row.try_get_by_index::<Option<String>>(at)?.map_or(Cell::Null, Cell::Text),
        Kind::Number => row.try_get_by_index::<Option<i64>>(at)?.map_or(Cell::Null, Cell::Number),
        Kind::Bytes => row.try_get_by_index::<Option<Vec<u8>>>(at)?.map_or(Cell::Null, Cell::Bytes),
    })
}
