//! What may be asked over a WebSocket: subscriptions, and nothing else. On a connection that stays open, a query or a mutation would escape
//! the limits of a request, and the end of its token.

use std::sync::Arc;

use async_graphql::{Data, Executor, Request, Response, ServerError};
use futures::{StreamExt, stream, stream::BoxStream};
use schema::id::RequestId;
use tokio::sync::Semaphore;

use super::{
    fault::{bad_request, complete},
    limits::parse,
    schema::ApiSchema,
};

/// The most subscriptions of one connection at once.
const MAX_SUBSCRIPTIONS: usize = 16;

/// Executes the subscriptions of one connection.
#[derive(Clone)]
pub struct SubscriptionsOnly {
    schema: ApiSchema,
    request: RequestId,
    places: Arc<Semaphore>,
}

impl SubscriptionsOnly {
    /// For a connection that this request opened.
    pub fn new(schema: ApiSchema, request: RequestId) -> Self {
        Self { schema, request, places: Arc::new(Semaphore::new(MAX_SUBSCRIPTIONS)) }
    }

    fn refused(&self, code: &'static str, message: &str) -> Response {
        let error: ServerError = bad_request(code, message).into_server_error(async_graphql::Pos::default());
        complete(Response::from_errors(vec![error]), self.request)
    }

    fn not_here(&self) -> Response {
        self.refused("subscriptions_only", "a WebSocket takes subscriptions only: send queries and mutations by POST")
    }
}

impl Executor for SubscriptionsOnly {
    async fn execute(&self, _request: Request) -> Response {
        self.not_here()
    }

    fn execute_stream(&self, request: Request, session_data: Option<Arc<Data>>) -> BoxStream<'static, Response> {
        let refused = match parse(request, self.request) {
            Err(refused) => refused,
            Ok(parsed) if !parsed.subscribes => self.not_here(),
            Ok(parsed) => match Arc::clone(&self.places).try_acquire_owned() {
                Ok(place) => {
                    let stream = Executor::execute_stream(&self.schema, parsed.request, session_data);
                    return stream
                        .map(move |response| {
                            // Given back when the subscription ends.
                            let _ = &place;
                            response
                        })
                        .boxed();
                }
                Err(_) => self.refused("too_many_subscriptions", "a connection has at most 16 subscriptions: end one, or open another"),
            },
        };
        stream::iter([refused]).boxed()
    }
}
