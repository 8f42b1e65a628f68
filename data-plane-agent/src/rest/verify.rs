//! `POST /v1/verify`: verify a signature. One that is not genuine is an answer, not an error.

use schema::{
    context::EncryptionContext,
    id::KeyVersion,
    key::{KeyReference, Operation},
    wire::{
        operation::{Batch, BatchAnswer, CompositeVerdict, SecretBytes, Used, VerifyAnswer, VerifyRequest},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation, verdict},
    composite::{Judgement, Together},
    key_reference, problem,
};
use crate::{
    message::{MessageError, jws::Jws},
    policy::refusal::Refusal,
    vault::public,
};

operation! {
    /// Verifies a signature with the key it names, or with the key that must have made it; those of a composite by its rule.
    verify, verify_batch: VerifyRequest => VerifyAnswer, at "/v1/verify" and "/v1/batch/verify", "signatures", "Whether it is genuine."
}

/// A signature that was read.
pub struct Read {
    /// The message.
    pub(super) signed: Jws,
    /// Whom it must be by.
    by: By,
    /// Whether the payload came beside it.
    detached: bool,
}

/// Whom a signature must be by.
enum By {
    /// One key: which signature, and which key.
    Key(usize, KeyReference),
    /// The keys of a composite.
    Composite(Together),
}

/// What was found of a signature.
pub(super) struct Found {
    /// Why it is not genuine; nothing when it is.
    pub code: Option<&'static str>,
    /// What was found of each signature of a composite.
    pub composite: Option<CompositeVerdict>,
    /// What the answer says of the decision.
    pub used: Used,
}

impl Act for VerifyRequest {
    type Work = Read;
    type Answer = VerifyAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Read), Problem> {
        let Self { signature, payload, context, key } = self;
        let read = Read::of(shared, &signature, payload.as_ref(), key.as_deref())?;
        Ok((read.uses(Operation::Verify, &context), read))
    }

    async fn run(shared: &Shared, read: Read, mut grants: Grants) -> Result<Done<VerifyAnswer>, MessageError> {
        let Found { code, composite, used } = read.check(shared, &mut grants).await?;
        let payload = read.signed.payload();
        let size = payload.len() as u64;
        let payload = (code.is_none() && !read.detached).then(|| SecretBytes::from(payload.to_vec()));
        let answer = VerifyAnswer { valid: code.is_none(), reason: code.map(str::to_owned), payload, composite, used };
        Ok(Done { answer, size, code })
    }
}

impl Read {
    /// Reads a signature; finds out with which key, or with which composite, it is to be verified.
    pub(super) fn of(shared: &Shared, signature: &str, payload: Option<&SecretBytes>, key: Option<&str>) -> Result<Self, Problem> {
        let read = Jws::parse(signature.as_bytes(), payload.map(|payload| payload.0.as_slice()));
        let signed = read.map_err(|error| problem::of_message(&error))?;
        Self::by(shared, signed, key, payload.is_some())
    }

    /// The same for the signature of a stream.
    pub(super) fn of_stream(shared: &Shared, signed: Jws, key: Option<&str>) -> Result<Self, Problem> {
        Self::by(shared, signed, key, true)
    }

    fn by(shared: &Shared, signed: Jws, key: Option<&str>, detached: bool) -> Result<Self, Problem> {
        let named = key.map(key_reference).transpose()?;
        let by = match Together::of(shared, &signed, named.as_ref())? {
            Some(together) => By::Composite(together),
            None => {
                let (index, reference) = chosen(shared, &signed, named.as_ref())?;
                By::Key(index, reference)
            }
        };
        Ok(Self { signed, by, detached })
    }

    /// Whether a composite's rule is applied.
    pub(super) fn is_by_composite(&self) -> bool {
        matches!(self.by, By::Composite(_))
    }

    /// The keys that must have signed.
    pub(super) fn keys(&self) -> Vec<KeyReference> {
        match &self.by {
            By::Key(_, reference) => vec![reference.clone()],
            By::Composite(together) => together.keys().to_vec(),
        }
    }

    /// The uses of keys it takes to verify it for this.
    pub(super) fn uses(&self, operation: Operation, context: &EncryptionContext) -> Vec<KeyUse> {
        let size = self.signed.payload().len();
        let together = self.is_by_composite();
        let of = |key| KeyUse { together, ..KeyUse::new(operation, key, context.clone(), size) };
        self.keys().into_iter().map(of).collect()
    }

    /// Verifies it. Only public keys are needed.
    pub(super) async fn check(&self, shared: &Shared, grants: &mut Grants) -> Result<Found, MessageError> {
        let grant = grants.take()?;
        let used = grant.used.clone();
        match &self.by {
            By::Key(index, _) => {
                let held = public::held(&*shared.vault, &grant.permit).await?;
                let code = verdict(self.signed.verify(*index, grant.permit, &held, &grant.context))?;
                Ok(Found { code, composite: None, used })
            }
            By::Composite(together) => {
                let other = grants.take()?;
                let Judgement { code, verdict } = together.judge(shared, &self.signed, [grant, other]).await?;
                let used = verdict.signatures.first().map_or(used, |first| first.used.clone());
                Ok(Found { code, composite: Some(verdict), used })
            }
        }
    }
}

/// Which signature to verify, and with which key.
fn chosen(shared: &Shared, signed: &Jws, key: Option<&KeyReference>) -> Result<(usize, KeyReference), Problem> {
    let versions = signed.key_versions();
    let Some(reference) = key else {
        let first = versions.iter().enumerate().find_map(|(index, version)| Some((index, (*version)?)));
        let (index, version) = first.ok_or_else(|| problem::of_message(&MessageError::NoKey))?;
        return Ok((index, KeyReference::Version(version)));
    };
    let in_force = shared.pipeline.current.load().ok_or_else(|| Refusal::NoStatements.problem())?;
    let id = in_force.key(reference).ok_or_else(|| Refusal::KeyNotFound { reference: reference.clone() }.problem())?.id;
    let fits = |version: KeyVersion| match reference {
        KeyReference::Version(wanted) => version == *wanted,
        KeyReference::Id(_) | KeyReference::Composite(_) | KeyReference::Named { .. } => version.key == id,
    };
    let found = versions.iter().enumerate().find_map(|(index, version)| Some((index, (*version).filter(|version| fits(*version))?)));
    match (found, versions.as_slice()) {
        (Some((index, version)), _) => Ok((index, KeyReference::Version(version))),
        // A signature without a key's name is verified with the one that was asked for.
        (None, [None]) => Ok((0, reference.clone())),
        (None, _) => {
            Err(Problem::new(400, "other_key", "Signed by another key", format!("no signature here was made by {reference}")).field("key"))
        }
    }
}
