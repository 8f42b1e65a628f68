//! `POST /v1/encrypt`: seal a message.

use schema::{
    key::Operation,
    wire::{
        operation::{Batch, BatchAnswer, EncryptAnswer, EncryptRequest, Format, SecretBytes},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
};
use crate::message::{
    MAX_RECIPIENTS, MessageError,
    jwe::{self, Form},
};

operation! {
    /// Seals a message of at most 1 MiB under a key, bound to an encryption context.
    encrypt, encrypt_batch: EncryptRequest => EncryptAnswer, at "/v1/encrypt" and "/v1/batch/encrypt", "messages", "The sealed message."
}

impl Act for EncryptRequest {
    type Work = (SecretBytes, Form);
    type Answer = EncryptAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { key, also_for, plaintext, context, format } = self;
        let form = match (also_for.len(), format) {
            (0, format) => jwe_form(format),
            (1..MAX_RECIPIENTS, None | Some(Format::Json)) => Form::General,
            (1..MAX_RECIPIENTS, Some(Format::Compact)) => {
                let detail = "a message for several keys is JSON: leave format out, or also_for";
                return Err(Problem::new(400, "invalid_body", "Invalid body", detail).field("format"));
            }
            _ => {
                let detail = format!("a message is for at most {MAX_RECIPIENTS} keys");
                return Err(Problem::new(400, "recipient_count", "Too many recipients", detail).field("also_for"));
            }
        };
        let (size, count) = (plaintext.0.len(), 1 + also_for.len());
        let uses = std::iter::once(&key).chain(&also_for);
        let uses =
            uses.map(|key| Ok(KeyUse::of(Operation::Encrypt, key, context.clone(), size)?.for_keys(count))).collect::<Result<_, _>>()?;
        Ok((uses, (plaintext, form)))
    }

    async fn run(shared: &Shared, (plaintext, form): Self::Work, mut grants: Grants) -> Result<Done<EncryptAnswer>, MessageError> {
        let first = grants.take()?;
        let (mut permits, mut also_for) = (vec![first.permit], Vec::new());
        while let Ok(next) = grants.take() {
            permits.push(next.permit);
            also_for.push(next.used);
        }
        let message = jwe::encrypt(&*shared.vault, &*shared.ids, permits, &plaintext.0, &first.context, form).await?;
        Ok(Done::new(EncryptAnswer { message, also_for, used: first.used }, first.size))
    }
}

pub(super) const fn jwe_form(format: Option<Format>) -> Form {
    match format {
        None | Some(Format::Compact) => Form::Compact,
        Some(Format::Json) => Form::Flattened,
    }
}
