//! Who is asking, for whom, through what. Made only from a proof (a token, a certificate), never from a request body.

use schema::id::{PrincipalId, RequestId, TenantId, TokenId};

/// What a principal may do, as far as the token says; Cedar has the last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Create tenants; nothing inside one.
    Operator,
    /// Everything inside one tenant.
    Admin,
    /// Keys and callers, no policy and no tokens.
    KeyManager,
    /// Policies.
    PolicyEditor,
    /// Read everything inside one tenant.
    Reader,
}

/// One operation of one principal inside one tenant.
#[derive(Debug, Clone)]
pub struct OpContext {
    /// The tenant, from the proof.
    pub tenant: TenantId,
    /// Who acts.
    pub principal: PrincipalId,
    /// Scopes of the token it came with; empty for agents and system principals.
    pub scopes: Vec<Scope>,
    /// The token it came through.
    pub via: Option<TokenId>,
    /// The request, for logs and as the correlation of records.
    pub request: RequestId,
}

/// The tenant that holds what belongs to the deployment itself, such as operator tokens. Its id is all zero bits.
pub const DEPLOYMENT: TenantId = TenantId::from_bits(0);
