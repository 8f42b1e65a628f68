//! What an agent that is connected to nothing believes of answers: only what the control plane of its tenant signed, for it. By an answer it
//! forgets what it reported and frees what it journalled.

use schema::{
    clock::Timestamp,
    encoding::Digest,
    id::{IncarnationId, SiteId, TenantId},
    wire::{
        agent::{ReceiptAnswer, ReportAnswer},
        exchange::{Inbox, TakenReceipts},
    },
};
use trust::{
    accept::accept_inbox,
    dsse::{Envelope, sign_document},
    pair::Pair,
    testing::{OTHER_AGENT, World, pair, refs},
};

use crate::honest;

fn answer(world: &World) -> Inbox {
    let own = world.identity();
    Inbox {
        tenant: own.tenant,
        site: own.site,
        agent: own.agent,
        number: 3,
        outbox: Digest::of(b"outbox"),
        issued: Timestamp::default(),
        report: ReportAnswer::default(),
        ratchet: Some(3),
        relay: None,
        lease: None,
        receipts: Some(TakenReceipts {
            incarnation: IncarnationId::from_bits(1),
            answer: ReceiptAnswer { acknowledged: 1_000_000, last: Digest::of(b"last") },
        }),
        certificate: None,
        refused: Vec::new(),
    }
}

#[track_caller]
fn refused(world: &World, bytes: &[u8], code: &str) {
    match accept_inbox(&honest(world), bytes) {
        Ok(_) => panic!("it was believed; expected {code}"),
        Err(rejection) => assert_eq!(rejection.code(), code, "{rejection:?}"),
    }
}

#[test]
fn an_honest_answer_is_believed_as_often_as_it_comes() {
    let world = World::new();
    let (set, inbox) = (honest(&world), answer(&world));
    let bytes = sign_document(&inbox, &refs(&world.state_pairs));
    for _ in 0..2 {
        assert_eq!(accept_inbox(&set, &bytes).unwrap(), inbox);
    }
}

#[test]
fn an_answer_signed_by_others_than_sign_leases() {
    let world = World::new();
    let inbox = answer(&world);
    let by = |pairs: &[&Pair]| sign_document(&inbox, pairs);
    // A stranger, the agent itself, another agent of its site, and whoever signs something else.
    for bytes in [by(&[&pair(77)]), by(&[&world.agent]), by(&[&world.other_agent]), by(&refs(&world.heartbeat_pairs)), by(&[])] {
        refused(&world, &bytes, "inbox_not_genuine");
    }
}

#[test]
fn an_answer_with_one_of_both_signatures_or_other_content() {
    let world = World::new();
    let genuine = sign_document(&answer(&world), &refs(&world.state_pairs));
    let envelope = || Envelope::parse(&genuine, usize::MAX).unwrap();
    for half in 0..2 {
        let mut one = envelope();
        one.signatures.remove(half);
        refused(&world, &one.to_bytes(), "inbox_not_genuine");
    }
    let mut more = envelope();
    let said = String::from_utf8(more.payload.clone()).unwrap();
    more.payload = said.replace("1000000", "1000001").into_bytes();
    refused(&world, &more.to_bytes(), "inbox_not_genuine");
    // A lease, under its own type, by the right pairs.
    refused(&world, world.lease(1, |_| ()).as_slice(), "inbox_not_genuine");
    refused(&world, b"{}", "inbox_not_genuine");
}

#[test]
fn an_answer_for_somebody_else() {
    let world = World::new();
    let changes: [fn(&mut Inbox); 3] =
        [|inbox| inbox.tenant = TenantId::from_bits(99), |inbox| inbox.site = SiteId::from_bits(99), |inbox| inbox.agent = OTHER_AGENT];
    for change in changes {
        let mut inbox = answer(&world);
        change(&mut inbox);
        refused(&world, &sign_document(&inbox, &refs(&world.state_pairs)), "inbox_of_another_agent");
    }
}
