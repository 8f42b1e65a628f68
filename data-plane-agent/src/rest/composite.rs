//! Signatures of composites: two keys sign, each is asked for by itself, and what is found is judged by one rule
//! (`docs/decisions/0162-composites.md`).

use std::sync::Arc;

use schema::{
    composite::{Member, VerificationRule},
    context::EncryptionContext,
    id::{CompositeId, KeyId},
    key::{KeyReference, Operation},
    wire::{
        operation::{CompositeVerdict, Format, JudgedSignature, Used},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Grant, Grants, KeyUse, verdict},
    key_reference,
    sign::jws_form,
};
use crate::{
    message::{
        MessageError,
        jws::{self, Form, Jws},
    },
    policy::{in_force::CompositeInForce, refusal::Refusal},
    vault::public,
};

/// Whose signature is to be made: one key's, or a composite's.
pub enum Signer {
    /// One key.
    Key(KeyReference),
    /// The two keys of a composite, and what it was called.
    Composite(Arc<CompositeInForce>, KeyReference),
}

impl Signer {
    /// Reads who is meant.
    pub(super) fn of(shared: &Shared, key: &str) -> Result<Self, Problem> {
        Ok(Self::meant(shared, key_reference(key)?))
    }

    /// Who is meant by a reference.
    pub(super) fn meant(shared: &Shared, reference: KeyReference) -> Self {
        let in_force = shared.pipeline.current.load();
        match in_force.and_then(|set| set.composite(&reference).cloned()) {
            Some(composite) => Self::Composite(composite, reference),
            None => Self::Key(reference),
        }
    }

    /// The form of the signature.
    pub(super) fn form(&self, detached: bool, format: Option<Format>) -> Result<Form, Problem> {
        match (self, detached, format) {
            (Self::Key(_), detached, format) => jws_form(detached, format),
            (Self::Composite(..), _, Some(Format::Compact)) => {
                let detail = "two signatures are JSON: leave format out, or name one of the composite's keys";
                Err(Problem::new(400, "invalid_body", "Invalid body", detail).field("format"))
            }
            (Self::Composite(..), true, None | Some(Format::Json)) => Ok(Form::DetachedGeneral),
            (Self::Composite(..), false, None | Some(Format::Json)) => Ok(Form::General),
        }
    }

    /// The keys that sign.
    pub(super) fn keys(&self) -> Vec<KeyReference> {
        match self {
            Self::Key(reference) => vec![reference.clone()],
            Self::Composite(composite, _) => signing(composite).map(|(_, key)| KeyReference::Id(key)).into(),
        }
    }

    /// The uses of keys it takes.
    pub(super) fn uses(&self, context: &EncryptionContext, size: usize) -> Vec<KeyUse> {
        let together = self.composite().is_some();
        let of = |key| KeyUse { together, ..KeyUse::new(Operation::Sign, key, context.clone(), size) };
        self.keys().into_iter().map(of).collect()
    }

    /// The composite.
    pub(super) fn composite(&self) -> Option<CompositeId> {
        match self {
            Self::Key(_) => None,
            Self::Composite(composite, _) => Some(composite.id),
        }
    }

    /// What the answer says of the decisions, by the name that was asked for.
    pub(super) fn used(&self, used: Used) -> Used {
        match self {
            Self::Key(_) => used,
            Self::Composite(_, asked_for) => Used { asked_for: asked_for.to_string(), ..used },
        }
    }

    /// Signs a message with everything that was granted for it: the signature, and what was used.
    pub(super) async fn sign(
        &self,
        shared: &Shared,
        payload: &[u8],
        form: Form,
        grants: &mut Grants,
    ) -> Result<(String, Used, Option<Used>), MessageError> {
        let Grant { permit, used, context, .. } = grants.take()?;
        let (vault, ids) = (&*shared.vault, &*shared.ids);
        let Some(composite) = self.composite() else {
            return Ok((jws::sign(vault, ids, vec![permit], payload, &context, form).await?, used, None));
        };
        let other = grants.take()?;
        let signature = jws::sign_together(vault, ids, vec![permit, other.permit], payload, &context, form, composite).await?;
        Ok((signature, self.used(used), Some(self.used(other.used))))
    }
}

/// Signatures that are to be judged by the rule of a composite.
pub struct Together {
    composite: Arc<CompositeInForce>,
    /// What it was called.
    asked_for: KeyReference,
    /// The place of each member's signature in the message, where it has one.
    places: [(Member, Option<usize>); 2],
    /// What to ask for: the version that signed, or the key where no signature is.
    keys: [KeyReference; 2],
}

impl Together {
    /// The composite that a caller names, or that a signature says it was made by; nothing when it is about one key.
    pub(super) fn of(shared: &Shared, signed: &Jws, named: Option<&KeyReference>) -> Result<Option<Self>, Problem> {
        let in_force = shared.pipeline.current.load();
        let find = |reference: &KeyReference| in_force.as_ref().and_then(|set| set.composite(reference).cloned());
        let (composite, asked_for) = match named {
            Some(reference) => match find(reference) {
                Some(composite) => (composite, reference.clone()),
                None => return Ok(None),
            },
            None => {
                let mut said = signed.composites().into_iter();
                let (Some(id), more) = (said.next(), said.next()) else { return Ok(None) };
                if more.is_some() {
                    let detail = "its signatures were made by several composites: name the one that must have signed";
                    return Err(Problem::new(400, "key_not_named", "Several composites", detail).field("key"));
                }
                // Judging one of its signatures alone would be looser than its rule.
                let reference = KeyReference::Composite(id);
                (find(&reference).ok_or_else(|| Refusal::KeyNotFound { reference: reference.clone() }.problem())?, reference)
            }
        };
        let find_one = |(member, key): (Member, KeyId)| {
            let reference = KeyReference::Id(key);
            let known = in_force.as_ref().and_then(|set| set.key(&reference));
            let algorithm = known.ok_or_else(|| Refusal::KeyNotFound { reference: reference.clone() }.problem())?.algorithm();
            match signed.places_of(key, algorithm).as_slice() {
                [] => Ok((None, reference)),
                [(place, version)] => Ok((Some(*place), version.map_or(reference, KeyReference::Version))),
                _ => {
                    let detail = format!("it has several signatures by the {member} key of {asked_for}, and a key signs once");
                    Err(Problem::new(400, "signed_twice", "Signed twice by one key", detail).field("signature"))
                }
            }
        };
        let [classical, post_quantum] = signing(&composite).map(find_one);
        let ((classical, classical_key), (post_quantum, post_quantum_key)) = (classical?, post_quantum?);
        if classical.is_none() && post_quantum.is_none() {
            let detail = format!("no signature here was made by a key of {asked_for}");
            return Err(Problem::new(400, "other_key", "Signed by another key", detail).field("key"));
        }
        let places = [(Member::Classical, classical), (Member::PostQuantum, post_quantum)];
        Ok(Some(Self { composite, asked_for, places, keys: [classical_key, post_quantum_key] }))
    }

    /// What to ask for: both keys, also the one whose signature is missing, so that what its policies demand is heard.
    pub(super) fn keys(&self) -> &[KeyReference; 2] {
        &self.keys
    }

    /// Judges both signatures. Only public keys are needed.
    pub(super) async fn judge(&self, shared: &Shared, signed: &Jws, grants: [Grant; 2]) -> Result<Judgement, MessageError> {
        let demanded = grants.iter().filter_map(|grant| grant.obligations.require_signatures);
        let rule = demanded.fold(self.composite.definition.rule, VerificationRule::and);
        let mut signatures = Vec::with_capacity(2);
        for ((member, place), Grant { permit, used, context, .. }) in self.places.iter().zip(grants) {
            let reason = match place {
                Some(place) => {
                    let held = public::held(&*shared.vault, &permit).await?;
                    verdict(signed.verify(*place, permit, &held, &context))?
                }
                None => Some("signature_missing"),
            };
            signatures.push((*member, reason, Used { asked_for: self.asked_for.to_string(), ..used }));
        }
        let genuine = |wanted| signatures.iter().any(|(member, reason, _)| *member == wanted && reason.is_none());
        let holds = rule.holds(genuine(Member::Classical), genuine(Member::PostQuantum));
        let demanded = |member: &Member| match member {
            Member::Classical => rule.demands_classical(),
            Member::PostQuantum => rule.demands_post_quantum(),
            Member::Encryption => false,
        };
        let failed = || signatures.iter().filter_map(|(member, reason, _)| Some((member, (*reason)?)));
        let why = || failed().find(|(member, _)| demanded(member)).or_else(|| failed().next()).map_or("not_genuine", |(_, reason)| reason);
        let code = (!holds).then(why);
        let judged = |(member, reason, used): (Member, Option<&'static str>, Used)| JudgedSignature {
            member,
            valid: reason.is_none(),
            reason: reason.map(str::to_owned),
            used,
        };
        let verdict = CompositeVerdict { id: self.composite.id, rule, signatures: signatures.into_iter().map(judged).collect() };
        Ok(Judgement { code, verdict })
    }
}

/// What came of judging the signatures of a composite.
pub(super) struct Judgement {
    /// Why the rule is not met; nothing when it is.
    pub code: Option<&'static str>,
    /// What was found of each.
    pub verdict: CompositeVerdict,
}

/// The two keys that sign, the classical one first.
fn signing(composite: &CompositeInForce) -> [(Member, KeyId); 2] {
    [(Member::Classical, composite.definition.classical), (Member::PostQuantum, composite.definition.post_quantum)]
}
