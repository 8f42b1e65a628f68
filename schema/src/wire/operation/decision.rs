//! What may I do? Questions about decisions, keys and algorithms; no key is used.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CompositeEntry, Warning};
use crate::{
    context::EncryptionContext,
    encoding::opt_u64_string,
    id::{CallerId, KeyId, KeyVersion},
    key::{Operation, words},
    obligation::Obligations,
    wire::problem::Problem,
};

/// Ask whether a request would be allowed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CanRequest {
    /// Who: `clr_…` or `project/name`; oneself when absent. To ask about others needs the action `explain` on the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// What, as policies name it.
    #[schema(value_type = String, example = "decrypt")]
    pub operation: Operation,
    /// The key: `key_…`, `key_…/3` or `project/name`; or a composite; none for `random`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The encryption context.
    #[serde(default, skip_serializing_if = "EncryptionContext::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub context: EncryptionContext,
    /// Bytes of plaintext or ciphertext. Without them a limit on bytes refuses only when nothing of it is left here.
    #[serde(default, with = "opt_u64_string", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub size: Option<u64>,
    /// Where from; the asker's own address when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
}

/// Whether it would be allowed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CanAnswer {
    /// Whether it would.
    pub allowed: bool,
    /// Who.
    #[schema(value_type = String)]
    pub caller: CallerId,
    /// What.
    #[schema(value_type = String)]
    pub operation: Operation,
    /// The key version that would be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub key_version: Option<KeyVersion>,
    /// The versions of the composite's other keys that would be used beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub also: Vec<KeyVersion>,
    /// The policies that allow it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// What they demand.
    #[serde(default, skip_serializing_if = "Obligations::is_empty")]
    #[schema(value_type = Object)]
    pub obligations: Obligations,
    /// What should be looked at soon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// Why it would be refused: as the refusal itself would say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Problem>,
}

words! {
    /// How an operation stands for a caller.
    #[derive(ToSchema)]
    Outlook {
        /// Policy allows it as it stands, without an encryption context.
        Allowed = "allowed",
        /// It depends on the request: its context, size, time or address.
        Conditional = "conditional",
    }
}

/// Keys a caller may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeysAnswer {
    /// In order of their ids.
    pub keys: Vec<KeyEntry>,
    /// Composites with one of these keys as their classical one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub composites: Vec<CompositeEntry>,
    /// Ask again with `after` this id for more; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub next: Option<KeyId>,
}

/// A key, and what the caller may do with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyEntry {
    /// Its id.
    #[schema(value_type = String)]
    pub id: KeyId,
    /// `project/name`.
    #[schema(example = "payments/card-data")]
    pub name: String,
    /// Its one algorithm.
    pub algorithm: String,
    /// Its one purpose.
    pub purpose: String,
    /// The version used when none is named; 0 while there is none.
    pub primary: u32,
    /// The state of each version, by number.
    pub versions: BTreeMap<u32, String>,
    /// What policy says of each operation the key serves; those it never allows are left out.
    #[schema(value_type = BTreeMap<String, Outlook>)]
    pub operations: BTreeMap<Operation, Outlook>,
}

/// Every algorithm this agent knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlgorithmsAnswer {
    /// In the order of the catalogue.
    pub algorithms: Vec<AlgorithmEntry>,
}

/// An algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlgorithmEntry {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub title: String,
    /// The standard that defines it.
    pub standard: String,
    /// `recommended`, `allowed`, `legacy` or `draft`.
    pub status: String,
    /// What a key of it may do, by purpose.
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub operations: BTreeMap<String, Vec<Operation>>,
    /// Strength against a classical attacker, in bits.
    pub classical_bits: u16,
    /// Strength against a quantum attacker: the NIST category, or 0 for none.
    pub quantum_category: u8,
    /// Whether it passed its self-tests when this agent started.
    pub enabled: bool,
}
