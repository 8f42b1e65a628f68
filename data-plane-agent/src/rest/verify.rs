//! `POST /v1/verify`: verify a signature. One that is not genuine is an answer, not an error.

use actix_web::{HttpResponse, web};
use schema::{
    id::KeyVersion,
    key::{KeyReference, Operation},
    wire::{
        operation::{SecretBytes, VerifyAnswer, VerifyRequest},
        problem::Problem,
    },
};
use service::problem::HttpProblem;

use super::{Shared, key_reference, problem, warn};
use crate::{
    message::{MessageError, jws::Jws},
    operation::{Proven, Request},
    policy::refusal::Refusal,
};

/// Verifies a signature with the key it names, or with the key that must have made it.
#[utoipa::path(post, path = "/v1/verify", tag = "signatures", request_body = VerifyRequest, security(("caller" = [])), responses(
    (status = 200, description = "Whether it is genuine.", body = VerifyAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn verify(by: Proven, shared: web::Data<Shared>, body: web::Json<VerifyRequest>) -> Result<HttpResponse, HttpProblem> {
    let VerifyRequest { signature, payload, context, key } = body.into_inner();
    let detached = payload.is_some();
    let read = Jws::parse(signature.as_bytes(), payload.as_ref().map(|payload| payload.0.as_slice()));
    let signed = read.map_err(|error| problem::of_message(&error))?;
    let (index, reference) = chosen(&shared, &signed, key.as_deref())?;
    let size = signed.payload().len() as u64;
    let request = Request { by, operation: Operation::Verify, context: &context, size: Some(size) };
    let (permit, begun) = shared.pipeline.begin(&request, &reference).await?;
    let verified = match shared.vault.held(permit.version()).await {
        Ok(held) => signed.verify(index, permit, &held, &context),
        Err(error) => Err(error.into()),
    };
    let reason = match verified {
        Ok(()) => None,
        Err(error @ (MessageError::NotGenuine | MessageError::OtherContext)) => Some(error.code()),
        Err(error) => {
            begun.failed(error.code());
            return Err(problem::of_message(&error).into());
        }
    };
    let used = begun.judged(reason, size);
    let valid = reason.is_none();
    let payload = (valid && !detached).then(|| SecretBytes::from(signed.payload().to_vec()));
    let mut response = HttpResponse::Ok();
    warn(&mut response, &used.warnings);
    Ok(response.json(VerifyAnswer { valid, reason: reason.map(str::to_owned), payload, used }))
}

/// Which signature to verify, and with which key.
fn chosen(shared: &Shared, signed: &Jws, key: Option<&str>) -> Result<(usize, KeyReference), Problem> {
    let versions = signed.key_versions();
    let Some(key) = key else {
        let first = versions.iter().enumerate().find_map(|(index, version)| Some((index, (*version)?)));
        let (index, version) = first.ok_or_else(|| problem::of_message(&MessageError::NoKey))?;
        return Ok((index, KeyReference::Version(version)));
    };
    let reference = key_reference(key)?;
    let in_force = shared.pipeline.current.load().ok_or_else(|| Refusal::NoStatements.problem())?;
    let id = in_force.key(&reference).ok_or_else(|| Refusal::KeyNotFound { reference: reference.clone() }.problem())?.id;
    let fits = |version: KeyVersion| match &reference {
        KeyReference::Version(wanted) => version == *wanted,
        KeyReference::Id(_) | KeyReference::Named { .. } => version.key == id,
    };
    let found = versions.iter().enumerate().find_map(|(index, version)| Some((index, (*version).filter(|version| fits(*version))?)));
    match (found, versions.as_slice()) {
        (Some((index, version)), _) => Ok((index, KeyReference::Version(version))),
        // A signature without a key's name is verified with the one that was asked for.
        (None, [None]) => Ok((0, reference)),
        (None, _) => {
            Err(Problem::new(400, "other_key", "Signed by another key", format!("no signature here was made by {key}")).field("key"))
        }
    }
}
