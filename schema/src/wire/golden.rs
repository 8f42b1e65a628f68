//! `schema/golden/wire/<Type>.json` holds what agents and control planes of every version say to each other, and what stands in
//! journals. During an upgrade either side is the older one: examples are added, and never changed or taken away.

use std::{any::type_name, collections::BTreeSet, fs, path::PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    agent::{
        ComebackRequest, ComebackResponse, EnrolRequest, EnrolResponse, EnrolmentToken, LeaseAnswer, LeaseAsk, Receipt, ReceiptAnswer,
        ReceiptBatch, ReceiptBatchHead, RenewRequest, RenewResponse, Report, ReportAnswer, StatementSet,
    },
    delta::StatementDelta,
    exchange::{
        EnrolmentAnswerFile, EnrolmentRequest, EnrolmentRequestFile, ExchangeAnswer, ExchangeAsk, Inbox, InboxFile, Outbox, OutboxFile,
    },
    relay::{RelayAnswer, RelayAsk},
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/wire")
}

/// What the older side finds no more: members that are gone, or stand for something else. More than it knows does not trouble it.
fn lost(was: &Value, is: &Value, at: &str) -> Vec<String> {
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => was
            .iter()
            .flat_map(|(name, value)| {
                is.get(name).map_or_else(|| vec![format!("{at}.{name}")], |is| lost(value, is, &format!("{at}.{name}")))
            })
            .collect(),
        (Value::Array(was), Value::Array(is)) if was.len() == is.len() => {
            was.iter().zip(is).enumerate().flat_map(|(index, (was, is))| lost(was, is, &format!("{at}[{index}]"))).collect()
        }
        _ if was == is => Vec::new(),
        _ => vec![at.to_owned()],
    }
}

/// Members whose own members are no names of ours, but ids and names of the user's.
const MAPS: &[&str] = &["former", "context"];

/// The same from a newer version: each object has a member that this one does not know.
fn newer(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let keep = |name: &str, value: &Value| if MAPS.contains(&name) { value.clone() } else { newer(value) };
            let members = members.iter().map(|(name, value)| (name.clone(), keep(name, value)));
            Value::Object(members.chain([("of_a_newer_version".to_owned(), Value::from(1))]).collect())
        }
        Value::Array(entries) => entries.iter().map(newer).collect(),
        other => other.clone(),
    }
}

/// Reads every example of a type; gives its file.
fn read_all<T: Serialize + DeserializeOwned>() -> String {
    let name = type_name::<T>().rsplit("::").next().unwrap();
    let file = format!("{name}.json");
    let text = fs::read_to_string(folder().join(&file)).unwrap_or_else(|error| panic!("{file} ({error}): write an example of it"));
    let examples: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(!examples.is_empty(), "{file} has no example");
    for example in examples {
        let read = |value: &Value| serde_json::from_value::<T>(value.clone());
        let today = read(&example).unwrap_or_else(|error| panic!("{file} is read no more: {error}: {example}"));
        let lost = lost(&example, &serde_json::to_value(today).unwrap(), name);
        assert!(lost.is_empty(), "an older version would miss {lost:?}");
        read(&newer(&example)).unwrap_or_else(|error| panic!("{file}: what a newer version adds is not passed over: {error}"));
    }
    file
}

#[test]
fn what_either_side_ever_said_is_understood_by_the_other() {
    let seen = BTreeSet::from([
        read_all::<EnrolRequest>(),
        read_all::<EnrolmentToken>(),
        read_all::<EnrolResponse>(),
        read_all::<RenewRequest>(),
        read_all::<RenewResponse>(),
        read_all::<ComebackRequest>(),
        read_all::<ComebackResponse>(),
        read_all::<StatementSet>(),
        read_all::<StatementDelta>(),
        read_all::<Report>(),
        read_all::<ReportAnswer>(),
        read_all::<LeaseAsk>(),
        read_all::<LeaseAnswer>(),
        read_all::<RelayAsk>(),
        read_all::<RelayAnswer>(),
        read_all::<ReceiptBatch>(),
        read_all::<ReceiptBatchHead>(),
        read_all::<ReceiptAnswer>(),
        read_all::<Receipt>(),
        read_all::<ExchangeAsk>(),
        read_all::<ExchangeAnswer>(),
        read_all::<Outbox>(),
        read_all::<Inbox>(),
        read_all::<OutboxFile>(),
        read_all::<InboxFile>(),
        read_all::<EnrolmentRequest>(),
        read_all::<EnrolmentRequestFile>(),
        read_all::<EnrolmentAnswerFile>(),
    ]);
    let present: BTreeSet<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(seen, present, "an example that no type claims");
}

#[test]
fn a_member_that_is_gone_renamed_or_changed_is_found() {
    let was = serde_json::json!({ "a": [{ "b": "1" }], "c": null });
    assert!(lost(&was, &serde_json::json!({ "a": [{ "b": "1", "new": 2 }], "c": null, "d": 1 }), "T").is_empty());
    assert_eq!(lost(&was, &serde_json::json!({ "a": [{ "b": 1 }] }), "T"), ["T.a[0].b", "T.c"]);
    assert_eq!(lost(&was, &serde_json::json!({ "a": [], "c": null }), "T"), ["T.a"]);
}
