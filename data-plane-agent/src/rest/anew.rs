//! Protecting anew what is protected already, without handing it out: `POST /v1/rewrap`, `/v1/re-encrypt`, `/v1/re-sign`.
//!
//! The version that is read and the one that protects anew are decided each by itself, and both uses are on record.

use schema::{
    encoding::Base64,
    key::{KeyReference, Operation},
    wire::{
        operation::{Batch, BatchAnswer, ReEncryptAnswer, ReEncryptRequest, ReSignAnswer, ReSignRequest, RewrapAnswer, RewrapRequest},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
    composite::Signer,
    decrypt::one_of_ours,
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

/// What is rewrapped.
pub enum Old {
    /// A message.
    Message(Box<Jwe>, Form),
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
            (Some(message), None, None, None) => {
                let message = read_for_one(&message)?;
                let version = one_of_ours(shared, &message.key_versions())?;
                (version, message.plaintext_bytes(), Old::Message(Box::new(message), jwe_form(format)))
            }
            (None, Some(bytes), None, None) => {
                let header = read_header(&bytes.0)?;
                (one_of_ours(shared, &header.key_versions())?, bytes.0.len(), Old::File(Box::new(header)))
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
        let from = KeyUse::new(Operation::Rewrap, KeyReference::Version(version), context.clone(), size);
        let to = KeyUse { anew: true, ..KeyUse::new(Operation::Rewrap, KeyReference::Id(version.key), context, size) };
        Ok((vec![from, to], old))
    }

    async fn run(shared: &Shared, old: Old, mut grants: Grants) -> Result<Done<RewrapAnswer>, MessageError> {
        let (from, to) = (grants.take()?, grants.take()?);
        let vault = &*shared.vault;
        let (mut message, mut file_header, mut wrapped) = (None, None, None);
        match old {
            Old::Message(sealed, form) => {
                let opened = sealed.decrypt(vault, from.permit, &from.context).await?;
                let typ = opened.typ.as_deref();
                let sealed = jwe::seal(vault, &*shared.ids, vec![to.permit], opened.plaintext.expose(), &to.context, form, typ).await?;
                message = Some(sealed);
            }
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
    type Work = (Jwe, Form);
    type Answer = ReEncryptAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { message, context, key, new_context, format } = self;
        let message = read_for_one(&message)?;
        let (version, size) = (one_of_ours(shared, &message.key_versions())?, message.plaintext_bytes());
        let new_context = new_context.unwrap_or_else(|| context.clone());
        let from = KeyUse::new(Operation::ReEncrypt, KeyReference::Version(version), context, size);
        Ok((vec![from, KeyUse::of(Operation::Encrypt, &key, new_context, size)?], (message, jwe_form(format))))
    }

    async fn run(shared: &Shared, (message, form): Self::Work, mut grants: Grants) -> Result<Done<ReEncryptAnswer>, MessageError> {
        let (from, to) = (grants.take()?, grants.take()?);
        let vault = &*shared.vault;
        let opened = message.decrypt(vault, from.permit, &from.context).await?;
        let (plaintext, typ) = (opened.plaintext.expose(), opened.typ.as_deref());
        let message = jwe::seal(vault, &*shared.ids, vec![to.permit], plaintext, &to.context, form, typ).await?;
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

/// A message for several keys would lose the others: whoever sealed it seals it again.
fn read_for_one(message: &str) -> Result<Jwe, Problem> {
    let sealed = Jwe::parse(message.as_bytes()).map_err(|error| problem::of_message(&error))?;
    if sealed.recipient_count() > 1 {
        let detail = "the message is for several keys, and would be for one: open it and seal it for all of them again";
        return Err(Problem::new(400, "recipient_count", "Several recipients", detail).field("message"));
    }
    Ok(sealed)
}
