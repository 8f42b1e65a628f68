//! Who is asking, and may they? [`authenticate`] and [`context`] say who; [`authorize`] decides, in the command handler, and gives a
//! [`permit`].

pub mod authenticate;
pub mod authorize;
pub mod context;
pub mod permit;
#[cfg(test)]
mod table;
