//! The relay: what agents have for each other waits here, sealed to its recipient and signed by its sender.
//!
//! Who is sent material, agents decide by what they believe; nothing here does. The relay refuses what is not signed by who
//! brings it, or names another tenant or site, so that it is no store for strangers; it records that material was sent, so
//! that its destruction can ask everyone; and it keeps a document no longer than the prekey it is sealed to.
//!
//! - [`rows`]: the table.
//! - [`service`]: one exchange with an agent.

pub mod rows;
pub mod service;
