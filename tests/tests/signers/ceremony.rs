//! Handing over, signing what waits, and changing who signs.

use schema::encoding::{Base64, Digest, from_base64url};
use serde_json::{Value, json};
use trust::{signing::Part, statement::Kind};

use super::super::*;

#[tokio::test(flavor = "multi_thread")]
async fn root_and_policy_pass_to_the_tenants_signers_and_only_enough_of_them_change_policy() {
    let site = Site::start().await;
    let stranger = site.signer("eve").await;
    let status = site.world.ask(&site.agent, "/v1/status").await;
    assert_eq!(status["root"]["serial"], "1");
    assert_eq!(
        site.cli(&["root", "sign", "--yes", "--signer", text(&stranger.file), "--passphrase-file", text(&stranger.passphrase)])
            .await
            .unwrap_err()
            .code,
        "proposal_not_found"
    );

    // A root that no root may be is refused at once.
    let mut unsound = vec!["root", "propose", "--root-threshold", "4", "--policy-threshold", "1"];
    for signer in &site.signers {
        unsound.extend(["--signer", text(&signer.file)]);
    }
    assert_eq!(site.cli(&unsound).await.unwrap_err().code, "root_unsound");

    // Proposed, it waits; one signer is not enough, and everything goes on as before.
    site.propose(3).await;
    let waits = site.until_waiting("ROOT", 1).await;
    assert_eq!(waits[0]["needs"], json!([{ "rootSerial": "2", "threshold": 2, "signers": waits[0]["needs"][0]["signers"], "signed": [] }]));
    let unnamed =
        ["root", "sign", "--yes", "--signer", text(&site.signers[0].file), "--passphrase-file", text(&site.signers[0].passphrase)];
    assert_eq!(site.cli(&unnamed).await.unwrap_err().code, "usage", "the first root is compared by a person");
    let wrong = Digest::of(b"another root").to_string();
    assert_eq!(site.cli(&[&unnamed[..], &["--root", &wrong]].concat()).await.unwrap_err().code, "root_not_pinned");
    assert_eq!(site.sign("root", &stranger, &[]).await.unwrap_err().code, "signer_not_in_role");
    site.sign("root", &site.signers[0], &[]).await.unwrap();
    site.until_waiting("POLICY", 2).await;
    site.sign("policy", &site.signers[0], &[]).await.unwrap();
    site.world.publish("permit (principal, action, resource);\npermit (principal, action == Action::\"encrypt\", resource);").await;
    let before = site.world.ask(&site.agent, "/v1/status").await;
    assert_eq!(before["root"]["serial"], "1");

    // The control plane still signs policy, and what it publishes takes the place of what waits for the new signers.
    let waits = until(|| async {
        let waits = site.waiting("POLICY").await;
        let fresh = waits.iter().any(|waits| waits["needs"][0]["signed"] == json!([]));
        if fresh && waits.len() == 2 { Ok(waits) } else { Err(format!("{waits:?}")) }
    })
    .await;
    assert!(waits.iter().all(|waits| waits["rootSerial"] == "2"));
    site.sign("policy", &site.signers[0], &[]).await.unwrap();
    site.sign("root", &site.signers[1], &[]).await.unwrap();
    site.sign("policy", &site.signers[1], &[]).await.unwrap();
    site.until_root(2).await;
    site.until_open().await;
    assert!(site.waiting("ROOT").await.is_empty());

    // From now on a change of policy waits, and what is in force goes on.
    site.world.publish(SEAL_ONLY).await;
    let first = site.until_waiting("POLICY", 1).await.remove(0);
    site.until_open().await;
    site.cli(&["policy", "pending"]).await.unwrap();
    site.sign("policy", &site.signers[0], &[]).await.unwrap();
    site.until_open().await;

    // Signatures that are not what they should be are refused by name.
    let pair = trust::passphrase::SealedPair::parse(&std::fs::read(&site.signers[0].file).unwrap()).unwrap();
    let pair = pair.open("correct horse battery staple").unwrap();
    let payload = from_base64url(first["payload"].as_str().unwrap()).unwrap();
    let submit = |waits: &Value, part: Part| {
        json!({
            "kind": "POLICY", "scope": waits["scope"], "sha256": waits["sha256"], "keyid": part.keyid.to_string(),
            "signature": Base64(part.bytes).to_string(),
        })
    };
    let honest = Part::sign(Kind::Policy, &payload, &pair);
    assert_eq!(site.world.refused("signStatement", submit(&first, honest.clone())).await, "statement_already_signed");
    let other_kind = Part::sign(Kind::Root, &payload, &pair);
    assert_eq!(site.world.refused("signStatement", submit(&first, other_kind)).await, "signature_not_genuine");
    let other = trust::pair::Pair::generate(&schema::clock::SystemIds);
    assert_eq!(site.world.refused("signStatement", submit(&first, Part::sign(Kind::Policy, &payload, &other))).await, "signer_not_in_role");
    let short = Part { bytes: honest.bytes[1..].to_vec(), ..honest.clone() };
    assert_eq!(site.world.refused("signStatement", submit(&first, short)).await, "invalid_input");

    // A newer change takes its place, with the signature it had.
    site.world.publish(&format!("{SEAL_ONLY}\nforbid (principal, action == Action::\"verify\", resource);")).await;
    let second = until(|| async {
        let waits = site.until_waiting("POLICY", 1).await.remove(0);
        if waits["sha256"] == first["sha256"] { Err("the first still waits".to_owned()) } else { Ok(waits) }
    })
    .await;
    assert_eq!((&second["supersedes"], &second["serial"]), (&first["sha256"], &first["serial"]));
    assert_eq!(site.world.refused("signStatement", submit(&first, honest)).await, "proposal_superseded");
    for signer in &site.signers[1..] {
        site.sign("policy", signer, &["payments"]).await.unwrap();
    }
    let sealed = site.seal("payments/cards").await;
    assert_eq!(sealed.0, 200);
    site.until_status("/v1/decrypt", &json!({ "message": sealed.1["message"] }), 403).await;
    assert!(site.waiting("POLICY").await.is_empty());
    site.agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signers_change_by_the_old_and_the_new_thresholds_and_policies_are_signed_again_where_they_must() {
    let mut site = Site::start().await;
    site.hand_over().await;
    // Ada and Ben leave, Cem and Dan stay: policies signed by Ada and Ben need new signatures.
    let dan = site.signer("dan").await;
    site.signers.push(dan);
    let mut propose = vec!["root", "propose", "--root-threshold", "2", "--policy-threshold", "2"];
    for signer in &site.signers[2..] {
        propose.extend(["--signer", text(&signer.file)]);
    }
    site.cli(&propose).await.unwrap();
    let waits = site.until_waiting("ROOT", 1).await;
    assert_eq!(waits[0]["needs"].as_array().unwrap().len(), 2, "old and new signers");
    let waits = site.until_waiting("POLICY", 2).await;
    assert!(waits.iter().all(|waits| waits["rootSerial"] == "3"), "{waits:?}");
    for signer in &site.signers[2..] {
        site.sign("root", signer, &[]).await.unwrap();
        site.sign("policy", signer, &[]).await.unwrap();
    }
    // The new ones alone cannot: the old threshold is missing Ada or Ben.
    let waits = site.until_waiting("ROOT", 1).await;
    assert_eq!(waits[0]["needs"][0]["signed"].as_array().unwrap().len(), 1, "{waits:?}");
    site.until_root(2).await;
    site.sign("root", &site.signers[0], &[]).await.unwrap();
    site.until_root(3).await;
    site.until_open().await;
    assert!(site.waiting("POLICY").await.is_empty());
    // Who left signs nothing any more.
    site.world.publish(SEAL_ONLY).await;
    site.until_waiting("POLICY", 1).await;
    assert_eq!(site.sign("policy", &site.signers[0], &[]).await.unwrap_err().code, "signer_not_in_role");
    site.agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_was_proposed_can_be_withdrawn() {
    let site = Site::start().await;
    site.propose(2).await;
    site.until_waiting("POLICY", 2).await;
    site.cli(&["root", "withdraw", "--reason", "Ada keeps her pair after all"]).await.unwrap();
    site.until_waiting("ROOT", 0).await;
    until(|| async {
        // What waited for its signers waits no more.
        let waiting = site.waiting("POLICY").await;
        if waiting.is_empty() { Ok(()) } else { Err(format!("{waiting:?}")) }
    })
    .await;
    assert_eq!(site.cli(&["root", "withdraw"]).await.unwrap_err().code, "proposal_not_found");
    // The control plane goes on signing.
    site.world.publish(SEAL_ONLY).await;
    let sealed = site.seal("payments/cards").await;
    site.until_status("/v1/decrypt", &json!({ "message": sealed.1["message"] }), 403).await;
    site.agent.stop().await.unwrap();
}
