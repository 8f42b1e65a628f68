//! What is recorded of an erasure: that it was, and of whom. Nothing of what was erased.

use crate::{
    events,
    id::{MemberId, TenantId},
};

events! {
    /// What happens to somebody's data.
    ErasureEvent {
        /// A person's keys are destroyed: what was recorded of the person stays, and can be read by nobody.
        PersonErased 1 {
            /// Who.
            person: MemberId,
        },
        /// A tenant's keys are destroyed, and with them everything it stored. Recorded by the deployment.
        TenantErased 1 {
            /// Which.
            tenant: TenantId,
        },
    }
}
