//! What is done to a PostgreSQL before it is used: its schema and its roles. As the user that the URL names, who owns the tables;
//! a control plane that runs is never that user when it has roles.

use service::config::ConfigError;
use zeroize::Zeroizing;

use crate::{
    app::{StartError, owned},
    config::Config,
    database::{
        Database, Location, OpenError,
        roles::{self, Role, Roles},
    },
};

/// Brings the schema up to date, and gives the roles that settings name what they need.
pub async fn migrate(config: &Config) -> Result<(), StartError> {
    let database = owner(config).await?;
    let roles = named(config);
    if !config.store.roles.named() {
        return close(database).await;
    }
    if roles::exist(database.write(), &roles).await.map_err(OpenError::Granting)? {
        roles::grant(database.write(), &roles).await.map_err(OpenError::Granting)?;
    } else {
        tracing::warn!("the roles of store.roles are not there yet; `freehold-control-plane database roles` makes them");
    }
    close(database).await
}

/// The SQL that makes the roles and gives them what they need.
pub fn script(config: &Config) -> Result<String, StartError> {
    config.check()?;
    Ok(roles::script(&named(config)))
}

/// Does what [`script`] prints.
pub async fn make_roles(config: &Config) -> Result<(), StartError> {
    let database = owner(config).await?;
    let roles = named(config);
    roles::create(database.write(), &roles).await.map_err(OpenError::Granting)?;
    roles::grant(database.write(), &roles).await.map_err(OpenError::Granting)?;
    close(database).await
}

async fn owner(config: &Config) -> Result<Database, StartError> {
    config.check()?;
    service::tls::install_provider();
    // This is the process that migrates, whatever the others are told.
    let (place, access) = owned(config)?;
    if let Location::Sqlite(_) = place {
        let problem = "setting store.url: a SQLite file needs no preparation; this is for PostgreSQL".to_owned();
        return Err(ConfigError::Invalid { problems: vec![problem] }.into());
    }
    Ok(Database::open_with(&place, &access).await?)
}

/// Those of the settings, or those of the documentation.
fn named(config: &Config) -> Roles {
    let of = |name: &Option<String>, otherwise: &str| {
        let role = |name: &str| Role::new(name, None::<Zeroizing<String>>);
        name.as_deref().and_then(role).or_else(|| role(otherwise)).unwrap_or_else(|| unreachable!("a plain name"))
    };
    let settings = &config.store.roles;
    Roles {
        writer: of(&settings.writer, "freehold_writer"),
        reader: of(&settings.reader, "freehold_reader"),
        projector: of(&settings.projector, "freehold_projector"),
        migrate: settings.migrate,
    }
}

async fn close(database: Database) -> Result<(), StartError> {
    database.close().await.map_err(|source| StartError::Other { act: "closing the database", source: source.into() })
}
