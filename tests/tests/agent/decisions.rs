//! What may I do, and why not: `can`, keys, algorithms, key sets.

use schema::key::Purpose;
use serde_json::{Value, json};

use super::super::*;

const PAGED: u128 = 1000;

async fn get(site: &Site, token: &str, path: &str) -> (StatusCode, Value) {
    let answer = site.http.get(format!("http://{}{path}", site.agent().address)).bearer_auth(token).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_ask_what_they_may_do() {
    let mut site = Site::start().await;
    site.publish();
    let can = |token: String, body: Value| {
        let site = &site;
        async move { site.call("/v1/can", &token, body).await }
    };
    let billing = || site.billing.clone();
    let (status, answer) = can(billing(), json!({ "operation": "encrypt", "key": "payments/card-data" })).await;
    assert_eq!((status, &answer["allowed"], &answer["policies"]), (StatusCode::OK, &json!(true), &json!(["pol_test/0"])), "{answer}");
    assert_eq!(answer["key_version"], format!("{KEY}/1"));
    let refused = json!({ "operation": "encrypt", "key": "payments/card-data", "context": { "forbidden": "x" } });
    let (_, answer) = can(billing(), refused).await;
    assert_eq!((&answer["allowed"], &answer["refusal"]["code"]), (&json!(false), &json!("not_allowed_by_policy")));
    assert!(answer["refusal"]["facts"]["nearest"]["condition"].as_str().unwrap().contains("forbidden"), "{answer}");
    // What does not depend on policy is told as well.
    let (_, answer) = can(billing(), json!({ "operation": "sign", "key": "payments/card-data" })).await;
    assert_eq!(answer["refusal"]["code"], "wrong_purpose");
    let (_, answer) = can(billing(), json!({ "operation": "random" })).await;
    assert_eq!((&answer["allowed"], &answer["refusal"]["code"]), (&json!(false), &json!("not_allowed_by_policy")));
    for bad in [
        json!({ "operation": "encrypt" }),
        json!({ "operation": "random", "key": "payments/card-data" }),
        json!({ "operation": "fly", "key": "payments/card-data" }),
        json!({ "operation": "encrypt", "key": "nonsense" }),
    ] {
        assert_eq!(can(billing(), bad.clone()).await.0.as_u16(), 400, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_explained_to_whom_policy_lets_ask() {
    let mut site = Site::start().await;
    site.publish();
    let about = json!({ "caller": AUDITOR, "operation": "decrypt", "key": "payments/card-data" });
    // Whoever may do everything may also ask; the auditor may only verify.
    let (_, answer) = site.call("/v1/can", &site.billing, about).await;
    assert_eq!((&answer["allowed"], &answer["caller"]), (&json!(false), &json!(AUDITOR)), "{answer}");
    let about = json!({ "caller": CALLER, "operation": "decrypt", "key": "payments/card-data" });
    let (status, problem) = site.call("/v1/can", &site.auditor, about.clone()).await;
    assert_eq!((status.as_u16(), &problem["code"]), (403, &json!("not_allowed_by_policy")));
    // Nor does it learn who there is.
    for key in [json!("payments/card-data"), json!(null)] {
        let operation = if key.is_null() { "random" } else { "decrypt" };
        for caller in ["payments/billing", "payments/nobody"] {
            let about = json!({ "caller": caller, "operation": operation, "key": key });
            let (status, problem) = site.call("/v1/can", &site.auditor, about).await;
            assert_eq!((status.as_u16(), &problem["code"]), (403, &json!("not_allowed_by_policy")), "{caller}");
        }
    }
    let explain = format!("permit (principal == Caller::\"{AUDITOR}\", action == Action::\"explain\", resource);");
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), explain);
    site.republish();
    let (_, answer) = site.call("/v1/can", &site.auditor, about).await;
    assert_eq!(answer["allowed"], true, "{answer}");
    let named = json!({ "caller": "payments/auditor", "operation": "verify", "key": "payments/documents" });
    assert_eq!(site.call("/v1/can", &site.billing, named).await.1["allowed"], true);
    let nobody = json!({ "caller": "payments/nobody", "operation": "verify", "key": "payments/documents" });
    assert_eq!(site.call("/v1/can", &site.billing, nobody).await.1["code"], "caller_unknown");
    // The address asked about counts, not one's own.
    let inside = format!("forbid (principal == Caller::\"{AUDITOR}\", action, resource) unless {{ context.address.isLoopback() }};");
    site.world.project_policy().cedar.insert("pol_test/3".to_owned(), inside);
    site.republish();
    let from = |address: &str| json!({ "caller": AUDITOR, "operation": "verify", "key": "payments/documents", "address": address });
    assert_eq!(site.call("/v1/can", &site.billing, from("127.0.0.1")).await.1["allowed"], true);
    let (_, answer) = site.call("/v1/can", &site.billing, from("192.0.2.1")).await;
    assert_eq!(answer["refusal"]["facts"]["policies"], json!(["pol_test/3"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_find_the_keys_they_may_use() {
    let mut site = Site::start().await;
    site.publish();
    let (status, answer) = get(&site, &site.billing, "/v1/keys").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let keys = answer["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    let cards = keys.iter().find(|key| key["name"] == "payments/card-data").unwrap();
    assert_eq!((&cards["primary"], &cards["versions"]["1"], &cards["algorithm"]), (&json!(1), &json!("active"), &json!("A256KW+A256GCM")));
    assert_eq!((&cards["operations"]["encrypt"], cards["operations"].get("sign")), (&json!("allowed"), None));
    // Who may only verify sees the key to verify with, and nothing else.
    let (_, answer) = get(&site, &site.auditor, "/v1/keys").await;
    assert_eq!(answer["keys"].as_array().unwrap().len(), 1);
    assert_eq!(answer["keys"][0]["operations"], json!({ "verify": "allowed" }));
    let (_, answer) = get(&site, &site.billing, "/v1/keys?project=other").await;
    assert_eq!(answer["keys"], json!([]));
    assert_eq!(get(&site, &site.billing, "/v1/keys?aftr=x").await.0.as_u16(), 400);
    assert_eq!(get(&site, "fh_caller_nonsense", "/v1/keys").await.0.as_u16(), 401);

    let conditional = format!(
        "permit (principal == Caller::\"{AUDITOR}\", action == Action::\"decrypt\", resource) when {{ context.encryption.hasTag(\"a\") }};"
    );
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), conditional);
    site.republish();
    let (_, answer) = get(&site, &site.auditor, "/v1/keys").await;
    let cards = answer["keys"].as_array().unwrap().iter().find(|key| key["name"] == "payments/card-data").unwrap();
    assert_eq!(cards["operations"], json!({ "decrypt": "conditional" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_come_in_pages() {
    let mut site = Site::start().await;
    for number in 0..150 {
        let mut defined = definition();
        defined.name = format!("many-{number}").parse().unwrap();
        site.world.project_policy().keys.insert(KeyId::from_bits(PAGED + number), defined);
    }
    site.publish();
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let (_, answer) = get(&site, &site.billing, &format!("/v1/keys{after}")).await;
        let page: Vec<String> = answer["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect();
        assert!(page.len() <= 100);
        found.extend(page);
        match answer["next"].as_str() {
            Some(next) => after = format!("?after={next}"),
            None => break,
        }
    }
    assert_eq!(found.len(), 152);
    assert!(found.is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn public_keys_leave_as_sets_and_algorithms_are_listed() {
    let mut site = Site::start().await;
    site.define(KeyId::from_bits(62), "archive", "HPKE-9-KE", Purpose::Encrypt).await;
    site.rotate(SIGNING_KEY, 2, "ML-DSA-65").await;
    site.publish();
    let (_, set) = get(&site, &site.billing, "/v1/jwks").await;
    let ids: Vec<&str> = set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    assert!(ids.contains(&format!("{SIGNING_KEY}/1").as_str()) && ids.contains(&format!("{SIGNING_KEY}/2").as_str()));
    let (_, set) = get(&site, &site.billing, "/v1/keys/payments/documents/public?format=jwks").await;
    assert_eq!(set["keys"].as_array().unwrap().len(), 2);
    assert_eq!(get(&site, &site.auditor, "/v1/jwks").await.1["keys"], json!([]));

    let (_, answer) = get(&site, &site.auditor, "/v1/algorithms").await;
    let row = answer["algorithms"].as_array().unwrap().iter().find(|row| row["name"] == "A256KW+A256GCM").unwrap();
    assert_eq!((&row["enabled"], &row["status"]), (&json!(true), &json!("recommended")));
    assert!(row["operations"]["wrap"].as_array().unwrap().contains(&json!("unwrap")), "{row}");
}
