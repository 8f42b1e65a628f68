//! The freehold command line.
//!
//! - [`args`]: every command there is. `commands/`: one file per noun.
//! - [`profile`]: where to connect and with what; [`graphql`] talks to the control plane, [`agent`] to an agent.
//! - `signing`: how root and policy are signed by people who believe the control plane nothing.
//! - [`material`]: private keys as other programs keep them.
//! - [`output`]: table, json, yaml, name. [`error`]: what went wrong, what to do next, the exit code.

pub mod agent;
pub mod args;
mod commands;
pub mod error;
pub mod graphql;
mod http;
pub mod material;
pub mod output;
pub mod profile;
mod secret;
mod signing;
mod upload;

use std::process::ExitCode;

use clap::Parser;

pub use commands::run;

use crate::{args::Cli, error::Error};

/// Parses the arguments, runs the command, prints what came of it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return Error::fault("could not start", source).report(cli.global.output),
    };
    let output = cli.global.output;
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(output),
    }
}
