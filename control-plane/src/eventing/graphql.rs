//! The tenant's own records in GraphQL, in the order of its ledger.

use async_graphql::{Context, ID, Object, Result, SimpleObject};
use schema::{
    encoding::{base64url, from_base64url},
    event::{Envelope, StreamId},
    id::EventId,
};

use super::view::Page;
use crate::graphql::{
    api::Api,
    fault::{Fault, bad_request, fault, scan_limit},
    page::{List, cost, empty, list, page},
    scalar::{Json, Timestamp, UInt64},
};

/// Records read at a time.
const SCAN: usize = 200;

/// One recorded event.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Event")]
pub struct EventNode {
    /// `evt_…`
    pub id: ID,
    /// Its place in the tenant's own ledger, from 0.
    pub ledger_index: UInt64,
    /// The stream: the id of what it happened to.
    pub stream: ID,
    /// Its place in the stream, from 1.
    pub revision: UInt64,
    /// What happened.
    #[graphql(name = "type")]
    pub event_type: String,
    /// The version of `data`.
    pub schema_version: u32,
    /// When it was decided.
    pub time: Timestamp,
    /// The principal that acted: an id, or `system:<name>`.
    pub actor: String,
    /// The token it came through.
    pub via: Option<ID>,
    /// The request that led here.
    pub correlation: String,
    /// The facts.
    pub data: Json,
}

impl EventNode {
    /// The event of this id.
    pub async fn find(api: &Api, id: EventId) -> Result<Option<Self>, Fault> {
        let found = api.services.handler.store().tenant_record(api.ctx.tenant, id).await;
        let found = found.map_err(|error| fault("reading a record", &error))?;
        Ok(found.map(|(index, stored)| Self::of(index, stored.record.envelope())))
    }

    pub(super) fn of(index: u64, envelope: &Envelope) -> Self {
        Self {
            id: envelope.id.to_string().into(),
            ledger_index: UInt64(index),
            stream: envelope.stream.to_string().into(),
            revision: UInt64(envelope.revision),
            event_type: envelope.event_type.clone(),
            schema_version: envelope.schema,
            time: Timestamp(envelope.time),
            actor: envelope.actor.clone(),
            via: envelope.via.clone().map(Into::into),
            correlation: envelope.correlation.clone(),
            data: Json(envelope.data.clone()),
        }
    }
}

/// Which records. Everything that is given must fit.
pub(super) struct Wanted {
    pub(super) stream: Option<StreamId>,
    pub(super) event_type: Option<String>,
    pub(super) actor: Option<String>,
    pub(super) since: Option<schema::clock::Timestamp>,
    pub(super) until: Option<schema::clock::Timestamp>,
}

impl Wanted {
    pub(super) fn has(&self, envelope: &Envelope) -> bool {
        self.stream.as_ref().is_none_or(|stream| *stream == envelope.stream)
            && self.event_type.as_ref().is_none_or(|event_type| *event_type == envelope.event_type)
            && self.actor.as_ref().is_none_or(|actor| *actor == envelope.actor)
            && self.since.is_none_or(|since| envelope.time >= since)
            && self.until.is_none_or(|until| envelope.time < until)
    }
}

/// Reading records.
#[derive(Default)]
pub struct EventQuery;

#[Object]
impl EventQuery {
    /// What was recorded in the tenant, oldest first. One request reads a bounded number of records: with filters, a page may
    /// have fewer entries than asked for although there are more.
    #[graphql(complexity = "cost(first, last) * child_complexity")]
    #[allow(clippy::too_many_arguments, reason = "arguments of a connection")]
    async fn events(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        #[graphql(desc = "The id of what it happened to.")] stream: Option<ID>,
        #[graphql(name = "type", desc = "E.g. `KeyCreated`.")] event_type: Option<String>,
        #[graphql(desc = "The principal that acted.")] actor: Option<String>,
        #[graphql(desc = "Not before this.")] since: Option<Timestamp>,
        #[graphql(desc = "Before this.")] until: Option<Timestamp>,
        position: Option<String>,
    ) -> Result<List<EventNode>> {
        let api = Api::asking(ctx, "readEvents", position).await?;
        let page = page(first, after, last, before)?;
        let stream = match stream.map(|stream| stream.parse()) {
            Some(Ok(stream)) => Some(stream),
            Some(Err(_)) => return Ok(empty()),
            None => None,
        };
        let wanted = Wanted { stream, event_type, actor, since: since.map(|time| time.0), until: until.map(|time| time.0) };
        match page {
            Page::First { count, after } => {
                let from = match after.as_deref().map(index_of).transpose()? {
                    Some(index) => index.saturating_add(1),
                    None => 0,
                };
                let (found, more) = forward(api, &wanted, from, count).await?;
                Ok(list(found, from > 0, more))
            }
            Page::Last { count, before } => {
                let length = api.services.handler.store().tenant_length(api.ctx.tenant).await;
                let length = length.map_err(|error| fault("reading records", &error))?;
                let end = before.as_deref().map(index_of).transpose()?.unwrap_or(length).min(length);
                let (mut found, more) = backward(api, &wanted, end, count).await?;
                found.reverse();
                Ok(list(found, more, end < length))
            }
        }
    }
}

type Found = (Vec<(String, EventNode)>, bool);

async fn forward(api: &Api, wanted: &Wanted, mut from: u64, count: usize) -> Result<Found, Fault> {
    let mut found = Vec::new();
    let limit = from.saturating_add(api.services.scan_limit as u64);
    loop {
        let records = read(api, from, SCAN).await?;
        let exhausted = records.len() < SCAN;
        for (index, envelope) in records {
            if wanted.has(&envelope) {
                if found.len() == count {
                    return Ok((found, true));
                }
                found.push((cursor_of(index), EventNode::of(index, &envelope)));
            }
            from = index + 1;
        }
        if exhausted {
            return Ok((found, false));
        }
        if from >= limit {
            return if found.is_empty() { Err(scan_limit(&cursor_of(from - 1))) } else { Ok((found, true)) };
        }
    }
}

async fn backward(api: &Api, wanted: &Wanted, mut end: u64, count: usize) -> Result<Found, Fault> {
    let mut found = Vec::new();
    let limit = end.saturating_sub(api.services.scan_limit as u64);
    while end > 0 {
        if end <= limit {
            return if found.is_empty() { Err(scan_limit(&cursor_of(end))) } else { Ok((found, true)) };
        }
        let from = end.saturating_sub(SCAN as u64);
        let length = usize::try_from(end - from).unwrap_or(SCAN);
        for (index, envelope) in read(api, from, length).await?.into_iter().rev() {
            if wanted.has(&envelope) {
                if found.len() == count {
                    return Ok((found, true));
                }
                found.push((cursor_of(index), EventNode::of(index, &envelope)));
            }
        }
        end = from;
    }
    Ok((found, false))
}

async fn read(api: &Api, from: u64, limit: usize) -> Result<Vec<(u64, Envelope)>, Fault> {
    let records = api.services.handler.store().read_tenant(api.ctx.tenant, from, limit).await;
    let records = records.map_err(|error| fault("reading records", &error))?;
    Ok((from..).zip(records.into_iter().map(|stored| stored.record.envelope().clone())).collect())
}

pub(super) fn cursor_of(index: u64) -> String {
    base64url(&index.to_be_bytes())
}

pub(super) fn index_of(cursor: &str) -> Result<u64, Fault> {
    let bytes = from_base64url(cursor).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or_else(|| bad_request("invalid_cursor", "this is not a cursor of this list"))
}
