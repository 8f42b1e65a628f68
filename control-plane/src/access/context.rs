//! Who is asking, for whom, through what. Made only from a proof (a token, a certificate), never from a request body.

pub use schema::token::Scope;

use schema::id::{PrincipalId, RequestId, TenantId, TokenId};

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
