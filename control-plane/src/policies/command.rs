//! What may be asked of a policy document.

use schema::{
    encoding::Digest,
    event::policy::PolicyContent,
    name::{Name, Text},
    rule::Scope,
};
use serde::Serialize;

use super::cedar;

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
        /// Looked up: what checking the draft's text found.
        #[serde(skip)]
        checked: Checked,
    },
    /// Make what an older version said the next version.
    Rollback {
        /// The older version.
        version: u32,
        /// Why.
        note: Option<Text>,
        /// Looked up: what checking that version's text found.
        #[serde(skip)]
        checked: Checked,
    },
}

/// What checking a Cedar text found, and which text that was.
#[derive(Debug, Clone)]
pub struct Checked {
    /// SHA-256 of the text.
    pub cedar: Digest,
    /// The ids of its single policies, in the order of the text.
    pub policies: Vec<String>,
    /// How many things are wrong with it.
    pub errors: usize,
}

impl Checked {
    /// Checks a text.
    pub fn text(text: &str) -> Self {
        let cedar = Digest::of(text.as_bytes());
        match cedar::check(text) {
            Ok(checked) => Self { cedar, policies: checked.policies.into_iter().map(|policy| policy.id).collect(), errors: 0 },
            Err(problems) => Self { cedar, policies: Vec::new(), errors: problems.iter().filter(|problem| problem.is_error()).count() },
        }
    }
}
