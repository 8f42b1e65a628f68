//! The agent API of a whole control plane, over real TLS, by a pretend agent that believes only what `trust::accept` does.

mod agents_api {
    mod deltas;
}

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use control_plane::{
    app::{App, Running},
    config::Config,
    database::{Database, Location},
    receipts::{
        query::{Page, ReceiptFilter, ReceiptOutcome},
        rows::ReceiptRows,
    },
    sealing::{Keyring, SealingKey},
};
use freehold_tests::pretend::{Agent, Applicant, answer};
use reqwest::StatusCode;
use schema::{
    clock::{Clock, SystemClock, SystemIds, Timestamp, new_id},
    encoding::{Base64, Digest},
    id::{AgentId, CallerId, IncarnationId, KeyId, KeyVersion, PrekeyId, SiteId},
    key::{Operation, VersionState},
    wire::agent::{
        EnrolRequest, EnrolmentToken, Intent, OutcomeResult, Receipt, ReceiptBatch, ReceiptBatchHead, ReceiptBody, RenewRequest,
        RenewResponse, Report, ReportAnswer, chain, chain_start, path,
    },
    wire::relay::{RelayAnswer, RelayAsk, Waiting},
};
use serde_json::{Value, json};
use service::{
    config::OutgoingConfig,
    files::write_atomic,
    outgoing::{Identity as TlsIdentity, Trust, client},
    tls::development::DevelopmentCertificates,
};
use trust::{
    document::{self, AgentVouch, SelfTestReport},
    pair::Pair,
    statement::{Scope, policy::Policy, state::Subject},
};

/// The machine's clock, moved ahead.
#[derive(Clone, Default)]
struct Ahead(Arc<AtomicI64>);

impl Ahead {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(SystemClock.now().micros() + self.0.load(Ordering::SeqCst))
    }
}

/// A control plane with one tenant, one project, one site.
struct World {
    running: Running,
    clock: Ahead,
    http: reqwest::Client,
    admin: String,
    project: String,
    site: String,
    directory: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        Self::start_with(|_, _| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config, &Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config { data_dir: directory.path().join("data"), development: true, ..Config::default() };
        config.server.listen = "127.0.0.1:0".to_owned();
        config.server.plain_http = true;
        config.server.workers = Some(1);
        config.agents.listen = "127.0.0.1:0".to_owned();
        change(&mut config, directory.path());
        let clock = Ahead::default();
        let running = App::start(config, Arc::new(clock.clone()), Arc::new(SystemIds)).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let operator = std::fs::read_to_string(running.operator_token_file()).unwrap().trim().to_owned();
        let mut world = Self { running, clock, http, admin: operator, project: String::new(), site: String::new(), directory };
        let made = world.mutate("createTenant", "CreateTenantInput", json!({ "name": "acme" }), "adminToken").await;
        world.admin = made["adminToken"].as_str().unwrap().to_owned();
        let made = world.mutate("createProject", "CreateProjectInput", json!({ "name": "payments" }), "project { id }").await;
        world.project = made["project"]["id"].as_str().unwrap().to_owned();
        let made = world.mutate("createSite", "CreateSiteInput", json!({ "name": "fra-dc1" }), "site { id }").await;
        world.site = made["site"]["id"].as_str().unwrap().to_owned();
        world
    }

    /// Stops it, and opens its table of receipts.
    async fn stop_and_open_receipts(self) -> (ReceiptRows, tempfile::TempDir) {
        let data = self.directory.path().join("data");
        self.running.stop().await;
        let key = SealingKey::read(&data.join("sealing.key")).unwrap();
        let database = Database::open(&Location::Sqlite(data.join("freehold.db"))).await.unwrap();
        let keyring = Keyring::open(database.clone(), &key, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap();
        (ReceiptRows::new(database, Arc::new(keyring)), self.directory)
    }

    async fn query(&self, query: &str, variables: Value) -> Value {
        let body = json!({ "query": query, "variables": variables });
        let answer = self.http.post(self.running.graphql_url()).bearer_auth(&self.admin).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["errors"].is_null(), "{query}: {answer}");
        answer["data"].clone()
    }

    async fn mutate(&self, name: &str, input_type: &str, input: Value, fields: &str) -> Value {
        let query = format!("mutation($input: {input_type}!) {{ {name}(input: $input) {{ {fields} userErrors {{ code message }} }} }}");
        let answer = self.query(&query, json!({ "input": input })).await[name].clone();
        assert_eq!(answer["userErrors"], json!([]), "{name}");
        answer
    }

    async fn invite(&self, lifetime_seconds: u64) -> EnrolmentToken {
        self.invite_to(&self.site, lifetime_seconds).await
    }

    async fn invite_to(&self, site: &str, lifetime_seconds: u64) -> EnrolmentToken {
        let input = json!({ "site": site, "lifetimeSeconds": lifetime_seconds.to_string() });
        let made = self.mutate("inviteAgent", "InviteAgentInput", input, "enrolment").await;
        serde_json::from_str(made["enrolment"].as_str().unwrap()).unwrap()
    }

    async fn create_key(&self, name: &str) -> KeyId {
        self.create_key_at(&[&self.site], name).await
    }

    async fn create_key_at(&self, sites: &[&str], name: &str) -> KeyId {
        let input = json!({
            "project": self.project, "name": name, "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT",
            "placement": sites, "durability": "SINGLE_COPY",
        });
        let made = self.mutate("createKey", "CreateKeyInput", input, "key { id }").await;
        made["key"]["id"].as_str().unwrap().parse().unwrap()
    }

    async fn register_caller(&self, name: &str) -> CallerId {
        let input = json!({ "project": self.project, "name": name, "kind": "TOKEN", "issuer": self.site });
        let made = self.mutate("registerCaller", "RegisterCallerInput", input, "caller { id }").await;
        made["caller"]["id"].as_str().unwrap().parse().unwrap()
    }
}

fn refused<T: std::fmt::Debug>(status: u16, code: &str, answer: Result<T, (StatusCode, String)>) {
    assert_eq!(answer.unwrap_err(), (StatusCode::from_u16(status).unwrap(), code.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_enrols_makes_a_version_and_sees_what_is_decided() {
    let world = World::start().await;
    let key = world.create_key("card-data").await;
    let caller = world.register_caller("billing").await;
    let mut agent = Applicant::new(world.invite(3600).await).enrol().await;

    // The key was created before there was any agent: one is named as soon as there is.
    let version = KeyVersion::new(key, 1);
    agent.generate(version).await;
    assert_eq!(agent.set.as_ref().unwrap().primary(key), Some(version));
    assert!(agent.set.as_ref().unwrap().caller(caller).is_some());

    // A policy is published and comes.
    let made = world.mutate("createPolicy", "CreatePolicyInput", json!({ "name": "use", "project": world.project }), "policy { id }").await;
    let policy = made["policy"]["id"].as_str().unwrap().to_owned();
    let cedar = format!("@id(\"billing\")\npermit (principal == Caller::\"{caller}\", action, resource);");
    let input = json!({ "policy": policy, "content": { "cedar": cedar } });
    world.mutate("savePolicyDraft", "SavePolicyDraftInput", input, "problems { message }").await;
    let published = Instant::now();
    world.mutate("publishPolicy", "PublishPolicyInput", json!({ "policy": policy }), "problems { message }").await;
    let id = format!("{policy}/billing");
    let of_project = |(scope, policy): (Scope, &Policy)| matches!(scope, Scope::Project(_)) && policy.cedar.contains_key(&id);
    agent.sync_until("the policy", |set| set.policies().any(of_project)).await;
    assert!(published.elapsed() < Duration::from_secs(2), "publishing took {:?}", published.elapsed());

    // Suspended, resumed, revoked.
    world.mutate("suspendCaller", "SuspendCallerInput", json!({ "caller": caller.to_string() }), "caller { id }").await;
    agent.sync_until("the suspension", |set| set.held(Subject::Caller(caller)).is_some()).await;
    world.mutate("resumeCaller", "ResumeCallerInput", json!({ "caller": caller.to_string() }), "caller { id }").await;
    agent.sync_until("the resumption", |set| set.held(Subject::Caller(caller)).is_none()).await;
    let input = json!({ "caller": caller.to_string(), "reason": "PRIVILEGE_WITHDRAWN" });
    world.mutate("revokeCaller", "RevokeCallerInput", input, "caller { id }").await;
    agent.sync_until("the revocation", |set| set.held(Subject::Caller(caller)).is_some()).await;

    // A rotation.
    world.mutate("rotateKey", "RotateKeyInput", json!({ "key": key.to_string() }), "key { id }").await;
    let next = KeyVersion::new(key, 2);
    agent.generate(next).await;
    agent.sync_until("the primary moving", |set| set.primary(key) == Some(next)).await;

    // People see what is in force and who enforces it.
    agent.report(&agent.blank_report()).await.unwrap();
    let query = "query($site: ID!) { site(reference: $site) { statements { kind serial enforcedBy { id } } } }";
    let query = query.replace("$site: ID!", "$site: String!");
    let answer = world.query(&query, json!({ "site": world.site })).await;
    let statements = answer["site"]["statements"].as_array().unwrap();
    for kind in ["ROOT", "POLICY", "STATE", "HEARTBEAT"] {
        let found = statements.iter().find(|statement| statement["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
        assert_eq!(found["enforcedBy"], json!([{ "id": agent.id().to_string() }]), "{kind}");
    }
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_was_invited_gets_in_and_once() {
    let world = World::start().await;
    let applicant = Applicant::new(world.invite(3600).await);
    let good = applicant.request();

    refused(401, "enrolment_token_invalid", applicant.send(&EnrolRequest { token: "fh_enrol_x".to_owned(), ..good.clone() }).await);
    let unknown = schema::token::Token::generate(schema::token::TokenKind::Enrolment, &SystemIds).reveal().to_owned();
    refused(401, "enrolment_token_unknown", applicant.send(&EnrolRequest { token: unknown, ..good.clone() }).await);
    let not_a_request = EnrolRequest { csr_pem: "junk".to_owned(), ..good.clone() };
    refused(400, "certificate_request_invalid", applicant.send(&not_a_request).await);

    // A roster entry of another root, another agent, another tenant, or not signed by its own pair.
    let EnrolmentToken { tenant, site, agent, root, .. } = applicant.file;
    let entry = |tenant, agent, root| document::sign_roster_entry(&applicant.pair, tenant, site, agent, root, SystemClock.now());
    let with = |roster_entry| EnrolRequest { roster_entry, ..good.clone() };
    refused(409, "roster_entry_of_another_root", applicant.send(&with(entry(tenant, agent, Digest([7; 32])))).await);
    refused(409, "roster_entry_of_another_agent", applicant.send(&with(entry(tenant, AgentId::from_bits(7), root))).await);
    let foreign = entry(schema::id::TenantId::from_bits(7), agent, root);
    refused(400, "roster_entry_of_another_tenant", applicant.send(&with(foreign)).await);
    let mut forged: Value = serde_json::from_slice(good.roster_entry.as_slice()).unwrap();
    forged["signatures"].as_array_mut().unwrap().pop();
    refused(400, "roster_entry_invalid", applicant.send(&with(serde_json::to_vec(&forged).unwrap().into())).await);

    // The same request again is the lost answer's retry; another one is a second use of the token.
    let first = applicant.send(&good).await.unwrap();
    assert_eq!(applicant.send(&good).await.unwrap().agent, first.agent);
    let thief = Applicant::new(applicant.file.clone());
    refused(409, "enrolment_token_used", thief.send(&thief.request()).await);

    // A token ends by itself.
    let late = Applicant::new(world.invite(90).await);
    world.clock.advance(Duration::from_secs(91));
    refused(409, "enrolment_token_expired", late.send(&late.request()).await);
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_say_who_it_is_and_nothing_else_does() {
    let world = World::start().await;
    let applicant = Applicant::new(world.invite(3600).await);
    let url = format!("{}{}", applicant.file.control_plane, path::STATEMENTS);
    refused::<Value>(401, "client_certificate_missing", answer(applicant.http(None).get(&url)).await);
    // That is said before a body is read: this one is no report, nor anything else.
    for path in [path::REPORT, path::RECEIPTS, path::RENEW] {
        let nobody = applicant.http(None).post(format!("{}{path}", applicant.file.control_plane));
        let nobody = nobody.header("content-type", "application/json").body("{");
        refused::<Value>(401, "client_certificate_missing", answer(nobody).await);
    }

    // A certificate of another authority never gets past TLS.
    let own = rcgen::CertificateParams::default().self_signed(&applicant.key).unwrap();
    let foreign = TlsIdentity { certificate_pem: own.pem(), key_pem: applicant.key.serialize_pem().into() };
    assert!(applicant.http(Some(&foreign)).get(&url).send().await.is_err());

    let mut agent = applicant.enrol().await;
    assert!(agent.sync(5).await.unwrap());

    // Renewal needs the same key.
    let renew =
        async |csr_pem: String| answer::<RenewResponse>(agent.http.post(agent.url(path::RENEW)).json(&RenewRequest { csr_pem })).await;
    let renewed = renew(agent.applicant.csr()).await.unwrap();
    let other = Applicant::new(agent.applicant.file.clone());
    refused(409, "certificate_key_changed", renew(other.csr()).await);

    // One that ended only renews, inside of a window.
    world.clock.advance(Duration::from_secs(8 * 86_400));
    let ended = agent.applicant.with_certificate(renewed.certificate_pem);
    refused::<Value>(403, "certificate_expired", answer(ended.http.get(ended.url(path::STATEMENTS))).await);
    let csr_pem = ended.applicant.csr();
    let fresh: RenewResponse =
        answer(ended.http.post(ended.url(path::RENEW)).json(&RenewRequest { csr_pem: csr_pem.clone() })).await.unwrap();
    assert!(fresh.certificate_expires > world.clock.now());
    world.clock.advance(Duration::from_secs(40 * 86_400));
    let late = RenewRequest { csr_pem };
    refused(403, "certificate_expired", answer::<RenewResponse>(ended.http.post(ended.url(path::RENEW)).json(&late)).await);
    // On a new connection it does not even get past TLS.
    let again = ended.applicant.http(Some(&ended.identity));
    assert!(again.post(ended.url(path::RENEW)).json(&late).send().await.is_err());
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_cut_off_at_once() {
    let world = World::start().await;
    let mut agent = Applicant::new(world.invite(3600).await).enrol().await;
    agent.settle().await;
    let revoke = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let input = json!({ "agent": agent.applicant.file.agent.to_string(), "reason": "KEY_COMPROMISE" });
        world.mutate("revokeAgent", "RevokeAgentInput", input, "agent { id }").await;
    };
    // Also while it waits.
    let etag = agent.etag.clone().unwrap();
    let request = agent.http.get(format!("{}?wait=20", agent.url(path::STATEMENTS))).header("if-none-match", etag);
    let (answer, ()) = tokio::join!(self::answer::<Value>(request), revoke);
    refused(403, "agent_revoked", answer.map(drop));
    refused(403, "agent_revoked", agent.report(&agent.blank_report()).await);
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_waits_and_wakes() {
    let world = World::start().await;
    let mut agent = Applicant::new(world.invite(3600).await).enrol().await;
    agent.settle().await;
    let started = Instant::now();
    assert!(!agent.sync(1).await.unwrap());
    assert!(started.elapsed() >= Duration::from_millis(900));

    let started = Instant::now();
    let wait = agent.sync(20);
    let act = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.create_key("card-data").await;
    };
    let (news, ()) = tokio::join!(wait, act);
    assert!(news.unwrap());
    assert!(started.elapsed() < Duration::from_secs(3), "woke after {:?}", started.elapsed());

    // Nor does it hold the end up, and neither does the connection that stays open.
    agent.settle().await;
    let stop = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let started = Instant::now();
        world.running.stop().await;
        started.elapsed()
    };
    let (news, elapsed) = tokio::join!(agent.sync(20), stop);
    assert!(!news.unwrap());
    assert!(elapsed < Duration::from_secs(4), "stopped after {elapsed:?}");
}

/// When a thousand come at once, the last are served later, and not cut off; but nobody may say nothing for ever.
#[tokio::test(flavor = "multi_thread")]
async fn who_connects_is_given_as_long_for_a_handshake_as_agents_wait_for_it() {
    use std::{io::Read as _, net::TcpStream};

    let world = World::start().await;
    let address = world.running.agents_address();
    let silent = tokio::task::spawn_blocking(move || {
        let mut connection = TcpStream::connect(address).unwrap();
        let mut read = |wait| {
            connection.set_read_timeout(Some(Duration::from_secs(wait))).unwrap();
            connection.read(&mut [0]).map_err(|error| error.kind())
        };
        (read(5), read(20))
    });
    let (early, late) = silent.await.unwrap();
    use std::io::ErrorKind::{ConnectionReset, TimedOut, WouldBlock};
    assert!(matches!(early, Err(WouldBlock | TimedOut)), "after five seconds: {early:?}");
    assert!(matches!(late, Ok(0) | Err(ConnectionReset)), "in the end: {late:?}");
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_carries_between_sites_that_share_a_key_what_is_of_that_key_and_between_no_others() {
    let world = World::start().await;
    let mut sites = Vec::new();
    for name in ["ber-1", "lon-1"] {
        let made = world.mutate("createSite", "CreateSiteInput", json!({ "name": name }), "site { id }").await;
        sites.push(made["site"]["id"].as_str().unwrap().to_owned());
    }
    let [ber, lon] = [&sites[0], &sites[1]].map(|site| site.parse::<SiteId>().unwrap());
    let mut first = Applicant::new(world.invite(3600).await).enrol().await;
    let there = Applicant::new(world.invite_to(&sites[0], 3600).await).enrol().await;
    let waits = Applicant::new(world.invite_to(&sites[0], 3600).await).enrol().await;
    let stranger = Applicant::new(world.invite_to(&sites[1], 3600).await).enrol().await;
    let shared = KeyVersion::new(world.create_key_at(&[&world.site, &sites[0]], "shared").await, 1);
    let own = KeyVersion::new(world.create_key("own").await, 1);
    first.generate(shared).await;
    first.generate(own).await;

    let codes = |answer: RelayAnswer| answer.refused.into_iter().map(|refused| refused.code).collect::<Vec<_>>();
    let shown = RelayAsk { prekeys: vec![there.prekey(7, there.id(), Duration::from_secs(3600))], ..RelayAsk::default() };
    there.relay(&shown).await.unwrap();
    let asking = |neighbours: &[SiteId]| RelayAsk { neighbours: neighbours.to_vec(), ..RelayAsk::default() };
    assert!(first.relay(&asking(&[])).await.unwrap().prekeys.is_empty(), "who does not ask is told of its own site");
    assert_eq!(first.relay(&asking(&[ber, ber, lon])).await.unwrap().prekeys, shown.prekeys);
    let home = first.applicant.file.site;
    assert!(stranger.relay(&asking(&[ber, home])).await.unwrap().prekeys.is_empty(), "they share no key");
    let many: Vec<SiteId> = (1..=65).map(SiteId::from_bits).collect();
    refused(400, "relay_request_too_large", first.relay(&asking(&many)).await);

    let to = |version, site: Option<SiteId>| first.transfer(version, there.id(), 7, |head| head.recipient_site = site);
    let good = to(shared, Some(ber));
    let odd = vec![
        to(shared, None),
        to(shared, Some(lon)),
        to(own, Some(ber)),
        first.transfer(shared, there.id(), 7, |head| (head.site, head.recipient_site) = (ber, None)),
        good.clone(),
    ];
    let answer = first.relay(&RelayAsk { transfers: odd, neighbours: vec![ber], ..RelayAsk::default() }).await.unwrap();
    assert_eq!(answer.waiting, [Waiting { recipient: there.id(), prekey: PrekeyId::from_bits(7), version: shared }]);
    let expected =
        ["transfer_recipient_not_at_work", "transfer_recipient_not_at_work", "key_not_placed_at_site", "document_of_another_site"];
    assert_eq!(codes(answer), expected);
    assert_eq!(there.relay(&shown).await.unwrap().transfers, [good]);
    // What hides the contexts of a site's receipts stays there.
    let hidden = first.context_key(there.id(), 7, |_| {});
    let answer = first.relay(&RelayAsk { context_keys: vec![hidden], ..RelayAsk::default() }).await.unwrap();
    assert_eq!(codes(answer), ["transfer_recipient_not_at_work"]);

    // Vouches: for an agent of another site, once its own has vouched for it; under its own site's name.
    let EnrolmentToken { tenant, .. } = first.applicant.file;
    let vouch = |agent: &Agent, site| {
        let keyid = agent.applicant.pair.keyid();
        document::sign(&AgentVouch { tenant, site, agent: agent.id(), keyid, issued: SystemClock.now() }, &first.applicant.pair)
    };
    let vouches = vec![vouch(&there, ber), vouch(&waits, ber), vouch(&there, home), vouch(&there, lon)];
    let answer = first.report(&Report { vouches, ..first.blank_report() }).await.unwrap();
    let found: Vec<_> = answer.refused.into_iter().map(|refused| (refused.index, refused.code)).collect();
    let expected =
        [(1, "agent_not_rostered"), (2, "agent_not_found"), (3, "agent_not_found")].map(|(index, code)| (index, code.to_owned()));
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_keeps_what_its_bringer_signed_for_agents_at_work_until_it_is_fetched() {
    let world = World::start().await;
    let mut first = Applicant::new(world.invite(3600).await).enrol().await;
    let version = KeyVersion::new(world.create_key("card-data").await, 1);
    first.generate(version).await;
    let second = Applicant::new(world.invite(3600).await).enrol().await;
    let (me, other) = (first.id(), second.id());
    let hour = Duration::from_secs(3600);
    // Nobody has vouched for the second one: it gets nothing, and nothing is sent to it.
    let shown = RelayAsk { prekeys: vec![second.prekey(7, other, hour)], ..RelayAsk::default() };
    refused(403, "agent_not_rostered", second.relay(&shown).await);
    let codes = |answer: RelayAnswer| answer.refused.into_iter().map(|refused| refused.code).collect::<Vec<_>>();
    let send = async |transfers: Vec<Base64>| first.relay(&RelayAsk { transfers, ..RelayAsk::default() }).await;
    assert_eq!(codes(send(vec![first.transfer(version, other, 7, |_| {})]).await.unwrap()), ["transfer_recipient_not_at_work"]);

    let EnrolmentToken { tenant, site, .. } = first.applicant.file;
    let vouch = AgentVouch { tenant, site, agent: other, keyid: second.applicant.pair.keyid(), issued: SystemClock.now() };
    let report = Report { vouches: vec![document::sign(&vouch, &first.applicant.pair)], ..first.blank_report() };
    assert_eq!(first.report(&report).await.unwrap(), ReportAnswer::default());

    // Prekeys: its own, of its site, of a sensible life.
    let odd = vec![
        second.prekey(8, me, hour),
        first.prekey(8, other, hour),
        second.prekey(8, other, Duration::from_secs(40 * 86_400)),
        shown.prekeys[0].clone(),
    ];
    let answer = second.relay(&RelayAsk { prekeys: odd, ..RelayAsk::default() }).await.unwrap();
    assert_eq!(codes(answer), ["prekey_of_another_agent", "document_not_genuine", "prekey_ended"]);
    let answer = first.relay(&RelayAsk::default()).await.unwrap();
    assert_eq!((answer.prekeys, answer.waiting.len()), (shown.prekeys.clone(), 0));

    // Transfers: its own, to somebody who waits, of what it has.
    let good = first.transfer(version, other, 7, |_| {});
    let odd = vec![
        first.transfer(version, other, 9, |_| {}),
        first.transfer(version, AgentId::from_bits(9), 7, |_| {}),
        first.transfer(version, other, 7, |head| head.sender = other),
        first.transfer(version, other, 7, |head| head.site = schema::id::SiteId::from_bits(9)),
        first.transfer(version, other, 7, |head| head.fingerprint = Digest([9; 32])),
        first.transfer(KeyVersion::new(version.key, 2), other, 7, |_| {}),
        second.transfer(version, other, 7, |_| {}),
        good.clone(),
    ];
    let expected = [
        "prekey_unknown",
        "transfer_recipient_not_at_work",
        "transfer_of_another_agent",
        "document_of_another_site",
        "fingerprint_is_final",
        "version_not_found",
        "document_not_genuine",
    ];
    assert_eq!(codes(send(odd).await.unwrap()), expected);
    refused(400, "relay_request_too_large", send(vec![good.clone(); 101]).await);
    let many = RelayAsk { prekeys: vec![shown.prekeys[0].clone(); 5], ..RelayAsk::default() };
    refused(400, "relay_request_too_large", first.relay(&many).await);

    // Sent twice it waits once; it is given again until its recipient is done with it.
    let waiting = send(vec![first.transfer(version, other, 7, |_| {})]).await.unwrap().waiting;
    assert_eq!(waiting, [Waiting { recipient: other, prekey: PrekeyId::from_bits(7), version }]);
    for _ in 0..2 {
        assert_eq!(second.relay(&shown).await.unwrap().transfers, std::slice::from_ref(&good));
    }
    // Context keys likewise, beside material; they are no material: nothing waits for them, and no event tells of them.
    let give = async |context_keys: Vec<Base64>| first.relay(&RelayAsk { context_keys, ..RelayAsk::default() }).await;
    let hidden = first.context_key(other, 7, |_| {});
    let odd = vec![
        first.context_key(other, 9, |_| {}),
        first.context_key(AgentId::from_bits(9), 7, |_| {}),
        first.context_key(other, 7, |head| head.sender = other),
        first.context_key(other, 7, |head| head.site = schema::id::SiteId::from_bits(9)),
        second.context_key(other, 7, |_| {}),
        first.transfer(version, other, 7, |_| {}),
        hidden.clone(),
    ];
    let expected = [
        "prekey_unknown",
        "transfer_recipient_not_at_work",
        "transfer_of_another_agent",
        "document_of_another_site",
        "document_not_genuine",
        "document_not_genuine",
    ];
    let answer = give(odd).await.unwrap();
    assert_eq!(answer.waiting, [Waiting { recipient: other, prekey: PrekeyId::from_bits(7), version }]);
    assert_eq!(codes(answer), expected);
    refused(400, "relay_request_too_large", give(vec![hidden.clone(); 101]).await);
    for _ in 0..2 {
        let answer = second.relay(&shown).await.unwrap();
        assert_eq!((answer.context_keys, answer.transfers), (vec![hidden.clone()], vec![good.clone()]));
    }
    let done = vec![Digest::of(hidden.as_slice())];
    assert!(second.relay(&RelayAsk { done, ..shown.clone() }).await.unwrap().context_keys.is_empty());
    let many: Vec<Base64> = (0..51).map(|_| first.context_key(other, 7, |_| {})).collect();
    assert_eq!(codes(give(many).await.unwrap()), ["relay_full"]);
    // Somebody else is not done with it for the recipient.
    let done = vec![Digest::of(good.as_slice())];
    first.relay(&RelayAsk { done: done.clone(), ..RelayAsk::default() }).await.unwrap();
    let answer = second.relay(&RelayAsk { done, ..shown.clone() }).await.unwrap();
    assert!(answer.transfers.is_empty());
    // Withdrawn with its prekey.
    send(vec![good.clone()]).await.unwrap();
    assert_eq!(second.relay(&shown).await.unwrap().transfers.len(), 1);
    second.relay(&RelayAsk::default()).await.unwrap();
    let answer = first.relay(&RelayAsk::default()).await.unwrap();
    assert_eq!((answer.prekeys.len(), answer.waiting.len()), (0, 0));
    // Forgotten at its end, whoever asks next.
    second.relay(&shown).await.unwrap();
    send(vec![good]).await.unwrap();
    world.clock.advance(Duration::from_secs(3700));
    assert_eq!(first.relay(&RelayAsk::default()).await.unwrap().waiting, []);
    let sent = world.query("{ events(first: 50, type: \"MaterialSent\") { nodes { id } } }", json!({})).await;
    assert_eq!(sent["events"]["nodes"].as_array().unwrap().len(), 1);

    let input = json!({ "agent": other.to_string(), "reason": "KEY_COMPROMISE" });
    world.mutate("revokeAgent", "RevokeAgentInput", input, "agent { state }").await;
    refused(403, "agent_revoked", second.relay(&shown).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_checked_before_they_count() {
    let world = World::start().await;
    let mut agent = Applicant::new(world.invite(3600).await).enrol().await;
    let version = KeyVersion::new(world.create_key("card-data").await, 1);
    let codes = |answer: ReportAnswer| answer.refused.into_iter().map(|refused| refused.code).collect::<Vec<_>>();

    // Signed by another pair.
    let other_pair = Pair::generate(&SystemIds);
    let genuine = std::mem::replace(&mut agent.applicant.pair, other_pair);
    let (record, _) = agent.made(version, Digest([1; 32]));
    agent.applicant.pair = genuine;
    let report = Report { version_records: vec![record], ..agent.blank_report() };
    assert_eq!(codes(agent.report(&report).await.unwrap()), ["document_not_genuine"]);

    // Ready before it was made.
    let (record, ready) = agent.made(version, Digest([1; 32]));
    let report = Report { holder_reports: vec![ready.clone()], ..agent.blank_report() };
    assert_eq!(codes(agent.report(&report).await.unwrap()), ["version_not_made"]);

    // The first fingerprint is final.
    let me = agent.id();
    agent.sync_until("being named", |set| set.key(version.key).and_then(|(_, state)| state.versions.get(&1)?.generator) == Some(me)).await;
    let report = Report { version_records: vec![record], holder_reports: vec![ready], ..agent.blank_report() };
    assert_eq!(codes(agent.report(&report).await.unwrap()), Vec::<String>::new());
    let (second, _) = agent.made(version, Digest([2; 32]));
    let report = Report { version_records: vec![second], ..agent.blank_report() };
    assert_eq!(codes(agent.report(&report).await.unwrap()), ["fingerprint_is_final"]);
    agent.sync_until("the version becoming active", |set| set.version_state(version) == Some(VersionState::Active)).await;

    // What its self-tests found is shown when the agent itself signed it.
    let tests = |by: AgentId| SelfTestReport {
        tenant: agent.applicant.file.tenant,
        site: agent.applicant.file.site,
        agent: by,
        agent_version: "0.1.0".to_owned(),
        tested: SystemClock.now(),
        passed: vec!["Ed25519".to_owned()],
        failed: [("ML-DSA-65".to_owned(), "it signs something else".to_owned())].into(),
        issued: SystemClock.now(),
    };
    let mine = document::sign(&tests(me), &agent.applicant.pair);
    for (document, code, shown) in [
        (mine.clone(), None, json!(["ML-DSA-65"])),
        (document::sign(&tests(me), &Pair::generate(&SystemIds)), Some("document_not_genuine"), json!([])),
        (document::sign(&tests(AgentId::from_bits(9)), &agent.applicant.pair), Some("self_tests_of_another_agent"), json!([])),
        (mine, None, json!(["ML-DSA-65"])),
    ] {
        let report = Report { self_tests: Some(document), ..agent.blank_report() };
        assert_eq!(codes(agent.report(&report).await.unwrap()), code.map(str::to_owned).into_iter().collect::<Vec<_>>());
        let query = format!("{{ agent(id: \"{me}\") {{ failedSelfTests }} }}");
        assert_eq!(world.query(&query, json!({})).await["agent"]["failedSelfTests"], shown);
    }
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_are_taken_once_without_gaps_or_forks() {
    let mut world = World::start().await;
    let agent = Applicant::new(world.invite(3600).await).enrol().await;
    let caller = world.register_caller("billing").await;
    let key = world.create_key("card-data").await;
    let incarnation: IncarnationId = new_id(&SystemIds, SystemClock.now());
    let intent = |operation, request: &str| Intent {
        caller: Some(caller.to_string()),
        operation,
        key_version: Some(KeyVersion::new(key, 1)),
        algorithm: Some("A256KW+A256GCM".to_owned()),
        size: None,
        context: Default::default(),
        context_key: None,
        request: request.to_owned(),
        trace: None,
        statements: "h1.s1.t1".to_owned(),
        policies: Vec::new(),
    };
    let receipt = |seq, body| Receipt { v: 1, seq, time: Timestamp::from_micros(SystemClock.now().micros() + seq as i64), body };
    let first = [
        receipt(1, ReceiptBody::Intent(intent(Operation::Encrypt, "req_1"))),
        receipt(2, ReceiptBody::Intent(intent(Operation::Decrypt, "req_2"))),
        receipt(3, ReceiptBody::Outcome { intent: 1, result: OutcomeResult::Ok, code: None, size: Some(1024) }),
    ];
    let batch = agent.batch(incarnation, chain_start(incarnation), &first);
    let taken = agent.ship(&batch).await.unwrap();
    assert_eq!(taken.acknowledged, 3);
    assert_eq!(agent.ship(&batch).await.unwrap(), taken);

    let refusal = ReceiptBody::Refusal { intent: intent(Operation::Sign, "req_3"), code: "not_allowed".to_owned(), count: 4 };
    let next = [
        receipt(4, ReceiptBody::Outcome { intent: 2, result: OutcomeResult::Failed, code: Some("vault".to_owned()), size: None }),
        receipt(5, refusal),
    ];
    let gap = agent.batch(incarnation, taken.last, &next[1..]);
    refused(409, "receipts_missing", agent.ship(&gap).await);
    let fork = agent.batch(incarnation, chain_start(incarnation), &[receipt(1, ReceiptBody::Intent(intent(Operation::Verify, "req_x")))]);
    refused(409, "receipts_forked", agent.ship(&fork).await);
    let second = agent.batch(incarnation, taken.last, &next);
    assert_eq!(agent.ship(&second).await.unwrap().acknowledged, 5);

    // Another agent's pair, and another agent's journal.
    let other = Applicant::new(world.invite(3600).await).enrol().await;
    let fresh: IncarnationId = new_id(&SystemIds, SystemClock.now());
    let posing = batch_as(&other, &agent, &agent.batch(fresh, chain_start(fresh), &first));
    refused(400, "receipt_batch_head", other.ship(&posing).await);
    refused(400, "receipt_batch_signature", agent.ship(&posing).await);
    let stolen = other.batch(incarnation, chain_start(incarnation), &first);
    refused(403, "journal_of_another_agent", other.ship(&stolen).await);

    // One is found by its id, by its own tenant alone.
    let fields = "__typename id ... on Receipt { operation outcome size keyVersion }";
    let listed =
        world.query("{ receipts(first: 1, operation: ENCRYPT) { nodes { id } } }", json!({})).await["receipts"]["nodes"][0].clone();
    let node = format!("query($id: ID!) {{ node(id: $id) {{ {fields} }} }}");
    let version = KeyVersion::new(key, 1).to_string();
    let expected = json!({
        "__typename": "Receipt", "id": listed["id"], "operation": "ENCRYPT", "outcome": "OK", "size": "1024", "keyVersion": version,
    });
    assert_eq!(world.query(&node, listed.clone()).await["node"], expected);
    world.admin = std::fs::read_to_string(world.running.operator_token_file()).unwrap().trim().to_owned();
    world.admin = world.mutate("createTenant", "CreateTenantInput", json!({ "name": "other" }), "adminToken").await["adminToken"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(world.query(&node, listed).await["node"], Value::Null);

    // They are found by caller, operation and outcome, newest first.
    let tenant = agent.applicant.file.tenant;
    let (rows, _directory) = world.stop_and_open_receipts().await;
    let list = async |filter: ReceiptFilter, page| rows.receipts(tenant, &filter, page).await.unwrap();
    let any = ReceiptFilter::default;
    let (all, more) = list(any(), Page::First(10, None)).await;
    let outcomes: Vec<_> = all.iter().map(|view| view.outcome).collect();
    assert_eq!((outcomes, more), (vec![ReceiptOutcome::Refused, ReceiptOutcome::Failed, ReceiptOutcome::Ok], false));
    assert_eq!(
        (all[0].code.as_deref(), all[0].count, all[1].code.as_deref(), all[2].size),
        (Some("not_allowed"), 4, Some("vault"), Some(1024))
    );
    let by_caller = ReceiptFilter { caller: Some(caller.to_string()), operation: Some(Operation::Encrypt), key: Some(key), ..any() };
    assert_eq!(list(by_caller, Page::First(10, None)).await.0, all[2..]);
    assert_eq!(list(ReceiptFilter { outcome: Some(ReceiptOutcome::Failed), ..any() }, Page::First(10, None)).await.0, all[1..2]);
    assert!(list(ReceiptFilter { operation: Some(Operation::Verify), ..any() }, Page::First(10, None)).await.0.is_empty());
    assert_eq!(list(any(), Page::First(2, None)).await, (all[..2].to_vec(), true));
    assert_eq!(list(any(), Page::First(2, Some(all[1].position()))).await, (all[2..].to_vec(), false));
    assert_eq!(list(any(), Page::Last(2, None)).await, (all[1..].to_vec(), true));
    assert_eq!(rows.receipt(tenant, all[1].id).await.unwrap().as_ref(), Some(&all[1]));
    assert_eq!(rows.receipt(schema::id::TenantId::from_bits(7), all[1].id).await.unwrap(), None);
}

/// The batch of one agent under a head that another signed, naming the first.
fn batch_as(signer: &Agent, owner: &Agent, batch: &ReceiptBatch) -> ReceiptBatch {
    let EnrolmentToken { tenant, site, agent, .. } = owner.applicant.file;
    let last = batch.entries.iter().fold(batch.previous, |hash, entry| chain(&hash, entry.as_slice()));
    let head = ReceiptBatchHead {
        tenant,
        site,
        agent,
        incarnation: batch.incarnation,
        first_seq: batch.first_seq,
        count: batch.entries.len() as u64,
        previous: batch.previous,
        last,
    };
    ReceiptBatch { head: document::sign(&head, &signer.applicant.pair), ..batch.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_come_to_an_empty_site_at_once_one_founds_it() {
    let world = World::start().await;
    let applicants = [Applicant::new(world.invite(3600).await), Applicant::new(world.invite(3600).await)];
    let requests = [applicants[0].request(), applicants[1].request()];
    let (one, two) = tokio::join!(applicants[0].send(&requests[0]), applicants[1].send(&requests[1]));
    let (won, lost) = match (one, two) {
        (Ok(_), Err(lost)) => (0, lost),
        (Err(lost), Ok(_)) => (1, lost),
        (one, two) => panic!("{one:?} {two:?}"),
    };
    assert_eq!(lost, (StatusCode::CONFLICT, "invitation_without_founder".to_owned()));
    refused(409, "invitation_without_founder", applicants[1 - won].send(&requests[1 - won]).await);
    // The winner may repeat its request; once it is revoked, another may found the site anew.
    applicants[won].send(&requests[won]).await.unwrap();
    let input = json!({ "agent": applicants[won].file.agent.to_string(), "reason": "CESSATION_OF_OPERATION" });
    world.mutate("revokeAgent", "RevokeAgentInput", input, "agent { id }").await;
    applicants[1 - won].send(&requests[1 - won]).await.unwrap();
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_waits_a_few_times_at_once_and_no_more() {
    let world = World::start().await;
    let mut agent = Applicant::new(world.invite(3600).await).enrol().await;
    agent.settle().await;
    let etag = agent.etag.clone().unwrap();
    let poll = |wait: u64| {
        let request = agent.http.get(format!("{}?wait={wait}", agent.url(path::STATEMENTS))).header("if-none-match", etag.clone());
        async move { request.send().await.unwrap().status() }
    };
    let waiting = futures::future::join_all((0..4).map(|_| poll(3)));
    let late = async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        poll(0).await
    };
    let (waited, late) = tokio::join!(waiting, late);
    assert_eq!(waited, [StatusCode::NOT_MODIFIED; 4]);
    assert_eq!(late, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(poll(0).await, StatusCode::NOT_MODIFIED);
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_shows_its_own_certificate_and_the_next_one_without_a_restart() {
    let (first, next) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let make = |folder: &Path| {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        DevelopmentCertificates::ensure(folder, &names, SystemClock.now()).unwrap()
    };
    let (files, others) = (make(first.path()), make(next.path()));
    // Both authorities are told beforehand, as one does before a change.
    let authorities = [&files.authority, &others.authority].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    let world = World::start_with(|config, folder| {
        let ca_file = folder.join("listener-ca.pem");
        std::fs::write(&ca_file, &authorities).unwrap();
        config.agents.ca_file = Some(ca_file);
        config.agents.tls.certificate_file = Some(files.certificate.clone());
        config.agents.tls.key_file = Some(files.key.clone());
    })
    .await;
    let file = world.invite(3600).await;
    assert_eq!(file.ca_pem.as_deref(), Some(authorities.as_str()));
    let applicant = Applicant::new(file);
    let enrolled = applicant.send(&applicant.request()).await.unwrap();
    // With its certificate it is told whom to believe: our authority and the listener's.
    assert!(enrolled.ca_pem.ends_with(&authorities) && enrolled.ca_pem.len() > authorities.len());
    let mut agent = applicant.with_certificate(enrolled.certificate_pem);
    assert!(agent.sync(5).await.unwrap());

    let only = |path: &Path| client(&OutgoingConfig::default(), &Trust::Only(std::fs::read_to_string(path).unwrap()), None);
    let url = agent.url(path::STATEMENTS);
    only(&files.authority).unwrap().get(&url).send().await.unwrap();
    only(&others.authority).unwrap().get(&url).send().await.unwrap_err();
    for (from, to) in [(&others.certificate, &files.certificate), (&others.key, &files.key)] {
        write_atomic(to, &std::fs::read(from).unwrap(), 0o600).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(20);
    while only(&others.authority).unwrap().get(&url).send().await.is_err() {
        assert!(Instant::now() < until, "the next certificate is never shown");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    only(&files.authority).unwrap().get(&url).send().await.unwrap_err();
    // The agent goes on, over a new connection too.
    agent.http = agent.applicant.http(Some(&agent.identity));
    agent.report(&agent.blank_report()).await.unwrap();
    world.running.stop().await;
}

/// An agent frees what was acknowledged: a control plane that was restored from an older backup asks for it in vain.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_goes_on_where_a_restored_control_plane_has_lost_receipts() {
    let world = World::start().await;
    let agent = Applicant::new(world.invite(3600).await).enrol().await;
    let incarnation: IncarnationId = new_id(&SystemIds, SystemClock.now());
    let receipt = |seq| {
        let intent = Intent {
            caller: None,
            operation: Operation::Encrypt,
            key_version: None,
            algorithm: None,
            size: None,
            context: Default::default(),
            context_key: None,
            request: format!("req_{seq}"),
            trace: None,
            statements: "h1.s1.t1".to_owned(),
            policies: Vec::new(),
        };
        Receipt { v: 1, seq, time: SystemClock.now(), body: ReceiptBody::Intent(intent) }
    };
    let taken = agent.ship(&agent.batch(incarnation, chain_start(incarnation), &[receipt(1), receipt(2)])).await.unwrap();
    let freed = agent.batch(incarnation, taken.last, &[receipt(3), receipt(4)]);
    let before = freed.entries.iter().fold(taken.last, |hash, entry| chain(&hash, entry.as_slice()));
    refused(409, "receipts_missing", agent.ship(&agent.batch(incarnation, before, &[receipt(5)])).await);

    // An agent of the site has shown that it knows better.
    let url = format!("sqlite://{}", world.directory.path().join("data/freehold.db").display());
    let database = sea_orm::Database::connect(url).await.unwrap();
    let (tenant, site) = (agent.applicant.file.tenant, agent.applicant.file.site);
    let sql = format!(
        "INSERT INTO recovery_evidence (tenant, site, at, epoch, serial, data_key, sealed) VALUES ('{tenant}', '{site}', {}, 1, 900, 'dek', x'00')",
        SystemClock.now().micros()
    );
    sea_orm::ConnectionTrait::execute_unprepared(&database, &sql).await.unwrap();
    database.close().await.unwrap();
    let fifth = agent.batch(incarnation, before, &[receipt(5)]);
    let taken = agent.ship(&fifth).await.unwrap();
    assert_eq!(taken.acknowledged, 5);
    assert_eq!(agent.ship(&fifth).await.unwrap(), taken);
    assert_eq!(agent.ship(&agent.batch(incarnation, taken.last, &[receipt(6)])).await.unwrap().acknowledged, 6);
    // Once, and not for whatever is missing later.
    refused(409, "receipts_missing", agent.ship(&agent.batch(incarnation, taken.last, &[receipt(9)])).await);
    let events = world.query("{ events(first: 100) { nodes { type data } } }", json!({})).await;
    let runs: Vec<_> = events["events"]["nodes"].as_array().unwrap().iter().filter(|event| event["type"] == "ReceiptsAccepted").collect();
    assert_eq!(runs.len(), 3, "{runs:?}");
    assert_eq!(runs[1]["data"]["first_seq"], "5", "{runs:?}");
}
