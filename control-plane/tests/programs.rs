//! The program itself: served and stopped, its store verified and its read model written anew, by exit code and what it prints.

#![allow(clippy::disallowed_methods, reason = "tests wait for programs")]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection};

const PROGRAM: &str = env!("CARGO_BIN_EXE_freehold-control-plane");

/// Runs a command on a data directory: exit code, what it printed, what it complained of.
fn run(data: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let done = Command::new(PROGRAM).args(arguments).arg("--data-dir").arg(data).output().unwrap();
    (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
}

struct Serving(Child);

impl Serving {
    fn start(data: &Path) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--listen", "127.0.0.1:0", "--agents-listen", "127.0.0.1:0"]).arg("--data-dir").arg(data);
        let serving = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let started = Instant::now();
        while !data.join("operator.token").exists() {
            assert!(started.elapsed() < Duration::from_secs(60), "it does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        serving
    }

    fn stop(mut self) {
        Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn damage(data: &Path, sql: &'static str) {
    let url = format!("sqlite://{}", data.join("freehold.db").display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    assert!(sqlx::query(sql).execute(&mut connection).await.unwrap().rows_affected() > 0);
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_store_is_verified_and_its_read_model_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (code, _, said) = run(&data, &["verify-store"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("there is nothing to verify"), "{said}");

    let serving = Serving::start(&data);
    let (code, _, said) = run(&data, &["verify-store"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("another control plane is running"), "{said}");
    serving.stop();

    let (code, said, _) = run(&data, &["verify-store"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("everything is as it should be"), "{said}");
    let (code, said, _) = run(&data, &["rebuild"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the same as before"), "{said}");

    damage(&data, "UPDATE views SET state = 'planted' WHERE valid_to IS NULL").await;
    let (code, said, _) = run(&data, &["verify-store", "--output", "json"]);
    assert_eq!(code, Some(1));
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["findings"][0]["code"], "read_model_row_differs", "{report}");
    let (code, said, _) = run(&data, &["rebuild"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("other    views") && said.contains("nothing was changed"), "{said}");
    assert_eq!(run(&data, &["verify-store"]).0, Some(1));
    let (code, said, _) = run(&data, &["rebuild", "views", "--accept-difference", "-o", "json"]);
    assert_eq!(code, Some(0), "{said}");
    let rebuilt: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&rebuilt["switched"], rebuilt["differences"].as_u64() > Some(0)), (&true.into(), true), "{rebuilt}");
    assert_eq!(run(&data, &["verify-store"]).0, Some(0));
}
