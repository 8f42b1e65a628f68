//! Whole-system journeys, attacks and benchmarks of Freehold.

pub mod cluster;
pub mod cutting;
pub mod database;
pub mod faults;
pub mod hostile;
pub mod kurrent;
pub mod pretend;
pub mod world;
