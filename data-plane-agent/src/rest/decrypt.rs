//! `POST /v1/decrypt`: open a message.

use actix_web::{HttpResponse, web};
use schema::{
    id::KeyVersion,
    key::{KeyReference, Operation},
    wire::{
        operation::{DecryptAnswer, DecryptRequest, SecretBytes},
        problem::Problem,
    },
};
use service::problem::HttpProblem;

use super::{Shared, answer, problem};
use crate::{
    message::{MessageError, jwe::Jwe},
    operation::{Proven, Request},
};

/// Opens a message with the key it names. The encryption context must be the one it was sealed with.
#[utoipa::path(post, path = "/v1/decrypt", tag = "messages", request_body = DecryptRequest, security(("caller" = [])), responses(
    (status = 200, description = "The plaintext.", body = DecryptAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn decrypt(by: Proven, shared: web::Data<Shared>, body: web::Json<DecryptRequest>) -> Result<HttpResponse, HttpProblem> {
    let DecryptRequest { message, context } = body.into_inner();
    let sealed = Jwe::parse(message.as_bytes()).map_err(|error| problem::of_message(&error))?;
    let size = sealed.plaintext_bytes() as u64;
    let version = one_of_ours(&shared, &sealed.key_versions())?;
    let request = Request { by, operation: Operation::Decrypt, context: &context, size: Some(size) };
    let (permit, begun) = shared.pipeline.begin(&request, &KeyReference::Version(version)).await?;
    let opened = sealed.decrypt(&*shared.vault, permit, &context).await;
    Ok(answer(begun, opened, size, |opened, used| DecryptAnswer {
        plaintext: SecretBytes::from(opened.plaintext.expose().to_vec()),
        used,
    })?)
}

/// Of several recipients the first whose key is at this site; else the first, so that the refusal names it.
pub(super) fn one_of_ours(shared: &Shared, versions: &[KeyVersion]) -> Result<KeyVersion, Problem> {
    let in_force = shared.pipeline.current.load();
    let known = |version: &&KeyVersion| in_force.as_ref().is_some_and(|set| set.key(&KeyReference::Version(**version)).is_some());
    versions.iter().find(known).or(versions.first()).copied().ok_or_else(|| problem::of_message(&MessageError::NoKey))
}
