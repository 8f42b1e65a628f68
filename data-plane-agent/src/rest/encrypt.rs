//! `POST /v1/encrypt`: seal a message.

use actix_web::{HttpResponse, web};
use schema::{
    key::Operation,
    wire::{
        operation::{EncryptAnswer, EncryptRequest},
        problem::Problem,
    },
};
use service::problem::HttpProblem;

use super::{Shared, answer, jwe_form, key_reference};
use crate::{
    message::jwe,
    operation::{Proven, Request},
};

/// Seals a message of at most 1 MiB under a key, bound to an encryption context.
#[utoipa::path(post, path = "/v1/encrypt", tag = "messages", request_body = EncryptRequest, security(("caller" = [])), responses(
    (status = 200, description = "The sealed message.", body = EncryptAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn encrypt(by: Proven, shared: web::Data<Shared>, body: web::Json<EncryptRequest>) -> Result<HttpResponse, HttpProblem> {
    let EncryptRequest { key, plaintext, context, format } = body.into_inner();
    let size = plaintext.0.len() as u64;
    let request = Request { by, operation: Operation::Encrypt, context: &context, size: Some(size) };
    let (permit, begun) = shared.pipeline.begin(&request, &key_reference(&key)?).await?;
    let sealed = jwe::encrypt(&*shared.vault, &*shared.ids, vec![permit], &plaintext.0, &context, jwe_form(format)).await;
    Ok(answer(begun, sealed, size, |message, used| EncryptAnswer { message, used })?)
}
