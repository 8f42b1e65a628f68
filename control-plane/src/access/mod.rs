//! Who is asking, and may they? [`context`] says who; the Cedar decision stands in the command handler and gives a
//! [`permit`].

pub mod context;
pub mod permit;
