//! `POST /v1/generate-data-key`: a key for the application to use itself, in clear and sealed.

use actix_web::{HttpResponse, web};
use schema::{
    key::Operation,
    wire::{
        operation::{DataKeyAnswer, DataKeyRequest, SecretBytes},
        problem::Problem,
    },
};
use service::problem::HttpProblem;

use super::{Shared, answer, jwe_form, key_reference};
use crate::{
    message::data_key,
    operation::{Proven, Request},
};

/// Makes a data key of 256 bits: keep the sealed one beside what it encrypts, and open it with `decrypt`.
#[utoipa::path(post, path = "/v1/generate-data-key", tag = "messages", request_body = DataKeyRequest, security(("caller" = [])), responses(
    (status = 200, description = "The data key, in clear and sealed.", body = DataKeyAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn generate_data_key(
    by: Proven,
    shared: web::Data<Shared>,
    body: web::Json<DataKeyRequest>,
) -> Result<HttpResponse, HttpProblem> {
    let DataKeyRequest { key, context } = body.into_inner();
    let request = Request { by, operation: Operation::GenerateDataKey, context: &context, size: Some(32) };
    let (permit, begun) = shared.pipeline.begin(&request, &key_reference(&key)?).await?;
    let made = data_key::generate(&*shared.vault, &*shared.ids, permit, &context, jwe_form(None)).await;
    Ok(answer(begun, made, 32, |made, used| DataKeyAnswer {
        plaintext: SecretBytes::from(made.key.expose().to_vec()),
        message: made.sealed,
        used,
    })?)
}
