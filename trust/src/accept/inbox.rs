//! What the control plane answers an agent that is connected to nothing: judged under the set in force. Statements travel beside it and
//! are judged as ever; material, leases and prekeys inside prove themselves once more. What only this signature proves is how far
//! receipts and reports were taken: by that the agent frees and forgets.

use schema::{
    id::{AgentId, SiteId, TenantId},
    wire::exchange::Inbox,
};

use super::{AcceptedSet, Rejection, roots::Roles};
use crate::{
    dsse::{EnvelopeError, open_document},
    statement::Kind,
};

/// Why an inbox is not believed. [`InboxRejection::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum InboxRejection {
    /// The root in force does not say who signs.
    #[error(transparent)]
    Root(Rejection),
    /// It is none, or the control plane did not sign it.
    #[error("it is not what the control plane of this tenant signed: it was changed, or comes from somewhere else")]
    NotGenuine(#[source] EnvelopeError),
    /// It answers somebody else.
    #[error("it is for {2} at {1} of {0}: bring it there")]
    OfAnother(TenantId, SiteId, AgentId),
}

impl InboxRejection {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Root(rejection) => rejection.code(),
            Self::NotGenuine(_) => "inbox_not_genuine",
            Self::OfAnother(..) => "inbox_of_another_agent",
        }
    }
}

/// Reads an answer that the control plane gave this agent. Pure.
pub fn accept_inbox(set: &AcceptedSet, bytes: &[u8]) -> Result<Inbox, InboxRejection> {
    let roles = Roles::of(set.root()).map_err(InboxRejection::Root)?;
    let role = roles.role(Kind::Lease).map_err(InboxRejection::Root)?;
    let inbox = open_document::<Inbox>(bytes, &role.signers, role.threshold).map_err(InboxRejection::NotGenuine)?.payload;
    let own = set.identity();
    if (inbox.tenant, inbox.site, inbox.agent) != (own.tenant, own.site, own.agent) {
        return Err(InboxRejection::OfAnother(inbox.tenant, inbox.site, inbox.agent));
    }
    Ok(inbox)
}
