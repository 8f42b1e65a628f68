//! `POST /v1/stream/…`: files of any size in constant memory. Bytes are taken as fast as the answer is read.
//! [`sign`]: signatures over streams; [`anew`]: sealing for other keys; [`spool`]: released only when found genuine.
//!
//! HTTP cannot take plaintext back: when a file turns out bad in the middle, the connection is aborted, never ended
//! cleanly. What turns out bad before the first bytes were sent is an ordinary problem.

pub mod anew;
pub mod sign;
pub mod spool;

use std::{ops::Range, time::Duration};

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
    obligation::Obligations,
    wire::{
        operation::{Used, header},
        problem::Problem,
    },
};
use serde::Deserialize;
use service::problem::HttpProblem;

use self::spool::Spooled;
use super::{Shared, act::warn, decrypt::one_of_ours, key_reference, problem};
use crate::{
    message::{
        MAX_RECIPIENTS, MessageError,
        file::{CHUNK_BYTES, FileHeader, FileOpener, FileSealer, HeaderReader, MEDIA_TYPE},
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

/// How a file is to be opened.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenWith {
    release: Option<Release>,
    range: Option<String>,
    #[serde(default)]
    first_chunk: u64,
}

/// When plaintext is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Release {
    /// Chunk by chunk; a bad end aborts the connection.
    Chunks,
    /// When the whole file was found genuine.
    Verified,
}

/// Seals a stream: the body is any number of bytes, the answer a Freehold file.
#[utoipa::path(post, path = "/v1/stream/encrypt", tag = "files", security(("caller" = [])), params(
    ("key" = Vec<String>, Query, description = "The key: `key_…`, `key_…/3` or `project/name`; may be repeated: whoever may use any of them can open the file."),
    ("Freehold-Context" = Option<String>, Header, description = "The encryption context: base64url of a JSON map of strings."),
), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, description = "The sealed file.", body = Vec<u8>, content_type = "application/vnd.freehold.file"),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn encrypt(
    by: Proven,
    shared: web::Data<Shared>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpProblem> {
    let mut body = Body::new(&request, payload, shared.stream_limit);
    match begin_sealing(by, &shared, &request).await {
        Ok((sealer, begun)) => {
            begun.iter().for_each(|one| body.oblige(&one.obligations));
            let mut response = begun.first().map_or_else(HttpResponse::Ok, |first| answer(&first.used, MEDIA_TYPE));
            begun.iter().skip(1).for_each(|other| warn(&mut response, &other.used.warnings));
            Ok(response.streaming(seal(sealer, begun, body)))
        }
        Err(problem) => Err(body.refuse(problem).await),
    }
}

/// Opens a Freehold file: the answer is the plaintext. On a bad end the connection is aborted: keep nothing of it.
#[utoipa::path(post, path = "/v1/stream/decrypt", tag = "files", security(("caller" = [])), params(
    ("release" = Option<Release>, Query, description = "`chunks` (the default), or `verified`: nothing is handed out before the whole file was found genuine. Needs limits.spool."),
    ("range" = Option<String>, Query, description = "Only these bytes of plaintext, `first-last` or `first-`, counted from 0. Chunks outside are not looked at, so changes there are not found."),
    ("first_chunk" = Option<u64>, Query, description = "With range: the body is the file's header, the 56 bytes behind it, and then the chunks from this number on. A chunk is 16384 bytes of plaintext and 16400 in the file."),
    ("Freehold-Context" = Option<String>, Header, description = "The encryption context: base64url of a JSON map of strings."),
), request_body(content = Vec<u8>, content_type = "application/vnd.freehold.file"), responses(
    (status = 200, description = "The plaintext.", body = Vec<u8>, content_type = "application/octet-stream"),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn decrypt(
    by: Proven,
    shared: web::Data<Shared>,
    open_with: web::Query<OpenWith>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpProblem> {
    let mut body = Body::new(&request, payload, shared.stream_limit);
    let wanted = match open_with.range() {
        Ok(wanted) => wanted,
        Err(problem) => return Err(body.refuse(problem).await),
    };
    let (opener, begun, rest) = match begin_opening(by, &shared, &request, &mut body).await {
        Ok(begun) => begun,
        Err(problem) => return Err(body.refuse(problem).await),
    };
    body.oblige(&begun.obligations);
    let opener = match wanted {
        Some(wanted) => opener.only(wanted, open_with.first_chunk),
        None => opener,
    };
    let mut opening = if open_with.release == Some(Release::Verified) {
        match verified(&shared, opener, &mut body, rest).await {
            Ok(opening) => opening,
            Err(broken) => {
                begun.failed(&broken.0.code);
                return Err(body.refuse(broken.0).await);
            }
        }
    } else {
        Opening::new(opener, Source::Request(body), rest)
    };
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
            Err(opening.source.refuse(broken.0).await)
        }
    }
}

impl OpenWith {
    /// The range that is wanted, its end excluded.
    fn range(&self) -> Result<Option<Range<u64>>, Problem> {
        let wrong = |field: &str, detail: &str| Problem::new(400, "invalid_range", "Not a range", detail).field(field);
        let Some(text) = &self.range else {
            return if self.first_chunk == 0 { Ok(None) } else { Err(wrong("first_chunk", "first_chunk goes with range")) };
        };
        let parsed = text.split_once('-').and_then(|(first, last)| {
            let end = if last.is_empty() { u64::MAX } else { last.parse::<u64>().ok()?.checked_add(1)? };
            Some(first.parse().ok()?..end)
        });
        let wanted: Range<u64> = parsed
            .filter(|wanted| wanted.start < wanted.end)
            .ok_or_else(|| wrong("range", "a range is first-last or first-, counted from 0, the last byte included"))?;
        if self.first_chunk.saturating_mul(CHUNK_BYTES as u64) > wanted.start {
            return Err(wrong("first_chunk", "the range begins before the first chunk that is sent"));
        }
        Ok(Some(wanted))
    }
}

/// Reads the file to its end, keeping it as it is; then it is opened again from there.
async fn verified(shared: &Shared, mut opener: FileOpener, body: &mut Body, rest: Bytes) -> Result<Opening, Broken> {
    let bad = |error: MessageError| Broken(problem::of_message(&error));
    let again = opener.again().ok_or(MessageError::Failed("reading a file twice")).map_err(bad)?;
    let mut spooled = shared.spool.begin(&*shared.ids).await.map_err(Broken)?;
    let mut next = Some(rest);
    while let Some(bytes) = next {
        // Room for everything these bytes may give: a vector that grows leaves copies behind.
        let mut plaintext = SecretBytes::new(Vec::with_capacity(bytes.len() + CHUNK_BYTES));
        spooled.push(&bytes).await.map_err(Broken)?;
        plaintext.take_from(|out| opener.push(&bytes, out)).map_err(bad)?;
        next = body.next().await?;
    }
    SecretBytes::new(Vec::with_capacity(CHUNK_BYTES)).take_from(|out| opener.finish(out)).map_err(bad)?;
    spooled.rewind().await.map_err(Broken)?;
    Ok(Opening::new(again, Source::Spooled(spooled), Bytes::new()))
}

async fn begin_sealing(by: Proven, shared: &Shared, request: &HttpRequest) -> Result<(FileSealer, Vec<Begun>), Problem> {
    let context = context_of(request, header::CONTEXT)?.unwrap_or_default();
    let targets = targets(request)?;
    let recipients = u32::try_from(targets.len()).ok();
    let asked = |target| {
        let request = Request::new(by, Operation::Encrypt, &context, content_length(request));
        (Request { recipients, ..request }, target)
    };
    let group = targets.iter().map(asked).collect();
    let granted = shared.pipeline.begin_all(by, &[group]).await?.pop().unwrap_or_else(|| Ok(Vec::new()))?;
    let (permits, begun): (Vec<_>, Vec<Begun>) = granted.into_iter().unzip();
    match FileSealer::begin(&*shared.vault, &*shared.ids, permits, &context).await {
        Ok(sealer) => Ok((sealer, begun)),
        Err(error) => {
            begun.into_iter().for_each(|one| one.failed(error.code()));
            Err(problem::of_message(&error))
        }
    }
}

fn seal(mut sealer: FileSealer, begun: Vec<Begun>, mut body: Body) -> impl Stream<Item = Result<Bytes, Broken>> {
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
                for one in begun {
                    one.done(body.taken);
                }
                yield Ok(Bytes::from(out));
            }
            Err(broken) => {
                for one in begun {
                    one.failed(&broken.0.code);
                }
                yield Err(broken);
            }
        }
    }
}

/// Reads the header, and from there as everywhere: decide, intent, key.
async fn begin_opening(by: Proven, shared: &Shared, request: &HttpRequest, body: &mut Body) -> Result<(FileOpener, Begun, Bytes), Problem> {
    let context = context_of(request, header::CONTEXT)?.unwrap_or_default();
    let (file, rest) = read_header(request, body).await?;
    let version = one_of_ours(shared, &file.key_versions())?;
    let recipients = u32::try_from(file.recipient_count()).ok();
    let asked = Request { recipients, ..Request::new(by, Operation::Decrypt, &context, content_length(request)) };
    let (permit, begun) = shared.pipeline.begin(&asked, &KeyReference::Version(version)).await?;
    match file.open(&*shared.vault, permit, &context).await {
        Ok(opener) => Ok((opener, begun, rest)),
        Err(error) => {
            begun.failed(error.code());
            Err(problem::of_message(&error))
        }
    }
}

/// Reads a file's header; and what came with it of the body.
async fn read_header(request: &HttpRequest, body: &mut Body) -> Result<(FileHeader, Bytes), Problem> {
    if request.version() < Version::HTTP_11 {
        // There the end of the connection is the end of the answer: a bad end would look like a good one.
        return Err(Problem::new(505, "http_version", "HTTP version not supported", "streams need HTTP/1.1 or HTTP/2"));
    }
    let mut reader = HeaderReader::new();
    loop {
        let Some(bytes) = body.next().await.map_err(|broken| broken.0)? else {
            return Err(problem::of_message(&reader.finish()));
        };
        if let Some((file, used)) = reader.push(&bytes).map_err(|error| problem::of_message(&error))? {
            return Ok((file, bytes.slice(used..)));
        }
    }
}

/// Where the sealed bytes come from.
enum Source {
    /// The request, as they arrive.
    Request(Body),
    /// The spool, where they were found genuine.
    Spooled(Spooled),
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        match self {
            Self::Request(body) => body.next().await,
            Self::Spooled(spooled) => spooled.next().await.map_err(Broken),
        }
    }

    async fn refuse(self, problem: Problem) -> HttpProblem {
        match self {
            Self::Request(body) => body.refuse(problem).await,
            Self::Spooled(_) => HttpProblem(problem),
        }
    }
}

/// A file that is being opened.
struct Opening {
    /// None when the last chunk was opened: the end is the end.
    opener: Option<FileOpener>,
    source: Source,
    /// Bytes of the body that came with the header.
    rest: Option<Bytes>,
    /// Bytes of plaintext so far.
    opened: u64,
}

impl Opening {
    fn new(opener: FileOpener, source: Source, rest: Bytes) -> Self {
        Self { opener: Some(opener), source, rest: Some(rest), opened: 0 }
    }

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
                None => self.source.next().await?,
            };
            match (bytes, self.opener.as_mut()) {
                (Some(bytes), Some(opener)) => {
                    opener.push(&bytes, out).map_err(bad)?;
                    if opener.is_done() {
                        self.opener = None;
                    }
                }
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

/// The encryption context in this header, when there is one.
fn context_of(request: &HttpRequest, name: &str) -> Result<Option<EncryptionContext>, Problem> {
    let wrong = |detail: &str| Problem::new(400, "invalid_context", "Not an encryption context", detail).field(name);
    let Some(value) = request.headers().get(name) else { return Ok(None) };
    let json = value.to_str().ok().and_then(|text| from_base64url(text).ok());
    let json = json.ok_or_else(|| wrong("the header must be base64url without padding of a JSON map of strings"))?;
    serde_json::from_slice(&json).map(Some).map_err(|error| wrong(&error.to_string()))
}

/// The keys that the query names: `?key=…&key=…`.
fn targets(request: &HttpRequest) -> Result<Vec<KeyReference>, Problem> {
    let wrong = |detail: String| Problem::new(400, "invalid_query", "Invalid query", detail).field("key");
    let mut targets = Vec::new();
    for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
        if name != "key" {
            return Err(wrong(format!("the query has key, and not {name:?}")));
        }
        targets.push(key_reference(&value)?);
    }
    match targets.len() {
        0 => Err(wrong("name the key: ?key=project/name".to_owned())),
        1..=MAX_RECIPIENTS => Ok(targets),
        _ => Err(Problem::new(400, "recipient_count", "Too many recipients", format!("a file is for at most {MAX_RECIPIENTS} keys"))
            .field("key")),
    }
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
    /// The most bytes that the policies which permitted it allow.
    obliged: Option<u64>,
    taken: u64,
}

impl Body {
    fn new(request: &HttpRequest, payload: web::Payload, limit: Option<u64>) -> Self {
        Self { payload, known: content_length(request), limit, obliged: None, taken: 0 }
    }

    /// Holds it to what the permitting policies demand.
    fn oblige(&mut self, obligations: &Obligations) {
        self.obliged = [self.obliged, obligations.max_bytes].into_iter().flatten().min();
    }

    /// The next bytes; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if let Some(max) = self.obliged.filter(|max| self.taken > *max) {
            let detail = format!("the permitting policies allow at most {max} bytes, and there are more");
            return Err(Broken(Problem::new(403, "obligation_not_met", "Policy allows it on a condition", detail)));
        }
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
