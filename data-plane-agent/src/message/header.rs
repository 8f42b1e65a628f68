//! JOSE headers: written by hand in one order, read strictly. A member that stands twice is refused, `crit` must be
//! understood, and nothing that matters is taken from outside the protected header.

use std::fmt;

use schema::{
    catalogue::{Algorithm, Family, Sealing},
    encoding::base64url_bytes,
    id::{CompositeId, KeyVersion},
    public_key::ForeignJwk,
};
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess},
};

use super::{MAX_RECIPIENTS, MessageError};
use crate::algorithm::{WrappedKey, public_key::from_jwk};

/// The members of a header that we know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// How the content key is protected, or how it is signed.
    pub alg: Option<String>,
    /// How the content is protected.
    pub enc: Option<String>,
    /// Which key.
    pub kid: Option<String>,
    /// The commitment to the encryption context.
    pub ctx: Option<String>,
    /// What the plaintext or payload is.
    pub typ: Option<String>,
    /// What a KEM encapsulated, base64url.
    pub ek: Option<String>,
    /// An ephemeral public key.
    pub epk: Option<ForeignJwk>,
    /// What is said of the sender, base64url.
    pub apu: Option<String>,
    /// What is said of the recipient, base64url.
    pub apv: Option<String>,
    /// The composite it was signed by, when another signature belongs to it.
    pub composite: Option<String>,
    /// The revision of a draft that was followed.
    pub draft: Option<String>,
    /// What must be understood.
    pub crit: Option<Vec<String>>,
    /// Compression.
    pub zip: Option<String>,
    /// Every name, in order.
    names: Vec<String>,
}

impl Header {
    /// Reads a header from JSON.
    pub fn parse(what: &'static str, json: &[u8]) -> Result<Self, MessageError> {
        serde_json::from_slice(json).map_err(|error| MessageError::Malformed { what, detail: format!("header: {error}") })
    }

    /// Which of our key versions `kid` names, if it names one.
    pub fn key_version(&self) -> Option<KeyVersion> {
        self.kid.as_deref()?.parse().ok()
    }

    /// Which composite it says it was signed by. What is none of our ids is somebody else's parameter.
    pub fn composite(&self) -> Option<CompositeId> {
        self.composite.as_deref()?.parse().ok()
    }

    /// The name of every parameter in it, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether it names this algorithm.
    pub fn is_for(&self, algorithm: Algorithm) -> bool {
        let alg = self.alg.as_deref();
        // RFC 9864 names the curve where RFC 8037 named the family.
        alg.is_some() && (alg == algorithm.entry().jose_alg || (alg == Some("Ed25519") && algorithm.name() == "Ed25519"))
    }

    /// Refuses another revision of a draft than the one that is followed here. A message for several says it once, so
    /// that it may be about another recipient's algorithm.
    pub fn follows_draft(&self, algorithm: Algorithm) -> Result<(), MessageError> {
        let Some(given) = self.draft.as_deref() else { return Ok(()) };
        let ours = algorithm.entry().draft;
        if ours == Some(given) || (ours.is_none() && Algorithm::all().any(|other| other.entry().draft == Some(given))) {
            return Ok(());
        }
        let ours = ours.map_or_else(String::new, |ours| format!(" (this agent follows {ours})"));
        Err(MessageError::NotUnderstood(format!("the draft {given:?}{ours}")))
    }

    /// What a recipient's header says of the content key: what a KEM encapsulated, or an ephemeral public key with its
    /// parties; exactly what the algorithm has.
    pub fn wrapped_key(&self, what: &'static str, algorithm: Algorithm, encrypted_key: &[u8]) -> Result<WrappedKey, MessageError> {
        let (with_ek, with_epk) = carries(algorithm);
        for (name, given, wanted) in [("ek", self.ek.is_some(), with_ek), ("epk", self.epk.is_some(), with_epk)] {
            if given != wanted {
                let verb = if wanted { "is missing; it goes" } else { "does not go" };
                return Err(MessageError::Malformed { what, detail: format!("{name:?} {verb} with {algorithm}") });
            }
        }
        if !with_epk && (self.apu.is_some() || self.apv.is_some()) {
            return Err(MessageError::Malformed { what, detail: format!("\"apu\" and \"apv\" do not go with {algorithm}") });
        }
        let bytes = |name, text: &Option<String>| match text {
            Some(text) => read_base64url(what, name, text.as_bytes()),
            None => Ok(Vec::new()),
        };
        let encapsulated = match (&self.ek, &self.epk) {
            (Some(_), _) => Some(bytes("\"ek\"", &self.ek)?),
            (None, Some(epk)) => {
                Some(from_jwk(algorithm, epk).map_err(|error| MessageError::Malformed { what, detail: format!("\"epk\": {error}") })?)
            }
            (None, None) => None,
        };
        Ok(WrappedKey {
            encapsulated,
            encrypted_key: encrypted_key.to_vec(),
            sender: bytes("\"apu\"", &self.apu)?,
            recipient: bytes("\"apv\"", &self.apv)?,
        })
    }

    /// The header of one recipient or signature: this and the unprotected ones together. A name may stand in one only;
    /// what decides how data is read must be in the protected one (this).
    pub fn with_unprotected(&self, what: &'static str, others: &[&Self]) -> Result<Self, MessageError> {
        let mut whole = self.clone();
        for other in others {
            for name in &other.names {
                if whole.names.contains(name) {
                    return Err(MessageError::Malformed { what, detail: format!("header parameter {name:?} stands in two headers") });
                }
                if !matches!(name.as_str(), "alg" | "kid" | "ek" | "epk" | "apu" | "apv") && KNOWN.contains(&name.as_str()) {
                    return Err(MessageError::Malformed { what, detail: format!("{name:?} must stand in the protected header") });
                }
                whole.names.push(name.clone());
            }
            whole.alg = whole.alg.or_else(|| other.alg.clone());
            whole.kid = whole.kid.or_else(|| other.kid.clone());
            whole.ek = whole.ek.or_else(|| other.ek.clone());
            whole.epk = whole.epk.or_else(|| other.epk.clone());
            whole.apu = whole.apu.or_else(|| other.apu.clone());
            whole.apv = whole.apv.or_else(|| other.apv.clone());
        }
        Ok(whole)
    }

    /// Refuses what must be understood and is not: any `crit`, and compression.
    pub fn understood(&self) -> Result<(), MessageError> {
        if let Some(crit) = &self.crit {
            return Err(MessageError::NotUnderstood(match crit.first() {
                Some(first) => format!("the critical header parameter {first:?}"),
                None => "an empty \"crit\"".to_owned(),
            }));
        }
        if self.zip.is_some() {
            return Err(MessageError::NotUnderstood("compression (\"zip\")".to_owned()));
        }
        Ok(())
    }
}

/// Whether a recipient's header has `ek`, and whether it has `epk`.
pub(crate) fn carries(algorithm: Algorithm) -> (bool, bool) {
    let wraps = algorithm.entry().sealing == Some(Sealing::ContentKey);
    (wraps && algorithm.entry().family == Family::Hpke, wraps && algorithm.entry().family == Family::Ecdh)
}

/// The most members of one header: every name is compared with every other.
const MAX_MEMBERS: usize = 64;

const KNOWN: &[&str] = &["alg", "enc", "kid", "ctx", "typ", "ek", "epk", "apu", "apv", "draft", "composite", "crit", "zip"];

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JOSE header (a JSON object)")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    if header.names.len() == MAX_MEMBERS {
                        return Err(de::Error::custom(format_args!("a header has at most {MAX_MEMBERS} parameters")));
                    }
                    if header.names.contains(&name) {
                        return Err(de::Error::custom(format_args!("header parameter {name:?} stands twice")));
                    }
                    match name.as_str() {
                        "alg" => header.alg = Some(map.next_value()?),
                        "enc" => header.enc = Some(map.next_value()?),
                        "kid" => header.kid = Some(map.next_value()?),
                        "ctx" => header.ctx = Some(map.next_value()?),
                        "typ" => header.typ = Some(map.next_value()?),
                        "ek" => header.ek = Some(map.next_value()?),
                        "epk" => header.epk = Some(map.next_value()?),
                        "apu" => header.apu = Some(map.next_value()?),
                        "apv" => header.apv = Some(map.next_value()?),
                        "draft" => header.draft = Some(map.next_value()?),
                        "composite" => header.composite = map.next_value::<serde_json::Value>()?.as_str().map(str::to_owned),
                        "crit" => header.crit = Some(map.next_value()?),
                        "zip" => header.zip = Some(map.next_value()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                    header.names.push(name);
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Reads the recipients or signatures of a message. Those beyond one too many are not kept: a short message may name very
/// many, and is refused all the same.
pub(super) fn recipients<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    struct Visitor<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut kept = Vec::new();
            while kept.len() <= MAX_RECIPIENTS {
                match list.next_element()? {
                    Some(one) => kept.push(one),
                    None => return Ok(kept),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(kept)
        }
    }
    deserializer.deserialize_seq(Visitor(std::marker::PhantomData)).map(Some)
}

/// Writes a header member by member. Values are our own words, ids and base64url: none needs escaping.
pub(crate) struct HeaderWriter(String);

impl HeaderWriter {
    pub(crate) fn new() -> Self {
        Self(String::with_capacity(256))
    }

    pub(crate) fn member(mut self, name: &str, value: impl fmt::Display) -> Self {
        use fmt::Write as _;
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        // Writing to a string cannot fail.
        let _ = write!(self.0, "\"{name}\":\"{value}\"");
        self
    }

    /// A member whose value is JSON already.
    pub(crate) fn json_member(mut self, name: &str, value: &str) -> Self {
        use fmt::Write as _;
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        let _ = write!(self.0, "\"{name}\":{value}");
        self
    }

    pub(crate) fn optional(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.member(name, value),
            None => self,
        }
    }

    pub(crate) fn json(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

/// The characters of base64url without padding of so many bytes.
pub(crate) const fn base64url_len(bytes: usize) -> usize {
    bytes / 3 * 4 + [0, 2, 3][bytes % 3]
}

/// Reads base64url without padding; `field` is named in the error.
pub(crate) fn read_base64url(what: &'static str, field: &str, text: &[u8]) -> Result<Vec<u8>, MessageError> {
    base64url_bytes(text).map_err(|_| MessageError::Malformed { what, detail: format!("{field} is not base64url without padding") })
}

#[cfg(test)]
mod tests {
    use schema::encoding::push_base64url;

    use super::*;

    #[test]
    fn doubles_are_refused_known_or_not() {
        for json in [r#"{"alg":"A","alg":"B"}"#, r#"{"x":1,"x":2}"#, r#"{"alg":"A","\u0061lg":"A"}"#] {
            assert!(matches!(Header::parse("JWE", json.as_bytes()), Err(MessageError::Malformed { .. })), "{json}");
        }
        assert!(Header::parse("JWE", br#"{"alg":1}"#).is_err());
        assert!(Header::parse("JWE", br#"[]"#).is_err());
    }

    #[test]
    fn a_header_with_very_many_members_is_refused_at_once() {
        let members: Vec<_> = (0..100_000).map(|n| format!("\"{n:x}\":1")).collect();
        let begun = std::time::Instant::now();
        let error = Header::parse("JWE", format!("{{{}}}", members.join(",")).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("at most 64"), "{error}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(1));
    }

    #[test]
    fn of_very_many_recipients_few_are_kept() {
        #[derive(Deserialize)]
        struct Message {
            #[serde(default, deserialize_with = "recipients")]
            recipients: Option<Vec<u8>>,
        }
        let kept = |json: &str| serde_json::from_str::<Message>(json).unwrap().recipients.map(|kept| kept.len());
        assert_eq!(kept(&format!("{{\"recipients\":[1{}]}}", ",1".repeat(1_000))), Some(MAX_RECIPIENTS + 1));
        assert_eq!(kept("{\"recipients\":[1,2]}"), Some(2));
        assert_eq!(kept("{}"), None);
    }

    #[test]
    fn unprotected_members_may_not_decide_how_data_is_read() {
        let protected = Header::parse("JWE", br#"{"enc":"A256GCM","kid":"a"}"#).unwrap();
        let with = |json: &[u8]| protected.with_unprotected("JWE", &[&Header::parse("JWE", json).unwrap()]);
        assert_eq!(with(br#"{"alg":"A256KW"}"#).unwrap().alg.as_deref(), Some("A256KW"));
        for refused in
            [r#"{"kid":"b"}"#, r#"{"ctx":"x"}"#, r#"{"crit":["x"]}"#, r#"{"enc":"A256GCM"}"#, r#"{"typ":"x"}"#, r#"{"composite":"x"}"#]
        {
            assert!(with(refused.as_bytes()).is_err(), "{refused}");
        }
    }

    #[test]
    fn lengths_of_base64url() {
        for bytes in 0..50 {
            let mut text = String::new();
            push_base64url(&mut text, &vec![0xff; bytes]);
            assert_eq!(text.len(), base64url_len(bytes));
        }
    }
}
