//! What can be done with the keys of one tenant: seal and open in a place, blind indexes, derived ids, ids of commands.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::hmac;
use schema::{
    clock::{Ids, Timestamp},
    encoding::{Digest, base64url, from_base64url},
    event::StreamId,
    id::{DataKeyId, Id, MemberId, PrincipalId, TenantId},
};

use super::{
    SealingError,
    cipher::{Cipher, framed, keyed_hash},
};
use crate::eventing::store::Cursor;

/// Where something sealed belongs; it does not open elsewhere.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// A record.
    Record {
        /// Its stream.
        stream: &'a StreamId,
        /// Its revision.
        revision: u64,
    },
    /// A row of the read model.
    View {
        /// The kind of aggregate.
        kind: &'a str,
        /// Its id.
        id: &'a str,
        /// The revision it shows.
        revision: u64,
    },
    /// A body named by its SHA-256.
    Blob(Digest),
    /// A secret of the control plane.
    Secret(&'a str),
    /// A position handed to the tenant.
    Position,
    /// A key of a person.
    PersonKey {
        /// Whose.
        person: MemberId,
        /// The key's id.
        id: DataKeyId,
    },
    /// A row of receipts or another table of its own.
    Row {
        /// The table.
        table: &'a str,
        /// The row's key.
        key: &'a str,
    },
}

impl Place<'_> {
    fn aad(&self, tenant: TenantId) -> Vec<u8> {
        let tenant = tenant.to_string();
        let tenant = tenant.as_bytes();
        match self {
            Self::Record { stream, revision } => {
                framed("freehold-record-v1", &[tenant, stream.as_str().as_bytes(), &revision.to_be_bytes()])
            }
            Self::View { kind, id, revision } => {
                framed("freehold-view-v1", &[tenant, kind.as_bytes(), id.as_bytes(), &revision.to_be_bytes()])
            }
            Self::Blob(digest) => framed("freehold-blob-v1", &[tenant, &digest.0]),
            Self::Secret(name) => framed("freehold-secret-v1", &[tenant, name.as_bytes()]),
            Self::Position => framed("freehold-position-v1", &[tenant]),
            Self::PersonKey { person, id } => {
                framed("freehold-person-key-v1", &[tenant, person.to_string().as_bytes(), id.to_string().as_bytes()])
            }
            Self::Row { table, key } => framed("freehold-row-v1", &[tenant, table.as_bytes(), key.as_bytes()]),
        }
    }
}

/// Sealed bytes, and the data key they are sealed under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The data key's id.
    pub data_key: DataKeyId,
    /// Nonce, ciphertext and tag.
    pub bytes: Vec<u8>,
}

/// The keys of one tenant. Does not print.
pub struct TenantKeys {
    pub(super) tenant: TenantId,
    pub(super) index: hmac::Key,
    pub(super) current: DataKeyId,
    pub(super) data: HashMap<DataKeyId, Cipher>,
}

impl fmt::Debug for TenantKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantKeys({}, {})", self.tenant, self.current)
    }
}

impl TenantKeys {
    /// Whose keys these are.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The data key that new things are sealed under.
    pub fn current(&self) -> DataKeyId {
        self.current
    }

    /// Seals under the current data key.
    pub fn seal(&self, place: Place<'_>, plaintext: &[u8]) -> Result<Sealed, SealingError> {
        let cipher = self.data.get(&self.current).ok_or(SealingError::UnknownDataKey(self.current))?;
        Ok(Sealed { data_key: self.current, bytes: cipher.seal(&place.aad(self.tenant), plaintext)? })
    }

    /// Opens what was sealed in this place.
    pub fn open(&self, place: Place<'_>, data_key: DataKeyId, sealed: &[u8]) -> Result<Vec<u8>, SealingError> {
        let cipher = self.data.get(&data_key).ok_or(SealingError::UnknownDataKey(data_key))?;
        cipher.open(&place.aad(self.tenant), sealed)
    }

    /// What an equality column holds instead of a value: 128 bits of a keyed hash, another for every column.
    pub fn blind(&self, column: &str, parts: &[&str]) -> Vec<u8> {
        let parts: Vec<_> = std::iter::once(column).chain(parts.iter().copied()).map(str::as_bytes).collect();
        keyed_hash(&self.index, "freehold-blind-v1", &parts)[..16].to_vec()
    }

    /// The id of what must be unique: the first 128 bits of a keyed hash of a domain label and parts such as project and
    /// name. The same parts give the same id, so uniqueness is "no such stream yet"; the id tells nobody the name.
    pub fn derived_id<T: Id>(&self, label: &str, parts: &[&str]) -> T {
        let parts: Vec<_> = std::iter::once(label).chain(parts.iter().copied()).map(str::as_bytes).collect();
        let hash = keyed_hash(&self.index, "freehold-derived-id-v1", &parts);
        let mut bits = [0; 16];
        bits.copy_from_slice(&hash[..16]);
        T::from_bits(u128::from_be_bytes(bits))
    }

    /// Ids that a retry under the same idempotency key makes again. `purpose` keeps several uses within one command
    /// apart. Not for secrets.
    pub fn command_ids(self: &Arc<Self>, principal: PrincipalId, idempotency_key: &str, purpose: &str) -> CommandIds {
        CommandIds {
            keys: Arc::clone(self),
            command: framed("freehold-command-v1", &[principal.to_string().as_bytes(), idempotency_key.as_bytes(), purpose.as_bytes()]),
            n: AtomicU64::new(0),
        }
    }

    /// The keyed hash that tells a retry from another request.
    pub fn request_mac(&self, parts: &[&[u8]]) -> Digest {
        Digest(keyed_hash(&self.index, "freehold-request-v1", parts))
    }

    /// A cursor as a token that tells the tenant nothing about others.
    pub fn position_token(&self, cursor: Cursor) -> Result<String, SealingError> {
        let sealed = self.seal(Place::Position, &cursor.position().to_be_bytes())?;
        Ok(format!("{}.{}", sealed.data_key, base64url(&sealed.bytes)))
    }

    /// The cursor of a token of this tenant.
    pub fn position(&self, token: &str) -> Option<Cursor> {
        let (data_key, sealed) = token.split_once('.')?;
        let opened = self.open(Place::Position, data_key.parse().ok()?, &from_base64url(sealed).ok()?).ok()?;
        Some(Cursor::at(u64::from_be_bytes(opened.try_into().ok()?)))
    }
}

/// Repeatable ids of one command: HMAC(index key, principal ‖ idempotency key ‖ n).
pub struct CommandIds {
    keys: Arc<TenantKeys>,
    command: Vec<u8>,
    n: AtomicU64,
}

impl Ids for CommandIds {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let n = self.n.fetch_add(1, Ordering::Relaxed);
            let block = keyed_hash(&self.keys.index, "freehold-command-ids-v1", &[&self.command, &n.to_be_bytes()]);
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }

    /// Not ordered by time: a retry comes later, and must make the same.
    fn ordered(&self, _now: Timestamp) -> u128 {
        u128::from_be_bytes(schema::clock::random(self))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use schema::{
        clock::new_id,
        id::{KeyId, MemberId, SiteId},
    };

    use super::*;

    /// Keys that are the same for the same seed.
    pub(crate) fn keys(seed: u8) -> Arc<TenantKeys> {
        let current = DataKeyId::from_bits(u128::from(seed));
        Arc::new(TenantKeys {
            tenant: TenantId::from_bits(u128::from(seed)),
            index: hmac::Key::new(hmac::HMAC_SHA256, &[seed; 32]),
            current,
            data: HashMap::from([(current, Cipher::new(&[seed ^ 0xFF; 32]).unwrap())]),
        })
    }

    #[test]
    fn a_record_opens_only_in_its_place() {
        let keys = keys(1);
        let (one, two) = (StreamId::of(KeyId::from_bits(1)), StreamId::of(KeyId::from_bits(2)));
        let sealed = keys.seal(Place::Record { stream: &one, revision: 3 }, b"body").unwrap();
        let open = |keys: &TenantKeys, place| keys.open(place, sealed.data_key, &sealed.bytes);
        assert_eq!(open(&keys, Place::Record { stream: &one, revision: 3 }).unwrap(), b"body");
        for place in [
            Place::Record { stream: &one, revision: 4 },
            Place::Record { stream: &two, revision: 3 },
            Place::View { kind: "key", id: one.as_str(), revision: 3 },
            Place::Secret("body"),
        ] {
            assert!(matches!(open(&keys, place), Err(SealingError::DoesNotOpen)), "{place:?}");
        }
        let mut other_tenant = Arc::into_inner(super::tests::keys(1)).unwrap();
        other_tenant.tenant = TenantId::from_bits(9);
        assert!(matches!(open(&other_tenant, Place::Record { stream: &one, revision: 3 }), Err(SealingError::DoesNotOpen)));
    }

    #[test]
    fn derived_ids_and_blind_indexes_are_keyed_labelled_and_unambiguous() {
        let (mine, theirs) = (keys(1), keys(2));
        let id: KeyId = mine.derived_id("key", &["prj", "card"]);
        assert_eq!(id, mine.derived_id("key", &["prj", "card"]));
        assert_ne!(id, theirs.derived_id("key", &["prj", "card"]));
        assert_ne!(id, mine.derived_id("alias", &["prj", "card"]));
        assert_ne!(id, mine.derived_id("key", &["prjc", "ard"]));
        assert_ne!(mine.blind("name", &["x"]), mine.blind("parent", &["x"]));
        assert_ne!(mine.blind("term", &["a", "bc"]), mine.blind("term", &["ab", "c"]));
        assert_ne!(mine.blind("name", &["x"]), theirs.blind("name", &["x"]));
    }

    #[test]
    fn a_retry_makes_the_same_ids_later() {
        let keys = keys(1);
        let member = PrincipalId::Member(MemberId::from_bits(5));
        let ids = |key, purpose| {
            let ids = keys.command_ids(member, key, purpose);
            let make = |micros| new_id::<SiteId>(&ids, Timestamp::from_micros(micros));
            (make(1_000_000), make(2_000_000))
        };
        let (first, second) = ids("k1", "decide");
        assert_ne!(first, second);
        assert_eq!((first, second), ids("k1", "decide"));
        assert_ne!(first, ids("k2", "decide").0);
        assert_ne!(first, ids("k1", "stream").0);
        let other = keys.command_ids(PrincipalId::Member(MemberId::from_bits(6)), "k1", "decide");
        assert_ne!(first, new_id(&other, Timestamp::from_micros(0)));
    }

    #[test]
    fn positions_open_for_their_tenant_only() {
        let (mine, theirs) = (keys(1), keys(2));
        let token = mine.position_token(Cursor::at(77)).unwrap();
        assert_eq!(mine.position(&token), Some(Cursor::at(77)));
        assert_eq!(theirs.position(&token), None);
        assert_eq!(mine.position("dek_x.y"), None);
    }

    #[test]
    fn keys_do_not_print() {
        assert_eq!(format!("{:?}", keys(1)), "TenantKeys(ten_00000000000000000000000001, dek_00000000000000000000000001)");
    }
}
