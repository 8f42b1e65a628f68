//! Proves a backup: restores it elsewhere, walks through all of it, and takes it away again.

use std::{path::Path, sync::Arc};

use schema::clock::{Clock, Ids, random};
use serde::Serialize;
use sqlx::Connection as _;
use trust::seal::PrekeySecret;

use super::{
    BackupError,
    file::Engine,
    make::{Made, read_head},
    restore::restore_into,
};
use crate::{
    app::owned,
    config::Config,
    database::Location,
    verify::{StoreReport, verify_store},
};

/// What a drill found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drilled {
    /// The backup.
    pub backup: Made,
    /// Everything that was restored, walked through.
    pub report: StoreReport,
}

/// Restores a backup to a place of its own and walks through it. A backup of SQLite goes to a folder in `scratch`; one of
/// PostgreSQL to a database that is made on the server of `server` (else of the store) and dropped again.
pub async fn drill(
    config: &Config,
    path: &Path,
    secret: &PrekeySecret,
    scratch: &Path,
    server: Option<&str>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
) -> Result<Drilled, BackupError> {
    let backup = read_head(path)?;
    let folder = scratch.join(format!("drill-{}-{}", backup.id, hex::encode(random::<4>(&*ids))));
    service::files::create_private_directory(&folder)?;
    let outcome = match backup.engine {
        Engine::Sqlite => {
            let place = Location::Sqlite(folder.join("freehold.db"));
            look(config, &place, &folder, path, secret, &clock, &ids).await
        }
        Engine::Postgresql => {
            let url = match (server, owned(config)?.0) {
                (Some(url), _) => url.to_owned(),
                (None, Location::Postgres(url)) => url,
                (None, Location::Sqlite(_)) => {
                    let what = "this is a backup of PostgreSQL: name a server with --server postgres://user@host/database".to_owned();
                    return Err(BackupError::Setting { setting: "store.url", what });
                }
            };
            on_postgres(config, &url, &folder, path, secret, &clock, &ids).await
        }
    };
    let _ = std::fs::remove_dir_all(&folder);
    Ok(Drilled { backup, report: outcome? })
}

async fn look(
    config: &Config,
    place: &Location,
    folder: &Path,
    path: &Path,
    secret: &PrekeySecret,
    clock: &Arc<dyn Clock>,
    ids: &Arc<dyn Ids>,
) -> Result<StoreReport, BackupError> {
    restore_into(place, folder, config.backup.postgres_tools.as_deref(), path, secret, &**clock).await?;
    let mut restored = Config { data_dir: folder.to_owned(), ..config.clone() };
    restored.sealing.key_file = Some(config.sealing_key_file());
    restored.backup = Default::default();
    restored.store = Default::default();
    if let Location::Postgres(url) = place {
        let mut url = url::Url::parse(url).map_err(|_| BackupError::Nothing)?;
        if let Some(password) = url.password().map(str::to_owned) {
            let file = folder.join("password");
            service::files::write_atomic(&file, password.as_bytes(), service::files::OWNER_ONLY)?;
            restored.store.password_file = Some(file);
            let _ = url.set_password(None);
        }
        restored.store.url = Some(url.into());
    }
    Ok(verify_store(&restored, clock.clone(), ids.clone()).await?)
}

async fn on_postgres(
    config: &Config,
    server: &str,
    folder: &Path,
    path: &Path,
    secret: &PrekeySecret,
    clock: &Arc<dyn Clock>,
    ids: &Arc<dyn Ids>,
) -> Result<StoreReport, BackupError> {
    let failed = |error: sqlx::Error| BackupError::Setting {
        setting: "store.url",
        what: format!("a database for the drill cannot be made there ({error}); name a server with --server whose user may make databases"),
    };
    let name = format!("freehold_drill_{}", hex::encode(random::<6>(&**ids)));
    let mut connection = sqlx::PgConnection::connect(server).await.map_err(failed)?;
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.map_err(failed)?;
    let mut url = url::Url::parse(server).map_err(|_| BackupError::Nothing)?;
    url.set_path(&name);
    let place = Location::Postgres(url.into());
    let outcome = look(config, &place, folder, path, secret, clock, ids).await;
    let dropped = sqlx::query(sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut connection).await;
    if let Err(error) = dropped {
        tracing::warn!(
            database = name,
            error = &error as &dyn std::error::Error,
            "the drill's database could not be dropped; drop it by hand"
        );
    }
    let _ = connection.close().await;
    outcome
}
