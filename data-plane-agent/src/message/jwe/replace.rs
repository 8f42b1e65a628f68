//! Another key in the place of one recipient of a message for several: the content, its header, and what the others have stay
//! as they are.

use schema::{
    catalogue::{Algorithm, Sealing},
    clock::Ids,
    context::EncryptionContext,
    encoding::base64url,
};
use serde_json::{Map, Value};

use super::{Jwe, WHAT, recipient_members};
use crate::{
    algorithm::ContentEncryption,
    message::{
        MessageError,
        header::{Header, HeaderWriter, read_base64url},
        unwrap, wrap_for,
    },
    policy::permit::UsePermit,
    vault::Vault,
};

/// What a recipient's header says of its key: all of it goes with the recipient.
const OF_ONE: &[&str] = &["alg", "kid", "ek", "epk", "apu", "apv"];

impl Jwe {
    /// The message with its content key wrapped for another key (`to`) in the place of one recipient (`from`). `text` is what
    /// it was read from. Whoever could open it still can, but for the holder of the key that was replaced by its entry.
    pub async fn replace(
        &self,
        vault: &dyn Vault,
        ids: &dyn Ids,
        text: &str,
        (from, to): (UsePermit, UsePermit),
        context: &EncryptionContext,
    ) -> Result<String, MessageError> {
        let (place, wrapped) = self.wrapped_for(&from, context)?;
        let mut json: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| MessageError::Malformed { what: WHAT, detail: error.to_string() })?;
        let shared = shared(&json)?;
        self.can_be_for(place, &shared, to.algorithm())?;
        let key = unwrap(vault, from, &wrapped, ContentEncryption::A256Gcm).await?;
        // What is not genuine is not passed on.
        drop(self.open(&key)?);
        let recipients = wrap_for(vault, ids, vec![to], &key, ContentEncryption::A256Gcm).await?;
        let recipient = recipients.first().ok_or(MessageError::Recipients)?;
        let said = recipient_members(HeaderWriter::new(), recipient)?.json();
        let said: Map<String, Value> = serde_json::from_str(&said).map_err(|_| MessageError::Failed("writing a header"))?;
        let entry = json.get_mut("recipients").and_then(|list| list.get_mut(place)).and_then(Value::as_object_mut);
        let entry = entry.ok_or(MessageError::Recipients)?;
        let mut header = entry.get("header").and_then(Value::as_object).cloned().unwrap_or_default();
        header.retain(|name, _| !OF_ONE.contains(&name.as_str()));
        // An algorithm that all share is this one's as well.
        header.extend(said.into_iter().filter(|(name, _)| !shared.contains(name)));
        entry.insert("header".to_owned(), header.into());
        entry.insert("encrypted_key".to_owned(), base64url(&recipient.wrapped.encrypted_key).into());
        serde_json::to_string(&json).map_err(|_| MessageError::Failed("writing a message"))
    }

    /// Whether a key of this algorithm can stand in the place of one recipient, with the headers that all share (RFC 7516,
    /// section 7.2.1: a parameter stands in one header only) and beside the others.
    fn can_be_for(&self, place: usize, shared: &[String], algorithm: Algorithm) -> Result<(), MessageError> {
        let refuse = |why: String| Err(MessageError::Irreplaceable(why));
        let Some(old) = self.recipients.get(place) else { return Err(MessageError::Recipients) };
        if let Some(name) = OF_ONE.iter().filter(|name| **name != "alg").find(|name| shared.iter().any(|shared| shared == *name)) {
            return refuse(format!("{name:?} stands in a header that all its recipients share"));
        }
        if shared.iter().any(|name| name == "alg") && !old.header.is_for(algorithm) {
            let alg = old.header.alg.as_deref().unwrap_or_default();
            return refuse(format!("the \"alg\" of all its recipients is {alg:?}, and stands in a header that they share"));
        }
        if let Some(draft) = algorithm.entry().draft.filter(|draft| old.header.draft.as_deref() != Some(draft)) {
            return refuse(format!("{algorithm} follows {draft}, which only its protected header could say"));
        }
        let is_strong = |algorithm: &Algorithm| algorithm.entry().asymmetric && algorithm.entry().quantum_category > 0;
        for (_, other) in self.recipients.iter().enumerate().filter(|(index, _)| *index != place) {
            let wraps = |known: &Algorithm| known.entry().sealing == Some(Sealing::ContentKey) && other.header.is_for(*known);
            let theirs = Algorithm::all().find(wraps);
            let weak = theirs.is_none_or(|theirs| theirs.entry().quantum_category == 0);
            if (is_strong(&algorithm) && weak)
                || (algorithm.entry().quantum_category == 0 && theirs.is_some_and(|theirs| is_strong(&theirs)))
            {
                return refuse("a post-quantum recipient cannot stand beside one that a quantum computer breaks".to_owned());
            }
        }
        Ok(())
    }
}

/// The names in the headers that all recipients share.
fn shared(json: &Map<String, Value>) -> Result<Vec<String>, MessageError> {
    let protected = json.get("protected").and_then(Value::as_str).unwrap_or_default();
    let protected = Header::parse(WHAT, &read_base64url(WHAT, "\"protected\"", protected.as_bytes())?)?;
    let unprotected = json.get("unprotected").and_then(Value::as_object).into_iter().flat_map(Map::keys);
    Ok(protected.names().iter().chain(unprotected).cloned().collect())
}
