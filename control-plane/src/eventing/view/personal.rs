//! What is personal in a state is sealed under the person's key before the state is sealed as a row.

use memchr::memmem;
use schema::{id::TenantId, personal::MARK};
use serde_json::Value;

use super::projector::ProjectError;
use crate::sealing::{Keyring, SealingError};

/// A state as it is kept: unchanged where nothing in it is personal.
pub(super) async fn sealed(keyring: &Keyring, tenant: TenantId, kind: &'static str, state: Vec<u8>) -> Result<Vec<u8>, ProjectError> {
    if !has_mark(&state) {
        return Ok(state);
    }
    let unreadable = |source| ProjectError::State { kind, source };
    let mut value: Value = serde_json::from_slice(&state).map_err(unreadable)?;
    keyring.seal_personal(tenant, &mut value).await?;
    serde_json::to_vec(&value).map_err(unreadable)
}

/// A state with what is personal in it opened; none where nothing is.
pub(super) async fn opened(keyring: &Keyring, tenant: TenantId, state: &[u8]) -> Result<Option<Value>, SealingError> {
    if !has_mark(state) {
        return Ok(None);
    }
    let mut value: Value = serde_json::from_slice(state).map_err(|_| SealingError::DoesNotOpen)?;
    keyring.open_personal(tenant, &mut value).await?;
    Ok(Some(value))
}

fn has_mark(state: &[u8]) -> bool {
    memmem::find(state, MARK.as_bytes()).is_some()
}
