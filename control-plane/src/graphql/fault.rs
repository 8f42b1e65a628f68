//! Faults and bad requests: GraphQL errors with a stable `extensions.code`. What went wrong inside is logged with the
//! request's id, and only the id is shown. Refusals of commands are no errors: see [`super::payload`].

use async_graphql::{Error, ErrorExtensions, Response, ServerError};
use schema::id::RequestId;

use super::scalar::Timestamp;
use crate::database::room;

/// An error of a resolver.
pub type Fault = Error;

/// The request asks for something that cannot be.
pub fn bad_request(code: &'static str, message: impl Into<String>) -> Fault {
    Error::new(message).extend_with(|_, extensions| extensions.set("code", code))
}

/// What is kept as it is now only is not shown as if it had been so at another time.
pub fn only_now(as_of: Option<Timestamp>, what: &str) -> Result<(), Fault> {
    match as_of {
        None => Ok(()),
        Some(_) => Err(bad_request("not_kept_over_time", format!("{what} is kept as it is now; leave out asOf to see it, or the field"))),
    }
}

/// A listing looked at as much as one request may, and found nothing that fits; `cursor` is where to go on.
pub fn scan_limit(cursor: &str) -> Fault {
    let message = "nothing fits among what one request may look at; ask for less (a project, a stream, a time), or go on from \
                   extensions.cursor with after, or before when paging backwards";
    Error::new(message).extend_with(|_, extensions| {
        extensions.set("code", "scan_limit_reached");
        extensions.set("cursor", cursor);
    })
}

/// Something failed inside. Logged whole here; the answer has no detail.
pub fn fault(act: &'static str, error: &(dyn std::error::Error + 'static)) -> Fault {
    let mut causes = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push_str(": ");
        causes.push_str(&cause.to_string());
        next = cause.source();
    }
    tracing::error!(act, error = causes, "a request failed");
    if room::is_full(error) {
        return Error::new(room::ADVICE).extend_with(|_, extensions| extensions.set("code", "storage_full"));
    }
    Error::new("something went wrong on our side; the request id finds it in the log")
        .extend_with(|_, extensions| extensions.set("code", "internal"))
}

/// Gives every error a code and the request's id.
pub fn complete(mut response: Response, request: RequestId) -> Response {
    for error in &mut response.errors {
        let code = code_of(error);
        let extensions = error.extensions.get_or_insert_default();
        if extensions.get("code").is_none() {
            extensions.set("code", code);
        }
        extensions.set("requestId", request.to_string());
    }
    response
}

/// The library's own errors carry no code: they are all about the query itself.
fn code_of(error: &ServerError) -> &'static str {
    match error.message.as_str() {
        "Query is too complex." | "Query is nested too deep." | "The recursion depth of the query cannot be greater than `32`" => {
            "query_too_costly"
        }
        message if message.contains("aliases; at most") => "query_too_costly",
        _ => "invalid_query",
    }
}
