//! What goes to agents of other sites: material of keys that policy places there too, and nothing else.

use trust::{
    seal::PrekeySecret,
    testing::{NEIGHBOUR, OTHER_SITE, SITE, TENANT},
};

use super::*;

/// An agent with version 1, and a neighbour that shows a prekey.
struct Beside {
    world: World,
    here: Party,
    relay: Mailbox,
}

impl Beside {
    async fn new() -> Self {
        let mut world = World::new();
        let mut here = Party::new(world.identity(), 100).await;
        here.open_contexts().await;
        here.restart().await;
        let held = here.vault.generate(VERSION, "A256KW+A256GCM".parse().unwrap()).await.unwrap();
        let (record, report) = (world.record(1, held.fingerprint), world.report(1, held.fingerprint));
        let (record, report) = (sign(&record, &world.agent), sign(&report, &world.agent));
        let entry = world.key().versions.get_mut(&1).unwrap();
        (entry.record, entry.ready) = (Some(record), [(AGENT, report)].into());
        world.adjoin(vec![world.bridged()]);
        let relay = Mailbox::default();
        let public_key = PrekeySecret::generate(&SystemIds).unwrap().public_key().into();
        let (id, not_after) = (PrekeyId::from_bits(1), START.plus(Duration::from_secs(3600)));
        let prekey = Prekey { tenant: TENANT, site: OTHER_SITE, agent: NEIGHBOUR, id, public_key, not_after, issued: START };
        relay.with(|carried| carried.prekeys.insert(NEIGHBOUR, vec![sign(&prekey, &world.neighbour)]));
        Self { world, here, relay }
    }

    async fn round(&mut self) -> Outcome {
        let set = accept(None, &self.world.set(), &self.here.identity, &Confirmed::default(), self.world.now()).unwrap();
        self.here.mover.round(&set, &self.relay.of(AGENT)).await.unwrap()
    }
}

#[tokio::test]
async fn a_neighbour_is_sent_material_of_shared_keys_and_no_context_key() {
    let mut beside = Beside::new().await;
    assert_eq!(beside.round().await.sent, 1);
    beside.relay.with(|carried| {
        assert_eq!(carried.asked, [OTHER_SITE]);
        let head = peek_document::<Transfer>(carried.transfers[&NEIGHBOUR][0].as_slice()).unwrap().head;
        assert_eq!((head.site, head.recipient_site, head.version), (SITE, Some(OTHER_SITE), VERSION));
        assert!(carried.contexts.get(&NEIGHBOUR).is_none_or(Vec::is_empty));
    });
    assert_eq!(beside.round().await.sent, 0, "it waits already");
}

#[tokio::test]
async fn a_neighbour_is_sent_nothing_of_a_key_that_is_not_placed_there_or_before_anybody_vouched() {
    let not_placed: fn(&mut World) = |world| world.project_policy().keys.get_mut(&KEY).unwrap().placement = vec![SITE];
    for change in [not_placed, |world: &mut World| world.adjoin(vec![Vouch::Enrolment])] {
        let mut beside = Beside::new().await;
        change(&mut beside.world);
        let outcome = beside.round().await;
        assert_eq!((outcome.sent, outcome.waiting), (0, false));
        assert!(beside.relay.with(|carried| carried.asked.is_empty() && carried.seen.is_empty()));
    }
}
