//! `freehold-control-plane`: reads settings, starts the app, waits to be told to stop.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Args, Parser, Subcommand};
use control_plane::{
    app::{App, StartError},
    config::Config,
    graphql,
};
use schema::clock::{SystemClock, SystemIds};
use serde::Serialize;
use service::config::ConfigError;

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
  freehold-control-plane print-config-schema > config.schema.json

The first start writes an operator token to <data dir>/operator.token (readable by its owner only).
";

#[derive(Subcommand)]
enum Command {
    /// Serve GraphQL and agents until told to stop (SIGTERM or Ctrl-C).
    Serve(Settings),
    /// Read the settings, say what is wrong with them or print them, and end.
    CheckConfig(Settings),
    /// Print the GraphQL schema (SDL).
    PrintSdl,
    /// Print the JSON Schema of the settings.
    PrintConfigSchema,
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
    /// The database: sqlite://<path> or postgres://user@host/database [default: freehold.db in the data directory].
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
            service::log::init(&config.log)?;
            let stopping = service::shutdown::on_signals()?;
            let running = App::start(config, Arc::new(SystemClock), Arc::new(SystemIds)).await?;
            stopping.cancelled().await;
            running.stop().await;
        }
        Command::CheckConfig(settings) => println!("{}", serde_json::to_string_pretty(&settings.read()?)?),
        Command::PrintSdl => print!("{}", graphql::sdl()),
        Command::PrintConfigSchema => println!("{}", serde_json::to_string_pretty(&service::config::schema::<Config>())?),
    }
    Ok(())
}

fn is_usage(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<ConfigError>() || matches!(error.downcast_ref(), Some(StartError::Config(_)))
}

#[allow(clippy::print_stderr, reason = "there may be no log yet")]
fn say_error(error: &(dyn std::error::Error + 'static)) {
    eprintln!("{}", service::explain::explain("freehold-control-plane", error));
}
