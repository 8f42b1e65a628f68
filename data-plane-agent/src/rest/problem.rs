//! Turns what went wrong into answers: one place for every status and code that does not come from a decision.

use schema::wire::problem::Problem;

use crate::{message::MessageError, vault::VaultError};

/// A message that could not be made, opened or verified.
pub fn of_message(error: &MessageError) -> Problem {
    if let MessageError::Vault(VaultError::NotHeld(_) | VaultError::Destroyed(_)) = error {
        return Problem::new(409, error.code(), "This agent does not have the key", error.to_string());
    }
    if error.is_the_callers() {
        let title = match error {
            MessageError::OtherContext => "The encryption context is another one",
            MessageError::NotGenuine => "The data is not genuine",
            MessageError::Truncated => "The data is cut off",
            MessageError::TooLong { .. } => "Too long",
            _ => "The data cannot be used",
        };
        let status = if matches!(error, MessageError::TooLong { .. }) { 413 } else { 400 };
        return Problem::new(status, error.code(), title, error.to_string());
    }
    tracing::error!(error = error as &dyn std::error::Error, "a key could not be used");
    Problem::new(500, error.code(), "The key could not be used", "something failed at the agent; its log says what, under the request's id")
}
