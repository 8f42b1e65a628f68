//! What may be asked of a caller.

use schema::{
    encoding::Base64,
    id::ProjectId,
    key::RevocationReason,
    name::{Labels, Name, Text},
    rule::CallerKind,
};
use serde::Serialize;

/// A parsed intent.
#[derive(Debug, Clone, Serialize)]
pub enum CallerCommand {
    /// Make it known.
    Register {
        /// The project it belongs to.
        project: ProjectId,
        /// Its name in the project.
        name: Name,
        /// How it proves who it is.
        kind: CallerKind,
        /// Of a certificate: SHA-256 of the authority's certificate, base64url; of a token: the site it is local to.
        issuer: String,
        /// Of a certificate: the subject alternative name (URI or DNS) that names it; of a token: its name again.
        subject: String,
        /// Of a certificate: the authority's certificate, DER.
        authority: Option<Base64>,
        /// Labels, given to policy.
        labels: Labels,
    },
    /// Replace its labels.
    Relabel {
        /// All labels.
        labels: Labels,
    },
    /// Let it do nothing for now.
    Suspend {
        /// Why.
        reason: Option<Text>,
    },
    /// Let it act again.
    Resume {
        /// Why.
        reason: Option<Text>,
    },
    /// Never let it act again.
    Revoke {
        /// Why (RFC 5280).
        reason: RevocationReason,
        /// In words.
        comment: Option<Text>,
    },
}
