//! Backups and restoring that are killed or run out of room at any moment: what is there is whole, nothing that was there is lost, and
//! the same command does the rest.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use data_plane_agent::{app::open_vault, config::Config, recovery::backups::list};
use freehold_tests::world::{World, until};
use schema::clock::{SystemIds, random};
use serde_json::json;

use super::recovery::{config, share_files, text, typed, until_sealing, with};

const CONFIG: &str = "FREEHOLD_TEST_TYPED_CONFIG";
const LINE: &str = "FREEHOLD_TEST_TYPED_LINE";
/// Keys of the site: enough that writing and restoring them takes a while.
const KEYS: usize = 24;

/// Not a test of its own: a command in a process that tests kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "the parent reads it")]
async fn typed_process() {
    let (Ok(config), Ok(line)) = (std::env::var(CONFIG), std::env::var(LINE)) else { return };
    let config = Config::load(Some(Path::new(&config)), [], &Default::default()).unwrap();
    println!("begun");
    println!("outcome {:?}", typed(&config, &line.split('\n').collect::<Vec<_>>()).await);
}

/// Starts a command with the settings in this folder; `first` is what the shell does before.
fn spawn(folder: &Path, line: &[&str], first: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{first} exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "agent::recovery_faults::typed_process", "--nocapture", "--test-threads", "1"])
        .env(CONFIG, folder.join("agent.toml"))
        .env(LINE, line.join("\n"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What it said before it ended.
fn outcome(mut child: Child) -> String {
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    said
}

/// Kills it at some moment within this time after it has begun; says whether it had ended before.
fn kill_within(mut child: Child, longest: Duration) -> bool {
    let mut output = child.stdout.take().unwrap();
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"begun\n") && output.read(&mut byte).unwrap() == 1 {
        said.push(byte[0]);
    }
    let share = u64::from_be_bytes(random(&SystemIds)) as f64 / u64::MAX as f64;
    let until = Instant::now() + longest.mul_f64(share);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_micros(200));
    }
    let ended = child.try_wait().unwrap().is_some();
    child.kill().unwrap();
    child.wait().unwrap();
    ended
}

/// Every backup in the directory is whole, and signed by an agent of the site.
async fn all_whole(config: &Config, backups: &Path) -> usize {
    let found = list(backups).unwrap();
    for (path, file) in &found {
        file.as_ref().unwrap_or_else(|error| panic!("{error}"));
        typed(config, &["backup", "verify", &text(path)]).await.unwrap();
    }
    found.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_and_a_full_disk_leave_whole_backups_and_a_vault_that_can_be_restored() {
    let world = World::start().await;
    let backups = world.path("backups");
    let first = config(&world, "first");
    let founder = world.enrol(&first).await;
    let agent = world.agent(&first).await;
    world.publish("permit (principal, action, resource);").await;
    for number in 0..KEYS {
        world.encryption_key(&format!("key-{number}")).await;
    }
    let shares = world.path("shares");
    typed(&first, &["recovery", "init", "--shares", "2", "--threshold", "2", "--out-dir", &text(&shares)]).await.unwrap();
    world.publish("permit (principal, action, resource) when { true };").await;
    until_sealing(&first).await;
    until(|| async {
        let held = agent.vault().versions().await.unwrap().len();
        if held == KEYS { Ok(()) } else { Err(format!("{held} versions are made")) }
    })
    .await;
    until(|| async {
        let keys = world.query("{ keys(first: 100, state: ACTIVE) { nodes { id } } }", json!({})).await;
        let active = keys["keys"]["nodes"].as_array().unwrap().len();
        if active == KEYS { Ok(()) } else { Err(format!("{active} are active")) }
    })
    .await;
    world.publish("permit (principal, action, resource);").await;
    agent.stop().await.unwrap();
    let folder = world.path("first");

    // Killed at any moment of a backup.
    let mut ended = 0;
    for _ in 0..12 {
        ended += usize::from(kill_within(spawn(&folder, &["backup", "create"], ""), Duration::from_millis(400)));
        if backups.exists() {
            all_whole(&first, &backups).await;
        }
    }
    // No room for it: said, and nothing is left of it.
    let before = if backups.exists() { all_whole(&first, &backups).await } else { 0 };
    let full = outcome(spawn(&folder, &["backup", "create"], "trap '' XFSZ; ulimit -f 4;"));
    assert!(full.contains("outcome Err") && full.contains("cannot write"), "{full} ({ended} had ended)");
    assert_eq!(all_whole(&first, &backups).await, before);
    assert!(fs::read_dir(&backups).unwrap().all(|entry| !text(&entry.unwrap().path()).ends_with(".new")));
    let written = typed(&first, &["backup", "create"]).await.unwrap();
    assert!(written.contains(&format!("{KEYS} versions")), "{written}");
    let whole = written.lines().next().unwrap().to_owned();

    // The host is lost; restoring is killed at any moment too.
    fs::remove_dir_all(&folder).unwrap();
    world.mutate("revokeAgent", json!({ "agent": founder.agent.to_string(), "reason": "CESSATION_OF_OPERATION" }), "agent { id }").await;
    let second = config(&world, "second");
    world.enrol(&second).await;
    let (folder, shares) = (world.path("second"), share_files(&shares, &[1, 2]));
    let line = with(&["backup", "restore", &whole], &shares);
    let mut held = 0;
    for _ in 0..12 {
        kill_within(spawn(&folder, &line, ""), Duration::from_millis(700));
        let vault = open_vault(&second, Arc::new(SystemIds)).await.unwrap();
        let now = vault.versions().await.unwrap().len();
        assert!(now >= held, "{now} versions, and there were {held}");
        held = now;
    }
    let full = outcome(spawn(&folder, &line, "trap '' XFSZ; ulimit -f 0;"));
    assert!(held == KEYS || full.contains("outcome Err"), "{full}");
    let done = typed(&second, &line).await.unwrap();
    assert!(done.contains(&format!("{} version", KEYS - held)) && !done.contains("MISSING"), "{held} were there: {done}");
    let vault = open_vault(&second, Arc::new(SystemIds)).await.unwrap();
    assert_eq!(vault.versions().await.unwrap().len(), KEYS);
}
