//! Why either side of Freehold believes the other: statements, signatures, acceptance. No I/O.
//!
//! - [`statement`]: what is said: root, policy, state, heartbeat, lease; one file each.
//! - [`document`]: small signed documents of agents: roster entries, vouches, version records, ready reports, prekeys, transfers.
//! - [`enrolment`]: how a request to join travels as a file, without its token.
//! - [`movement`]: who is sent material, and whose is taken; [`seal`]: how it is sealed on its way.
//! - [`recovery`]: the documents by which keys outlive a host: recovery keys, reports and heads of backups.
//! - [`pair`]: Ed25519 and ML-DSA-65 keys that always sign together.
//! - [`dsse`]: the envelope all of it is signed in.
//! - [`mod@accept`]: the ordered checks that make a set of statements believed, and what the set then says.
//! - [`signing`]: several people sign one statement, each for itself; [`passphrase`]: what keeps a pair in a file.
//! - `testing`: a tenant in memory that signs valid sets, for tests (feature `testing`).
//! - [`time`]: what time it is at an agent, and how current what it believes is.

pub mod accept;
pub mod document;
pub mod dsse;
pub mod enrolment;
pub mod evidence;
mod json;
pub mod movement;
pub mod pair;
pub mod passphrase;
pub mod ratchet;
pub mod recovery;
pub mod seal;
pub mod signing;
pub mod statement;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
