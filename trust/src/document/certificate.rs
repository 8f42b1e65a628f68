//! How an agent asks for a certificate when no certificate speaks for it.

use schema::{
    clock::Timestamp,
    encoding::Digest,
    id::{AgentId, SiteId, TenantId},
};
use serde::{Deserialize, Serialize};

use super::Document;

/// "I am this agent, and ask for a certificate for this request": signed by the agent. It is no secret, and of no use to
/// anybody else: what it brings is a certificate for a key that only the agent has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateAsk {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// Who asks.
    pub agent: AgentId,
    /// SHA-256 of the certificate signing request, DER.
    pub csr: Digest,
    /// When.
    pub issued: Timestamp,
}

impl Document for CertificateAsk {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.certificate-ask+json";
    const CONTEXT: &'static str = "freehold/certificate-ask/v1";
}
