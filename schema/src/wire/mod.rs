//! Requests and answers: [`agent`] between agent and control plane, [`delta`] for what an agent lacks, [`relay`] between agents through it, [`operation`] between application and agent, [`health`] of an agent,
//! [`exchange`] between an agent and the control plane as files, [`recovery`] for backups of its vault, [`problem`] for every error over HTTP.

pub mod agent;
pub mod delta;
pub mod exchange;
#[cfg(test)]
mod golden;
pub mod health;
pub mod operation;
pub mod problem;
pub mod recovery;
pub mod relay;
