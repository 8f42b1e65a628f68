//! Requests and answers: [`agent`] between agent and control plane, [`operation`] between application and agent,
//! [`problem`] for every error over HTTP.

pub mod agent;
pub mod operation;
pub mod problem;
