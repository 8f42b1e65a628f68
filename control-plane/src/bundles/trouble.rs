//! Tenants whose statements cannot be brought up to date, for a reason of their own. No other tenant waits for them, their sites
//! keep what is in force, and whoever runs the control plane is told.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use schema::id::TenantId;

/// How long after a failure it is tried again. What is too large is not: only another command makes it smaller.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What is the matter with each.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<BTreeMap<TenantId, Entry>>);

#[derive(Debug)]
struct Entry {
    detail: String,
    again: Option<Instant>,
}

impl Trouble {
    /// Compiling failed; gives whether that is news.
    pub(super) fn failed(&self, tenant: TenantId, detail: String) -> bool {
        self.note(tenant, Entry { detail, again: Some(Instant::now() + AGAIN_AFTER) })
    }

    /// Something was not published; gives whether that is news.
    pub(super) fn held_back(&self, tenant: TenantId, detail: String) -> bool {
        self.note(tenant, Entry { detail, again: None })
    }

    /// All of it was published.
    pub(super) fn cleared(&self, tenant: TenantId) {
        self.all().remove(&tenant);
    }

    /// Who should be tried again.
    pub(super) fn due(&self) -> Vec<TenantId> {
        let now = Instant::now();
        self.all().iter().filter(|(_, entry)| entry.again.is_some_and(|again| again <= now)).map(|(tenant, _)| *tenant).collect()
    }

    /// What health tells of it.
    pub fn text(&self) -> Option<String> {
        let all = self.all();
        let (tenant, first) = all.first_key_value()?;
        Some(format!(
            "the statements of {} tenants are not up to date, and their sites keep what they have; {tenant}: {}",
            all.len(),
            first.detail
        ))
    }

    /// Sets the gauge.
    pub(super) fn measure(&self) {
        metrics::gauge!("freehold_statements_held_back").set(self.all().len() as f64);
    }

    /// Everything is to be tried again now.
    #[cfg(test)]
    pub(super) fn hurry(&self) {
        self.all().values_mut().for_each(|entry| entry.again = Some(Instant::now()));
    }

    fn note(&self, tenant: TenantId, entry: Entry) -> bool {
        let detail = entry.detail.clone();
        self.all().insert(tenant, entry).is_none_or(|before| before.detail != detail)
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<TenantId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
