//! Who a certificate says an agent is: `spiffe://freehold/<tenant>/<site>/<agent>` as its only URI name.

use std::{fmt, str::FromStr};

use schema::{
    clock::Timestamp,
    id::{AgentId, SiteId, TenantId},
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const PREFIX: &str = "spiffe://freehold/";

/// An agent, as its certificate names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AgentIdentity {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The agent.
    pub agent: AgentId,
}

impl fmt::Display for AgentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/{}/{}", self.tenant, self.site, self.agent)
    }
}

impl FromStr for AgentIdentity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let mut parts = text.strip_prefix(PREFIX).ok_or(InvalidIdentity::Name)?.split('/');
        let (Some(tenant), Some(site), Some(agent), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(InvalidIdentity::Name);
        };
        Ok(Self {
            tenant: tenant.parse().map_err(|_| InvalidIdentity::Name)?,
            site: site.parse().map_err(|_| InvalidIdentity::Name)?,
            agent: agent.parse().map_err(|_| InvalidIdentity::Name)?,
        })
    }
}

/// Why a certificate does not name an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Not X.509.
    #[error("the client certificate cannot be read as X.509")]
    Certificate,
    /// Not the one URI name.
    #[error("the client certificate does not name an agent (one URI {PREFIX}<tenant>/<site>/<agent>)")]
    Name,
}

/// What a verified client certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Who it names.
    pub identity: AgentIdentity,
    /// When it ends.
    pub expires: Timestamp,
    /// The DER of its subject public key info.
    pub public_key: Vec<u8>,
}

impl PeerCertificate {
    /// Reads a certificate whose chain TLS has checked already.
    pub fn read(der: &[u8]) -> Result<Self, InvalidIdentity> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| InvalidIdentity::Certificate)?;
        let names = certificate.subject_alternative_name().map_err(|_| InvalidIdentity::Certificate)?.ok_or(InvalidIdentity::Name)?;
        let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return Err(InvalidIdentity::Name) };
        Ok(Self {
            identity: uri.parse()?,
            expires: Timestamp::from_micros(certificate.validity().not_after.timestamp().saturating_mul(1_000_000)),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_their_text_and_others_are_refused() {
        let identity = AgentIdentity { tenant: TenantId::from_bits(1), site: SiteId::from_bits(2), agent: AgentId::from_bits(3) };
        assert_eq!(identity.to_string().parse::<AgentIdentity>(), Ok(identity));
        for bad in [
            "spiffe://other/ten_00000000000000000000000001/site_00000000000000000000000002/agt_00000000000000000000000003",
            "spiffe://freehold/ten_00000000000000000000000001/site_00000000000000000000000002",
            "spiffe://freehold/ten_00000000000000000000000001/site_00000000000000000000000002/agt_00000000000000000000000003/x",
            "spiffe://freehold/site_00000000000000000000000002/ten_00000000000000000000000001/agt_00000000000000000000000003",
        ] {
            assert_eq!(bad.parse::<AgentIdentity>(), Err(InvalidIdentity::Name), "{bad}");
        }
    }
}
