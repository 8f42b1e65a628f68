//! An agent that never has a connection lives its whole life by files: it joins, is told policy, makes keys, receives and sends material,
//! reports, spends budgets, hands in receipts, and destroys. And the files do nothing for whoever changes, exchanges or keeps them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use data_plane_agent::{
    app::{Running, open_vault},
    config::Config,
    control::{
        directory::ControlDirectory,
        enrol::{self, EnrolParts, Enrolled, read_answer},
        exchange::Exchanged,
        vouch::confirm,
    },
    keys::errands::{Answer, Errand, ErrandError, ask},
    rest::tokens,
};
use freehold_tests::world::{ShiftedClock, World, until};
use schema::{
    clock::{Clock, SystemClock, SystemIds},
    encoding::{Base64, base64url},
    id::TenantId,
    token::{Token, TokenKind},
    wire::{
        agent::{EnrolmentToken, ReceiptBody},
        exchange::{CarriedFile, EXCHANGE, EnrolmentAnswerFile, EnrolmentRequestFile, InboxFile, MAX_ASK_BYTES, OutboxFile, read_carried},
    },
};
use serde_json::{Value, json};

use super::receipts::Receipts;

/// Nobody listens there.
const NOWHERE: &str = "https://127.0.0.1:1";

/// An agent that is connected to nothing.
struct Apart<'a> {
    world: &'a World,
    name: String,
    config: Config,
    enrolled: Enrolled,
    agent: Option<Running>,
    files: u32,
}

/// A control plane that takes as many files from here as a test hands in.
async fn plane(clock: Arc<dyn Clock>) -> World {
    World::start_with(clock, |config| config.limits.enrolments_per_minute = 10_000).await
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn read<T: CarriedFile + for<'de> serde::Deserialize<'de>>(path: &Path) -> T {
    read_carried(&fs::read(path).unwrap()).unwrap()
}

fn write(path: &Path, file: &impl serde::Serialize) {
    fs::write(path, serde_json::to_vec(file).unwrap()).unwrap();
}

async fn enrolling<T>(world: &World, config: &Config, work: impl AsyncFnOnce(&EnrolParts<'_>) -> T) -> T {
    service::files::create_private_directory(&config.data_dir).unwrap();
    let vault = open_vault(config, Arc::new(SystemIds)).await.unwrap();
    let directory = ControlDirectory::open(&config.data_dir).unwrap();
    let (vault, outgoing) = (&*vault, &config.control_plane.outgoing);
    work(&EnrolParts { directory: &directory, vault, outgoing, clock: world.clock.clone(), ids: &SystemIds, host: "bunker" }).await
}

/// Invites an agent; where its enrolment file is, and what is in it.
async fn invited(world: &World, site: &str, name: &str) -> (PathBuf, EnrolmentToken) {
    let file = world.path(&format!("{name}.enrolment"));
    world.cli(&["agent", "invite", "--site", site, "--enrolment-file", text(&file)]).await.unwrap();
    let token = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    (file, token)
}

/// Lets an agent ask to join; its request is in the file.
async fn asks(world: &World, config: &Config, token: &EnrolmentToken) -> PathBuf {
    // The host's copy of the enrolment file would lead nowhere.
    let there = EnrolmentToken { control_plane: NOWHERE.to_owned(), ..token.clone() };
    let file = enrolling(world, config, async |parts| enrol::request(&there, parts).await).await.unwrap();
    let path = world.path(&format!("{}.request", token.agent));
    write(&path, &file);
    assert!(!fs::read_to_string(&path).unwrap().contains(&token.token), "the token does not travel");
    path
}

impl<'a> Apart<'a> {
    async fn join(world: &'a World, site: &str, name: &str) -> Self {
        let config = world.agent_config(name, "plain_http = true");
        let (enrolment, token) = invited(world, site, name).await;
        let request = asks(world, &config, &token).await;
        let answer = world.path(&format!("{name}.answer"));
        world.cli(&["agent", "enrol", text(&request), "--enrolment-file", text(&enrolment), "--answer", text(&answer)]).await.unwrap();
        let file = read_answer(&answer).unwrap();
        let enrolled = enrolling(world, &config, async |parts| enrol::answer(file, parts).await).await.unwrap();
        assert!(enrolled.statements && enrolled.agent == token.agent);
        let agent = Some(world.agent(&config).await);
        Self { world, name: name.to_owned(), config, enrolled, agent, files: 0 }
    }

    fn running(&self) -> &Running {
        self.agent.as_ref().unwrap()
    }

    fn directory(&self) -> ControlDirectory {
        ControlDirectory::open(&self.config.data_dir).unwrap()
    }

    async fn errand(&self, errand: Errand) -> Result<Answer, ErrandError> {
        let data_dir = self.config.data_dir.clone();
        tokio::task::spawn_blocking(move || ask(&data_dir, &errand, &SystemIds)).await.unwrap()
    }

    fn file(&mut self, what: &str) -> PathBuf {
        self.files += 1;
        self.world.path(&format!("{}-{}.{what}", self.name, self.files))
    }

    async fn write(&mut self) -> PathBuf {
        let path = self.file("outbox");
        let Answer::Outbox { file, more: false } = self.errand(Errand::Outbox).await.unwrap() else { panic!("no outbox") };
        assert_eq!(file.control_plane, NOWHERE);
        write(&path, &file);
        path
    }

    /// Hands an outbox in; where the answer is.
    async fn submit(&mut self, outbox: &Path) -> Result<PathBuf, String> {
        let answer = self.file("inbox");
        let url = format!("https://{}", self.world.plane.agents_address());
        let done = self.world.cli(&["agent", "exchange", text(outbox), "--answer", text(&answer), "--agents-url", &url]).await;
        done.map(|()| answer).map_err(|error| error.code)
    }

    async fn take(&self, inbox: &Path) -> Result<Exchanged, String> {
        let InboxFile { answer, .. } = read(inbox);
        match self.errand(Errand::Inbox { inbox: answer.inbox, statements: answer.statements }).await {
            Ok(Answer::Exchanged(exchanged)) => Ok(exchanged),
            Err(ErrandError::Refused { code, .. }) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    async fn exchange(&mut self) -> Exchanged {
        let outbox = self.write().await;
        let inbox = self.submit(&outbox).await.unwrap();
        let exchanged = self.take(&inbox).await.unwrap();
        assert_eq!(exchanged.refused, [], "exchange {}", exchanged.number);
        exchanged
    }

    /// Exchanges until something is so: what happens elsewhere takes its time.
    async fn until(&mut self, what: &str, is: impl AsyncFn() -> bool) {
        for _ in 0..20 {
            self.exchange().await;
            if is().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("{what}: not after 20 exchanges");
    }

    async fn seal(&self, key: &str, token: &str) -> String {
        let body = json!({ "key": format!("payments/{key}"), "plaintext": base64url(b"4111") });
        let (status, sealed) = self.world.call(self.running(), "/v1/encrypt", token, &body).await;
        assert_eq!(status, 200, "{sealed}");
        sealed["message"].as_str().unwrap().to_owned()
    }

    async fn opens(&self, message: &str, token: &str) -> bool {
        let (status, opened) = self.world.call(self.running(), "/v1/decrypt", token, &json!({ "message": message })).await;
        status == 200 && opened["plaintext"] == base64url(b"4111")
    }
}

async fn key(world: &World, name: &str, placement: Value, generator: &Enrolled) {
    let key = json!({
        "project": "payments", "name": name, "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT", "placement": placement,
        "durability": "SINGLE_COPY", "deletionProtection": false, "eligibleGenerators": [generator.agent.to_string()],
    });
    world.mutate("createKey", key, "key { id }").await;
}

/// What an agent reported of the first version of a key, and the state of that.
async fn reported(world: &World, key: &str, agent: &Enrolled) -> (String, String) {
    let query = "query($reference: String!) { key(reference: $reference) { versions { state holders { agentId reported } } } }";
    let found = world.query(query, json!({ "reference": format!("payments/{key}") })).await;
    let version = &found["key"]["versions"][0];
    let holder = version["holders"].as_array().into_iter().flatten().find(|holder| holder["agentId"] == agent.agent.to_string().as_str());
    let word = |value: &Value| value.as_str().unwrap_or("NONE").to_owned();
    (word(&version["state"]), holder.map_or("NONE".to_owned(), |holder| word(&holder["reported"])))
}

async fn receipts_of(world: &World, agent: &Enrolled) -> Vec<Value> {
    let query = "query($agent: ID) { receipts(first: 100, agent: $agent) { nodes { operation } } }";
    let found = world.query(query, json!({ "agent": agent.agent.to_string() })).await;
    found["receipts"]["nodes"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_any_connection_lives_its_whole_life_by_files() {
    let clock = ShiftedClock::new();
    let world = plane(Arc::new(clock.clone())).await;
    world.mutate("createSite", json!({ "name": "ber" }), "site { id }").await;
    world.publish("permit (principal, action, resource);").await;
    world.cli(&["site", "offline", "ber", "--stale", "3d"]).await.unwrap();
    let fra_config = world.agent_config("fra-1", "plain_http = true");
    let fra = world.enrol_in("fra", &fra_config, None).await;
    let fra_token = world.caller_at("fra", "app-fra", &fra_config).await;
    let fra_agent = world.agent(&fra_config).await;

    let mut ber = Apart::join(&world, "ber", "ber-1").await;
    let token = world.caller_at("ber", "app-ber", &ber.config).await;
    key(&world, "own", json!(["ber"]), &ber.enrolled).await;
    key(&world, "cards", json!(["fra", "ber"]), &fra).await;

    // A key of its own: it is asked to make it, makes it, says so, and is told that it is active.
    let own = ber.enrolled.clone();
    ber.until("its own key is made", async || reported(&world, "own", &own).await == ("ACTIVE".to_owned(), "READY".to_owned())).await;
    ber.exchange().await;
    let mine = ber.seal("own", &token).await;
    assert!(ber.opens(&mine, &token).await);

    // A key of the other site: statements tell of its agent, a person at each end believes it, and material comes in an answer.
    let body = json!({ "key": "payments/cards", "plaintext": base64url(b"4111") });
    let theirs = world.until_allowed(&fra_agent, "/v1/encrypt", &fra_token, &body).await["message"].as_str().unwrap().to_owned();
    ber.exchange().await;
    confirm(&ber.directory(), fra.agent, fra.keyid).unwrap();
    let fra_directory = ControlDirectory::open(&fra_config.data_dir).unwrap();
    until(|| async { confirm(&fra_directory, own.agent, own.keyid).map_err(|error| error.to_string()) }).await;
    ber.until("the other site's key is here", async || reported(&world, "cards", &own).await.1 == "READY").await;
    ber.exchange().await;
    assert!(ber.opens(&theirs, &token).await, "what the other site sealed opens here");
    let back = ber.seal("cards", &token).await;
    world.until_allowed(&fra_agent, "/v1/decrypt", &fra_token, &json!({ "message": back })).await;

    // Its receipts are at the control plane, and the room they took here is free.
    ber.exchange().await;
    let before = receipts_of(&world, &own).await.len();
    ber.seal("own", &token).await;
    ber.seal("own", &token).await;
    let outbox = ber.write().await;
    let inbox = ber.submit(&outbox).await.unwrap();
    assert_eq!(receipts_of(&world, &own).await.len(), before + 2);
    // Handed in again, and taken twice: nothing happens twice.
    let again = ber.submit(&outbox).await.unwrap();
    for inbox in [&inbox, &again, &inbox] {
        let exchanged = ber.take(inbox).await.unwrap();
        assert_eq!((exchanged.refused.len(), exchanged.receipts.is_some()), (0, true), "{exchanged:?}");
    }
    assert_eq!(receipts_of(&world, &own).await.len(), before + 2);

    // It goes on from there after a start.
    ber.agent.take().unwrap().stop().await.unwrap();
    ber.agent = Some(world.agent(&ber.config).await);
    ber.seal("own", &token).await;
    ber.exchange().await;
    assert_eq!(receipts_of(&world, &own).await.len(), before + 3);

    // Destroyed is what it has reported.
    world.mutate("destroyKeyVersion", json!({ "version": "payments/cards/1", "waitSeconds": "3600" }), "key { id }").await;
    clock.advance(Duration::from_secs(3601));
    ber.until("the version is destroyed here", async || reported(&world, "cards", &own).await.1 == "DESTROYED").await;
    until(|| async {
        let (state, _) = reported(&world, "cards", &own).await;
        if state == "DESTROYED" { Ok(()) } else { Err(state) }
    })
    .await;
    ber.exchange().await;
    assert!(!ber.opens(&theirs, &token).await);
    assert!(ber.opens(&mine, &token).await);
    world.cli(&["agent", "show", &own.agent.to_string()]).await.unwrap();

    // Whoever carries it may take days, as policy allows; then it is too old to be believed, and what it says of receipts still counts.
    let (mut soon, mut late) = (ber.write().await, ber.write().await);
    for file in [&mut soon, &mut late] {
        *file = ber.submit(file).await.unwrap();
    }
    clock.advance(Duration::from_secs(2 * 86_400));
    let exchanged = ber.take(&soon).await.unwrap();
    assert_eq!((exchanged.refused.len(), exchanged.new_statements), (0, true), "{exchanged:?}");
    clock.advance(Duration::from_secs(86_400 + 60));
    let exchanged = ber.take(&late).await.unwrap();
    assert_eq!(
        (exchanged.refused[0].0.as_str(), exchanged.refused.len(), exchanged.new_statements),
        ("expired", 1, false),
        "{exchanged:?}"
    );
    assert!(exchanged.receipts.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_without_a_connection_hide_contexts_under_one_key() {
    let world = plane(Arc::new(SystemClock)).await;
    world.publish("permit (principal, action, resource);").await;
    let mut one = Apart::join(&world, "fra", "one").await;
    one.exchange().await;
    let mut two = Apart::join(&world, "fra", "two").await;
    let query = "query($id: ID!) { agent(id: $id) { state } }";
    // Vouching is as ever: nothing that a file says makes it one of the site.
    one.exchange().await;
    let outbox = two.write().await;
    let inbox = two.submit(&outbox).await.unwrap();
    let came = two.take(&inbox).await.unwrap();
    assert!(came.refused.iter().all(|(code, _)| code == "agent_not_rostered"), "{came:?}");
    assert_eq!(world.query(query, json!({ "id": two.enrolled.agent.to_string() })).await["agent"]["state"], "ENROLLED");
    confirm(&one.directory(), two.enrolled.agent, two.enrolled.keyid).unwrap();
    one.exchange().await;
    assert_eq!(world.query(query, json!({ "id": two.enrolled.agent.to_string() })).await["agent"]["state"], "ROSTERED");

    key(&world, "cards", json!(["fra"]), &one.enrolled).await;
    let caller = world.caller("app", &one.config).await;
    let entries = tokens::list(&one.config.callers_file()).unwrap();
    let parsed = Token::parse(TokenKind::Caller, &caller).unwrap();
    tokens::accept(&two.config.callers_file(), entries[0].caller.clone(), &parsed, &SystemClock).unwrap();
    let both = [one.enrolled.clone(), two.enrolled.clone()];
    for _ in 0..20 {
        one.exchange().await;
        two.exchange().await;
        let mut ready = 0;
        for agent in &both {
            ready += usize::from(reported(&world, "cards", agent).await.1 == "READY");
        }
        if ready == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    for agent in [&mut one, &mut two] {
        for _ in 0..3 {
            agent.exchange().await;
        }
        let body = json!({ "key": "payments/cards", "plaintext": base64url(b"4111"), "context": { "patient": "17" } });
        let (status, sealed) = world.call(agent.running(), "/v1/encrypt", &caller, &body).await;
        assert_eq!(status, 200, "{sealed}");
        agent.exchange().await;
        assert!(!receipts_of(&world, &agent.enrolled).await.is_empty());
    }
    let hidden = |agent: &Apart<'_>| {
        let receipts = Receipts::read(&agent.config.journal_directory());
        let mut named = receipts.all.iter().filter_map(|receipt| match &receipt.body {
            ReceiptBody::Intent(intent) => intent.context_key.clone().map(|key| (key, intent.context.clone())),
            _ => None,
        });
        named.next_back().unwrap()
    };
    assert_eq!(hidden(&one), hidden(&two), "the context key came by file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_join_is_of_the_host_that_made_it_and_good_once() {
    let world = plane(Arc::new(SystemClock)).await;
    let config = world.agent_config("one", "plain_http = true");
    let (enrolment, token) = invited(&world, "fra", "one").await;
    let request = asks(&world, &config, &token).await;
    let refused = async |request: &Path, enrolment: &Path| {
        let answer = world.path("refused.answer");
        let done = world.cli(&["agent", "enrol", text(request), "--enrolment-file", text(enrolment), "--answer", text(&answer)]).await;
        assert!(!answer.exists());
        done.unwrap_err().code
    };

    // Somebody else's keys under this invitation, and this host's under another one.
    let (other, of_other) = invited(&world, "fra", "two").await;
    let strangers = asks(&world, &world.agent_config("two", "plain_http = true"), &of_other).await;
    assert_eq!(refused(&strangers, &enrolment).await, "enrolment_request_not_genuine");
    assert_eq!(refused(&request, &other).await, "enrolment_request_not_genuine");
    let mut changed: EnrolmentRequestFile = read(&request);
    changed.request.0[20] ^= 1;
    let path = world.path("changed.request");
    write(&path, &changed);
    assert_eq!(refused(&path, &enrolment).await, "enrolment_request_not_genuine");
    assert_eq!(refused(&enrolment, &enrolment).await, "other_file");
    // A request that was made with a token, for somebody else than it is for.
    let posing = trust::enrolment::open_request(&of_other.token, &read(&strangers)).unwrap();
    write(&path, &trust::enrolment::seal_request(&token.token, &posing));
    assert_eq!(refused(&path, &enrolment).await, "roster_entry_of_another_agent");

    // Once. Asked again it is the same request, and gets its answer again; another one gets none.
    let answer = world.path("one.answer");
    world.cli(&["agent", "enrol", text(&request), "--enrolment-file", text(&enrolment), "--answer", text(&answer)]).await.unwrap();
    let repeated = world.path("repeated.answer");
    world.cli(&["agent", "enrol", text(&request), "--enrolment-file", text(&enrolment), "--answer", text(&repeated)]).await.unwrap();
    let twin = world.agent_config("twin", "plain_http = true");
    let second = asks(&world, &twin, &token).await;
    assert_eq!(refused(&second, &enrolment).await, "enrolment_token_used");

    // An answer is of use where it was asked for, and as it was written.
    let file: EnrolmentAnswerFile = read(&answer);
    let taken =
        async |config: &Config, file: EnrolmentAnswerFile| enrolling(&world, config, async |parts| enrol::answer(file, parts).await).await;
    let fresh = world.agent_config("fresh", "plain_http = true");
    assert!(taken(&fresh, file.clone()).await.unwrap_err().to_string().contains("asked for nothing"));
    let two = world.agent_config("two", "plain_http = true");
    assert!(taken(&two, file.clone()).await.unwrap_err().to_string().contains("another agent"));
    let mut forged = file.clone();
    forged.statements.as_mut().unwrap().heartbeat.as_mut().unwrap().0[200] ^= 1;
    assert!(taken(&config, forged).await.is_err());
    let mut forged = file.clone();
    forged.answer.certificate_pem = forged.answer.ca_pem.clone();
    assert!(taken(&config, forged).await.unwrap_err().to_string().contains("the certificate in this file"));
    // Nothing of these is left: the genuine one is taken, once.
    assert!(taken(&config, file.clone()).await.unwrap().statements);
    assert!(taken(&config, file).await.unwrap_err().to_string().contains("belongs to"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_changed_swapped_or_kept_do_nothing() {
    let world = plane(Arc::new(SystemClock)).await;
    world.mutate("createSite", json!({ "name": "ber" }), "site { id }").await;
    world.publish("permit (principal, action, resource);").await;
    let mut fra = Apart::join(&world, "fra", "one").await;
    let mut ber = Apart::join(&world, "ber", "two").await;
    let events = async || {
        let query = "{ events(first: 100, type: \"OutboxTaken\") { nodes { id } } }";
        world.query(query, json!({})).await["events"]["nodes"].as_array().unwrap().len()
    };

    // Changed on its way there.
    let old = fra.write().await;
    let path = world.path("changed.outbox");
    let genuine: OutboxFile = read(&old);
    for at in [100, genuine.outbox.0.len() / 2, genuine.outbox.0.len() - 100] {
        let mut changed = genuine.clone();
        changed.outbox.0[at] = if changed.outbox.0[at] == b'A' { b'B' } else { b'A' };
        write(&path, &changed);
        assert_eq!(fra.submit(&path).await.unwrap_err(), "outbox_not_genuine", "byte {at}");
    }
    // Signed by another agent than it names: the payload of one, the signatures of the other.
    let other: OutboxFile = read(&ber.write().await);
    let [mut mixed, donor] = [&genuine, &other].map(|file| serde_json::from_slice::<Value>(file.outbox.as_slice()).unwrap());
    mixed["signatures"] = donor["signatures"].clone();
    write(&path, &OutboxFile { outbox: Base64(mixed.to_string().into_bytes()), ..genuine.clone() });
    assert_eq!(fra.submit(&path).await.unwrap_err(), "outbox_not_genuine");
    // Of a tenant, site or agent that it is not of: nobody knows such an agent, or it is not as it was signed.
    for member in ["tenant", "site", "agent"] {
        let mut posing = serde_json::from_slice::<Value>(genuine.outbox.as_slice()).unwrap();
        let payload = posing["payload"].as_str().unwrap().to_owned();
        let mut said: Value = serde_json::from_slice(&decode(&payload)).unwrap();
        let foreign: Value = serde_json::from_slice(&decode(donor["payload"].as_str().unwrap())).unwrap();
        said[member] = match member {
            "tenant" => json!(TenantId::from_bits(7).to_string()),
            member => foreign[member].clone(),
        };
        posing["payload"] = json!(STANDARD.encode(said.to_string()));
        write(&path, &OutboxFile { outbox: Base64(posing.to_string().into_bytes()), ..genuine.clone() });
        let code = fra.submit(&path).await.unwrap_err();
        assert!(["agent_unknown", "outbox_not_genuine"].contains(&code.as_str()), "{member}: {code}");
    }
    // Too large, as a file and on the wire.
    let large = fs::File::create(&path).unwrap();
    large.set_len(MAX_ASK_BYTES as u64 + 1).unwrap();
    assert_eq!(fra.submit(&path).await.unwrap_err(), "file_too_large");
    let authority = reqwest::Certificate::from_pem_bundle(genuine.ca_pem.as_deref().unwrap().as_bytes()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only(authority).build().unwrap();
    let url = format!("https://{}{EXCHANGE}", world.plane.agents_address());
    let post = async |body: Vec<u8>| http.post(&url).header("content-type", "application/json").body(body).send().await;
    // It is refused while it still comes: who goes on sending may not hear why.
    if let Ok(answer) = post(vec![b' '; MAX_ASK_BYTES + 1]).await {
        assert_eq!(answer.status(), 413);
    }
    assert_eq!(post(b"{\"outbox\": 7}".to_vec()).await.unwrap().status(), 400);
    assert_eq!(events().await, 0, "nothing of all this was taken");

    // An answer for another agent, a changed one, and one from before the agent's own time.
    let of_ber = ber.write().await;
    let for_ber = ber.submit(&of_ber).await.unwrap();
    let for_fra = fra.submit(&old).await.unwrap();
    let mut swapped: InboxFile = read(&for_ber);
    let outcome = fra.errand(Errand::Inbox { inbox: swapped.answer.inbox.clone(), statements: None }).await.unwrap_err();
    assert!(outcome.to_string().contains("inbox_of_another_agent"), "{outcome}");
    let last = swapped.answer.inbox.0.len() - 100;
    swapped.answer.inbox.0[last] = if swapped.answer.inbox.0[last] == b'A' { b'B' } else { b'A' };
    let outcome = ber.errand(Errand::Inbox { inbox: swapped.answer.inbox, statements: None }).await.unwrap_err();
    assert!(outcome.to_string().contains("inbox_not_genuine"), "{outcome}");
    assert!(fra.take(&for_fra).await.unwrap().refused.is_empty());

    // An older one after a newer one, also when it was never handed in.
    let kept = fra.write().await;
    fra.exchange().await;
    for replayed in [&old, &kept] {
        assert_eq!(fra.submit(replayed).await.unwrap_err(), "outbox_superseded");
    }
    // What was answered late, out of order, or again, is taken as far as it says something new.
    let (first, second) = (fra.write().await, fra.write().await);
    let first = fra.submit(&first).await.unwrap();
    let second = fra.submit(&second).await.unwrap();
    for inbox in [&second, &first, &for_fra, &second] {
        assert!(fra.take(inbox).await.unwrap().refused.is_empty());
    }
    fra.exchange().await;

    // A copy of the host goes on from where the host has gone on before: it is turned away, and in the end both are cut off.
    let copy = world.path("copy");
    fra.agent.take().unwrap().stop().await.unwrap();
    copied(&fra.config.data_dir, &copy);
    fra.agent = Some(world.agent(&fra.config).await);
    fra.exchange().await;
    let number = fra.exchange().await.number;
    fra.agent.take().unwrap().stop().await.unwrap();
    fs::remove_dir_all(&fra.config.data_dir).unwrap();
    copied(&copy, &fra.config.data_dir);
    fra.agent = Some(world.agent(&fra.config).await);
    let mut codes = Vec::new();
    while codes.last().is_none_or(|code| code != "agent_quarantined") {
        assert!(codes.len() < 6, "{codes:?} after {number}");
        let outbox = fra.write().await;
        codes.push(match fra.submit(&outbox).await {
            Ok(inbox) => fra.take(&inbox).await.map_or_else(|code| code, |_| "taken".to_owned()),
            Err(code) => code,
        });
    }
    assert_eq!(codes[0], "outbox_superseded");

    // Revoked is revoked.
    let written = ber.write().await;
    let revoke = json!({ "agent": ber.enrolled.agent.to_string(), "reason": "KEY_COMPROMISE" });
    world.mutate("revokeAgent", revoke, "agent { state }").await;
    assert_eq!(ber.submit(&written).await.unwrap_err(), "agent_revoked");
    assert!(world.query("{ agents(first: 10) { nodes { id } } }", json!({})).await["agents"]["nodes"].is_array());
}

fn decode(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copied(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}
