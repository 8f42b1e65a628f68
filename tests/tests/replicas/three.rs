//! Three control planes, each a process of its own, over one PostgreSQL: everybody serves everything, reactors lead at one, and who
//! was paused or killed has lost its lead.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
    time::Instant,
};

use freehold_tests::database::{Engine, TestDatabase};

use super::super::*;

const FOLDER: &str = "FREEHOLD_TEST_REPLICA_FOLDER";
const STORE: &str = "FREEHOLD_TEST_REPLICA_STORE";
const KEY_FILE: &str = "FREEHOLD_TEST_REPLICA_KEY";

/// The reactor that is looked at.
const REACTOR: &str = "statements";

struct Replica {
    name: &'static str,
    child: Child,
    url: String,
    /// Kept open: it says more when it ends.
    _output: BufReader<ChildStdout>,
    _folder: tempfile::TempDir,
}

impl Replica {
    fn start(name: &'static str, database: &TestDatabase) -> Self {
        let control_plane::database::Location::Postgres(url) = &database.location else { panic!("PostgreSQL") };
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "replicas::three::a_replica_in_a_process_of_its_own", "--nocapture", "--test-threads", "1"])
            .env(FOLDER, folder.path())
            .env(STORE, format!("{url}&application_name={name}"))
            .env(KEY_FILE, database.folder.path().join("sealing.key"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let url = loop {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "the replica {name} ended before it served");
            if let Some((_, url)) = line.trim_end().split_once("serving ") {
                break url.to_owned();
            }
        };
        Self { name, child, url, _output: output, _folder: folder }
    }

    fn operator(&self) -> String {
        std::fs::read_to_string(self._folder.path().join("operator.token")).unwrap().trim().to_owned()
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    async fn ask(&self, token: &str, query: &str) -> Value {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(40)).build().unwrap();
        let answer = client.post(&self.url).bearer_auth(token).json(&json!({ "query": query })).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert!(answer.get("errors").is_none(), "{}: {query}: {answer}", self.name);
        answer["data"].clone()
    }

    async fn run(&self, token: &str, name: &str, input: &str, selection: &str) -> Value {
        let query = format!("mutation {{ {name}(input: {{{input}}}) {{ {selection} userErrors {{ code }} position }} }}");
        let answer = self.ask(token, &query).await[name].clone();
        assert_eq!(answer["userErrors"], json!([]), "{name}({input})");
        answer
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of its own: what [`three_processes_serve_everything_and_lead_once`] starts. Ends with its input.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_in_a_process_of_its_own() {
    let (Ok(folder), Ok(store), Ok(key)) = (std::env::var(FOLDER), std::env::var(STORE), std::env::var(KEY_FILE)) else { return };
    let mut config = config(Path::new(&folder));
    config.server.plain_http = true;
    config.agents.public_url = Some("https://agents.example:7401".parse().unwrap());
    (config.store.url, config.sealing.key_file) = (Some(store), Some(key.into()));
    let running = App::start(config, Arc::new(SystemClock), Arc::new(schema::clock::SystemIds)).await.unwrap();
    #[allow(clippy::print_stdout, reason = "what the test waits for")]
    {
        println!("serving {}", running.graphql_url());
    }
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    running.stop().await;
}

/// Everything that is done to leases and cursors, and by whom.
const WATCH: &str = "
CREATE TABLE watched (n BIGSERIAL, what TEXT, who TEXT, name TEXT, token BIGINT, position BIGINT);
CREATE FUNCTION watch_lease() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO watched (what, who, name, token) VALUES ('lease', current_setting('application_name'), NEW.name, NEW.token); RETURN NULL; END $$;
CREATE TRIGGER watch_lease AFTER INSERT OR UPDATE ON leaders FOR EACH ROW EXECUTE FUNCTION watch_lease();
CREATE FUNCTION watch_cursor() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO watched (what, who, name, token, position)
    VALUES ('cursor', current_setting('application_name'), NEW.name, NEW.token, NEW.position); RETURN NULL; END $$;
CREATE TRIGGER watch_cursor AFTER INSERT OR UPDATE ON reactors FOR EACH ROW EXECUTE FUNCTION watch_cursor();
CREATE FUNCTION watch_model() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO watched (what, who, name, position)
    VALUES ('model', current_setting('application_name'), NEW.name, NEW.position); RETURN NULL; END $$;
CREATE TRIGGER watch_model AFTER UPDATE ON checkpoints FOR EACH ROW EXECUTE FUNCTION watch_model();
";

async fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// Longer than others: two leads have to run out.
#[tokio::test(flavor = "multi_thread")]
async fn three_processes_serve_everything_and_lead_once() {
    let database = TestDatabase::new(Engine::Postgres).unwrap();
    let sql = |text: &str| database.psql(text).unwrap();
    let mut replicas = vec![Replica::start("one", &database)];
    sql(WATCH);
    replicas.extend(["two", "three"].map(|name| Replica::start(name, &database)));
    let operator = replicas[0].operator();
    let made = replicas[2].run(&operator, "createTenant", "name: \"acme\"", "adminToken").await;
    let token = made["adminToken"].as_str().unwrap().to_owned();

    // What is done at any of them can be read at each of the others at once, with the position that it gave.
    let mut names = Vec::new();
    for n in 0..9 {
        let made = replicas[n % 3].run(&token, "createProject", &format!("name: \"p{n}\""), "project { id }").await;
        names.push(format!("p{n}"));
        for other in [(n + 1) % 3, (n + 2) % 3] {
            let read = replicas[other]
                .ask(&token, &format!("{{ projects(first: 50, position: {}) {{ nodes {{ name }} }} }}", made["position"]))
                .await;
            let mut read: Vec<_> =
                read["projects"]["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect();
            read.sort();
            assert_eq!(read, names, "at {}", replicas[other].name);
        }
    }

    let leader = || sql(&format!("SELECT who FROM watched WHERE name = '{REACTOR}' AND what = 'lease' ORDER BY n DESC LIMIT 1"));
    let lead = || sql(&format!("SELECT token FROM leaders WHERE name = '{REACTOR}'"));
    // Whoever took the lead before anybody watched renews it within seconds.
    until("somebody leads", Duration::from_secs(20), || !leader().is_empty()).await;

    // Paused, a process loses its lead within seconds, and another compiles statements.
    let (paused, before) = (leader(), lead());
    let holder = replicas.iter().position(|replica| replica.name == paused).unwrap();
    replicas[holder].signal("-STOP");
    let others: Vec<_> = (0..3).filter(|n| *n != holder).collect();
    let site =
        replicas[others[0]].run(&token, "createSite", "name: \"fra\"", "site { id }").await["site"]["id"].as_str().unwrap().to_owned();
    until("another leads", Duration::from_secs(20), || lead() != before && leader() != paused).await;
    until("statements are compiled", Duration::from_secs(20), || {
        sql(&format!("SELECT count(*) FROM heartbeats WHERE site = '{site}'")) == "1"
    })
    .await;

    // Let on, it has nothing to say about what it led, and serves as before.
    let mark = sql("SELECT max(n) FROM watched");
    let next = lead();
    replicas[holder].signal("-CONT");
    let made = replicas[holder].run(&token, "createSite", "name: \"ber\"", "site { id }").await;
    let read = replicas[others[1]].ask(&token, &format!("{{ sites(position: {}) {{ nodes {{ name }} }} }}", made["position"])).await;
    assert_eq!(read["sites"]["nodes"].as_array().unwrap().len(), 2);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let late = format!("SELECT count(*) FROM watched WHERE n > {mark} AND who = '{paused}' AND name = '{REACTOR}'");
    assert_eq!((sql(&late).as_str(), lead()), ("0", next), "a paused leader wrote under its old lead");

    // Killed, the next one loses it, too.
    let killed = leader();
    let gone = replicas.iter().position(|replica| replica.name == killed).unwrap();
    drop(replicas.swap_remove(gone));
    let site = replicas[0].run(&token, "createSite", "name: \"par\"", "site { id }").await["site"]["id"].as_str().unwrap().to_owned();
    until("another leads", Duration::from_secs(20), || leader() != killed).await;
    until("statements are compiled", Duration::from_secs(20), || {
        sql(&format!("SELECT count(*) FROM heartbeats WHERE site = '{site}'")) == "1"
    })
    .await;

    // In all that time: one process under each lead, leads and cursors only forward, and every stretch projected by one.
    assert_eq!(
        sql(
            "SELECT count(*) FROM (SELECT name, token FROM watched WHERE token IS NOT NULL GROUP BY name, token HAVING count(DISTINCT who) > 1) t"
        ),
        "0"
    );
    for (kind, what) in [("cursor", "token"), ("cursor", "position"), ("lease", "token")] {
        let back = format!(
            "SELECT count(*) FROM (SELECT {what} < lag({what}) OVER (PARTITION BY name ORDER BY n) AS back FROM watched WHERE what = '{kind}') t WHERE back"
        );
        assert_eq!(sql(&back), "0", "{kind}: {what} went back");
    }
    assert_eq!(
        sql("SELECT count(*) FROM (SELECT position FROM watched WHERE what = 'model' GROUP BY name, position HAVING count(*) > 1) t"),
        "0"
    );
    assert_eq!(
        sql(
            "SELECT count(*) FROM records r WHERE stream LIKE 'prj_%' AND NOT EXISTS (SELECT FROM views v WHERE v.tenant = r.tenant AND v.id = r.stream AND v.revision = r.revision)"
        ),
        "0"
    );
    for replica in &mut replicas {
        drop(replica.child.stdin.take());
        assert!(replica.child.wait().unwrap().success(), "{} did not stop well", replica.name);
    }
}
