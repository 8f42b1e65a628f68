use futures::future::join_all;
use schema::{
    clock::{ManualClock, SystemIds},
    event::{Envelope as Event, RECORD_VERSION, Record, StreamId},
    id::EventId,
    wire::{
        agent::StatementSet,
        delta::{Part, StatementDelta},
    },
};
use sea_orm::ConnectionTrait as _;

use super::*;
use crate::{
    access::permit::testing::AllBut,
    bundles::reactor::StatementReactor,
    database::{Database, Location},
    eventing::{
        reactor::Reactor as _,
        sql::SqlStore,
        store::{Cursor, Stored},
        view::{Kinds, Projector, Views},
    },
    sealing::{Keyring, SealingKey},
};

struct Fixture {
    statements: Statements,
    reactor: StatementReactor,
    projector: Projector,
    keyring: Arc<Keyring>,
    database: Database,
    _folder: tempfile::TempDir,
}

const TENANT: TenantId = TenantId::from_bits(7);
const SITE: SiteId = SiteId::from_bits(1);

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&Location::Sqlite(folder.path().join("test.db"))).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp::from_micros(1_767_225_600_000_000)));
        let ids: Arc<dyn Ids> = Arc::new(SystemIds);
        let key = SealingKey::from_bytes([3; 32]);
        let keyring = Arc::new(Keyring::open(database.clone(), &key, Arc::clone(&clock), Arc::clone(&ids)).await.unwrap());
        let store = Arc::new(SqlStore::open(database.clone(), Arc::clone(&keyring)).await.unwrap());
        let handler = Handler::new(store.clone(), Arc::clone(&keyring), Arc::new(AllBut("")), Arc::clone(&clock), Arc::clone(&ids));
        let (views, projector) = Views::open(database.clone(), Arc::clone(&keyring), store.clone(), Kinds::new());
        let secrets = Secrets::new(database.clone(), Arc::clone(&keyring), Arc::clone(&clock));
        let heartbeats = Heartbeats::new(database.clone());
        let facts = FactsReader::new(views.clone(), store.clone());
        let statements = Statements::new(handler, facts, secrets, heartbeats, clock, ids);
        let reactor = StatementReactor::new(statements.clone(), views, store);
        Self { statements, reactor, projector, keyring, database, _folder: folder }
    }

    async fn policy_serial(&self, tenant: TenantId) -> u64 {
        let stream = self.statements.stream(tenant, StatementKind::Policy, &scope_text(tenant, Scope::Tenant)).await;
        stream.unwrap().serial
    }

    /// What a site's heartbeat is, as if it had been signed. Of members that are no list nobody can put a set together.
    async fn heartbeat(&self, serial: u64, members: &str) {
        let sql = format!(
            "INSERT INTO heartbeats (tenant, site, epoch, serial, issued, envelope, members) VALUES ('{TENANT}', '{SITE}', 1, {serial}, 1, x'07', '{members}') \
             ON CONFLICT (tenant, site) DO UPDATE SET serial = excluded.serial, members = excluded.members"
        );
        self.database.write().execute_unprepared(&sql).await.unwrap();
    }
}

#[tokio::test]
async fn a_set_is_put_together_once_for_all_who_wait() {
    let fixture = Fixture::new().await;
    fixture.heartbeat(1, "[]").await;
    let tag = Current::tag(SITE, 1, 1);
    let ask = |known: Option<&str>, patience: u64| {
        let mut waiter = fixture.statements.waiter(TENANT, SITE, known);
        async move { waiter.newer(Duration::from_secs(patience)).await.unwrap() }
    };
    let first = join_all((0..300).map(|_| ask(None, 0))).await;
    let one = first[0].clone().unwrap();
    assert_eq!(one.etag, Current::tag(SITE, 1, 1));
    // The same bytes, not only equal ones.
    assert!(first.iter().all(|set| set.as_ref().is_some_and(|set| set.body.as_ptr() == one.body.as_ptr())));

    // Who comes later gets it without anybody reading it again.
    fixture.heartbeat(1, "unreadable").await;
    assert_eq!(ask(None, 0).await.unwrap().body.as_ptr(), one.body.as_ptr());
    assert_eq!(ask(Some(&tag), 0).await, None);

    // All who wait are woken and get the next one, which again is one.
    let waiting = join_all((0..300).map(|_| ask(Some(&tag), 30)));
    let publish = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fixture.heartbeat(2, "[]").await;
        fixture.statements.wake(TENANT, SITE);
    };
    let (second, ()) = tokio::join!(waiting, publish);
    let two = second[0].clone().unwrap();
    assert_eq!(two.etag, Current::tag(SITE, 1, 2));
    assert!(second.iter().all(|set| set.as_ref().is_some_and(|set| set.body.as_ptr() == two.body.as_ptr())));
}

/// A member of this kind, pinned since then; its envelope is kept.
fn pinned(statements: &Statements, kind: Kind, scope: Scope, since: u64) -> Member {
    let bytes = format!("{kind} {scope:?} {since}").into_bytes();
    let envelope = Digest::of(&bytes);
    statements.keep_envelope(envelope, bytes.into());
    let moment = Timestamp::default();
    Member { kind, scope, epoch: 1, serial: since, sha256: envelope, envelope, issued: moment, expires: moment, since }
}

fn written(part: &Part) -> bool {
    matches!(part, Part::Written(_))
}

#[tokio::test]
async fn who_has_an_earlier_set_gets_what_was_pinned_since() {
    let fixture = Fixture::new().await;
    let project = |number| Scope::Project(schema::id::ProjectId::from_bits(number));
    let members = [
        (Kind::Root, Scope::Tenant, 1),
        (Kind::Root, Scope::Tenant, 20),
        (Kind::Policy, Scope::Tenant, 5),
        (Kind::Policy, project(1), 30),
        (Kind::Policy, project(2), 45),
        (Kind::State, Scope::Site(SITE), 40),
    ];
    let statements = fixture.statements.clone();
    let members = members.map(|(kind, scope, since)| pinned(&statements, kind, scope, since));
    fixture.heartbeat(50, &serde_json::to_string(&members).unwrap()).await;
    let ask = async |tag: String| {
        let mut waiter = statements.waiter(TENANT, SITE, Some(&tag)).taking_deltas(true);
        waiter.newer(Duration::ZERO).await.unwrap().unwrap()
    };
    let tag = |serial| Current::tag(SITE, 1, serial);
    let whole = statements.set(TENANT, SITE).await.unwrap().unwrap();
    let set: StatementSet = serde_json::from_slice(&whole.body).unwrap();
    assert_eq!((whole.base.as_ref(), set.envelopes().count()), (None, 7));

    // Nobody ever asked for those sets here: another replica may have served them, or this one before it was started again.
    let count = |delta: &StatementDelta| delta.roots.iter().chain(&delta.policies).chain(&delta.state).filter(|part| written(part)).count();
    for (serial, lacks) in [(49, 0), (45, 0), (44, 1), (40, 1), (39, 2), (30, 2)] {
        let served = ask(tag(serial)).await;
        assert_eq!((served.etag.as_str(), served.base), (whole.etag.as_str(), Some(tag(serial))));
        let delta: StatementDelta = serde_json::from_slice(&served.body).unwrap();
        assert_eq!(count(&delta), lacks, "of who has {serial}");
        assert!(delta.heartbeat.as_ref().is_some_and(written));
        assert_eq!(delta.complete(&set).unwrap(), set);
    }
    // Who lacks the same gets the same bytes.
    assert_eq!(ask(tag(49)).await.body.as_ptr(), ask(tag(46)).await.body.as_ptr());
    assert_ne!(ask(tag(49)).await.body, ask(tag(44)).await.body);

    // Of so many different deltas to one set there are few: one more is made, and then the whole set is sent.
    assert!(ask(tag(29)).await.base.is_some());
    assert_eq!(ask(tag(7)).await, whole);
    assert_eq!(ask(tag(48)).await.base, Some(tag(48)));
    let kept = statements.0.serving.weight(TENANT, SITE).unwrap();
    assert!(kept > whole.body.len() && kept < 16_384, "{kept}");
}

#[tokio::test]
async fn what_is_no_tag_of_an_earlier_set_of_this_site_gets_the_whole_set() {
    let fixture = Fixture::new().await;
    let statements = fixture.statements.clone();
    let members = [(Kind::Root, Scope::Tenant), (Kind::State, Scope::Site(SITE))].map(|(kind, scope)| pinned(&statements, kind, scope, 3));
    fixture.heartbeat(50, &serde_json::to_string(&members).unwrap()).await;
    let known = Current::tag(SITE, 1, 49);
    let bare = known.trim_matches('"').to_owned();
    let numbers = |numbers: &str| format!("\"{SITE}.{numbers}\"");
    let tags = [
        // Another site, another epoch, a later set, and one before anything of this one.
        Current::tag(SiteId::from_bits(2), 1, 49),
        Current::tag(SITE, 2, 49),
        Current::tag(SITE, 0, 49),
        Current::tag(SITE, 1, 51),
        Current::tag(SITE, 1, u64::MAX),
        Current::tag(SITE, 1, 2),
        // Other ways to write it, and what is none.
        bare.clone(),
        format!("W/{known}"),
        format!("{known}, {known}"),
        format!(" {known}"),
        format!("\"{bare}"),
        numbers("1.049"),
        numbers("1.+49"),
        numbers("01.49"),
        numbers("1.-1"),
        numbers("1."),
        numbers("1.99999999999999999999"),
        "\"\"".to_owned(),
        "*".to_owned(),
        String::new(),
    ];
    let ask = async |tag: &str, takes_deltas| {
        let mut waiter = statements.waiter(TENANT, SITE, Some(tag)).taking_deltas(takes_deltas);
        waiter.newer(Duration::ZERO).await.unwrap().unwrap()
    };
    let whole = statements.set(TENANT, SITE).await.unwrap().unwrap();
    for tag in tags {
        assert_eq!(ask(&tag, true).await, whole, "{tag}");
    }
    assert_eq!(ask(&known, false).await, whole, "who does not take deltas");
    assert_eq!(ask(&known, true).await.base, Some(known));
}

#[tokio::test]
async fn what_fails_fails_for_all_who_asked_and_is_tried_again_for_the_next() {
    let fixture = Fixture::new().await;
    fixture.heartbeat(1, "unreadable").await;
    let outcomes = join_all((0..50).map(|_| fixture.statements.set(TENANT, SITE))).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(StatementsError::Shared(_)))));
    fixture.heartbeat(1, "[]").await;
    assert!(fixture.statements.set(TENANT, SITE).await.unwrap().is_some());
}

#[tokio::test]
async fn who_asks_for_the_same_tenant_at_once_has_it_compiled_once() {
    let fixture = Fixture::new().await;
    let done = join_all((0..100).map(|_| fixture.statements.bring_up_to_date(TENANT))).await;
    assert!(done.iter().all(Result::is_ok));
    let compiled = fixture.statements.compilations();
    assert!((1..=2).contains(&compiled), "compiled {compiled} times");
    // Whoever asks later may know of something newer.
    fixture.statements.bring_up_to_date(TENANT).await.unwrap();
    assert_eq!(fixture.statements.compilations(), compiled + 1);
}

#[tokio::test]
async fn of_many_tenants_only_what_was_published_last_for_some_stays_in_memory() {
    let fixture = Fixture::new().await;
    let tenant = TenantId::from_bits;
    let one = {
        fixture.statements.bring_up_to_date(tenant(1)).await.unwrap();
        let place = fixture.statements.shelf(tenant(1));
        let shelf = place.lock().await;
        shelf.as_ref().unwrap().weight()
    };
    *locked(&fixture.statements.0.shelves) = Bounded::new(3 * one);
    let mut pins = Vec::new();
    for number in 1..=8 {
        fixture.statements.bring_up_to_date(tenant(number)).await.unwrap();
        pins.push(fixture.statements.root(tenant(number)).await.unwrap());
    }
    let kept = (1..=8).filter(|number| fixture.statements.0.published.in_use(&tenant(*number)).is_some()).collect::<Vec<_>>();
    assert_eq!(kept, [6, 7, 8]);
    // What was forgotten is read again, and nothing is published anew for it.
    for (number, pin) in (1..=8).zip(pins) {
        fixture.statements.bring_up_to_date(tenant(number)).await.unwrap();
        assert_eq!(fixture.statements.root(tenant(number)).await.unwrap(), pin);
        assert_eq!(fixture.policy_serial(tenant(number)).await, 1);
    }
}

/// Something happened at a tenant after which its statements may differ.
fn trigger(tenant: TenantId, place: u64) -> Stored {
    let record = Record::write(Event {
        v: RECORD_VERSION,
        id: EventId::from_bits(u128::from(place)),
        tenant,
        stream: StreamId::of(tenant),
        revision: 1,
        event_type: "TenantCreated".to_owned(),
        schema: 1,
        time: Timestamp::default(),
        actor: "tests".to_owned(),
        on_behalf_of: None,
        via: None,
        idempotency_key: None,
        request_mac: None,
        correlation: "req_00000000000000000000000001".to_owned(),
        causation: None,
        data: serde_json::json!({}),
    });
    Stored { record: record.unwrap(), cursor: Cursor::at(place) }
}

#[tokio::test]
async fn a_tenant_whose_statements_are_damaged_keeps_no_other_waiting() {
    let mut fixture = Fixture::new().await;
    let (broken, sound) = (TenantId::from_bits(1), TenantId::from_bits(2));
    fixture.statements.bring_up_to_date(broken).await.unwrap();
    assert_eq!(fixture.statements.trouble().text(), None);
    // What was published is gone, and nothing of it is in memory.
    fixture.database.write().execute_unprepared("DELETE FROM blobs").await.unwrap();
    *locked(&fixture.statements.0.envelopes) = Bounded::new(0);
    *locked(&fixture.statements.0.shelves) = Bounded::new(0);

    fixture.projector.catch_up().await.unwrap();
    fixture.reactor.react(&[trigger(broken, 1), trigger(sound, 2)]).await.unwrap();
    assert_eq!(fixture.policy_serial(sound).await, 1);
    let told = fixture.statements.trouble().text().unwrap();
    assert!(told.contains(&broken.to_string()) && told.contains("1 tenants") && told.contains("missing"), "{told}");
    assert!(fixture.statements.trouble().due().is_empty(), "not at once, but as time passes");

    // Tried again it fails again, and the round goes on; once the tenant is erased, there is nothing left to try.
    fixture.statements.trouble().hurry();
    fixture.reactor.tick().await.unwrap();
    assert!(fixture.statements.trouble().text().is_some());
    fixture.keyring.erase(broken).await.unwrap();
    fixture.statements.trouble().hurry();
    fixture.reactor.tick().await.unwrap();
    assert_eq!(fixture.statements.trouble().text(), None);
}

#[tokio::test]
async fn what_agents_would_not_read_is_not_published_and_what_is_in_force_goes_on() {
    let fixture = Fixture::new().await;
    let statements = &fixture.statements;
    statements.bring_up_to_date(TENANT).await.unwrap();
    let place = statements.shelf(TENANT);
    let shelf = place.lock().await.clone().unwrap();
    let last = &shelf.policies[&Scope::Tenant];
    let signers = statements.signers_under(TENANT, &shelf.authority).await.unwrap();
    let root = (shelf.epoch(), shelf.newest_root(), &*signers);
    let mut large = last.0.blank();
    large.cedar.insert("large".to_owned(), "x".repeat(Kind::Policy.max_bytes() * 3 / 4));

    let (mut held_back, now) = (Vec::new(), statements.now());
    let published = statements.publish_or_renew(TENANT, Scope::Tenant, large.clone(), Some(last), root, now, &mut held_back).await;
    assert!(published.unwrap().is_none());
    assert!(matches!(held_back[..], [StatementsError::Oversized { kind: Kind::Policy, .. }]), "{held_back:?}");
    assert_eq!(fixture.policy_serial(TENANT).await, 1);
    statements.tell(TENANT, &Ok(held_back));
    assert!(statements.trouble().text().unwrap().contains("agents take"));
    assert!(statements.trouble().due().is_empty(), "trying again makes it no smaller");

    // When its end comes near, what is in force is signed once more.
    let (mut held_back, later) = (Vec::new(), last.1.expires);
    let renewed = statements.publish_or_renew(TENANT, Scope::Tenant, large, Some(last), root, later, &mut held_back).await;
    let (policy, member) = renewed.unwrap().unwrap();
    assert_eq!((policy.blank(), member.serial), (last.0.blank(), 2));
    assert_eq!(held_back.len(), 1);
}
