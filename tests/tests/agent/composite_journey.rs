//! A composite from its creation at the control plane to its retirement, as people and applications meet it.

use freehold_tests::world::{World as System, until};
use schema::encoding::base64url;
use serde_json::{Value, json};

const PLAIN: &str = "plain_http = true";
const POLICY: &str = "permit (principal, action, resource);";

async fn key(system: &System, name: &str, algorithm: &str, purpose: &str) -> String {
    let key = json!({
        "project": "payments", "name": name, "algorithm": algorithm, "purpose": purpose,
        "placement": ["fra"], "durability": "SINGLE_COPY",
    });
    system.mutate("createKey", key, "key { id }").await["key"]["id"].as_str().unwrap().to_owned()
}

/// The code of a command's error.
async fn refused(system: &System, arguments: &[&str]) -> String {
    system.cli(arguments).await.unwrap_err().code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_composite_from_its_creation_to_its_end() {
    let system = System::start().await;
    let config = system.agent_config("agent", PLAIN);
    system.enrol(&config).await;
    let agent = system.agent(&config).await;
    let token = system.caller("app", &config).await;
    system.publish(POLICY).await;
    let classical = key(&system, "contracts-classical", "ECDSA-P256", "SIGN").await;
    key(&system, "contracts-post-quantum", "ML-DSA-65", "SIGN").await;
    key(&system, "contracts-sealed", "HPKE-9-KE", "ENCRYPT").await;

    let create = |name: &'static str, classical: &'static str, post_quantum: &'static str| {
        let names = ["composite", "create", name, "--project", "payments", "--classical", classical, "--post-quantum", post_quantum];
        [&names[..], &["--encryption", "payments/contracts-sealed", "--rule", "any"]].concat()
    };
    let (one, other) = ("payments/contracts-classical", "payments/contracts-post-quantum");
    assert_eq!(refused(&system, &create("contracts", other, one)).await, "composite_key_not_classical");
    assert_eq!(refused(&system, &create("contracts", one, one)).await, "composite_key_not_post_quantum");
    assert_eq!(refused(&system, &create("contracts", one, "payments/none")).await, "not_found");
    assert_eq!(refused(&system, &create("contracts-sealed", one, other)).await, "composite_name_is_taken");
    // Repeated with its key, it is the same creation.
    let keyed = [&create("contracts", one, other)[..], &["--idempotency-key", "create-contracts"]].concat();
    system.cli(&keyed).await.unwrap();
    system.cli(&keyed).await.unwrap();
    assert_eq!(refused(&system, &create("contracts", one, other)).await, "composite_exists");
    assert_eq!(refused(&system, &["key", "alias", "--project", "payments", "contracts", one]).await, "alias_is_a_composite_name");
    let same_name = ["key", "create", "contracts", "--project", "payments", "--algorithm", "Ed25519", "--purpose", "sign", "--site", "fra"];
    assert_eq!(refused(&system, &[&same_name[..], &["--durability", "single-copy"]].concat()).await, "key_name_is_a_composite");
    system.cli(&["composite", "show", "payments/contracts"]).await.unwrap();
    system.cli(&["composite", "list", "--rule", "any", "--key", one, "--search", "contr"]).await.unwrap();

    let fields = "id name rule state revision createdAt project { name } classical { name algorithm { name } } postQuantum { name } encryption { name }";
    let shown = async |reference: &str| {
        let query = format!("{{ composite(reference: \"{reference}\") {{ {fields} }} }}");
        system.query(&query, json!({})).await["composite"].clone()
    };
    let made = shown("payments/contracts").await;
    assert_eq!(
        (&made["rule"], &made["state"], &made["classical"]["algorithm"]["name"]),
        (&json!("ANY"), &json!("ACTIVE"), &json!("ECDSA-P256"))
    );
    assert_eq!((&made["postQuantum"]["name"], &made["encryption"]["name"]), (&json!("contracts-post-quantum"), &json!("contracts-sealed")));
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("cmp_"));
    assert_eq!(shown(&id).await, made);
    let node = system.query(&format!("{{ node(id: \"{id}\") {{ id ... on Composite {{ name }} }} }}"), json!({})).await;
    assert_eq!(node["node"]["name"], "contracts");
    let listed = async |filter: &str| {
        let query = format!("{{ composites(first: 10, {filter}) {{ nodes {{ name }} }} }}");
        system.query(&query, json!({})).await["composites"]["nodes"].as_array().unwrap().len()
    };
    assert_eq!(listed("project: \"payments\", rule: ANY, state: ACTIVE, search: \"tract\"").await, 1);
    assert_eq!(listed("key: \"payments/contracts-post-quantum\"").await, 1);
    assert_eq!(listed("rule: ALL").await, 0);

    // At the agent, as soon as its statements and keys are there.
    let sign = json!({ "key": "payments/contracts", "payload": base64url(b"a contract") });
    let signed = system.until_allowed(&agent, "/v1/sign", &token, &sign).await;
    assert_eq!((&signed["algorithm"], &signed["also"]["algorithm"]), (&json!("ECDSA-P256"), &json!("ML-DSA-65")), "{signed}");
    assert!(signed["key_version"].as_str().unwrap().starts_with(&classical), "{signed}");
    let whole: Value = serde_json::from_str(signed["signature"].as_str().unwrap()).unwrap();
    let mut stripped = whole.clone();
    stripped["signatures"].as_array_mut().unwrap().pop();
    let judge = async |message: &Value| {
        let body = json!({ "key": "payments/contracts", "signature": message.to_string() });
        system.call(&agent, "/v1/verify", &token, &body).await.1
    };
    let becomes = async |message: &Value, valid: bool, rule: &str| {
        until(|| async {
            let answer = judge(message).await;
            let as_expected = answer["valid"] == valid && answer["composite"]["rule"] == rule;
            if as_expected { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
    };
    becomes(&whole, true, "any").await;
    becomes(&stripped, true, "any").await;
    // Each use is on record by itself, under its own key.
    until(|| async {
        let query = "{ receipts(last: 100, operation: SIGN, outcome: OK) { nodes { keyVersion request } } }";
        let receipts = system.query(query, json!({})).await["receipts"]["nodes"].clone();
        let request_of = |version: &Value| {
            receipts.as_array().unwrap().iter().find(|receipt| receipt["keyVersion"] == *version).map(|receipt| receipt["request"].clone())
        };
        match (request_of(&signed["key_version"]), request_of(&signed["also"]["key_version"])) {
            (Some(one), Some(other)) if one == other => Ok(()),
            _ => Err(receipts.to_string()),
        }
    })
    .await;
    let seal = json!({ "key": "payments/contracts", "plaintext": base64url(b"sealed") });
    let sealed = system.until_allowed(&agent, "/v1/encrypt", &token, &seal).await;
    assert_eq!(sealed["algorithm"], "HPKE-9-KE");

    system.cli(&["composite", "tighten", "payments/contracts", "pq-required", "--reason", "the audit"]).await.unwrap();
    becomes(&stripped, false, "pq-required").await;
    becomes(&whole, true, "pq-required").await;
    assert_eq!(
        refused(&system, &["composite", "tighten", "payments/contracts", "classical-required"]).await,
        "composite_rule_not_stricter"
    );
    assert_eq!(refused(&system, &["composite", "loosen", "payments/contracts", "all", "--reason", "x"]).await, "composite_rule_not_looser");

    // Whoever manages keys may tighten a rule, and not loosen it.
    let manager = system.mutate("createToken", json!({ "name": "keys", "scopes": ["KEY_MANAGER"] }), "secret").await;
    let manager = manager["secret"].as_str().unwrap().to_owned();
    let as_manager = async |name: &str, input: Value| {
        let kind = format!("{}{}Input", name[..1].to_uppercase(), &name[1..]);
        let query = format!("mutation($input: {kind}!) {{ {name}(input: $input) {{ composite {{ rule }} userErrors {{ code }} }} }}");
        let body = json!({ "query": query, "variables": { "input": input } });
        let answer = reqwest::Client::new().post(system.plane.graphql_url()).bearer_auth(&manager).json(&body).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    let loosen = json!({ "composite": "payments/contracts", "rule": "ANY", "reason": "easier" });
    let denied = as_manager("loosenCompositeRule", loosen).await;
    assert!(denied.to_string().contains("forbidden"), "{denied}");
    let tightened = as_manager("tightenCompositeRule", json!({ "composite": "payments/contracts", "rule": "ALL" })).await;
    assert_eq!(tightened["data"]["tightenCompositeRule"]["composite"]["rule"], "ALL", "{tightened}");
    becomes(&whole, true, "all").await;

    system
        .cli(&["composite", "loosen", "payments/contracts", "classical-required", "--reason", "a partner verifies only this"])
        .await
        .unwrap();
    becomes(&stripped, true, "classical-required").await;
    let as_made = format!("{{ composite(reference: \"{id}\", asOf: {}) {{ rule }} }}", made["createdAt"]);
    assert_eq!(system.query(&as_made, json!({})).await["composite"]["rule"], "ANY", "as it was then");
    let stale = json!({ "composite": id, "rule": "ALL", "expectedRevision": "1" });
    let stale = as_manager("tightenCompositeRule", stale).await;
    assert!(!stale["data"]["tightenCompositeRule"]["userErrors"].as_array().unwrap().is_empty(), "{stale}");
    // What policy demands holds all the same.
    system.publish(&format!("@require_signatures(\"all\") {POLICY}")).await;
    becomes(&stripped, false, "all").await;
    system.cli(&["composite", "describe", "payments/contracts", "Contracts with partners"]).await.unwrap();

    let events = format!("{{ events(first: 100, stream: \"{id}\") {{ nodes {{ type }} }} }}");
    let events = system.query(&events, json!({})).await.to_string();
    for event in ["CompositeCreated", "CompositeRuleTightened", "CompositeRuleLoosened", "CompositeDescribed"] {
        assert!(events.contains(event), "{event} is not on record");
    }

    system.cli(&["composite", "retire", "payments/contracts"]).await.unwrap();
    assert_eq!(refused(&system, &["composite", "tighten", "payments/contracts", "all"]).await, "composite_retired");
    until(|| async {
        let answer = judge(&whole).await;
        if answer["code"] == "key_not_found" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    system.publish(POLICY).await;
    let alone = json!({ "key": one, "payload": "" });
    system.until_allowed(&agent, "/v1/sign", &token, &alone).await;
    agent.stop().await.unwrap();
    system.plane.stop().await;
}
