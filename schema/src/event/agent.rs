//! What is recorded of an agent, from its invitation on.

use crate::{
    clock::Timestamp,
    encoding::{Base64, Digest, u64_string},
    events,
    id::SiteId,
    key::RevocationReason,
    name::Text,
    rule::{Sighting, Vouch},
};

events! {
    /// What happens to an agent.
    AgentEvent {
        /// A single-use token was made for it.
        AgentInvited 1 {
            /// The site it may join.
            site: SiteId,
            /// What people call it.
            display_name: Option<Text>,
            /// SHA-256 of the token's text.
            token: Digest,
            /// SHA-256 of the tenant's root payload that the enrolment file names.
            root: Digest,
            /// The key id of the pair of the site's first agent; none for the first itself.
            founder: Option<Digest>,
            /// After this the token is worthless.
            expires: Timestamp,
        },
        /// Its invitation was taken back before it was used.
        InvitationCancelled 1 {},
        /// It came with the token, a pair and a certificate request of its own.
        AgentEnrolled 1 {
            /// The key id of its pair.
            keyid: Digest,
            /// Ed25519 public key, 32 bytes.
            ed25519: Base64,
            /// ML-DSA-65 public key, 1952 bytes.
            ml_dsa_65: Base64,
            /// Its signed roster entry: a DSSE envelope, exact bytes.
            roster_entry: Base64,
            /// SHA-256 of the DER of its certificate request.
            csr: Digest,
            /// SHA-256 of the DER of the public key in it (SubjectPublicKeyInfo); renewals keep it.
            certificate_key: Digest,
            /// The serial number of its certificate, lower-case hexadecimal.
            certificate_serial: String,
            /// When the certificate ends.
            certificate_expires: Timestamp,
            /// The host's name, for people.
            host: String,
            /// The version of the agent program.
            agent_version: String,
        },
        /// Somebody said that its roster entry is genuine.
        AgentVouched 1 {
            /// Who, and the proof.
            vouch: Vouch,
        },
        /// A signer of the tenant said that its roster entry is genuine; with enough of them it counts.
        AgentVouchSigned 1 {
            /// The key id of the signer's pair.
            signer: Digest,
            /// Its Ed25519 and its ML-DSA-65 signature over the vouch.
            signatures: Base64,
        },
        /// It got its next certificate.
        CertificateRenewed 1 {
            /// SHA-256 of the DER of its certificate request.
            csr: Digest,
            /// The serial number of the certificate, lower-case hexadecimal.
            certificate_serial: String,
            /// When the certificate ends.
            certificate_expires: Timestamp,
        },
        /// What it had to say came as a file, by somebody's hand.
        OutboxTaken 1 {
            /// The number of the outbox.
            #[serde(with = "u64_string")]
            number: u64,
            /// SHA-256 of its payload.
            sha256: Digest,
        },
        /// It may do nothing until it is resumed.
        AgentSuspended 1 {
            /// Why.
            reason: Option<Text>,
        },
        /// It may act again.
        AgentResumed 1 {
            /// Why.
            reason: Option<Text>,
        },
        /// Two processes came with its identity, and neither can be told to be the right one. It is cut off for good.
        AgentQuarantined 1 {
            /// The number of the report that did not follow the last one.
            #[serde(with = "u64_string")]
            counter: u64,
            /// Who sent the report that did.
            known: Sighting,
            /// Who sent the one that did not.
            other: Sighting,
        },
        /// It is no longer an agent of the site.
        AgentRevoked 1 {
            /// Why (RFC 5280).
            reason: RevocationReason,
            /// In words.
            comment: Option<Text>,
        },
    }
}
