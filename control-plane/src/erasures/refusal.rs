//! Why an erasure is turned down.

use crate::eventing::refusals;

refusals! {
    /// Why somebody is not erased.
    ErasureRefusal {
        Erased = "already_erased", "this was erased before; nothing of it can be read";
        Unknown = "nobody_to_erase", "there is no such person or tenant, so there is nothing to erase";
        Unconfirmed = "erasure_not_confirmed" at "confirm", "what is erased can never be read again; confirm it by giving the same id a second time";
    }
}
