//! Backups of the control plane: made beside whoever writes, opened by the right key only, restored whole or not at all, tried.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use control_plane::{
    backup::{
        BackupError,
        drill::drill,
        erasures,
        key::{RecipientKey, generate, read_secret},
        make::{Made, list, make},
        restore::{self, Restored, restored},
    },
    config::{BackupConfig, Config, RolesConfig, StoreConfig},
    database::{Database, Location},
    sealing::{Keyring, source::Sources},
    verify::{rebuild_read_model, verify_store},
};
use freehold_tests::{
    database::{Engine, TestDatabase, roles_of},
    world::{ShiftedClock, until},
};
use schema::{
    clock::{SystemClock, SystemIds},
    id::TenantId,
};
use sea_orm::ConnectionTrait;
use trust::seal::PrekeySecret;

use super::moving::{Stopped, start, store};

/// Settings with backups into a folder of their own, and the key that opens them.
fn with_backups(config: &Config, folder: &Path, server: Option<&TestDatabase>) -> (Config, PrekeySecret) {
    let (secret, public) = (folder.join("backup.key"), folder.join("backup.pub"));
    if !secret.exists() {
        generate(&secret, &public, &SystemIds).unwrap();
    }
    let backup = BackupConfig {
        directory: Some(folder.join("backups")),
        recipient_file: Some(public),
        postgres_tools: server.and_then(TestDatabase::server).map(|server| server.binaries().to_owned()),
        ..BackupConfig::default()
    };
    (Config { backup, ..config.clone() }, read_secret(&secret).unwrap())
}

async fn made(config: &Config) -> Made {
    make(config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap()
}

async fn restore(config: &Config, path: &Path, secret: &PrekeySecret) -> Result<Restored, BackupError> {
    restore_with(config, path, secret, None).await
}

/// With a list of what was erased.
async fn restore_with(config: &Config, path: &Path, secret: &PrekeySecret, erased: Option<&Path>) -> Result<Restored, BackupError> {
    restore::restore(config, path, secret, erased, Arc::new(SystemClock), Arc::new(SystemIds)).await
}

/// The same settings on another, empty, place with the same sealing key.
fn elsewhere(config: &Config, folder: &Path) -> Config {
    let mut other = Config { data_dir: folder.join("restored"), ..config.clone() };
    other.sealing.key_file = Some(config.sealing_key_file());
    other
}

async fn is_sound(config: &Config) {
    let report = verify_store(config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    assert_eq!(report.findings, []);
}

pub(crate) async fn a_backup_comes_back_whole_or_not_at_all() {
    let deployment = Stopped::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (config, secret) = with_backups(&deployment.config, folder.path(), None);
    let made = made(&config).await;
    assert_eq!(made.recipient, RecipientKey::of(&secret).keyid().to_string());
    assert!(made.position > 20 && made.bytes > 10_000, "{made:?}");
    let listing = list(config.backup.directory.as_ref().unwrap()).unwrap();
    assert_eq!((listing.backups.as_slice(), listing.unreadable.len()), ([made.clone()].as_slice(), 0));
    assert_eq!(fs::read_dir(config.data_dir.join("backup-work")).unwrap().count(), 0, "no copy is left");

    // Whatever is wrong with it is named, and nothing is there afterwards.
    let target = elsewhere(&config, folder.path());
    let database = target.data_dir.join("freehold.db");
    let good = fs::read(&made.path).unwrap();
    let bad = folder.path().join("bad.fhcb");
    let try_bad = async |bytes: &[u8], secret: &PrekeySecret| {
        fs::write(&bad, bytes).unwrap();
        let error = restore(&target, &bad, secret).await.unwrap_err();
        let left: Vec<_> = fs::read_dir(&target.data_dir).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.is_empty(), "{left:?} after {error}");
        error
    };
    let other = PrekeySecret::generate(&SystemIds).unwrap();
    assert_eq!(try_bad(&good, &other).await.code(), "backup_of_another_key");
    assert_eq!(try_bad(b"", &secret).await.code(), "backup_damaged");
    assert_eq!(try_bad(&good[..good.len() / 2], &secret).await.code(), "backup_damaged");
    assert_eq!(try_bad(&good[..good.len() - 1], &secret).await.code(), "backup_damaged");
    for place in [good.len() / 3, good.len() - 3] {
        let mut flipped = good.clone();
        flipped[place] ^= 1;
        assert_eq!(try_bad(&flipped, &secret).await.code(), "backup_damaged");
    }
    let mut newer = good.clone();
    newer[4] = b'2';
    let error = try_bad(&newer, &secret).await;
    assert_eq!(error.code(), "backup_of_newer_version");
    assert!(error.to_string().contains("a newer one"), "{error}");
    let mut wrong = target.clone();
    let foreign = folder.path().join("foreign.key");
    control_plane::sealing::SealingKey::make(&foreign, &SystemIds).unwrap();
    wrong.sealing.key_file = Some(foreign);
    let error = restore(&wrong, &made.path, &secret).await.unwrap_err();
    assert_eq!(error.code(), "backup_of_another_sealing_key");
    let mut postgres = target.clone();
    postgres.store.url = Some("postgres://nobody@localhost/none".to_owned());
    let error = restore(&postgres, &made.path, &secret).await.unwrap_err();
    assert_eq!(error.code(), "backup_of_another_engine");

    let back = restore(&target, &made.path, &secret).await.unwrap();
    assert_eq!((back.position, back.sealing_key_is_there), (made.position, true));
    is_sound(&target).await;
    let error = restore(&target, &made.path, &secret).await.unwrap_err();
    assert_eq!(error.code(), "restore_not_empty");
    let there = Database::open(&Location::Sqlite(database)).await.unwrap();
    assert_eq!(restored(&there).await.unwrap().unwrap().created, made.created);
    there.close().await.unwrap();
    let served = deployment.at(target);
    let seen = served.look(&StoreConfig::default(), Some("after")).await;
    assert_eq!(seen["keys"], served.seen["keys"]);
}

pub(crate) async fn a_drill_proves_a_backup_or_says_why_not() {
    let deployment = Stopped::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (config, secret) = with_backups(&deployment.config, folder.path(), None);
    let sound = made(&config).await;
    let scratch = folder.path().join("scratch");
    let drill =
        async |made: &Made| drill(&config, &made.path, &secret, &scratch, None, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    let drilled = drill(&sound).await;
    assert!(drilled.report.is_sound() && drilled.report.records == sound.position, "{:?}", drilled.report);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);

    let database = Database::open(&Location::Sqlite(config.data_dir.join("freehold.db"))).await.unwrap();
    database.write().execute_unprepared("UPDATE records SET sealed = x'00' WHERE position = 3").await.unwrap();
    database.close().await.unwrap();
    let damaged = made(&config).await;
    let drilled = drill(&damaged).await;
    assert!(drilled.report.findings.iter().any(|finding| finding.code == "record_does_not_open"), "{:?}", drilled.report);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    assert!(list(config.backup.directory.as_ref().unwrap()).unwrap().backups.len() == 2);
}

/// Of a control plane that serves, by the clock, with old ones removed; trouble is told.
pub(crate) async fn by_the_clock() {
    let deployment = Stopped::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (mut config, secret) = with_backups(&deployment.config, folder.path(), None);
    config.backup.schedule = Some("0 * * * *".to_owned());
    config.backup.keep = Some(2);
    let directory = config.backup.directory.clone().unwrap();
    let clock = ShiftedClock::new();
    let plane = control_plane::app::App::start(config.clone(), Arc::new(clock.clone()), Arc::new(SystemIds)).await.unwrap();
    let base = plane.graphql_url().trim_end_matches(control_plane::http::graphql::PATH).to_owned();
    let ready = async || reqwest::get(format!("{base}/readyz")).await.unwrap().json::<serde_json::Value>().await.unwrap();
    let newest = || list(&directory).ok().and_then(|mut listing| listing.backups.pop()).map(|made| made.id);
    let mut last = None;
    for _ in 0..3 {
        clock.advance(Duration::from_secs(3600));
        let before = last.clone();
        until(|| async { if newest() == before { Err("no new backup".to_owned()) } else { Ok(()) } }).await;
        last = newest();
    }
    until(|| async { if list(&directory).unwrap().backups.len() == 2 { Ok(()) } else { Err("too many".to_owned()) } }).await;
    assert!(ready().await["notes"]["backups"].is_null());
    let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("freehold_backup_last_success_timestamp_seconds"), "{metrics}");

    // What was backed up beside a control plane that serves is whole.
    let newest = list(&directory).unwrap().backups.pop().unwrap();
    let drilled = drill(&config, &newest.path, &secret, folder.path(), None, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    assert!(drilled.report.is_sound(), "{:?}", drilled.report);

    // What is erased is known beside the backups before the next of them.
    let tenant = erase_the_tenant(&config).await;
    let listed = erasures::beside(&directory, &config.deployment);
    let is_listed = || fs::read_to_string(&listed).is_ok_and(|text| text.contains(&tenant.to_string()));
    until(|| async { if is_listed() { Ok(()) } else { Err("not listed".to_owned()) } }).await;

    fs::rename(&directory, folder.path().join("aside")).unwrap();
    fs::write(&directory, "not a folder").unwrap();
    clock.advance(Duration::from_secs(3600));
    until(|| async {
        let note = ready().await["notes"]["backups"].clone();
        if note.as_str().is_some_and(|note| note.contains("failed (backup_file)")) { Ok(()) } else { Err(note.to_string()) }
    })
    .await;
    let metrics = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("freehold_backup_failures_total 1"), "{metrics}");
    fs::remove_file(&directory).unwrap();
    clock.advance(Duration::from_secs(3600));
    until(|| async { if ready().await["notes"]["backups"].is_null() { Ok(()) } else { Err("still told".to_owned()) } }).await;
    plane.stop().await;
}

/// Erases the only tenant of a deployment, beside whoever serves it.
async fn erase_the_tenant(config: &Config) -> TenantId {
    let database = Database::beside(&Location::Sqlite(config.data_dir.join("freehold.db"))).await.unwrap();
    let sql = database.sql("SELECT tenant FROM views WHERE kind = 'site'", vec![]);
    let tenant: String = database.read().query_one_raw(sql).await.unwrap().unwrap().try_get_by_index(0).unwrap();
    let tenant = tenant.parse().unwrap();
    let sources = Sources::new(config).unwrap();
    let keyring = Keyring::open_from(database.clone(), sources, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    keyring.erase(tenant).await.unwrap();
    database.close().await.unwrap();
    tenant
}

/// How many tenants are erased in a store, once it was served.
async fn erased_in(config: &Config) -> u64 {
    start(config).await.unwrap().stop().await;
    let report = verify_store(config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    assert_eq!(report.findings, []);
    report.erased_tenants
}

pub(crate) async fn an_older_backup_does_not_bring_back_who_was_erased() {
    let deployment = Stopped::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (config, secret) = with_backups(&deployment.config, folder.path(), None);
    let directory = config.backup.directory.clone().unwrap();
    let before = made(&config).await;
    let list = erasures::beside(&directory, &config.deployment);
    assert!(!list.exists());
    let tenant = erase_the_tenant(&config).await;
    made(&config).await;
    let text = fs::read_to_string(&list).unwrap();
    assert!(text.lines().count() == 1 && text.contains(&tenant.to_string()), "{text}");

    // Away from the list, and without one, it comes back: that is told.
    let alone = folder.path().join("alone.fhcb");
    fs::copy(&before.path, &alone).unwrap();
    let (first, second, third) = (folder.path().join("1"), folder.path().join("2"), folder.path().join("3"));
    let target = elsewhere(&config, &first);
    assert!(!restore(&target, &alone, &secret).await.unwrap().erasures_are_known);
    assert_eq!(erased_in(&target).await, 0);
    // Beside the list, or with one that is named, it is erased again.
    let target = elsewhere(&config, &second);
    assert!(restore(&target, &before.path, &secret).await.unwrap().erasures_are_known);
    assert_eq!(erased_in(&target).await, 1);
    let target = elsewhere(&config, &third);
    let missing = restore_with(&target, &alone, &secret, Some(&folder.path().join("none"))).await.unwrap_err();
    assert_eq!(missing.code(), "backup_file");
    assert!(restore_with(&target, &alone, &secret, Some(&list)).await.unwrap().erasures_are_known);
    assert_eq!(erased_in(&target).await, 1);

    // A list that does not read stops a restore, before anything is there, and a backup.
    fs::write(&list, text + "no line of ours\n").unwrap();
    let target = elsewhere(&config, &folder.path().join("4"));
    let error = restore(&target, &before.path, &secret).await.unwrap_err();
    assert!(error.code() == "backup_erasures" && error.to_string().contains("line 2"), "{error}");
    assert!(!target.data_dir.exists());
    let error = make(&config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap_err();
    assert_eq!(error.code(), "backup_erasures");
}

pub(crate) async fn of_postgres_beside_a_control_plane(engine: Engine) {
    let deployment = Stopped::new().await;
    let (first, second) = (TestDatabase::new(engine).unwrap(), TestDatabase::new(engine).unwrap());
    let through_roles = engine == Engine::PostgresRoles;
    let used = |database: &TestDatabase| {
        let mut used = store(database);
        if through_roles {
            let roles = roles_of(&database.name());
            let name = |role: &control_plane::database::roles::Role| Some(role.name().to_owned());
            used.roles = RolesConfig {
                writer: name(&roles.writer),
                reader: name(&roles.reader),
                projector: name(&roles.projector),
                ..RolesConfig::default()
            };
        }
        used
    };
    let folder = tempfile::tempdir().unwrap();
    let target = Config { store: used(&first), ..deployment.config.clone() };
    control_plane::moving::move_store(deployment.config.clone(), target.clone(), Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    let (config, secret) = with_backups(&target, folder.path(), Some(&first));
    let plane = start(&config).await.unwrap();
    let made = made(&config).await;
    is_sound(&config).await;
    let rebuilt = rebuild_read_model(&config, false, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    assert!(rebuilt.switched && rebuilt.differences == 0 && rebuilt.rows > 10, "{rebuilt:?}");
    plane.stop().await;
    let scratch = folder.path().join("scratch");
    // Who owns the tables need not be allowed to make databases.
    let server = through_roles.then(|| first.server().unwrap().url("postgres", "freehold"));
    let drilled =
        drill(&config, &made.path, &secret, &scratch, server.as_deref(), Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    assert!(drilled.report.is_sound() && drilled.report.records >= made.position, "{:?}", drilled.report);
    if through_roles {
        let error = drill(&config, &made.path, &secret, &scratch, None, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap_err();
        assert!(error.code() == "backup_setting" && error.to_string().contains("--server"), "{error}");
    }
    // Others on this server may be drilling as well.
    freehold_tests::world::until(|| async {
        let left = "SELECT COUNT(*) FROM pg_database WHERE datname LIKE 'freehold_drill%'";
        let left = first.server().unwrap().psql("postgres", left).unwrap();
        if left.trim() == "0" { Ok(()) } else { Err(format!("{left} databases of drills are left")) }
    })
    .await;

    let error = restore(&config, &made.path, &secret).await.unwrap_err();
    assert_eq!(error.code(), "restore_not_empty");
    let empty = Config { store: used(&second), ..config.clone() };
    let bytes = fs::read(&made.path).unwrap();
    let bad = folder.path().join("bad.fhcb");
    fs::write(&bad, &bytes[..bytes.len() - 100]).unwrap();
    assert_eq!(restore(&empty, &bad, &secret).await.unwrap_err().code(), "backup_damaged");
    restore(&empty, &made.path, &secret).await.unwrap();
    // Roles of the place it came from have no say here; those of this place have what they need.
    let policies = |of: &TestDatabase| second.psql(&format!("SELECT COUNT(*) FROM pg_policies WHERE policyname LIKE '{}\\_%'", of.name()));
    assert_eq!(policies(&first).unwrap(), "0");
    assert_eq!(policies(&second).unwrap() != "0", through_roles);
    is_sound(&empty).await;
    let seen = deployment.look(&empty.store, Some("after")).await;
    assert_eq!(seen["keys"], deployment.seen["keys"]);
    // A tool that is not there is named.
    let mut without = config.clone();
    without.backup.postgres_tools = Some(folder.path().to_owned());
    let error = make(&without, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap_err();
    assert_eq!(error.code(), "backup_tool_failed");
}

/// A program of PostgreSQL as a user without rights.
fn unprivileged(program: &Path) -> std::process::Command {
    use std::os::unix::fs::MetadataExt;
    let mut command = std::process::Command::new("setpriv");
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "KILL"]).arg(program).current_dir("/");
    command
}

fn done(command: &mut std::process::Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A server on a socket in its folder, until it is stopped.
struct Server<'a> {
    binaries: &'a Path,
    folder: &'a Path,
    data: PathBuf,
    child: std::process::Child,
}

impl<'a> Server<'a> {
    fn start(binaries: &'a Path, folder: &'a Path, data: PathBuf) -> Self {
        let mut command = unprivileged(&binaries.join("postgres"));
        command.arg("-D").arg(&data).arg("-k").arg(folder).args(["-c", "listen_addresses="]);
        let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let server = Self { binaries, folder, data, child };
        let started = std::time::Instant::now();
        // Ready, and no longer in recovery.
        while server.try_psql("postgres", "SELECT pg_is_in_recovery()").as_deref() != Some("f") {
            assert!(started.elapsed() < Duration::from_secs(60), "the server does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    fn try_psql(&self, database: &str, sql: &str) -> Option<String> {
        let mut command = std::process::Command::new(self.binaries.join("psql"));
        let output = command.arg("-h").arg(self.folder).args(["-U", "freehold", "-d", database, "-Atqc", sql]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|| panic!("{sql}"))
    }

    fn stop(mut self) {
        done(unprivileged(&self.binaries.join("pg_ctl")).arg("-D").arg(&self.data).args(["-m", "fast", "-w", "stop"]));
        self.child.wait().unwrap();
    }
}

/// PostgreSQL's own tools take a deployment back to a moment: what docs/control-plane-recovery.md says.
pub(crate) async fn to_a_point_in_time() {
    let deployment = Stopped::new().await;
    let folder = tempfile::Builder::new().prefix("freehold-pitr-").tempdir().unwrap();
    let shared = TestDatabase::new(Engine::Postgres).unwrap();
    let binaries = shared.server().unwrap().binaries().to_owned();
    done(std::process::Command::new("chown").arg("nobody").arg(folder.path()));
    let (data, base, wal) = (folder.path().join("data"), folder.path().join("base"), folder.path().join("wal"));
    done(unprivileged(Path::new("mkdir")).arg(&wal));
    done(unprivileged(&binaries.join("initdb")).args(["-A", "trust", "-U", "freehold", "-E", "UTF8", "--locale=C", "-N", "-D"]).arg(&data));
    let settings = format!("archive_mode = on\narchive_command = 'test ! -f {0}/%f && cp %p {0}/%f'\n", wal.display());
    let add = |data: &Path, settings: &str| {
        let file = data.join("postgresql.auto.conf");
        let text = fs::read_to_string(&file).unwrap() + settings;
        fs::write(file, text).unwrap();
    };
    add(&data, &settings);
    let server = Server::start(&binaries, folder.path(), data);
    server.psql("postgres", "CREATE DATABASE freehold");
    let url = format!("postgres://localhost/freehold?host={}&user=freehold", folder.path().display());
    let store = StoreConfig { url: Some(url), ..StoreConfig::default() };
    let config = Config { store: store.clone(), ..deployment.config.clone() };
    control_plane::moving::move_store(deployment.config.clone(), config.clone(), Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();

    let mut backup = unprivileged(&binaries.join("pg_basebackup"));
    done(backup.arg("-h").arg(folder.path()).args(["-U", "freehold", "-X", "none", "-c", "fast", "-D"]).arg(&base));
    deployment.look(&store, Some("before")).await;
    let moment = server.psql("freehold", "SELECT clock_timestamp()");
    tokio::time::sleep(Duration::from_millis(200)).await;
    deployment.look(&store, Some("mistake")).await;
    server.psql("freehold", "SELECT pg_switch_wal()");
    server.stop();

    let recovery = format!(
        "archive_mode = off\nrestore_command = 'cp {}/%f %p'\nrecovery_target_time = '{moment}'\nrecovery_target_action = 'promote'\n",
        wal.display()
    );
    add(&base, &recovery);
    done(unprivileged(Path::new("touch")).arg(base.join("recovery.signal")));
    let server = Server::start(&binaries, folder.path(), base);
    is_sound(&config).await;
    let seen = deployment.look(&store, None).await;
    let names: Vec<_> = seen["sites"]["nodes"].as_array().unwrap().iter().map(|site| site["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"before") && !names.contains(&"mistake"), "{names:?}");
    assert_eq!(seen["keys"], deployment.seen["keys"]);
    server.stop();
}
