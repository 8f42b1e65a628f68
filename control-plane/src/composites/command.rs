//! What may be asked of a composite.

use std::collections::BTreeMap;

use schema::{
    catalogue::Algorithm,
    composite::{Member, VerificationRule},
    id::{KeyId, ProjectId, SiteId},
    key::Purpose,
    name::{Name, Text},
};
use serde::Serialize;

/// A parsed intent. What was looked up beforehand is left out of the request's hash.
#[derive(Debug, Clone, Serialize)]
pub enum CompositeCommand {
    /// Make it.
    Create(Box<CreateComposite>),
    /// Say what it is for.
    Describe {
        /// In words.
        description: Option<Text>,
    },
    /// Accept fewer signatures.
    Tighten {
        /// Which of its signatures must be genuine.
        rule: VerificationRule,
        /// Why.
        reason: Option<Text>,
    },
    /// Accept signatures that were not accepted.
    Loosen {
        /// Which of its signatures must be genuine.
        rule: VerificationRule,
        /// Why.
        reason: Text,
    },
    /// Let it be no more.
    Retire {
        /// Why.
        reason: Option<Text>,
    },
}

/// Make a composite.
#[derive(Debug, Clone, Serialize)]
pub struct CreateComposite {
    /// The project it belongs to.
    pub project: ProjectId,
    /// Its name in the project.
    pub name: Name,
    /// What it is for.
    pub description: Option<Text>,
    /// Its keys: the two that sign, and the one that is sealed to where it has one.
    pub members: BTreeMap<Member, KeyId>,
    /// Which of its signatures must be genuine.
    pub rule: VerificationRule,
    /// Looked up: what each of the keys is.
    #[serde(skip)]
    pub found: BTreeMap<Member, Found>,
    /// Looked up: whether a key or an alias of the project has this very name.
    #[serde(skip)]
    pub name_is_taken: bool,
}

/// What a key is, as far as a composite asks.
#[derive(Debug, Clone)]
pub struct Found {
    /// The project it belongs to.
    pub project: ProjectId,
    /// Its one algorithm.
    pub algorithm: Algorithm,
    /// Its one purpose.
    pub purpose: Purpose,
    /// Where its material may be.
    pub placement: Vec<SiteId>,
    /// Whether it follows a template of policy.
    pub of_template: bool,
    /// Whether it is destroyed.
    pub destroyed: bool,
}
