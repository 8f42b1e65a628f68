//! What happens to the signed statements of one kind for one scope. The stream's id derives from all three.

use crate::{
    encoding::{Digest, u64_string},
    events,
    key::words,
    name::Text,
};

words! {
    /// Kinds of statement that are recorded. Heartbeats never are.
    StatementKind {
        /// Signers and thresholds of a tenant.
        Root = "root",
        /// What is allowed, for a tenant, project or site.
        Policy = "policy",
        /// What has happened at a site.
        State = "state",
        /// What one agent may spend of budgets.
        Lease = "lease",
    }
}

events! {
    /// What happens to a stream of statements.
    StatementEvent {
        /// One was signed and may be served from now on.
        StatementPublished 1 {
            /// Its kind.
            kind: StatementKind,
            /// What it is for: the id of a tenant, project or site, as text.
            scope: String,
            /// Its epoch.
            #[serde(with = "u64_string")]
            epoch: u64,
            /// Its serial; with each statement one more.
            #[serde(with = "u64_string")]
            serial: u64,
            /// SHA-256 of the payload.
            sha256: Digest,
            /// SHA-256 of the whole envelope, whose bytes are kept beside the event.
            envelope_sha256: Digest,
        },
        /// One waits for signatures of the tenant's own signers. Its payload is kept beside the event, under its SHA-256.
        StatementProposed 1 {
            /// Its kind: root or policy.
            kind: StatementKind,
            /// What it is for: the id of a tenant, project or site, as text.
            scope: String,
            /// Its epoch.
            #[serde(with = "u64_string")]
            epoch: u64,
            /// Its serial: the next one.
            #[serde(with = "u64_string")]
            serial: u64,
            /// The serial of the root whose signers are to sign it; of a root, its own serial.
            #[serde(with = "u64_string")]
            root_serial: u64,
            /// SHA-256 of the payload.
            sha256: Digest,
            /// What waited here before, and need not be signed any more.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            supersedes: Option<Digest>,
        },
        /// A signer signed what waits.
        StatementSigned 1 {
            /// SHA-256 of the payload that was signed.
            sha256: Digest,
            /// The key id of the signer's pair.
            keyid: Digest,
            /// SHA-256 of both signatures, whose bytes are kept beside the event.
            signatures_sha256: Digest,
        },
        /// What waits need not be signed any more, and nothing waits in its place.
        ProposalWithdrawn 1 {
            /// SHA-256 of its payload.
            sha256: Digest,
            /// Why, when a person withdrew it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            reason: Option<Text>,
        },
    }
}
