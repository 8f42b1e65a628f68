//! What is recorded of an API token of a service account. The token itself is shown once and never recorded.

use crate::{
    clock::Timestamp,
    encoding::Digest,
    events,
    id::ServiceAccountId,
    name::{Email, Name, Text},
    personal::Personal,
    token::Scope,
};
use serde::{Deserialize, Serialize};

/// A person who holds a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What the person is called.
    pub name: Text,
    /// Where the person is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
}

events! {
    /// What happens to an API token.
    ApiTokenEvent {
        /// It was made and shown once.
        ApiTokenIssued 1 {
            /// The program that acts with it.
            account: ServiceAccountId,
            /// What it is called.
            name: Name,
            /// SHA-256 of its text.
            digest: Digest,
            /// What it may be used for at most.
            scopes: Vec<Scope>,
            /// After this it is worthless.
            expires: Timestamp,
            /// The person who holds it, where one does.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            holder: Option<Personal<Holder>>,
        },
        /// It is worthless from now on.
        ApiTokenRevoked 1 {
            /// Why.
            reason: Option<Text>,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::MemberId;

    #[test]
    fn a_holder_is_written_and_read_back() {
        let golden = include_str!("../../golden/events/ApiTokenIssued.1.json");
        let mut event: ApiTokenIssued = serde_json::from_str(golden).unwrap();
        assert_eq!(event.holder, None);
        let holder = Holder { name: "Ada".parse().unwrap(), email: Some("ada@example.org".parse().unwrap()) };
        event.holder = Some(Personal::new(MemberId::from_bits(1), holder));
        let data = serde_json::to_value(&event).unwrap();
        assert_eq!(data["holder"]["value"]["email"], "ada@example.org");
        assert_eq!(serde_json::from_value::<ApiTokenIssued>(data).unwrap(), event);
    }
}
