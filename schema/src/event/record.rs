//! The envelope of an event, serialised once. Those bytes are the record: they are what is stored, and what the ledger
//! hashes, for ever.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    clock::Timestamp,
    encoding::{Digest, u64_string},
    id::{EventId, Id, TenantId},
};

/// The version of the envelope that is written now.
pub const RECORD_VERSION: u32 = 1;

/// A record has at most this many bytes (C2SP tlog-tiles entries hold 65 535).
pub const MAX_RECORD_BYTES: usize = 60_000;

/// The stream of one aggregate: its id, as text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// The stream of the thing with this id.
    pub fn of(id: impl Id) -> Self {
        Self(id.to_string().into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix of the id: which kind of aggregate it is.
    pub fn prefix(&self) -> &str {
        self.0.split_once('_').map_or("", |(prefix, _)| prefix)
    }

    /// The id, when it is of this kind.
    pub fn id<T: Id>(&self) -> Option<T> {
        self.0.parse().ok()
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StreamId {
    type Err = InvalidRecord;

    fn from_str(text: &str) -> Result<Self, InvalidRecord> {
        let plain = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        match text.split_once('_') {
            Some((prefix, rest)) if plain && !prefix.is_empty() && rest.len() == 26 => Ok(Self(text.into())),
            _ => Err(InvalidRecord::Stream),
        }
    }
}

impl Serialize for StreamId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Who, when, why and what. Field order is the order in the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Version of this envelope.
    pub v: u32,
    /// The event's id.
    pub id: EventId,
    /// The tenant it belongs to.
    pub tenant: TenantId,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its place in the stream, from 1 without gaps.
    #[serde(with = "u64_string")]
    pub revision: u64,
    /// The type of `data`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The version of `data`.
    pub schema: u32,
    /// When it was decided.
    pub time: Timestamp,
    /// The principal that acted: an id, or `system:<name>`.
    pub actor: String,
    /// The principal it acted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// The token or session it came through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The command's idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Keyed hash of the command, to tell a retry from another request under the same idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_mac: Option<Digest>,
    /// The request that led here.
    pub correlation: String,
    /// The event that led here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation: Option<EventId>,
    /// What happened.
    pub data: serde_json::Value,
}

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRecord {
    /// Too large.
    #[error("the record has {size} bytes, more than {MAX_RECORD_BYTES}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// Not the JSON of an envelope.
    #[error("the record is not the JSON of an event envelope")]
    Json(#[source] serde_json::Error),
    /// Written by a newer version.
    #[error("the record has envelope version {version}; this program reads up to {RECORD_VERSION}")]
    Version {
        /// The version found.
        version: u32,
    },
    /// Not a stream name.
    #[error("a stream is named by an id")]
    Stream,
}

/// An envelope and its exact bytes.
#[derive(Debug, Clone)]
pub struct Record {
    envelope: Envelope,
    bytes: Arc<[u8]>,
}

impl Record {
    /// Serialises an envelope, once.
    pub fn write(envelope: Envelope) -> Result<Self, InvalidRecord> {
        let bytes = serde_json::to_vec(&envelope).map_err(InvalidRecord::Json)?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(InvalidRecord::TooLarge { size: bytes.len() });
        }
        Ok(Self { envelope, bytes: bytes.into() })
    }

    /// Reads a record; keeps the bytes as they are.
    pub fn read(bytes: impl Into<Arc<[u8]>>) -> Result<Self, InvalidRecord> {
        let bytes = bytes.into();
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(InvalidRecord::TooLarge { size: bytes.len() });
        }
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(InvalidRecord::Json)?;
        if envelope.v > RECORD_VERSION {
            return Err(InvalidRecord::Version { version: envelope.v });
        }
        Ok(Self { envelope, bytes })
    }

    /// The same record, with this in place of `data` for whoever looks at the envelope: what was sealed in it is opened. The bytes
    /// stay.
    #[must_use]
    pub fn opened(mut self, data: serde_json::Value) -> Self {
        self.envelope.data = data;
        self
    }

    /// Who, when, why and what.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The exact bytes.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The RFC 6962 leaf hash: SHA-256(0x00 ‖ record).
    pub fn leaf_hash(&self) -> Digest {
        use sha2::Digest as _;
        Digest(sha2::Sha256::new().chain_update([0]).chain_update(&self.bytes).finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One whole record of every envelope version ever written.
    const GOLDEN: &[(u32, &[u8], &str)] =
        &[(1, include_bytes!("../../golden/records/1.json"), "hs5Sw8j89XdJRBfBl7g4qrkOuqfvhZhm0o3g3vAjSGE")];

    #[test]
    fn every_envelope_version_is_read_and_has_the_same_leaf_for_ever() {
        assert_eq!(GOLDEN.last().map(|(version, ..)| *version), Some(RECORD_VERSION), "the present version has no golden record");
        for (version, bytes, leaf) in GOLDEN {
            let record = Record::read(*bytes).unwrap();
            assert_eq!(record.envelope().v, *version);
            assert_eq!(&**record.bytes(), *bytes);
            assert_eq!(record.leaf_hash().to_string(), *leaf);
        }
    }

    #[test]
    fn the_present_version_is_written_byte_by_byte_as_the_golden_one() {
        let (_, bytes, _) = GOLDEN[GOLDEN.len() - 1];
        let read = Record::read(bytes).unwrap();
        assert_eq!(&**Record::write(read.envelope().clone()).unwrap().bytes(), bytes);
    }

    #[test]
    fn newer_larger_and_broken_records_are_told_apart() {
        let (_, bytes, _) = GOLDEN[0];
        let newer = String::from_utf8(bytes.to_vec()).unwrap().replacen("\"v\":1", "\"v\":99", 1);
        assert!(matches!(Record::read(newer.into_bytes()), Err(InvalidRecord::Version { version: 99 })));
        assert!(matches!(Record::read(&bytes[..bytes.len() - 1]), Err(InvalidRecord::Json(_))));
        assert!(
            matches!(Record::read(vec![b' '; MAX_RECORD_BYTES + 1]), Err(InvalidRecord::TooLarge { size }) if size == MAX_RECORD_BYTES + 1)
        );
    }
}
