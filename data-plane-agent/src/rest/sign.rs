//! `POST /v1/sign`: sign a message.

use schema::{
    key::Operation,
    wire::{
        operation::{Batch, BatchAnswer, Format, SecretBytes, SignAnswer, SignRequest},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
};
use crate::message::{
    MessageError,
    jws::{self, Form},
};

operation! {
    /// Signs a message of at most 1 MiB.
    sign, sign_batch: SignRequest => SignAnswer, at "/v1/sign" and "/v1/batch/sign", "signatures", "The signature."
}

impl Act for SignRequest {
    type Work = (SecretBytes, Form);
    type Answer = SignAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { key, payload, context, detached, format } = self;
        let form = jws_form(detached, format)?;
        Ok((vec![KeyUse::of(Operation::Sign, &key, context, payload.0.len())?], (payload, form)))
    }

    async fn run(shared: &Shared, (payload, form): Self::Work, mut grants: Grants) -> Result<Done<SignAnswer>, MessageError> {
        let grant = grants.take()?;
        let signature = jws::sign(&*shared.vault, &*shared.ids, vec![grant.permit], &payload.0, &grant.context, form).await?;
        Ok(Done::new(SignAnswer { signature, used: grant.used }, grant.size))
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
