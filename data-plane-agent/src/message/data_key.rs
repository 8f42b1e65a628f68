//! Data keys: 32 fresh bytes for an application to encrypt with by itself, in clear and sealed. The sealed form is a
//! message whose plaintext is the key, so that its encryption context binds; decrypting it gives the key back.

use schema::{clock::Ids, context::EncryptionContext};

use super::{
    MessageError,
    jwe::{self, Form},
};
use crate::{
    policy::permit::UsePermit,
    vault::{Vault, secret::SecretBytes},
};

/// The `typ` of a sealed data key.
pub const TYP: &str = "freehold-data-key";

/// A data key.
pub struct DataKey {
    /// 32 bytes in clear: used and forgotten by the application.
    pub key: SecretBytes,
    /// The same, sealed: kept beside what it encrypts.
    pub sealed: String,
}

/// Makes a data key under a key version.
pub async fn generate(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permit: UsePermit,
    context: &EncryptionContext,
    form: Form,
) -> Result<DataKey, MessageError> {
    let key = SecretBytes::random(32, ids);
    let sealed = jwe::seal(vault, ids, vec![permit], key.expose(), context, form, Some(TYP)).await?;
    Ok(DataKey { key, sealed })
}
