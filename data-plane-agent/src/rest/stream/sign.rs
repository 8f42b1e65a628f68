//! `POST /v1/stream/sign` and `/v1/stream/verify`: signatures over bodies of any size, hashed as they flow.

use actix_web::{HttpRequest, HttpResponse, web};
use schema::{
    key::{KeyReference, Operation},
    wire::{
        operation::{StreamSignAnswer, VerifyAnswer, header},
        problem::Problem,
    },
};
use serde::Deserialize;
use service::problem::HttpProblem;

use super::{Body, Broken, content_length, context_of, targets};
use crate::{
    message::{
        MessageError,
        manifest::{self, Hasher, Manifest},
    },
    operation::{Proven, Request},
    rest::{
        Shared,
        act::{verdict, warn},
        problem,
        verify::chosen,
    },
    vault::public,
};

/// Signs a stream: the body is any number of bytes, the answer a JWS over a manifest of it.
#[utoipa::path(post, path = "/v1/stream/sign", tag = "files", security(("caller" = [])), params(
    ("key" = String, Query, description = "The key: `key_…`, `key_…/3` or `project/name`."),
    ("Freehold-Context" = Option<String>, Header, description = "The encryption context: base64url of a JSON map of strings."),
), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, description = "The signature.", body = StreamSignAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn sign(by: Proven, shared: web::Data<Shared>, request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, HttpProblem> {
    let mut body = Body::new(&request, payload, shared.stream_limit);
    let begun = async {
        let context = context_of(&request, header::CONTEXT)?.unwrap_or_default();
        let [key] = targets(&request)?.try_into().map_err(|_| one_key())?;
        let asked = Request::new(by, Operation::Sign, &context, content_length(&request));
        Ok((shared.pipeline.begin(&asked, &key).await?, context))
    };
    let ((permit, begun), context) = match begun.await {
        Ok(begun) => begun,
        Err(problem) => return Err(body.refuse(problem).await),
    };
    body.oblige(&begun.obligations);
    let manifest = match hash(&mut body).await {
        Ok(manifest) => manifest,
        Err(broken) => {
            begun.failed(&broken.0.code);
            return Err(body.refuse(broken.0).await);
        }
    };
    match manifest::sign(&*shared.vault, &*shared.ids, permit, &manifest, &context).await {
        Ok(signature) => {
            let used = begun.done(manifest.length);
            let mut response = HttpResponse::Ok();
            warn(&mut response, &used.warnings);
            let Manifest { sha256, sha512, length } = manifest;
            Ok(response.json(StreamSignAnswer { signature, sha256, sha512, length, used }))
        }
        Err(error) => {
            begun.failed(error.code());
            Err(problem::of_message(&error).into())
        }
    }
}

/// Which key must have signed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBy {
    key: Option<String>,
}

/// Verifies a stream against its signature, which stands in a header.
#[utoipa::path(post, path = "/v1/stream/verify", tag = "files", security(("caller" = [])), params(
    ("key" = Option<String>, Query, description = "The key that must have signed; when absent, the one the signature names."),
    ("Freehold-Signature" = String, Header, description = "The signature, as `/v1/stream/sign` gave it."),
    ("Freehold-Context" = Option<String>, Header, description = "The encryption context: base64url of a JSON map of strings."),
), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, description = "Whether it is genuine.", body = VerifyAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn verify(
    by: Proven,
    shared: web::Data<Shared>,
    signed_by: web::Query<SignedBy>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpProblem> {
    let mut body = Body::new(&request, payload, shared.stream_limit);
    let begun = async {
        let context = context_of(&request, header::CONTEXT)?.unwrap_or_default();
        let Some(signature) = request.headers().get(header::SIGNATURE) else {
            let detail = "send the signature as Freehold-Signature";
            return Err(Problem::new(400, "signature_missing", "No signature", detail).field("Freehold-Signature"));
        };
        let (signed, manifest) = manifest::read(signature.as_bytes()).map_err(|error| problem::of_message(&error))?;
        let (index, reference): (usize, KeyReference) = chosen(&shared, &signed, signed_by.key.as_deref())?;
        let asked = Request::new(by, Operation::Verify, &context, content_length(&request));
        let granted = shared.pipeline.begin(&asked, &reference).await?;
        Ok((granted, context, signed, index, manifest))
    };
    let ((permit, begun), context, signed, index, manifest) = match begun.await {
        Ok(begun) => begun,
        Err(problem) => return Err(body.refuse(problem).await),
    };
    body.oblige(&begun.obligations);
    let signature = match public::held(&*shared.vault, &permit).await {
        Ok(held) => verdict(signed.verify(index, permit, &held, &context)),
        Err(error) => Err(MessageError::from(error)),
    };
    let of_signature = match signature {
        Ok(code) => code,
        Err(error) => {
            begun.failed(error.code());
            return Err(body.refuse(problem::of_message(&error)).await);
        }
    };
    let found = match hash(&mut body).await {
        Ok(found) => found,
        Err(broken) => {
            begun.failed(&broken.0.code);
            return Err(body.refuse(broken.0).await);
        }
    };
    let code = of_signature.or((found != manifest).then_some("not_genuine"));
    let used = begun.judged(code, found.length);
    let mut response = HttpResponse::Ok();
    warn(&mut response, &used.warnings);
    Ok(response.json(VerifyAnswer { valid: code.is_none(), reason: code.map(str::to_owned), payload: None, used }))
}

async fn hash(body: &mut Body) -> Result<Manifest, Broken> {
    let mut hasher = Hasher::new();
    while let Some(bytes) = body.next().await? {
        hasher.push(&bytes);
    }
    Ok(hasher.finish())
}

fn one_key() -> Problem {
    Problem::new(400, "recipient_count", "Several keys", "a stream is signed by one key").field("key")
}
