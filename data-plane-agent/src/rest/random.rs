//! `POST /v1/random`: random bytes of the agent's host. Decided by policies of the tenant and the site: no key is used.

use actix_web::{HttpResponse, web};
use schema::{
    context::EncryptionContext,
    key::Operation,
    wire::{
        operation::{Batch, BatchAnswer, BatchItem, RandomAnswer, RandomRequest, SecretBytes},
        problem::Problem,
    },
};
use service::problem::HttpProblem;

use super::{
    Shared,
    act::{Warned, answer_of, size_of, warn},
    problem,
};
use crate::{
    message::MessageError,
    operation::{Keyless, Proven, Request},
};

/// The most bytes of one answer.
const MAX_BYTES: u32 = 65_536;
/// The most bytes of the answers to a batch.
const MAX_BATCH_BYTES: u64 = 1024 * 1024;

/// Makes random bytes. Decided by policies of the tenant and the site: no key is used.
#[utoipa::path(post, path = "/v1/random", tag = "messages", request_body = RandomRequest, security(("caller" = [])), responses(
    (status = 200, description = "The bytes.", body = RandomAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn random(by: Proven, shared: web::Data<Shared>, body: web::Json<RandomRequest>) -> Result<HttpResponse, HttpProblem> {
    let made = make(by, &shared, &[read(&body)?]).await?.pop().ok_or_else(not_made)??;
    let mut response = HttpResponse::Ok();
    warn(&mut response, &made.warnings);
    Ok(response.json(made))
}

/// The same for up to 1000 requests at once, of at most 1 MiB together. Items fail or succeed one by one: each has its status.
#[utoipa::path(post, path = "/v1/batch/random", tag = "messages", request_body = Batch<RandomRequest>, security(("caller" = [])), responses(
    (status = 200, description = "One answer or problem for each item, in order.", body = BatchAnswer<RandomAnswer>),
    (status = "default", description = "The batch as a whole was refused.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn random_batch(
    by: Proven,
    shared: web::Data<Shared>,
    body: web::Json<Batch<RandomRequest>>,
) -> Result<HttpResponse, HttpProblem> {
    size_of(&body)?;
    let asked: Vec<_> = body.items.iter().map(read).collect();
    let readable: Vec<u64> = asked.iter().flatten().copied().collect();
    if readable.iter().sum::<u64>() > MAX_BATCH_BYTES {
        let detail = format!("the items of a batch ask for at most {MAX_BATCH_BYTES} bytes together");
        return Err(Problem::new(413, "too_long", "Too long", detail).field("items").into());
    }
    let mut made = make(by, &shared, &readable).await?.into_iter();
    let (mut response, mut warned) = (HttpResponse::Ok(), Warned::default());
    // Every item that could be read has a verdict, in the same order.
    let items = asked.into_iter().map(|asked| {
        let answer = asked.and_then(|_| made.next().unwrap_or_else(|| Err(not_made())));
        answer.iter().flat_map(|answer| &answer.warnings).for_each(|warning| warned.once(&mut response, warning));
        BatchItem::from(answer)
    });
    let answer = answer_of(items.collect());
    Ok(response.json(answer))
}

/// How many bytes are asked for.
fn read(request: &RandomRequest) -> Result<u64, Problem> {
    match request.bytes {
        wanted @ 1..=MAX_BYTES => Ok(wanted.into()),
        _ => Err(Problem::new(400, "invalid_body", "Invalid body", format!("ask for 1 to {MAX_BYTES} bytes")).field("bytes")),
    }
}

async fn make(by: Proven, shared: &Shared, sizes: &[u64]) -> Result<Vec<Result<RandomAnswer, Problem>>, Problem> {
    let context = EncryptionContext::default();
    let asked: Vec<_> = sizes.iter().map(|size| Request::new(by, Operation::Random, &context, Some(*size))).collect();
    let fill = |size: u64| {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        shared.ids.fill(&mut bytes);
        SecretBytes::from(bytes)
    };
    let made = shared.pipeline.without_key(by, &asked, fill).await?;
    let answer = |Keyless { made: random, policies, warnings }| RandomAnswer { random, policies, warnings };
    Ok(made.into_iter().map(|one| one.map(answer)).collect())
}

fn not_made() -> Problem {
    problem::of_message(&MessageError::Failed("making random bytes"))
}
