//! Commands beside a control plane: what its store holds is looked at, and the read model is written anew.

use std::{error::Error, sync::Arc};

use clap::{Args, ValueEnum};
use control_plane::verify::{self, StoreReport};
use schema::clock::{SystemClock, SystemIds};
use serde::Serialize;

use crate::Settings;

/// Something was found, and printed.
#[derive(Debug, thiserror::Error)]
#[error("not everything is as it should be")]
pub(crate) struct Found;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Walk through everything the store holds: every record (its bytes, its seal, its revision and position, what it says of
/// idempotency), every body and statement beside the records, everything else that is sealed, and the read model, row by row
/// against what the records give.
///
/// Nothing is changed. PostgreSQL and KurrentDB are looked at beside control planes that serve; a SQLite file while its control
/// plane is stopped, or a copy of it. Every finding says where it is, what it is, and what to do. The exit code is 1 when there is
/// any.
#[derive(Args)]
#[command(after_help = "\
Examples:
  freehold-control-plane verify-store --data-dir ./data
  freehold-control-plane verify-store --config control-plane.toml --output json | jq '.findings[]'
")]
pub(crate) struct VerifyStore {
    #[command(flatten)]
    settings: Settings,
    /// How the report is printed.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

impl VerifyStore {
    pub(crate) async fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = self.settings.read()?;
        service::log::init(&config.log)?;
        let report = verify::verify_store(&config, Arc::new(SystemClock), Arc::new(SystemIds)).await?;
        match self.output {
            Output::Json => print_json(&report)?,
            Output::Table => print_report(&report),
        }
        if report.is_sound() { Ok(()) } else { Err(Found.into()) }
    }
}

/// What can be written anew from the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Projection {
    /// The read model of every kind.
    Views,
}

/// Write the read model anew from the records into tables beside the one that is served, compare both, and let the new one take
/// its place in one step.
///
/// On PostgreSQL control planes go on reading and writing meanwhile; nobody sees an empty or a mixed read model. The role of
/// store.url must be allowed to make tables and to own those of the read model. A SQLite file belongs to one process: stop its
/// control plane first. When both are not the same, the differences are printed, nothing is changed and the exit code is 1, unless
/// --accept-difference says that the records are right.
#[derive(Args)]
#[command(after_help = "\
Examples:
  freehold-control-plane rebuild --config control-plane.toml
  freehold-control-plane rebuild views --data-dir ./data --accept-difference
")]
pub(crate) struct Rebuild {
    /// What to write anew.
    #[arg(value_enum, default_value = "views")]
    projection: Projection,
    #[command(flatten)]
    settings: Settings,
    /// Put the new read model in place although it differs from the one there was.
    #[arg(long)]
    accept_difference: bool,
    /// How the result is printed.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

impl Rebuild {
    #[allow(clippy::print_stdout, reason = "this command prints its result")]
    pub(crate) async fn run(&self) -> Result<(), Box<dyn Error>> {
        let Projection::Views = self.projection;
        let config = self.settings.read()?;
        service::log::init(&config.log)?;
        let rebuilt = verify::rebuild_read_model(&config, self.accept_difference, Arc::new(SystemClock), Arc::new(SystemIds)).await?;
        if self.output == Output::Json {
            print_json(&rebuilt)?;
        } else {
            println!(
                "{} rows written anew, up to position {}, in {:.1} s; compared in {:.1} s",
                rebuilt.rows,
                rebuilt.position,
                rebuilt.written_ms as f64 / 1000.0,
                rebuilt.compared_ms as f64 / 1000.0
            );
            for differs in &rebuilt.told {
                println!("  {:<8} {} {}", differs.how, differs.table, differs.row);
            }
            match (rebuilt.differences, rebuilt.switched) {
                (0, _) => println!("the same as before; the new read model is in place"),
                (more, true) => println!("{more} rows differed; the new read model is in place"),
                (more, false) => {
                    println!(
                        "{more} rows differ (missing: only in the new one; extra: only in the one that is served); nothing was changed."
                    );
                    println!("The records decide what is right: --accept-difference puts the new read model in place.");
                }
            }
        }
        if rebuilt.switched { Ok(()) } else { Err(Found.into()) }
    }
}

#[allow(clippy::print_stdout, reason = "commands print their result")]
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), serde_json::Error> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

#[allow(clippy::print_stdout, reason = "commands print their result")]
pub(crate) fn print_report(report: &StoreReport) {
    println!("{}", report.store);
    let counts = [
        ("tenants", report.tenants),
        ("erased tenants", report.erased_tenants),
        ("records", report.records),
        ("streams", report.streams),
        ("head of the log", report.head),
        ("read model at", report.read_model),
        ("read model rows", report.read_model_rows),
        ("read model terms", report.read_model_terms),
        ("read model handles", report.read_model_handles),
        ("statements", report.statements),
        ("bodies", report.bodies),
        ("bodies no record names", report.bodies_unnamed),
    ];
    for (name, count) in counts.into_iter().chain(report.sealed_rows.iter().map(|(name, count)| (name.as_str(), *count))) {
        println!("  {name:<24} {count:>12}");
    }
    for table in &report.not_looked_at {
        println!("  not looked at: {table}");
    }
    for finding in &report.findings {
        println!("\n{}\n  where  {}\n  what   {}\n  do     {}", finding.code, finding.place, finding.what, finding.advice);
    }
    let untold = report.findings_count - report.findings.len() as u64;
    if untold > 0 {
        println!("\nand {untold} more");
    }
    println!(
        "\n{}",
        if report.is_sound() { "everything is as it should be".to_owned() } else { format!("{} findings", report.findings_count) }
    );
}
