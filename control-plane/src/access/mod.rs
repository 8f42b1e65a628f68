//! Who is asking, and may they? [`context`] says who; the Cedar decision stands in the command handler.

pub mod context;
