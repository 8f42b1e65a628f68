//! What may be asked of an alias.

use schema::{
    id::{KeyId, ProjectId},
    name::Name,
};
use serde::Serialize;

/// A parsed intent. What was looked up beforehand is left out of the request's hash.
#[derive(Debug, Clone, Serialize)]
pub enum AliasCommand {
    /// Give a key another name.
    Create {
        /// The project whose name space it stands in.
        project: ProjectId,
        /// The name.
        name: Name,
        /// The key it stands for.
        key: KeyId,
        /// Looked up: the project of that key.
        #[serde(skip)]
        key_project: ProjectId,
        /// Looked up: whether a key of the project has this very name.
        #[serde(skip)]
        name_is_a_key: bool,
        /// Looked up: whether a composite of the project has it.
        #[serde(skip)]
        name_is_a_composite: bool,
    },
    /// Point it at another key.
    Move {
        /// The key it stands for.
        key: KeyId,
        /// Looked up: the project of that key.
        #[serde(skip)]
        key_project: ProjectId,
    },
    /// Let it stand for nothing.
    Retire,
}
