//! What is recorded of an alias: another name of a key.

use crate::{
    events,
    id::{KeyId, ProjectId},
    name::Name,
};

events! {
    /// What happens to an alias.
    AliasEvent {
        /// It was made.
        AliasCreated 1 {
            /// The project whose name space it stands in.
            project: ProjectId,
            /// The name.
            name: Name,
            /// The key it stands for.
            key: KeyId,
        },
        /// It stands for another key now.
        AliasMoved 1 {
            /// The key it stands for.
            key: KeyId,
        },
        /// It stands for nothing any more; it may be pointed at a key again.
        AliasRetired 1 {},
    }
}
