//! `POST /v1/sign`: sign a message.

use actix_web::{HttpResponse, web};
use schema::{
    key::Operation,
    wire::{
        operation::{Format, SignAnswer, SignRequest},
        problem::Problem,
    },
};
use service::problem::HttpProblem;

use super::{Shared, answer, key_reference};
use crate::{
    message::jws::{self, Form},
    operation::{Proven, Request},
};

/// Signs a message of at most 1 MiB.
#[utoipa::path(post, path = "/v1/sign", tag = "signatures", request_body = SignRequest, security(("caller" = [])), responses(
    (status = 200, description = "The signature.", body = SignAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn sign(by: Proven, shared: web::Data<Shared>, body: web::Json<SignRequest>) -> Result<HttpResponse, HttpProblem> {
    let SignRequest { key, payload, context, detached, format } = body.into_inner();
    let form = match (detached, format) {
        (false, None | Some(Format::Compact)) => Form::Compact,
        (false, Some(Format::Json)) => Form::Flattened,
        (true, None | Some(Format::Compact)) => Form::Detached,
        (true, Some(Format::Json)) => {
            let detail = "a detached signature is compact: leave format out, or detached";
            return Err(Problem::new(400, "invalid_body", "Invalid body", detail).field("format").into());
        }
    };
    let size = payload.0.len() as u64;
    let request = Request { by, operation: Operation::Sign, context: &context, size: Some(size) };
    let (permit, begun) = shared.pipeline.begin(&request, &key_reference(&key)?).await?;
    let signed = jws::sign(&*shared.vault, &*shared.ids, vec![permit], &payload.0, &context, form).await;
    Ok(answer(begun, signed, size, |signature, used| SignAnswer { signature, used })?)
}
