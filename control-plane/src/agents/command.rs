//! What may be asked of an agent.

use std::collections::BTreeSet;

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    id::{AgentId, SiteId},
    key::RevocationReason,
    name::Text,
    rule::{Sighting, Vouch},
};
use serde::Serialize;

use crate::bundles::stream::Verdict;

/// A parsed intent. What was looked up or made beforehand is left out of the request's hash.
#[derive(Debug, Clone, Serialize)]
pub enum AgentCommand {
    /// Let one agent join a site.
    Invite {
        /// The site.
        site: SiteId,
        /// What people call the agent.
        display_name: Option<Text>,
        /// How long the token is good, in seconds, from the decision on.
        lifetime_seconds: u64,
        /// SHA-256 of the token's text.
        #[serde(skip)]
        token: Digest,
        /// Looked up: SHA-256 of the tenant's root payload.
        #[serde(skip)]
        root: Digest,
        /// Looked up: the key id of the pair of the site's first agent, when there is one.
        #[serde(skip)]
        founder: Option<Digest>,
    },
    /// Take an unused invitation back.
    CancelInvitation,
    /// Join, with the token.
    Enrol(Box<Enrol>),
    /// Say that its roster entry is genuine. The handler has verified the proof.
    Vouch {
        /// The key id that was vouched for.
        keyid: Digest,
        /// Who, and the proof.
        vouch: Vouch,
    },
    /// A signer of the tenant says that its roster entry is genuine. The handler has looked at the signatures.
    SignVouch(Box<SignVouch>),
    /// Give it its next certificate. The handler has verified the request and made the certificate.
    RenewCertificate {
        /// SHA-256 of the DER of the certificate request.
        csr: Digest,
        /// SHA-256 of the DER of the public key in it.
        certificate_key: Digest,
        /// The serial number of the certificate, lower-case hexadecimal.
        #[serde(skip)]
        certificate_serial: String,
        /// When the certificate ends.
        #[serde(skip)]
        certificate_expires: Timestamp,
    },
    /// Take what came of it as a file. The handler has verified the signature.
    TakeOutbox {
        /// The number of the outbox.
        number: u64,
        /// SHA-256 of its payload.
        sha256: Digest,
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
    /// Cut it off: two processes came with its identity. The handler has seen both.
    Quarantine {
        /// The number of the report that did not follow the last one.
        counter: u64,
        /// Who sent the report that did.
        known: Sighting,
        /// Who sent the one that did not.
        other: Sighting,
    },
    /// Take it out of the site for good.
    Revoke {
        /// Why (RFC 5280).
        reason: RevocationReason,
        /// In words.
        comment: Option<Text>,
    },
}

/// An agent comes with its token. The handler has verified the roster entry's own signatures and the certificate request,
/// and made the certificate.
#[derive(Debug, Clone, Serialize)]
pub struct Enrol {
    /// SHA-256 of the token's text that it came with.
    pub token: Digest,
    /// Of the roster entry: the agent it names.
    pub agent: AgentId,
    /// Of the roster entry: the site it names.
    pub site: SiteId,
    /// Of the roster entry: the root it pinned.
    pub root: Digest,
    /// Of the roster entry: the key id of its pair.
    pub keyid: Digest,
    /// Of the roster entry: Ed25519 public key, 32 bytes.
    pub ed25519: Base64,
    /// Of the roster entry: ML-DSA-65 public key, 1952 bytes.
    pub ml_dsa_65: Base64,
    /// The roster entry: a DSSE envelope, exact bytes.
    pub roster_entry: Base64,
    /// SHA-256 of the DER of the certificate request.
    pub csr: Digest,
    /// SHA-256 of the DER of the public key in it (SubjectPublicKeyInfo).
    pub certificate_key: Digest,
    /// The serial number of its certificate, lower-case hexadecimal.
    #[serde(skip)]
    pub certificate_serial: String,
    /// When the certificate ends.
    #[serde(skip)]
    pub certificate_expires: Timestamp,
    /// The host's name, for people.
    pub host: String,
    /// The version of the agent program.
    pub agent_version: String,
    /// Looked up: whether the site has a rostered agent already.
    #[serde(skip)]
    pub site_is_founded: bool,
}

/// One signer's part of a vouch.
#[derive(Debug, Clone, Serialize)]
pub struct SignVouch {
    /// The key id that is vouched for.
    pub keyid: Digest,
    /// The key id of the signer's pair.
    pub signer: Digest,
    /// Its signatures.
    pub signatures: Base64,
    /// Looked up: what was found about them.
    #[serde(skip)]
    pub verdict: Verdict,
    /// Looked up: the exact bytes that are signed.
    #[serde(skip)]
    pub payload: Vec<u8>,
    /// Looked up: whose signatures count under the root in force.
    #[serde(skip)]
    pub counting: BTreeSet<Digest>,
    /// Looked up: how many of them must have signed.
    #[serde(skip)]
    pub threshold: u32,
}
