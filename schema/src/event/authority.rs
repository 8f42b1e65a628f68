//! What happens to the deployment's certificate authorities of agents.

use crate::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    events,
};

use serde::{Deserialize, Serialize};

/// Why an authority is believed no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetirementReason {
    /// What it certified has ended.
    Ended,
    /// Its key may be known to others.
    Compromised,
}

events! {
    /// What happens to the certificate authorities of agents.
    AuthorityEvent {
        /// One was made. It is told to agents, and signs nothing yet.
        AuthorityMade 1 {
            /// SHA-256 of its certificate.
            sha256: Digest,
            /// Its certificate, DER.
            certificate: Base64,
            /// When that ends.
            expires: Timestamp,
            /// From when on it may take over.
            not_before: Timestamp,
        },
        /// It certifies from now on. The one before is believed for as long as what it certified may still renew.
        AuthorityTookOver 1 {
            /// SHA-256 of its certificate.
            sha256: Digest,
            /// Until when the one before is believed; none: there was none.
            former_until: Option<Timestamp>,
        },
        /// It is believed no more.
        AuthorityRetired 1 {
            /// SHA-256 of its certificate.
            sha256: Digest,
            /// Why.
            reason: RetirementReason,
        },
    }
}
