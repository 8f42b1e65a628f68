//! `POST /v1/decrypt`: open a message.

use schema::{
    id::KeyVersion,
    key::{KeyReference, Operation},
    wire::{
        operation::{Batch, BatchAnswer, DecryptAnswer, DecryptRequest, SecretBytes},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
    key_reference, problem,
};
use crate::message::{MessageError, jwe::Jwe};

operation! {
    /// Opens a message with the key it names. The encryption context must be the one it was sealed with.
    decrypt, decrypt_batch: DecryptRequest => DecryptAnswer, at "/v1/decrypt" and "/v1/batch/decrypt", "messages", "The plaintext."
}

impl Act for DecryptRequest {
    type Work = Jwe;
    type Answer = DecryptAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Jwe), Problem> {
        let sealed = Jwe::parse(self.message.as_bytes()).map_err(|error| problem::of_message(&error))?;
        let version = one_of_ours(shared, &sealed.key_versions())?;
        let opening = KeyUse::new(Operation::Decrypt, KeyReference::Version(version), self.context, sealed.plaintext_bytes());
        Ok((vec![KeyUse { masks: true, ..opening.for_keys(sealed.recipient_count()) }], sealed))
    }

    async fn run(shared: &Shared, sealed: Jwe, mut grants: Grants) -> Result<Done<DecryptAnswer>, MessageError> {
        let grant = grants.take()?;
        let opened = sealed.decrypt(&*shared.vault, grant.permit, &grant.context).await?;
        let plaintext = match grant.obligations.mask {
            Some(mask) => SecretBytes::from(mask.apply(opened.plaintext.expose())),
            None => SecretBytes::from(opened.plaintext.expose().to_vec()),
        };
        let masked = grant.obligations.mask.map(|mask| mask.to_string());
        Ok(Done::new(DecryptAnswer { plaintext, masked, used: grant.used }, grant.size))
    }
}

/// Of several recipients the one that is named, by its version, its key, or the composite whose hybrid key it is; by default
/// the first whose key is at this site.
pub(super) fn named_or_ours(shared: &Shared, versions: &[KeyVersion], (field, named): (&str, Option<&str>)) -> Result<KeyVersion, Problem> {
    let Some(text) = named else { return one_of_ours(shared, versions) };
    let reference = key_reference(text).map_err(|problem| problem.field(field))?;
    if let (KeyReference::Version(version), []) = (&reference, versions) {
        // A message of another program need not say which key it is for.
        return Ok(*version);
    }
    let in_force = shared.pipeline.current.load();
    let sealed_to = in_force.as_ref().and_then(|set| {
        let key = set.key(&reference).map(|key| key.id);
        key.or_else(|| set.composite(&reference)?.definition.encryption)
    });
    let is_meant = |version: &&KeyVersion| match &reference {
        KeyReference::Version(named) => *version == named,
        _ => Some(version.key) == sealed_to,
    };
    versions.iter().find(is_meant).copied().ok_or_else(|| {
        Problem::new(400, "other_key", "For other keys", format!("it is not for {reference}; it names other keys")).field(field)
    })
}

/// Of several recipients the first whose key is at this site; else the first, so that the refusal names it.
pub(super) fn one_of_ours(shared: &Shared, versions: &[KeyVersion]) -> Result<KeyVersion, Problem> {
    if let [only] = versions {
        return Ok(*only);
    }
    let in_force = shared.pipeline.current.load();
    let known = |version: &&KeyVersion| in_force.as_ref().is_some_and(|set| set.key(&KeyReference::Version(**version)).is_some());
    versions.iter().find(known).or(versions.first()).copied().ok_or_else(|| problem::of_message(&MessageError::NoKey))
}
