//! The same writers in one process and in three, over one PostgreSQL. This program starts itself as the other processes:
//! each opens the store, says so, waits for a line, writes, and prints what came of it.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::Context;
use control_plane::{database::Location, eventing::store::EventStore};
use freehold_tests::database::{Engine, TestDatabase};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Appends, open, run_store};

/// By which a process is told its task.
const VARIABLE: &str = "FREEHOLD_BENCH_WRITER";

/// What a process writes.
#[derive(Serialize, Deserialize)]
pub struct Task {
    database: String,
    writers: usize,
    each: usize,
}

/// The task, when this is one of the other processes.
pub fn task() -> anyhow::Result<Option<Task>> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(None) };
    Ok(Some(serde_json::from_str(&text)?))
}

/// Does it.
#[allow(clippy::print_stdout, reason = "the first process reads it")]
pub async fn write(task: Task) -> anyhow::Result<()> {
    let (.., store) = open(&Location::Postgres(task.database)).await?;
    run_store(&store, task.writers, task.each / 10 + 1).await?;
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    let done = run_store(&store, task.writers, task.each).await?;
    println!("{}", serde_json::to_string(&done.latencies)?);
    Ok(())
}

/// 64 writers, by one process and by three.
pub async fn measure(total: usize) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    for processes in [1, 3] {
        let files = TestDatabase::new(Engine::Postgres)?;
        let Location::Postgres(database) = &files.location else { unreachable!("it was asked for PostgreSQL") };
        let (.., store) = open(&files.location).await?; // migrates
        store.close().await;
        let writers = 66 / processes;
        let each = total / 66;
        let mut children =
            (0..processes).map(|_| start(&Task { database: database.clone(), writers, each })).collect::<Result<Vec<_>, _>>()?;
        let started = Instant::now();
        for (child, _) in &mut children {
            child.stdin.as_mut().context("no input")?.write_all(b"go\n")?;
        }
        let mut latencies = Vec::new();
        for (child, output) in &mut children {
            let mut line = String::new();
            output.read_line(&mut line)?;
            latencies.extend(serde_json::from_str::<Vec<f64>>(&line)?);
            anyhow::ensure!(child.wait()?.success(), "a writer failed");
        }
        let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
        latencies.sort_by(f64::total_cmp);
        let all = Appends { rate, latencies };
        rows.push(json!({
            "processes": processes, "writers": writers * processes, "appends": all.latencies.len(),
            "store_per_s": all.rate.round(), "p50_ms": all.at(0.5), "p99_ms": all.at(0.99),
        }));
    }
    Ok(rows)
}

/// A process that is ready to write.
fn start(task: &Task) -> anyhow::Result<(Child, BufReader<std::process::ChildStdout>)> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--bench")
        .env(VARIABLE, serde_json::to_string(task)?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    anyhow::ensure!(line == "ready\n", "a writer did not start");
    Ok((child, output))
}
