//! Who has an earlier set of the site is sent what they lack, when they ask for that, and nobody else is.

use schema::wire::{
    agent::StatementSet,
    delta::{A_IM, DELTA_BASE, IM, MANIPULATION, Part, StatementDelta},
};

use super::super::*;

/// An answer to a request for statements.
struct Answer {
    status: StatusCode,
    etag: Option<String>,
    base: Option<String>,
    manipulation: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn set(&self) -> StatementSet {
        assert_eq!((self.status, &self.base, &self.manipulation), (StatusCode::OK, &None, &None));
        serde_json::from_slice(&self.body).unwrap()
    }

    fn delta(&self) -> StatementDelta {
        assert_eq!((self.status, self.manipulation.as_deref()), (StatusCode::IM_USED, Some(MANIPULATION)));
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn ask(agent: &Agent, known: Option<&str>, takes: Option<&str>, wait: u64) -> Answer {
    let mut request = agent.http.get(format!("{}?wait={wait}", agent.url(path::STATEMENTS)));
    for (name, value) in [("if-none-match", known), (A_IM, takes)] {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.unwrap();
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (status, etag, base, manipulation) = (answer.status(), header("etag"), header(DELTA_BASE), header(IM));
    Answer { status, etag, base, manipulation, body: answer.bytes().await.unwrap().to_vec() }
}

fn is_written(part: &Part) -> bool {
    matches!(part, Part::Written(_))
}

/// How many of the roots, of the policies, and whether the state, are sent.
fn sent(delta: &StatementDelta) -> (usize, usize, bool) {
    let count = |parts: &[Part]| parts.iter().filter(|part| is_written(part)).count();
    (count(&delta.roots), count(&delta.policies), delta.state.as_ref().is_some_and(is_written))
}

/// What came last at a site, as somebody has it who takes deltas.
struct Has {
    etag: String,
    set: StatementSet,
}

impl Has {
    async fn of(agent: &Agent) -> Self {
        let answer = ask(agent, None, None, 0).await;
        Self { etag: answer.etag.clone().unwrap(), set: answer.set() }
    }

    /// Waits for the next set, completes it, and compares it with the whole one: byte for byte. Gives the delta and its size.
    async fn next(&mut self, agent: &Agent) -> (StatementDelta, usize, usize) {
        let answer = ask(agent, Some(&self.etag), Some(MANIPULATION), 20).await;
        let delta = answer.delta();
        assert_eq!(answer.base.as_deref(), Some(self.etag.as_str()));
        let set = delta.clone().complete(&self.set).unwrap();
        let whole = ask(agent, None, Some(MANIPULATION), 0).await;
        let size = whole.body.len();
        // Another heartbeat may have come in between.
        if whole.etag == answer.etag {
            assert_eq!(serde_json::to_vec(&set).unwrap(), whole.body);
        }
        *self = Self { etag: answer.etag.unwrap(), set };
        (delta, answer.body.len(), size)
    }

    /// The next delta of which this is sent; others, in which nothing but a heartbeat is new, may come before.
    async fn until(&mut self, agent: &Agent, what: &str, is_it: impl Fn((usize, usize, bool)) -> bool) -> StatementDelta {
        for _ in 0..20 {
            let (delta, ..) = self.next(agent).await;
            if is_it(sent(&delta)) {
                return delta;
            }
        }
        panic!("{what}: never came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_last_set_is_sent_what_they_lack() {
    let world = World::start().await;
    world.create_key("card-data").await;
    let made = world.mutate("createPolicy", "CreatePolicyInput", json!({ "name": "use", "project": world.project }), "policy { id }").await;
    let policy = made["policy"]["id"].as_str().unwrap().to_owned();
    let mut agent = Applicant::new(world.invite(3600).await).enrol().await;
    agent.settle().await;
    let mut has = Has::of(&agent).await;

    // A minute passes: a heartbeat, and nothing else.
    world.clock.advance(Duration::from_secs(61));
    let (delta, size, whole) = has.next(&agent).await;
    assert_eq!(sent(&delta), (0, 0, false));
    assert!(delta.heartbeat.as_ref().is_some_and(is_written));
    assert!(size * 3 < whole, "{size} of {whole} bytes");

    // A policy is published: that one, and neither the others nor the state.
    let input = json!({ "policy": policy, "content": { "cedar": "permit (principal, action, resource);" } });
    world.mutate("savePolicyDraft", "SavePolicyDraftInput", input, "problems { message }").await;
    world.mutate("publishPolicy", "PublishPolicyInput", json!({ "policy": policy }), "problems { message }").await;
    has.until(&agent, "the policy", |sent| sent == (0, 1, false)).await;

    // A key: the policy that defines it, and the state that tells of its version.
    world.create_key("other").await;
    has.until(&agent, "the key", |(_, policies, state)| policies == 1 && state).await;

    // Fresh pairs: a root more, the first is held; all else is signed anew.
    world.mutate("rotatePairs", "RotatePairsInput", json!({}), "rootSerial").await;
    let delta = has.until(&agent, "the root", |(roots, ..)| roots == 1).await;
    assert_eq!((sent(&delta), has.set.roots.len()), ((1, has.set.policies.len(), true), 2));

    // What was completed all along is believed.
    agent.believe(&has.set);
    agent.etag = Some(has.etag);
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_out_for_who_did_not_ask_or_has_no_set_of_this_site() {
    let mut world = World::start().await;
    let mut agent = Applicant::new(world.invite(3600).await).enrol().await;
    agent.settle().await;
    let has = Has::of(&agent).await;
    let site = agent.applicant.file.site;

    // Another site of the tenant, and one of another tenant.
    let made = world.mutate("createSite", "CreateSiteInput", json!({ "name": "ams" }), "site { id }").await;
    let mut there = Applicant::new(world.invite_to(made["site"]["id"].as_str().unwrap(), 3600).await).enrol().await;
    there.settle().await;
    let operator = std::fs::read_to_string(world.running.operator_token_file()).unwrap().trim().to_owned();
    let admin = std::mem::replace(&mut world.admin, operator);
    let made = world.mutate("createTenant", "CreateTenantInput", json!({ "name": "other" }), "adminToken").await;
    world.admin = made["adminToken"].as_str().unwrap().to_owned();
    let made = world.mutate("createSite", "CreateSiteInput", json!({ "name": "fra-dc1" }), "site { id }").await;
    let mut stranger = Applicant::new(world.invite_to(made["site"]["id"].as_str().unwrap(), 3600).await).enrol().await;
    stranger.settle().await;
    world.admin = admin;

    // There is another set now than the one this agent has.
    world.create_key("card-data").await;
    ask(&agent, Some(&has.etag), Some(MANIPULATION), 20).await.delta();
    let numbers = has.etag.trim_matches('"').split_once('.').unwrap().1.to_owned();
    let elsewhere = |agent: &Agent| format!("\"{}.{numbers}\"", agent.applicant.file.site);
    let foreign = [
        there.etag.clone().unwrap(),
        stranger.etag.clone().unwrap(),
        elsewhere(&there),
        elsewhere(&stranger),
        format!("\"{site}.1.999999\""),
        format!("\"{site}.2.1\""),
        "\"garbage\"".to_owned(),
        "garbage".to_owned(),
        "*".to_owned(),
        format!("W/{}", has.etag),
        "x".repeat(4_000),
    ];
    for tag in &foreign {
        let answer = ask(&agent, Some(tag), Some(MANIPULATION), 0).await;
        assert_eq!(answer.set().roots.len(), 1, "{tag}");
    }
    // Who did not ask, or asked for another manipulation, or not for this one.
    for takes in [None, Some("vcdiff"), Some("freehold-statements;q=0"), Some("")] {
        ask(&agent, Some(&has.etag), takes, 0).await.set();
    }
    ask(&agent, None, Some(MANIPULATION), 0).await.set();
    ask(&agent, Some(&has.etag), Some("gzip, freehold-statements;q=0.1"), 0).await.delta();
    // Each is served their own site's set, whatever they name.
    let theirs = ask(&there, Some(&has.etag), Some(MANIPULATION), 0).await;
    assert_ne!(theirs.set().state, ask(&agent, None, None, 0).await.set().state);

    // Who has the newest waits, as ever.
    let newest = ask(&agent, None, None, 0).await;
    assert_eq!(ask(&agent, newest.etag.as_deref(), Some(MANIPULATION), 0).await.status, StatusCode::NOT_MODIFIED);
    world.running.stop().await;
}
