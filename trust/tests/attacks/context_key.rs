//! The key that hides encryption contexts, on its way between agents: what a relay, a stolen control plane or another site may try.

use schema::{clock::ManualIds, id::PrekeyId};
use trust::{
    accept::Identity,
    document::{ContextKeyHead, ContextKeyTransfer, Month, Prekey},
    movement::{MovementRefusal, OwnPrekey, accept_context_key, seal_context_key},
    seal::{self, PrekeySecret},
};

use super::super::*;

const SECRET: [u8; 32] = [7; 32];
const PREKEY: PrekeyId = PrekeyId::from_bits(1);

/// Two agents of a site: one sends, the other takes.
struct Two {
    world: World,
    sender: AcceptedSet,
    recipient: AcceptedSet,
    own: Vec<OwnPrekey>,
    prekey: Prekey,
    ids: ManualIds,
}

impl Two {
    fn new() -> Self {
        Self::vouched_by(|world| Vouch::Agent { agent: AGENT, vouch: document::sign(&world.vouch(), &world.agent) })
    }

    fn vouched_by(vouch: impl FnOnce(&World) -> Vouch) -> Self {
        let mut world = World::new();
        let vouch = vouch(&world);
        world.join(vec![vouch]);
        let ids = ManualIds::seeded(7);
        let secret = PrekeySecret::generate(&ids).unwrap();
        let (not_after, public_key) = (START.plus(Duration::from_secs(3600)), secret.public_key().into());
        let prekey =
            Prekey { tenant: world.identity().tenant, site: SITE, agent: OTHER_AGENT, id: PREKEY, public_key, not_after, issued: START };
        let own = vec![OwnPrekey { id: PREKEY, not_after, secret }];
        let other =
            Identity { agent: OTHER_AGENT, keyid: world.other_agent.keyid(), founder: Some(world.agent.keyid()), ..world.identity() };
        let sender = honest(&world);
        let recipient = accept(None, &world.set(), &other, &Confirmed::default(), world.now()).unwrap();
        Self { world, sender, recipient, own, prekey, ids }
    }

    fn month() -> Month {
        Month::of(START)
    }

    fn sent(&self) -> Vec<u8> {
        let by = (&self.world.agent, &self.ids as &dyn schema::clock::Ids, START);
        seal_context_key(&self.sender, (&Self::month(), START, &SECRET), &self.prekey, by).unwrap()
    }

    fn head(&self) -> ContextKeyHead {
        let tenant = self.world.identity().tenant;
        ContextKeyHead {
            tenant,
            site: SITE,
            month: Self::month(),
            id: ContextKeyHead::identify(tenant, SITE, &Self::month(), &SECRET),
            made: START,
            sender: AGENT,
            recipient: OTHER_AGENT,
            prekey: PREKEY,
            issued: START,
        }
    }

    /// With this head, rightly sealed and signed by this pair.
    fn forged(&self, head: ContextKeyHead, secret: &[u8], pair: &Pair) -> Vec<u8> {
        let (encapsulated, ciphertext) = seal::seal(&head, self.prekey.public_key.as_slice(), secret, &self.ids).unwrap();
        document::sign(&ContextKeyTransfer { head, encapsulated: encapsulated.into(), ciphertext: ciphertext.into() }, pair).0
    }

    fn accept(&self, bytes: &[u8]) -> Result<(ContextKeyHead, Vec<u8>), MovementRefusal> {
        let accepted = accept_context_key(&self.recipient, bytes, &[Self::month()], &self.own, START);
        accepted.map(|(head, secret)| (head, secret.to_vec()))
    }

    #[track_caller]
    fn not_taken(&self, bytes: &[u8], code: &str) {
        match self.accept(bytes) {
            Ok(_) => panic!("it was taken; expected {code}"),
            Err(refusal) => assert_eq!(refusal.code(), code, "{refusal:?}"),
        }
    }
}

#[test]
fn what_one_agent_sends_the_other_takes_and_the_envelope_does_not_tell_it() {
    let two = Two::new();
    let sent = two.sent();
    assert_eq!(two.accept(&sent).unwrap(), (two.head(), SECRET.to_vec()));
    assert!(!sent.windows(SECRET.len()).any(|bytes| bytes == SECRET));
}

#[test]
fn a_key_that_the_control_plane_put_in_its_place() {
    let two = Two::new();
    // Signed by the control plane's own keys, by a pair it made, or by the recipient itself.
    for pair in [&two.world.state_pairs[0], &two.world.root_pairs[0], &pair(4_711)] {
        two.not_taken(&two.forged(two.head(), &[9; 32], pair), "transfer_not_genuine");
    }
    let to_itself = ContextKeyHead { sender: OTHER_AGENT, ..two.head() };
    two.not_taken(&two.forged(to_itself, &SECRET, &two.world.other_agent), "transfer_to_itself");
    // In the name of an agent that nobody has vouched for.
    let stranger = ContextKeyHead { sender: AgentId::from_bits(77), ..two.head() };
    two.not_taken(&two.forged(stranger, &SECRET, &pair(4_711)), "transfer_agent_not_believed");
    // Other sealed bytes in a genuine envelope, and a genuine envelope that was changed.
    let genuine: ContextKeyTransfer = dsse::peek_document(&two.sent()).unwrap();
    let head = ContextKeyHead { made: START.plus(Duration::from_secs(1)), ..genuine.head.clone() };
    let moved = document::sign(&ContextKeyTransfer { head, ..genuine }, &two.world.agent);
    two.not_taken(moved.as_slice(), "transfer_does_not_open");
    let mut bytes = two.sent();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    two.not_taken(&bytes, "transfer_not_genuine");
}

#[test]
fn an_agent_that_the_control_plane_added_neither_sends_nor_is_sent() {
    let two = Two::vouched_by(|_| Vouch::Enrolment);
    assert!(trust::movement::recipients(&two.sender).is_empty());
    let from_it = ContextKeyHead { sender: OTHER_AGENT, recipient: AGENT, ..two.head() };
    let bytes = two.forged(from_it, &SECRET, &two.world.other_agent);
    let refused = accept_context_key(&two.sender, &bytes, &[Two::month()], &two.own, START);
    assert_eq!(refused.err().map(|refusal| refusal.code()), Some("transfer_agent_not_believed"));
}

#[test]
fn another_site_tenant_recipient_month_or_key_than_it_says() {
    let two = Two::new();
    let agent = &two.world.agent;
    for head in
        [ContextKeyHead { tenant: TenantId::from_bits(99), ..two.head() }, ContextKeyHead { site: SiteId::from_bits(99), ..two.head() }]
    {
        two.not_taken(&two.forged(head, &SECRET, agent), "transfer_of_another_site");
    }
    let stray = ContextKeyHead { recipient: AgentId::from_bits(77), ..two.head() };
    two.not_taken(&two.forged(stray, &SECRET, agent), "transfer_for_another_agent");
    let later = ContextKeyHead { month: "2099-01".parse().unwrap(), ..two.head() };
    two.not_taken(&two.forged(later, &SECRET, agent), "context_key_of_another_month");
    two.not_taken(&two.forged(two.head(), &[9; 32], agent), "context_key_not_genuine");
    two.not_taken(&two.forged(two.head(), &SECRET[..31], agent), "context_key_not_genuine");
    // The id of another site's key of the same bytes is another one.
    let tenant = two.world.identity().tenant;
    assert_ne!(ContextKeyHead::identify(tenant, SiteId::from_bits(99), &Two::month(), &SECRET), two.head().id);
}

#[test]
fn one_that_is_replayed_after_its_prekey_was_erased_or_ended() {
    let mut two = Two::new();
    let sent = two.sent();
    let late = two.prekey.not_after.plus(Duration::from_secs(1));
    let refused = accept_context_key(&two.recipient, &sent, &[Two::month()], &two.own, late);
    assert_eq!(refused.err().map(|refusal| refusal.code()), Some("prekey_ended"));
    two.own.clear();
    two.not_taken(&sent, "prekey_unknown");
}
