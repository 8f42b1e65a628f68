//! Between agent and control plane.
