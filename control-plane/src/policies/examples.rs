//! The examples of `docs/policies.md` are checked and run as they stand there; the agent runs them too, with their demands.

use cedar_policy::{Authorizer, Context, Decision, Entities, PolicySet, Request, Schema};
use serde_json::{Value, json};

use super::cedar;

const PAGE: &str = include_str!("../../../docs/policies.md");

/// The text and the table rows of every example.
fn examples() -> Vec<(&'static str, Vec<Vec<&'static str>>)> {
    let mut parts = PAGE.split("```cedar\n");
    parts.next();
    let example = |part: &'static str| {
        let (text, rest) = part.split_once("```").unwrap();
        let table = rest.split("\n### ").next().unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| Caller"));
        (text, rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect())
    };
    parts.map(example).collect()
}

fn uid(kind: &str, id: &str) -> Value {
    json!({ "type": kind, "id": id })
}

fn world(encryption: &Value, schema: &Schema) -> Entities {
    let project = uid("Project", "prj_01kd7zk3w0fz8b9x2m4n6p8q0a");
    let caller = |name: &str, id: &str, tags: Value| json!({ "uid": uid("Caller", id), "attrs": { "name": name, "kind": "token" }, "parents": [project], "tags": tags });
    let key = |name: &str, id: &str, algorithm: &str, purpose: &str, tags: Value| {
        let attrs = json!({ "name": name, "algorithm": algorithm, "purpose": purpose, "durability": "single-copy", "exportable": false });
        json!({ "uid": uid("Key", id), "attrs": attrs, "parents": [project], "tags": tags })
    };
    let entities = json!([
        { "uid": project, "attrs": {}, "parents": [] },
        caller("billing", "clr_01kd7zk3w0fz8b9x2m4n6p8q0a", json!({ "team": "billing", "customer": "acme" })),
        caller("reports", "clr_01kd7zk3w0fz8b9x2m4n6p8q0b", json!({ "team": "reports" })),
        key("card-data", "key_01kd7zk3w0fz8b9x2m4n6p8q0a", "A256KW+A256GCM", "encrypt", json!({ "team": "billing" })),
        caller("support", "clr_01kd7zk3w0fz8b9x2m4n6p8q0c", json!({ "team": "support" })),
        key("invoices", "key_01kd7zk3w0fz8b9x2m4n6p8q0b", "ML-DSA-65", "sign", json!({})),
        key("archive", "key_01kd7zk3w0fz8b9x2m4n6p8q0c", "HPKE-9-KE", "encrypt", json!({})),
        key("wrapping", "key_01kd7zk3w0fz8b9x2m4n6p8q0d", "A256KW+A256GCM", "wrap", json!({})),
        key("receipts", "key_01kd7zk3w0fz8b9x2m4n6p8q0e", "Ed25519", "sign", json!({})),
        key("letters", "key_01kd7zk3w0fz8b9x2m4n6p8q0f", "RSA-OAEP-256-3072", "encrypt", json!({})),
        { "uid": uid("EncryptionContext", "request"), "attrs": {}, "parents": [], "tags": encryption },
    ]);
    Entities::from_json_value(entities, Some(schema)).unwrap()
}

/// The answer to one row of a table.
fn decide(policies: &PolicySet, row: &[&str], schema: &Schema) -> Decision {
    let principal = match row[0] {
        "billing" => r#"Caller::"clr_01kd7zk3w0fz8b9x2m4n6p8q0a""#,
        "reports" => r#"Caller::"clr_01kd7zk3w0fz8b9x2m4n6p8q0b""#,
        "support" => r#"Caller::"clr_01kd7zk3w0fz8b9x2m4n6p8q0c""#,
        other => panic!("no caller is called {other}"),
    };
    let resource = match row[2] {
        "card-data" => r#"Key::"key_01kd7zk3w0fz8b9x2m4n6p8q0a""#,
        "invoices" => r#"Key::"key_01kd7zk3w0fz8b9x2m4n6p8q0b""#,
        "archive" => r#"Key::"key_01kd7zk3w0fz8b9x2m4n6p8q0c""#,
        "wrapping" => r#"Key::"key_01kd7zk3w0fz8b9x2m4n6p8q0d""#,
        "receipts" => r#"Key::"key_01kd7zk3w0fz8b9x2m4n6p8q0e""#,
        "letters" => r#"Key::"key_01kd7zk3w0fz8b9x2m4n6p8q0f""#,
        other => panic!("no key is called {other}"),
    };
    let mut context = json!({
        "encryption": { "__entity": uid("EncryptionContext", "request") },
        "time": { "__extn": { "fn": "datetime", "arg": "2026-03-31T09:30:00Z" } },
        "address": { "__extn": { "fn": "ip", "arg": "10.0.0.1" } },
        "statements": "fresh",
    });
    let mut encryption = json!({});
    for (name, value) in row[3].split_whitespace().map(|fact| fact.split_once('=').unwrap()) {
        match name {
            "time" => context["time"]["__extn"]["arg"] = value.into(),
            "address" => context["address"]["__extn"]["arg"] = value.into(),
            "size" => context["size"] = value.parse::<i64>().unwrap().into(),
            "statements" => context["statements"] = value.into(),
            name => encryption[name] = value.into(),
        }
    }
    let action = format!("Action::{:?}", row[1]).parse().unwrap();
    let context = Context::from_json_value(context, Some((schema, &action))).unwrap();
    let request = Request::new(principal.parse().unwrap(), action, resource.parse().unwrap(), context, Some(schema)).unwrap();
    let answer = Authorizer::new().is_authorized(&request, policies, &world(&encryption, schema));
    assert_eq!(answer.diagnostics().errors().count(), 0, "{row:?}: {answer:?}");
    answer.decision()
}

#[test]
fn the_examples_are_valid_and_answer_as_they_say() {
    let schema = Schema::from_cedarschema_str(cedar::SCHEMA).unwrap().0;
    let examples = examples();
    assert_eq!(examples.len(), 12);
    for (text, rows) in examples {
        let checked = cedar::check(text).unwrap_or_else(|problems| panic!("{text}\n{problems:#?}"));
        assert_eq!(checked.warnings, [], "{text}");
        assert!(rows.len() >= 3, "{text}");
        for row in rows {
            // Demands are the agent's to hold: to Cedar they are annotations.
            let permitted = row[4].starts_with("allowed") || row[4] == "refused, on a demand";
            let expected = if permitted { Decision::Allow } else { Decision::Deny };
            assert_eq!(decide(&text.parse().unwrap(), &row, &schema), expected, "{row:?} under\n{text}");
        }
    }
}
