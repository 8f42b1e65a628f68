//! JSON in which no object has a member twice. Two readers of such an object could believe different things.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};

/// Reads a value; refuses it when any object in it, known or not, has a member twice.
pub(crate) fn strict<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice::<NoDoubles>(bytes)?;
    serde_json::from_slice(bytes)
}

struct NoDoubles;

impl<'de> Deserialize<'de> for NoDoubles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for NoDoubles {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut members = HashSet::new();
        while let Some(member) = map.next_key::<String>()? {
            if members.contains(&member) {
                return Err(de::Error::custom(format_args!("the member `{member}` stands twice")));
            }
            members.insert(member);
            map.next_value::<Self>()?;
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_refused_at_any_depth() {
        assert!(strict::<serde_json::Value>(br#"{"a":[{"b":1,"c":null}],"b":{"a":"x"}}"#).is_ok());
        assert!(strict::<serde_json::Value>(br#"{"a":1,"a":1}"#).is_err());
        assert!(strict::<serde_json::Value>(br#"{"x":[{"a":1.5,"\u0061":true}]}"#).is_err());
    }
}
