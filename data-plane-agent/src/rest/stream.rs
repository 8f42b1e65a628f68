//! `POST /v1/stream/…`: files of any size in constant memory. Bytes are taken as fast as the answer is read.
//!
//! HTTP cannot take plaintext back: when a file turns out bad in the middle, the connection is aborted, never ended
//! cleanly. What turns out bad before the first bytes were sent is an ordinary problem.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Version, header::CONTENT_LENGTH},
    web::{self, Bytes},
};
use async_stream::stream;
use futures::{Stream, StreamExt};
use schema::{
    context::EncryptionContext,
    encoding::from_base64url,
    key::{KeyReference, Operation},
    wire::{
        operation::{Used, header},
        problem::Problem,
    },
};
use serde::Deserialize;
use service::problem::HttpProblem;

use super::{Shared, act::warn, decrypt::one_of_ours, key_reference, problem};
use crate::{
    message::{
        MessageError,
        file::{FileOpener, FileSealer, HeaderReader, MEDIA_TYPE},
    },
    operation::{Begun, Proven, Request},
    vault::secret::SecretBytes,
};

/// Bytes that are gathered before they are sent on.
const GATHER_BYTES: usize = 64 * 1024;
/// How long nothing may arrive before the connection is given up.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long the rest of a refused body is read and thrown away, so that its sender gets to read the refusal.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// What to seal with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealWith {
    key: String,
}

/// Seals a stream: the body is any number of bytes, the answer a Freehold file.
#[utoipa::path(post, path = "/v1/stream/encrypt", tag = "files", security(("caller" = [])), params(
    ("key" = String, Query, description = "The key: `key_…`, `key_…/3` or `project/name`."),
    ("Freehold-Context" = Option<String>, Header, description = "The encryption context: base64url of a JSON map of strings."),
), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, description = "The sealed file.", body = Vec<u8>, content_type = "application/vnd.freehold.file"),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn encrypt(
    by: Proven,
    shared: web::Data<Shared>,
    seal_with: web::Query<SealWith>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpProblem> {
    let body = Body::new(&request, payload, shared.stream_limit);
    match begin_sealing(by, &shared, &seal_with, &request).await {
        Ok((sealer, begun)) => {
            let mut answer = answer(&begun.used, MEDIA_TYPE);
            Ok(answer.streaming(seal(sealer, begun, body)))
        }
        Err(problem) => Err(body.refuse(problem).await),
    }
}

/// Opens a Freehold file: the answer is the plaintext. On a bad end the connection is aborted: keep nothing of it.
#[utoipa::path(post, path = "/v1/stream/decrypt", tag = "files", security(("caller" = [])), params(
    ("Freehold-Context" = Option<String>, Header, description = "The encryption context: base64url of a JSON map of strings."),
), request_body(content = Vec<u8>, content_type = "application/vnd.freehold.file"), responses(
    (status = 200, description = "The plaintext.", body = Vec<u8>, content_type = "application/octet-stream"),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn decrypt(
    by: Proven,
    shared: web::Data<Shared>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpProblem> {
    let mut body = Body::new(&request, payload, shared.stream_limit);
    let (opener, begun, rest) = match begin_opening(by, &shared, &request, &mut body).await {
        Ok(begun) => begun,
        Err(problem) => return Err(body.refuse(problem).await),
    };
    let mut opening = Opening { opener: Some(opener), body, rest: Some(rest), opened: 0 };
    match opening.gather().await {
        Ok(first) => {
            let mut answer = answer(&begun.used, "application/octet-stream");
            if opening.opener.is_none() {
                // The whole file was found genuine already.
                begun.done(opening.opened);
                return Ok(answer.body(first));
            }
            Ok(answer.streaming(open(opening, begun, first)))
        }
        Err(broken) => {
            begun.failed(&broken.0.code);
            Err(opening.body.refuse(broken.0).await)
        }
    }
}

async fn begin_sealing(by: Proven, shared: &Shared, seal_with: &SealWith, request: &HttpRequest) -> Result<(FileSealer, Begun), Problem> {
    let context = context_of(request)?;
    let asked = Request::new(by, Operation::Encrypt, &context, content_length(request));
    let (permit, begun) = shared.pipeline.begin(&asked, &key_reference(&seal_with.key)?).await?;
    match FileSealer::begin(&*shared.vault, &*shared.ids, vec![permit], &context).await {
        Ok(sealer) => Ok((sealer, begun)),
        Err(error) => {
            begun.failed(error.code());
            Err(problem::of_message(&error))
        }
    }
}

fn seal(mut sealer: FileSealer, begun: Begun, mut body: Body) -> impl Stream<Item = Result<Bytes, Broken>> {
    stream! {
        let mut out = Vec::with_capacity(GATHER_BYTES * 2);
        out.extend_from_slice(&sealer.header());
        let ended = loop {
            let pushed = match body.next().await {
                Ok(Some(bytes)) => sealer.push(&bytes, &mut out).map_err(|error| Broken(problem::of_message(&error))),
                Ok(None) => break sealer.finish(&mut out).map_err(|error| Broken(problem::of_message(&error))),
                Err(broken) => Err(broken),
            };
            if pushed.is_err() {
                break pushed;
            }
            if out.len() >= GATHER_BYTES {
                yield Ok(Bytes::from(std::mem::replace(&mut out, Vec::with_capacity(GATHER_BYTES * 2))));
            }
        };
        match ended {
            Ok(()) => {
                begun.done(body.taken);
                yield Ok(Bytes::from(out));
            }
            Err(broken) => {
                begun.failed(&broken.0.code);
                yield Err(broken);
            }
        }
    }
}

/// Reads the header, and from there as everywhere: decide, intent, key.
async fn begin_opening(by: Proven, shared: &Shared, request: &HttpRequest, body: &mut Body) -> Result<(FileOpener, Begun, Bytes), Problem> {
    if request.version() < Version::HTTP_11 {
        // There the end of the connection is the end of the answer: a bad end would look like a good one.
        return Err(Problem::new(505, "http_version", "HTTP version not supported", "streams need HTTP/1.1 or HTTP/2"));
    }
    let context = context_of(request)?;
    let mut reader = HeaderReader::new();
    let (file, rest) = loop {
        let Some(bytes) = body.next().await.map_err(|broken| broken.0)? else {
            return Err(problem::of_message(&reader.finish()));
        };
        if let Some((file, used)) = reader.push(&bytes).map_err(|error| problem::of_message(&error))? {
            break (file, bytes.slice(used..));
        }
    };
    let version = one_of_ours(shared, &file.key_versions())?;
    let asked = Request::new(by, Operation::Decrypt, &context, content_length(request));
    let (permit, begun) = shared.pipeline.begin(&asked, &KeyReference::Version(version)).await?;
    match file.open(&*shared.vault, permit, &context).await {
        Ok(opener) => Ok((opener, begun, rest)),
        Err(error) => {
            begun.failed(error.code());
            Err(problem::of_message(&error))
        }
    }
}

/// A file that is being opened.
struct Opening {
    /// None when the last chunk was opened: the end is the end.
    opener: Option<FileOpener>,
    body: Body,
    /// Bytes of the body that came with the header.
    rest: Option<Bytes>,
    /// Bytes of plaintext so far.
    opened: u64,
}

impl Opening {
    /// Opens until enough is gathered to be sent, or the file ends.
    async fn gather(&mut self) -> Result<Bytes, Broken> {
        let mut out = Vec::with_capacity(GATHER_BYTES * 2);
        let gathered = self.gather_into(&mut out).await;
        // What was opened is wiped once it was sent, and at once when it will not be.
        let out = SecretBytes::new(out);
        gathered?;
        self.opened += out.len() as u64;
        Ok(out.into_body())
    }

    async fn gather_into(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        let bad = |error: MessageError| Broken(problem::of_message(&error));
        while out.len() < GATHER_BYTES {
            let bytes = match self.rest.take() {
                Some(rest) => Some(rest),
                None => self.body.next().await?,
            };
            match (bytes, self.opener.as_mut()) {
                (Some(bytes), Some(opener)) => opener.push(&bytes, out).map_err(bad)?,
                (_, None) => break,
                (None, Some(_)) => {
                    if let Some(opener) = self.opener.take() {
                        opener.finish(out).map_err(bad)?;
                    }
                    break;
                }
            }
        }
        Ok(())
    }
}

fn open(mut opening: Opening, begun: Begun, first: Bytes) -> impl Stream<Item = Result<Bytes, Broken>> {
    stream! {
        yield Ok(first);
        while opening.opener.is_some() {
            match opening.gather().await {
                Ok(bytes) => yield Ok(bytes),
                Err(broken) => {
                    tracing::info!(code = broken.0.code, "a stream was aborted");
                    begun.failed(&broken.0.code);
                    yield Err(broken);
                    return;
                }
            }
        }
        begun.done(opening.opened);
    }
}

fn answer(used: &Used, media_type: &'static str) -> actix_web::HttpResponseBuilder {
    let mut answer = HttpResponse::Ok();
    answer
        .content_type(media_type)
        .insert_header((header::KEY_VERSION, used.key_version.to_string()))
        .insert_header((header::ALGORITHM, used.algorithm.as_str()))
        .insert_header((header::POLICIES, used.policies.join(", ")));
    warn(&mut answer, &used.warnings);
    answer
}

fn context_of(request: &HttpRequest) -> Result<EncryptionContext, Problem> {
    let wrong = |detail: &str| Problem::new(400, "invalid_context", "Not an encryption context", detail).field("Freehold-Context");
    let Some(value) = request.headers().get(header::CONTEXT) else { return Ok(EncryptionContext::default()) };
    let json = value.to_str().ok().and_then(|text| from_base64url(text).ok());
    let json = json.ok_or_else(|| wrong("the header must be base64url without padding of a JSON map of strings"))?;
    serde_json::from_slice(&json).map_err(|error| wrong(&error.to_string()))
}

fn content_length(request: &HttpRequest) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Why a stream ends badly. As the item of a body it aborts the connection.
#[derive(Debug)]
struct Broken(Problem);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.detail)
    }
}

impl std::error::Error for Broken {}

/// A request's body: counted and limited as it flows.
struct Body {
    payload: web::Payload,
    known: Option<u64>,
    limit: Option<u64>,
    taken: u64,
}

impl Body {
    fn new(request: &HttpRequest, payload: web::Payload, limit: Option<u64>) -> Self {
        Self { payload, known: content_length(request), limit, taken: 0 }
    }

    /// The next bytes; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if let Some(limit) = self.limit.filter(|limit| self.known.unwrap_or(0).max(self.taken) > *limit) {
            let detail = format!("the body has more than the {limit} bytes that limits.stream allows");
            return Err(Broken(Problem::new(413, "body_too_large", "Body too large", detail)));
        }
        match tokio::time::timeout(IDLE_LIMIT, self.payload.next()).await {
            Ok(Some(Ok(bytes))) => {
                self.taken += bytes.len() as u64;
                Ok(Some(bytes))
            }
            Ok(Some(Err(error))) => {
                let detail = format!("the body broke off: {error}");
                Err(Broken(Problem::new(400, "body_broken_off", "The body broke off", detail)))
            }
            Ok(None) => Ok(None),
            Err(_) => {
                let detail = format!("nothing arrived for {} s", IDLE_LIMIT.as_secs());
                Err(Broken(Problem::new(408, "body_too_slow", "The body stopped", detail)))
            }
        }
    }

    /// Reads what is still coming, within bounds: a sender that is still writing would not get to read the refusal.
    async fn refuse(mut self, problem: Problem) -> HttpProblem {
        let drain = async { while let Some(Ok(_)) = self.payload.next().await {} };
        // When it takes too long, the refusal is sent all the same.
        let _ = tokio::time::timeout(DRAIN_LIMIT, drain).await;
        HttpProblem(problem)
    }
}
