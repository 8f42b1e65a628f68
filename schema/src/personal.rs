//! A person's data inside an event: at rest it is sealed under a key of that person's own, inside the record, so that destroying
//! the key erases the person and leaves every record as it is.
//!
//! In memory the JSON is `{"$personal": "mem_…", "value": …}`; at rest `{"$personal": "mem_…", "key": "dek_…", "sealed": "…"}`;
//! once the key is destroyed `{"$personal": "mem_…", "erased": true}`. No name that a person may choose begins with `$`.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::id::MemberId;

/// What tells a person's data from everything else.
pub const MARK: &str = "$personal";

/// A person's data, or that it was erased. Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Personal<T> {
    /// Whose.
    pub person: MemberId,
    /// The data; none once it was erased.
    pub value: Option<T>,
}

impl<T> Personal<T> {
    /// Of this person.
    pub const fn new(person: MemberId, value: T) -> Self {
        Self { person, value: Some(value) }
    }
}

impl<T> fmt::Debug for Personal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Personal({}{})", self.person, if self.value.is_some() { "" } else { ", erased" })
    }
}

#[derive(Serialize, Deserialize)]
struct Open<T> {
    #[serde(rename = "$personal")]
    person: MemberId,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    value: Option<T>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    erased: bool,
}

impl<T: Serialize> Serialize for Personal<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Open { person: self.person, value: self.value.as_ref(), erased: self.value.is_none() }.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Personal<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Open { person, value, erased } = Open::deserialize(deserializer)?;
        match (&value, erased) {
            (Some(_), false) | (None, true) => Ok(Self { person, value }),
            _ => Err(de::Error::custom("a person's data was not opened")),
        }
    }
}

/// Whose data stands in this JSON.
pub fn persons(data: &Value) -> BTreeSet<MemberId> {
    fn walk(data: &Value, found: &mut BTreeSet<MemberId>) {
        match data {
            Value::Object(map) => {
                found.extend(person_of(map));
                map.values().for_each(|value| walk(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(data, &mut found);
    found
}

/// Hands every place with a person's data to `change`.
pub fn each_place<E>(data: &mut Value, change: &mut impl FnMut(MemberId, &mut Map<String, Value>) -> Result<(), E>) -> Result<(), E> {
    match data {
        Value::Object(map) => match person_of(map) {
            Some(person) => change(person, map),
            None => map.values_mut().try_for_each(|value| each_place(value, change)),
        },
        Value::Array(values) => values.iter_mut().try_for_each(|value| each_place(value, change)),
        _ => Ok(()),
    }
}

fn person_of(map: &Map<String, Value>) -> Option<MemberId> {
    map.get(MARK)?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_written_open_or_erased_and_never_read_while_it_is_sealed() {
        let person = MemberId::from_bits(5);
        let known = Personal::new(person, "Ada".to_owned());
        let written = serde_json::to_value(&known).unwrap();
        assert_eq!(written, json!({ "$personal": person, "value": "Ada" }));
        assert_eq!(serde_json::from_value::<Personal<String>>(written).unwrap(), known);
        let erased = Personal::<String> { person, value: None };
        let written = serde_json::to_value(&erased).unwrap();
        assert_eq!(written, json!({ "$personal": person, "erased": true }));
        assert_eq!(serde_json::from_value::<Personal<String>>(written).unwrap(), erased);
        for wrong in [
            json!({ "$personal": person, "key": "dek_x", "sealed": "AAAA" }),
            json!({ "$personal": person, "value": "Ada", "erased": true }),
            json!({ "value": "Ada" }),
        ] {
            assert!(serde_json::from_value::<Personal<String>>(wrong).is_err());
        }
        assert!(!format!("{known:?}").contains("Ada"));
    }

    #[test]
    fn every_place_is_found() {
        let (one, two) = (MemberId::from_bits(1), MemberId::from_bits(2));
        let mut data = json!({ "a": [{ "$personal": one, "value": 1 }, 2], "b": { "c": { "$personal": two, "value": { "d": 3 } } } });
        assert_eq!(persons(&data), BTreeSet::from([one, two]));
        let mut seen = Vec::new();
        each_place(&mut data, &mut |person, map| {
            map.remove("value");
            seen.push(person);
            Ok::<_, ()>(())
        })
        .unwrap();
        seen.sort();
        assert_eq!(seen, [one, two]);
        assert_eq!(data, json!({ "a": [{ "$personal": one }, 2], "b": { "c": { "$personal": two } } }));
    }
}
