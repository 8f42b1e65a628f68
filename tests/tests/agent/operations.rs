//! Operations over JSON: batches, two keys, bare bytes, obligations.

use data_plane_agent::journal::Journal as _;
use schema::{encoding::base64url, id::KeyId, key::Purpose};
use serde_json::{Value, json};

use super::super::*;

const WRAPPING_KEY: KeyId = KeyId::from_bits(61);
const OTHER_KEY: KeyId = KeyId::from_bits(62);

/// A site with a key to wrap with, and another to encrypt with.
async fn site() -> Site {
    let mut site = Site::start().await;
    site.define(WRAPPING_KEY, "wrapping", "A256KW+A256GCM", Purpose::Wrap).await;
    site.define(OTHER_KEY, "archive", "HPKE-9-KE", Purpose::Encrypt).await;
    site.publish();
    site
}

fn ok((status, answer): (StatusCode, Value)) -> Value {
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

fn code((status, answer): (StatusCode, Value)) -> (u16, String) {
    assert_ne!(status, StatusCode::OK, "{answer}");
    (status.as_u16(), answer["code"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_batch_fail_one_by_one() {
    let site = site().await;
    let before = site.agent().journal().status().durable;
    let item = |key: &str, context: Value| json!({ "key": key, "plaintext": base64url(b"4111"), "context": context });
    let items = json!({ "items": [
        item("payments/card-data", json!({ "row": "1" })),
        item("payments/none", json!({})),
        item("payments/card-data", json!({ "forbidden": "x" })),
        item("payments/archive", json!({})),
        item("payments", json!({})),
        item("payments/card-data", json!({ "row": "1" })),
    ] });
    let answer = ok(site.call("/v1/batch/encrypt", &site.billing, items).await);
    let statuses: Vec<u64> = answer["items"].as_array().unwrap().iter().map(|item| item["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 404, 403, 200, 400, 200], "{answer}");
    assert_eq!((&answer["succeeded"], &answer["failed"]), (&json!(3), &json!(3)));
    assert_eq!(answer["items"][2]["problem"]["facts"]["nearest"]["policy"], "pol_test/0");
    assert_eq!(answer["items"][3]["answer"]["warnings"][0]["code"], "algorithm_draft");
    // Each operation has an intent of its own, on disk before the answer.
    assert!(site.agent().journal().status().durable >= before + 3);

    let open = |place: usize, context: Value| json!({ "message": answer["items"][place]["answer"]["message"], "context": context });
    let items =
        json!({ "items": [open(0, json!({ "row": "1" })), open(5, json!({ "row": "2" })), open(3, json!({})), { "message": "junk" }] });
    let opened = ok(site.call("/v1/batch/decrypt", &site.billing, items).await);
    let found = |place: usize| opened["items"][place]["problem"]["code"].as_str();
    assert_eq!((found(0), found(1), found(2), found(3)), (None, Some("context_mismatch"), None, Some("malformed")), "{opened}");
    assert_eq!(opened["items"][2]["answer"]["plaintext"], base64url(b"4111"));
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_come_in_batches() {
    let mut site = site().await;
    let items = |sizes: &[u32]| json!({ "items": sizes.iter().map(|size| json!({ "bytes": size })).collect::<Vec<_>>() });
    let refused = ok(site.call("/v1/batch/random", &site.billing, items(&[8, 0])).await);
    let codes = |answer: &Value| [0, 1].map(|place| answer["items"][place]["problem"]["code"].clone());
    assert_eq!(codes(&refused), [json!("not_allowed_by_policy"), json!("invalid_body")], "a project's policy does not reach the site");
    let policy = format!(
        "permit (principal == Caller::\"{CALLER}\", action == Action::\"random\", resource) when {{ context has size && context.size <= 1000 }};"
    );
    site.world.policies.get_mut(&Scope::Tenant).unwrap().cedar.insert("pol_random/0".to_owned(), policy);
    site.world.tick_policy(Scope::Tenant);
    site.world.tick();
    site.publish();
    let before = site.agent().journal().status().durable;
    let answer = ok(site.call("/v1/batch/random", &site.billing, items(&[8, 1001, 32, 70_000, 8])).await);
    let statuses: Vec<u64> = answer["items"].as_array().unwrap().iter().map(|item| item["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 403, 200, 400, 200], "{answer}");
    assert_eq!((&answer["succeeded"], &answer["failed"]), (&json!(3), &json!(2)));
    let bytes = |place: usize| from_base64url(answer["items"][place]["answer"]["random"].as_str().unwrap()).unwrap();
    assert_eq!((bytes(0).len(), bytes(2).len(), bytes(4).len()), (8, 32, 8));
    assert_ne!(bytes(0), bytes(4));
    assert_eq!(answer["items"][2]["answer"]["policies"], json!(["pol_random/0"]));
    assert!(site.agent().journal().status().durable >= before + 3, "each has an intent of its own");
    assert_eq!(code(site.call("/v1/batch/random", &site.billing, items(&[])).await), (400, "batch_size".to_owned()));
    assert_eq!(code(site.call("/v1/batch/random", &site.billing, items(&[65_536; 17])).await), (413, "too_long".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_have_a_size() {
    let site = site().await;
    let items = |count: usize| json!({ "items": vec![json!({ "key": "payments/card-data", "plaintext": "" }); count] });
    for count in [0, 1001] {
        assert_eq!(code(site.call("/v1/batch/encrypt", &site.billing, items(count)).await), (400, "batch_size".to_owned()));
    }
    assert_eq!(ok(site.call("/v1/batch/encrypt", &site.billing, items(1000)).await)["succeeded"], 1000);
    let answer = ok(site.call("/v1/batch/encrypt", &site.auditor, items(3)).await);
    assert_eq!((&answer["succeeded"], &answer["items"][2]["status"]), (&json!(0), &json!(403)));
    let unread = json!({ "items": [{ "key": "payments/card-data", "plaintext": "", "contxt": {} }] });
    assert_eq!(code(site.call("/v1/batch/encrypt", &site.billing, unread).await), (400, "invalid_body".to_owned()));
    assert_eq!(code(site.call("/v1/batch/encrypt", "fh_caller_nonsense", items(1)).await), (401, "caller_not_proved".to_owned()));
    let (status, _) = site.call("/v1/batch/none", &site.billing, items(1)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_refuses_the_whole_batch() {
    let more = "[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 2\n[journal]\nsegment = \"128KiB\"\nlimit = \"384KiB\"";
    let mut site = Site::start_with(more, START).await;
    site.publish();
    let items = json!({ "items": vec![json!({ "key": "payments/card-data", "plaintext": "" }); 100] });
    for _ in 0..100 {
        let (status, answer) = site.call("/v1/batch/encrypt", &site.billing, items.clone()).await;
        if status != StatusCode::OK {
            assert_eq!((status.as_u16(), answer["code"].as_str()), (503, Some("journal_full")));
            return;
        }
    }
    panic!("the journal never filled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_counts_as_its_items() {
    let more = "[server]\nlisten = \"127.0.0.1:0\"\nplain_http = true\nworkers = 2\n[limits]\nrequests_per_second = 5";
    let mut site = Site::start_with(more, START).await;
    site.publish();
    let items = |count: usize| json!({ "items": vec![json!({ "key": "payments/card-data", "plaintext": "" }); count] });
    assert_eq!(code(site.call("/v1/batch/encrypt", &site.billing, items(6)).await), (429, "too_many_requests".to_owned()));
    ok(site.call("/v1/batch/encrypt", &site.billing, items(5)).await);
    assert_eq!(code(site.encrypt(&site.billing).await), (429, "too_many_requests".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn rewrapping_moves_to_the_newest_version() {
    let mut site = site().await;
    let sealed = ok(site.encrypt(&site.billing).await);
    let wrapped = ok(site.call("/v1/wrap", &site.billing, json!({ "key": "payments/wrapping", "plaintext": base64url(&[7; 32]) })).await);
    let file = sealed_file(&site, std::num::NonZeroU64::new(50_000).unwrap()).await;
    site.rotate(KEY, 2, "A256KW+A256GCM").await;
    site.rotate(WRAPPING_KEY, 2, "A256KW+A256GCM").await;
    site.republish();

    let request = json!({ "message": sealed["message"], "context": { "a": "1" } });
    let anew = ok(site.call("/v1/rewrap", &site.billing, request).await);
    assert_eq!((&anew["source"]["key_version"], &anew["key_version"]), (&json!(format!("{KEY}/1")), &json!(format!("{KEY}/2"))));
    assert!(anew.get("plaintext").is_none());
    let opened = ok(site.call("/v1/decrypt", &site.billing, json!({ "message": anew["message"], "context": { "a": "1" } })).await);
    assert_eq!((opened["plaintext"].as_str(), &opened["key_version"]), (Some(base64url(b"4111").as_str()), &anew["key_version"]));
    let request = json!({ "message": sealed["message"], "context": { "a": "2" } });
    assert_eq!(code(site.call("/v1/rewrap", &site.billing, request).await), (400, "context_mismatch".to_owned()));

    let request = json!({ "wrapped": wrapped["wrapped"], "key": wrapped["key_version"] });
    let anew = ok(site.call("/v1/rewrap", &site.billing, request).await);
    assert_eq!(anew["key_version"], format!("{WRAPPING_KEY}/2"));
    let unwrap = |key: &Value| json!({ "key": key, "wrapped": anew["wrapped"] });
    let opened = ok(site.call("/v1/unwrap", &site.billing, unwrap(&anew["key_version"])).await);
    assert_eq!(opened["plaintext"], base64url(&[7; 32]));
    assert_eq!(code(site.call("/v1/unwrap", &site.billing, unwrap(&wrapped["key_version"])).await), (400, "not_genuine".to_owned()));
    // Of a file only the header goes through: the body stays where it is.
    let header = header_bytes(&file);
    let request = |bytes: &[u8]| json!({ "file_header": base64url(bytes), "context": { "purpose": "backup" } });
    let anew = ok(site.call("/v1/rewrap", &site.billing, request(&file[..header])).await);
    assert_eq!(anew["key_version"], format!("{KEY}/2"));
    let whole = [from_base64url(anew["file_header"].as_str().unwrap()).unwrap(), file[header..].to_vec()].concat();
    let opened =
        site.post("/v1/stream/decrypt", &site.billing).header("freehold-context", context_header()).body(whole).send().await.unwrap();
    assert_eq!(opened.headers()["freehold-key-version"], format!("{KEY}/2"));
    assert_eq!(opened.bytes().await.unwrap().len(), 50_000);
    assert_eq!(code(site.call("/v1/rewrap", &site.billing, request(&file[..header + 1])).await), (400, "malformed".to_owned()));
    assert_eq!(code(site.call("/v1/rewrap", &site.billing, request(&file[..header - 1])).await), (400, "truncated".to_owned()));
    let mut changed = file[..header].to_vec();
    changed[header - 1] = b'\t';
    assert_eq!(code(site.call("/v1/rewrap", &site.billing, request(&changed)).await), (400, "malformed".to_owned()));

    for bad in [json!({}), json!({ "wrapped": "AA" }), json!({ "wrapped": "AA", "key": "payments/wrapping" })] {
        assert_eq!(site.call("/v1/rewrap", &site.billing, bad).await.0.as_u16(), 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn re_encrypting_asks_both_keys() {
    let mut site = site().await;
    let mover = "permit (principal == Caller::\"AUDITOR\", action == Action::\"re-encrypt\", resource == Key::\"FROM\");\n";
    let target = "permit (principal == Caller::\"AUDITOR\", action == Action::\"encrypt\", resource == Key::\"TO\");\n";
    let named =
        |text: &str| text.replace("AUDITOR", &AUDITOR.to_string()).replace("FROM", &KEY.to_string()).replace("TO", &OTHER_KEY.to_string());
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), named(mover));
    site.republish();
    let sealed = ok(site.encrypt(&site.billing).await);
    let request = json!({ "message": sealed["message"], "context": { "a": "1" }, "key": "payments/archive", "new_context": { "b": "2" } });
    assert_eq!(code(site.call("/v1/re-encrypt", &site.auditor, request.clone()).await), (403, "not_allowed_by_policy".to_owned()));
    site.world.project_policy().cedar.insert("pol_test/3".to_owned(), named(target));
    site.republish();
    let moved = ok(site.call("/v1/re-encrypt", &site.auditor, request.clone()).await);
    assert_eq!((&moved["policies"], &moved["source"]["policies"]), (&json!(["pol_test/3"]), &json!(["pol_test/2"])));
    // Whoever moves does not read.
    let open = |message: &Value, context: Value| json!({ "message": message, "context": context });
    assert_eq!(site.call("/v1/decrypt", &site.auditor, open(&sealed["message"], json!({ "a": "1" }))).await.0, StatusCode::FORBIDDEN);
    let opened = ok(site.call("/v1/decrypt", &site.billing, open(&moved["message"], json!({ "b": "2" }))).await);
    assert_eq!(
        (opened["plaintext"].as_str(), opened["key_version"].as_str()),
        (Some(base64url(b"4111").as_str()), Some(format!("{OTHER_KEY}/1").as_str()))
    );
    let mut wrong = request;
    wrong["context"] = json!({ "a": "9" });
    assert_eq!(code(site.call("/v1/re-encrypt", &site.auditor, wrong).await), (400, "context_mismatch".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn re_signing_verifies_first() {
    let mut site = site().await;
    let ed25519 = KeyId::from_bits(64);
    site.define(ed25519, "old-documents", "Ed25519", Purpose::Sign).await;
    site.republish();
    let payload = base64url(b"a contract");
    let body = json!({ "key": "payments/old-documents", "payload": payload, "detached": true });
    let signed = ok(site.call("/v1/sign", &site.billing, body).await);
    let request =
        |payload: &str| json!({ "signature": signed["signature"], "payload": payload, "key": "payments/documents", "detached": true });
    let anew = ok(site.call("/v1/re-sign", &site.billing, request(&payload)).await);
    assert_eq!((&anew["algorithm"], &anew["source"]["algorithm"]), (&json!("ML-DSA-65"), &json!("Ed25519")));
    let check = json!({ "signature": anew["signature"], "payload": payload });
    assert_eq!(ok(site.call("/v1/verify", &site.auditor, check).await)["valid"], true);
    assert_eq!(code(site.call("/v1/re-sign", &site.billing, request(&base64url(b"other"))).await), (400, "not_genuine".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_for_several_keys_open_with_each() {
    let site = site().await;
    let body = |also: Value| json!({ "key": "payments/card-data", "also_for": also, "plaintext": base64url(b"for both") });
    // A message to a post-quantum key is for no weaker one, and A256KW is none: both are strong.
    let sealed = ok(site.call("/v1/encrypt", &site.billing, body(json!(["payments/archive"]))).await);
    assert_eq!(sealed["also_for"][0]["key_version"], format!("{OTHER_KEY}/1"));
    let opened = ok(site.call("/v1/decrypt", &site.billing, json!({ "message": sealed["message"] })).await);
    assert_eq!(opened["plaintext"], base64url(b"for both"));
    assert_eq!(code(site.call("/v1/encrypt", &site.billing, body(json!(["payments/documents"]))).await), (400, "wrong_purpose".to_owned()));
    let many = json!(vec!["payments/archive"; 24]);
    assert_eq!(code(site.call("/v1/encrypt", &site.billing, body(many)).await), (400, "recipient_count".to_owned()));
}

/// The parts of a message for several keys: its headers, and what each recipient has.
fn parts(message: &Value) -> (Value, Vec<Value>) {
    let mut json: Value = serde_json::from_str(message.as_str().unwrap()).unwrap();
    let recipients = json.as_object_mut().unwrap().remove("recipients").unwrap();
    (json, recipients.as_array().unwrap().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_recipients_is_rewrapped_and_the_others_open_as_before() {
    let mut site = site().await;
    let body = json!({
        "key": "payments/card-data", "also_for": ["payments/archive"], "plaintext": base64url(b"for both"), "context": { "a": "1" }
    });
    let sealed = ok(site.call("/v1/encrypt", &site.billing, body).await);
    site.rotate(KEY, 2, "A256KW+A256GCM").await;
    site.rotate(OTHER_KEY, 2, "HPKE-9-KE").await;
    site.republish();
    let context = json!({ "a": "1" });
    let (shared, before) = parts(&sealed["message"]);
    // The first that is at this site, when none is named.
    let anew = ok(site.call("/v1/rewrap", &site.billing, json!({ "message": sealed["message"], "context": context })).await);
    assert_eq!((&anew["source"]["key_version"], &anew["key_version"]), (&json!(format!("{KEY}/1")), &json!(format!("{KEY}/2"))));
    let (still, after) = parts(&anew["message"]);
    assert_eq!((&still, after.len(), &after[1]), (&shared, 2, &before[1]), "only one recipient changes");
    assert_eq!(after[0]["header"], json!({ "alg": "A256KW", "kid": format!("{KEY}/2") }));
    assert_ne!(after[0]["encrypted_key"], before[0]["encrypted_key"]);
    // The other one, by each way to name it.
    for named in [json!("payments/archive"), json!(OTHER_KEY), json!(format!("{OTHER_KEY}/1"))] {
        let request = json!({ "message": anew["message"], "key": named, "context": context });
        let both = ok(site.call("/v1/rewrap", &site.billing, request).await);
        assert_eq!(both["key_version"], format!("{OTHER_KEY}/2"), "{named}");
        let (still, moved) = parts(&both["message"]);
        assert_eq!((&still, &moved[0]), (&shared, &after[0]));
        opens_with_each(&site, &both["message"], &[KEY, OTHER_KEY]).await;
    }
    opens_with_each(&site, &anew["message"], &[KEY, OTHER_KEY]).await;

    let refused = |field: &'static str, value: Value| {
        let mut request = json!({ "message": sealed["message"], "context": context });
        request[field] = value;
        async { code(site.call("/v1/rewrap", &site.billing, request).await) }
    };
    assert_eq!(refused("key", json!("payments/documents")).await, (400, "other_key".to_owned()));
    assert_eq!(refused("key", json!(format!("{KEY}/2"))).await, (400, "other_key".to_owned()));
    assert_eq!(refused("format", json!("compact")).await, (400, "invalid_body".to_owned()));
    assert_eq!(refused("context", json!({ "a": "2" })).await, (400, "context_mismatch".to_owned()));
    // What was changed on the way is not passed on as if it were whole.
    let mut changed: Value = serde_json::from_str(sealed["message"].as_str().unwrap()).unwrap();
    changed["ciphertext"] = json!(base64url(b"for both"));
    assert_eq!(refused("message", json!(changed.to_string())).await, (400, "not_genuine".to_owned()));
}

/// Whether a message opens with each of these keys, when it is the only one that policy allows.
async fn opens_with_each(site: &Site, message: &Value, keys: &[KeyId]) {
    for key in keys {
        let mut alone: Value = serde_json::from_str(message.as_str().unwrap()).unwrap();
        let recipients = alone["recipients"].as_array_mut().unwrap();
        recipients.retain(|one| one["header"]["kid"].as_str().unwrap().starts_with(&key.to_string()));
        assert_eq!(recipients.len(), 1, "{key}");
        let opened = ok(site.call("/v1/decrypt", &site.billing, json!({ "message": alone.to_string(), "context": { "a": "1" } })).await);
        assert_eq!(opened["plaintext"], base64url(b"for both"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_recipients_is_replaced_by_another_key() {
    let mut site = site().await;
    let (third, weak) = (KeyId::from_bits(63), KeyId::from_bits(64));
    site.define(third, "vaulted", "A256KW+A256GCM", Purpose::Encrypt).await;
    site.define(weak, "curve", "ECDH-ES-P256", Purpose::Encrypt).await;
    site.republish();
    let seal = |also: &str| json!({ "key": "payments/card-data", "also_for": [also], "plaintext": base64url(b"for both"), "context": { "a": "1" } });
    let sealed = ok(site.call("/v1/encrypt", &site.billing, seal("payments/archive")).await);
    let request = |key: &str| json!({ "message": sealed["message"], "context": { "a": "1" }, "key": key });
    let moved = ok(site.call("/v1/re-encrypt", &site.billing, request("payments/vaulted")).await);
    assert_eq!((&moved["source"]["key_version"], &moved["key_version"]), (&json!(format!("{KEY}/1")), &json!(format!("{third}/1"))));
    let ((shared, before), (still, after)) = (parts(&sealed["message"]), parts(&moved["message"]));
    assert_eq!((&still, &after[1]), (&shared, &before[1]));
    opens_with_each(&site, &moved["message"], &[third, OTHER_KEY]).await;
    // Beside a post-quantum recipient stands none that is weaker; in its place a weaker one may.
    let request =
        |key: &str, source: &str| json!({ "message": sealed["message"], "context": { "a": "1" }, "key": key, "source_key": source });
    let refused = site.call("/v1/re-encrypt", &site.billing, request("payments/curve", "payments/card-data")).await;
    assert_eq!(code(refused), (400, "recipient_count".to_owned()));
    let moved = ok(site.call("/v1/re-encrypt", &site.billing, request("payments/curve", "payments/archive")).await);
    opens_with_each(&site, &moved["message"], &[KEY, weak]).await;
    // The draft that a post-quantum recipient follows stands in the header that all share.
    let plain = ok(site.call("/v1/encrypt", &site.billing, seal("payments/vaulted")).await);
    let request = json!({ "message": plain["message"], "context": { "a": "1" }, "key": "payments/archive" });
    assert_eq!(code(site.call("/v1/re-encrypt", &site.billing, request).await), (400, "recipient_count".to_owned()));
    // So does the context.
    let request = json!({ "message": sealed["message"], "context": { "a": "1" }, "key": "payments/vaulted", "new_context": { "b": "2" } });
    let (status, problem) = site.call("/v1/re-encrypt", &site.billing, request).await;
    assert_eq!((status.as_u16(), &problem["code"], &problem["field"]), (400, &json!("recipient_count"), &json!("new_context")));
    // Policy sees that it is for several.
    let alone = "forbid (principal, action == Action::\"encrypt\", resource) when { context has recipients && context.recipients > 1 };";
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), alone.to_owned());
    site.republish();
    let request = json!({ "message": sealed["message"], "context": { "a": "1" }, "key": "payments/vaulted" });
    assert_eq!(code(site.call("/v1/re-encrypt", &site.billing, request).await), (403, "forbidden_by_policy".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_recipients_share_cannot_change_for_one() {
    let mut site = site().await;
    let third = KeyId::from_bits(63);
    site.define(third, "vaulted", "A256KW+A256GCM", Purpose::Encrypt).await;
    site.republish();
    // Another program's message: the algorithm of all stands in the protected header, or beside it.
    let two = |shared: &str| {
        let body = json!({ "key": "payments/card-data", "also_for": ["payments/vaulted"], "plaintext": base64url(b"for both") });
        let shared = shared.to_owned();
        let site = &site;
        async move {
            let sealed = ok(site.call("/v1/encrypt", &site.billing, body).await);
            let mut json: Value = serde_json::from_str(sealed["message"].as_str().unwrap()).unwrap();
            for recipient in json["recipients"].as_array_mut().unwrap() {
                recipient["header"].as_object_mut().unwrap().remove(&shared);
            }
            json["unprotected"] = json!({ shared: "A256KW" });
            json
        }
    };
    let message = two("alg").await;
    site.rotate(KEY, 2, "A256KW+A256GCM").await;
    site.republish();
    let anew = ok(site.call("/v1/rewrap", &site.billing, json!({ "message": message.to_string() })).await);
    let (_, recipients) = parts(&anew["message"]);
    assert_eq!(recipients[0]["header"], json!({ "kid": format!("{KEY}/2") }), "a parameter stands in one header only");
    let opened = ok(site.call("/v1/decrypt", &site.billing, json!({ "message": anew["message"] })).await);
    assert_eq!((&opened["plaintext"], &opened["key_version"]), (&json!(base64url(b"for both")), &json!(format!("{KEY}/2"))));
    let request = json!({ "message": message.to_string(), "key": "payments/archive" });
    let (status, problem) = site.call("/v1/re-encrypt", &site.billing, request).await;
    assert_eq!((status.as_u16(), problem["code"].as_str()), (400, Some("recipient_count")));
    assert!(problem["detail"].as_str().unwrap().contains("\"alg\""), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_bytes_need_keys_of_their_own_purpose() {
    let site = site().await;
    let digest = base64url(&[5; 64]);
    // A key that opens messages never unwraps, one that signs messages never signs digests, and the other way round.
    let wrong = [
        ("/v1/sign-digest", json!({ "key": "payments/documents", "digest": digest })),
        ("/v1/wrap", json!({ "key": "payments/card-data", "plaintext": digest })),
        ("/v1/unwrap", json!({ "key": "payments/card-data", "wrapped": digest })),
        ("/v1/encrypt", json!({ "key": "payments/wrapping", "plaintext": "" })),
        ("/v1/mac", json!({ "key": "payments/card-data", "payload": "" })),
        ("/v1/agree", json!({ "key": "payments/card-data", "public_key": digest })),
        ("/v1/decapsulate", json!({ "key": "payments/archive", "ciphertext": digest })),
        ("/v1/encapsulate", json!({ "key": "payments/archive" })),
        ("/v1/derive", json!({ "key": "payments/card-data", "bytes": 32 })),
    ];
    for (path, body) in wrong {
        assert_eq!(code(site.call(path, &site.billing, body).await), (400, "wrong_purpose".to_owned()), "{path}");
    }
    assert_eq!(
        code(site.call("/v1/derive", &site.billing, json!({ "key": "payments/card-data", "bytes": 0 })).await),
        (400, "invalid_body".to_owned())
    );
    let long = json!({ "key": "payments/wrapping", "plaintext": base64url(&vec![0; 70_000]) });
    assert_eq!(code(site.call("/v1/wrap", &site.billing, long).await), (413, "too_long".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keys_may_come_without_their_plaintext() {
    let site = site().await;
    let made =
        ok(site.call("/v1/generate-data-key", &site.billing, json!({ "key": "payments/card-data", "without_plaintext": true })).await);
    assert!(made.get("plaintext").is_none(), "{made}");
    let opened = ok(site.call("/v1/decrypt", &site.billing, json!({ "message": made["message"] })).await);
    assert_eq!(from_base64url(opened["plaintext"].as_str().unwrap()).unwrap().len(), 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn obligations_hold_where_the_answer_is_made() {
    let mut site = site().await;
    let cedar = format!(
        "@mask(\"keep-last-4\") @require_context(\"ticket\") @max_bytes(\"100\") permit (principal == Caller::\"{AUDITOR}\", action == Action::\"decrypt\", resource);"
    );
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), cedar);
    site.republish();
    let seal = |length: usize| {
        let plaintext = [vec![b'4'; length - 4], b"1881".to_vec()].concat();
        json!({ "key": "payments/card-data", "plaintext": base64url(&plaintext), "context": { "ticket": "7" } })
    };
    let sealed = ok(site.call("/v1/encrypt", &site.billing, seal(16)).await);
    let open = json!({ "message": sealed["message"], "context": { "ticket": "7" } });
    let opened = ok(site.call("/v1/decrypt", &site.auditor, open).await);
    assert_eq!(opened["plaintext"], base64url(b"************1881"));
    assert_eq!(opened["masked"], "keep-last-4");

    let long = ok(site.call("/v1/encrypt", &site.billing, seal(101)).await);
    let open = json!({ "message": long["message"], "context": { "ticket": "7" } });
    assert_eq!(code(site.call("/v1/decrypt", &site.auditor, open).await), (403, "obligation_not_met".to_owned()));
    let (_, problem) = site.call("/v1/decrypt", &site.auditor, json!({ "message": sealed["message"] })).await;
    assert_eq!((problem["code"].as_str(), &problem["facts"]["policies"]), (Some("obligation_not_met"), &json!(["pol_test/2"])));
    assert!(problem["detail"].as_str().unwrap().contains("ticket"), "{problem}");
    // Nothing masks a stream.
    let file = sealed_file(&site, std::num::NonZeroU64::new(10).unwrap()).await;
    let answer =
        site.post("/v1/stream/decrypt", &site.auditor).header("freehold-context", base64url(br#"{"purpose":"backup","ticket":"7"}"#));
    assert_eq!(answer.body(file).send().await.unwrap().json::<Value>().await.unwrap()["code"], "obligation_not_met");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kept_answer_outlives_a_revocation_or_a_policy() {
    let mut site = site().await;
    for _ in 0..3 {
        ok(site.encrypt(&site.billing).await);
    }
    let forbid = format!("forbid (principal == Caller::\"{CALLER}\", action == Action::\"encrypt\", resource);");
    site.world.project_policy().cedar.insert("pol_test/9".to_owned(), forbid);
    site.republish();
    for _ in 0..2 {
        assert_eq!(code(site.encrypt(&site.billing).await), (403, "forbidden_by_policy".to_owned()));
    }
    site.world.project_policy().cedar.remove("pol_test/9");
    site.republish();
    ok(site.encrypt(&site.billing).await);
    let subject = Subject::Caller(CALLER);
    let reason = schema::key::RevocationReason::KeyCompromise;
    site.world.state.revocations.push(Revocation { subject, reason, at: START });
    site.world.tick();
    site.publish();
    for _ in 0..2 {
        assert_eq!(code(site.encrypt(&site.billing).await), (403, "caller_suspended".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_sees_how_many_keys_a_message_is_for() {
    let mut site = site().await;
    let alone = "forbid (principal, action == Action::\"encrypt\", resource) when { context has recipients && context.recipients > 1 };";
    site.world.project_policy().cedar.insert("pol_test/2".to_owned(), alone.to_owned());
    site.republish();
    ok(site.encrypt(&site.billing).await);
    let both = json!({ "key": "payments/card-data", "also_for": ["payments/archive"], "plaintext": "" });
    assert_eq!(code(site.call("/v1/encrypt", &site.billing, both).await), (403, "forbidden_by_policy".to_owned()));
    let answer = site.post("/v1/stream/encrypt?key=payments/card-data&key=payments/archive", &site.billing).body("x").send().await.unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "forbidden_by_policy");
    ok(site.encrypt(&site.billing).await);
}
