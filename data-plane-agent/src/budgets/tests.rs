use std::{sync::Arc, time::Duration};

use schema::{
    clock::ManualClock,
    encoding::Base64,
    id::KeyVersion,
    key::Limits,
    ranges::{LimitKind, Ranges},
};
use trust::{
    accept::{AcceptedSet, accept, accept_lease},
    document::{self, LeaseRequest},
    statement::lease::{Leased, Share},
    testing::{KEY, START, World},
};

use super::{Budgets, ledger::Wish};

const VERSION: KeyVersion = KeyVersion::new(KEY, 1);

struct Agent {
    world: World,
    set: AcceptedSet,
    clock: ManualClock,
    folder: tempfile::TempDir,
    serial: u64,
}

impl Agent {
    fn new() -> Self {
        let mut world = World::new();
        world.project_policy().keys.get_mut(&KEY).unwrap().limits = limits();
        let set = accept(None, &world.set(), &world.identity(), &Default::default(), world.now()).unwrap();
        Self { world, set, clock: ManualClock::at(START), folder: tempfile::tempdir().unwrap(), serial: 0 }
    }

    /// The budgets as after a start.
    fn open(&self) -> Budgets {
        let budgets = Budgets::open(self.folder.path().join("budgets.json"), Arc::new(self.clock.clone())).unwrap();
        budgets.activate(&self.set).unwrap();
        budgets
    }

    /// Asks for more, and is given these.
    async fn lease(&mut self, budgets: &Budgets, uses: Ranges, left: u64) {
        let (identity, pair, now) = (self.world.identity(), &self.world.agent, self.world.now());
        let wishes = [(VERSION, Wish { uses: 1, ..Wish::default() })].into();
        let nonce = [self.serial as u8; 16];
        let request = budgets.request(&wishes, |ledger| ledger.request(&wishes, &identity, pair, nonce, START)).await.unwrap().unwrap();
        let sha256 = document::open::<LeaseRequest>(request.as_slice(), pair.public()).unwrap().sha256;
        self.serial += 1;
        let lease: Base64 = self.world.lease(self.serial, |lease| {
            lease.answers = Some(sha256);
            let share = Share { uses, bytes: Ranges::new() };
            lease.budgets.insert(VERSION, Leased { share, uses_left: Some(left), bytes_left: None });
        });
        budgets.take_lease(|ledger| accept_lease(&self.set, &lease, ledger.memory(), Some(now))).await.unwrap();
    }
}

fn limits() -> Limits {
    Limits { soft_uses: Some(60), hard_uses: Some(100), ..Limits::default() }
}

async fn take(budgets: &Budgets) -> Result<usize, &'static str> {
    budgets.take(VERSION, &limits(), Some(1)).await.map(|warnings| warnings.len()).map_err(|refusal| refusal.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_spent_to_its_end_by_many_at_once() {
    let mut agent = Agent::new();
    let budgets = Arc::new(agent.open());
    agent.lease(&budgets, Ranges::of(0, 100), 0).await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let budgets = budgets.clone();
            tokio::spawn(async move {
                let mut taken = (0, 0);
                for _ in 0..12 {
                    let warnings = take(&budgets).await.unwrap();
                    taken = (taken.0 + 1, taken.1 + warnings);
                }
                taken
            })
        })
        .collect();
    let mut total = (0, 0);
    for task in tasks {
        let (taken, warned) = task.await.unwrap();
        total = (total.0 + taken, total.1 + warned);
    }
    assert_eq!(total, (96, 36), "every use past the soft limit says so");
}

#[tokio::test]
async fn a_restart_burns_a_block_and_no_more() {
    let mut agent = Agent::new();
    let budgets = agent.open();
    agent.lease(&budgets, Ranges::of(0, 100), 0).await;
    take(&budgets).await.unwrap();
    drop(budgets);
    let budgets = agent.open();
    let mut taken = 1;
    let refused = loop {
        match take(&budgets).await {
            Ok(_) => taken += 1,
            Err(code) => break code,
        }
    };
    // The first block was 100 / 16 = 6 uses, of which one was used.
    assert_eq!((refused, taken), ("limit_uses_exhausted", 95));
}

#[tokio::test]
async fn nothing_is_spent_of_a_lease_that_has_ended() {
    let mut agent = Agent::new();
    let budgets = agent.open();
    assert_eq!(take(&budgets).await, Err("lease_missing"));
    agent.lease(&budgets, Ranges::of(0, 50), 50).await;
    take(&budgets).await.unwrap();
    agent.clock.advance(Duration::from_secs(7 * 86_400 + 1));
    assert_eq!(take(&budgets).await, Err("lease_expired"), "also not of what was reserved before");
    // Offline a restart changes nothing about that.
    let budgets = agent.open();
    assert_eq!(take(&budgets).await, Err("lease_expired"));
}

#[tokio::test]
async fn a_limit_that_became_lower_holds_at_once() {
    let mut agent = Agent::new();
    let budgets = agent.open();
    agent.lease(&budgets, Ranges::of(0, 100), 0).await;
    take(&budgets).await.unwrap();
    let lower = Limits { hard_uses: Some(3), ..Limits::default() };
    for _ in 0..2 {
        budgets.take(VERSION, &lower, None).await.unwrap();
    }
    let refused = budgets.take(VERSION, &lower, None).await.unwrap_err();
    assert_eq!(refused.code(), "limit_uses_exhausted");
}

#[tokio::test]
async fn a_soft_limit_alone_never_refuses() {
    let agent = Agent::new();
    let budgets = agent.open();
    let soft = Limits { soft_uses: Some(1), ..Limits::default() };
    let warnings = budgets.take(VERSION, &soft, None).await.unwrap();
    assert_eq!(warnings[0].code, "limit_not_counted");
    assert_eq!(budgets.locked().ledger.available(VERSION, LimitKind::Uses), Ranges::new());
}

#[tokio::test]
async fn bytes_are_counted_beforehand_or_not_at_all() {
    let agent = Agent::new();
    let budgets = agent.open();
    let bytes = Limits { hard_bytes: Some(10), ..Limits::default() };
    assert_eq!(budgets.take(VERSION, &bytes, None).await.unwrap_err().code(), "size_unknown");
    assert!(budgets.take(VERSION, &bytes, Some(0)).await.unwrap().is_empty());
}

#[tokio::test]
async fn looking_says_what_taking_would_and_takes_nothing() {
    let mut agent = Agent::new();
    let budgets = agent.open();
    let look = |budgets: &Budgets, limits: &Limits, size| budgets.look(VERSION, limits, size).map_err(|refusal| refusal.code());
    assert_eq!(look(&budgets, &limits(), Some(1)), Err("lease_missing"));
    agent.lease(&budgets, Ranges::of(0, 62), 38).await;
    let before = serde_json::to_value(&budgets.locked().ledger).unwrap();
    for taken in 0..62 {
        for _ in 0..3 {
            let warnings = look(&budgets, &limits(), Some(1)).unwrap();
            // The soft limit is 60: numbers count from 0.
            assert_eq!(warnings.len(), usize::from(taken >= 60), "after {taken}");
        }
        if taken == 0 {
            assert_eq!(serde_json::to_value(&budgets.locked().ledger).unwrap(), before, "nothing is reserved");
        }
        assert_eq!(take(&budgets).await, Ok(usize::from(taken >= 60)));
    }
    assert_eq!(look(&budgets, &limits(), Some(1)), Err("lease_missing"), "the control plane has more");
    agent.lease(&budgets, Ranges::of(0, 100), 0).await;
    look(&budgets, &limits(), Some(1)).unwrap();
    let lower = Limits { hard_uses: Some(50), ..Limits::default() };
    assert_eq!(look(&budgets, &lower, Some(1)), Err("limit_uses_exhausted"));
    let soft = Limits { soft_bytes: Some(5), ..Limits::default() };
    assert_eq!(look(&budgets, &soft, Some(1)).unwrap()[0].code, "limit_not_counted");
    let bytes = Limits { hard_bytes: Some(5), ..Limits::default() };
    assert_eq!((look(&budgets, &bytes, None), look(&budgets, &bytes, Some(0))), (Err("lease_missing"), Ok(Vec::new())));
    agent.clock.advance(Duration::from_secs(7 * 86_400 + 1));
    assert_eq!(look(&budgets, &limits(), Some(1)), Err("lease_expired"));
}
