//! `POST /v1/transit/open`: what the transit engine of Vault or OpenBao sealed, in clear or turned into a JWE. Its key was imported.
//!
//! Nothing in such a ciphertext binds an encryption context, so that whoever opens it may claim any: it is decided as
//! `decrypt-legacy`, whatever becomes of it.

use schema::{
    id::KeyVersion,
    key::{KeyReference, Operation},
    wire::{
        operation::{Batch, BatchAnswer, SecretBytes, TransitOpenAnswer, TransitOpenRequest, Warning},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
    encrypt::jwe_form,
    key_reference, problem,
};
use crate::message::{MessageError, jwe, transit::Transit};

operation! {
    /// Opens what the transit engine of Vault or OpenBao sealed, or seals it again under another key as a JWE. It needs `decrypt-legacy`.
    open, open_batch: TransitOpenRequest => TransitOpenAnswer,
    at "/v1/transit/open" and "/v1/batch/transit/open", "old formats", "What was in it."
}

/// What is to be opened.
pub struct Sealed {
    sealed: Transit,
    associated: Vec<u8>,
    derivation: Option<Vec<u8>>,
    form: jwe::Form,
}

impl Act for TransitOpenRequest {
    type Work = Sealed;
    type Answer = TransitOpenAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { ciphertext, key, associated_data, derivation_context, seal_with, context, format } = self;
        let derivation = derivation_context.map(|context| context.0);
        let sealed = Transit::parse(&ciphertext).map_err(|error| problem::of_message(&error))?;
        let mut reference = key_reference(&key)?;
        if !matches!(reference, KeyReference::Version(_)) {
            let in_force = shared.pipeline.current.load();
            // A key that is not there: the decision says so.
            if let Some(found) = in_force.as_ref().and_then(|set| set.key(&reference)) {
                reference = KeyReference::Version(KeyVersion::new(found.id, sealed.version()));
            }
        }
        let size = sealed.plaintext_bytes();
        let detail = "what a transit engine sealed is bound to no encryption context: seal it anew (seal_with)".to_owned();
        let warnings = vec![Warning { code: "algorithm_legacy".to_owned(), detail }];
        let mut uses = vec![KeyUse { warnings, ..KeyUse::new(Operation::DecryptLegacy, reference, context.clone(), size) }];
        if let Some(key) = seal_with {
            uses.push(KeyUse::of(Operation::Encrypt, &key, context, size)?);
        }
        let associated = associated_data.map(|data| data.0).unwrap_or_default();
        Ok((uses, Sealed { sealed, associated, derivation, form: jwe_form(format) }))
    }

    async fn run(
        shared: &Shared,
        Sealed { sealed, associated, derivation, form }: Sealed,
        mut grants: Grants,
    ) -> Result<Done<TransitOpenAnswer>, MessageError> {
        let opening = grants.take()?;
        let vault = &*shared.vault;
        let plaintext = sealed.open(vault, opening.permit, &associated, derivation.as_deref()).await?;
        let size = plaintext.len() as u64;
        let mut answer = TransitOpenAnswer { plaintext: None, message: None, sealed: None, used: opening.used };
        match grants.another() {
            Some(sealing) => {
                let permits = vec![sealing.permit];
                answer.message = Some(jwe::encrypt(vault, &*shared.ids, permits, plaintext.expose(), &sealing.context, form).await?);
                answer.sealed = Some(sealing.used);
            }
            None => answer.plaintext = Some(SecretBytes::from(plaintext.expose().to_vec())),
        }
        Ok(Done::new(answer, size))
    }
}
