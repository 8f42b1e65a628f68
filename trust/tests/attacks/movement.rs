//! Material on its way between agents: what a relay, a stolen control plane or a rostered agent gone bad may try.

use schema::{
    clock::ManualIds,
    id::{PrekeyId, VaultId},
    key::Origin,
};
use trust::{
    accept::Identity,
    document::{Prekey, Transfer, TransferHead},
    movement::{MovementRefusal, OwnPrekey, accept_prekey, accept_transfer, lacking, may_send, movable, recipients, seal_transfer},
    seal::{self, PrekeySecret},
};

use super::super::*;

const MATERIAL: &[u8] = b"the secret of version one, 32 b.";
const PREKEY: PrekeyId = PrekeyId::from_bits(1);

/// A site of two: the agent made the key, the other one lacks it.
struct Two {
    world: World,
    sender: AcceptedSet,
    recipient: AcceptedSet,
    own: Vec<OwnPrekey>,
    prekey: Prekey,
    ids: ManualIds,
}

fn vouched() -> World {
    let mut world = World::new();
    world.join(vec![Vouch::Agent { agent: AGENT, vouch: document::sign(&world.vouch(), &world.agent) }]);
    world
}

/// The other agent's view of the same statements.
fn seen_by_other(world: &World) -> AcceptedSet {
    let founder = Some(world.agent.keyid());
    let identity = Identity { agent: OTHER_AGENT, keyid: world.other_agent.keyid(), founder, ..world.identity() };
    accept(None, &world.set(), &identity, &Confirmed::default(), world.now()).unwrap()
}

impl Two {
    fn new() -> Self {
        Self::of(vouched())
    }

    fn of(world: World) -> Self {
        let ids = ManualIds::seeded(7);
        let secret = PrekeySecret::generate(&ids).unwrap();
        let not_after = START.plus(Duration::from_secs(3600));
        let public_key = secret.public_key().into();
        let prekey =
            Prekey { tenant: world.identity().tenant, site: SITE, agent: OTHER_AGENT, id: PREKEY, public_key, not_after, issued: START };
        let own = vec![OwnPrekey { id: PREKEY, not_after, secret }];
        let (sender, recipient) = (honest(&world), seen_by_other(&world));
        Self { world, sender, recipient, own, prekey, ids }
    }

    fn signed_prekey(&self) -> Base64 {
        document::sign(&self.prekey, &self.world.other_agent)
    }

    /// What the sender makes of this material for version 1.
    fn sent(&self, material: &[u8]) -> Vec<u8> {
        let movable = may_send(&self.sender, version(1), &self.prekey, START).unwrap();
        seal_transfer(&self.sender, (version(1), movable), &self.prekey, material, (&self.world.agent, &self.ids, START)).unwrap()
    }

    fn head(&self) -> TransferHead {
        let movable = movable(&self.sender, version(1)).unwrap();
        TransferHead {
            tenant: self.world.identity().tenant,
            site: SITE,
            recipient_site: None,
            version: version(1),
            algorithm: movable.algorithm,
            origin: movable.origin,
            fingerprint: movable.fingerprint,
            sender: AGENT,
            recipient: OTHER_AGENT,
            prekey: PREKEY,
            issued: START,
        }
    }

    /// A transfer with this head, rightly sealed and signed by this pair.
    fn forged(&self, head: TransferHead, pair: &Pair) -> Vec<u8> {
        let (encapsulated, ciphertext) = seal::seal(&head, self.prekey.public_key.as_slice(), MATERIAL, &self.ids).unwrap();
        let transfer = Transfer { head, encapsulated: encapsulated.into(), ciphertext: ciphertext.into() };
        document::sign(&transfer, pair).0
    }

    #[track_caller]
    fn not_taken(&self, bytes: &[u8], code: &str) {
        refused(accept_transfer(&self.recipient, bytes, &self.own, START), code);
    }
}

#[track_caller]
fn refused<T>(result: Result<T, MovementRefusal>, code: &str) {
    match result {
        Ok(_) => panic!("it was allowed; expected {code}"),
        Err(refusal) => assert_eq!(refusal.code(), code, "{refusal:?}"),
    }
}

#[test]
fn what_one_agent_sends_the_other_takes() {
    let two = Two::new();
    assert_eq!(recipients(&two.sender), [OTHER_AGENT]);
    assert_eq!((lacking(&two.sender, OTHER_AGENT), lacking(&two.sender, AGENT)), (vec![version(1)], vec![]));
    assert_eq!(accept_prekey(&two.sender, two.signed_prekey().as_slice(), START).unwrap(), two.prekey);
    let received = accept_transfer(&two.recipient, &two.sent(MATERIAL), &two.own, START).unwrap();
    assert_eq!(*received.material, MATERIAL);
    received.check(fingerprint(1)).unwrap();
}

#[test]
fn an_agent_that_the_control_plane_added_is_sent_nothing() {
    // In the roster, with a genuine entry, and nobody of the site has vouched for it.
    let mut world = World::new();
    world.join(vec![Vouch::Enrolment]);
    let set = honest(&world);
    assert_eq!(set.waiting_agents().len(), 1);
    assert!(recipients(&set).is_empty());
    let two = Two::new();
    refused(accept_prekey(&set, two.signed_prekey().as_slice(), START), "transfer_agent_not_believed");
    refused(may_send(&set, version(1), &two.prekey, START), "transfer_agent_not_believed");
    // With a vouch that it signed itself it is no more believed.
    world.join(vec![Vouch::Agent { agent: AGENT, vouch: document::sign(&world.vouch(), &world.other_agent) }]);
    refused(may_send(&honest(&world), version(1), &two.prekey, START), "transfer_agent_not_believed");
}

#[test]
fn a_recipient_that_the_relay_substituted() {
    let two = Two::new();
    let attacker = pair(900);
    let secret = PrekeySecret::generate(&two.ids).unwrap();
    let theirs = Prekey { public_key: secret.public_key().into(), ..two.prekey.clone() };
    // Its own key as the recipient's prekey: not signed by the recipient.
    refused(accept_prekey(&two.sender, document::sign(&theirs, &attacker).as_slice(), START), "transfer_not_genuine");
    let mut envelope = Envelope::parse(two.signed_prekey().as_slice(), 1 << 20).unwrap();
    envelope.payload = serde_json::to_vec(&theirs).unwrap();
    refused(accept_prekey(&two.sender, &envelope.to_bytes(), START), "transfer_not_genuine");
    // The sender's own prekey, sent back to it.
    let own = Prekey { agent: AGENT, ..two.prekey.clone() };
    refused(accept_prekey(&two.sender, document::sign(&own, &two.world.agent).as_slice(), START), "transfer_to_itself");
    // Another document of the recipient in the prekey's place.
    let other = document::sign(&HolderReport { holder: OTHER_AGENT, ..two.world.report(1, fingerprint(1)) }, &two.world.other_agent);
    refused(accept_prekey(&two.sender, other.as_slice(), START), "transfer_not_genuine");
    // What was sent to one agent is for no other.
    let stray = two.forged(TransferHead { recipient: AgentId::from_bits(77), ..two.head() }, &two.world.agent);
    two.not_taken(&stray, "transfer_for_another_agent");
}

#[test]
fn material_that_was_substituted() {
    let two = Two::new();
    // By the relay: whatever it changes, the signature is about something else.
    let sent = two.sent(MATERIAL);
    let envelope = Envelope::parse(&sent, 1 << 20).unwrap();
    let mut transfer: Transfer = serde_json::from_slice(&envelope.payload).unwrap();
    transfer.ciphertext.0[0] ^= 1;
    let changed = Envelope { payload: serde_json::to_vec(&transfer).unwrap(), ..envelope.clone() };
    two.not_taken(&changed.to_bytes(), "transfer_not_genuine");
    two.not_taken(&sent[..sent.len() / 2], "transfer_not_genuine");
    two.not_taken(&document::sign(&transfer, &pair(900)).0, "transfer_not_genuine");
    // By a rostered agent: said openly, or under the right name, which the material itself then betrays.
    let other = TransferHead { fingerprint: fingerprint(2), ..two.head() };
    two.not_taken(&two.forged(other, &two.world.agent), "transfer_of_other_material");
    let received = accept_transfer(&two.recipient, &two.sent(b"of another version, same length"), &two.own, START).unwrap();
    refused(received.check(fingerprint(9)), "transfer_of_other_material");
    // Its ciphertext under another head.
    let genuine: Transfer = serde_json::from_slice(&envelope.payload).unwrap();
    let moved = Transfer { head: TransferHead { issued: START.plus(Duration::from_secs(1)), ..genuine.head }, ..genuine };
    two.not_taken(&document::sign(&moved, &two.world.agent).0, "transfer_does_not_open");
    // As another kind of key, which would be used otherwise.
    for head in
        [TransferHead { algorithm: "HMAC-SHA-256".parse().unwrap(), ..two.head() }, TransferHead { origin: Origin::Imported, ..two.head() }]
    {
        two.not_taken(&two.forged(head, &two.world.agent), "transfer_of_another_kind");
    }
    for unheard in [KeyVersion::new(KEY, 2), KeyVersion::new(KeyId::from_bits(5000), 1)] {
        two.not_taken(&two.forged(TransferHead { version: unheard, ..two.head() }, &two.world.agent), "transfer_version_not_made");
    }
}

#[test]
fn a_transfer_of_another_site_or_tenant() {
    let two = Two::new();
    let tenant = TransferHead { tenant: TenantId::from_bits(99), ..two.head() };
    let site = TransferHead { site: SiteId::from_bits(99), ..two.head() };
    for head in [tenant, site] {
        two.not_taken(&two.forged(head, &two.world.agent), "transfer_of_another_site");
    }
    let tenant = Prekey { tenant: TenantId::from_bits(99), ..two.prekey.clone() };
    let site = Prekey { site: SiteId::from_bits(99), ..two.prekey.clone() };
    for prekey in [tenant, site] {
        let bytes = document::sign(&prekey, &two.world.other_agent);
        refused(accept_prekey(&two.sender, bytes.as_slice(), START), "transfer_of_another_site");
    }
}

#[test]
fn a_transfer_replayed_after_its_prekey_was_erased_or_ended_or_the_version_destroyed() {
    let mut two = Two::new();
    let sent = two.sent(MATERIAL);
    let late = two.prekey.not_after.plus(Duration::from_secs(1));
    refused(accept_transfer(&two.recipient, &sent, &two.own, late), "prekey_ended");
    refused(accept_prekey(&two.sender, two.signed_prekey().as_slice(), late), "prekey_ended");
    refused(may_send(&two.sender, version(1), &two.prekey, late), "prekey_ended");
    // A new prekey that goes by the erased one's name opens nothing that was sealed to that.
    let secret = PrekeySecret::generate(&two.ids).unwrap();
    two.own = vec![OwnPrekey { id: PREKEY, not_after: two.prekey.not_after, secret }];
    two.not_taken(&sent, "transfer_does_not_open");
    two.own.clear();
    two.not_taken(&sent, "prekey_unknown");

    let mut world = vouched();
    world.project_policy().destructions.push(version(1));
    world.key().versions.get_mut(&1).unwrap().state = VersionState::Destroyed;
    let after = Two::of(world);
    after.not_taken(&sent, "transfer_version_does_not_move");
    refused(may_send(&after.sender, version(1), &after.prekey, START), "transfer_version_does_not_move");
    assert!(lacking(&after.sender, OTHER_AGENT).is_empty());
}

#[test]
fn agents_that_are_suspended_or_revoked_neither_send_nor_receive() {
    let sent = Two::new().sent(MATERIAL);
    let restrict: [fn(&mut World, AgentId); 2] = [
        |world, agent| world.state.suspensions.push(Subject::Agent(agent)),
        |world, agent| {
            let reason = RevocationReason::KeyCompromise;
            world.state.revocations.push(Revocation { subject: Subject::Agent(agent), reason, at: START });
        },
    ];
    for restrict in restrict {
        let mut world = vouched();
        restrict(&mut world, OTHER_AGENT);
        let two = Two::of(world);
        assert!(recipients(&two.sender).is_empty());
        refused(may_send(&two.sender, version(1), &two.prekey, START), "transfer_agent_held_back");
        refused(accept_prekey(&two.sender, two.signed_prekey().as_slice(), START), "transfer_agent_held_back");
        let mut world = vouched();
        restrict(&mut world, AGENT);
        Two::of(world).not_taken(&sent, "transfer_agent_held_back");
    }
}

#[test]
fn versions_that_are_suspended_do_not_move_and_those_that_arrived_are_not_sent_again() {
    let mut world = vouched();
    world.state.suspensions.push(Subject::Version(version(1)));
    let two = Two::of(world);
    refused(may_send(&two.sender, version(1), &two.prekey, START), "transfer_version_does_not_move");
    let mut world = vouched();
    let ready = HolderReport { holder: OTHER_AGENT, ..world.report(1, fingerprint(1)) };
    let report = document::sign(&ready, &world.other_agent);
    world.key().versions.get_mut(&1).unwrap().ready.insert(OTHER_AGENT, report);
    let two = Two::of(world);
    refused(may_send(&two.sender, version(1), &two.prekey, START), "transfer_already_there");
    assert!(lacking(&two.sender, OTHER_AGENT).is_empty());
}

#[test]
fn two_agents_on_one_vault_are_one_home() {
    let two_holders = |vault: u128| {
        let mut world = vouched();
        world.project_policy().keys.get_mut(&KEY).unwrap().durability = Durability::TwoHolders;
        let ready = HolderReport { holder: OTHER_AGENT, vault: VaultId::from_bits(vault), ..world.report(1, fingerprint(1)) };
        let report = document::sign(&ready, &world.other_agent);
        world.key().versions.get_mut(&1).unwrap().ready.insert(OTHER_AGENT, report);
        world
    };
    honest(&two_holders(2));
    refused_anew(&two_holders(1), "not_ready");
}
