//! `POST /v1/random`: random bytes of the agent's host.

use actix_web::{HttpResponse, web};
use schema::{
    context::EncryptionContext,
    key::Operation,
    wire::{
        operation::{RandomAnswer, RandomRequest, SecretBytes},
        problem::Problem,
    },
};
use service::problem::HttpProblem;

use super::{Shared, act::warn};
use crate::operation::{Proven, Request};

/// The most bytes of one answer.
const MAX_BYTES: u32 = 65_536;

/// Makes random bytes. Decided by policies of the tenant and the site: no key is used.
#[utoipa::path(post, path = "/v1/random", tag = "messages", request_body = RandomRequest, security(("caller" = [])), responses(
    (status = 200, description = "The bytes.", body = RandomAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn random(by: Proven, shared: web::Data<Shared>, body: web::Json<RandomRequest>) -> Result<HttpResponse, HttpProblem> {
    let wanted = body.bytes;
    if wanted == 0 || wanted > MAX_BYTES {
        let detail = format!("ask for 1 to {MAX_BYTES} bytes");
        return Err(Problem::new(400, "invalid_body", "Invalid body", detail).field("bytes").into());
    }
    let context = EncryptionContext::default();
    let request = Request::new(by, Operation::Random, &context, Some(wanted.into()));
    let make = || {
        let mut bytes = vec![0; wanted as usize];
        shared.ids.fill(&mut bytes);
        SecretBytes::from(bytes)
    };
    let (random, policies, warnings) = shared.pipeline.without_key(&request, make).await?;
    let mut response = HttpResponse::Ok();
    warn(&mut response, &warnings);
    Ok(response.json(RandomAnswer { random, policies, warnings }))
}
