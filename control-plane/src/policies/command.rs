//! What may be asked of a policy document.

use std::collections::BTreeMap;

use schema::{
    encoding::Digest,
    event::policy::PolicyContent,
    name::{Name, Text},
    rule::{KeyTemplate, Scope},
};
use serde::Serialize;

use super::cedar;
use crate::bundles::templates::Outside;

/// A parsed intent. What was looked up beforehand is left out of the request's hash.
#[derive(Debug, Clone, Serialize)]
pub enum PolicyCommand {
    /// Begin it. It says nothing until a version is published.
    Create {
        /// Its name in its scope.
        name: Name,
        /// What it is for.
        scope: Scope,
    },
    /// Keep what somebody wrote. The Cedar text goes along as a blob.
    SaveDraft {
        /// What it says.
        content: PolicyContent,
        /// The number of the draft it was made from (0: there was none); none: whatever there is, is replaced.
        base: Option<u32>,
        /// What was changed and why.
        note: Option<Text>,
    },
    /// Throw the draft away.
    DiscardDraft,
    /// Make the draft the next version.
    Publish {
        /// The number of the draft; none: the present one.
        draft: Option<u32>,
        /// What was changed and why; none: the draft's note.
        note: Option<Text>,
        /// Looked up: what checking the draft's content found.
        #[serde(skip)]
        checked: Checked,
    },
    /// Make what an older version said the next version.
    Rollback {
        /// The older version.
        version: u32,
        /// Why.
        note: Option<Text>,
        /// Looked up: what checking that version's content found.
        #[serde(skip)]
        checked: Checked,
    },
}

/// What checking a content found, and which content that was.
#[derive(Debug, Clone)]
pub struct Checked {
    /// SHA-256 of the Cedar text.
    pub cedar: Digest,
    /// The ids of its single policies, in the order of the text.
    pub policies: Vec<String>,
    /// How many things are wrong with it.
    pub errors: usize,
    /// The templates.
    pub templates: BTreeMap<Name, KeyTemplate>,
    /// The keys that would no longer fit theirs.
    pub left_outside: Vec<Outside>,
}

impl Checked {
    /// Checks a text; there are no templates.
    pub fn text(text: &str) -> Self {
        let cedar = Digest::of(text.as_bytes());
        let (policies, errors) = match cedar::check(text) {
            Ok(checked) => (checked.policies.into_iter().map(|policy| policy.id).collect(), 0),
            Err(problems) => (Vec::new(), problems.iter().filter(|problem| problem.is_error()).count()),
        };
        Self { cedar, policies, errors, templates: BTreeMap::new(), left_outside: Vec::new() }
    }
}
