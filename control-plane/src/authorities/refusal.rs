//! Why the authorities say no.

use crate::eventing::refusals;

refusals! {
    /// Why a command on the authorities is turned down.
    AuthorityRefusal {
        NextWaits = "authority_waits", "the next certificate authority was made already and waits to take over; let it (--now), or wait";
        NoneWaits = "authority_none_waits", "there is no next certificate authority; make one first";
        TooEarly { not_before: schema::clock::Timestamp } = "authority_too_early", "agents are told of the next certificate authority until {not_before}; it takes over by itself then";
    }
}
