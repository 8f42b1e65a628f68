//! One command, from question to records: load, authorise, look for a retry, decide, append.

use std::{collections::VecDeque, fmt, str::FromStr, sync::Arc};

use schema::{
    clock::{Clock, Ids, Timestamp, new_id},
    encoding::Digest,
    event::{Envelope, Event, InvalidRecord, RECORD_VERSION, Record, StreamId, UnknownEvent, lift},
    id::{EventId, TenantId},
    personal::persons,
};
use service::telemetry::TARGET;
use tracing::Instrument as _;

use super::{
    aggregate::{Aggregate, Deciding, EventMeta, Refusal},
    folded::Folded,
    store::{Append, AppendError, Cursor, EventStore, ReadError, Stored},
};
use crate::{
    access::{
        context::OpContext,
        permit::{Authorizer, Denied, Permit, Question},
    },
    sealing::{Keyring, SealingError, TenantKeys},
};

/// A stream remembers the idempotency keys of this many of its last records. A retry that comes later is decided anew,
/// which a stream's own rules then judge (a thing that exists cannot be created again).
pub const IDEMPOTENCY_WINDOW_RECORDS: usize = 256;
/// How often a command is decided again when somebody else was first.
const ATTEMPTS: usize = 8;
const PAGE: usize = 500;
/// From this revision on, what a stream has added up to is kept in memory.
const LONG: u64 = 100;

/// A key a client makes up for one command, to retry it safely: 1 to 128 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

/// The text is not an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to 128 visible ASCII characters, e.g. a UUID")]
pub struct InvalidIdempotencyKey;

impl IdempotencyKey {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, InvalidIdempotencyKey> {
        let plain = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if plain { Ok(Self(text.into())) } else { Err(InvalidIdempotencyKey) }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What may be said about a command beside the command.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Makes a retry safe.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The revision the asker has seen; any other is refused.
    pub expected_revision: Option<u64>,
    /// The principal it is done for.
    pub on_behalf_of: Option<String>,
    /// The event that led here.
    pub causation: Option<EventId>,
    /// Bodies the events name by SHA-256.
    pub blobs: Vec<Vec<u8>>,
}

/// What came of a command.
#[derive(Debug, Clone)]
pub struct Handled<A: Aggregate> {
    /// The state after it.
    pub state: A,
    /// The stream's revision after it.
    pub revision: u64,
    /// A token for queries that must see it; opaque, and of use to this tenant only.
    pub position: String,
    /// The same, for use inside the control plane.
    pub cursor: Cursor,
    /// Whether this is the answer to an earlier, identical request.
    pub replayed: bool,
    /// What happened; nothing, when there was nothing to do.
    pub events: Vec<A::Event>,
}

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError<R: Refusal> {
    /// The domain says no.
    #[error(transparent)]
    Refused(R),
    /// Policy says no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It has changed since the asker looked.
    #[error("this has changed in the meantime: expected revision {expected}, it is {actual}; look at it again and repeat the request")]
    WrongRevision {
        /// What the asker expected.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// The same idempotency key came with another request.
    #[error("this idempotency key was used for another request; use a new one for every request and the same one for its retries")]
    IdempotencyKeyReused,
    /// Others were first, time and again.
    #[error("others keep changing this at the same moment; try again")]
    Contended,
    /// What was decided does not fit into a record.
    #[error("this is too large to be recorded")]
    TooLarge(#[source] InvalidRecord),
    /// The command or an event has no JSON form.
    #[error("writing the command or its events as JSON failed")]
    Json(#[source] serde_json::Error),
    /// The permit was given for another act.
    #[error("the permit was given to another principal")]
    WrongPermit,
    /// The stream holds an event this program cannot read.
    #[error("reading the history failed")]
    History(#[from] UnknownEvent),
    /// The store could not be read.
    #[error("reading the history failed")]
    Read(#[from] ReadError),
    /// The store could not be written.
    #[error("recording failed")]
    Append(#[source] AppendError),
    /// The tenant's keys could not be used.
    #[error("opening the tenant's keys failed")]
    Sealing(#[from] SealingError),
}

impl<R: Refusal> CommandError<R> {
    /// A stable code, when this is an answer to the user; none for faults, which are logged and shown by request id.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => Some(refusal.code()),
            Self::Denied(_) => Some("forbidden"),
            Self::WrongRevision { .. } => Some("wrong_revision"),
            Self::IdempotencyKeyReused => Some("idempotency_key_reused"),
            Self::Contended => Some("contended"),
            Self::TooLarge(_) => Some("too_large"),
            _ => None,
        }
    }

    /// Whether its tenant was erased.
    pub fn is_erasure(&self) -> bool {
        match self {
            Self::Sealing(error) | Self::Read(ReadError::Sealing { source: error, .. }) => error.is_erasure(),
            _ => false,
        }
    }

    /// The field of the input that was wrong.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => refusal.field(),
            Self::WrongRevision { .. } => Some("expectedRevision"),
            Self::IdempotencyKeyReused => Some("idempotencyKey"),
            _ => None,
        }
    }
}

/// A stream and what it adds up to.
#[derive(Debug, Clone, Default)]
pub struct Loaded<A: Aggregate> {
    /// The state; `Default` when there is no such stream.
    pub state: A,
    /// The revision; 0 when there is no such stream.
    pub revision: u64,
    /// Place and time of the last record.
    last: Option<(Cursor, Timestamp)>,
    /// What retries are recognised by: of the last [`IDEMPOTENCY_WINDOW_RECORDS`] records those with a key, in order.
    remembered: VecDeque<Remembered>,
}

/// One record with an idempotency key.
#[derive(Debug, Clone)]
struct Remembered {
    cursor: Cursor,
    revision: u64,
    actor: String,
    key: String,
    request_mac: Option<Digest>,
}

impl Remembered {
    fn is(&self, ctx: &OpContext, key: &IdempotencyKey) -> bool {
        self.key == key.as_str() && self.actor == ctx.principal.to_string()
    }
}

impl<A: Aggregate> Loaded<A> {
    fn take(&mut self, stored: &Stored) -> Result<(), UnknownEvent> {
        let envelope = stored.record.envelope();
        self.state.evolve(&lift::<A::Event>(envelope)?, &meta(envelope));
        self.revision = envelope.revision;
        self.last = Some((stored.cursor, envelope.time));
        if let Some(key) = &envelope.idempotency_key {
            self.remembered.push_back(Remembered {
                cursor: stored.cursor,
                revision: envelope.revision,
                actor: envelope.actor.clone(),
                key: key.clone(),
                request_mac: envelope.request_mac,
            });
        }
        let forgotten = self.revision.saturating_sub(IDEMPOTENCY_WINDOW_RECORDS as u64);
        while self.remembered.front().is_some_and(|oldest| oldest.revision <= forgotten) {
            self.remembered.pop_front();
        }
        Ok(())
    }
}

/// Handles the commands of every domain. Clones share it.
#[derive(Clone)]
pub struct Handler {
    store: Arc<dyn EventStore>,
    keyring: Arc<Keyring>,
    authorizer: Arc<dyn Authorizer>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    folded: Arc<Folded>,
}

impl Handler {
    /// Puts the parts together.
    pub fn new(
        store: Arc<dyn EventStore>,
        keyring: Arc<Keyring>,
        authorizer: Arc<dyn Authorizer>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        Self { store, keyring, authorizer, clock, ids, folded: Arc::new(Folded::new()) }
    }

    /// The store commands go to.
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.store
    }

    /// The keys of a tenant: derived ids, ids of commands.
    pub async fn keys(&self, tenant: TenantId) -> Result<Arc<TenantKeys>, SealingError> {
        self.keyring.tenant(tenant).await
    }

    /// The keys that everything is sealed under.
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Ids for what a command needs before it is decided (the stream of a thing whose id does not derive from its name):
    /// the same for a retry under the same idempotency key.
    pub async fn ids(&self, ctx: &OpContext, key: Option<&IdempotencyKey>, purpose: &str) -> Result<Arc<dyn Ids>, SealingError> {
        Ok(match key {
            Some(key) => Arc::new(self.keys(ctx.tenant).await?.command_ids(ctx.principal, key.as_str(), purpose)),
            None => Arc::clone(&self.ids),
        })
    }

    /// Folds a stream; of a long one, what came since it was folded last.
    pub async fn load<A: Aggregate>(&self, tenant: TenantId, id: A::Id) -> Result<Loaded<A>, CommandError<A::Refusal>> {
        let stream = StreamId::of(id);
        let generation = self.keyring.generation();
        let mut loaded = self.folded.get::<Loaded<A>>(generation, tenant, &stream).unwrap_or_default();
        let known = loaded.revision;
        if known > 0 {
            // What was erased is not read from memory either.
            self.keyring.tenant(tenant).await?;
        }
        loop {
            let page = self.store.read_stream(tenant, &stream, loaded.revision, PAGE).await?;
            for stored in &page {
                loaded.take(stored)?;
            }
            if page.len() < PAGE {
                break;
            }
        }
        if loaded.revision >= LONG && loaded.revision > known {
            self.folded.keep(generation, tenant, stream, loaded.clone());
        }
        Ok(loaded)
    }

    /// Whether a stream ends at this revision still. Nothing is opened for that.
    pub async fn is_at<A: Aggregate>(&self, tenant: TenantId, id: A::Id, revision: u64) -> Result<bool, CommandError<A::Refusal>> {
        // Of who was erased nothing is told.
        self.keyring.tenant(tenant).await?;
        Ok(self.store.read_stream(tenant, &StreamId::of(id), revision, 1).await?.is_empty())
    }

    /// Handles a command whose question is known beforehand.
    pub async fn handle<A: Aggregate>(
        &self,
        ctx: &OpContext,
        question: Question,
        id: A::Id,
        options: Options,
        command: A::Command,
    ) -> Result<Handled<A>, CommandError<A::Refusal>> {
        self.handle_with(ctx, |_: &A| question.clone(), id, options, command).await
    }

    /// Handles a command whose question depends on the state (the project of a key, its labels).
    ///
    /// Permission is asked for first, also for a retry and before a wrong revision is told: who may not act learns nothing.
    pub async fn handle_with<A: Aggregate>(
        &self,
        ctx: &OpContext,
        question: impl Fn(&A) -> Question + Send + Sync,
        id: A::Id,
        options: Options,
        command: A::Command,
    ) -> Result<Handled<A>, CommandError<A::Refusal>> {
        let span = tracing::info_span!(
            target: TARGET, "handle", otel.name = format_args!("handle {}", A::KIND), freehold.tenant.id = %ctx.tenant,
            freehold.stream = %StreamId::of(id)
        );
        self.decide_and_append(ctx, question, id, options, command).instrument(span).await
    }

    async fn decide_and_append<A: Aggregate>(
        &self,
        ctx: &OpContext,
        question: impl Fn(&A) -> Question + Send + Sync,
        id: A::Id,
        options: Options,
        command: A::Command,
    ) -> Result<Handled<A>, CommandError<A::Refusal>> {
        let keys = self.keyring.tenant(ctx.tenant).await?;
        let stream = StreamId::of(id);
        let request_mac = match &options.idempotency_key {
            Some(_) => {
                let (plain, value) = to_be_hashed(&command).map_err(CommandError::Json)?;
                let command = match value {
                    Some(mut value) => {
                        self.keyring.seal_personal(ctx.tenant, &mut value).await?;
                        serde_json::to_vec(&value).map_err(CommandError::Json)?
                    }
                    None => plain,
                };
                Some(keys.request_mac(&[A::KIND.as_bytes(), stream.as_str().as_bytes(), &command]))
            }
            None => None,
        };
        for _ in 0..ATTEMPTS {
            let loaded = self.load::<A>(ctx.tenant, id).await?;
            let permit = self.authorizer.decide(ctx, &question(&loaded.state))?;
            if let (Some(key), Some(mac)) = (&options.idempotency_key, &request_mac)
                && let Some(answer) = self.replay(ctx, &keys, &stream, &loaded, key, mac).await?
            {
                return Ok(answer);
            }
            let Loaded { mut state, revision, last, .. } = loaded;
            if let Some(expected) = options.expected_revision.filter(|expected| *expected != revision) {
                return Err(CommandError::WrongRevision { expected, actual: revision });
            }
            // Within a stream time does not go back, whatever the clocks of replicas say.
            let now = self.clock.now().max(last.map_or(Timestamp::default(), |(_, time)| time));
            let ids = self.ids(ctx, options.idempotency_key.as_ref(), stream.as_str()).await?;
            let events = state.decide(&command, &Deciding { now, ids: &*ids }).map_err(CommandError::Refused)?;
            if events.is_empty() {
                let cursor = last.map_or(Cursor::START, |(cursor, _)| cursor);
                return Ok(Handled { state, revision, position: keys.position_token(cursor)?, cursor, replayed: false, events });
            }
            let mut to_append = Vec::with_capacity(events.len());
            for (revision, event) in (revision + 1..).zip(&events) {
                let mut data = event.data().map_err(CommandError::Json)?;
                self.keyring.seal_personal(ctx.tenant, &mut data).await?;
                let envelope = Envelope {
                    v: RECORD_VERSION,
                    id: new_id(&*self.ids, now),
                    tenant: ctx.tenant,
                    stream: stream.clone(),
                    revision,
                    event_type: event.type_name().to_owned(),
                    schema: A::Event::schema_version(event.type_name()),
                    time: now,
                    actor: ctx.principal.to_string(),
                    on_behalf_of: options.on_behalf_of.clone(),
                    via: ctx.via.map(|via| via.to_string()),
                    idempotency_key: options.idempotency_key.as_ref().map(ToString::to_string),
                    request_mac,
                    correlation: ctx.request.to_string(),
                    causation: options.causation,
                    data,
                };
                state.evolve(event, &meta(&envelope));
                to_append.push(Record::write(envelope).map_err(CommandError::TooLarge)?);
            }
            let append =
                Append { tenant: ctx.tenant, stream: stream.clone(), expected: revision, records: to_append, blobs: options.blobs.clone() };
            match self.append(permit, ctx, append).await? {
                Ok((revision, cursor)) => {
                    return Ok(Handled { state, revision, position: keys.position_token(cursor)?, cursor, replayed: false, events });
                }
                Err(AppendError::WrongRevision { expected, actual, .. }) if options.expected_revision.is_some() => {
                    return Err(CommandError::WrongRevision { expected, actual });
                }
                Err(AppendError::WrongRevision { .. }) => {}
                Err(error) => return Err(CommandError::Append(error)),
            }
        }
        Err(CommandError::Contended)
    }

    /// The answer to an earlier request of this principal under this idempotency key. The stream is read again up to there.
    async fn replay<A: Aggregate>(
        &self,
        ctx: &OpContext,
        keys: &TenantKeys,
        stream: &StreamId,
        loaded: &Loaded<A>,
        key: &IdempotencyKey,
        mac: &Digest,
    ) -> Result<Option<Handled<A>>, CommandError<A::Refusal>> {
        let mut same = loaded.remembered.iter().filter(|remembered| remembered.is(ctx, key));
        let Some(first) = same.next() else { return Ok(None) };
        let last = same.next_back().unwrap_or(first);
        if last.request_mac.as_ref() != Some(mac) {
            return Err(CommandError::IdempotencyKeyReused);
        }
        let (mut then, mut events) = (Loaded::<A>::default(), Vec::new());
        while then.revision < last.revision {
            let missing = usize::try_from(last.revision - then.revision).unwrap_or(PAGE);
            let page = self.store.read_stream(ctx.tenant, stream, then.revision, missing.min(PAGE)).await?;
            if page.is_empty() {
                return Ok(None);
            }
            for stored in page {
                then.take(&stored)?;
                let envelope = stored.record.envelope();
                let by_it = envelope.idempotency_key.as_deref() == Some(key.as_str()) && envelope.actor == ctx.principal.to_string();
                if by_it && envelope.revision >= first.revision {
                    events.push(lift(envelope)?);
                }
            }
        }
        let position = keys.position_token(last.cursor)?;
        Ok(Some(Handled { state: then.state, revision: last.revision, position, cursor: last.cursor, replayed: true, events }))
    }

    /// The one place that appends: it spends a permit.
    async fn append<R: Refusal>(
        &self,
        permit: Permit,
        ctx: &OpContext,
        append: Append,
    ) -> Result<Result<(u64, Cursor), AppendError>, CommandError<R>> {
        if !permit.is_for(ctx) {
            return Err(CommandError::WrongPermit);
        }
        Ok(self.store.append(append).await.map(|appended| (appended.revision, appended.cursor)))
    }
}

/// A command as retries are recognised by; with its JSON, when something in it is personal. That is sealed first, always to the
/// same: of who was erased not even a keyed hash tells anything.
fn to_be_hashed(command: &impl serde::Serialize) -> Result<(Vec<u8>, Option<serde_json::Value>), serde_json::Error> {
    let value = serde_json::to_value(command)?;
    Ok((serde_json::to_vec(command)?, Some(value).filter(|value| !persons(value).is_empty())))
}

/// The facts of an envelope that states may remember.
pub fn meta(envelope: &Envelope) -> EventMeta {
    EventMeta {
        id: envelope.id,
        tenant: envelope.tenant,
        stream: envelope.stream.clone(),
        revision: envelope.revision,
        time: envelope.time,
        actor: envelope.actor.clone(),
    }
}

#[cfg(test)]
mod tests;
