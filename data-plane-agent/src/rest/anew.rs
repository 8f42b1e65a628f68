//! Protecting anew what is protected already, without handing it out: `POST /v1/rewrap`, `/v1/re-encrypt`, `/v1/re-sign`.
//!
//! The version that is read and the one that protects anew are decided each by itself, and both uses are on record.

use schema::{
    context::EncryptionContext,
    encoding::Base64,
    key::{KeyReference, Operation},
    wire::{
        operation::{
            Batch, BatchAnswer, Format, ReEncryptAnswer, ReEncryptRequest, ReSignAnswer, ReSignRequest, RewrapAnswer, RewrapRequest,
        },
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
    composite::Signer,
    decrypt::named_or_ours,
    encrypt::jwe_form,
    key_reference, problem,
    verify::{Found, Read},
};
use crate::{
    message::{
        MessageError,
        file::{FileHeader, HeaderReader},
        jwe::{self, Form, Jwe},
        jws,
    },
    policy::permit::UsePermit,
    vault::public,
};

operation! {
    /// Protects with the newest version of a key what an older version protects: a message, a file by its header, or a wrapped key. The plaintext stays in the agent.
    rewrap, rewrap_batch: RewrapRequest => RewrapAnswer, at "/v1/rewrap" and "/v1/batch/rewrap", "messages", "The message, header or wrapped key under the newest version."
}

operation! {
    /// Opens a message with its key (which must allow `re-encrypt`) and seals it under another (which must allow `encrypt`). The plaintext stays in the agent.
    re_encrypt, re_encrypt_batch: ReEncryptRequest => ReEncryptAnswer, at "/v1/re-encrypt" and "/v1/batch/re-encrypt", "messages", "The message under the other key."
}

operation! {
    /// Verifies a signature with its key (which must allow `re-sign`) and signs the payload with another (which must allow `sign`).
    re_sign, re_sign_batch: ReSignRequest => ReSignAnswer, at "/v1/re-sign" and "/v1/batch/re-sign", "signatures", "The signature of the other key."
}

/// A message that is to be protected anew.
pub struct OldMessage {
    sealed: Jwe,
    form: Form,
    /// The text of one for several keys: another key takes the place of one of them, and the rest stays.
    shared: Option<String>,
}

/// What is rewrapped.
pub enum Old {
    /// A message.
    Message(Box<OldMessage>),
    /// A file, by its header.
    File(Box<FileHeader>),
    /// A bare key.
    Wrapped(Vec<u8>),
}

impl Act for RewrapRequest {
    type Work = Old;
    type Answer = RewrapAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Old), Problem> {
        let Self { message, file_header, wrapped, key, context, format } = self;
        let (version, size, old) = match (message, file_header, wrapped, key) {
            (Some(message), None, None, named) => {
                let old = OldMessage::read(message, format)?;
                let version = named_or_ours(shared, &old.sealed.key_versions(), ("key", named.as_deref()))?;
                (version, old.sealed.plaintext_bytes(), Old::Message(Box::new(old)))
            }
            (None, Some(bytes), None, named) => {
                let header = read_header(&bytes.0)?;
                let version = named_or_ours(shared, &header.key_versions(), ("key", named.as_deref()))?;
                (version, bytes.0.len(), Old::File(Box::new(header)))
            }
            (None, None, Some(wrapped), Some(key)) => {
                let KeyReference::Version(version) = key_reference(&key)? else {
                    let detail = "name the version that wrapped it, key_…/3: it is the key_version of the answer to wrap";
                    return Err(Problem::new(400, "invalid_key_reference", "This names no version", detail).field("key"));
                };
                (version, wrapped.0.len(), Old::Wrapped(wrapped.0))
            }
            _ => {
                let detail = "give a message, or a file_header, or a wrapped key together with the key version that wrapped it";
                return Err(Problem::new(400, "invalid_body", "Invalid body", detail));
            }
        };
        let rewrap = |reference| {
            let one = KeyUse::new(Operation::Rewrap, reference, context.clone(), size);
            match &old {
                Old::Message(old) => one.for_keys(old.sealed.recipient_count()),
                Old::File(header) => one.for_keys(header.recipient_count()),
                Old::Wrapped(_) => one,
            }
        };
        let (from, to) = (rewrap(KeyReference::Version(version)), rewrap(KeyReference::Id(version.key)));
        Ok((vec![from, KeyUse { anew: true, ..to }], old))
    }

    async fn run(shared: &Shared, old: Old, mut grants: Grants) -> Result<Done<RewrapAnswer>, MessageError> {
        let (from, to) = (grants.take()?, grants.take()?);
        let vault = &*shared.vault;
        let (mut message, mut file_header, mut wrapped) = (None, None, None);
        match old {
            Old::Message(old) => message = Some(old.anew(shared, (from.permit, &from.context), (to.permit, &to.context)).await?),
            Old::File(header) => {
                file_header = Some(Base64(header.rewrap(vault, &*shared.ids, (from.permit, to.permit), &to.context).await?));
            }
            Old::Wrapped(old) => {
                let key = vault.unwrap_bytes(from.permit, &old).await?;
                wrapped = Some(Base64(public::wrap_bytes(vault, &*shared.ids, to.permit, &key).await?));
            }
        }
        Ok(Done::new(RewrapAnswer { message, file_header, wrapped, source: from.used, used: to.used }, from.size))
    }
}

impl Act for ReEncryptRequest {
    type Work = OldMessage;
    type Answer = ReEncryptAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { message, source_key, context, key, new_context, format } = self;
        let old = OldMessage::read(message, format)?;
        let (count, size) = (old.sealed.recipient_count(), old.sealed.plaintext_bytes());
        let version = named_or_ours(shared, &old.sealed.key_versions(), ("source_key", source_key.as_deref()))?;
        let new_context = new_context.unwrap_or_else(|| context.clone());
        if count > 1 && new_context != context {
            let detail = "the message is for several keys, and its context stands in the header that all of them share: leave \
                          new_context out, or open it and seal it for all of them again";
            return Err(Problem::new(400, "recipient_count", "Several recipients", detail).field("new_context"));
        }
        let from = KeyUse::new(Operation::ReEncrypt, KeyReference::Version(version), context, size).for_keys(count);
        Ok((vec![from, KeyUse::of(Operation::Encrypt, &key, new_context, size)?.for_keys(count)], old))
    }

    async fn run(shared: &Shared, old: OldMessage, mut grants: Grants) -> Result<Done<ReEncryptAnswer>, MessageError> {
        let (from, to) = (grants.take()?, grants.take()?);
        let message = old.anew(shared, (from.permit, &from.context), (to.permit, &to.context)).await?;
        Ok(Done::new(ReEncryptAnswer { message, source: from.used, used: to.used }, from.size))
    }
}

impl Act for ReSignRequest {
    type Work = (Read, jws::Form, Signer);
    type Answer = ReSignAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { signature, payload, context, signed_by, key, new_context, detached, format } = self;
        let read = Read::of(shared, &signature, payload.as_ref(), signed_by.as_deref())?;
        let signer = Signer::of(shared, &key)?;
        let form = signer.form(detached, format)?;
        let mut uses = read.uses(Operation::ReSign, &context);
        uses.extend(signer.uses(new_context.as_ref().unwrap_or(&context), read.signed.payload().len()));
        Ok((uses, (read, form, signer)))
    }

    async fn run(shared: &Shared, (read, form, signer): Self::Work, mut grants: Grants) -> Result<Done<ReSignAnswer>, MessageError> {
        let Found { code, composite, used: source } = read.check(shared, &mut grants).await?;
        match code {
            None => {}
            Some("context_mismatch") => return Err(MessageError::OtherContext),
            Some(_) => return Err(MessageError::NotGenuine),
        }
        let payload = read.signed.payload();
        let (signature, used, also) = signer.sign(shared, payload, form, &mut grants).await?;
        Ok(Done::new(ReSignAnswer { signature, source, composite, also, used }, payload.len() as u64))
    }
}

/// A whole header and nothing behind it.
fn read_header(bytes: &[u8]) -> Result<FileHeader, Problem> {
    let mut reader = HeaderReader::new();
    match reader.push(bytes).map_err(|error| problem::of_message(&error))? {
        Some((header, used)) if used == bytes.len() => Ok(header),
        Some(_) => {
            let detail = "there is more than the header: send the first 8 bytes and as many as they say";
            Err(Problem::new(400, "malformed", "More than a header", detail).field("file_header"))
        }
        None => Err(problem::of_message(&reader.finish())),
    }
}

impl OldMessage {
    fn read(message: String, format: Option<Format>) -> Result<Self, Problem> {
        let sealed = Jwe::parse(message.as_bytes()).map_err(|error| problem::of_message(&error))?;
        let is_shared = sealed.recipient_count() > 1;
        if is_shared && format == Some(Format::Compact) {
            let detail = "the message is for several keys, and stays JSON: leave format out";
            return Err(Problem::new(400, "invalid_body", "Invalid body", detail).field("format"));
        }
        Ok(Self { sealed, form: jwe_form(format), shared: is_shared.then_some(message) })
    }

    /// Opens it with one key and protects it with another.
    async fn anew(
        &self,
        shared: &Shared,
        (from, context): (UsePermit, &EncryptionContext),
        (to, new_context): (UsePermit, &EncryptionContext),
    ) -> Result<String, MessageError> {
        let (vault, ids) = (&*shared.vault, &*shared.ids);
        if let Some(text) = &self.shared {
            return self.sealed.replace(vault, ids, text, (from, to), context).await;
        }
        let opened = self.sealed.decrypt(vault, from, context).await?;
        jwe::seal(vault, ids, vec![to], opened.plaintext.expose(), new_context, self.form, opened.typ.as_deref()).await
    }
}
