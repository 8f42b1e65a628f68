//! The read model of every aggregate: its state after each change, sealed, with keyed indexes beside it.
//!
//! One pair of tables serves every kind, so a new aggregate needs no migration: it is registered in [`Kinds`]. Rows are
//! written by [`Projector`] in the order of the log, can be dropped and rebuilt to the same rows, and have no side
//! effects. Superseded rows stay, closed by `valid_to`, so anything can be asked *as of* a time.

mod anew;
mod check;
mod every;
mod known;
mod personal;
mod projector;
mod query;
mod writing;

pub(crate) use anew::WORK_TABLES;
pub use anew::{RebuildError, Rebuilt, rebuild};
pub use check::{Checker, Compared, Difference, DifferenceKind};
pub(crate) use check::{Pages, with_cause};
pub use known::Known;
pub use projector::{Kinds, ProjectError, Projector};
pub use query::{Filter, Page, QueryError, Slice, TenantPage, View, Views};
