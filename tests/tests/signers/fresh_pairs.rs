//! The control plane's own pairs are replaced: agents follow by themselves, also who was away, and what the old pairs sign is
//! worth nothing, whoever has them.

use std::sync::Arc;

use control_plane::{bundles::signers::TenantSigners, sealing::Secret, verify::verify_store};
use schema::clock::{SystemClock, SystemIds};
use sea_orm::ConnectionTrait as _;
use serde_json::json;
use trust::{
    pair::Pair,
    statement::{
        Kind, Scope,
        root::{Role, Root},
    },
};

use super::{
    super::*,
    attacker::{Attacker, Set},
};

impl Attacker {
    /// The pairs that a tenant's secret of this name holds, if it is there.
    async fn kept(&self, name: &str) -> Option<TenantSigners> {
        let secret: Option<Secret> = self.secrets.secret(self.tenant, name).await.unwrap();
        secret.map(|secret| TenantSigners::from_secret(secret.reveal()).unwrap())
    }

    async fn run(&self, sql: &str) {
        self.database.write().execute_unprepared(sql).await.unwrap();
    }

    /// Everything the old pairs can sign, on top of what is in force: none of it is believed.
    async fn is_refused(&self, site: &Site) {
        let honest = self.set().await;
        let old = |kind| self.pairs.pair(kind);

        // A heartbeat.
        self.serve(&honest).await;
        site.until_rejected("below_threshold").await;
        let fresh = self.kept(&format!("statement-signers/{}", honest.roots.last().unwrap().1.sha256)).await.unwrap();
        self.serve_with(&honest, &fresh.pair(Kind::Heartbeat)).await;
        site.until_believed_again(self).await;

        // A state, under a heartbeat that is genuine: as if one of the two were known.
        let state = self.state(&honest, |_| ()).await;
        self.serve_with(&Set { state, ..honest.clone() }, &fresh.pair(Kind::Heartbeat)).await;
        site.until_rejected("below_threshold").await;
        self.serve_with(&honest, &fresh.pair(Kind::Heartbeat)).await;
        site.until_believed_again(self).await;

        // A policy, and a root that goes elsewhere.
        let policies = self.policy(&honest, &[&old(Kind::Policy), &old(Kind::Root)], |_| ()).await;
        self.serve_with(&Set { policies, ..honest.clone() }, &fresh.pair(Kind::Heartbeat)).await;
        site.until_rejected("below_threshold").await;
        self.serve_with(&honest, &fresh.pair(Kind::Heartbeat)).await;
        site.until_believed_again(self).await;
        let mut roots = honest.roots.clone();
        let (mut root, stranger): (Root, Pair) = (roots.last().unwrap().0.clone(), Pair::generate(&SystemIds));
        root.head.serial += 1;
        root.head.root_serial = root.head.serial;
        root.signers.insert(stranger.keyid(), stranger.public().to_signer(false));
        root.roles.insert(Kind::Heartbeat, Role { threshold: 1, signers: vec![stranger.keyid()] });
        roots.push(self.sign(root, Scope::Tenant, &[&old(Kind::Root)]).await);
        self.serve_with(&Set { roots, ..honest.clone() }, &stranger).await;
        site.until_rejected("below_threshold").await;
        self.serve_with(&honest, &fresh.pair(Kind::Heartbeat)).await;
        site.until_believed_again(self).await;
    }
}

impl Site {
    /// Until what the site is served is believed, and nothing else was heard since.
    async fn until_believed_again(&self, attacker: &Attacker) {
        self.until_enforced(attacker.current().await.serial).await;
        until(|| async {
            let status = self.world.ask(&self.agent, "/v1/status").await;
            if status["rejection"].is_null() { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }

    /// A key whose uses are leased.
    async fn limited_key(&self) {
        let key = json!({
            "project": "payments", "name": "counted", "algorithm": "A256KW+A256GCM", "purpose": "ENCRYPT", "placement": ["fra"],
            "durability": "SINGLE_COPY", "limits": { "hardUses": "1000" },
        });
        self.world.mutate("createKey", key, "key { id }").await;
        self.until_counted().await;
    }

    async fn until_counted(&self) {
        until(|| async {
            let (status, answer) = self.seal("payments/counted").await;
            if status == 200 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
    }

    /// The store holds nothing that cannot be read, and no secret that nobody can name.
    async fn verified(self) -> Self {
        let Self { world, config, agent, token, signers } = self;
        let (world, report) =
            world.between(async |config| verify_store(&config, Arc::new(SystemClock), Arc::new(SystemIds)).await.unwrap()).await;
        assert!(report.is_sound(), "{report:?}");
        assert!(!report.not_looked_at.iter().any(|told| told.starts_with("secrets")), "{report:?}");
        Self { world, config, agent, token, signers }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_pairs_sign_from_now_on_and_a_thief_of_the_old_ones_is_refused() {
    let mut site = Site::start().await;
    site.limited_key().await;
    let thief = site.break_in().await;
    let state_of = |root: &Root| root.roles[&Kind::State].signers.clone();
    let before = thief.set().await.roots.pop().unwrap().0;

    // The same request again is the same rotation.
    for _ in 0..2 {
        site.cli(&["root", "rotate-pairs", "--idempotency-key", "after-the-theft"]).await.unwrap();
    }
    site.until_root(2).await;
    let set = thief.set().await;
    let now = &set.roots.last().unwrap().0;
    for (kind, role) in &now.roles {
        assert!(role.signers.iter().all(|keyid| !before.signers.contains_key(keyid)), "{kind} is signed by an old pair");
    }
    assert_ne!(state_of(now), state_of(&before));
    assert!(thief.kept("statement-signers").await.is_none(), "the old pairs are still there");
    thief.is_refused(&site).await;

    // Work goes on: what was sealed, what is published, what is leased, in the agent that runs and in one that starts.
    site.until_open().await;
    site.until_counted().await;
    site.world.publish(SEAL_ONLY).await;
    site.until_seal_only().await;
    site.world.publish(OPEN).await;
    site.until_open().await;
    let agent = std::mem::replace(&mut site.agent, site.world.agent(&site.world.agent_config("idle", "plain_http = true")).await);
    agent.stop().await.unwrap();

    // It is away while the pairs are replaced twice more.
    for serial in [3, 4] {
        site.cli(&["root", "rotate-pairs"]).await.unwrap();
        assert_eq!(site.roots().await, serial);
    }
    // Another start of the control plane finds the pairs, and nothing else.
    drop(thief);
    let mut site = site.verified().await;
    let idle = std::mem::replace(&mut site.agent, site.world.agent(&site.config).await);
    idle.stop().await.unwrap();
    site.until_root(4).await;
    site.until_open().await;
    site.until_counted().await;
    site.agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_signers_hold_root_they_decide_on_fresh_pairs() {
    let site = Site::start().await;
    site.hand_over().await;
    site.until_open().await;
    let thief = site.break_in().await;

    // Proposed, withdrawn, proposed anew: until enough have signed, the old pairs go on.
    site.cli(&["root", "rotate-pairs"]).await.unwrap();
    let first = site.until_waiting("ROOT", 1).await[0]["sha256"].as_str().unwrap().to_owned();
    assert!(thief.kept(&format!("statement-signers/{first}")).await.is_some());
    site.cli(&["root", "withdraw"]).await.unwrap();
    assert!(thief.kept(&format!("statement-signers/{first}")).await.is_none(), "pairs that nobody will use are kept");
    site.cli(&["root", "rotate-pairs"]).await.unwrap();
    let second = site.until_waiting("ROOT", 1).await[0]["sha256"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    site.sign("root", &site.signers[0], &[]).await.unwrap();
    assert_eq!(site.roots().await, 2, "one of two is not enough");
    assert!(thief.kept("statement-signers").await.is_some());
    site.until_open().await;
    site.sign("root", &site.signers[1], &[]).await.unwrap();
    site.until_root(3).await;
    until(|| async {
        if thief.kept("statement-signers").await.is_none() { Ok(()) } else { Err("the old pairs are still there".to_owned()) }
    })
    .await;

    // Policies stay as their signers signed them, and still count.
    assert!(site.waiting("POLICY").await.is_empty());
    site.until_open().await;
    thief.is_refused(&site).await;
    site.world.publish(SEAL_ONLY).await;
    site.until_waiting("POLICY", 1).await;
    for signer in &site.signers[..2] {
        site.sign("policy", signer, &[]).await.unwrap();
    }
    site.until_seal_only().await;

    // What goes back goes to the fresh pairs.
    site.cli(&["root", "return"]).await.unwrap();
    for signer in &site.signers[..2] {
        site.sign("root", signer, &[]).await.unwrap();
    }
    site.until_root(4).await;
    site.world.publish(OPEN).await;
    site.until_open().await;
    site.agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_after_the_root_was_recorded_costs_no_pairs() {
    let site = Site::start().await;
    site.hand_over().await;
    site.until_open().await;
    let thief = site.break_in().await;
    site.cli(&["root", "rotate-pairs"]).await.unwrap();
    let first = site.until_waiting("ROOT", 1).await[0]["sha256"].as_str().unwrap().to_owned();

    // What another proposal takes the place of cannot be erased: the command fails after its own root was recorded.
    thief.run("CREATE TABLE held AS SELECT name FROM secrets ORDER BY created DESC LIMIT 1").await;
    let refusing = "CREATE TRIGGER held_fast BEFORE DELETE ON secrets WHEN OLD.name IN (SELECT name FROM held)";
    thief.run(&format!("{refusing} BEGIN SELECT RAISE(ABORT, 'not now'); END")).await;
    site.cli(&["root", "rotate-pairs"]).await.unwrap_err();
    let second = site.until_waiting("ROOT", 1).await[0]["sha256"].as_str().unwrap().to_owned();
    assert_ne!(first, second, "the trial proves nothing: the command failed before its root was recorded");
    assert!(thief.kept(&format!("statement-signers/{second}")).await.is_some(), "the pairs of the root that waits are gone");

    thief.run("DROP TRIGGER held_fast").await;
    for signer in &site.signers[..2] {
        site.sign("root", signer, &[]).await.unwrap();
    }
    site.until_root(3).await;
    site.until_open().await;
    site.agent.stop().await.unwrap();
}
