//! Copies that were stolen, of the database, of its write-ahead log and of a backup: names and e-mail addresses that were given in
//! every field there is are searched in them, as they are, in other cases, encodings and at every alignment.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine as _, engine::general_purpose};
use control_plane::database::Location;
use freehold_tests::database::{Engine, TestDatabase};

use super::super::*;

/// What every planted text contains: nothing else does.
const CORE: &str = "qzxkjvwq";

/// Gives texts, each another.
struct Planting(std::cell::Cell<u32>);

impl Planting {
    fn number(&self) -> u32 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }

    /// A name as the domain takes it.
    fn name(&self) -> String {
        format!("n{}-{CORE}", self.number())
    }

    /// Free text of a person, with an address.
    fn text(&self) -> String {
        let n = self.number();
        format!("Zoë {CORE}{n} <zoe.{CORE}.{n}@example.org>")
    }
}

/// How a text may stand in a file.
fn spellings() -> Vec<(String, Vec<u8>)> {
    let mut spellings = vec![("plain".to_owned(), CORE.as_bytes().to_vec())];
    let utf16: Vec<u16> = CORE.encode_utf16().collect();
    spellings.push(("utf-16le".to_owned(), utf16.iter().flat_map(|unit| unit.to_le_bytes()).collect()));
    spellings.push(("utf-16be".to_owned(), utf16.iter().flat_map(|unit| unit.to_be_bytes()).collect()));
    spellings.push(("hex".to_owned(), hex::encode(CORE).into_bytes()));
    for text in [CORE.to_owned(), CORE.to_uppercase()] {
        for engine in [general_purpose::STANDARD_NO_PAD, general_purpose::URL_SAFE_NO_PAD] {
            for shift in 0..3 {
                let encoded = engine.encode([vec![b'x'; shift], text.clone().into_bytes()].concat());
                // Letters at the edges depend on what stands beside.
                let (from, to) = ((shift * 8).div_ceil(6), (shift + text.len()) * 8 / 6);
                spellings.push((format!("base64 of {text}, shifted by {shift}"), encoded.as_bytes()[from..to].to_vec()));
            }
        }
    }
    spellings
}

/// Where a text stands in a file, in one of its spellings.
fn found(bytes: &[u8], spellings: &[(String, Vec<u8>)]) -> Option<String> {
    let folded = bytes.to_ascii_lowercase();
    for (name, spelling) in spellings {
        let place = match name.starts_with("base64") {
            true => memchr::memmem::find(bytes, spelling),
            false => memchr::memmem::find(&folded, &spelling.to_ascii_lowercase()),
        };
        if let Some(place) = place {
            let around = &bytes[place.saturating_sub(40)..(place + 60).min(bytes.len())];
            return Some(format!("{name} at {place}: {}", String::from_utf8_lossy(around)));
        }
    }
    None
}

fn files(folder: &Path, list: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&entry.path(), list),
            kind if kind.is_file() => list.push(entry.path()),
            _ => {}
        }
    }
}

/// Gives something unusual to say in every field of text of every mutation; which fields those were.
async fn plant(world: &World) -> (String, BTreeSet<String>) {
    let planting = Planting(0.into());
    let mut given = BTreeSet::new();
    let (name, text) = (|| planting.name(), || planting.text());
    let tenant = world
        .run(
            &world.operator,
            "createTenant",
            &format!("name: \"{}\", displayName: \"{}\", idempotencyKey: \"{}\"", name(), text(), name()),
            "adminToken",
        )
        .await;
    let token = tenant["adminToken"].as_str().unwrap().to_owned();
    given.extend(["createTenant.name", "createTenant.displayName"].map(str::to_owned));
    let token = token.as_str();
    let mut run = async |mutation: &str, fields: &[(&str, String)], rest: &str, selection: &str| -> Value {
        let texts: Vec<_> = fields.iter().map(|(field, text)| format!("{field}: {}", Value::from(text.as_str()))).collect();
        given.extend(fields.iter().map(|(field, _)| format!("{mutation}.{field}")));
        let key = format!("idempotencyKey: \"{}\"", planting.name());
        world.run(token, mutation, &[texts.join(", "), rest.to_owned(), key].join(", "), selection).await
    };
    let id = |value: &Value, of: &str| value[of]["id"].as_str().unwrap().to_owned();
    let label = || format!("labels: [{{ name: \"{}\", value: \"{}\" }}]", name(), format_args!("v{CORE}"));
    run("renameTenant", &[("displayName", text())], "", "tenant { id }").await;
    let project = run("createProject", &[("name", name()), ("displayName", text())], "", "project { id }").await;
    let project = id(&project, "project");
    let in_project = format!("project: \"{project}\"");
    run("renameProject", &[("displayName", text())], &in_project, "project { id }").await;
    run("suspendProject", &[("reason", text())], &in_project, "project { id }").await;
    run("resumeProject", &[("reason", text())], &in_project, "project { id }").await;
    let site = id(&run("createSite", &[("name", name()), ("displayName", text())], "", "site { id }").await, "site");
    let in_site = format!("site: \"{site}\"");
    run("renameSite", &[("displayName", text())], &in_site, "site { id }").await;
    run("suspendSite", &[("reason", text())], &in_site, "site { id }").await;
    run("resumeSite", &[("reason", text())], &in_site, "site { id }").await;
    let agent = id(&run("inviteAgent", &[("displayName", text())], &in_site, "agent { id }").await, "agent");
    run("cancelInvitation", &[], &format!("agent: \"{agent}\""), "agent { id }").await;
    let authority = {
        let mut params = rcgen::CertificateParams::new(vec![format!("{CORE}.example.org")]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("Zoë {CORE}"));
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    };
    let caller = [("name", name()), ("authorityPem", authority), ("subject", format!("spiffe://{CORE}.example.org/zoe"))];
    let caller = id(&run("registerCaller", &caller, &format!("{in_project}, kind: MTLS, {}", label()), "caller { id }").await, "caller");
    let caller = format!("caller: \"{caller}\"");
    run("relabelCaller", &[], &format!("{caller}, {}", label()), "caller { id }").await;
    run("suspendCaller", &[("reason", text())], &caller, "caller { id }").await;
    run("resumeCaller", &[("reason", text())], &caller, "caller { id }").await;
    run("revokeCaller", &[("comment", text())], &format!("{caller}, reason: KEY_COMPROMISE"), "caller { id }").await;

    let what = |algorithm: &str| {
        format!(
            "{in_project}, algorithm: \"{algorithm}\", purpose: SIGN, placement: [\"{site}\"], durability: SINGLE_COPY, deletionProtection: false, {}",
            label()
        )
    };
    let mut keys = Vec::new();
    for algorithm in ["ML-DSA-65", "Ed25519", "Ed25519"] {
        let made = run("createKey", &[("name", name()), ("description", text())], &what(algorithm), "key { id }").await;
        keys.push(id(&made, "key"));
    }
    let key = format!("key: \"{}\"", keys[2]);
    run("describeKey", &[("description", text())], &key, "key { id }").await;
    run("relabelKey", &[], &format!("{key}, {}", label()), "key { id }").await;
    run("suspendKey", &[("reason", text())], &key, "key { id }").await;
    run("resumeKey", &[("reason", text())], &key, "key { id }").await;
    let alias = name();
    run("createAlias", &[("name", alias.clone())], &format!("{in_project}, {key}"), "key { aliases }").await;
    run("moveAlias", &[("name", alias.clone())], &format!("{in_project}, key: \"{}\"", keys[1]), "key { aliases }").await;
    run("retireAlias", &[("name", alias)], &in_project, "key { aliases }").await;
    let version = format!("version: \"{}/1\"", keys[2]);
    run("suspendKeyVersion", &[("reason", text())], &version, "key { id }").await;
    run("resumeKeyVersion", &[("reason", text())], &version, "key { id }").await;
    run("compromiseKeyVersion", &[("reason", text())], &version, "key { id }").await;
    run("destroyKeyVersion", &[("reason", text())], &version, "key { id }").await;
    let both = format!("{in_project}, classical: \"{}\", postQuantum: \"{}\", rule: ANY", keys[1], keys[0]);
    let composite = run("createComposite", &[("name", name()), ("description", text())], &both, "composite { id }").await;
    let composite = format!("composite: \"{}\"", id(&composite, "composite"));
    run("describeComposite", &[("description", text())], &composite, "composite { id }").await;
    run("tightenCompositeRule", &[("reason", text())], &format!("{composite}, rule: ALL"), "composite { id }").await;
    run("loosenCompositeRule", &[("reason", text())], &format!("{composite}, rule: ANY"), "composite { id }").await;
    run("retireComposite", &[("reason", text())], &composite, "composite { id }").await;

    let policy = id(&run("createPolicy", &[("name", name())], &in_project, "policy { id }").await, "policy");
    let policy = format!("policy: \"{policy}\"");
    let content = format!(
        "content: {{ cedar: \"// {CORE} of Zoë\\n@id(\\\"{CORE}\\\") permit (principal, action, resource);\", templates: [] }}, {policy}"
    );
    run("savePolicyDraft", &[("note", text())], &content, "policy { id }").await;
    run("publishPolicy", &[("note", text())], &policy, "policy { id }").await;
    run("savePolicyDraft", &[("note", text())], &content.replace("Zoë", "Zoe"), "policy { id }").await;
    run("publishPolicy", &[("note", text())], &policy, "policy { id }").await;
    run("rollbackPolicy", &[("note", text())], &format!("{policy}, version: 1"), "policy { id }").await;
    let holder = format!("scopes: [READER], holder: {{ name: \"Zoë {CORE}\", email: \"zoe@{CORE}.example.org\" }}");
    let made = run("createToken", &[("name", name())], &holder, "token { id holder { person name email } }").await;
    assert_eq!(made["token"]["holder"]["email"], format!("zoe@{CORE}.example.org"));
    run("revokeToken", &[("reason", text())], &format!("token: \"{}\"", made["token"]["id"].as_str().unwrap()), "token { id }").await;
    (token.to_owned(), given)
}

/// Fields of text that this test gives nothing to say, and why.
const NOT_PLANTED: &[(&str, &str)] = &[
    ("createKey.algorithm", "a word of the catalogue"),
    ("createKey.template", "the name of a template in a policy"),
    ("registerExternalKey.name", "as createKey.name"),
    ("registerExternalKey.description", "as createKey.description"),
    ("registerExternalKey.algorithm", "a word of the catalogue"),
    ("registerExternalKey.publicKey", "a public key"),
    ("registerExternalKeyVersion.publicKey", "a public key"),
    ("registerCaller.issuer", "the hash of the authority, or an id"),
    ("signAgentVouch.keyId", "a hash"),
    ("signAgentVouch.signer", "a hash"),
    ("signAgentVouch.signature", "a signature"),
    ("signStatement.sha256", "a hash"),
    ("signStatement.keyid", "a hash"),
    ("signStatement.signature", "a signature"),
    ("withdrawRootProposal.sha256", "a hash"),
    ("withdrawRootProposal.reason", "needs signers; the same type as other reasons"),
    ("showStatements.set", "signed statements, kept sealed: only genuine ones are taken"),
    ("attestHolderLost.attestation", "needs an agent; the same type as other reasons"),
    ("suspendAgent.reason", "needs an agent; the same type as other reasons"),
    ("resumeAgent.reason", "needs an agent; the same type as other reasons"),
    ("revokeAgent.comment", "needs an agent; the same type as other reasons"),
    ("deactivateKeyVersion.reason", "needs an agent; the same type as other reasons"),
    ("revokeKeyVersion.comment", "needs an agent; the same type as other reasons"),
];

/// Every field of text of every mutation, as the contract has them.
fn fields_of_text() -> BTreeSet<String> {
    let contract = include_str!("../../../schema/contracts/control-plane.graphql");
    let mut fields = BTreeSet::new();
    for input in contract.split("\ninput ").skip(1) {
        let (name, rest) = input.split_once(" {").unwrap();
        let Some(name) = name.strip_suffix("Input") else { continue };
        let mutation = format!("{}{}", name[..1].to_lowercase(), &name[1..]);
        if !contract.contains(&format!("  {mutation}(input: ")) {
            continue;
        }
        let body = rest.split("\n}").next().unwrap();
        let texts = body.lines().filter_map(|line| line.trim().split_once(": String")).map(|(field, _)| field);
        fields.extend(texts.filter(|field| *field != "idempotencyKey").map(|field| format!("{mutation}.{field}")));
    }
    fields
}

async fn nothing_is_found(engine: Engine) {
    let database = TestDatabase::new(engine).unwrap();
    let url = match &database.location {
        Location::Sqlite(path) => format!("sqlite://{}", path.display()),
        Location::Postgres(url) => url.clone(),
    };
    let world = World::start(move |config| {
        config.server.plain_http = true;
        config.store.url = Some(url);
    })
    .await;
    let (token, given) = plant(&world).await;
    let expected = fields_of_text();
    assert!(expected.len() > 50, "{expected:?}");
    let excused: BTreeSet<_> = NOT_PLANTED.iter().map(|(field, _)| (*field).to_owned()).collect();
    let missing: Vec<_> = expected.iter().filter(|field| !given.contains(*field) && !excused.contains(*field)).collect();
    assert!(missing.is_empty(), "nothing is planted in {missing:?}");
    assert!(excused.iter().all(|field| expected.contains(field)), "a field that is excused is gone");
    // The reactors have done their part: statements are compiled, signed and kept.
    let started = std::time::Instant::now();
    loop {
        let events = world.ask(&token, "{ events(last: 100, type: \"StatementPublished\") { nodes { id } } }").await;
        if events["events"]["nodes"].as_array().unwrap().len() >= 3 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "no statements: {events}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // While it runs, and after it has stopped.
    let mut copies = Vec::new();
    let mut steal = |when: &str| {
        let mut list = Vec::new();
        files(database.files(), &mut list);
        // The data directory holds keys and tokens that are to be kept apart, and no names.
        files(&world.directory.path().join("data"), &mut list);
        // Files of a running server come and go.
        copies.extend(list.into_iter().filter_map(|path| Some((format!("{when}: {}", path.display()), fs::read(path).ok()?))));
    };
    steal("running");
    let dumps = dumps(&database);
    world.running.stop().await;
    if let Some(server) = database.server() {
        server.psql("postgres", "CHECKPOINT").unwrap();
    }
    steal("stopped");
    copies.extend(dumps);

    let spellings = spellings();
    let tenant = b"ten_";
    let (mut bytes, mut seen) = (0_usize, BTreeSet::new());
    for (name, copy) in &copies {
        bytes += copy.len();
        if memchr::memmem::find(copy, tenant).is_some() {
            seen.insert(name.clone());
        }
        if let Some(place) = found(copy, &spellings) {
            panic!("{name} tells {place}");
        }
    }
    // What stands there in clear is found, so the search works, and in each kind of copy.
    let kinds: &[&str] = match engine {
        Engine::Sqlite => &["running: ", "freehold.db-wal", "stopped: ", "backup"],
        _ => &["running: ", "pg_wal", "stopped: ", "dump as text"],
    };
    for kind in kinds {
        assert!(seen.iter().any(|name| name.contains(kind)), "the search found nothing in {kind}: {seen:?}");
    }
    #[allow(clippy::print_stdout, reason = "counts to keep")]
    {
        println!(
            "{engine:?}: {} files, {} MiB searched in {} spellings for {} planted fields",
            copies.len(),
            bytes >> 20,
            spellings.len(),
            given.len()
        );
    }
}

/// Backups by the engines' own tools.
fn dumps(database: &TestDatabase) -> Vec<(String, Vec<u8>)> {
    let Location::Postgres(url) = &database.location else {
        let Location::Sqlite(path) = &database.location else { unreachable!() };
        // SQLite's own way to copy a database that is in use.
        let copy = database.folder.path().join("stolen-backup.db");
        let status = Command::new("python3")
            .args(["-c", "import sqlite3, sys\nsource = sqlite3.connect(sys.argv[1])\nsource.backup(sqlite3.connect(sys.argv[2]))"])
            .arg(path)
            .arg(&copy)
            .status();
        assert!(status.unwrap().success());
        let bytes = fs::read(&copy).unwrap();
        fs::remove_file(copy).unwrap();
        return vec![("backup".to_owned(), bytes)];
    };
    let server = database.server().unwrap();
    let text = server.dump(url, &["--inserts"]).unwrap();
    let archive = server.dump(url, &["-Fc", "-Z0"]).unwrap();
    vec![("dump as text".to_owned(), text), ("dump as archive".to_owned(), archive)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_sqlite_database_tells_no_names() {
    nothing_is_found(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_postgresql_tells_no_names() {
    nothing_is_found(Engine::Postgres).await;
}

#[test]
fn the_search_finds_what_is_there() {
    let spellings = spellings();
    let upper = CORE.to_uppercase();
    let utf16: Vec<u8> = CORE.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let hidden: Vec<Vec<u8>> = vec![
        CORE.as_bytes().to_vec(),
        upper.clone().into_bytes(),
        utf16,
        hex::encode(CORE).to_uppercase().into_bytes(),
        general_purpose::STANDARD.encode(format!("Zoë {CORE}, and so on")).into_bytes(),
        general_purpose::URL_SAFE_NO_PAD.encode(format!("a{CORE}b")).into_bytes(),
        general_purpose::STANDARD.encode(format!("ab{upper}c")).into_bytes(),
    ];
    for bytes in hidden {
        let file = [vec![0; 1000], bytes, vec![0xFF; 1000]].concat();
        assert!(found(&file, &spellings).is_some(), "{}", String::from_utf8_lossy(&file[1000..file.len() - 1000]));
    }
    assert!(found(&[0x7A; 10_000], &spellings).is_none());
}
