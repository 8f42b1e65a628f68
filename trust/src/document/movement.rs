//! Material on its way from one agent to another: a short-lived key to seal it to, and the sealed material itself.

use schema::{
    catalogue::Algorithm,
    clock::Timestamp,
    encoding::{Base64, Digest},
    id::{AgentId, KeyVersion, PrekeyId, SiteId, TenantId},
    key::Origin,
};
use serde::{Deserialize, Serialize};

use super::Document;

/// "Seal to this key what is for me": signed by the agent, whose vault has the private half until it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prekey {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// Whose it is.
    pub agent: AgentId,
    /// Which of its prekeys.
    pub id: PrekeyId,
    /// HPKE public key of MLKEM768-X25519 (KEM 0x647a), 1216 bytes.
    pub public_key: Base64,
    /// Its last moment; then its owner erases the private half.
    pub not_after: Timestamp,
    /// When it was signed.
    pub issued: Timestamp,
}

impl Document for Prekey {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.prekey+json";
    const CONTEXT: &'static str = "freehold/prekey/v1";
}

/// The material of one version, sealed to a prekey of one agent: signed by the agent that sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// What it is, from whom and for whom. Sealing binds it too.
    #[serde(flatten)]
    pub head: TransferHead,
    /// What HPKE encapsulated, 1120 bytes.
    pub encapsulated: Base64,
    /// The sealed material.
    pub ciphertext: Base64,
}

impl Document for Transfer {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.transfer+json";
    const CONTEXT: &'static str = "freehold/transfer/v1";
}

/// What a transfer is, from whom and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferHead {
    /// The tenant.
    pub tenant: TenantId,
    /// The sender's site.
    pub site: SiteId,
    /// The recipient's site, when it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient_site: Option<SiteId>,
    /// The version.
    pub version: KeyVersion,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Where the material was made.
    pub origin: Origin,
    /// Identifies the material, as the version record does.
    pub fingerprint: Digest,
    /// Who sends it.
    pub sender: AgentId,
    /// Whom it is for.
    pub recipient: AgentId,
    /// The prekey it is sealed to.
    pub prekey: PrekeyId,
    /// When it was sealed.
    pub issued: Timestamp,
}

impl TransferHead {
    /// The recipient's site.
    pub fn destination(&self) -> SiteId {
        self.recipient_site.unwrap_or(self.site)
    }
}
