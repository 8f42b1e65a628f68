//! `freehold-control-plane`: reads settings, starts the app, waits to be told to stop.

mod commands {
    pub mod sealing;
}
mod backup_command;
mod store_command;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Args, Parser, Subcommand};
use control_plane::{
    app::{App, StartError},
    backup::BackupError,
    config::{Config, StoreConfig},
    graphql,
    moving::{self, MoveError},
    preparing, sealing,
    verify::VerifyError,
};
use schema::clock::{SystemClock, SystemIds};
use serde::Serialize;
use service::{config::ConfigError, telemetry::Service};

use crate::{
    backup_command::BackupCommand,
    store_command::{Rebuild, VerifyStore},
};

/// The Freehold control plane: records keys and policy as events, serves GraphQL, publishes signed statements to agents.
#[derive(Parser)]
#[command(name = "freehold-control-plane", version, about, long_about = None, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Settings come from one TOML file, from the environment, and from flags; flags win over environment over file.
In the environment a setting is FREEHOLD_<SECTION>__<KEY>, e.g. FREEHOLD_SERVER__LISTEN=127.0.0.1:7400.

Examples:
  freehold-control-plane serve --data-dir ./data --development
  freehold-control-plane check-config --config control-plane.toml
  freehold-control-plane move-store --config control-plane.toml --to postgres://freehold@db.example.org/freehold
  freehold-control-plane database roles --config control-plane.toml | psql -d freehold
  freehold-control-plane verify-store --config control-plane.toml
  freehold-control-plane print-config-schema > config.schema.json

The first start writes an operator token to <data dir>/operator.token (readable by its owner only).
";

#[derive(Subcommand)]
enum Command {
    /// Serve GraphQL and agents until told to stop (SIGTERM or Ctrl-C).
    Serve(Settings),
    /// Read the settings, say what is wrong with them or print them, and end.
    CheckConfig(Settings),
    /// Move the deployment to another store: SQLite, PostgreSQL or KurrentDB, in any direction.
    MoveStore(MoveStore),
    /// The keys that storage is encrypted under: look at them, replace them.
    Sealing(commands::sealing::Sealing),
    /// Prepare a PostgreSQL: its schema, and the roles that use it.
    #[command(subcommand)]
    Database(DatabaseCommand),
    /// Walk through everything the store holds, and tell what is not as it should be.
    VerifyStore(VerifyStore),
    /// Write the read model anew from the records, compare both, and put the new one in place.
    Rebuild(Rebuild),
    /// Make, list, restore and try backups.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Print the GraphQL schema (SDL).
    PrintSdl,
    /// Print the JSON Schema of the settings.
    PrintConfigSchema,
}

/// Move the deployment that settings name to another store: SQLite, PostgreSQL or KurrentDB, in any direction.
///
/// Stop every control plane first. Records, keys, secrets, bodies, receipts and reports are copied as they are kept, sealed;
/// then both sides are read back and compared, record by record and row by row. The target must be empty. Broken off, the same
/// command goes on where it was; until it has ended, no control plane starts on the target. Afterwards none starts on the
/// source, which keeps everything: put the new [store] into the settings, start, and remove the source when you no longer
/// want it. What was found the same is printed as JSON.
#[derive(Args)]
#[command(after_help = MOVE_HELP)]
struct MoveStore {
    #[command(flatten)]
    settings: Settings,
    /// The new store.url; without a password.
    #[arg(long, value_name = "URL", required_unless_present = "come_back", conflicts_with = "come_back")]
    to: Option<String>,
    /// The new store.password_file.
    #[arg(long, value_name = "FILE", requires = "to")]
    to_password_file: Option<PathBuf>,
    /// The new store.read_models, when the target is KurrentDB [default: freehold.db in the data directory].
    #[arg(long, value_name = "URL", requires = "to")]
    to_read_models: Option<String>,
    /// The new store.read_models_password_file.
    #[arg(long, value_name = "FILE", requires = "to")]
    to_read_models_password_file: Option<PathBuf>,
    /// The new store.namespace, when the target is KurrentDB [default: freehold].
    #[arg(long, value_name = "NAME", requires = "to")]
    to_namespace: Option<String>,
    /// Serve the store that settings name again, although it was moved away from: what happened at the other place since is
    /// lost, and must never be served again.
    #[arg(long)]
    come_back: bool,
}

const MOVE_HELP: &str = "\
Examples:
  freehold-control-plane move-store --data-dir ./data --to postgres://freehold@db.example.org/freehold \\
      --to-password-file /etc/freehold/db.password
  freehold-control-plane move-store --config control-plane.toml --to kurrentdb://freehold@kdb1:2113,kdb2:2113,kdb3:2113 \\
      --to-password-file /etc/freehold/kurrent.password --to-read-models postgres://freehold@db.example.org/models
";

impl MoveStore {
    async fn run(&self) -> Result<Option<moving::Moved>, Box<dyn std::error::Error>> {
        let source = self.settings.read()?;
        service::log::init(&source.log)?;
        if self.come_back {
            moving::come_back(source).await?;
            return Ok(None);
        }
        let store = StoreConfig {
            url: self.to.clone(),
            password_file: self.to_password_file.clone(),
            read_models: self.to_read_models.clone(),
            read_models_password_file: self.to_read_models_password_file.clone(),
            namespace: self.to_namespace.clone().unwrap_or_else(|| StoreConfig::default().namespace),
            ..StoreConfig::default()
        };
        let target = Config { store, ..source.clone() };
        target.check()?;
        Ok(Some(moving::move_store(source, target, Arc::new(SystemClock), Arc::new(SystemIds)).await?))
    }
}

#[derive(Subcommand)]
enum DatabaseCommand {
    /// Bring the schema up to date as the user of store.url, who owns the tables, and give the roles of store.roles what they need.
    Migrate(Settings),
    /// Print the SQL that makes the roles of store.roles (writer, reader, projector) and gives them what they need.
    ///
    /// A database administrator runs it once the tables are there. With --apply it is done here, as the user of store.url, who must
    /// be allowed to make roles. Running it again changes nothing. Roles that settings do not name are called freehold_writer,
    /// freehold_reader and freehold_projector.
    Roles {
        #[command(flatten)]
        settings: Settings,
        /// Do it, instead of printing it.
        #[arg(long)]
        apply: bool,
    },
}

impl DatabaseCommand {
    #[allow(clippy::print_stdout, reason = "the command prints its result")]
    async fn run(&self) -> Result<(), Box<dyn std::error::Error>> {
        match self {
            Self::Migrate(settings) => {
                let config = settings.read()?;
                service::log::init(&config.log)?;
                preparing::migrate(&config).await?;
                println!("the schema is up to date");
            }
            Self::Roles { settings, apply: false } => print!("{}", preparing::script(&settings.read()?)?),
            Self::Roles { settings, apply: true } => {
                let config = settings.read()?;
                service::log::init(&config.log)?;
                preparing::make_roles(&config).await?;
                println!("the roles are there and have what they need");
            }
        }
        Ok(())
    }
}

#[derive(Args)]
struct Settings {
    /// The TOML file with settings.
    #[arg(long, short, env = "FREEHOLD_CONTROL_PLANE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// Flags, in the shape of the file.
#[derive(Args, Serialize)]
struct Flags {
    /// Where files are kept [default: freehold-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The name of this deployment; do not change it later [default: freehold].
    #[arg(long)]
    deployment: Option<String>,
    /// Development mode: serve GraphiQL.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    development: Option<bool>,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    agents: AgentsFlags,
    #[command(flatten)]
    store: StoreFlags,
}

#[derive(Args, Serialize)]
struct ServerFlags {
    /// Address and port of GraphQL [default: 127.0.0.1:7400].
    #[arg(long = "listen", value_name = "HOST:PORT")]
    listen: Option<String>,
}

#[derive(Args, Serialize)]
struct AgentsFlags {
    /// Address and port of the agents' listener [default: 127.0.0.1:7401].
    #[arg(long = "agents-listen", value_name = "HOST:PORT", id = "agents_listen")]
    #[serde(rename = "listen")]
    agents_listen: Option<String>,
    /// Where agents find it [default: https:// and the address].
    #[arg(long = "agents-public-url", value_name = "URL")]
    public_url: Option<String>,
}

#[derive(Args, Serialize)]
struct StoreFlags {
    /// The store: sqlite://<path>, postgres://user@host/database or kurrentdb://user@host:2113 [default: freehold.db in the
    /// data directory].
    #[arg(long = "store-url", value_name = "URL")]
    url: Option<String>,
}

impl Settings {
    #[allow(clippy::disallowed_methods, reason = "main hands the environment in, once")]
    fn read(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref(), std::env::vars(), &self.flags)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        // What was found was printed.
        Err(error) if error.is::<store_command::Found>() => ExitCode::FAILURE,
        Err(error) => {
            say_error(error.as_ref());
            // As for flags that cannot be read.
            ExitCode::from(if is_usage(error.as_ref()) { 2 } else { 1 })
        }
    }
}

#[allow(clippy::print_stdout, reason = "these commands print their result")]
async fn run(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Serve(settings) => {
            let config = settings.read()?;
            sealing::source::environment::hide(&config)?;
            let service = Service::new("freehold-control-plane", env!("CARGO_PKG_VERSION"), &SystemIds);
            let telemetry = service::telemetry::start(&config.log, &config.telemetry, &service)?;
            let stopping = service::shutdown::on_signals()?;
            let running = App::start(config, Arc::new(SystemClock), Arc::new(SystemIds)).await?;
            stopping.cancelled().await;
            running.stop().await;
            telemetry.stop().await;
        }
        Command::CheckConfig(settings) => println!("{}", serde_json::to_string_pretty(&settings.read()?)?),
        Command::MoveStore(command) => match command.run().await? {
            Some(moved) => println!("{}", serde_json::to_string_pretty(&moved)?),
            None => println!("this store may be served again"),
        },
        Command::Sealing(command) => println!("{}", command.run().await?),
        Command::Database(command) => command.run().await?,
        Command::VerifyStore(command) => return command.run().await,
        Command::Rebuild(command) => return command.run().await,
        Command::Backup(command) => return command.run().await,
        Command::PrintSdl => print!("{}", graphql::sdl()),
        Command::PrintConfigSchema => println!("{}", serde_json::to_string_pretty(&service::config::schema::<Config>())?),
    }
    Ok(())
}

fn is_usage(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<ConfigError>()
        || matches!(error.downcast_ref(), Some(StartError::Config(_)))
        || matches!(error.downcast_ref(), Some(MoveError::Start(StartError::Config(_))))
        || matches!(error.downcast_ref(), Some(VerifyError::Start(StartError::Config(_))))
        || matches!(error.downcast_ref(), Some(BackupError::Start(StartError::Config(_)) | BackupError::Setting { .. }))
}

#[allow(clippy::print_stderr, reason = "there may be no log yet")]
fn say_error(error: &(dyn std::error::Error + 'static)) {
    eprintln!("{}", service::explain::explain("freehold-control-plane", error));
}
