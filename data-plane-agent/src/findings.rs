//! What keeps this agent from what its site asks of it, as long as it does: told to the control plane with each report, in health,
//! and in metrics. Each part of the agent says the whole of what it finds; what it does not say again is over.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use schema::{
    clock::{Clock, Timestamp},
    id::KeyVersion,
    wire::agent::{Finding, MAX_FINDINGS},
};
use tokio::sync::Notify;

/// The most characters of a detail.
const MAX_DETAIL: usize = 500;

/// What one part of the agent finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The version it concerns, if it is one.
    pub version: Option<KeyVersion>,
    /// A stable code.
    pub code: &'static str,
    /// What is wrong, and what to do.
    pub detail: String,
}

impl Found {
    /// Of a version.
    pub fn of(version: KeyVersion, code: &'static str, detail: &dyn std::error::Error) -> Self {
        Self { version: Some(version), code, detail: service::explain::in_one_line(detail) }
    }
}

type Known = BTreeMap<(&'static str, Option<KeyVersion>), (String, Timestamp)>;

/// What all parts find.
pub struct Findings {
    by_part: RwLock<BTreeMap<&'static str, Known>>,
    clock: Arc<dyn Clock>,
    changed: Arc<Notify>,
}

impl Findings {
    /// None yet. `changed` is rung whenever something is found or over.
    pub fn new(clock: Arc<dyn Clock>, changed: Arc<Notify>) -> Self {
        Self { by_part: RwLock::default(), clock, changed }
    }

    /// This is all that a part finds now.
    pub fn replace(&self, part: &'static str, found: Vec<Found>) {
        let now = self.clock.now();
        let mut by_part = self.by_part.write().unwrap_or_else(PoisonError::into_inner);
        let known = by_part.entry(part).or_default();
        let mut next = Known::new();
        for Found { version, code, detail } in found {
            let since = known.get(&(code, version)).map_or(now, |(_, since)| *since);
            next.insert((code, version), (detail.chars().take(MAX_DETAIL).collect(), since));
        }
        let same = known.keys().eq(next.keys());
        *known = next;
        drop(by_part);
        metrics::gauge!("freehold_findings").set(self.once().len() as f64);
        if !same {
            self.changed.notify_one();
        }
    }

    /// One more, beside what the part has found before. It stays until the agent is started again.
    pub fn add(&self, part: &'static str, found: Found) {
        let known = self.by_part.read().unwrap_or_else(PoisonError::into_inner).get(part).cloned().unwrap_or_default();
        let before = known.into_iter().map(|((code, version), (detail, _))| Found { version, code, detail });
        self.replace(part, before.chain([found]).collect());
    }

    /// All of them, as they are reported.
    pub fn all(&self) -> Vec<Finding> {
        let each = self.once().into_iter().map(|((code, key_version), (detail, since))| {
            let code = code.to_owned();
            Finding { code, detail, since, key_version }
        });
        each.take(MAX_FINDINGS).collect()
    }

    /// What several parts find is one finding.
    fn once(&self) -> Known {
        let by_part = self.by_part.read().unwrap_or_else(PoisonError::into_inner);
        by_part.values().flat_map(|known| known.iter().map(|(what, how)| (*what, how.clone()))).collect()
    }

    /// What to say in health: how many of each code. None when there is nothing to say.
    pub fn note(&self) -> Option<String> {
        let mut counts = BTreeMap::<&str, usize>::new();
        for (code, _) in self.once().into_keys() {
            *counts.entry(code).or_default() += 1;
        }
        let said: Vec<String> = counts.iter().map(|(code, count)| format!("{code} ({count})")).collect();
        (!said.is_empty()).then(|| format!("{}: the log and freehold agent show say what it is about", said.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schema::{clock::ManualClock, id::KeyId};

    use super::*;

    fn found(number: u32, detail: &str) -> Found {
        Found { version: Some(KeyVersion::new(KeyId::from_bits(1), number)), code: "protection_not_met", detail: detail.to_owned() }
    }

    #[tokio::test]
    async fn what_is_found_again_is_as_old_as_it_was_and_what_is_not_is_over() {
        let clock = ManualClock::at(Timestamp::from_micros(1_767_225_600_000_000));
        let changed = Arc::new(Notify::new());
        let findings = Findings::new(Arc::new(clock.clone()), changed.clone());
        assert_eq!((findings.all(), findings.note()), (Vec::new(), None));
        findings.replace("keys", Vec::new());
        findings.replace("keys", vec![found(1, "first")]);
        changed.notified().await;
        let began = clock.now();
        clock.advance(Duration::from_secs(60));
        findings.replace("keys", vec![found(2, "second"), found(1, "again")]);
        findings.replace("movement", vec![Found { version: None, ..found(1, &"x".repeat(9_000)) }]);
        let all = findings.all();
        // What concerns no version comes first.
        assert_eq!((all.len(), all[1].since, all[1].detail.as_str(), all[2].since), (3, began, "again", clock.now()));
        assert_eq!(all[0].detail.len(), MAX_DETAIL);
        findings.replace("vault", vec![Found { version: None, ..found(1, "the same") }]);
        assert_eq!(findings.all().len(), 3, "what two parts find is one finding");
        findings.replace("vault", Vec::new());
        assert!(findings.note().unwrap().starts_with("protection_not_met (3):"));
        findings.replace("keys", vec![found(2, "second")]);
        findings.add("keys", found(3, "third"));
        findings.replace("movement", Vec::new());
        let left: Vec<_> = findings.all().into_iter().map(|finding| (finding.detail, finding.since)).collect();
        assert_eq!(left, [("second".to_owned(), clock.now()), ("third".to_owned(), clock.now())]);
        // A bell that nobody heard rings once more; then there is silence until something changes.
        changed.notified().await;
        findings.replace("keys", vec![found(3, "third"), found(2, "other words")]);
        assert!(tokio::time::timeout(Duration::from_millis(20), changed.notified()).await.is_err());
    }

    #[test]
    fn of_many_no_more_are_reported_than_a_report_may_hold() {
        let findings = Findings::new(Arc::new(ManualClock::at(Timestamp::default())), Arc::new(Notify::new()));
        findings.replace("keys", (1..=500).map(|number| found(number, "x")).collect());
        assert_eq!(findings.all().len(), MAX_FINDINGS);
        assert!(findings.note().unwrap().starts_with("protection_not_met (500)"));
    }
}
