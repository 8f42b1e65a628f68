//! Devices and servers that keep keys outside of our processes, as the agent's vaults and the control plane's sealing reach
//! them. Every call says in one of a few kinds what went wrong ([`trouble`]); those of [`remote`] end in bounded time, those of
//! [`pkcs11`] when the module lets them: whoever calls it from async code puts a limit on its wait.

pub mod pkcs11;
pub mod remote;
pub mod trouble;

pub use trouble::{Trouble, TroubleKind};
