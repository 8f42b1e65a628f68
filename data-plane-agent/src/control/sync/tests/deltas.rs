//! Sets of which only a part is sent, by a control plane that may send anything.

use std::{collections::VecDeque, sync::Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, http::StatusCode, web};
use schema::{
    encoding::Digest,
    wire::{
        agent::{StatementSet, path},
        delta::{A_IM, DELTA_BASE, IM, MANIPULATION, Part, StatementDelta, is_named},
    },
};
use service::{
    listen::bind,
    tls::{certificate::ReloadingCertificate, development::DevelopmentCertificates, server_config},
};

use super::*;

/// What is answered to one request.
#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// All of a set.
fn whole(etag: &str, set: &StatementSet) -> Answer {
    Answer { status: StatusCode::OK, headers: vec![("etag", etag.to_owned())], body: serde_json::to_vec(set).unwrap() }
}

/// A delta to the set with the tag `base`.
fn delta(base: &str, etag: &str, delta: &StatementDelta) -> Answer {
    let headers = [("etag", etag), (DELTA_BASE, base), (IM, MANIPULATION)].map(|(name, value)| (name, value.to_owned()));
    Answer { status: StatusCode::IM_USED, headers: headers.to_vec(), body: serde_json::to_vec(delta).unwrap() }
}

/// The tag that was asked with, and whether a delta would be taken.
type Asked = (Option<String>, bool);

fn asked(known: Option<&str>, takes_delta: bool) -> Asked {
    (known.map(str::to_owned), takes_delta)
}

#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<Asked>>,
}

async fn serve(request: HttpRequest, script: web::Data<Script>) -> HttpResponse {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    script.asked.lock().unwrap().push((header("if-none-match"), header(A_IM).is_some_and(|named| is_named(&named))));
    let Some(Answer { status, headers, body }) = script.answers.lock().unwrap().pop_front() else {
        return HttpResponse::NotModified().finish();
    };
    let mut answer = HttpResponse::build(status);
    for header in headers {
        answer.insert_header(header);
    }
    answer.body(body)
}

/// An agent, and a control plane that answers as it is told.
struct Pair {
    sync: StatementSync,
    current: Arc<Current>,
    script: web::Data<Script>,
    directory: tempfile::TempDir,
    place: (String, String),
}

impl Pair {
    fn start(world: &World) -> Self {
        service::tls::install_provider();
        let directory = tempfile::tempdir().unwrap();
        let files = DevelopmentCertificates::ensure(&directory.path().join("tls"), &["localhost".to_owned()], START).unwrap();
        let script = web::Data::new(Script::default());
        let served = script.clone();
        let listener = bind("127.0.0.1:0", "test").unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let certificate = Arc::new(ReloadingCertificate::open(&files.certificate, &files.key).unwrap());
        let server = HttpServer::new(move || App::new().app_data(served.clone()).route(path::STATEMENTS, web::get().to(serve)))
            .workers(1)
            .disable_signals()
            .listen_rustls_0_23(listener, server_config(certificate, None).unwrap())
            .unwrap()
            .run();
        actix_web::rt::spawn(server);
        let authority = std::fs::read_to_string(&files.authority).unwrap();
        let (sync, current) = sync_with(world, directory.path(), (&url, Some(&authority)));
        Self { sync, current, script, directory, place: (url, authority) }
    }

    /// Another start of the agent.
    fn start_again(&mut self, world: &World) {
        let (url, authority) = &self.place;
        (self.sync, self.current) = sync_with(world, self.directory.path(), (url, Some(authority)));
    }

    /// Polls once, while these are the answers; gives what was asked.
    async fn poll(&mut self, answers: impl IntoIterator<Item = Answer>) -> (Result<bool, SyncError>, Vec<Asked>) {
        self.script.answers.lock().unwrap().extend(answers);
        let outcome = self.sync.once(Duration::ZERO).await;
        assert!(self.script.answers.lock().unwrap().is_empty(), "not everything was asked for");
        (outcome, std::mem::take(&mut *self.script.asked.lock().unwrap()))
    }

    /// The exact bytes that are in force.
    fn in_force(&self) -> StatementSet {
        self.sync.accepted.borrow().as_ref().map(|set| set.statements()).unwrap_or_default()
    }

    fn rejection(&self) -> Option<String> {
        self.current.rejection().map(|rejected| rejected.code)
    }
}

fn only_a_heartbeat(world: &mut World) {
    let (state, issued) = (world.state.head.serial, world.state.head.clone());
    world.tick();
    world.state.head = issued;
    assert_eq!(world.state.head.serial, state);
}

#[actix_web::test]
async fn what_an_agent_lacks_is_made_whole_with_what_it_has() {
    let mut world = World::new();
    let mut pair = Pair::start(&world);
    let first = world.set();
    let (outcome, requests) = pair.poll([whole("\"1\"", &first)]).await;
    assert!(outcome.unwrap());
    assert_eq!(requests, [asked(None, false)]);

    // A minute passes.
    only_a_heartbeat(&mut world);
    let second = world.set();
    let lacked = StatementDelta::between(&first, &second);
    assert!(matches!((&lacked.state, &lacked.heartbeat), (Some(Part::Held { .. }), Some(Part::Written(_)))));
    let (outcome, requests) = pair.poll([delta("\"1\"", "\"2\"", &lacked)]).await;
    assert!(outcome.unwrap());
    assert_eq!(requests, [asked(Some("\"1\""), true)]);
    assert_eq!(pair.in_force(), second);

    // A policy is published, and later everything is another.
    world.tick_policy(Scope::Project(PROJECT));
    only_a_heartbeat(&mut world);
    let third = world.set();
    let lacked = StatementDelta::between(&second, &third);
    assert_eq!(lacked.policies.iter().filter(|part| matches!(part, Part::Written(_))).count(), 1);
    assert!(pair.poll([delta("\"2\"", "\"3\"", &lacked)]).await.0.unwrap());
    assert_eq!(pair.in_force(), third);
    world.tick_policy(Scope::Tenant);
    world.tick();
    let fourth = world.set();
    assert!(pair.poll([delta("\"3\"", "\"4\"", &StatementDelta::between(&third, &fourth))]).await.0.unwrap());
    assert_eq!(pair.in_force(), fourth);
    let (outcome, requests) = pair.poll([]).await;
    assert!(!outcome.unwrap());
    assert_eq!(requests, [asked(Some("\"4\""), true)]);
    assert_eq!(pair.rejection(), None);
}

#[actix_web::test]
async fn a_delta_that_cannot_be_completed_is_passed_over_and_the_whole_is_asked_for_at_once() {
    let mut world = World::new();
    let mut pair = Pair::start(&world);
    let mut has = world.set();
    assert!(pair.poll([whole("\"0\"", &has)]).await.0.unwrap());
    let unknown = Part::Held { held: Digest([7; 32]) };
    let with = |answer: Answer, change: fn(&mut Answer)| {
        let mut answer = answer;
        change(&mut answer);
        answer
    };
    let lies: [&dyn Fn(StatementDelta, Answer) -> Answer; 8] = [
        // It names what is not held, instead of what is, and beside it.
        &|lacked, _| delta("\"0\"", "\"x\"", &StatementDelta { policies: vec![unknown.clone()], ..lacked }),
        &|mut lacked, _| {
            lacked.roots.push(unknown.clone());
            delta("\"0\"", "\"x\"", &lacked)
        },
        // It names something twice.
        &|lacked, _| delta("\"0\"", "\"x\"", &StatementDelta { heartbeat: lacked.roots.first().cloned(), ..lacked }),
        // It is a delta to another set, or to nobody knows which, or by another rule.
        &|_, answer| with(answer, |answer| answer.headers[1].1 = "\"other\"".to_owned()),
        &|_, answer| with(answer, |answer| drop(answer.headers.remove(1))),
        &|_, answer| with(answer, |answer| answer.headers[2].1 = "vcdiff".to_owned()),
        &|_, answer| with(answer, |answer| drop(answer.headers.remove(2))),
        // It is none.
        &|_, answer| with(answer, |answer| answer.body.truncate(100)),
    ];
    for (number, lie) in lies.iter().enumerate() {
        only_a_heartbeat(&mut world);
        let next = world.set();
        let lacked = StatementDelta::between(&has, &next);
        let told = lie(lacked.clone(), delta("\"0\"", "\"x\"", &lacked));
        let (outcome, requests) = pair.poll([told, whole("\"0\"", &next)]).await;
        assert!(outcome.unwrap(), "lie {number}");
        assert_eq!(requests, [asked(Some("\"0\""), true), asked(None, false)], "lie {number}");
        assert_eq!((pair.in_force(), pair.rejection()), (next.clone(), None), "lie {number}");
        has = next;
    }
}

#[actix_web::test]
async fn a_delta_that_nobody_asked_for_is_no_answer() {
    let mut world = World::new();
    let mut pair = Pair::start(&world);
    let first = world.set();
    let unasked = |outcome: Result<bool, SyncError>| {
        let Err(SyncError::Call(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.code(), "answer_malformed");
    };
    let all_written = StatementDelta::between(&StatementSet::default(), &first);
    let (outcome, requests) = pair.poll([delta("\"0\"", "\"1\"", &all_written)]).await;
    unasked(outcome);
    assert_eq!(requests, [asked(None, false)]);
    assert_eq!(pair.in_force(), StatementSet::default());
    assert!(pair.poll([whole("\"1\"", &first)]).await.0.unwrap());

    // Nor is it asked for again and again.
    world.tick();
    let bad = delta("\"other\"", "\"2\"", &StatementDelta::default());
    let (outcome, requests) = pair.poll([bad.clone(), bad]).await;
    unasked(outcome);
    assert_eq!(requests, [asked(Some("\"1\""), true), asked(None, false)]);
    assert_eq!(pair.in_force(), first);
    assert!(pair.poll([delta("\"1\"", "\"2\"", &StatementDelta::between(&first, &world.set()))]).await.0.unwrap());
    assert_eq!(pair.in_force(), world.set());
}

#[actix_web::test]
async fn what_a_delta_becomes_is_judged_as_every_set_and_the_whole_is_asked_for_next() {
    let mut world = World::new();
    let mut pair = Pair::start(&world);
    let old = world.set();
    world.tick();
    let mut has = world.set();
    assert!(pair.poll([whole("\"0\"", &has)]).await.0.unwrap());
    let changes: [(&str, &dyn Fn(StatementDelta) -> StatementDelta); 5] = [
        ("older", &|_| StatementDelta::between(&StatementSet::default(), &old)),
        ("incomplete", &|lacked| StatementDelta { state: None, ..lacked }),
        ("incomplete", &|lacked| StatementDelta { heartbeat: None, ..lacked }),
        ("policy_forgotten", &|lacked| StatementDelta { policies: Vec::new(), ..lacked }),
        // What is written in place of what is held is judged as well.
        ("unreadable", &|lacked| StatementDelta { state: Some(Part::Written(b"{}".as_slice().into())), ..lacked }),
    ];
    for (code, change) in changes {
        only_a_heartbeat(&mut world);
        let next = world.set();
        let told = delta("\"0\"", "\"x\"", &change(StatementDelta::between(&has, &next)));
        let (outcome, requests) = pair.poll([told]).await;
        let Err(SyncError::Rejected(rejection)) = outcome else { panic!("{code}: {outcome:?}") };
        assert_eq!((rejection.code(), pair.rejection().as_deref()), (code, Some(code)));
        assert_eq!(requests, [asked(Some("\"0\""), true)]);
        assert_eq!(pair.in_force(), has, "{code}: nothing of it is used");

        let (outcome, requests) = pair.poll([whole("\"0\"", &next)]).await;
        assert!(outcome.unwrap());
        assert_eq!(requests, [asked(Some("\"0\""), false)], "{code}");
        assert_eq!((pair.in_force(), pair.rejection()), (next.clone(), None), "{code}");
        has = next;
    }
    // A whole set that is not believed says nothing of deltas.
    assert!(pair.poll([whole("\"x\"", &old)]).await.0.is_err());
    assert_eq!(pair.poll([]).await.1, [asked(Some("\"0\""), true)]);
}

#[actix_web::test]
async fn a_delta_is_asked_for_only_to_what_is_held_in_the_very_bytes_that_were_served() {
    let mut world = World::new();
    let mut pair = Pair::start(&world);
    let first = world.set();
    assert!(pair.poll([whole("\"1\"", &first)]).await.0.unwrap());

    // After a start nothing is known of tags. What is served says the same as what was kept, in other bytes.
    pair.start_again(&world);
    let mut other = first.clone();
    other.heartbeat.as_mut().unwrap().0.push(b'\n');
    let (outcome, requests) = pair.poll([whole("\"1\"", &other)]).await;
    assert!(!outcome.unwrap(), "it says nothing new");
    assert_eq!(requests, [asked(None, false)]);
    assert_eq!(pair.poll([]).await.1, [asked(Some("\"1\""), false)]);
    world.tick();
    let second = world.set();
    assert!(pair.poll([whole("\"2\"", &second)]).await.0.unwrap());
    assert_eq!(pair.poll([]).await.1, [asked(Some("\"2\""), true)]);

    // In the same bytes it is a base.
    pair.start_again(&world);
    assert!(!pair.poll([whole("\"2\"", &second)]).await.0.unwrap());
    assert_eq!(pair.poll([]).await.1, [asked(Some("\"2\""), true)]);

    // A set that was carried here has no tag.
    world.tick();
    let third = world.set();
    assert!(pair.sync.take(Served { etag: None, set: third.clone(), is_completed: false }).unwrap());
    assert_eq!(pair.poll([]).await.1, [asked(None, false)]);
    assert_eq!(pair.in_force(), third);
}
