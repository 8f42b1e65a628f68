//! Budgets: what agents may spend between them, whatever is lost on the way.

use std::collections::{BTreeMap, BTreeSet};

use control_plane::{
    eventing::aggregate::{Aggregate, Deciding, EventMeta},
    leases::{Budget, BudgetCommand, Part},
};
use data_plane_agent::{
    budgets::ledger::{Ledger, Wish},
    control::{directory::ControlDirectory, vouch::confirm},
};
use freehold_tests::world::{World as System, until};
use proptest::prelude::*;
use schema::{
    clock::ManualIds,
    encoding::{Base64, base64url},
    event::StreamId,
    id::{AgentId, BudgetId, EventId, KeyVersion},
    key::Limits,
    ranges::{LimitKind, Ranges},
};
use serde_json::{Value, json};
use trust::{
    accept::{AcceptedSet, Identity, accept, accept_lease},
    document::{self, LeaseRequest},
    pair::Pair,
    statement::lease::{Leased, Share},
    testing::{AGENT, KEY, OTHER_AGENT, START, TENANT, World, pair},
};

use super::process::Process;

const VERSION: KeyVersion = KeyVersion::new(KEY, 1);
const LIMIT: u64 = 60;

/// Who shares out, and signs leases.
struct Plane {
    world: World,
    budget: Budget,
    serial: u64,
}

impl Plane {
    /// Takes a request, as the service does, and gives a lease.
    fn take(&mut self, agent: AgentId, pair: &Pair, request: &Base64) -> Base64 {
        let signed = document::open::<LeaseRequest>(request.as_slice(), pair.public()).unwrap();
        let (asked, sha256) = (signed.payload, signed.sha256);
        let budget = asked.budgets.get(&VERSION).cloned().unwrap_or_default();
        let part = Part {
            version: 1,
            limit: LimitKind::Uses,
            spent: budget.spent.uses,
            returned: budget.returned.uses,
            wanted: budget.uses_wanted,
            ceiling: LIMIT,
            among: 2,
        };
        let command = BudgetCommand::Settle { key: KEY, agent, number: asked.number, request: sha256, parts: vec![part] };
        let meta = EventMeta {
            id: EventId::from_bits(1),
            tenant: TENANT,
            stream: StreamId::of(BudgetId::from_bits(1)),
            revision: 1,
            time: START,
            actor: String::new(),
        };
        let events = self.budget.decide(&command, &Deciding { now: START, ids: &ManualIds::seeded(1) }).unwrap();
        events.iter().for_each(|event| self.budget.evolve(event, &meta));
        self.serial += 1;
        let pool = self.budget.pool(1, LimitKind::Uses).cloned().unwrap_or_default();
        let last = self.budget.requests.get(&agent).map_or(0, |last| last.number);
        let answers = self.budget.answers(agent, asked.number, sha256).then_some(sha256);
        self.world.lease(self.serial, |lease| {
            (lease.head.agent, lease.number, lease.answers) = (Some(agent), last.max(asked.number), answers);
            let share = Share { uses: pool.held_by(agent), bytes: Ranges::new() };
            lease.budgets.insert(VERSION, Leased { share, uses_left: Some(pool.left(LIMIT)), bytes_left: None });
        })
    }
}

/// An agent: what is on its disk, what is in its memory.
struct Spender {
    identity: Identity,
    pair: Pair,
    set: AcceptedSet,
    disk: Vec<u8>,
    ledger: Ledger,
    block: Ranges,
    nonce: u8,
    sent: Vec<Base64>,
    received: Vec<Base64>,
}

/// When the machine stops in the middle of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Crash {
    Never,
    BeforeWriting,
    AfterWriting,
}

impl Spender {
    fn new(world: &World, agent: AgentId, seed: u64) -> Self {
        let pair = pair(seed);
        let identity = Identity { agent, keyid: pair.keyid(), founder: Some(world.agent.keyid()), ..world.identity() };
        let set = accept(None, &world.set(), &identity, &Default::default(), world.now()).unwrap();
        let ledger = Ledger::default();
        let disk = serde_json::to_vec(&ledger).unwrap();
        let (block, nonce, sent, received) = Default::default();
        Self { identity, pair, set, disk, ledger, block, nonce, sent, received }
    }

    /// Everything in memory is gone.
    fn crash(&mut self) {
        self.ledger = serde_json::from_slice(&self.disk).unwrap();
        self.block = Ranges::new();
    }

    /// Writes the next ledger, then goes on with it; whether it got that far.
    fn write(&mut self, next: Ledger, crash: Crash) -> bool {
        if crash != Crash::BeforeWriting {
            self.disk = serde_json::to_vec(&next).unwrap();
            self.ledger = next;
        }
        if crash != Crash::Never {
            self.crash();
        }
        crash == Crash::Never
    }

    fn reserve(&mut self, count: u64, crash: Crash) {
        let mut next = self.ledger.clone();
        let block = next.reserve(VERSION, LimitKind::Uses, count, LIMIT);
        if self.write(next, crash) {
            self.block = self.block.union(&block);
        }
    }

    fn request(&mut self, wish: Wish, crash: Crash) {
        let mut next = self.ledger.clone();
        self.nonce += 1;
        next.request(&BTreeMap::from([(VERSION, wish)]), &self.identity, &self.pair, [self.nonce; 16], START);
        if self.write(next, crash) {
            self.sent.push(self.ledger.pending().unwrap().clone());
        }
    }

    fn receive(&mut self, lease: &Base64, crash: Crash) {
        let mut next = self.ledger.clone();
        if let Ok(accepted) = accept_lease(&self.set, lease, next.memory(), None) {
            next.accept(&accepted);
            self.write(next, crash);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(u64, Crash),
    Use,
    Request(u64, bool, Crash),
    /// The newest request arrives, or, when late, one of the earlier.
    Arrive(usize),
    /// The newest lease arrives, or, when late, one of the earlier.
    Receive(usize, Crash),
    Crash,
    /// The ledger is gone from the disk.
    Lose,
}

fn step() -> impl Strategy<Value = (bool, Step)> {
    let crash = || prop_oneof![6 => Just(Crash::Never), 1 => Just(Crash::BeforeWriting), 1 => Just(Crash::AfterWriting)];
    let late = || prop_oneof![4 => Just(0usize), 1 => 1usize..4];
    let step = prop_oneof![
        4 => (1u64..8, crash()).prop_map(|(count, crash)| Step::Reserve(count, crash)),
        8 => Just(Step::Use),
        4 => (0u64..25, prop::bool::weighted(0.25), crash()).prop_map(|(wanted, back, crash)| Step::Request(wanted, back, crash)),
        4 => late().prop_map(Step::Arrive),
        4 => (late(), crash()).prop_map(|(late, crash)| Step::Receive(late, crash)),
        1 => Just(Step::Crash),
        1 => Just(Step::Lose),
    ];
    (any::<bool>(), step)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Two agents, a network that loses, delays and repeats, and machines that stop in the middle of anything.
    #[test]
    fn no_part_of_a_limit_is_ever_used_twice(steps in prop::collection::vec(step(), 10..70)) {
        let mut world = World::new();
        world.project_policy().keys.get_mut(&KEY).unwrap().limits = Limits { hard_uses: Some(LIMIT), ..Limits::default() };
        world.join(Vec::new());
        let one = Spender::new(&world, AGENT, 100);
        let other = Spender::new(&world, OTHER_AGENT, 101);
        let mut plane = Plane { world, budget: Budget::default(), serial: 0 };
        let mut agents = [one, other];
        let mut used = BTreeSet::new();
        for (which, step) in steps {
            let agent = &mut agents[usize::from(which)];
            match step {
                Step::Reserve(count, crash) => agent.reserve(count, crash),
                Step::Use => {
                    if let Some(number) = agent.block.first() {
                        agent.block = agent.block.without(&Ranges::of(number, number + 1));
                        prop_assert!(number < LIMIT, "{number} is above the limit");
                        prop_assert!(used.insert(number), "{number} is used twice");
                    }
                }
                Step::Request(wanted, back, crash) => agent.request(Wish { uses: wanted, bytes: 0, give_back: back }, crash),
                Step::Arrive(late) => {
                    if let Some(request) = agent.sent.len().checked_sub(1 + late).map(|place| agent.sent[place].clone()) {
                        let lease = plane.take(agent.identity.agent, &agent.pair, &request);
                        agent.received.push(lease);
                    }
                }
                Step::Receive(late, crash) => {
                    if let Some(lease) = agent.received.len().checked_sub(1 + late).map(|place| agent.received[place].clone()) {
                        agent.receive(&lease, crash);
                    }
                }
                Step::Crash => agent.crash(),
                Step::Lose => {
                    agent.disk = serde_json::to_vec(&Ledger::default()).unwrap();
                    agent.crash();
                }
            }
        }
        prop_assert!(used.len() as u64 <= LIMIT);
    }
}

#[test]
fn what_nobody_loses_is_all_there_to_be_used() {
    let mut world = World::new();
    world.project_policy().keys.get_mut(&KEY).unwrap().limits = Limits { hard_uses: Some(LIMIT), ..Limits::default() };
    let mut agent = Spender::new(&world, AGENT, 100);
    let mut plane = Plane { world, budget: Budget::default(), serial: 0 };
    let mut used = 0;
    for _ in 0..20 {
        agent.request(Wish { uses: 20, ..Wish::default() }, Crash::Never);
        let request = agent.sent.last().unwrap().clone();
        let lease = plane.take(AGENT, &agent.pair, &request);
        agent.receive(&lease, Crash::Never);
        agent.reserve(100, Crash::Never);
        used += agent.block.count();
        agent.block = Ranges::new();
    }
    assert_eq!(used, LIMIT);
    assert_eq!(plane.budget.pool(1, LimitKind::Uses).unwrap().spent, LIMIT);
}

/// What the control plane shows of the budgets of a key.
async fn budgets(system: &System, key: &str) -> Value {
    let query = "query($key: String!) { key(reference: $key) { versions { budgets { counts hard soft used held left } } } }";
    system.query(query, json!({ "key": format!("payments/{key}") })).await["key"]["versions"][0]["budgets"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_on_uses_and_bytes_hold_and_say_so() {
    let system = System::start().await;
    let config = system.agent_config("agent", "plain_http = true");
    system.enrol(&config).await;
    system.encryption_key("cards").await;
    system.encryption_key("free").await;
    let token = system.caller("app", &config).await;
    system.publish("permit (principal, action, resource);").await;
    let agent = system.agent(&config).await;
    let encrypt = |key: &str, bytes: usize| json!({ "key": format!("payments/{key}"), "plaintext": base64url(&vec![7; bytes]) });
    let code = |answer: &(u16, Value)| (answer.0, answer.1["code"].as_str().unwrap_or("ok").to_owned());
    system.until_allowed(&agent, "/v1/encrypt", &token, &encrypt("cards", 10)).await;
    assert_eq!(budgets(&system, "cards").await, json!([]), "a key without limits is not counted");

    system.cli(&["key", "limit", "payments/cards", "--soft-uses", "5", "--hard-uses", "10", "--hard-bytes", "1000"]).await.unwrap();
    // The limit takes a moment to be enforced; from then on uses are counted, not before.
    until(|| async {
        let state = budgets(&system, "cards").await;
        if state[0]["held"] == "0" { Err(format!("{state}")) } else { Ok(()) }
    })
    .await;
    let mut sealed = Vec::new();
    let mut warned = 0;
    let can = |size: u64| json!({ "operation": "encrypt", "key": "payments/cards", "size": size.to_string() });
    // Asking takes nothing: it may be asked more often than the limit allows. It speaks of what the agent holds, which is a moment
    // behind what it was given.
    until(|| async {
        let (_, answer) = system.call(&agent, "/v1/can", &token, &can(20)).await;
        if answer["allowed"] == true { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    for _ in 0..20 {
        let (_, answer) = system.call(&agent, "/v1/can", &token, &can(20)).await;
        assert_eq!(answer["allowed"], true, "{answer}");
    }
    let refused = loop {
        let answer = system.call(&agent, "/v1/encrypt", &token, &encrypt("cards", 20)).await;
        if answer.0 != 200 {
            break answer;
        }
        warned += usize::from(answer.1["warnings"].to_string().contains("soft_limit_uses"));
        sealed.push(answer.1["message"].clone());
        assert!(sealed.len() <= 10, "the limit does not hold");
    };
    assert_eq!((code(&refused), sealed.len(), warned), ((409, "limit_uses_exhausted".to_owned()), 10, 5), "{refused:?}");
    assert!(refused.1["detail"].as_str().unwrap().contains("hard limit of 10 uses"), "{refused:?}");
    let (_, answer) = system.call(&agent, "/v1/can", &token, &can(20)).await;
    assert_eq!((&answer["allowed"], &answer["refusal"]["code"]), (&json!(false), &json!("limit_uses_exhausted")), "{answer}");
    let limit = json!({ "counts": "uses", "hard": "10", "frees": "rotation, or a higher limit" });
    assert_eq!((&answer["refusal"]["facts"]["limit"], &refused.1["facts"]["limit"]), (&limit, &limit));
    // What is sealed is opened for ever, other keys go on, and a restart forgets nothing.
    let open = json!({ "message": sealed[0] });
    assert_eq!(system.call(&agent, "/v1/decrypt", &token, &open).await.0, 200);
    assert_eq!(system.call(&agent, "/v1/encrypt", &token, &encrypt("free", 20)).await.0, 200);
    agent.stop().await.unwrap();
    let agent = system.agent(&config).await;
    let answer = system.call(&agent, "/v1/encrypt", &token, &encrypt("cards", 20)).await;
    assert_eq!(code(&answer), (409, "limit_uses_exhausted".to_owned()), "{answer:?}");

    // A higher limit on uses frees it, until the bytes run out: 200 of 1000 are spent.
    system.cli(&["key", "limit", "payments/cards", "--hard-uses", "1000", "--hard-bytes", "1000"]).await.unwrap();
    system.until_allowed(&agent, "/v1/encrypt", &token, &encrypt("cards", 400)).await;
    let answer = system.call(&agent, "/v1/encrypt", &token, &encrypt("cards", 900)).await;
    assert_eq!(code(&answer), (409, "limit_bytes_exhausted".to_owned()), "{answer:?}");
    let (_, answer) = system.call(&agent, "/v1/can", &token, &can(900)).await;
    assert_eq!(answer["refusal"]["code"], "limit_bytes_exhausted", "{answer}");
    let without_length = reqwest::Client::new()
        .post(format!("http://{}/v1/stream/encrypt?key=payments/cards", agent.address))
        .bearer_auth(&token)
        .body(reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>("some")])));
    let problem: Value = without_length.send().await.unwrap().json().await.unwrap();
    assert_eq!(problem["code"], "size_unknown");

    let shown = budgets(&system, "cards").await;
    let number = |of: usize, what: &str| shown[of][what].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!((shown[0]["counts"].as_str(), shown[1]["counts"].as_str()), (Some("uses"), Some("bytes")));
    assert_eq!(number(0, "used") + number(0, "held") + number(0, "left"), 1000, "{shown}");
    assert_eq!(number(1, "used") + number(1, "held") + number(1, "left"), 1000, "{shown}");
    system.cli(&["key", "show", "payments/cards"]).await.unwrap();
    agent.stop().await.unwrap();
}

/// Uses that two agents share out in the test below, each of a version of its own.
const SHARED: u64 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_a_site_spend_leases_of_their_own_also_when_one_is_killed() {
    let system = System::start().await;
    let (first, second) = (system.agent_config("first", "plain_http = true"), system.agent_config("second", "plain_http = true"));
    let directory = {
        for config in [&first, &second] {
            service::files::create_private_directory(&config.data_dir).unwrap();
        }
        ControlDirectory::open(&first.data_dir).unwrap()
    };
    let founder = system.enrol(&first).await;
    let tokens = [system.caller("app", &first).await, system.caller("batch", &second).await];
    let steady = system.agent(&first).await;
    let newcomer = system.enrol(&second).await;
    let mut killed = Process::start_enrolled(&system.path("second"));
    until(|| async { confirm(&directory, newcomer.agent, newcomer.keyid).map_err(|error| error.to_string()) }).await;
    for (name, agent) in [("one", founder.agent), ("two", newcomer.agent)] {
        let key = json!({
            "project": "payments", "name": name, "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT", "placement": ["fra"],
            "durability": "SINGLE_COPY", "eligibleGenerators": [agent.to_string()], "limits": { "hardUses": SHARED.to_string() },
        });
        system.mutate("createKey", key, "key { id }").await;
    }
    system.publish("permit (principal, action, resource);").await;

    let http = reqwest::Client::new();
    let encrypt = async |url: &str, token: &str, key: &str| {
        let body = json!({ "key": format!("payments/{key}"), "plaintext": base64url(b"4111") });
        let answer =
            http.post(format!("{url}/v1/encrypt")).bearer_auth(token).json(&body).send().await.map_err(|error| error.to_string())?;
        let (status, answer) = (answer.status().as_u16(), answer.json::<Value>().await.map_err(|error| error.to_string())?);
        if status == 200 { Ok(()) } else { Err(answer["code"].as_str().unwrap_or_default().to_owned()) }
    };
    let steady_url = format!("http://{}", steady.address);
    until(|| encrypt(&steady_url, &tokens[0], "one")).await;
    until(|| encrypt(&killed.url, &tokens[1], "two")).await;
    // Each has what the other has made, and holds a part of its budget.
    until(|| encrypt(&steady_url, &tokens[0], "two")).await;
    until(|| encrypt(&killed.url, &tokens[1], "one")).await;

    // One is killed under load, several times. What it had reserved is lost, what it answered is counted.
    let mut answered = 2;
    for _ in 0..2 {
        let url = killed.url.clone();
        let load = (0..6).map(async |_| {
            let mut done = 0;
            while done < 12 && encrypt(&url, &tokens[1], "two").await.is_ok() {
                done += 1;
            }
            done
        });
        let kill = async {
            tokio::time::sleep(std::time::Duration::from_millis(80)).await;
            killed.kill();
        };
        let (burst, ()) = tokio::join!(futures::future::join_all(load), kill);
        answered += burst.iter().sum::<u64>();
        killed = Process::start_enrolled(&system.path("second"));
        until(|| encrypt(&killed.url, &tokens[1], "two")).await;
        answered += 1;
    }
    let to_the_end = async |url: &str, token: &str, key: &str| {
        let mut done = 0;
        loop {
            match encrypt(url, token, key).await {
                Ok(()) => done += 1,
                Err(code) => return (done, code),
            }
        }
    };
    let ((steadily, steady_end), (rest, killed_end)) =
        tokio::join!(to_the_end(&steady_url, &tokens[0], "one"), to_the_end(&killed.url, &tokens[1], "two"));
    // What each holds of the other's key is there to the end.
    let ((of_two, _), (of_one, _)) = tokio::join!(to_the_end(&steady_url, &tokens[0], "two"), to_the_end(&killed.url, &tokens[1], "one"));
    answered += rest + of_two;
    assert_eq!((steady_end.as_str(), killed_end.as_str()), ("limit_uses_exhausted", "limit_uses_exhausted"));
    // A lease is an eighth of the limit: it was renewed before its end, again and again.
    let of_one = 2 + steadily + of_one;
    assert!(of_one <= SHARED && of_one > SHARED * 3 / 4, "{of_one} of {SHARED}: only what the killed one had reserved of it is lost");
    assert!(answered <= SHARED && answered > SHARED / 2, "{answered} of {SHARED}, and each kill burns what was reserved");
    for key in ["one", "two"] {
        let shown = budgets(&system, key).await;
        let number = |what: &str| shown[0][what].as_str().unwrap().parse::<u64>().unwrap();
        assert_eq!(number("used") + number("held") + number("left"), SHARED, "{shown}");
        assert_eq!(number("left"), 0, "{shown}");
    }
    killed.kill();
    steady.stop().await.unwrap();
}
