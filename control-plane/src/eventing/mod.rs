//! Events: how a command becomes records, and records become rows.
//!
//! [`aggregate`] is what a domain implements; everything else here serves every domain alike. In the order in which data
//! flows:
//!
//! - [`handler`]: load, authorise, decide, append. Of long streams it reads only what is new: `folded`.
//! - [`store`]: what an event store does; [`sql`]: the one in SQLite and PostgreSQL; [`kurrent`]: the one in KurrentDB;
//!   [`sealed`]: what both keep alike.
//! - [`subscription`]: a tenant follows its own records.
//! - [`view`]: the read model: projected, queried, rebuilt.
//! - [`reactor`]: follows the log and acts; [`leadership`]: in one replica at a time.
//! - [`scenario`]: given, when, then, for tests of aggregates.

pub mod aggregate;
mod folded;
pub mod graphql;
pub mod handler;
pub mod kurrent;
pub mod leadership;
pub mod reactor;
mod refusals;
pub mod scenario;
pub mod sealed;
pub mod sql;
pub mod store;
pub mod subscription;
pub mod view;

pub(crate) use refusals::refusals;
