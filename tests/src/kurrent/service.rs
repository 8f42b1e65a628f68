//! The calls of the protocol.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Fault, Shared,
    log::{Log, Outcome, Recorded, id},
    wire::{
        server_features::{SupportedMethod, SupportedMethods, server_features_server::ServerFeatures},
        streams::{
            BatchAppendReq, BatchAppendResp, Position, ReadReq, ReadResp, StreamName, Uuid, batch_append_req, batch_append_resp,
            read_req::{
                All, Direction, Filter, OneStream, all::AllOption, filter, one_stream::RevisionOption, options::CountOption,
                options::FilterOption, options::StreamOption,
            },
            read_resp::{self, Content},
            streams_server::Streams,
            uuid,
        },
    },
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct Features;

#[tonic::async_trait]
impl ServerFeatures for Features {
    async fn get_supported_methods(&self, _: Request<()>) -> Result<Response<SupportedMethods>, Status> {
        let batches = SupportedMethod {
            method_name: "batchappend".to_owned(),
            service_name: "event_store.client.streams.streams".to_owned(),
            features: Vec::new(),
        };
        Ok(Response::new(SupportedMethods { methods: vec![batches], event_store_server_version: "24.10.0".to_owned() }))
    }
}

pub(super) struct Service(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Streams for Service {
    type ReadStream = Answers<ReadResp>;
    type BatchAppendStream = Answers<BatchAppendResp>;

    async fn read(&self, request: Request<ReadReq>) -> Result<Response<Self::ReadStream>, Status> {
        let options = request.into_inner().options.ok_or_else(|| Status::invalid_argument("options"))?;
        let backwards = options.read_direction == i32::from(Direction::Backwards);
        let prefixes = match options.filter_option {
            Some(FilterOption::Filter(Filter { filter: Some(filter::Filter::StreamIdentifier(names)) })) if names.regex.is_empty() => {
                names.prefix
            }
            Some(FilterOption::Filter(_)) => return Err(Status::unimplemented("only prefixes of names of streams")),
            Some(FilterOption::NoFilter(())) | None => Vec::new(),
        };
        match (options.stream_option, options.count_option) {
            (Some(StreamOption::Stream(stream)), Some(CountOption::Count(count))) => {
                let answers = read_stream(&self.0.log(), &stream, backwards, count)?;
                Ok(Response::new(Box::pin(futures::stream::iter(answers.into_iter().map(Ok)))))
            }
            (Some(StreamOption::All(all)), Some(CountOption::Count(count))) => {
                let answers = read_all(&self.0.log(), &all, backwards, count, &prefixes)?;
                Ok(Response::new(Box::pin(futures::stream::iter(answers.into_iter().map(Ok)))))
            }
            (Some(StreamOption::All(all)), Some(CountOption::Subscription(()))) => {
                let after = match all.all_option {
                    Some(AllOption::Position(position)) => Some(position.commit_position),
                    Some(AllOption::Start(())) => None,
                    _ => self.0.log().all().last().map(|event| event.position),
                };
                let (answers, stream) = mpsc::channel(16);
                tokio::spawn(subscription(Arc::clone(&self.0), after, prefixes, answers));
                Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
            }
            _ => Err(Status::unimplemented("subscriptions to one stream")),
        }
    }

    async fn batch_append(&self, request: Request<Streaming<BatchAppendReq>>) -> Result<Response<Self::BatchAppendStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(16);
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                match append(&shared, request).await {
                    Some(answer) => {
                        if answers.send(Ok(answer)).await.is_err() {
                            return;
                        }
                    }
                    // Unanswered: the request stays open.
                    None => answers.closed().await,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// One append and what is done to it.
async fn append(shared: &Shared, request: BatchAppendReq) -> Option<BatchAppendResp> {
    use batch_append_req::options::ExpectedStreamPosition as Expected;
    use batch_append_resp::{Refusal, Result as Came, Success, success};
    let options = request.options.unwrap_or_default();
    let name = options.stream_identifier.clone().unwrap_or_default();
    let fault = shared.fault();
    match fault {
        Some(Fault::CutBefore) => {
            shared.cut();
            return None;
        }
        Some(Fault::Late(delay)) => tokio::time::sleep(delay).await,
        _ => {}
    }
    let refuse = |code, message: &str| Came::Error(Refusal { code, message: message.to_owned(), details: None });
    let expected = match options.expected_stream_position {
        Some(Expected::StreamPosition(revision)) => Ok(Some(revision + 1)),
        Some(Expected::NoStream(())) => Ok(Some(0)),
        Some(Expected::Any(())) => Ok(None),
        Some(Expected::StreamExists(())) | None => Err(refuse(3, "unsupported expectation")),
    };
    let result = match expected {
        _ if fault == Some(Fault::Refused) => refuse(3, "not now"),
        Err(refusal) => refusal,
        Ok(expected) => {
            let outcome = shared.log().append(&text(&name), expected, &request.proposed_messages);
            shared.length.send_modify(|length| *length += 1);
            match outcome {
                Outcome::Appended { revision, position } => Came::Success(Success {
                    current_revision_option: Some(success::CurrentRevisionOption::CurrentRevision(revision)),
                    position_option: Some(success::PositionOption::Position(at(position))),
                }),
                Outcome::There { revision } => Came::Success(Success {
                    current_revision_option: Some(success::CurrentRevisionOption::CurrentRevision(revision)),
                    position_option: Some(success::PositionOption::NoPosition(())),
                }),
                Outcome::WrongRevision => refuse(9, "WrongExpectedVersion"),
            }
        }
    };
    match fault {
        Some(Fault::CutAfter) => {
            shared.cut();
            None
        }
        Some(Fault::Unanswered) => None,
        _ => Some(BatchAppendResp {
            correlation_id: request.correlation_id,
            stream_identifier: Some(name),
            expected_stream_position: None,
            result: Some(result),
        }),
    }
}

fn read_stream(log: &Log, stream: &OneStream, backwards: bool, count: u64) -> Result<Vec<ReadResp>, Status> {
    let name = stream.stream_identifier.clone().unwrap_or_default();
    let key = text(&name);
    let Some(events) = log.stream(&key) else {
        let missing = read_resp::NotFound { stream_identifier: Some(name) };
        return Ok(vec![ReadResp { content: Some(Content::StreamNotFound(missing)) }]);
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let from = match stream.revision_option {
        Some(RevisionOption::Revision(revision)) => revision,
        Some(RevisionOption::End(())) => u64::MAX,
        _ => 0,
    };
    Ok(match backwards {
        true => events.rev().filter(|event| event.revision <= from).take(count).map(answer).collect(),
        false => events.filter(|event| event.revision >= from).take(count).map(answer).collect(),
    })
}

fn read_all(log: &Log, all: &All, backwards: bool, count: u64, prefixes: &[String]) -> Result<Vec<ReadResp>, Status> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let wanted = |event: &&Recorded| is_wanted(event, prefixes);
    let from = match &all.all_option {
        Some(AllOption::Position(position)) if position.commit_position == position.prepare_position => position.commit_position,
        Some(AllOption::Position(_)) => return Err(Status::invalid_argument("there is no such position")),
        Some(AllOption::End(())) => u64::MAX,
        _ => 0,
    };
    Ok(match backwards {
        true => log.all().iter().rev().filter(wanted).filter(|event| event.position <= from).take(count).map(answer).collect(),
        false => log.all().iter().filter(wanted).filter(|event| event.position >= from).take(count).map(answer).collect(),
    })
}

/// What was there, then what comes.
async fn subscription(shared: Arc<Shared>, after: Option<u64>, prefixes: Vec<String>, answers: mpsc::Sender<Result<ReadResp, Status>>) {
    let number = shared.subscriptions.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let confirmed = read_resp::Confirmation { subscription_id: number.to_string() };
    if answers.send(Ok(ReadResp { content: Some(Content::Confirmation(confirmed)) })).await.is_err() {
        return;
    }
    let mut length = shared.length.subscribe();
    let mut after = after;
    loop {
        length.borrow_and_update();
        let found: Vec<Recorded> = {
            let log = shared.log();
            let new = log.all().iter().filter(|event| after.is_none_or(|after| event.position > after));
            new.filter(|event| is_wanted(event, &prefixes)).take(100).cloned().collect()
        };
        for event in &found {
            if answers.send(Ok(answer(event))).await.is_err() {
                return;
            }
            after = Some(event.position);
        }
        if found.is_empty() {
            tokio::select! {
                changed = length.changed() => if changed.is_err() { return },
                () = answers.closed() => return,
            }
        }
    }
}

fn is_wanted(event: &Recorded, prefixes: &[String]) -> bool {
    prefixes.is_empty() || prefixes.iter().any(|prefix| event.stream.starts_with(prefix))
}

fn answer(event: &Recorded) -> ReadResp {
    let recorded = read_resp::Recorded {
        id: Some(Uuid { value: Some(uuid::Value::String(::uuid::Uuid::from_u128(event.id).to_string())) }),
        stream_identifier: Some(StreamName { stream_name: event.stream.clone().into_bytes() }),
        stream_revision: event.revision,
        prepare_position: event.position,
        commit_position: event.position,
        metadata: event.metadata.clone(),
        custom_metadata: event.custom_metadata.clone(),
        data: event.data.clone(),
    };
    let position = Some(read_resp::event::Position::CommitPosition(event.position));
    debug_assert_eq!(id(recorded.id.as_ref()), event.id);
    ReadResp { content: Some(Content::Event(read_resp::Event { event: Some(recorded), position })) }
}

fn at(position: u64) -> Position {
    Position { commit_position: position, prepare_position: position }
}

fn text(name: &StreamName) -> String {
    String::from_utf8_lossy(&name.stream_name).into_owned()
}
