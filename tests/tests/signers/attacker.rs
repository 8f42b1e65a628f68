//! A stolen control plane, of a tenant that has signers: the attacker reads and writes the database and has every pair the
//! control plane ever had. What it serves goes to a real agent, which says what it thinks of it.

use std::{path::Path, sync::Arc};

use control_plane::{
    bundles::{
        heartbeat::{Current, Heartbeats, Member},
        signers::TenantSigners,
    },
    database::{Database, Location},
    eventing::{sql::SqlStore, store::EventStore},
    sealing::{Keyring, SealingKey, Secrets},
};
use schema::{
    clock::{Clock, SystemClock, SystemIds},
    id::{AgentId, KeyId, KeyVersion, SiteId, TenantId},
    key::VersionState,
};
use serde_json::json;
use trust::{
    document,
    dsse::{Envelope, sign_document, sign_statement},
    pair::Pair,
    signing::read_payload,
    statement::{
        Kind, Pin, Scope, Statement,
        heartbeat::Heartbeat,
        policy::Policy,
        root::Root,
        state::{KeyState, RosterSlot, State, Subject, TemplatedKey, VersionEntry, Vouch},
    },
};

use super::super::*;

/// Who has the database, the sealing key, and so every sealed pair.
pub(super) struct Attacker {
    pub(super) database: Database,
    store: Arc<SqlStore>,
    heartbeats: Heartbeats,
    pub(super) secrets: Secrets,
    pub(super) pairs: TenantSigners,
    pub(super) tenant: TenantId,
    site: SiteId,
}

/// What a site is served: the newest statements of each kind.
#[derive(Clone)]
pub(super) struct Set {
    pub(super) roots: Vec<(Root, Member)>,
    pub(super) policies: Vec<(Policy, Member)>,
    pub(super) state: (State, Member),
    pub(super) serial: u64,
}

impl Attacker {
    async fn breaks_in(data: &Path, tenant: TenantId, site: SiteId) -> Self {
        let key = SealingKey::read(&data.join("sealing.key")).unwrap();
        // Who owns the host is not held back by a lock.
        std::fs::remove_file(data.join("freehold.db.lock")).unwrap();
        let database = Database::open(&Location::Sqlite(data.join("freehold.db"))).await.unwrap();
        let keyring = Arc::new(Keyring::open(database.clone(), &key, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap());
        let secrets = Secrets::new(database.clone(), keyring.clone(), Arc::new(SystemClock));
        let sealed = secrets.secret(tenant, "statement-signers").await.unwrap().unwrap();
        let store = Arc::new(SqlStore::open(database.clone(), keyring).await.unwrap());
        let pairs = TenantSigners::from_secret(sealed.reveal()).unwrap();
        Self { heartbeats: Heartbeats::new(database.clone()), database, store, secrets, pairs, tenant, site }
    }

    pub(super) async fn current(&self) -> Current {
        self.heartbeats.current(self.tenant, self.site).await.unwrap().unwrap()
    }

    /// What the site is served now.
    pub(super) async fn set(&self) -> Set {
        let current = self.current().await;
        let (mut roots, mut policies, mut state) = (Vec::new(), Vec::new(), None);
        for member in current.members {
            match member.kind {
                Kind::Root => roots.push((self.read(&member).await, member)),
                Kind::Policy => policies.push((self.read(&member).await, member)),
                _ => state = Some((self.read(&member).await, member)),
            }
        }
        Set { roots, policies, state: state.unwrap(), serial: current.serial }
    }

    async fn read<S: Statement>(&self, member: &Member) -> S {
        let bytes = self.store.blob(self.tenant, member.envelope).await.unwrap().unwrap();
        read_payload(&Envelope::parse(&bytes, S::KIND.max_bytes()).unwrap().payload).unwrap()
    }

    /// Signs a statement with these pairs, and keeps its envelope where the control plane keeps them.
    pub(super) async fn sign<S: Statement>(&self, statement: S, scope: Scope, pairs: &[&Pair]) -> (S, Member) {
        let (bytes, sha256) = sign_statement(&statement, pairs);
        let envelope = self.store.put_blob(self.tenant, &bytes).await.unwrap();
        let head = statement.head().clone();
        let member = Member {
            kind: S::KIND,
            scope,
            epoch: head.epoch,
            serial: head.serial,
            sha256,
            envelope,
            issued: head.issued,
            expires: head.expires,
            since: 0,
        };
        (statement, member)
    }

    /// Serves a set: a heartbeat that pins it is signed and put into the table, and the control plane serves it by itself.
    pub(super) async fn serve(&self, set: &Set) {
        self.serve_with(set, &self.pairs.pair(Kind::Heartbeat)).await;
    }

    /// The same, with this pair.
    pub(super) async fn serve_with(&self, set: &Set, pair: &Pair) {
        let pin = |member: &Member| Pin { serial: member.serial, sha256: member.sha256 };
        let root = &set.roots.last().unwrap().1;
        let serial = self.current().await.serial.max(set.serial) + 1;
        let now = SystemClock.now();
        let last: Heartbeat = {
            let bytes = self.current().await.envelope;
            read_payload(&Envelope::parse(&bytes, Kind::Heartbeat.max_bytes()).unwrap().payload).unwrap()
        };
        let mut heartbeat = Heartbeat { root: pin(root), state: pin(&set.state.1), ..last };
        (heartbeat.head.serial, heartbeat.head.issued, heartbeat.head.root_serial) = (serial, now, root.serial);
        heartbeat.head.expires = now.plus(std::time::Duration::from_secs(3600));
        for (_, member) in &set.policies {
            match member.scope {
                Scope::Tenant => heartbeat.tenant_policy = pin(member),
                Scope::Project(project) => drop(heartbeat.project_policies.insert(project, pin(member))),
                Scope::Site(_) => heartbeat.site_policy = Some(pin(member)),
            }
        }
        let (envelope, _) = sign_statement(&heartbeat, &[pair]);
        let roots = set.roots.iter().map(|(_, member)| member);
        let policies = set.policies.iter().map(|(_, member)| member);
        let members: Vec<&Member> = roots.chain(policies).chain([&set.state.1]).collect();
        let sql = "UPDATE heartbeats SET serial = $3, issued = $4, envelope = $5, members = $6 WHERE tenant = $1 AND site = $2";
        let values = vec![
            self.tenant.to_string().into(),
            self.site.to_string().into(),
            i64::try_from(serial).unwrap().into(),
            now.micros().into(),
            envelope.into(),
            serde_json::to_string(&members).unwrap().into(),
        ];
        use sea_orm::ConnectionTrait;
        self.database.write().execute_raw(self.database.sql(sql, values)).await.unwrap();
    }

    /// The next state, with this change, signed as the control plane signs.
    pub(super) async fn state(&self, set: &Set, change: impl FnOnce(&mut State)) -> (State, Member) {
        let mut state = set.state.0.clone();
        state.head.serial += 100;
        change(&mut state);
        self.sign(state, Scope::Site(self.site), &[&self.pairs.pair(Kind::State)]).await
    }

    /// The next policy of a project, with this change, signed by these pairs.
    pub(super) async fn policy(&self, set: &Set, pairs: &[&Pair], change: impl FnOnce(&mut Policy)) -> Vec<(Policy, Member)> {
        let mut policies = set.policies.clone();
        let (policy, member) = policies.iter_mut().find(|(_, member)| matches!(member.scope, Scope::Project(_))).unwrap();
        policy.head.serial += 1;
        change(policy);
        (*policy, *member) = self.sign(policy.clone(), member.scope, pairs).await;
        policies
    }
}

impl Site {
    /// Until the agent says that it does not believe what it is served, by this name.
    pub(super) async fn until_rejected(&self, code: &str) {
        until(|| async {
            let status = self.world.ask(&self.agent, "/v1/status").await;
            if status["rejection"]["code"] == code { Ok(()) } else { Err(format!("expected {code}: {status}")) }
        })
        .await;
        // It is seen: by health at the agent, which goes on with what it has.
        let health = self.world.ask(&self.agent, "/readyz").await;
        assert!(health["notes"]["statements"].as_str().is_some_and(|note| note.contains(code)), "{health}");
        assert_eq!(health["ready"], true);
    }

    /// Until the agent enforces this heartbeat or a later one.
    pub(super) async fn until_enforced(&self, serial: u64) {
        until(|| async {
            let status = self.world.ask(&self.agent, "/v1/status").await;
            let found: u64 = status["heartbeat"].as_str().and_then(|serial| serial.parse().ok()).unwrap_or(0);
            if found >= serial { Ok(()) } else { Err(format!("expected {serial}: {status}")) }
        })
        .await;
    }

    /// Serves what is honest until the agent believes it: then the next rejection is about the next attack.
    async fn until_content(&self, attacker: &Attacker, honest: &Set) {
        attacker.serve(honest).await;
        self.until_enforced(attacker.current().await.serial).await;
        until(|| async {
            let status = self.world.ask(&self.agent, "/v1/status").await;
            if status["rejection"].is_null() { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }

    pub(super) async fn break_in(&self) -> Attacker {
        let ids = self.world.query("{ viewer { tenant { id } } site(reference: \"fra\") { id } }", json!({})).await;
        let id = |pointer: &str| ids.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        let data = self.world.path("control-plane");
        Attacker::breaks_in(&data, id("/viewer/tenant/id").parse().unwrap(), id("/site/id").parse().unwrap()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_control_plane_grants_nothing_and_is_seen_withholding() {
    let site = Site::start().await;
    // The caller `app` is suspended when the control plane is stolen.
    site.hand_over().await;
    site.world.mutate("suspendCaller", json!({ "caller": "payments/app" }), "caller { id }").await;
    let body = json!({ "key": "payments/cards", "plaintext": "YQ" });
    site.until_status("/v1/encrypt", &body, 403).await;
    let attacker = site.break_in().await;
    let honest = attacker.set().await;
    let own = [Kind::Root, Kind::Policy, Kind::State, Kind::Heartbeat].map(|kind| attacker.pairs.pair(kind));
    let all = own.each_ref();

    // It signs an evil policy, with every pair it has.
    for pairs in [&all[1..2], &all[..]] {
        let evil = |policy: &mut Policy| drop(policy.cedar.insert("pol_evil/0".to_owned(), OPEN.to_owned()));
        attacker.serve(&Set { policies: attacker.policy(&honest, pairs, evil).await, ..honest.clone() }).await;
        site.until_rejected("below_threshold").await;
        site.until_content(&attacker, &honest).await;
    }

    // It points root elsewhere.
    let mut root = honest.roots.last().unwrap().0.clone();
    root.head.serial += 1;
    root.head.root_serial = root.head.serial;
    let own: Vec<_> = all.iter().map(|pair| pair.keyid()).collect();
    for (pair, keyid) in all.iter().zip(&own) {
        root.signers.insert(*keyid, pair.public().to_signer(false));
    }
    for kind in [Kind::Root, Kind::Policy] {
        root.roles.insert(kind, trust::statement::root::Role { threshold: 1, signers: vec![own[0]] });
    }
    let mut roots = honest.roots.clone();
    roots.push(attacker.sign(root, Scope::Tenant, &all).await);
    attacker.serve(&Set { roots, ..honest.clone() }).await;
    site.until_rejected("below_threshold").await;
    site.until_content(&attacker, &honest).await;

    // It goes back to the root from before, and to policies it signed itself.
    let policies = attacker.policy(&honest, &all[1..2], |_| ()).await;
    attacker.serve(&Set { roots: honest.roots[..1].to_vec(), policies, ..honest.clone() }).await;
    site.until_rejected("below_threshold").await;
    site.until_content(&attacker, &honest).await;

    // It adds an agent of its own, and has it make the next version, so that what is sealed next is sealed for it.
    let (own_agent, own_pair) = (AgentId::from_bits(99), Pair::generate(&SystemIds));
    let entry = document::sign_roster_entry(
        &own_pair,
        attacker.tenant,
        attacker.site,
        own_agent,
        honest.roots.last().unwrap().1.sha256,
        SystemClock.now(),
    );
    let vouch = document::AgentVouch {
        tenant: attacker.tenant,
        site: attacker.site,
        agent: own_agent,
        keyid: own_pair.keyid(),
        issued: SystemClock.now(),
    };
    let vouches = vec![Vouch::Enrolment, Vouch::Signers { vouch: sign_document(&vouch, &all).into() }];
    let join = |state: &mut State| {
        state.roster.insert(own_agent, RosterSlot { entry: entry.clone(), vouches: vouches.clone() });
        state.slots_used += 1;
    };
    let created = SystemClock.now();
    let key = *honest.state.0.keys.keys().next().unwrap();
    let make = |state: &mut State| {
        join(state);
        let next = VersionEntry {
            state: VersionState::PreActivation,
            created,
            activated: None,
            generator: Some(own_agent),
            record: None,
            ready: Default::default(),
            backup: None,
        };
        let versions = &mut state.keys.get_mut(&key).unwrap().versions;
        versions.insert(u32::try_from(versions.len()).unwrap() + 1, next);
        state.head.issued = SystemClock.now();
    };
    attacker.serve(&Set { state: attacker.state(&honest, make).await, ..honest.clone() }).await;
    site.until_rejected("ineligible_generator").await;
    site.until_content(&attacker, &honest).await;

    // It widens a template: a key that may leave the vault, in no policy.
    let invented = KeyId::from_bits(77);
    let invent = |state: &mut State| {
        let mut definition = honest.policies.iter().find_map(|(policy, _)| policy.keys.get(&key)).unwrap().clone();
        (definition.name, definition.exportable) = ("evil".parse().unwrap(), true);
        state.templated.insert(invented, TemplatedKey { template: "tokens".parse().unwrap(), definition });
        state.keys.insert(invented, KeyState { primary: 0, versions: Default::default() });
    };
    attacker.serve(&Set { state: attacker.state(&honest, invent).await, ..honest.clone() }).await;
    site.until_rejected("outside_template").await;
    site.until_content(&attacker, &honest).await;

    // It resumes the caller and destroys the key: believed as far as it restricts, and no further.
    let version = KeyVersion::new(key, 1);
    let destroy = |state: &mut State| {
        join(state);
        state.suspensions.retain(|subject| !matches!(subject, Subject::Caller(_)));
        state.keys.get_mut(&key).unwrap().versions.get_mut(&1).unwrap().state = VersionState::Destroyed;
    };
    let set = Set { state: attacker.state(&honest, destroy).await, ..honest.clone() };
    assert!(!set.state.0.suspensions.iter().any(|subject| matches!(subject, Subject::Caller(_))));
    attacker.serve(&set).await;
    site.until_enforced(attacker.current().await.serial).await;
    let refusal = site.until_status("/v1/encrypt", &body, 403).await;
    assert_eq!(refusal["code"], "caller_suspended", "the restriction shows, and stays: {refusal}");
    let held = site.agent.vault().held(version).await;
    assert!(held.is_ok(), "nothing was destroyed: {held:?}");
    // The agent of the attacker is seen waiting for a vouch, and is nobody.
    let directory = data_plane_agent::control::directory::ControlDirectory::open(&site.config.data_dir).unwrap();
    let identity = directory.identity().unwrap().unwrap().identity;
    let believed = trust::accept::restore(&directory.statements().unwrap().unwrap(), &identity).unwrap();
    assert!(!believed.agents().contains_key(&own_agent) && believed.waiting_agents().contains_key(&own_agent));
    assert_eq!(believed.version_state(version), Some(VersionState::Suspended), "what was not confirmed acts as a suspension");

    // Even a policy with one signer's true signature: stolen, it is one too few.
    let sealed = trust::passphrase::SealedPair::parse(&std::fs::read(&site.signers[0].file).unwrap()).unwrap();
    let stolen = sealed.open("correct horse battery staple").unwrap();
    let lift = |policy: &mut Policy| policy.destructions = vec![version];
    let policies = attacker.policy(&honest, &[&stolen, all[1]], lift).await;
    attacker.serve(&Set { policies, state: attacker.state(&set, |_| ()).await, ..honest.clone() }).await;
    site.until_rejected("below_threshold").await;
    assert!(site.agent.vault().held(version).await.is_ok());
    site.agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stolen_control_plane_withholds_is_seen_at_the_agent() {
    let clock = super::ending::Ahead::default();
    let world = World::start().await;
    let config = world.agent_config("agent", "plain_http = true");
    world.enrol(&config).await;
    let agent = world.agent_at(&config, Arc::new(clock.clone())).await;
    world.encryption_key("cards").await;
    let token = world.caller("app", &config).await;
    world.publish(OPEN).await;
    let body = json!({ "key": "payments/cards", "plaintext": "YQ" });
    world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    assert!(world.ask(&agent, "/readyz").await["notes"]["statements"].is_null());
    // It stops sending heartbeats; twenty minutes later that shows in status, health and every answer.
    world.plane.stop().await;
    clock.advance_minutes(20);
    let client = reqwest::Client::new();
    let ask = async |path: &str| client.get(format!("http://{}{path}", agent.address)).send().await.unwrap().json::<Value>().await.unwrap();
    until(|| async {
        let status = ask("/v1/status").await;
        if status["freshness"] == "stale" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let health = ask("/readyz").await;
    assert!(health["notes"]["statements"].as_str().is_some_and(|note| note.contains("withholds")), "{health}");
    agent.stop().await.unwrap();
}
