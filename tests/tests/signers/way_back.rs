//! Signers change, root and policy go back to the control plane and to signers again; and signers vouch for an agent.

use freehold_tests::world::until;
use schema::encoding::Digest;
use serde_json::{Value, json};

use crate::{SEAL_ONLY, Site, text};

impl Site {
    /// The numbers of the roots there are, as the control plane has them.
    pub(super) async fn roots(&self) -> usize {
        self.world.query("{ roots }", json!({})).await["roots"].as_array().unwrap().len()
    }

    /// Until the caller may seal, and no more open.
    pub(super) async fn until_seal_only(&self) {
        until(|| async {
            let (status, sealed) = self.seal("payments/cards").await;
            let (refused, answer) = self.call("/v1/decrypt", &json!({ "message": sealed["message"] })).await;
            if (status, refused) == (200, 403) { Ok(()) } else { Err(format!("{status} {refused} {answer}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_goes_back_by_the_old_threshold_alone_and_the_control_plane_signs_again() {
    let site = Site::start().await;
    let nothing = site.cli(&["root", "return"]).await.unwrap_err();
    assert!(nothing.message.contains("nothing to give back"), "{nothing:?}");
    site.hand_over().await;
    site.until_open().await;

    // A change waits for signers; the root that gives everything back waits beside it.
    site.world.publish(SEAL_ONLY).await;
    site.until_waiting("POLICY", 1).await;
    site.cli(&["root", "return"]).await.unwrap();
    site.sign("root", &site.signers[0], &[]).await.unwrap();
    assert_eq!(site.waiting("ROOT").await.len(), 1, "one of two is not enough");
    assert_eq!(site.roots().await, 2);
    site.until_open().await;
    site.sign("root", &site.signers[1], &[]).await.unwrap();
    site.until_root(3).await;
    // What waited is the control plane's to sign now; and so is whatever comes.
    site.until_seal_only().await;
    assert_eq!(site.waiting("POLICY").await, Vec::<Value>::new());
    site.world.publish(crate::OPEN).await;
    site.until_open().await;
    site.cli(&["root", "return"]).await.unwrap_err();

    // And handed over anew.
    site.propose(3).await;
    for signer in &site.signers[..2] {
        site.sign("root", signer, &[]).await.unwrap();
        site.sign("policy", signer, &[]).await.unwrap();
    }
    site.until_root(4).await;
    site.world.publish(SEAL_ONLY).await;
    site.until_waiting("POLICY", 1).await;
    site.until_open().await;
    site.agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_signers_as_sign_policies_make_a_site_believe_an_agent_that_nobody_else_vouches_for() {
    let site = Site::start().await;
    site.hand_over().await;
    let config = site.world.agent_config("second", "plain_http = true");
    let newcomer = site.world.enrol(&config).await;
    let second = site.world.agent(&config).await;
    let (agent, code) = (newcomer.agent.to_string(), newcomer.keyid.to_string());
    let state = async || {
        let query = "query($id: ID!) { agent(id: $id) { state vouchSignedBy } }";
        site.world.query(query, json!({ "id": agent })).await["agent"].clone()
    };
    let vouch = async |signer: &crate::Signer, code: &str| {
        let holder = ["--yes", "--signer", text(&signer.file), "--passphrase-file", text(&signer.passphrase)];
        let root = site.known_root().await;
        site.cli(&[&["agent", "vouch", agent.as_str(), code, "--root", root.as_str()][..], &holder].concat()).await
    };

    // Another join code than the one that was read out, a stranger, and one signer alone.
    let wrong = vouch(&site.signers[0], &Digest::of(b"another").to_string()).await.unwrap_err();
    assert!(wrong.message.contains("do not vouch"), "{wrong:?}");
    let stranger = site.signer("dan").await;
    let refused = vouch(&stranger, &code).await.unwrap_err();
    assert!(refused.message.contains("signs no policies"), "{refused:?}");
    vouch(&site.signers[0], &code).await.unwrap();
    vouch(&site.signers[0], &code).await.unwrap();
    assert_eq!((state().await["state"].as_str(), state().await["vouchSignedBy"].as_array().unwrap().len()), (Some("ENROLLED"), 1));
    let forged = json!({ "agent": agent, "keyId": code, "signer": state().await["vouchSignedBy"][0], "signature": "A".repeat(4498) });
    let said = site.world.refused("signAgentVouch", forged).await;
    assert!(["vouch_not_genuine", "invalid_input"].contains(&said.as_str()), "{said}");

    vouch(&site.signers[2], &code).await.unwrap();
    assert_eq!(state().await["state"], "ROSTERED");
    // The other agent of the site believes it: it is sent the key.
    until(|| async {
        let query = "{ key(reference: \"payments/cards\") { versions { holders { agentId reported } } } }";
        let key = site.world.query(query, json!({})).await;
        let holders = key["key"]["versions"][0]["holders"].as_array().cloned().unwrap_or_default();
        let here = holders.iter().find(|holder| holder["agentId"] == agent.as_str());
        if here.is_some_and(|holder| holder["reported"] == "READY") { Ok(()) } else { Err(key.to_string()) }
    })
    .await;
    second.stop().await.unwrap();
    site.agent.stop().await.unwrap();
}
