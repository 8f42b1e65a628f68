//! The key that hides encryption contexts: all agents of a site come to the same one, and name what they use.

use schema::context::EncryptionContext;

use super::*;
use crate::control::contexts::Hidden;

fn context() -> EncryptionContext {
    let pairs = [("order", "4711"), ("tenant", "acme")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    EncryptionContext::new(pairs.into()).unwrap()
}

impl Party {
    pub(super) async fn open_contexts(&mut self) {
        let directory = ControlDirectory::open(self.folder.path()).unwrap();
        let contexts = ContextKeys::open(&directory, Some(&self.identity), self.vault.clone()).await.unwrap();
        contexts.tend(&SystemIds, self.wall.now()).await.unwrap();
        self.contexts = Some(Arc::new(contexts));
    }

    fn hidden(&self) -> Hidden {
        self.contexts.as_ref().unwrap().hide(&context(), self.wall.now())
    }
}

impl Two {
    /// Two agents that have nothing to send each other but context keys; the second begins a minute later.
    async fn with_contexts() -> Self {
        let mut two = Self::new().await;
        two.reported();
        two.begin(true).await;
        two.b.wall.advance(Duration::from_secs(60));
        two.begin(false).await;
        two.a.wall.advance(Duration::from_secs(60));
        two
    }

    async fn begin(&mut self, first: bool) {
        let party = if first { &mut self.a } else { &mut self.b };
        party.open_contexts().await;
        party.restart().await;
    }

    /// Until neither has anything to do.
    async fn settle(&mut self) {
        for _ in 0..10 {
            let outcomes = (self.a().await, self.b().await);
            if outcomes == (Outcome::default(), Outcome::default()) {
                return;
            }
        }
        panic!("they do not come to an end");
    }

    fn same(&self) -> bool {
        self.a.hidden() == self.b.hidden()
    }

    fn months_pass(&mut self, days: u64) {
        let passed = Duration::from_secs(days * 86_400);
        for wall in [&self.a.wall, &self.b.wall] {
            wall.advance(passed);
        }
        // Nobody sends anything by statements that are too old.
        for head in [&mut self.world.state.head, &mut self.world.heartbeat.head] {
            head.serial += 1;
            for time in [&mut head.issued, &mut head.not_before, &mut head.expires] {
                *time = time.plus(passed);
            }
        }
    }
}

#[tokio::test]
async fn agents_with_vaults_of_their_own_come_to_the_key_that_was_made_first() {
    let mut two = Two::with_contexts().await;
    let (first, own) = (two.a.hidden(), two.b.hidden());
    assert_ne!(first.values, own.values);
    assert_ne!(first.key, own.key, "until then each says which key it used");
    assert_eq!(first.values.keys().collect::<Vec<_>>(), ["order", "tenant"]);
    two.settle().await;
    assert_eq!((two.a.hidden(), two.b.hidden()), (first.clone(), first.clone()));
    assert!(!two.a.prekeys_file().exists() && !two.b.prekeys_file().exists(), "nothing is waited for any more");
    assert!(two.relay.with(|carried| carried.contexts.values().all(Vec::is_empty)));
    // It lasts, and the file does not tell it.
    two.a.restart().await;
    two.b.restart().await;
    assert_eq!((two.a.hidden(), two.b.hidden()), (first.clone(), first));
    assert_eq!((two.a().await, two.b().await), (Outcome::default(), Outcome::default()));
    let hidden = two.a.contexts.as_ref().unwrap().hide(&EncryptionContext::default(), two.a.wall.now());
    assert_eq!(hidden, Hidden::default(), "what is empty names no key");
}

#[tokio::test]
async fn the_next_months_key_is_with_everybody_before_the_month_begins() {
    let mut two = Two::with_contexts().await;
    two.settle().await;
    let first = two.a.hidden();
    // Day by day over two ends of a month.
    for _ in 0..62 {
        two.months_pass(1);
        assert!(two.same(), "{:?} {:?}", two.a.hidden().key, two.b.hidden().key);
        two.settle().await;
        assert!(two.same());
    }
    let later = two.a.hidden();
    assert_ne!(first.values, later.values);
    let month = trust::document::Month::of(two.a.wall.now()).to_string();
    assert!(later.key.as_ref().unwrap().starts_with(&month), "{later:?} in {month}");
    let kept = std::fs::read_to_string(two.a.folder.path().join("control/context-keys.json")).unwrap();
    assert!(!kept.contains(&trust::document::Month::of(START).to_string()), "former keys are forgotten");
}

#[tokio::test]
async fn lost_answers_and_kills_only_delay_it_and_who_lost_its_file_comes_back_to_the_key() {
    for fails_at in 0..6 {
        for was_taken in [false, true] {
            let mut two = Two::with_contexts().await;
            for call in 0..14 {
                if call == fails_at {
                    two.relay.with(|carried| carried.failing.push(was_taken));
                }
                let b_turn = call % 2 == 0;
                let (party, agent) = if b_turn { (&mut two.b, OTHER_AGENT) } else { (&mut two.a, AGENT) };
                let set = accept(None, &two.world.set(), &party.identity, &Confirmed::default(), two.world.now()).unwrap();
                drop(party.mover.round(&set, &two.relay.of(agent)).await);
                party.restart().await;
            }
            assert!(two.same(), "call {fails_at}, taken {was_taken}");
        }
    }
    let mut two = Two::with_contexts().await;
    two.settle().await;
    let site = two.a.hidden();
    // One that lost what it had asks again, and the others look every hour whether somebody does.
    std::fs::remove_file(two.b.folder.path().join("control/context-keys.json")).unwrap();
    two.b.wall.advance(Duration::from_secs(5));
    two.b.restart().await;
    assert_ne!(two.b.hidden(), site);
    for damage in ["", "[]", "{"] {
        std::fs::write(two.b.folder.path().join("control/context-keys.json"), damage).unwrap();
        two.b.restart().await;
        assert_ne!(two.b.hidden().key, site.key);
    }
    two.b().await;
    assert_eq!(two.a().await, Outcome::default());
    assert_ne!(two.b.hidden(), site);
    for wall in [&two.a.wall, &two.b.wall] {
        wall.advance(LOOK_AGAIN_AFTER + Duration::from_secs(1));
    }
    for _ in 0..3 {
        two.b().await;
        two.a().await;
    }
    assert_eq!((two.b.hidden(), two.a.hidden()), (site.clone(), site));
}

#[tokio::test]
async fn an_agent_of_another_site_or_none_hides_otherwise() {
    let two = Two::with_contexts().await;
    let folder = tempfile::tempdir().unwrap();
    let directory = ControlDirectory::open(folder.path()).unwrap();
    // The very same vault, and no site.
    let none = ContextKeys::open(&directory, None, two.a.vault.clone()).await.unwrap();
    none.tend(&SystemIds, START).await.unwrap();
    let hidden = none.hide(&context(), START);
    assert!(hidden.key.as_ref().unwrap().starts_with("own."), "{hidden:?}");
    assert_ne!(hidden.values, two.a.hidden().values);
    let site = Identity { site: schema::id::SiteId::from_bits(99), ..two.a.identity.clone() };
    let elsewhere = ContextKeys::open(&directory, Some(&site), two.a.vault.clone()).await.unwrap();
    elsewhere.tend(&SystemIds, START).await.unwrap();
    assert_ne!(elsewhere.hide(&context(), START).values, two.a.hidden().values);
    // Whoever moves the file to another site gets nothing out of it: what identifies a key names the site.
    drop(elsewhere);
    let moved = ContextKeys::open(&directory, Some(&two.a.identity), two.a.vault.clone()).await.unwrap();
    assert!(moved.is_due(START), "it was given up");
}
