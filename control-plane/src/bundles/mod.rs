//! Signed statements: what agents are told. Compiled from what the aggregates of a tenant have come to, signed, recorded,
//! served.
//!
//! - [`facts`]: the present of a tenant; [`read`] and [`gather`] get it from the read model; [`compile`]: facts to content.
//! - `neighbours`: what sites that share a key are told of each other's agents.
//! - [`templates`]: which are in force, and which keys a change of them would leave outside.
//! - [`signers`]: the pairs that sign, and the first root; [`pairs`]: which a root names, and how fresh ones take their place.
//! - [`stream`]: what was published, as events; [`heartbeat`]: what is current at each site.
//! - `waiting` and `shelf`: what waits for a tenant's own signers; [`within`]: state under policies that wait; [`proposals`]:
//!   what signers and administrators do about it.
//! - [`recovery`]: after a restore from an older backup: what agents know better, and the next epoch.
//! - [`demand`]: roots that demand that nothing is lost with one server.
//! - [`ending`]: what ends soon and only people can renew.
//! - [`service`]: publishes; [`serve`]: what waiting agents get, found once for all of a site (`together`), and of it only what they lack (`sets`); [`reactor`]: when; [`in_force`]: what is in force where, for people;
//!   [`containment`]: how far a suspension has come.

pub mod compile;
pub mod containment;
pub mod demand;
pub mod ending;
pub mod facts;
pub mod gather;
pub mod graphql;
pub mod heartbeat;
pub mod in_force;
mod inbox;
mod neighbours;
pub mod pairs;
pub mod proposal_graphql;
pub mod proposals;
pub mod reactor;
pub mod read;
pub mod recovery;
pub mod recovery_graphql;
pub mod serve;
pub mod service;
mod sets;
mod shelf;
pub mod signers;
pub mod stream;
pub mod templates;
mod together;
pub mod trouble;
mod waiting;
mod within;
