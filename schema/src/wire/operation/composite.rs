//! Composites as callers see them: one name for keys that work together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Outlook, Used};
use crate::{
    composite::{Member, VerificationRule},
    id::{CompositeId, KeyId},
    key::Operation,
};

/// How the signatures of a composite were judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompositeVerdict {
    /// The composite.
    #[schema(value_type = String)]
    pub id: CompositeId,
    /// The rule that was applied: the composite's own, or a stricter one that policy demands.
    pub rule: VerificationRule,
    /// The classical signature, then the post-quantum one.
    pub signatures: Vec<JudgedSignature>,
}

/// What was found of one signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JudgedSignature {
    /// Which of the composite's keys must have made it.
    pub member: Member,
    /// Whether it is there and genuine.
    pub valid: bool,
    /// Why it is not: `not_genuine`, `context_mismatch` or `signature_missing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it was decided; where the signature is missing, for the version that would sign now.
    #[serde(flatten)]
    pub used: Used,
}

/// A composite, and what the caller may do by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompositeEntry {
    /// Its id.
    #[schema(value_type = String)]
    pub id: CompositeId,
    /// `project/name`.
    #[schema(example = "payments/contracts")]
    pub name: String,
    /// Which of its signatures must be genuine.
    pub rule: VerificationRule,
    /// Its keys.
    #[schema(value_type = BTreeMap<String, String>)]
    pub members: BTreeMap<Member, KeyId>,
    /// What policy says of each operation it serves, taken for all keys that take part; those it never allows are left out.
    #[schema(value_type = BTreeMap<String, Outlook>)]
    pub operations: BTreeMap<Operation, Outlook>,
}
