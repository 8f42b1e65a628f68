//! The name of the deployment that a database belongs to: recorded at the first start, fixed from then on.

use sea_orm::{ConnectionTrait, DbErr};

use crate::database::Database;

/// The name the database has; `wanted` when it has none yet, which is recorded.
pub async fn recorded(database: &Database, wanted: &str) -> Result<String, DbErr> {
    let sql = "UPDATE deployment SET name = $1 WHERE id = 1 AND name IS NULL";
    database.write().execute_raw(database.sql(sql, vec![wanted.into()])).await?;
    let row = database.write().query_one_raw(database.sql("SELECT name FROM deployment WHERE id = 1", vec![])).await?;
    let name: Option<String> = row.map(|row| row.try_get_by_index(0)).transpose()?;
    Ok(name.unwrap_or_else(|| wanted.to_owned()))
}
