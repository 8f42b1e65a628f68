//! `POST /v1/stream/sign`, `/v1/stream/verify` and `/v1/stream/re-sign`: signatures over bodies of any size, hashed as they flow.

use actix_web::{HttpRequest, HttpResponse, web};
use schema::{
    context::EncryptionContext,
    key::{KeyReference, Operation},
    wire::{
        operation::{StreamReSignAnswer, StreamSignAnswer, VerifyAnswer, header},
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
    operation::{Begun, Granted, Proven, Request},
    rest::{
        Shared,
        act::{Grant, Grants, warn},
        composite::Signer,
        problem,
        verify::{Found, Read},
    },
};

/// Signs a stream with a key, or with both keys of a composite: the body is any number of bytes, the answer a JWS over a
/// manifest of it.
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
        let signer = Signer::meant(&shared, key);
        let together = signer.composite().is_some();
        let asked = Request { together, ..Request::new(by, Operation::Sign, &context, content_length(&request)) };
        let granted = begin(&shared, by, asked, &signer.keys()).await?;
        Ok((granted, signer, context))
    };
    let (granted, signer, context) = match begun.await {
        Ok(begun) => begun,
        Err(problem) => return Err(body.refuse(problem).await),
    };
    let (permits, begun): (Vec<_>, Vec<Begun>) = granted.into_iter().unzip();
    begun.iter().for_each(|begun| body.oblige(&begun.obligations));
    let manifest = match hash(&mut body).await {
        Ok(manifest) => manifest,
        Err(broken) => {
            begun.into_iter().for_each(|begun| begun.failed(&broken.0.code));
            return Err(body.refuse(broken.0).await);
        }
    };
    match manifest::sign(&*shared.vault, &*shared.ids, permits, signer.composite(), &manifest, &context).await {
        Ok(signature) => {
            let mut response = HttpResponse::Ok();
            let mut used = begun.into_iter().map(|begun| signer.used(begun.done(manifest.length)));
            let (Some(used), also) = (used.next(), used.next()) else { return Err(nothing_granted().into()) };
            std::iter::once(&used).chain(&also).for_each(|used| warn(&mut response, &used.warnings));
            let Manifest { sha256, sha512, length } = manifest;
            Ok(response.json(StreamSignAnswer { signature, also, sha256, sha512, length, used }))
        }
        Err(error) => {
            begun.into_iter().for_each(|begun| begun.failed(error.code()));
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

/// Verifies a stream against its signature, or those of a composite, which stand in a header.
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
        let (read, manifest) = signature_of(&shared, &request, signed_by.key.as_deref())?;
        let asked = Request { together: read.is_by_composite(), ..Request::new(by, Operation::Verify, &context, content_length(&request)) };
        let granted = begin(&shared, by, asked, &read.keys()).await?;
        Ok((granted, context, read, manifest))
    };
    let (granted, context, read, manifest) = match begun.await {
        Ok(begun) => begun,
        Err(problem) => return Err(body.refuse(problem).await),
    };
    let mut begun: Vec<Begun> = Vec::with_capacity(2);
    let grants = granted.into_iter().map(|granted| grant(granted, &mut begun, &mut body, &context, &manifest));
    let mut grants = Grants::of(grants.collect());
    let Found { code: of_signature, composite, used } = match read.check(&shared, &mut grants).await {
        Ok(found) => found,
        Err(error) => {
            begun.into_iter().for_each(|begun| begun.failed(error.code()));
            return Err(body.refuse(problem::of_message(&error)).await);
        }
    };
    let found = match hash(&mut body).await {
        Ok(found) => found,
        Err(broken) => {
            begun.into_iter().for_each(|begun| begun.failed(&broken.0.code));
            return Err(body.refuse(broken.0).await);
        }
    };
    let code = of_signature.or((found != manifest).then_some("not_genuine"));
    let mut response = HttpResponse::Ok();
    for begun in begun {
        warn(&mut response, &begun.judged(code, found.length).warnings);
    }
    Ok(response.json(VerifyAnswer { valid: code.is_none(), reason: code.map(str::to_owned), payload: None, composite, used }))
}

/// Who signs a stream again, and who must have signed it before.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignAgain {
    key: String,
    signed_by: Option<String>,
}

/// Verifies a stream against its signature (whose key must allow `re-sign`) and signs it with another key (which must allow
/// `sign`), in one pass.
#[utoipa::path(post, path = "/v1/stream/re-sign", tag = "files", security(("caller" = [])), params(
    ("key" = String, Query, description = "The key to sign with, or a composite: `key_…`, `key_…/3` or `project/name`."),
    ("signed_by" = Option<String>, Query, description = "The key that must have signed, or the composite; when absent, what the signature names."),
    ("Freehold-Signature" = String, Header, description = "The signature, as `/v1/stream/sign` gave it."),
    ("Freehold-Context" = Option<String>, Header, description = "The encryption context it was signed with."),
    ("Freehold-New-Context" = Option<String>, Header, description = "Another encryption context from now on; the same when absent."),
), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, description = "The signature of the other key.", body = StreamReSignAnswer),
    (status = "default", description = "Refused or failed, or not genuine.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn re_sign(
    by: Proven,
    shared: web::Data<Shared>,
    again: web::Query<SignAgain>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpProblem> {
    let mut body = Body::new(&request, payload, shared.stream_limit);
    let mut begun = Vec::with_capacity(4);
    match sign_again(by, &shared, &again, &request, &mut body, &mut begun).await {
        Ok(answer) => {
            let mut response = HttpResponse::Ok();
            for one in begun {
                warn(&mut response, &one.done(answer.length).warnings);
            }
            Ok(response.json(answer))
        }
        Err(problem) => {
            begun.into_iter().for_each(|one| one.failed(&problem.code));
            Err(body.refuse(problem).await)
        }
    }
}

async fn sign_again(
    by: Proven,
    shared: &Shared,
    again: &SignAgain,
    request: &HttpRequest,
    body: &mut Body,
    begun: &mut Vec<Begun>,
) -> Result<StreamReSignAnswer, Problem> {
    let failed = |error: MessageError| problem::of_message(&error);
    let context = context_of(request, header::CONTEXT)?.unwrap_or_default();
    let new_context = context_of(request, header::NEW_CONTEXT)?.unwrap_or_else(|| context.clone());
    let (read, manifest) = signature_of(shared, request, again.signed_by.as_deref())?;
    let signer = Signer::of(shared, &again.key)?;
    let (size, old, new) = (content_length(request), read.keys(), signer.keys());
    let verify = Request { together: read.is_by_composite(), ..Request::new(by, Operation::ReSign, &context, size) };
    let sign = Request { together: signer.composite().is_some(), ..Request::new(by, Operation::Sign, &new_context, size) };
    let group = old.iter().map(|key| (verify, key)).chain(new.iter().map(|key| (sign, key))).collect();
    let mut granted = shared.pipeline.begin_all(by, &[group]).await?.pop().unwrap_or_else(|| Err(nothing_granted()))?;
    let to_sign = granted.split_off(old.len().min(granted.len()));
    let grants = granted.into_iter().map(|granted| grant(granted, begun, body, &context, &manifest)).collect();
    let (mut permits, mut used) = (Vec::with_capacity(to_sign.len()), Vec::with_capacity(to_sign.len()));
    for (permit, one) in to_sign {
        body.oblige(&one.obligations);
        permits.push(permit);
        used.push(signer.used(one.used.clone()));
        begun.push(one);
    }
    let mut used = used.into_iter();
    let (Some(used), also) = (used.next(), used.next()) else { return Err(nothing_granted()) };
    let Found { code, composite, used: source } = read.check(shared, &mut Grants::of(grants)).await.map_err(failed)?;
    let found = hash(body).await.map_err(|broken| broken.0)?;
    match code.or((found != manifest).then_some("not_genuine")) {
        None => {}
        Some("context_mismatch") => return Err(failed(MessageError::OtherContext)),
        Some(_) => return Err(failed(MessageError::NotGenuine)),
    }
    let signing = manifest::sign(&*shared.vault, &*shared.ids, permits, signer.composite(), &found, &new_context);
    let signature = signing.await.map_err(failed)?;
    let Manifest { sha256, sha512, length } = found;
    Ok(StreamReSignAnswer { signature, composite, also, sha256, sha512, length, source, used })
}

/// The signature that stands in the header, and the manifest it is over.
fn signature_of(shared: &Shared, request: &HttpRequest, signed_by: Option<&str>) -> Result<(Read, Manifest), Problem> {
    let Some(signature) = request.headers().get(header::SIGNATURE) else {
        let detail = "send the signature as Freehold-Signature";
        return Err(Problem::new(400, "signature_missing", "No signature", detail).field("Freehold-Signature"));
    };
    let (signed, manifest) = manifest::read(signature.as_bytes()).map_err(|error| problem::of_message(&error))?;
    Ok((Read::of_stream(shared, signed, signed_by)?, manifest))
}

/// The right to verify with one key; what is to be told of it stays with what was begun.
fn grant((permit, mut one): Granted, begun: &mut Vec<Begun>, body: &mut Body, context: &EncryptionContext, manifest: &Manifest) -> Grant {
    body.oblige(&one.obligations);
    let (used, obligations) = (one.used.clone(), std::mem::take(&mut one.obligations));
    begun.push(one);
    Grant { permit, used, obligations, context: context.clone(), size: manifest.length }
}

/// One use of each of these keys: all are allowed, or none happens.
async fn begin(shared: &Shared, by: Proven, asked: Request<'_>, keys: &[KeyReference]) -> Result<Vec<Granted>, Problem> {
    if let [only] = keys {
        return Ok(vec![shared.pipeline.begin(&asked, only).await?]);
    }
    let group = keys.iter().map(|key| (asked, key)).collect();
    shared.pipeline.begin_all(by, &[group]).await?.pop().unwrap_or_else(|| Err(nothing_granted()))
}

fn nothing_granted() -> Problem {
    problem::of_message(&MessageError::Failed("granting a use"))
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
