//! `schema/golden/events/<Type>.<version>.json` holds the data of every event version ever written. They are read for
//! ever: a file is added with each new version, and never changed or taken away.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::{
    Envelope, Event, RECORD_VERSION, Record, StreamId, agent, alias, authority, budget, caller, composite, erasure, key, lift, policy,
    project, site, tenant, token,
};
use crate::{
    clock::Timestamp,
    id::{EventId, TenantId},
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/events")
}

fn envelope(event_type: &str, schema: u32, data: serde_json::Value) -> Envelope {
    Envelope {
        v: RECORD_VERSION,
        id: EventId::from_bits(7),
        tenant: TenantId::from_bits(1),
        stream: StreamId::of(TenantId::from_bits(1)),
        revision: 1,
        event_type: event_type.to_owned(),
        schema,
        time: Timestamp::from_micros(0),
        actor: "system:golden".to_owned(),
        on_behalf_of: None,
        via: None,
        idempotency_key: None,
        request_mac: None,
        correlation: "golden".to_owned(),
        causation: None,
        data,
    }
}

/// Reads every golden file of a domain as it is read from a store; gives the file names it looked for.
fn read_all<E: Event>() -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for (name, version) in E::TYPES {
        let file = format!("{name}.{version}.json");
        let path = folder().join(&file);
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} is missing ({error}): write an example of it", path.display()));
        let data: serde_json::Value = serde_json::from_str(&text).unwrap();
        let record = Record::write(envelope(name, *version, data.clone())).unwrap();
        let read = Record::read(record.bytes().clone()).unwrap();
        let event: E = lift(read.envelope()).unwrap_or_else(|error| panic!("{file} is no longer readable: {error:?}"));
        assert_eq!(event.type_name(), *name);
        if *version == E::schema_version(name) {
            assert_eq!(event.data().unwrap(), data, "{file} no longer reads the same");
        }
        seen.insert(file);
    }
    seen
}

#[test]
fn every_event_ever_written_is_still_read() {
    let mut seen = BTreeSet::new();
    seen.extend(read_all::<tenant::TenantEvent>());
    seen.extend(read_all::<project::ProjectEvent>());
    seen.extend(read_all::<site::SiteEvent>());
    seen.extend(read_all::<agent::AgentEvent>());
    seen.extend(read_all::<budget::BudgetEvent>());
    seen.extend(read_all::<caller::CallerEvent>());
    seen.extend(read_all::<key::KeyEvent>());
    seen.extend(read_all::<alias::AliasEvent>());
    seen.extend(read_all::<authority::AuthorityEvent>());
    seen.extend(read_all::<erasure::ErasureEvent>());
    seen.extend(read_all::<composite::CompositeEvent>());
    seen.extend(read_all::<policy::PolicyEvent>());
    seen.extend(read_all::<token::ApiTokenEvent>());
    seen.extend(read_all::<super::statement::StatementEvent>());
    seen.extend(read_all::<super::receipt::ReceiptEvent>());
    let present: BTreeSet<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(seen, present, "a golden file no event claims: an event type or version was taken away, but records of it remain");
}
