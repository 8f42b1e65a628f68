//! What happens to the signed statements of one kind for one scope. The stream's id derives from all three.

use crate::{
    encoding::{Digest, u64_string},
    events,
    key::words,
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
    }
}
