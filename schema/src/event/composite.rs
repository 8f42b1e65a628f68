//! What is recorded of a composite: one name for keys that work together.

use crate::{
    composite::VerificationRule,
    events,
    id::{KeyId, ProjectId},
    name::{Name, Text},
};

events! {
    /// What happens to a composite.
    CompositeEvent {
        /// It was made. Its members never change.
        CompositeCreated 1 {
            /// The project it belongs to.
            project: ProjectId,
            /// Its name.
            name: Name,
            /// What it is for.
            description: Option<Text>,
            /// The key that signs classically.
            classical: KeyId,
            /// The key that signs so that quantum computers do not help to forge.
            post_quantum: KeyId,
            /// The hybrid key for what is sealed to it.
            encryption: Option<KeyId>,
            /// Which of its signatures must be genuine.
            rule: VerificationRule,
        },
        /// It is described otherwise now.
        CompositeDescribed 1 {
            /// What it is for.
            description: Option<Text>,
        },
        /// Fewer signatures are accepted from now on.
        CompositeRuleTightened 1 {
            /// Which of its signatures must be genuine.
            rule: VerificationRule,
            /// Why.
            reason: Option<Text>,
        },
        /// Signatures are accepted from now on that were not.
        CompositeRuleLoosened 1 {
            /// Which of its signatures must be genuine.
            rule: VerificationRule,
            /// Why.
            reason: Text,
        },
        /// It is no more; its keys stay as they are.
        CompositeRetired 1 {
            /// Why.
            reason: Option<Text>,
        },
    }
}
