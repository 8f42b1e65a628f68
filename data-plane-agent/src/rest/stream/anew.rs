//! `POST /v1/stream/re-encrypt`: a sealed file under other keys, in constant memory. The plaintext stays in the agent.

use actix_web::{HttpRequest, HttpResponse, web};
use async_stream::stream;
use futures::Stream;
use schema::{
    key::{KeyReference, Operation},
    wire::{operation::header, problem::Problem},
};
use service::problem::HttpProblem;

use super::{Body, Broken, GATHER_BYTES, Opening, Source, answer, content_length, context_of, read_header, targets};
use crate::{
    message::{
        MessageError,
        file::{FileOpener, FileSealer, MEDIA_TYPE},
    },
    operation::{Begun, Proven, Request},
    rest::{Shared, act::warn, decrypt::one_of_ours, problem},
};

/// Opens a Freehold file (its key must allow `re-encrypt`) and seals it for other keys (which must allow `encrypt`). On a bad end the connection is aborted: keep nothing of it.
#[utoipa::path(post, path = "/v1/stream/re-encrypt", tag = "files", security(("caller" = [])), params(
    ("key" = Vec<String>, Query, description = "The key to seal it for: `key_…`, `key_…/3` or `project/name`; may be repeated."),
    ("Freehold-Context" = Option<String>, Header, description = "The encryption context it was sealed with."),
    ("Freehold-New-Context" = Option<String>, Header, description = "Another encryption context from now on; the same when absent."),
), request_body(content = Vec<u8>, content_type = "application/vnd.freehold.file"), responses(
    (status = 200, description = "The file under the other keys.", body = Vec<u8>, content_type = "application/vnd.freehold.file"),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn re_encrypt(
    by: Proven,
    shared: web::Data<Shared>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, HttpProblem> {
    let mut body = Body::new(&request, payload, shared.stream_limit);
    let (opening, sealer, begun) = match begin(by, &shared, &request, &mut body).await {
        Ok((opener, rest, sealer, begun)) => (Opening::new(opener, Source::Request(body), rest), sealer, begun),
        Err(problem) => return Err(body.refuse(problem).await),
    };
    seal_again(opening, sealer, begun).await
}

/// What is needed to open a file and seal it again, and the bytes that came with its header.
type Parts = (FileOpener, web::Bytes, FileSealer, Vec<Begun>);

async fn begin(by: Proven, shared: &Shared, request: &HttpRequest, body: &mut Body) -> Result<Parts, Problem> {
    let context = context_of(request, header::CONTEXT)?.unwrap_or_default();
    let new_context = context_of(request, header::NEW_CONTEXT)?.unwrap_or_else(|| context.clone());
    let targets = targets(request)?;
    let (file, rest) = read_header(request, body).await?;
    let source = KeyReference::Version(one_of_ours(shared, &file.key_versions())?);
    let size = content_length(request);
    let mut group = vec![(Request::new(by, Operation::ReEncrypt, &context, size), &source)];
    group.extend(targets.iter().map(|target| (Request::new(by, Operation::Encrypt, &new_context, size), target)));
    let granted = shared.pipeline.begin_all(by, &[group]).await?.pop().unwrap_or_else(|| Ok(Vec::new()))?;
    let (mut permits, begun): (Vec<_>, Vec<Begun>) = granted.into_iter().unzip();
    begun.iter().for_each(|one| body.oblige(&one.obligations));
    let source = permits.remove(0);
    let made = async {
        let opener = file.open(&*shared.vault, source, &context).await?;
        let sealer = FileSealer::begin(&*shared.vault, &*shared.ids, permits, &new_context).await?;
        Ok::<_, MessageError>((opener, sealer))
    };
    match made.await {
        Ok((opener, sealer)) => Ok((opener, rest, sealer, begun)),
        Err(error) => {
            begun.into_iter().for_each(|one| one.failed(error.code()));
            Err(problem::of_message(&error))
        }
    }
}

async fn seal_again(mut opening: Opening, mut sealer: FileSealer, begun: Vec<Begun>) -> Result<HttpResponse, HttpProblem> {
    let first = match opening.gather().await {
        Ok(first) => first,
        Err(broken) => {
            begun.into_iter().for_each(|one| one.failed(&broken.0.code));
            return Err(opening.source.refuse(broken.0).await);
        }
    };
    let mut response = begun.get(1).or(begun.first()).map_or_else(HttpResponse::Ok, |target| answer(&target.used, MEDIA_TYPE));
    let others = begun.iter().enumerate().filter(|(place, _)| *place != 1).map(|(_, other)| other);
    others.for_each(|other| warn(&mut response, &other.used.warnings));
    if let Some(source) = begun.first() {
        response.insert_header((header::SOURCE_KEY_VERSION, source.used.key_version.to_string()));
    }
    let header = sealer.header();
    Ok(response.streaming(pass_on(opening, sealer, begun, first, header)))
}

fn pass_on(
    mut opening: Opening,
    sealer: FileSealer,
    begun: Vec<Begun>,
    first: web::Bytes,
    header: Vec<u8>,
) -> impl Stream<Item = Result<web::Bytes, Broken>> {
    let bad = |error: MessageError| Broken(problem::of_message(&error));
    stream! {
        let mut sealer = Some(sealer);
        let (mut plaintext, mut out) = (first, header);
        let ended: Result<(), Broken> = loop {
            if let Some(Err(error)) = sealer.as_mut().map(|sealer| sealer.push(&plaintext, &mut out)) {
                break Err(bad(error));
            }
            if opening.opener.is_none() {
                // The old file was whole: only now does the new one get its end.
                break sealer.take().map_or(Ok(()), |sealer| sealer.finish(&mut out)).map_err(bad);
            }
            if out.len() >= GATHER_BYTES {
                yield Ok(web::Bytes::from(std::mem::take(&mut out)));
            }
            match opening.gather().await {
                Ok(bytes) => plaintext = bytes,
                Err(broken) => break Err(broken),
            }
        };
        match ended {
            Ok(()) => {
                for one in begun {
                    one.done(opening.opened);
                }
                yield Ok(web::Bytes::from(out));
            }
            Err(broken) => {
                tracing::info!(code = broken.0.code, "a stream was aborted");
                for one in begun {
                    one.failed(&broken.0.code);
                }
                yield Err(broken);
            }
        }
    }
}
