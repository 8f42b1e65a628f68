//! The freehold command line.
