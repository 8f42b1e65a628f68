//! Markers in every place where a secret or a name passes, by the command line, with the control plane on PostgreSQL; then
//! everything the server stored and everything the programs wrote is searched.

use clap::Parser as _;
use freehold_tests::database::{Engine, Postgres, TestDatabase};

use super::super::*;

/// What the control plane keeps sealed: a stolen database tells ids and times.
const NAMES: [&str; 15] = [
    "marker-tenant",
    "Marker Tenant Incorporated",
    "marker-project",
    "Marker Project",
    "marker-site",
    "marker-key",
    "marker description of a key",
    "marker-label",
    "marker-value",
    "marker-caller",
    "marker-policy",
    "marker text of a policy",
    "marker comment of a publication",
    "marker-token",
    "Erika Marker-Mustermann",
];
const PLAIN: &str = "marker-plaintext-0f1e2d3c4b5a6978";
const CONTEXT: &str = "marker-context-9182736455463728";

async fn freehold(world: &World, arguments: &[&str]) {
    let profiles = world.path("cli/profiles.toml");
    let command = ["freehold", "--config", profiles.to_str().unwrap()].into_iter().chain(arguments.iter().copied());
    let command = cli::args::Cli::try_parse_from(command).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    cli::run(command).await.unwrap_or_else(|error| panic!("{arguments:?}: {error:?}"));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap().trim().to_owned()
}

/// Every row of every table, as the server hands it out.
fn dump(server: &Postgres, database: &str) -> Vec<(String, String)> {
    let tables = server.psql(database, "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'").unwrap();
    let rows = |table: &str| server.psql(database, &format!("COPY {table} TO STDOUT (FORMAT binary)")).unwrap();
    tables.lines().map(|table| (table.to_owned(), rows(table))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_postgres_nor_what_the_command_line_writes_holds_a_secret_or_a_name() {
    let (world, database) = (World::new(), TestDatabase::new(Engine::Postgres).unwrap());
    let control_plane::database::Location::Postgres(url) = &database.location else { unreachable!() };
    let mut config = world.control_plane_config();
    config.store.url = Some(url.clone());
    let plane = ControlPlane::start(config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
    let at = |name: &str| world.path(name).display().to_string();
    let server = plane.graphql_url().trim_end_matches("/graphql").to_owned();
    fs::create_dir(world.path("secrets")).unwrap();

    let operator_file = plane.operator_token_file().display().to_string();
    let connection = ["--server", &server, "--token-file", &operator_file];
    freehold(&world, &[&connection[..], &["profile", "set", "operator"]].concat()).await;
    let admin_file = at("secrets/admin");
    freehold(&world, &["tenant", "create", NAMES[0], "--display-name", NAMES[1], "--admin-token-file", &admin_file]).await;
    let connection = ["--server", &server, "--token-file", &admin_file];
    freehold(&world, &[&connection[..], &["profile", "set", "admin"]].concat()).await;
    freehold(&world, &["project", "create", NAMES[2], "--display-name", NAMES[3]]).await;
    freehold(&world, &["site", "create", NAMES[4]]).await;
    freehold(&world, &["token", "create", NAMES[13], "--scope", "reader", "--secret-file", &at("secrets/reader")]).await;
    let invite = ["agent", "invite", "--site", NAMES[4], "--display-name", NAMES[14], "--enrolment-file", &at("secrets/enrolment")];
    freehold(&world, &invite).await;
    let enrolment = read(&world.path("secrets/enrolment"));
    world.enrol(&serde_json::from_str(&enrolment).unwrap()).await.unwrap();
    let label = format!("{}={}", NAMES[7], NAMES[8]);
    let key = ["key", "create", NAMES[5], "--project", NAMES[2], "--site", NAMES[4], "--description", NAMES[6], "--label", &label];
    let kind = ["--algorithm", "A256KW+A256GCM", "--purpose", "encrypt", "--durability", "single-copy"];
    freehold(&world, &[&key[..], &kind].concat()).await;
    freehold(&world, &["caller", "register", NAMES[9], "--project", NAMES[2], "--token-site", NAMES[4], "--label", &label]).await;
    freehold(&world, &["policy", "create", NAMES[10], "--project", NAMES[2]]).await;
    fs::write(world.path("secrets/policy"), format!("// {}\npermit (principal, action, resource);", NAMES[11])).unwrap();
    let policy = format!("{}/{}", NAMES[2], NAMES[10]);
    freehold(&world, &["policy", "publish", &policy, "--file", &at("secrets/policy"), "--comment", NAMES[12]]).await;

    let admin = read(&world.path("secrets/admin"));
    let query = json!({ "query": "{ callers(first: 1) { nodes { id } } }" });
    let found = world.http.post(plane.graphql_url()).bearer_auth(&admin).json(&query).send().await.unwrap();
    let caller = found.json::<Value>().await.unwrap()["data"]["callers"]["nodes"][0]["id"].as_str().unwrap().parse().unwrap();
    let caller = tokens::add(&world.agent_config(&[]).callers_file(), caller, &SystemClock, &SystemIds).unwrap().reveal().to_owned();
    secret_file(&world.path("secrets/caller"), caller.as_bytes());
    let agent = world.agent(Arc::new(SystemClock)).await;
    let key = format!("{}/{}", NAMES[2], NAMES[5]);
    let body = json!({ "key": key, "plaintext": base64url(PLAIN.as_bytes()), "context": { "purpose": CONTEXT } });
    world.until_allowed(&agent, "/v1/encrypt", &caller, body).await;
    let agent_url = format!("http://{}", agent.address);
    let connection = ["--agent", &agent_url, "--caller-token-file", &at("secrets/caller")];
    freehold(&world, &[&connection[..], &["profile", "set", "app"]].concat()).await;
    fs::write(world.path("secrets/plain"), PLAIN).unwrap();
    let context = format!("purpose={CONTEXT}");
    let (plain, sealed) = (at("secrets/plain"), at("sealed"));
    freehold(&world, &["encrypt", "--key", &key, "--context", &context, "-i", &plain, "--out", &sealed, "-q"]).await;
    freehold(&world, &["decrypt", "--context", &context, "-i", &sealed, "--out", &at("secrets/opened"), "-q"]).await;
    assert_eq!(read(&world.path("secrets/opened")), PLAIN);
    // What the agent did is stored too.
    let query = json!({ "query": "{ receipts(last: 1, operation: DECRYPT) { nodes { id } } }" });
    let started = Instant::now();
    loop {
        let found = world.http.post(plane.graphql_url()).bearer_auth(&admin).json(&query).send().await.unwrap();
        let found = found.json::<Value>().await.unwrap();
        if found["data"]["receipts"]["nodes"].as_array().unwrap_or_else(|| panic!("{found}")).len() == 1 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "no receipt came");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    agent.stop().await.unwrap();
    plane.stop().await;

    let operator = read(Path::new(&operator_file));
    let enrolment = serde_json::from_str::<Value>(&enrolment).unwrap()["token"].as_str().unwrap().to_owned();
    let reader = read(&world.path("secrets/reader"));
    let plain = base64url(PLAIN.as_bytes());
    let secrets = [operator.as_str(), &admin, &reader, &enrolment, &caller, PASSPHRASE, PLAIN, &plain, CONTEXT];
    let holds = |bytes: &[u8], what: &[&str]| -> Vec<String> {
        what.iter().filter(|what| memmem::find(bytes, what.as_bytes()).is_some()).map(|what| (*what).to_owned()).collect()
    };
    let mut found = Vec::new();

    // What the server hands out, and what its files hold, write-ahead log included.
    let postgres = database.server().unwrap();
    postgres.psql("postgres", "CHECKPOINT").unwrap();
    let name = url.trim_start_matches("postgres://localhost/").split('?').next().unwrap();
    let tables = dump(postgres, name);
    let (records, tenant) = (tables.iter().find(|(table, _)| table == "records").unwrap(), "ten_");
    assert!(tables.len() > 10 && records.1.len() > 10_000 && records.1.contains(tenant), "{} tables are searched", tables.len());
    for (table, rows) in &tables {
        found.extend(holds(rows.as_bytes(), &NAMES).into_iter().chain(holds(rows.as_bytes(), &secrets)).map(|what| (what, table.clone())));
    }
    let mut log_was_searched = false;
    for path in files(database.files()) {
        // Files of a running server come and go.
        let Ok(bytes) = fs::read(&path) else { continue };
        log_was_searched |=
            path.parent().is_some_and(|folder| folder.ends_with("pg_wal")) && memmem::find(&bytes, tenant.as_bytes()).is_some();
        let place = path.display().to_string();
        found.extend(holds(&bytes, &NAMES).into_iter().chain(holds(&bytes, &secrets)).map(|what| (what, place.clone())));
    }
    assert!(log_was_searched, "the write-ahead log is searched");

    // What the programs wrote, beside the files that are meant to hold a secret.
    let mut profiles_were_searched = false;
    for path in files(world.folder.path()) {
        let bytes = fs::read(&path).unwrap();
        let meant = path.starts_with(world.path("secrets")) || path == world.path("passphrase") || path.ends_with("operator.token");
        profiles_were_searched |= path.ends_with("profiles.toml") && holds(&bytes, &["[profiles.app]", "secrets/caller"]).len() == 2;
        if !meant {
            found.extend(holds(&bytes, &secrets).into_iter().map(|what| (what, path.display().to_string())));
        }
    }
    assert!(profiles_were_searched, "the profiles are searched");
    assert_eq!(found, []);
}
