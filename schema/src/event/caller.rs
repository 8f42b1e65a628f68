//! What is recorded of a caller: an application that uses agents.

use crate::{
    encoding::Base64,
    events,
    id::ProjectId,
    key::RevocationReason,
    name::{Labels, Name, Text},
    rule::CallerKind,
};

events! {
    /// What happens to a caller.
    CallerEvent {
        /// It was registered.
        CallerRegistered 1 {
            /// The project it belongs to.
            project: ProjectId,
            /// Its name in the project.
            name: Name,
            /// How it proves who it is.
            kind: CallerKind,
            /// Of a certificate: SHA-256 of the authority's certificate, base64url; of a token: the site it is local to.
            issuer: String,
            /// Of a certificate: the subject alternative name that names it; of a token: its name again.
            subject: String,
            /// Labels, given to policy.
            labels: Labels,
            /// Of a certificate: the authority's certificate, DER.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            authority: Option<Base64>,
        },
        /// Its labels were replaced.
        CallerRelabelled 1 {
            /// All labels.
            labels: Labels,
        },
        /// It may do nothing until it is resumed.
        CallerSuspended 1 {
            /// Why.
            reason: Option<Text>,
        },
        /// It may act again, as far as policy allows.
        CallerResumed 1 {
            /// Why.
            reason: Option<Text>,
        },
        /// It may never do anything again.
        CallerRevoked 1 {
            /// Why (RFC 5280).
            reason: RevocationReason,
            /// In words.
            comment: Option<Text>,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden example is of before authorities were recorded; this is how one is written since.
    #[test]
    fn an_authority_is_written_and_read_back() {
        let golden = include_str!("../../golden/events/CallerRegistered.1.json");
        let mut event: CallerRegistered = serde_json::from_str(golden).unwrap();
        assert_eq!(event.authority, None);
        event.authority = Some(Base64(vec![1, 2, 3]));
        let data = serde_json::to_value(&event).unwrap();
        assert_eq!(data["authority"], "AQID");
        assert_eq!(serde_json::from_value::<CallerRegistered>(data).unwrap(), event);
    }
}
