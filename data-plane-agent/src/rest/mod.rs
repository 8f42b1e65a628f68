//! What applications see: JSON over HTTP, and streams. Handlers are short and alike: read, begin, use the key, answer.

pub mod caller;
pub mod data_key;
pub mod decrypt;
pub mod encrypt;
pub mod openapi;
pub mod problem;
pub mod public_key;
pub mod random;
pub mod server;
pub mod sign;
pub mod status;
pub mod stream;
pub mod tokens;
pub mod verify;

use std::sync::Arc;

use actix_web::{HttpResponse, http::header::HeaderValue};
use schema::{
    clock::Ids,
    key::KeyReference,
    wire::{
        operation::{Format, Used, Warning, header},
        problem::Problem,
    },
};
use serde::Serialize;

use crate::{
    message::MessageError,
    operation::{Begun, Pipeline},
    vault::Vault,
};

/// What every handler shares.
pub struct Shared {
    /// Decision and record.
    pub pipeline: Pipeline,
    /// Proves callers.
    pub callers: caller::Callers,
    /// Where the keys are.
    pub vault: Arc<dyn Vault>,
    /// Randomness.
    pub ids: Arc<dyn Ids>,
    /// What `/v1/status` says beside the set in force.
    pub about: status::About,
    /// The largest streamed file in bytes.
    pub stream_limit: Option<u64>,
}

/// Reads a reference to a key.
pub(crate) fn key_reference(text: &str) -> Result<KeyReference, Problem> {
    text.parse().map_err(|_| {
        Problem::new(400, "invalid_key_reference", "This names no key", "a key is named by key_…, key_…/3 or project/name").field("key")
    })
}

/// Ends an operation and answers with what it made, over `size` bytes of plaintext.
pub(crate) fn answer<T, A: Serialize>(
    begun: Begun,
    made: Result<T, MessageError>,
    size: u64,
    shape: impl FnOnce(T, Used) -> A,
) -> Result<HttpResponse, Problem> {
    match made {
        Ok(made) => {
            let used = begun.done(size);
            let mut response = HttpResponse::Ok();
            warn(&mut response, &used.warnings);
            Ok(response.json(shape(made, used)))
        }
        Err(error) => {
            begun.failed(error.code());
            Err(problem::of_message(&error))
        }
    }
}

/// Says warnings in headers as well, for those who do not read the body.
pub(crate) fn warn(response: &mut actix_web::HttpResponseBuilder, warnings: &[Warning]) {
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&warning.code) {
            response.append_header((header::WARNING, value));
        }
    }
}

pub(crate) const fn jwe_form(format: Option<Format>) -> crate::message::jwe::Form {
    match format {
        None | Some(Format::Compact) => crate::message::jwe::Form::Compact,
        Some(Format::Json) => crate::message::jwe::Form::Flattened,
    }
}
