//! `POST /v1/sign`: sign a message.

use schema::wire::{
    operation::{Batch, BatchAnswer, Format, SecretBytes, SignAnswer, SignRequest},
    problem::Problem,
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
    composite::Signer,
};
use crate::message::{MessageError, jws::Form};

operation! {
    /// Signs a message of at most 1 MiB with a key, or with both keys of a composite.
    sign, sign_batch: SignRequest => SignAnswer, at "/v1/sign" and "/v1/batch/sign", "signatures", "The signature."
}

impl Act for SignRequest {
    type Work = (SecretBytes, Form, Signer);
    type Answer = SignAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { key, payload, context, detached, format } = self;
        let signer = Signer::of(shared, &key)?;
        let form = signer.form(detached, format)?;
        Ok((signer.uses(&context, payload.0.len()), (payload, form, signer)))
    }

    async fn run(shared: &Shared, (payload, form, signer): Self::Work, mut grants: Grants) -> Result<Done<SignAnswer>, MessageError> {
        let (signature, used, also) = signer.sign(shared, &payload.0, form, &mut grants).await?;
        Ok(Done::new(SignAnswer { signature, also, used }, payload.0.len() as u64))
    }
}

pub(super) fn jws_form(detached: bool, format: Option<Format>) -> Result<Form, Problem> {
    match (detached, format) {
        (false, None | Some(Format::Compact)) => Ok(Form::Compact),
        (false, Some(Format::Json)) => Ok(Form::Flattened),
        (true, None | Some(Format::Compact)) => Ok(Form::Detached),
        (true, Some(Format::Json)) => {
            let detail = "a detached signature is compact: leave format out, or detached";
            Err(Problem::new(400, "invalid_body", "Invalid body", detail).field("format"))
        }
    }
}
