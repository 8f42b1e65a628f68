//! Turns what went wrong into answers: one place for every status and code that does not come from a decision.

use schema::wire::problem::Problem;

use crate::{
    material::import_keys::ImportKeyError,
    message::MessageError,
    vault::{TroubleKind, VaultError},
};

/// A message that could not be made, opened or verified.
pub fn of_message(error: &MessageError) -> Problem {
    if let MessageError::Vault(VaultError::NotHeld(_) | VaultError::Destroyed(_)) = error {
        return Problem::new(409, error.code(), "This agent does not have the key", error.to_string());
    }
    if let MessageError::Vault(VaultError::Trouble(trouble)) = error {
        tracing::error!(error = error as &dyn std::error::Error, "the vault did not do what it was asked");
        let detail = match trouble.kind {
            TroubleKind::Gone => "the device or service that holds the key cannot be reached; try again, or at another agent",
            TroubleKind::Slow => "the device or service that holds the key did not answer in time; try again, or at another agent",
            TroubleKind::Locked => "the device or service that holds the key is locked; it works again when an operator unlocks it",
            TroubleKind::Refused => "the device or service that holds the key refused the agent; an operator must look at its rights",
            TroubleKind::Failed => "the device or service that holds the key failed; the agent's log says what it answered",
        };
        return Problem::new(503, error.code(), "The vault cannot be used now", detail);
    }
    if let MessageError::Vault(VaultError::OtherMaterial(_)) = error {
        return Problem::new(409, error.code(), "The version has other material", error.to_string()).field("key");
    }
    if let MessageError::Vault(VaultError::ProtectionNotMet { .. }) = error {
        return Problem::new(409, error.code(), "The vault guards less than the key demands", error.to_string()).field("key");
    }
    if let MessageError::ImportKey(ImportKeyError::Unknown | ImportKeyError::OtherVersion { .. } | ImportKeyError::OtherWrapping(_)) = error
    {
        return Problem::new(409, error.code(), "The import key cannot be used", error.to_string()).field("import_key");
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
