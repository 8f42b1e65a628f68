//! What an agent that is connected to nothing has to say, and what it is answered. The documents themselves are defined in `schema`.

use schema::wire::exchange::{Inbox, MAX_DOCUMENT_BYTES, Outbox};

use super::Document;

impl Document for Outbox {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.outbox+json";
    const CONTEXT: &'static str = "freehold/outbox/v1";
    const MAX_BYTES: usize = MAX_DOCUMENT_BYTES;
}

/// Signed by the pair that signs leases: it, too, is what the control plane says to one agent.
impl Document for Inbox {
    const MEDIA_TYPE: &'static str = "application/vnd.freehold.inbox+json";
    const CONTEXT: &'static str = "freehold/inbox/v1";
    const MAX_BYTES: usize = MAX_DOCUMENT_BYTES;
}
