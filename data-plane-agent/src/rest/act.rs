//! What every operation over JSON has in common: read it, have it decided, use the keys, answer. One by one, and as items of a
//! batch (`docs/decisions/0142-batches.md`).
//!
//! An operation is an [`Act`] on its request, and a line of [`operation!`] that makes its two endpoints.

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::header::{ContentType, HeaderValue},
};
use futures::future::join_all;
use schema::{
    context::EncryptionContext,
    key::{KeyReference, Operation},
    obligation::Obligations,
    wire::{
        operation::{Batch, BatchAnswer, BatchItem, Used, Warning, header},
        problem::Problem,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use service::problem::{HttpProblem, fault};

use super::{Shared, key_reference, problem};
use crate::{
    message::MessageError,
    operation::{Begun, Granted, Proven, Request},
    policy::permit::UsePermit,
};

/// The most items of a batch. Its bytes are limited as those of every body.
pub const MAX_ITEMS: usize = 1000;
/// Bytes of an answer beside what was protected.
const MEMBERS_BYTES: usize = 1024;
/// For what is larger an answer's buffer grows as it is written: what is signed does not come back.
const MAX_FORESEEN: usize = 16 * 1024;
/// Items of a batch that are worked on together; then others get their turn.
const TOGETHER: usize = 16;

/// An operation: what it asks for, and what it does once that is allowed.
pub(crate) trait Act: DeserializeOwned {
    /// What was read of the request.
    type Work;
    /// The answer.
    type Answer: Serialize;

    /// Reads the request: the uses of keys it asks for, and the work. No key is touched: bad input ends here.
    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem>;

    /// Does it. There is one grant for each use.
    async fn run(shared: &Shared, work: Self::Work, grants: Grants) -> Result<Done<Self::Answer>, MessageError>;

    /// Appends the answer as JSON: what `serde_json` makes of it.
    fn write(answer: &Self::Answer, out: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(out, answer)
    }
}

/// A use of a key that is asked for.
pub(crate) struct KeyUse {
    /// What for.
    pub operation: Operation,
    /// Which key.
    pub key: KeyReference,
    /// The encryption context.
    pub context: EncryptionContext,
    /// Bytes of plaintext or ciphertext.
    pub size: u64,
    /// How many keys a message is for, where it is for keys.
    pub recipients: Option<u32>,
    /// Whether the version is to protect anew, though the operation also reads what is old.
    pub anew: bool,
    /// Whether the answer can be masked.
    pub masks: bool,
    /// Whether it is about one of the two signatures of a composite, which are judged together.
    pub together: bool,
    /// What the request itself warns of.
    pub warnings: Vec<Warning>,
}

impl KeyUse {
    /// A use of the ordinary kind, of the key that this text names.
    pub fn of(operation: Operation, key: &str, context: EncryptionContext, size: usize) -> Result<Self, Problem> {
        Ok(Self::new(operation, key_reference(key)?, context, size))
    }

    /// A use of the ordinary kind.
    pub fn new(operation: Operation, key: KeyReference, context: EncryptionContext, size: usize) -> Self {
        Self {
            operation,
            key,
            context,
            size: size as u64,
            recipients: None,
            anew: false,
            masks: false,
            together: false,
            warnings: Vec::new(),
        }
    }

    /// The same of a message for so many keys.
    pub fn for_keys(mut self, count: usize) -> Self {
        self.recipients = u32::try_from(count).ok();
        self
    }

    fn request(&self, by: Proven) -> Request<'_> {
        let Self { operation, key: _, ref context, size, recipients, anew, masks, together, warnings: _ } = *self;
        Request { by, operation, context, size: Some(size), recipients, anew, masks, together }
    }
}

/// The right to use a key once.
pub(crate) struct Grant {
    /// To be spent.
    pub permit: UsePermit,
    /// What the answer says of the decision.
    pub used: Used,
    /// What the permitting policies demand of the answer.
    pub obligations: Obligations,
    /// The encryption context it was asked with.
    pub context: EncryptionContext,
    /// Bytes it was asked for.
    pub size: u64,
}

/// One grant for each use, in their order.
pub(crate) struct Grants(std::vec::IntoIter<Grant>);

impl Grants {
    /// Of these uses.
    pub fn of(grants: Vec<Grant>) -> Self {
        Self(grants.into_iter())
    }

    /// The next.
    pub fn take(&mut self) -> Result<Grant, MessageError> {
        self.another().ok_or(MessageError::Failed("granting a use"))
    }

    /// The next, where there is another one.
    pub fn another(&mut self) -> Option<Grant> {
        self.0.next()
    }
}

/// It was done.
pub(crate) struct Done<A> {
    /// The answer.
    pub answer: A,
    /// Bytes of plaintext it was done over.
    pub size: u64,
    /// Why what was judged is not genuine.
    pub code: Option<&'static str>,
}

impl<A> Done<A> {
    /// It was done over so many bytes.
    pub fn new(answer: A, size: u64) -> Self {
        Self { answer, size, code: None }
    }
}

/// What a check found: nothing wrong, or the code of why it is not genuine. Everything else stays an error.
pub(crate) fn verdict(checked: Result<(), MessageError>) -> Result<Option<&'static str>, MessageError> {
    match checked {
        Ok(()) => Ok(None),
        Err(error) if matches!(error.code(), "not_genuine" | "context_mismatch") => Ok(Some(error.code())),
        Err(error) => Err(error),
    }
}

/// Answers one request.
pub(crate) async fn one<A: Act>(by: Proven, shared: &Shared, request: A) -> Result<HttpResponse, HttpProblem> {
    let (uses, work) = request.plan(shared)?;
    let mut granted = match uses.as_slice() {
        [only] => vec![shared.pipeline.begin(&only.request(by), &only.key).await?],
        several => {
            let group = several.iter().map(|each| (each.request(by), &each.key)).collect();
            shared.pipeline.begin_all(by, &[group]).await?.pop().unwrap_or_else(|| Ok(Vec::new()))?
        }
    };
    let mut response = HttpResponse::Ok();
    add_warnings(&uses, &mut granted);
    for (_, begun) in &granted {
        warn(&mut response, &begun.used.warnings);
    }
    let size = uses.iter().map(|each| each.size).max().unwrap_or_default();
    let answer = spend::<A>(shared, work, uses, granted).await?;
    json::<A>(response, &answer, size)
}

/// The answer as JSON, in a buffer that mostly is large enough from the start: base64url takes a third more than its bytes.
fn json<A: Act>(mut response: HttpResponseBuilder, answer: &A::Answer, size: u64) -> Result<HttpResponse, HttpProblem> {
    let about = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_FORESEEN) / 2 * 3 + MEMBERS_BYTES;
    let mut body = Vec::with_capacity(about);
    A::write(answer, &mut body).map_err(|error| fault(&error))?;
    Ok(response.content_type(ContentType::json()).body(body))
}

/// Answers a batch: what is wrong with one item is said at that item.
pub(crate) async fn many<A: Act>(by: Proven, shared: &Shared, batch: Batch<A>) -> Result<HttpResponse, HttpProblem> {
    let count = size_of(&batch)?;
    let mut planned: Vec<_> = batch.items.into_iter().map(|item| item.plan(shared)).collect();
    let granted = {
        let readable = planned.iter().flatten();
        let groups: Vec<Vec<_>> = readable.map(|(uses, _)| uses.iter().map(|each| (each.request(by), &each.key)).collect()).collect();
        shared.pipeline.begin_all(by, &groups).await?
    };
    // Every item that could be read has a verdict, in the same order.
    let mut granted = granted.into_iter();
    let mut response = HttpResponse::Ok();
    let (mut items, mut warned) = (Vec::with_capacity(count), Warned::default());
    while !planned.is_empty() {
        let together = planned.drain(..planned.len().min(TOGETHER)).map(|item| {
            let begun = item.and_then(|(uses, work)| {
                let mut granted = granted.next().unwrap_or_else(|| Ok(Vec::new()))?;
                add_warnings(&uses, &mut granted);
                Ok((granted, uses, work))
            });
            for warning in begun.iter().flat_map(|(granted, _, _)| granted).flat_map(|(_, begun)| &begun.used.warnings) {
                warned.once(&mut response, warning);
            }
            async move {
                let (granted, uses, work) = begun?;
                spend::<A>(shared, work, uses, granted).await
            }
        });
        items.extend(join_all(together).await.into_iter().map(BatchItem::from));
        tokio::task::yield_now().await;
    }
    Ok(response.json(answer_of(items)))
}

/// How many items a batch has; not none, and not too many.
pub(crate) fn size_of<A>(batch: &Batch<A>) -> Result<usize, Problem> {
    match batch.items.len() {
        count @ 1..=MAX_ITEMS => Ok(count),
        count => {
            let detail = format!("a batch has 1 to {MAX_ITEMS} items, and this one has {count}");
            Err(Problem::new(400, "batch_size", "Not a batch", detail).field("items"))
        }
    }
}

/// What came of each item, and of how many what.
pub(crate) fn answer_of<A>(items: Vec<BatchItem<A>>) -> BatchAnswer<A> {
    let succeeded = items.iter().filter(|item| item.answer.is_some()).count();
    let failed = items.len() - succeeded;
    BatchAnswer { items, succeeded, failed }
}

/// Warnings of a batch that stand in its headers already: each code once.
#[derive(Default)]
pub(crate) struct Warned(Vec<String>);

impl Warned {
    /// Says a warning in a header, unless one of its code was said.
    pub fn once(&mut self, response: &mut actix_web::HttpResponseBuilder, warning: &Warning) {
        if !self.0.contains(&warning.code) {
            self.0.push(warning.code.clone());
            warn(response, std::slice::from_ref(warning));
        }
    }
}

/// What requests themselves warn of, beside the warnings of the decisions.
fn add_warnings(uses: &[KeyUse], granted: &mut [Granted]) {
    for (each, (_, begun)) in uses.iter().zip(granted) {
        begun.used.warnings.extend_from_slice(&each.warnings);
    }
}

/// Spends what was granted, and says in the journal what came of it.
async fn spend<A: Act>(shared: &Shared, work: A::Work, uses: Vec<KeyUse>, granted: Vec<Granted>) -> Result<A::Answer, Problem> {
    let mut begun: Vec<Begun> = Vec::with_capacity(granted.len());
    let grants: Vec<Grant> = granted
        .into_iter()
        .zip(uses)
        .map(|((permit, mut one), KeyUse { context, size, .. })| {
            let (used, obligations) = (one.used.clone(), std::mem::take(&mut one.obligations));
            begun.push(one);
            Grant { permit, used, obligations, context, size }
        })
        .collect();
    match A::run(shared, work, Grants::of(grants)).await {
        Ok(Done { answer, size, code }) => {
            for one in begun {
                one.judged(code, size);
            }
            Ok(answer)
        }
        Err(error) => {
            for one in begun {
                one.failed(error.code());
            }
            Err(problem::of_message(&error))
        }
    }
}

/// Says warnings in headers as well, for those who do not read the body.
pub(crate) fn warn(response: &mut HttpResponseBuilder, warnings: &[Warning]) {
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&warning.code) {
            response.append_header((header::WARNING, value));
        }
    }
}

/// The two endpoints of an operation: one request, and a batch of them. The file that uses it imports `Batch` and `BatchAnswer`.
macro_rules! operation {
    ($(#[$doc:meta])* $one:ident, $many:ident: $request:ty => $answer:ty, at $path:literal and $batch:literal, $tag:literal, $said:literal) => {
        $(#[$doc])*
        #[utoipa::path(post, path = $path, tag = $tag, request_body = $request, security(("caller" = [])), responses(
            (status = 200, description = $said, body = $answer),
            (status = "default", description = "Refused or failed.", body = schema::wire::problem::Problem, content_type = "application/problem+json"),
        ))]
        pub async fn $one(
            by: $crate::operation::Proven,
            shared: actix_web::web::Data<$crate::rest::Shared>,
            body: actix_web::web::Json<$request>,
        ) -> Result<actix_web::HttpResponse, service::problem::HttpProblem> {
            $crate::rest::act::one(by, &shared, body.into_inner()).await
        }

        /// The same for up to 1000 requests at once. Items fail or succeed one by one: each has its status.
        #[utoipa::path(post, path = $batch, tag = $tag, request_body = Batch<$request>, security(("caller" = [])), responses(
            (status = 200, description = "One answer or problem for each item, in order.", body = BatchAnswer<$answer>),
            (status = "default", description = "The batch as a whole was refused.", body = schema::wire::problem::Problem, content_type = "application/problem+json"),
        ))]
        pub async fn $many(
            by: $crate::operation::Proven,
            shared: actix_web::web::Data<$crate::rest::Shared>,
            body: actix_web::web::Json<Batch<$request>>,
        ) -> Result<actix_web::HttpResponse, service::problem::HttpProblem> {
            $crate::rest::act::many(by, &shared, body.into_inner()).await
        }
    };
}
pub(crate) use operation;
