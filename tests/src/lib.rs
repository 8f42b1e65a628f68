//! Whole-system journeys, attacks and benchmarks of Freehold.
