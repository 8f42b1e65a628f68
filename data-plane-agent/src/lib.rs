//! The Freehold agent: policy decisions and cryptography next to the customer's vault.
//!
//! In the order in which a request goes (see [`operation`], the whole pipeline on one page):
//!
//! - [`rest`]: what applications see; who is calling.
//! - [`limits`]: how much one caller may take.
//! - [`policy`]: whether it is allowed; gives a permit.
//! - [`budgets`]: how often a key may still protect data.
//! - [`journal`]: the intent is durable before a key is used.
//! - [`vault`], [`algorithm`], [`message`]: keys and what is made with them; [`material`]: keys that come from elsewhere, and leave.
//!
//! And beside the requests:
//!
//! - [`control`]: the control plane: joins a site, keeps statements current, reports; [`membership`] keeps it going.
//! - [`keys`]: brings the vault to what policy and state ask for.
//! - [`recovery`]: keys outlive their host: shares of a recovery key, sealed backups, restoring them.
//! - [`findings`]: what keeps it from what its site asks; told to people with each report.
//! - [`selftest`]: known answers at start.
//! - [`lock`]: break-glass on the host; [`host`]: receipts of what is done there.
//! - [`config`], [`app`]: settings; how the parts are put together. [`local`]: how commands on this host ask the running agent.

pub mod algorithm;
pub mod app;
pub mod budgets;
pub mod config;
pub mod control;
pub mod findings;
pub mod host;
pub mod journal;
pub mod keys;
pub mod limits;
pub mod local;
pub mod lock;
pub mod material;
pub mod membership;
pub mod message;
pub mod operation;
pub mod policy;
pub mod recovery;
pub mod rest;
pub mod selftest;
pub mod vault;
