//! How a person signs root and policy: what is shown is computed from the very bytes that are signed, against what other
//! signers signed before; the control plane gives bytes, and is believed nothing.
//!
//! - [`file`]: the signer's file, and what this signer remembers beside it.
//! - [`desk`]: what waits, verified; the checks before a signature.
//! - [`token`]: a signer whose pair is on a PKCS#11 token.
//! - [`holder`]: whoever has the pair, ready to sign.
//! - [`difference`]: what a statement changes, in words.

pub mod desk;
pub mod difference;
pub mod file;
pub mod holder;
pub mod token;
