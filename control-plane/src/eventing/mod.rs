//! Events: how a command becomes records, and records become rows.
//!
//! [`aggregate`] is what a domain implements; everything else here serves every domain alike.

pub mod aggregate;
