//! `POST /v1/verify`: verify a signature. One that is not genuine is an answer, not an error.

use schema::{
    id::KeyVersion,
    key::{KeyReference, Operation},
    wire::{
        operation::{Batch, BatchAnswer, SecretBytes, VerifyAnswer, VerifyRequest},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grant, Grants, KeyUse, operation, verdict},
    key_reference, problem,
};
use crate::{
    message::{MessageError, jws::Jws},
    policy::refusal::Refusal,
    vault::public,
};

operation! {
    /// Verifies a signature with the key it names, or with the key that must have made it.
    verify, verify_batch: VerifyRequest => VerifyAnswer, at "/v1/verify" and "/v1/batch/verify", "signatures", "Whether it is genuine."
}

/// A signature that was read.
pub struct Read {
    /// The message.
    pub(super) signed: Jws,
    /// Which of its signatures.
    index: usize,
    /// Whether the payload came beside it.
    detached: bool,
}

impl Act for VerifyRequest {
    type Work = Read;
    type Answer = VerifyAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Read), Problem> {
        let Self { signature, payload, context, key } = self;
        let (read, reference) = Read::of(shared, &signature, payload.as_ref(), key.as_deref())?;
        let size = read.signed.payload().len();
        Ok((vec![KeyUse::new(Operation::Verify, reference, context, size)], read))
    }

    async fn run(shared: &Shared, read: Read, mut grants: Grants) -> Result<Done<VerifyAnswer>, MessageError> {
        let grant = grants.take()?;
        let (size, used) = (grant.size, grant.used.clone());
        let code = verdict(read.check(shared, grant).await)?;
        let payload = (code.is_none() && !read.detached).then(|| SecretBytes::from(read.signed.payload().to_vec()));
        let answer = VerifyAnswer { valid: code.is_none(), reason: code.map(str::to_owned), payload, used };
        Ok(Done { answer, size, code })
    }
}

impl Read {
    /// Reads a signature; says with which key it is to be verified.
    pub(super) fn of(
        shared: &Shared,
        signature: &str,
        payload: Option<&SecretBytes>,
        key: Option<&str>,
    ) -> Result<(Self, KeyReference), Problem> {
        let read = Jws::parse(signature.as_bytes(), payload.map(|payload| payload.0.as_slice()));
        let signed = read.map_err(|error| problem::of_message(&error))?;
        let (index, reference) = chosen(shared, &signed, key)?;
        Ok((Self { signed, index, detached: payload.is_some() }, reference))
    }

    /// Verifies it. Only the public key is needed.
    pub(super) async fn check(&self, shared: &Shared, grant: Grant) -> Result<(), MessageError> {
        let held = public::held(&*shared.vault, &grant.permit).await?;
        self.signed.verify(self.index, grant.permit, &held, &grant.context)
    }
}

/// Which signature to verify, and with which key.
pub(super) fn chosen(shared: &Shared, signed: &Jws, key: Option<&str>) -> Result<(usize, KeyReference), Problem> {
    let versions = signed.key_versions();
    let Some(key) = key else {
        let first = versions.iter().enumerate().find_map(|(index, version)| Some((index, (*version)?)));
        let (index, version) = first.ok_or_else(|| problem::of_message(&MessageError::NoKey))?;
        return Ok((index, KeyReference::Version(version)));
    };
    let reference = key_reference(key)?;
    let in_force = shared.pipeline.current.load().ok_or_else(|| Refusal::NoStatements.problem())?;
    let id = in_force.key(&reference).ok_or_else(|| Refusal::KeyNotFound { reference: reference.clone() }.problem())?.id;
    let fits = |version: KeyVersion| match &reference {
        KeyReference::Version(wanted) => version == *wanted,
        KeyReference::Id(_) | KeyReference::Named { .. } => version.key == id,
    };
    let found = versions.iter().enumerate().find_map(|(index, version)| Some((index, (*version).filter(|version| fits(*version))?)));
    match (found, versions.as_slice()) {
        (Some((index, version)), _) => Ok((index, KeyReference::Version(version))),
        // A signature without a key's name is verified with the one that was asked for.
        (None, [None]) => Ok((0, reference)),
        (None, _) => {
            Err(Problem::new(400, "other_key", "Signed by another key", format!("no signature here was made by {key}")).field("key"))
        }
    }
}
