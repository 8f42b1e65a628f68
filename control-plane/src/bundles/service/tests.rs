use futures::future::join_all;
use schema::clock::{ManualClock, SystemIds};
use sea_orm::ConnectionTrait as _;

use super::*;
use crate::{
    access::permit::testing::AllBut,
    database::{Database, Location},
    eventing::{
        sql::SqlStore,
        view::{Kinds, Views},
    },
    sealing::{Keyring, SealingKey},
};

struct Fixture {
    statements: Statements,
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
        let (views, _) = Views::open(database.clone(), Arc::clone(&keyring), store.clone(), Kinds::new());
        let secrets = Secrets::new(database.clone(), keyring, Arc::clone(&clock));
        let heartbeats = Heartbeats::new(database.clone());
        let statements = Statements::new(handler, FactsReader::new(views, store), secrets, heartbeats, clock, ids);
        Self { statements, database, _folder: folder }
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
    let ask = |known: Option<&'static str>, patience: u64| {
        let mut waiter = fixture.statements.waiter(TENANT, SITE, known);
        async move { waiter.newer(Duration::from_secs(patience)).await.unwrap() }
    };
    let first = join_all((0..300).map(|_| ask(None, 0))).await;
    let one = first[0].clone().unwrap();
    assert_eq!(one.etag, "\"1.1\"");
    // The same bytes, not only equal ones.
    assert!(first.iter().all(|set| set.as_ref().is_some_and(|set| set.body.as_ptr() == one.body.as_ptr())));

    // Who comes later gets it without anybody reading it again.
    fixture.heartbeat(1, "unreadable").await;
    assert_eq!(ask(None, 0).await.unwrap().body.as_ptr(), one.body.as_ptr());
    assert_eq!(ask(Some("\"1.1\""), 0).await, None);

    // All who wait are woken and get the next one, which again is one.
    let waiting = join_all((0..300).map(|_| ask(Some("\"1.1\""), 30)));
    let publish = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fixture.heartbeat(2, "[]").await;
        fixture.statements.wake(TENANT, SITE);
    };
    let (second, ()) = tokio::join!(waiting, publish);
    let two = second[0].clone().unwrap();
    assert_eq!(two.etag, "\"1.2\"");
    assert!(second.iter().all(|set| set.as_ref().is_some_and(|set| set.body.as_ptr() == two.body.as_ptr())));
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
        let policy = fixture.statements.stream(tenant(number), StatementKind::Policy, &scope_text(tenant(number), Scope::Tenant)).await;
        assert_eq!(policy.unwrap().serial, 1);
    }
}
