//! One file for every kind of statement and document, in every version ever written (`schema/golden/statements`). What was
//! signed once must be read for ever; what we write must not drift unseen.
//!
//! A new version gets a new file. `UPDATE_GOLDEN=1 cargo test -p freehold-trust --test golden` writes those of this version.

use std::{collections::BTreeMap, path::PathBuf};

use proptest::prelude::*;
use schema::{
    clock::{ManualIds, Timestamp},
    composite::VerificationRule,
    encoding::{Base64, Digest},
    id::{CompositeId, IncarnationId, KeyId, KeyVersion, PrekeyId, VaultId},
    key::{Durability, Origin, Purpose},
    ranges::Ranges,
    wire::agent::{ReceiptBatchHead, StatementSet},
};
use trust::{
    accept::{Confirmed, accept},
    document::{
        self, AgentVouch, BudgetRequest, CertificateAsk, ContextKeyHead, ContextKeyTransfer, Document, HolderReport, LeaseRequest, Month,
        Prekey, RosterEntry, SelfTestReport, Transfer, TransferHead, VersionRecord,
    },
    dsse,
    pair::{Pair, Signers},
    recovery::{BackupHead, BackupReport, RECOVERY_PUBLIC_KEY_BYTES, RecoveryKey},
    seal::{self, PrekeySecret},
    statement::{
        Head, Pin, Scope, Statement,
        heartbeat::Heartbeat,
        lease::{Lease, Leased, Share},
        policy::{COMPOSITE_KEYS, CompositeDefinition, EXTERNAL_KEYS, ExternalVersion, KeyDefinition, Policy},
        root::Root,
        state::{State, Vouch},
    },
    testing::{AGENT, KEY, NEIGHBOUR, OTHER_AGENT, OTHER_SITE, PROJECT, SITE, START, TENANT, World, definition, fingerprint, policy},
};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../schema/golden/statements")
}

/// Every file of the present version.
fn present() -> BTreeMap<&'static str, Vec<u8>> {
    let world = World::new();
    let set = world.set();
    let document = |bytes: Base64| bytes.0;
    let head = ReceiptBatchHead {
        tenant: TENANT,
        site: SITE,
        agent: AGENT,
        incarnation: IncarnationId::from_bits(9),
        first_seq: 1,
        count: 2,
        previous: fingerprint(1),
        last: fingerprint(2),
    };
    let tested = SelfTestReport {
        tenant: TENANT,
        site: SITE,
        agent: AGENT,
        agent_version: "0.1.0".to_owned(),
        tested: START,
        passed: vec!["Ed25519".to_owned()],
        failed: [("ML-DSA-65".to_owned(), "it signs something else".to_owned())].into(),
        issued: START,
    };
    BTreeMap::from([
        ("root.v1.json", set.roots[0].0.clone()),
        ("policy-tenant.v1.json", set.policies[0].0.clone()),
        ("policy-project.v1.json", set.policies[1].0.clone()),
        ("policy-external.v1.json", with_a_partners_key()),
        ("policy-composite.v1.json", with_a_composite()),
        ("state.v1.json", document(set.state.clone().unwrap())),
        ("state-neighbours.v1.json", beside_another_site()),
        ("transfer-sites.v1.json", document(document::sign(&between_sites(), &world.agent))),
        ("heartbeat.v1.json", document(set.heartbeat.clone().unwrap())),
        ("roster-entry.v1.json", document(world.state.roster[&AGENT].entry.clone())),
        ("agent-vouch.v1.json", document(document::sign(&world.vouch(), &world.agent))),
        ("version-record.v1.json", document(document::sign(&world.record(1, fingerprint(1)), &world.agent))),
        ("holder-report.v1.json", document(document::sign(&world.report(1, fingerprint(1)), &world.agent))),
        ("heartbeat-authorities.v1.json", document(set_naming_authorities())),
        ("certificate-ask.v1.json", document(document::sign(&example_ask(), &world.agent))),
        ("prekey.v1.json", document(document::sign(&example_prekey().0, &world.agent))),
        ("transfer.v1.json", document(document::sign(&example_transfer(), &world.other_agent))),
        ("context-key.v1.json", document(document::sign(&example_context_key(), &world.other_agent))),
        ("lease.v1.json", document(world.lease(3, example_lease))),
        ("lease-request.v1.json", document(document::sign(&example_request(), &world.agent))),
        ("self-test-report.v1.json", document(document::sign(&tested, &world.agent))),
        ("receipt-batch.v1.json", document(document::sign(&head, &world.agent))),
        ("recovery-key.v1.json", document(document::sign(&example_recovery_key(), &world.agent))),
        ("backup-report.v1.json", document(document::sign(&example_backup_report(), &world.agent))),
        ("backup-head.v1.json", document(document::sign(&example_backup_head(), &world.agent))),
        ("policy-site.v1.json", with_a_recovery_key()),
    ])
}

/// The state of a site that shares its key with another one, whose agent has a copy.
fn beside_another_site() -> Vec<u8> {
    let mut world = World::new();
    world.adjoin(vec![Vouch::Enrolment, world.bridged()]);
    let ready = HolderReport { site: OTHER_SITE, holder: NEIGHBOUR, vault: VaultId::from_bits(2), ..world.report(1, fingerprint(1)) };
    let report = document::sign(&ready, &world.neighbour);
    world.key().versions.get_mut(&1).unwrap().ready.insert(NEIGHBOUR, report);
    accept(None, &world.set(), &world.identity(), &Confirmed::default(), world.now()).unwrap();
    world.set().state.unwrap().0
}

/// Material on its way from one site to another.
fn between_sites() -> Transfer {
    let head = TransferHead { recipient_site: Some(OTHER_SITE), sender: AGENT, recipient: NEIGHBOUR, ..example_transfer().head };
    let public_key = example_prekey().0.public_key;
    let (encapsulated, ciphertext) = seal::seal(&head, public_key.as_slice(), b"material", &ManualIds::seeded(34)).unwrap();
    Transfer { head, encapsulated: encapsulated.into(), ciphertext: ciphertext.into() }
}

/// A heartbeat that names two certificate authorities.
fn set_naming_authorities() -> Base64 {
    let named = World::new().set_pinning(|heartbeat| heartbeat.authorities = [fingerprint(5), fingerprint(6)].into());
    named.heartbeat.unwrap()
}

fn example_ask() -> CertificateAsk {
    CertificateAsk { tenant: TENANT, site: SITE, agent: AGENT, csr: fingerprint(7), issued: START }
}

fn example_recovery_key() -> RecoveryKey {
    let public_key = Base64(vec![7; RECOVERY_PUBLIC_KEY_BYTES]);
    RecoveryKey { tenant: TENANT, site: SITE, number: 1, public_key, shares: 5, threshold: 3, agent: AGENT, issued: START }
}

fn example_backup_report() -> BackupReport {
    BackupReport {
        tenant: TENANT,
        site: SITE,
        version: KeyVersion::new(KEY, 1),
        fingerprint: fingerprint(1),
        holder: AGENT,
        recovery_key: example_recovery_key().keyid(),
        backup: fingerprint(3),
        issued: START,
    }
}

fn example_backup_head() -> BackupHead {
    BackupHead {
        tenant: TENANT,
        site: SITE,
        agent: AGENT,
        created: START,
        recovery_key: example_recovery_key().keyid(),
        encapsulated: Base64(vec![8; 1120]),
        encrypted_key: Base64(vec![9; 48]),
        versions: 2,
        tombstones: 1,
        body: fingerprint(4),
    }
}

/// A site's policy with its recovery key.
fn with_a_recovery_key() -> Vec<u8> {
    let mut world = World::new();
    let site = Scope::Site(SITE);
    let recovery = Some(document::sign(&example_recovery_key(), &world.agent));
    world.policies = [(site, Policy { recovery, ..policy(site) })].into();
    world.set().policies[0].0.clone()
}

/// A project's policy whose key is a partner's.
fn with_a_partners_key() -> Vec<u8> {
    let mut world = World::new();
    let policy = world.project_policy();
    let algorithm = "Ed25519".parse().unwrap();
    let external = ExternalVersion { public_key: Base64(vec![7; 32]), fingerprint: schema::key::fingerprint(algorithm, &[7; 32]) };
    let definition = KeyDefinition {
        algorithm,
        purpose: Purpose::Sign,
        durability: Durability::Elsewhere,
        protection: schema::key::Protection::Software,
        origin: Origin::External,
        external: vec![external],
        ..definition()
    };
    policy.keys.insert(KEY, definition);
    policy.head.requires.push(EXTERNAL_KEYS.to_owned());
    world.set().policies[1].0.clone()
}

/// A project's policy with a composite of two signing keys and one for what is sealed.
fn with_a_composite() -> Vec<u8> {
    let mut world = World::new();
    let policy = world.project_policy();
    let members = [("Ed25519", Purpose::Sign), ("ML-DSA-65", Purpose::Sign), ("HPKE-9-KE", Purpose::Encrypt)];
    let keys = [41, 42, 43].map(KeyId::from_bits);
    for (key, (algorithm, purpose)) in keys.into_iter().zip(members) {
        let name = format!("contracts-{}", algorithm.to_lowercase()).parse().unwrap();
        policy.keys.insert(key, KeyDefinition { name, algorithm: algorithm.parse().unwrap(), purpose, ..definition() });
    }
    let composite = CompositeDefinition {
        name: "contracts".parse().unwrap(),
        project: PROJECT,
        classical: keys[0],
        post_quantum: keys[1],
        encryption: Some(keys[2]),
        rule: VerificationRule::All,
    };
    policy.composites.insert(CompositeId::from_bits(40), composite);
    policy.head.requires.push(COMPOSITE_KEYS.to_owned());
    world.set().policies[1].0.clone()
}

fn example_prekey() -> (Prekey, PrekeySecret) {
    let secret = PrekeySecret::generate(&ManualIds::seeded(31)).unwrap();
    let (id, not_after) = (PrekeyId::from_bits(8), START.plus(std::time::Duration::from_secs(3600)));
    let public_key = secret.public_key().into();
    (Prekey { tenant: TENANT, site: SITE, agent: AGENT, id, public_key, not_after, issued: START }, secret)
}

fn example_transfer() -> Transfer {
    let head = TransferHead {
        tenant: TENANT,
        site: SITE,
        recipient_site: None,
        version: KeyVersion::new(KEY, 1),
        algorithm: definition().algorithm,
        origin: Origin::Generated,
        fingerprint: fingerprint(1),
        sender: OTHER_AGENT,
        recipient: AGENT,
        prekey: example_prekey().0.id,
        issued: START,
    };
    let public_key = example_prekey().0.public_key;
    let (encapsulated, ciphertext) = seal::seal(&head, public_key.as_slice(), b"material", &ManualIds::seeded(32)).unwrap();
    Transfer { head, encapsulated: encapsulated.into(), ciphertext: ciphertext.into() }
}

#[test]
fn what_was_sealed_once_opens_for_ever() {
    for name in ["transfer.v1.json", "transfer-sites.v1.json"] {
        let bytes = std::fs::read(directory().join(name)).unwrap();
        let transfer: Transfer = dsse::peek_document(&bytes).unwrap();
        let opened = seal::open(&transfer.head, &example_prekey().1, transfer.encapsulated.as_slice(), transfer.ciphertext.as_slice());
        assert_eq!(*opened.unwrap(), b"material");
    }
    let bytes = std::fs::read(directory().join("context-key.v1.json")).unwrap();
    let transfer: ContextKeyTransfer = dsse::peek_document(&bytes).unwrap();
    let opened = seal::open(&transfer.head, &example_prekey().1, transfer.encapsulated.as_slice(), transfer.ciphertext.as_slice());
    assert_eq!(*opened.unwrap(), [5; 32]);
}

fn example_context_key() -> ContextKeyTransfer {
    let month = Month::of(START);
    let head = ContextKeyHead {
        tenant: TENANT,
        site: SITE,
        id: ContextKeyHead::identify(TENANT, SITE, &month, &[5; 32]),
        month,
        made: START,
        sender: OTHER_AGENT,
        recipient: AGENT,
        prekey: example_prekey().0.id,
        issued: START,
    };
    let public_key = example_prekey().0.public_key;
    let (encapsulated, ciphertext) = seal::seal(&head, public_key.as_slice(), &[5; 32], &ManualIds::seeded(33)).unwrap();
    ContextKeyTransfer { head, encapsulated: encapsulated.into(), ciphertext: ciphertext.into() }
}

fn example_lease(lease: &mut Lease) {
    lease.answers = Some(fingerprint(3));
    let share = Share { uses: Ranges::of(10, 20).union(&Ranges::of(30, 31)), bytes: Ranges::of(0, u64::MAX) };
    lease.budgets.insert(KeyVersion::new(KEY, 1), Leased { share, uses_left: Some(69), bytes_left: None });
}

fn example_request() -> LeaseRequest {
    let share = |from, to| Share { uses: Ranges::of(from, to), bytes: Ranges::new() };
    let budget = BudgetRequest { spent: share(10, 15), returned: share(30, 31), uses_wanted: 5, bytes_wanted: 0 };
    LeaseRequest {
        tenant: TENANT,
        site: SITE,
        agent: AGENT,
        number: 4,
        nonce: [7; 16].into(),
        budgets: [(KeyVersion::new(KEY, 1), budget)].into(),
        issued: START,
    }
}

#[test]
fn what_is_written_has_not_drifted() {
    for (name, bytes) in present() {
        let path = directory().join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(directory()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(golden == bytes, "{name} is written differently now: a change of format is a new version with a file of its own");
    }
}

#[test]
fn every_file_is_read_and_none_is_missing() {
    fn statement<S: Statement>(bytes: &[u8], pairs: &[Pair]) {
        let signers = Signers::new(pairs.iter().map(|pair| pair.public().clone())).unwrap();
        let opened = dsse::open_statement::<S>(bytes, &signers, 1).unwrap();
        let again = serde_json::to_vec(&opened.payload).unwrap();
        assert_eq!(Digest::of(&again), opened.sha256, "it is written as it was read");
    }
    fn signed<D: Document>(bytes: &[u8], pair: &Pair) {
        document::open::<D>(bytes, pair.public()).unwrap();
    }
    let world = World::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        match path.file_name().unwrap().to_str().unwrap() {
            "root.v1.json" => statement::<Root>(&bytes, &world.root_pairs),
            "policy-tenant.v1.json" | "policy-project.v1.json" | "policy-external.v1.json" | "policy-composite.v1.json" => {
                statement::<Policy>(&bytes, &world.policy_pairs)
            }
            "state.v1.json" | "state-neighbours.v1.json" => statement::<State>(&bytes, &world.state_pairs),
            "heartbeat.v1.json" | "heartbeat-authorities.v1.json" => statement::<Heartbeat>(&bytes, &world.heartbeat_pairs),
            "roster-entry.v1.json" => signed::<RosterEntry>(&bytes, &world.agent),
            "agent-vouch.v1.json" => signed::<AgentVouch>(&bytes, &world.agent),
            "version-record.v1.json" => signed::<VersionRecord>(&bytes, &world.agent),
            "holder-report.v1.json" => signed::<HolderReport>(&bytes, &world.agent),
            "certificate-ask.v1.json" => signed::<CertificateAsk>(&bytes, &world.agent),
            "prekey.v1.json" => signed::<Prekey>(&bytes, &world.agent),
            "transfer.v1.json" => signed::<Transfer>(&bytes, &world.other_agent),
            "transfer-sites.v1.json" => signed::<Transfer>(&bytes, &world.agent),
            "context-key.v1.json" => signed::<ContextKeyTransfer>(&bytes, &world.other_agent),
            "lease.v1.json" => statement::<Lease>(&bytes, &world.state_pairs),
            "lease-request.v1.json" => signed::<LeaseRequest>(&bytes, &world.agent),
            "self-test-report.v1.json" => signed::<SelfTestReport>(&bytes, &world.agent),
            "receipt-batch.v1.json" => signed::<ReceiptBatchHead>(&bytes, &world.agent),
            "policy-site.v1.json" => statement::<Policy>(&bytes, &world.policy_pairs),
            "recovery-key.v1.json" => signed::<RecoveryKey>(&bytes, &world.agent),
            "backup-report.v1.json" => signed::<BackupReport>(&bytes, &world.agent),
            "backup-head.v1.json" => signed::<BackupHead>(&bytes, &world.agent),
            other => panic!("nobody reads {other}"),
        }
        seen += 1;
    }
    assert_eq!(seen, present().len());
}

#[test]
fn the_files_together_are_a_set_that_is_believed() {
    let read = |name: &str| Base64(std::fs::read(directory().join(name)).unwrap());
    let set = StatementSet {
        roots: vec![read("root.v1.json")],
        policies: vec![read("policy-tenant.v1.json"), read("policy-project.v1.json")],
        state: Some(read("state.v1.json")),
        heartbeat: Some(read("heartbeat.v1.json")),
    };
    let world = World::new();
    accept(None, &set, &world.identity(), &Confirmed::default(), world.now()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn heads_and_pins_survive_their_json(epoch: u64, serial: u64, micros in 0i64..4_000_000_000_000_000, requires in proptest::collection::vec("[a-z-]{1,12}", 0..4), hash: [u8; 32]) {
        let mut policy = policy(trust::statement::Scope::Tenant);
        policy.head = Head { epoch, serial, requires, issued: Timestamp::from_micros(micros), root_serial: serial, ..policy.head };
        let text = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
        let pin = Pin { serial, sha256: Digest(hash) };
        prop_assert_eq!(serde_json::from_str::<Pin>(&serde_json::to_string(&pin).unwrap()).unwrap(), pin);
    }

    /// Whatever byte of a set is another: it is refused, or it said nothing.
    #[test]
    fn a_changed_byte_is_refused_or_meant_nothing(which in 0usize..5, place: prop::sample::Index, bit in 0u8..8) {
        let world = World::new();
        let mut set = world.set();
        let honest = accept(None, &set, &world.identity(), &Confirmed::default(), world.now()).unwrap();
        let bytes = match which {
            0 => &mut set.roots[0],
            1 | 2 => &mut set.policies[which - 1],
            3 => set.state.as_mut().unwrap(),
            _ => set.heartbeat.as_mut().unwrap(),
        };
        let place = place.index(bytes.0.len());
        bytes.0[place] ^= 1 << bit;
        if let Ok(accepted) = accept(None, &set, &world.identity(), &Confirmed::default(), world.now()) {
            prop_assert_eq!(accepted.digest(), honest.digest());
        }
    }
}

#[test]
fn the_start_is_where_the_files_say() {
    assert_eq!(START.to_string(), "2026-01-01T00:00:00.000000Z");
}
