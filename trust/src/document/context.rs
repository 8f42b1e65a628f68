//! The key under which the receipts of a site hide encryption contexts, on its way from one agent to another.

use std::{fmt, str::FromStr};

use schema::{
    clock::Timestamp,
    encoding::{Base64, Digest},
    id::{AgentId, PrekeyId, SiteId, TenantId},
};
use serde::{Deserialize, Serialize};

use super::Document;

/// A month of the calendar, UTC: `2026-11`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Month(String);

/// Text that is no month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a month is written as 2026-11")]
pub struct NoMonth;

impl Month {
    /// The month of a moment.
    pub fn of(moment: Timestamp) -> Self {
        // RFC 3339 in UTC begins with it.
        Self(moment.to_string().chars().take(7).collect())
    }
}

impl FromStr for Month {
    type Err = NoMonth;

    fn from_str(text: &str) -> Result<Self, NoMonth> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        match text.split_once('-') {
            Some((year, month))
                if year.len() == 4 && digits(year) && month.len() == 2 && ("01"..="12").contains(&month) && digits(month) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(NoMonth),
        }
    }
}

impl TryFrom<String> for Month {
    type Error = NoMonth;

    fn try_from(text: String) -> Result<Self, NoMonth> {
        text.parse()
    }
}

impl From<Month> for String {
    fn from(month: Month) -> Self {
        month.0
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The context key of a month, sealed to a prekey of one agent: signed by the agent that sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextKeyTransfer {
    /// What it is, from whom and for whom. Sealing binds it too.
    #[serde(flatten)]
    pub head: ContextKeyHead,
    /// What HPKE encapsulated, 1120 bytes.
    pub encapsulated: Base64,
    /// The sealed key.
    pub ciphertext: Base64,
}

impl Document for ContextKeyTransfer {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.context-key+json";
    const CONTEXT: &'static str = "freehold/context-key/v1";
}

/// Which context key it is, from whom and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextKeyHead {
    /// The tenant.
    pub tenant: TenantId,
    /// The site.
    pub site: SiteId,
    /// The month it is for.
    pub month: Month,
    /// Identifies it; says nothing of it.
    pub id: Digest,
    /// When it was made: of several for one month, the first is used.
    pub made: Timestamp,
    /// Who sends it.
    pub sender: AgentId,
    /// Whom it is for.
    pub recipient: AgentId,
    /// The prekey it is sealed to.
    pub prekey: PrekeyId,
    /// When it was sealed.
    pub issued: Timestamp,
}

impl ContextKeyHead {
    /// What identifies a key of this site for a month.
    pub fn identify(tenant: TenantId, site: SiteId, month: &Month, secret: &[u8]) -> Digest {
        let (tenant, site, month) = (tenant.to_string(), site.to_string(), month.to_string());
        Digest::labelled("freehold-context-key-id-v1", &[tenant.as_bytes(), site.as_bytes(), month.as_bytes(), secret])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_read_as_they_are_written() {
        let month = Month::of("2026-11-30T23:59:59.999999Z".parse().unwrap());
        assert_eq!(month.to_string(), "2026-11");
        assert_eq!("2026-11".parse::<Month>(), Ok(month.clone()));
        assert!(month < Month::of("2026-12-01T00:00:00.000000Z".parse().unwrap()));
        for other in ["", "2026-13", "2026-00", "2026-1", "26-11", "2026-11-01", "2026-1a", "x026-11"] {
            assert_eq!(other.parse::<Month>(), Err(NoMonth), "{other}");
        }
    }
}
