//! `POST /v1/generate-data-key`: a key for the application to use itself, sealed, and in clear unless that is not wanted.

use schema::{
    key::Operation,
    wire::{
        operation::{Batch, BatchAnswer, DataKeyAnswer, DataKeyRequest, SecretBytes},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
};
use crate::message::{MessageError, data_key, jwe::Form};

/// How long a data key is.
const BYTES: usize = 32;

operation! {
    /// Makes a data key of 256 bits: keep the sealed one beside what it encrypts, and open it with `decrypt`.
    generate_data_key, generate_data_key_batch: DataKeyRequest => DataKeyAnswer,
    at "/v1/generate-data-key" and "/v1/batch/generate-data-key", "messages", "The data key, sealed and in clear."
}

impl Act for DataKeyRequest {
    type Work = bool;
    type Answer = DataKeyAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, bool), Problem> {
        Ok((vec![KeyUse::of(Operation::GenerateDataKey, &self.key, self.context, BYTES)?], self.without_plaintext))
    }

    async fn run(shared: &Shared, without_plaintext: bool, mut grants: Grants) -> Result<Done<DataKeyAnswer>, MessageError> {
        let grant = grants.take()?;
        let made = data_key::generate(&*shared.vault, &*shared.ids, grant.permit, &grant.context, Form::Compact).await?;
        let plaintext = (!without_plaintext).then(|| SecretBytes::from(made.key.expose().to_vec()));
        Ok(Done::new(DataKeyAnswer { plaintext, message: made.sealed, used: grant.used }, grant.size))
    }
}
